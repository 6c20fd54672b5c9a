//! Load against real servers: every consumer kind, ack and layout accounts for every message, and
//! what goes wrong behind its back is seen.

mod common;

use std::process::Stdio;

use common::{
    SMALL, Server, check, first_trial, foreign_stream, jsbench, json, publish, run, run_for_counts,
    scenario, servers_of, signal, u, wait_for,
};
use serde_json::Value;

/// Runs 6,000 messages with these settings and gives the trial.
fn counted(settings: &[&str], code: i32) -> Value {
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args([
        "run",
        "s.toml",
        "--out",
        "r",
        "--quiet",
        "--set",
        "workload.messages=6000",
    ]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let trial = run_for_counts(&mut command, &dir.path().join("r"), code);
    let publish = &trial["publish"];
    if !publish["acked"].is_null() {
        let ended = u(&publish["acked"]) + u(&publish["refused"]) + u(&publish["unknown"]);
        assert_eq!(u(&publish["attempted"]), ended, "{settings:?}");
    }
    trial
}

#[test]
fn every_kind_of_consumer_accounts_for_every_message() {
    for (kind, ack, verdict) in [
        ("pull", "explicit", "pass"),
        ("pull", "double", "pass"),
        ("pull", "all", "pass"),
        ("pull", "none", "not-promised"),
        ("push", "explicit", "pass"),
        ("push", "none", "not-promised"),
        ("ordered", "none", "pass"),
    ] {
        let (kind_set, ack_set) = (
            format!("consumer.kind={kind}"),
            format!("consumer.ack={ack}"),
        );
        let trial = counted(&[&kind_set, &ack_set, "workload.subscribers=2"], 0);
        assert_eq!(u(&trial["publish"]["acked"]), 6_000, "{kind} {ack}");
        assert_eq!(
            u(&trial["deliver"]["expected"]),
            12_000,
            "{kind} {ack}: two subscriptions"
        );
        assert_eq!(u(&trial["deliver"]["unique"]), 12_000, "{kind} {ack}");
        assert_eq!(trial["ledger"]["verdict"], verdict, "{kind} {ack}");
        assert_eq!(u(&trial["ledger"]["lost"]), 0, "{kind} {ack}");
    }
}

#[test]
fn subscribers_that_share_a_durable_receive_each_message_once() {
    for kind in ["pull", "push-queue"] {
        let kind_set = format!("consumer.kind={kind}");
        let trial = counted(
            &[
                &kind_set,
                "consumer.share=app",
                "workload.subscribers=3",
                "workload.pods=2",
                "workload.apps=1",
            ],
            0,
        );
        assert_eq!(u(&trial["publish"]["acked"]), 12_000, "{kind}: 6,000 a pod");
        assert_eq!(
            u(&trial["deliver"]["expected"]),
            12_000,
            "{kind}: one subscription"
        );
        assert_eq!(u(&trial["deliver"]["unique"]), 12_000, "{kind}");
        assert_eq!(trial["ledger"]["verdict"], "pass", "{kind}");
    }
}

#[test]
fn layouts_split_apps_and_types_over_streams() {
    for (layout, streams) in [("shared", 1), ("per-app", 2), ("per-type", 6)] {
        let layout_set = format!("stream.layout={layout}");
        let trial = counted(
            &[
                &layout_set,
                "workload.pods=2",
                "workload.types=3",
                "stream.max_bytes=32MiB",
            ],
            0,
        );
        assert_eq!(
            trial["streams"].as_array().map(Vec::len),
            Some(streams),
            "{layout}"
        );
        assert_eq!(
            trial["config"]["streams"].as_array().map(Vec::len),
            Some(streams),
            "{layout}"
        );
        assert_eq!(u(&trial["deliver"]["unique"]), 12_000, "{layout}");
    }
}

#[test]
fn order_is_promised_within_a_stream_and_not_between_streams() {
    let trial = counted(
        &[
            "stream.layout=per-type",
            "workload.types=3",
            "stream.max_bytes=32MiB",
            "consumer.kind=ordered",
            "consumer.ack=none",
        ],
        0,
    );
    assert_eq!(u(&trial["ledger"]["reordered"]), 0);
    assert_eq!(trial["ledger"]["verdict"], "pass");
}

#[test]
fn what_everyone_received_is_not_lost_when_a_limit_drops_it_later() {
    let trial = counted(
        &[
            "stream.max_msgs=100",
            "publish.window=1",
            "publish.mode=sync",
        ],
        0,
    );
    assert_eq!(
        (u(&trial["deliver"]["unique"]), u(&trial["ledger"]["lost"])),
        (6_000, 0)
    );
}

#[test]
fn core_publishing_promises_nothing_and_counts_what_it_sends() {
    let trial = counted(
        &[
            "publish.mode=core",
            "consumer.kind=core",
            "consumer.ack=none",
        ],
        0,
    );
    assert_eq!(u(&trial["publish"]["attempted"]), 6_000);
    for key in ["acked", "refused", "unknown", "acked_per_s"] {
        assert_eq!(trial["publish"][key], Value::Null, "{key}");
    }
    assert_eq!(trial["ledger"]["verdict"], "not-promised");
}

#[test]
fn without_readers_the_stream_is_read_back() {
    let trial = counted(&["consumer.kind=none", "workload.subscribers=0"], 0);
    assert_eq!(u(&trial["ledger"]["lost_storage"]), 0);
    assert_eq!(trial["ledger"]["lost_delivery"], Value::Null);
    assert_eq!(trial["deliver"]["unique"], Value::Null);
    assert_eq!(trial["ledger"]["verdict"], "pass");
}

#[test]
fn a_full_stream_that_drops_the_oldest_has_lost_them_unless_that_was_declared() {
    let full = [
        "stream.max_msgs=100",
        "consumer.kind=none",
        "workload.subscribers=0",
    ];
    let trial = counted(&full, 11);
    assert_eq!(u(&trial["ledger"]["lost_storage"]), 5_900);
    assert_eq!(trial["ledger"]["verdict"], "fail");
    let declared = [full.as_slice(), &["expect.absences=[\"limits\"]"]].concat();
    assert_eq!(u(&counted(&declared, 0)["ledger"]["lost"]), 0);
}

#[test]
fn a_full_stream_that_refuses_is_counted_as_refusals() {
    let trial = counted(&["stream.max_msgs=100", "stream.discard=new"], 0);
    assert_eq!(
        (
            u(&trial["publish"]["acked"]),
            u(&trial["publish"]["refused"])
        ),
        (100, 5_900)
    );
    assert_eq!(u(&trial["deliver"]["unique"]), 100);
}

#[test]
fn a_drain_reads_what_was_stored_before() {
    let trial = counted(
        &[
            "workload.publishers=0",
            "workload.prefill=5_000",
            "workload.duration=20s",
        ],
        0,
    );
    assert_eq!(u(&trial["publish"]["attempted"]), 0);
    assert_eq!(u(&trial["deliver"]["expected"]), 5_000);
    assert_eq!(u(&trial["deliver"]["unique"]), 5_000);
    assert!(
        trial["deliver"]["per_s"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0)
    );
}

/// A foreign client writes into the stream while the load is on.
#[test]
fn a_message_from_nowhere_is_a_violation() {
    let server = Server::start("");
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args([
        "run",
        "s.toml",
        "--out",
        "r",
        "--set",
        "workload.duration=3s",
        "--server",
        &server.url,
    ]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let journal = dir.path().join("r/journal.jsonl");
    let stream = wait_for("the load", || {
        let text = std::fs::read_to_string(&journal).ok()?;
        text.contains("\"type\":\"interval\"").then_some(())?;
        let at = text.find("JSB_")?;
        Some(text[at..].split('"').next()?.to_owned())
    });
    let subject = format!(
        "jsb.{}.app0.type0",
        stream.trim_start_matches("JSB_").replace('_', ".")
    );
    publish(&server.url, &subject);
    check(&child.wait_with_output().expect("ends"), 11);
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(u(&trial["ledger"]["unexpected"]), 1);
    assert_eq!(trial["ledger"]["verdict"], "fail");
}

#[test]
fn a_work_queue_that_nobody_reads_cannot_be_judged() {
    let trial = counted(
        &[
            "stream.retention=workqueue",
            "stream.max_msgs=10",
            "consumer.kind=none",
            "workload.subscribers=0",
        ],
        13,
    );
    assert_eq!(trial["ledger"]["verdict"], "inconclusive");
    assert_eq!(trial["ledger"]["lost"], Value::Null);
}

#[test]
fn an_existing_stream_is_used_as_it_is_and_judged_by_what_it_keeps() {
    let server = Server::start("");
    foreign_stream(&server.url, "ORDERS", "orders.>", "orders.new", 1_000);
    let existing = SMALL
        .replace("kind = \"embedded\"\nservers = 1", "kind = \"external\"")
        .replace(
            "storage = \"file\"\nreplicas = 1\nmax_bytes = \"256MiB\"",
            "existing = \"ORDERS\"",
        )
        .replace(
            "mode = \"async\"",
            "mode = \"async\"\nsubject = \"orders.new\"",
        )
        .replace("duration = \"1s\"", "messages = 500");
    let dir = scenario(&existing);
    let arguments = ["run", "s.toml", "--quiet", "--server", &server.url, "--out"];
    for (out, code, extra) in [
        ("pull", 0, vec![]),
        (
            "ordered",
            0,
            vec![
                "--set",
                "consumer.kind=ordered",
                "--set",
                "consumer.ack=none",
            ],
        ),
        (
            "none",
            0,
            vec![
                "--set",
                "consumer.kind=none",
                "--set",
                "workload.subscribers=0",
            ],
        ),
        // 500 more than the stream keeps beside what is there.
        (
            "lossy",
            11,
            vec![
                "--set",
                "consumer.kind=none",
                "--set",
                "workload.subscribers=0",
                "--set",
                "workload.messages=1500",
            ],
        ),
    ] {
        run(
            jsbench(dir.path()).args(arguments).arg(out).args(&extra),
            code,
        );
        let record = json(&dir.path().join(out).join("record.json"));
        let ledger = &record["cells"][0]["trials"][0]["ledger"];
        assert_eq!(u(&ledger["lost"]), if code == 0 { 0 } else { 500 }, "{out}");
    }
    let stream = &server.jsz()["account_details"][0]["stream_detail"][0];
    assert_eq!(
        (&stream["name"], u(&stream["state"]["messages"])),
        (&Value::from("ORDERS"), 1_000)
    );
    assert_eq!(
        u(&stream["state"]["consumer_count"]),
        0,
        "our consumers are gone"
    );
}

#[test]
fn core_messages_that_never_arrive_are_counted() {
    // Two subscribers of a slow machine: what is missing is attempted less received.
    let trial = counted(
        &[
            "publish.mode=core",
            "consumer.kind=core",
            "consumer.ack=none",
            "workload.subscribers=2",
        ],
        0,
    );
    let missing = 2 * u(&trial["publish"]["attempted"]) - u(&trial["deliver"]["unique"]);
    assert_eq!(u(&trial["ledger"]["lost"]), missing);
    assert_eq!(trial["ledger"]["lost_storage"], Value::Null);
}

/// Publishes that time out are stored all the same; the reader must not be stopped before it has
/// read what was acked, because as many others have arrived.
#[test]
fn unknown_outcomes_do_not_end_the_drain_early() {
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args([
        "run",
        "s.toml",
        "--out",
        "r",
        "--no-fail",
        "--set",
        "publish.timeout=5ms",
    ]);
    command.args([
        "--set",
        "publish.window=2000",
        "--set",
        "consumer.max_ack_pending=20",
    ]);
    run(&mut command, 0);
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(u(&trial["ledger"]["lost"]), 0, "{}", trial["ledger"]);
    assert!(u(&trial["deliver"]["unique"]) >= u(&trial["publish"]["acked"]));
}

/// A server that stands still for longer than `publish.timeout`: what was sent meanwhile took at
/// least that long, and is counted so.
#[test]
fn a_publish_that_times_out_took_at_least_the_timeout() {
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args(["run", "s.toml", "--out", "r", "--quiet", "--no-fail"]);
    for setting in [
        "workload.rate=200/s",
        "workload.duration=6s",
        "publish.timeout=500ms",
        "publish.window=50",
    ] {
        command.args(["--set", setting]);
    }
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let journal = dir.path().join("r/journal.jsonl");
    let intervals = |which: fn(&Value) -> bool| -> Option<()> {
        let text = std::fs::read_to_string(&journal).ok()?;
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .any(|line| line["event"]["type"] == "interval" && which(&line["event"]["counts"]))
            .then_some(())
    };
    wait_for("the load", || intervals(|counts| u(&counts["acked"]) > 0));
    let [server] = servers_of(child.id())[..] else {
        panic!("one server");
    };
    signal(server, "STOP");
    wait_for("time-outs", || {
        intervals(|counts| u(&counts["unknown"]) > 0)
    });
    signal(server, "CONT");
    check(&child.wait_with_output().expect("ends"), 0);

    let trial = first_trial(&dir.path().join("r"));
    let publish = &trial["publish"];
    assert!(u(&publish["unknown"]) >= 50, "{publish}");
    for name in ["service", "response"] {
        let latency = &trial["latency"][name];
        assert!(u(&latency["censored"]) > 0, "{name}: {latency}");
        assert!(u(&latency["max_ns"]) >= 500_000_000, "{name}: {latency}");
        assert!(u(&latency["count"]) >= u(&latency["censored"]));
    }
    assert_eq!(u(&trial["ledger"]["lost"]), 0, "{}", trial["ledger"]);
}
