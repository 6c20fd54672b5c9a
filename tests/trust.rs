//! Whether the numbers can be trusted: known causes, and what the record says of them. Times are
//! compared with each other and with the cause, never with a clock.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{
    Server, check, delaying_proxy, first_trial, jsbench, run, scenario, signal, u, wait_for,
};
use serde_json::Value;

/// One open-loop cell without readers on a server that is there.
const OPEN: &str = r#"
name = "trust"

[stream]
max_bytes = "256MiB"

[consumer]
kind = "none"

[workload]
payload = "128B"
rate = "500/s"
duration = "6s"

[trials]
repeat = 1
warmup = "1s"
"#;

fn ns(trial: &Value, metric: &str, statistic: &str) -> u64 {
    u(&trial["latency"][metric][format!("{statistic}_ns")])
}

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("short")
}

/// The first trial of a run against the server at `url`, whatever its verdict.
fn trial_of(dir: &Path, url: &str, out: &str, settings: &[&str], more: &[&str]) -> Value {
    let mut command = jsbench(dir);
    command.args(["run", "s.toml", "--no-fail", "--server", url, "--out", out]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    run(command.args(more), 0);
    first_trial(&dir.join(out))
}

/// The first trial of a run that is valid, of up to four, or degraded by the machine alone:
/// neighbours may make the driver late, which it then says.
fn valid_trial(dir: &Path, url: &str, settings: &[&str]) -> Value {
    let mut last = Value::Null;
    for attempt in 0..4 {
        last = trial_of(dir, url, &format!("r{attempt}"), settings, &[]);
        let late = last["reasons"].to_string().contains("driver");
        if last["status"] == "valid" || last["status"] == "degraded" && !late {
            return last;
        }
    }
    panic!(
        "not once without fault of the driver: {} {}",
        last["status"], last["reasons"]
    )
}

/// One load at a time: what is measured here is not the neighbours.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many intervals the journal of a run holds.
fn intervals(run: &Path) -> usize {
    let journal = std::fs::read_to_string(run.join("journal.jsonl")).unwrap_or_default();
    journal.matches("\"type\":\"interval\"").count()
}

/// A run whose server stands still for two seconds, and for how many ns it did.
fn stalled_run(dir: &Path, name: &str, server: &Server) -> (PathBuf, u64) {
    let child = jsbench(dir)
        .args([
            "run",
            "s.toml",
            "--no-fail",
            "--out",
            name,
            "--server",
            &server.url,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let out = dir.join(name);
    wait_for("the window", || (intervals(&out) >= 3).then_some(()));
    // The stall itself, not a wait for something.
    let stopped = Instant::now();
    signal(server.pid(), "STOP");
    std::thread::sleep(Duration::from_secs(2));
    signal(server.pid(), "CONT");
    let stall_ns = duration_ns(stopped.elapsed());
    check(&child.wait_with_output().expect("it ends"), 0);
    (out, stall_ns)
}

#[test]
fn a_stalled_server_shows_in_response_and_not_in_service_or_lag() {
    let _alone = alone();
    let server = Server::start("");
    let dir = scenario(OPEN);
    // A machine that is too busy makes the trial invalid, and says so.
    let (out, stall_ns) = (0..3)
        .map(|attempt| stalled_run(dir.path(), &format!("r{attempt}"), &server))
        .find(|(out, _)| first_trial(out)["status"] != "invalid")
        .expect("a trial that can be used");
    let trial = first_trial(&out);
    let response_ns = ns(&trial, "response", "p99");
    assert!(
        (stall_ns * 7 / 10..stall_ns * 13 / 10).contains(&response_ns),
        "response p99 {response_ns} of a stall of {stall_ns}"
    );
    assert!(ns(&trial, "service", "p50") < stall_ns / 20, "{trial}");
    assert!(ns(&trial, "lag", "p99") < stall_ns / 20, "{trial}");
    assert_eq!(trial["publish"]["acked"], trial["publish"]["attempted"]);
    let page = std::fs::read_to_string(out.join("report.md")).expect("a report");
    assert!(page.contains("stood still"), "{page}");
}

#[test]
fn service_time_is_the_delay_of_a_proxy() {
    let _alone = alone();
    let server = Server::start("");
    let delay = Duration::from_millis(60);
    let url = delaying_proxy(&server.url, delay);
    let dir = scenario(&OPEN.replace("6s", "3s"));
    let trial = valid_trial(dir.path(), &url, &[]);
    let delay_ns = duration_ns(delay);
    for metric in ["service", "response"] {
        let p50_ns = ns(&trial, metric, "p50");
        assert!(
            (delay_ns..delay_ns * 12 / 10).contains(&p50_ns),
            "{metric} p50 {p50_ns} of a delay of {delay_ns}"
        );
    }
    assert_eq!(trial["saturated"], false, "{trial}");
}

#[test]
fn a_window_too_small_for_the_delay_saturates_and_is_valid() {
    let _alone = alone();
    let server = Server::start("");
    let delay = Duration::from_millis(60);
    let url = delaying_proxy(&server.url, delay);
    let dir = scenario(&OPEN.replace("6s", "3s"));
    let trial = valid_trial(
        dir.path(),
        &url,
        &["publish.window=6", "workload.rate=150/s"],
    );
    assert_eq!(trial["saturated"], true, "{trial}");
    let number = |path: &Value| path.as_f64().expect("a number");
    let acked_per_s = number(&trial["publish"]["acked_per_s"]);
    let bound_per_s = 6.0 / delay.as_secs_f64();
    assert!(
        acked_per_s <= bound_per_s * 1.02 && acked_per_s >= bound_per_s * 0.8,
        "{acked_per_s}/s where a window of 6 allows {bound_per_s}/s"
    );
    let offered_per_s = number(&trial["offered_per_s"]);
    assert!((offered_per_s - 150.0).abs() < 2.0, "{offered_per_s}");
    // What could not be sent waited, and its wait is on record.
    assert!(u(&trial["blocked_ns"]) > 1_500_000_000, "{trial}");
    assert!(ns(&trial, "response", "p50") > 3 * ns(&trial, "service", "p50"));
    assert!(
        u(&trial["latency"]["response"]["censored"]) > 100,
        "{trial}"
    );
}

#[test]
fn a_driver_that_is_late_at_the_end_still_sends_what_was_due() {
    let _alone = alone();
    let server = Server::start("");
    let dir = scenario(&OPEN.replace("500/s", "2k/s").replace("6s", "2s"));
    // A window that the late ones fill many times over.
    let child = jsbench(dir.path())
        .args([
            "run",
            "s.toml",
            "--out",
            "r",
            "--no-fail",
            "--server",
            &server.url,
        ])
        .args(["--set", "publish.window=20"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let out = dir.path().join("r");
    wait_for("two of three seconds", || {
        (intervals(&out) >= 2).then_some(())
    });
    // Stands still across the end of the load.
    std::thread::sleep(Duration::from_millis(700));
    signal(child.id(), "STOP");
    std::thread::sleep(Duration::from_millis(800));
    signal(child.id(), "CONT");
    check(&child.wait_with_output().expect("it ends"), 0);
    let trial = first_trial(&out);
    assert_eq!(
        u(&trial["publish"]["attempted"]),
        6_000,
        "3 s at 2k/s: {trial}"
    );
    assert_eq!(u(&trial["latency"]["lag"]["censored"]), 0);
    assert!(
        ns(&trial, "lag", "max") > 300_000_000,
        "it was late: {trial}"
    );
}

#[test]
fn more_than_the_driver_can_send_is_its_failure() {
    let _alone = alone();
    let rate = "name = \"over\"\n[target]\nkind = \"stub\"\n[workload]\nrate = \"5M/s\"\n\
                duration = \"1s\"\n[trials]\nrepeat = 1\nwarmup = \"0s\"\n[publish]\nwindow = 60000\n";
    let dir = scenario(rate);
    run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r"]),
        13,
    );
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(trial["status"], "invalid", "{trial}");
    assert!(trial["reasons"].to_string().contains("driver"), "{trial}");
}

#[test]
fn a_rate_program_sends_exactly_what_is_due() {
    let _alone = alone();
    let server = Server::start("");
    let dir = scenario(&OPEN.replace("duration = \"6s\"", ""));
    std::fs::write(
        dir.path().join("rates.csv"),
        "t_s,rate_per_s\n0,100\n0.5,0\n1,300\n1.5,500\n",
    )
    .expect("a writable directory");
    // A warm-up of 1 s at the first rate comes before each.
    for (program, due) in [
        (
            "400/s for 1s, 0/s for 500ms, 1k/s for 500ms",
            400 + 400 + 500,
        ),
        ("ramp 100/s to 500/s over 2s", 100 + 600),
        ("replay rates.csv", 100 + 50 + 150 + 250),
    ] {
        let rate = format!("workload.rate={program}");
        let trial = trial_of(dir.path(), &server.url, "r", &[&rate], &[]);
        assert_eq!(u(&trial["publish"]["attempted"]), due, "{program}");
        let window_s = u(&trial["window_ns"]) as f64 / 1e9;
        assert!((window_s - 2.0).abs() < 1e-9, "{window_s}");
        std::fs::remove_dir_all(dir.path().join("r")).expect("it is there");
    }
}

#[test]
fn poisson_arrivals_of_a_seed_are_the_same_again_and_come_at_the_rate() {
    let _alone = alone();
    let server = Server::start("");
    let dir = scenario(&OPEN.replace("6s", "2s"));
    let attempted = |seed: &str, out: &str| {
        let poisson = ["workload.arrivals=poisson"];
        let trial = trial_of(dir.path(), &server.url, out, &poisson, &["--seed", seed]);
        u(&trial["publish"]["attempted"])
    };
    let counts = [
        attempted("7", "a"),
        attempted("7", "b"),
        attempted("8", "c"),
    ];
    assert_eq!(counts[0], counts[1], "one seed");
    assert_ne!(
        counts[0], counts[2],
        "two seeds, and 1,500 messages expected"
    );
    // 3 s at 500/s: a standard deviation is 39.
    for count in counts {
        assert!((1_300..1_700).contains(&count), "{count}");
    }
}

#[test]
fn times_of_messages_without_an_answer_satisfy_no_limit() {
    let _alone = alone();
    let dir = scenario(
        r#"
name = "censored"
target = { kind = "stub", delay = "10s" }

[publish]
timeout = "1s"

[workload]
rate = "100/s"
duration = "1s"

[trials]
repeat = 1
warmup = "0s"

[expect]
service.p50 = "<= 5s"
"#,
    );
    let (out, _) = run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r"]),
        13,
    );
    assert!(
        out.contains("100 without an answer of 100 publishes"),
        "{out}"
    );
    let record = common::json(&dir.path().join("r/record.json"));
    let judged = &record["expectations"][0];
    assert_eq!(
        judged["result"], "inconclusive",
        "the truth is 10 s: {judged}"
    );
    assert!(u(&record["cells"][0]["trials"][0]["latency"]["service"]["censored"]) >= 100);
}
