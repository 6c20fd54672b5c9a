//! The command line as a user sees it, against real servers: what a run leaves, what it says when
//! something is wrong, and that nothing stays behind.

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{
    SMALL, Server, alive, check, first_trial, foreign_stream, jsbench, json, run, scenario,
    servers_of, signal, u, wait_for,
};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn a_run_leaves_a_complete_directory_and_nothing_else() {
    let dir = scenario(SMALL);
    let servers = TempDir::new().expect("a directory");
    let store = format!("target.store_dir={:?}", servers.path());
    let (out, _) = run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--set", &store]),
        0,
    );
    assert!(
        out.contains("Verdict") && out.contains("PASS") && out.contains("r/report.html"),
        "{out}"
    );
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");
    for file in [
        "manifest.json",
        "journal.jsonl",
        "record.json",
        "trials.csv",
        "series.csv",
        "histograms.hlog",
        "report.html",
        "report.md",
        "junit.xml",
    ] {
        let length = std::fs::metadata(dir.path().join("r").join(file)).map(|m| m.len());
        assert!(length.is_ok_and(|l| l > 0), "{file}");
    }
    let record = json(&dir.path().join("r/record.json"));
    assert_eq!(record["schema"], "jsbench.record/v1");
    assert_eq!(record["complete"], true);
    assert_eq!(record["verdict"]["exit_code"], 0);
    let trial = first_trial(&dir.path().join("r"));
    assert!(u(&trial["publish"]["attempted"]) > 100);
    assert_eq!(trial["publish"]["acked"], trial["deliver"]["unique"]);
    assert_eq!(
        trial["latency"]["response"],
        Value::Null,
        "closed loop has no response time"
    );
    assert!(u(&trial["latency"]["service"]["count"]) > 100);
    assert_eq!(
        trial["config"]["streams"][0]["num_replicas"], 1,
        "as read back"
    );
    assert_eq!(trial["ledger"]["verdict"], "pass");
    let left: Vec<_> = std::fs::read_dir(servers.path())
        .expect("readable")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_open_loop_sends_exactly_what_is_due() {
    let open = SMALL
        .replace("rate = \"max\"", "rate = \"2k/s\"")
        .replace("publishers = 1", "publishers = 3");
    let dir = scenario(&open);
    // A late driver may cost the verdict; it never costs a message.
    run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--no-fail"]),
        0,
    );
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(u(&trial["publish"]["attempted"]), 2_400, "2k/s for 1.2 s");
    assert_eq!(trial["offered_per_s"].as_f64(), Some(2_000.0));
    for metric in ["lag", "service", "response", "e2e"] {
        assert_eq!(
            u(&trial["latency"][metric]["count"]),
            2_000,
            "{metric} takes the window's messages"
        );
    }
    assert_eq!(u(&trial["deliver"]["unique"]), 2_400);
}

#[test]
fn a_report_is_rendered_again_byte_for_byte() {
    let dir = scenario(SMALL);
    run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--quiet"]),
        0,
    );
    for (format, file) in [
        ("html", "report.html"),
        ("md", "report.md"),
        ("junit", "junit.xml"),
        ("json", "record.json"),
        ("csv", "trials.csv"),
    ] {
        let (out, _) = run(
            jsbench(dir.path()).args(["report", "r", "--format", format]),
            0,
        );
        let stored = std::fs::read_to_string(dir.path().join("r").join(file)).expect("readable");
        assert!(out == stored, "{format} differs from {file}");
    }
}

#[test]
fn json_is_one_document_on_stdout() {
    let dir = scenario(SMALL);
    let (out, _) = run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--json"]),
        0,
    );
    let document: Value = serde_json::from_str(&out).expect("one JSON document");
    assert_eq!(document["schema"], "jsbench.result/v1");
    assert_eq!(document["run_dir"], "r");
    assert_eq!(document["verdict"]["result"], "pass");
}

/// What arrived is counted by the server and by another client; the record agrees to the message.
#[test]
fn the_record_agrees_with_independent_counts() {
    let server = Server::start("");
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args([
        "run",
        "s.toml",
        "--out",
        "r",
        "--keep",
        "--server",
        &server.url,
        "--monitor",
        &server.monitor,
    ]);
    run(&mut command, 0);
    let trial = first_trial(&dir.path().join("r"));
    let acked = u(&trial["publish"]["acked"]);
    assert!(acked > 100);
    let jsz = server.jsz();
    let stream = &jsz["account_details"][0]["stream_detail"][0];
    assert_eq!(u(&stream["state"]["messages"]), acked, "monitoring");
    assert_eq!(stream["state"]["bytes"], trial["resources"]["stored_bytes"]);
    assert_eq!(
        u(&stream["state"]["last_seq"]),
        u(&trial["publish"]["attempted"])
    );
    let name = trial["streams"][0].as_str().expect("a name").to_owned();
    assert_eq!(count_by_another_client(&server.url, &name), acked);
    assert_eq!(u(&trial["deliver"]["unique"]), acked);
}

fn count_by_another_client(url: &str, stream: &str) -> u64 {
    use futures_util::StreamExt as _;
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(async {
            let client = async_nats::connect(url).await.expect("connects");
            let stream = async_nats::jetstream::new(client)
                .get_stream(stream)
                .await
                .expect("the stream is there");
            let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
            let mut messages = stream
                .create_consumer(config)
                .await
                .expect("a consumer")
                .messages()
                .await
                .expect("messages");
            let mut count = 0;
            while let Some(message) = messages.next().await {
                count += 1;
                if message
                    .expect("a message")
                    .info()
                    .expect("metadata")
                    .pending
                    == 0
                {
                    break;
                }
            }
            count
        })
}

#[test]
fn streams_are_removed_from_external_servers() {
    let server = Server::start("");
    let dir = scenario(SMALL);
    run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--server", &server.url]),
        0,
    );
    let jsz = server.jsz();
    assert_eq!(
        jsz["account_details"][0]["stream_detail"]
            .as_array()
            .map_or(0, Vec::len),
        0
    );
}

#[test]
fn an_expectation_that_fails_gives_ten_and_no_fail_hides_only_the_code() {
    let dir = scenario(&SMALL.replace("lost = \"== 0\"", "acked_per_s = \">= 1M/s\""));
    let (out, _) = run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r"]),
        10,
    );
    assert!(out.contains("FAIL"), "{out}");
    run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r2", "--no-fail"]),
        0,
    );
    // Variables stand for flags.
    let mut command = jsbench(dir.path());
    command
        .env("JSBENCH_NO_FAIL", "1")
        .env("JSBENCH_QUIET", "0")
        .env("JSBENCH_OUT", "r3");
    run(command.args(["run", "s.toml"]), 0);
    assert_eq!(
        json(&dir.path().join("r2/record.json"))["verdict"]["exit_code"],
        10
    );
}

#[test]
fn a_latency_expectation_in_closed_loop_is_inconclusive() {
    let limits = ["lag.p50", "service.p99", "response.max", "e2e.mean"]
        .map(|name| format!("{name} = \"<= 1h\""))
        .join("\n");
    let dir = scenario(&SMALL.replace("lost = \"== 0\"", &limits));
    let (out, _) = run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r"]),
        13,
    );
    assert!(out.contains("INCONCLUSIVE"), "{out}");
    let record = json(&dir.path().join("r/record.json"));
    let judged = record["expectations"].as_array().expect("a list");
    assert_eq!(judged.len(), 4);
    for one in judged {
        assert_eq!(one["result"], "inconclusive", "{one}");
        assert_eq!(one["value"], Value::Null, "{one}");
    }
    let reasons = record["verdict"]["reasons"].as_array().expect("a list");
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    for reason in reasons {
        let text = reason.as_str().expect("words");
        assert!(
            text.contains("closed loop") && text.contains("workload.rate"),
            "{text}"
        );
    }
    let trial = first_trial(&dir.path().join("r"));
    for name in ["lag", "response"] {
        assert_eq!(trial["latency"][name], Value::Null, "{name}");
    }
    for name in ["saturated", "offered_per_s"] {
        assert_eq!(trial[name], Value::Null, "{name}");
    }
    // A twentieth of the window is 50 ms; where acks take longer, Little's law is not told.
    let service_ns = u(&trial["latency"]["service"]["mean_ns"]);
    let little = &trial["little"];
    assert_eq!(little.is_null(), service_ns > 50_000_000, "{little}");
    assert!(little.is_null() || little["in_flight"] == 100.0, "{little}");
    assert_eq!(trial["steady"]["class"], "not-assessed");
    assert_eq!(trial["steady"]["periods"][0]["name"], "fsync");
}

#[test]
fn without_a_server_every_place_and_the_command_are_named() {
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command
        .env_remove("JSBENCH_NATS_SERVER")
        .env("XDG_CACHE_HOME", dir.path())
        .env("PATH", "");
    let (_, err) = run(command.args(["run", "s.toml", "--out", "r"]), 1);
    assert!(err.contains("jsbench server install"), "{err}");
    assert!(err.contains(&dir.path().display().to_string()), "{err}");
    assert!(!dir.path().join("r/record.json").exists());
    let mut command = jsbench(dir.path());
    let (_, err) = run(
        command.args([
            "run",
            "s.toml",
            "--out",
            "r",
            "--nats-server",
            "/nowhere/nats-server",
        ]),
        1,
    );
    assert!(err.contains("/nowhere/nats-server"), "{err}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let dir = scenario(SMALL);
    let set = format!("target.port={port}");
    let (_, err) = run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--set", &set]),
        1,
    );
    assert!(err.contains(&port.to_string()), "{err}");
}

#[test]
fn a_server_that_dies_during_start_is_quoted() {
    let dir = scenario(SMALL);
    let fake = dir.path().join("nats-server");
    let script = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'nats-server: v2.15.1'; exit 0; fi\n\
                  echo 'no room on this ship' >&2\nexit 1\n";
    std::fs::write(&fake, script).expect("writable");
    std::process::Command::new("chmod")
        .arg("+x")
        .arg(&fake)
        .status()
        .expect("chmod");
    let mut command = jsbench(dir.path());
    command
        .args(["run", "s.toml", "--out", "r"])
        .arg("--nats-server")
        .arg(&fake);
    let (_, err) = run(&mut command, 1);
    assert!(err.contains("no room on this ship"), "{err}");
}

#[test]
fn what_is_wrong_in_a_scenario_is_said_at_once_with_its_place() {
    let wrong = SMALL
        .replace("replicas = 1", "replicas = 3")
        .replace("\"max\"", "\"2000\"")
        .replace("\"128B\"", "\"39B\"")
        .replace("window = 100", "widow = 100");
    let dir = scenario(&wrong);
    for verb in [vec!["run", "s.toml", "--out", "r"], vec!["check", "s.toml"]] {
        let (out, err) = run(jsbench(dir.path()).args(&verb), 2);
        assert!(out.is_empty(), "{out}");
        for part in ["s.toml:", "replicas", "2000", "39B", "widow", "window"] {
            assert!(err.contains(part), "`{part}` is missing in:\n{err}");
        }
    }
    assert!(!dir.path().join("r").exists(), "nothing was started");
}

#[test]
fn what_cannot_fit_is_refused() {
    let dir = scenario(
        &SMALL
            .replace("drain = \"10s\"", "prefill = 1_000_000_000_000")
            .replace("max_bytes = \"256MiB\"", ""),
    );
    let (_, err) = run(jsbench(dir.path()).args(["run", "s.toml", "--out", "r"]), 2);
    assert!(err.contains("disk"), "{err}");
    run(jsbench(dir.path()).args(["check", "s.toml"]), 2);
}

#[test]
fn wrong_credentials_are_named_without_the_secret() {
    let server = Server::start("authorization { user: alice, password: right }");
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command.args([
        "run",
        "s.toml",
        "--out",
        "r",
        "--server",
        &server.url,
        "--user",
        "alice",
        "--password",
        "canary-9",
    ]);
    let (out, err) = run(&mut command, 1);
    assert!(err.contains("does not let in user `alice`"), "{err}");
    assert!(!format!("{out}{err}").contains("canary-9"));
    // Credentials in the URL work, and reach no file.
    let url = server.url.replace("nats://", "nats://alice:right@");
    run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r2", "--server", &url]),
        0,
    );
    for entry in std::fs::read_dir(dir.path().join("r2")).expect("readable") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&bytes).contains("alice:right"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_environment_never_chooses_the_target() {
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    command
        .env("NATS_URL", "nats://127.0.0.1:1")
        .env("NATS_CONTEXT", "nowhere");
    run(command.args(["run", "s.toml", "--out", "r"]), 0);
}

#[test]
fn a_remote_target_must_be_named() {
    let remote = SMALL.replace(
        "kind = \"embedded\"\nservers = 1",
        "kind = \"external\"\nurls = [\"nats://192.0.2.1:4222\"]",
    );
    let dir = scenario(&remote);
    let (_, err) = run(jsbench(dir.path()).args(["run", "s.toml", "--out", "r"]), 2);
    assert!(
        err.contains("192.0.2.1") && err.contains("--allow-remote"),
        "{err}"
    );
}

#[test]
fn a_directory_that_holds_something_is_left_alone() {
    let dir = scenario(SMALL);
    std::fs::create_dir(dir.path().join("r")).expect("writable");
    std::fs::write(dir.path().join("r/mine"), "precious").expect("writable");
    let (_, err) = run(jsbench(dir.path()).args(["run", "s.toml", "--out", "r"]), 2);
    assert!(err.contains("not empty"), "{err}");
    assert_eq!(
        std::fs::read_dir(dir.path().join("r"))
            .expect("readable")
            .count(),
        1
    );
}

#[test]
fn directories_that_are_no_runs_are_refused_and_cut_ones_are_partial() {
    let dir = scenario(SMALL);
    run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--quiet"]),
        0,
    );
    let (_, err) = run(jsbench(dir.path()).args(["report", "absent"]), 2);
    assert!(err.contains("absent"), "{err}");
    run(jsbench(dir.path()).args(["report", "s.toml"]), 2);
    let journal = dir.path().join("r/journal.jsonl");
    let whole = std::fs::read(&journal).expect("readable");
    std::fs::write(&journal, &whole[..whole.len() / 2]).expect("writable");
    let (out, _) = run(jsbench(dir.path()).args(["report", "r"]), 0);
    assert!(out.to_uppercase().contains("PARTIAL"), "{out}");
    std::fs::write(&journal, b"\x00\xffnot a journal").expect("writable");
    run(jsbench(dir.path()).args(["report", "r"]), 2);
}

/// Starts a run of some seconds, and waits until its load is on.
fn start_long(dir: &Path, extra: &[&str]) -> (std::process::Child, Vec<u32>) {
    let mut command = jsbench(dir);
    command
        .args([
            "run",
            "s.toml",
            "--out",
            "r",
            "--set",
            "workload.duration=20s",
        ])
        .args(extra);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let journal = dir.join("r/journal.jsonl");
    wait_for("the load", || {
        std::fs::read_to_string(&journal)
            .is_ok_and(|j| j.contains("\"type\":\"interval\""))
            .then_some(())
    });
    let servers = servers_of(child.id());
    assert_eq!(servers.len(), 1, "one server runs");
    (child, servers)
}

#[test]
fn an_interrupt_drains_and_leaves_a_partial_report() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let dir = scenario(SMALL);
        let (child, servers) = start_long(dir.path(), &[]);
        signal(child.id(), name);
        let (out, _) = check(&child.wait_with_output().expect("ends"), code);
        assert!(out.to_uppercase().contains("PARTIAL"), "{out}");
        let record = json(&dir.path().join("r/record.json"));
        assert_eq!(
            (&record["complete"], &record["verdict"]["exit_code"]),
            (&Value::from(false), &Value::from(code))
        );
        assert!(dir.path().join("r/report.html").exists());
        assert!(servers.iter().all(|pid| !alive(*pid)), "the server is gone");
    }
}

#[test]
fn a_killed_run_leaves_nothing_running_and_still_reports() {
    let dir = scenario(SMALL);
    let store = TempDir::new().expect("a directory");
    let set = format!("target.store_dir={:?}", store.path());
    let (mut child, servers) = start_long(dir.path(), &["--set", &set]);
    signal(child.id(), "KILL");
    child.wait().expect("ends");
    wait_for("the guard to end the server", || {
        servers.iter().all(|pid| !alive(*pid)).then_some(())
    });
    wait_for("the guard to remove its directory", || {
        (std::fs::read_dir(store.path()).expect("readable").count() == 0).then_some(())
    });
    let (out, _) = run(jsbench(dir.path()).args(["report", "r"]), 0);
    assert!(out.to_uppercase().contains("PARTIAL"), "{out}");
}

#[test]
fn a_server_killed_mid_run_fails_its_trial_and_the_others_go_on() {
    let dir = scenario(SMALL);
    let (child, servers) = start_long(
        dir.path(),
        &["--trials", "2", "--set", "workload.duration=4s"],
    );
    signal(servers[0], "KILL");
    let (out, _) = check(&child.wait_with_output().expect("ends"), 0);
    let record = json(&dir.path().join("r/record.json"));
    let trials = record["cells"][0]["trials"].as_array().expect("trials");
    let status: Vec<_> = trials.iter().filter_map(|t| t["status"].as_str()).collect();
    assert_eq!(status[0], "failed", "{out}");
    assert!(["valid", "degraded"].contains(&status[1]), "{status:?}");
}

#[test]
fn a_run_without_a_finished_trial_is_an_environment_failure() {
    let dir = scenario(SMALL);
    let (child, servers) = start_long(dir.path(), &["--trials", "1"]);
    signal(servers[0], "KILL");
    check(&child.wait_with_output().expect("ends"), 1);
}

#[test]
fn a_stream_that_is_not_ours_is_left_untouched() {
    let server = Server::start("");
    foreign_stream(&server.url, "MINE", "jsb.>", "jsb.x", -1);
    let dir = scenario(SMALL);
    let (out, _) = run(
        jsbench(dir.path()).args(["run", "s.toml", "--out", "r", "--server", &server.url]),
        1,
    );
    assert!(out.contains("failed"), "{out}");
    let jsz = server.jsz();
    let streams = jsz["account_details"][0]["stream_detail"]
        .as_array()
        .expect("streams")
        .clone();
    assert_eq!(streams.len(), 1);
    assert_eq!(
        (&streams[0]["name"], u(&streams[0]["state"]["messages"])),
        (&Value::from("MINE"), 1)
    );
}

/// Starts a run whose prefill takes long, and waits until it is on.
fn start_prefill(dir: &Path) -> (std::process::Child, Vec<u32>) {
    let mut command = jsbench(dir);
    command.args([
        "run",
        "s.toml",
        "--out",
        "r",
        "--set",
        "workload.prefill=3_000_000",
    ]);
    command.args(["--set", "stream.max_bytes=2GiB"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let journal = dir.join("r/journal.jsonl");
    wait_for("the streams", || {
        std::fs::read_to_string(&journal)
            .is_ok_and(|j| j.contains("\"type\":\"streams-ready\""))
            .then_some(())
    });
    let servers = servers_of(child.id());
    (child, servers)
}

#[test]
fn a_server_killed_during_the_prefill_ends_the_trial() {
    let dir = scenario(SMALL);
    let (child, servers) = start_prefill(dir.path());
    signal(servers[0], "KILL");
    check(&child.wait_with_output().expect("ends"), 1);
}

#[test]
fn an_interrupt_during_the_prefill_is_heard() {
    let dir = scenario(SMALL);
    let (child, servers) = start_prefill(dir.path());
    signal(child.id(), "INT");
    check(&child.wait_with_output().expect("ends"), 130);
    assert!(servers.iter().all(|pid| !alive(*pid)), "the server is gone");
}

#[test]
fn an_interrupt_in_the_warm_up_is_no_window() {
    let dir = scenario(SMALL);
    let open = ["--set", "workload.rate=500/s", "--set", "trials.warmup=20s"];
    let (child, _) = start_long(dir.path(), &open);
    signal(child.id(), "INT");
    let (out, _) = check(&child.wait_with_output().expect("ends"), 130);
    assert!(!out.contains("saturated"), "{out}");
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(trial["status"], "invalid");
    assert_eq!(trial["publish"]["acked_per_s"], Value::Null);
}

#[test]
fn a_second_interrupt_aborts_a_drain() {
    let dir = scenario(SMALL);
    // A consumer that may have one delivery open and never catches up with what is stored.
    let slow = [
        "--set",
        "consumer.max_ack_pending=1",
        "--set",
        "publish.window=2000",
        "--set",
        "workload.drain=50s",
    ];
    let (child, servers) = start_long(dir.path(), &slow);
    signal(child.id(), "INT");
    let journal = dir.path().join("r/journal.jsonl");
    let lines = || std::fs::read_to_string(&journal).map_or(0, |j| j.lines().count());
    let before = lines();
    wait_for("the drain", || (lines() > before + 1).then_some(()));
    signal(child.id(), "INT");
    check(&child.wait_with_output().expect("ends"), 130);
    assert!(servers.iter().all(|pid| !alive(*pid)), "the server is gone");
}

fn files_below(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, out);
        } else {
            out.push(path);
        }
    }
}

#[test]
fn secrets_reach_no_file_whichever_way_they_came() {
    let server = Server::start("authorization { user: alice, password: canary-7 }");
    let with_secret = server.url.replace("nats://", "nats://alice:canary-7@");
    let in_file = SMALL.replace(
        "kind = \"embedded\"\nservers = 1",
        &format!("kind = \"external\"\nurls = [\"{with_secret}\"]"),
    );
    let plain = SMALL.replace(
        "kind = \"embedded\"\nservers = 1",
        &format!("kind = \"external\"\nurls = [\"{}\"]", server.url),
    );
    let urls = format!("target.urls=[\"{with_secret}\"]");
    let table = format!(
        "target={{ kind = \"external\", urls = [\"{}\"], user = \"alice\", password = \"canary-7\" }}",
        server.url
    );
    let ways: [(&str, Vec<&str>); 5] = [
        (&in_file, vec![]),
        (&plain, vec!["--user", "alice", "--password", "canary-7"]),
        (&plain, vec!["--server", &with_secret]),
        (&plain, vec!["--set", &urls]),
        (SMALL, vec!["--set", &table]),
    ];
    for (text, flags) in ways {
        let dir = scenario(text);
        let (out, err) = run(
            jsbench(dir.path())
                .args(["run", "s.toml", "--out", "r"])
                .args(&flags),
            0,
        );
        assert!(!format!("{out}{err}").contains("canary-7"), "{flags:?}");
        let mut files = Vec::new();
        files_below(&dir.path().join("r"), &mut files);
        assert!(files.len() > 8);
        for path in files {
            let bytes = std::fs::read(&path).expect("readable");
            assert!(
                !String::from_utf8_lossy(&bytes).contains("canary-7"),
                "{flags:?}: {}",
                path.display()
            );
        }
    }
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_verdict() {
    let dir = scenario(&SMALL.replace("lost = \"== 0\"", "acked_per_s = \">= 9M/s\""));
    let mut child = jsbench(dir.path())
        .args(["run", "s.toml", "--out", "r"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("ends").code(), Some(10));
}
