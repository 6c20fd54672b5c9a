//! Whether the numbers can be trusted: known causes, and what the record says of them. Times are
//! compared with each other and with the cause, never with a clock.

mod common;

use std::path::Path;
use std::process::Stdio;
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

/// The first trial of a run that is valid, of up to four: neighbours on the machine may make the
/// driver late, which it then says.
fn valid_trial(dir: &Path, url: &str, settings: &[&str]) -> Value {
    let mut last = Value::Null;
    for attempt in 0..4 {
        let out = format!("r{attempt}");
        let mut command = jsbench(dir);
        command.args(["run", "s.toml", "--no-fail", "--server", url, "--out", &out]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        run(&mut command, 0);
        last = first_trial(&dir.join(out));
        if last["status"] == "valid" {
            return last;
        }
    }
    panic!("not once valid: {} {}", last["status"], last["reasons"])
}

/// How many intervals the journal of a run holds.
fn intervals(run: &Path) -> usize {
    let journal = std::fs::read_to_string(run.join("journal.jsonl")).unwrap_or_default();
    journal.matches("\"type\":\"interval\"").count()
}

#[test]
fn a_stalled_server_shows_in_response_and_not_in_service_or_lag() {
    let server = Server::start("");
    let dir = scenario(OPEN);
    let child = jsbench(dir.path())
        .args(["run", "s.toml", "--out", "r", "--server", &server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let out = dir.path().join("r");
    wait_for("the window", || (intervals(&out) >= 3).then_some(()));
    // The stall itself, not a wait for something.
    let stopped = Instant::now();
    signal(server.pid(), "STOP");
    std::thread::sleep(Duration::from_secs(2));
    signal(server.pid(), "CONT");
    let stall_ns = duration_ns(stopped.elapsed());
    let output = child.wait_with_output().expect("it ends");
    check(&output, 0);
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
fn a_rate_program_sends_exactly_what_is_due() {
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
        run(
            jsbench(dir.path()).args([
                "run",
                "s.toml",
                "--no-fail",
                "--server",
                &server.url,
                "--set",
                &rate,
                "--out",
                "r",
            ]),
            0,
        );
        let trial = first_trial(&dir.path().join("r"));
        assert_eq!(u(&trial["publish"]["attempted"]), due, "{program}");
        let window_s = u(&trial["window_ns"]) as f64 / 1e9;
        assert!((window_s - 2.0).abs() < 1e-9, "{window_s}");
        std::fs::remove_dir_all(dir.path().join("r")).expect("it is there");
    }
}

#[test]
fn poisson_arrivals_of_a_seed_are_the_same_again_and_come_at_the_rate() {
    let server = Server::start("");
    let dir = scenario(&OPEN.replace("6s", "2s"));
    let attempted = |seed: &str, out: &str| {
        run(
            jsbench(dir.path()).args([
                "run",
                "s.toml",
                "--no-fail",
                "--server",
                &server.url,
                "--set",
                "workload.arrivals=poisson",
                "--seed",
                seed,
                "--out",
                out,
            ]),
            0,
        );
        u(&first_trial(&dir.path().join(out))["publish"]["attempted"])
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
