//! What makes a trial count, done to a real driver: it is starved, throttled, or its clock is set,
//! and the record must say so. One test at a time, so that none starves another.

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{
    SMALL, Server, check, first_trial, jsbench, run, scenario, servers_of, signal, u, wait_for,
};
use serde_json::Value;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Events of one type, as far as the journal of the run in `dir/r` has them.
fn events(dir: &Path, kind: &str) -> Vec<Value> {
    let journal = std::fs::read_to_string(dir.join("r/journal.jsonl")).unwrap_or_default();
    journal
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| line["event"].clone())
        .filter(|event| event["type"] == kind)
        .collect()
}

/// Starts a run and waits until its load is on.
fn start(command: &mut Command, dir: &Path) -> Child {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    wait_for("the load", || events(dir, "load-started").pop());
    child
}

/// Says so past the harness, which keeps what passing tests print.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn reasons(trial: &Value) -> Vec<&str> {
    let reasons = trial["reasons"].as_array().expect("reasons");
    reasons.iter().filter_map(Value::as_str).collect()
}

fn usable(trial: &Value) -> bool {
    ["valid", "degraded"].contains(&trial["status"].as_str().expect("a status"))
}

/// Lets a process run for a quarter of the time only, until its trial has its result.
fn starve(pid: u32, dir: &Path) {
    let begun = Instant::now();
    while events(dir, "trial-finished").is_empty() {
        assert!(begun.elapsed() < Duration::from_mins(1), "it never ends");
        signal(pid, "STOP");
        std::thread::sleep(Duration::from_millis(300));
        signal(pid, "CONT");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_starved_driver_makes_a_trial_invalid_in_open_and_closed_loop() {
    let _alone = alone();
    for rate in ["max", "500/s"] {
        let rate = format!("workload.rate={rate}");
        let args = ["run", "s.toml", "--out", "r", "--set", &rate];
        let dir = scenario(SMALL);
        let mut command = jsbench(dir.path());
        command.args(args).args(["--set", "workload.duration=3s"]);
        let child = start(&mut command, dir.path());
        starve(child.id(), dir.path());
        let (out, _) = check(&child.wait_with_output().expect("ends"), 13);
        let trial = first_trial(&dir.path().join("r"));
        assert_eq!(trial["status"], "invalid", "{rate}: {out}");
        let starved = reasons(&trial)
            .into_iter()
            .find(|r| r.starts_with("driver starved: a worker stood still for "));
        assert!(
            starved.is_some_and(|r| r.contains(" of 3.00 s (longest ")),
            "{rate}: {trial}"
        );
        assert!(out.contains("driver starved"), "{out}");

        // Left alone it is usable. A machine that others use may starve it for real, once or twice.
        let tries = (0..3).any(|_| {
            let dir = scenario(SMALL);
            run(jsbench(dir.path()).args(args).arg("--no-fail"), 0);
            usable(&first_trial(&dir.path().join("r")))
        });
        assert!(tries, "{rate}: never usable");
    }
}

#[test]
fn a_server_that_stands_still_is_no_reconnect_and_no_fault_of_the_driver() {
    let _alone = alone();
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args(["run", "s.toml", "--out", "r", "--no-fail"]);
    command.args(["--set", "workload.duration=4s"]);
    let child = start(&mut command, dir.path());
    let server = servers_of(child.id())[0];
    signal(server, "STOP");
    wait_for("an interval without acks", || {
        let still = |interval: &Value| interval["counts"]["acked"] == 0;
        events(dir.path(), "interval")
            .iter()
            .any(still)
            .then_some(())
    });
    signal(server, "CONT");
    check(&child.wait_with_output().expect("ends"), 0);
    let result = events(dir.path(), "trial-finished").remove(0);
    assert_eq!(result["reconnects"], 0);
    let trial = first_trial(&dir.path().join("r"));
    let cut = |r: &&str| r.contains("reconnects") || r.contains("driver late");
    assert!(!reasons(&trial).iter().any(cut), "{trial}");
}

/// A cgroup with a CPU quota, removed when dropped.
struct Quota(PathBuf);

impl Quota {
    /// Of a fifth of a CPU; an error in words where none can be made.
    fn small() -> Result<Self, String> {
        let name = format!("jsbench-test-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/cpu");
        let (mount, file, value) = if v1.join("cpu.cfs_quota_us").exists() {
            (v1, "cpu.cfs_quota_us", "20000")
        } else {
            (Path::new("/sys/fs/cgroup"), "cpu.max", "20000 100000")
        };
        let made = Self(mount.join(name));
        std::fs::create_dir(&made.0).map_err(|e| e.to_string())?;
        if !made.0.join(file).exists() {
            // Version 2 gives children a controller only when asked to.
            let all = mount.join("cgroup.subtree_control");
            std::fs::write(all, "+cpu").map_err(|e| e.to_string())?;
        }
        std::fs::write(made.0.join(file), value).map_err(|e| e.to_string())?;
        Ok(made)
    }

    /// `command`, to be run within it.
    fn around(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        if let Some(dir) = command.get_current_dir() {
            inside.current_dir(dir);
        }
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        inside
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_throttled_driver_makes_a_trial_invalid() {
    let _alone = alone();
    let quota = match Quota::small() {
        Ok(quota) => quota,
        Err(why) => {
            return skip(&format!(
                "no cgroup with a CPU quota can be made here: {why}"
            ));
        }
    };
    // The server is outside of the cgroup: the driver alone is held back.
    let server = Server::start("");
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args(["run", "s.toml", "--out", "r", "--server", &server.url]);
    run(&mut quota.around(&command), 13);
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(trial["status"], "invalid");
    let throttled = |r: &&str| r.starts_with("driver throttled: ");
    assert!(reasons(&trial).iter().any(throttled), "{trial}");
    let samples = events(dir.path(), "sample");
    assert_eq!(samples[0]["machine"]["cpus"], 0.2, "the quota is seen");
}

/// The library that sets the clock of one process, of the Debian package `libfaketime`.
fn faketime() -> Option<PathBuf> {
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
    let arches = places
        .iter()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    places
        .iter()
        .map(PathBuf::from)
        .chain(arches)
        .map(|dir| dir.join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
}

#[test]
fn a_step_of_the_system_clock_is_said_and_bends_no_time() {
    let _alone = alone();
    let Some(library) = faketime() else {
        return skip("libfaketime is not installed: apt-get install libfaketime");
    };
    let dir = scenario(SMALL);
    let offset = dir.path().join("offset");
    let set = |text: &str| {
        let new = dir.path().join("offset.new");
        std::fs::write(&new, text).expect("writable");
        std::fs::rename(&new, &offset).expect("replaced at once");
    };
    set("+0");
    let mut command = jsbench(dir.path());
    command
        .args(["run", "s.toml", "--out", "r", "--no-fail"])
        .args([
            "--set",
            "workload.duration=4s",
            "--set",
            "workload.rate=500/s",
        ])
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &offset)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
    let child = start(&mut command, dir.path());
    wait_for("a look at the clock", || events(dir.path(), "sample").pop());
    set("+3600");
    check(&child.wait_with_output().expect("ends"), 0);
    let trial = first_trial(&dir.path().join("r"));
    assert!(
        reasons(&trial).contains(
            &"the system clock stepped by +3600.0 s; times are monotonic and not affected"
        ),
        "{trial}"
    );
    assert_eq!(u(&trial["window_ns"]), 4_000_000_000);
    assert_eq!(u(&trial["publish"]["attempted"]), 2_100, "500/s for 4.2 s");
    for metric in ["lag", "service", "response", "e2e"] {
        let latency = &trial["latency"][metric];
        assert_eq!(u(&latency["clipped"]), 0, "{metric}");
        assert!(
            u(&latency["max_ns"]) < 60_000_000_000,
            "{metric}: {latency}"
        );
    }
}
