//! Whole trials over the data plane's clients: a cut in the middle, a socket that takes nothing,
//! TLS and every kind of credentials, and both clients side by side.

mod common;
#[path = "common/papers.rs"]
mod papers;
#[path = "common/relay.rs"]
mod relay;

use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{Server, check, first_trial, jsbench, run, scenario, u, wait_for};
use papers::{jwt, write_certificates};
use relay::Relay;
use serde_json::{Value, json};

/// One open-loop cell with a reader on a server that is there.
const OPEN: &str = r#"
name = "wire"

[stream]
storage = "memory"
max_bytes = "200MiB"

[consumer]
kind = "pull"
ack = "explicit"

[workload]
payload = "128B"
rate = "500/s"
duration = "3s"
drain = "10s"

[trials]
repeat = 1
warmup = "500ms"
"#;

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

/// The trial of a run at `url` with these settings, to which something is done in its window.
fn disturbed(dir: &Path, out: &str, url: &str, settings: &[&str], what: impl FnOnce()) -> Value {
    let mut command = jsbench(dir);
    command.args(["run", "s.toml", "--no-fail", "--server", url, "--out", out]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let out = dir.join(out);
    wait_for("the window", || (intervals(&out) >= 1).then_some(()));
    what();
    check(&child.wait_with_output().expect("it ends"), 0);
    first_trial(&out)
}

#[test]
fn what_was_in_flight_at_a_cut_is_unknown_and_the_rest_adds_up() {
    let _alone = alone();
    let server = Server::start("");
    let relay = Relay::to(&server.url);
    // Without a reader the stream is read back, with one the deliveries tell what is there.
    for (client, consumer) in [
        ("wire", "none"),
        ("wire", "pull"),
        ("async-nats", "none"),
        ("async-nats", "pull"),
    ] {
        let mut text = OPEN.replace("\"pull\"", &format!("\"{consumer}\""));
        if consumer == "none" {
            text = text.replace("\"explicit\"", "\"none\"");
        }
        let dir = scenario(&text);
        let client = format!("workload.client={client}");
        let trial = disturbed(dir.path(), "r", &relay.url, &[&client], || {
            // Stored and not answered, for 200 ms: a hundred of them.
            relay.hold_answers(true);
            std::thread::sleep(Duration::from_millis(200));
            relay.cut();
            relay.hold_answers(false);
        });
        let count = |what: &str| u(&trial["publish"][what]);
        let (acked, unknown) = (count("acked"), count("unknown"));
        let all = acked + count("refused") + unknown;
        assert_eq!(count("attempted"), all, "{client}: {trial}");
        assert_eq!(all, 1_750, "3.5 s at 500/s, {client}");
        assert!((1..1_000).contains(&unknown), "{client}: {unknown} of 100");
        let ledger = &trial["ledger"];
        let recovered = u(&ledger["recovered"]);
        assert!(recovered <= unknown, "{client}: {ledger}");
        if consumer == "none" {
            assert!(recovered > 0, "{client}: {ledger}");
        } else {
            assert_eq!(u(&trial["deliver"]["unique"]), acked + recovered);
        }
        for nothing in ["lost", "corrupted", "unexpected"] {
            assert_eq!(u(&ledger[nothing]), 0, "{client}: {nothing} in {ledger}");
        }
        let reasons = trial["reasons"].to_string();
        assert!(reasons.contains("connections were cut"), "{reasons}");
    }
}

#[test]
fn a_socket_that_takes_nothing_counts_in_response_and_not_in_lag() {
    let _alone = alone();
    let server = Server::start("");
    let relay = Relay::to(&server.url);
    let mut last = Value::Null;
    // A machine that is too busy makes the driver late, and says so.
    for attempt in 0..4 {
        let dir = scenario(OPEN);
        let out = format!("r{attempt}");
        // 19 MiB/s fill the sockets in a fraction of a second, and the window is never full.
        let settings = [
            "consumer.kind=none",
            "consumer.ack=none",
            "workload.payload=64KiB",
            "workload.rate=300/s",
            "workload.duration=5s",
            "publish.window=10000",
            "stream.discard=old",
        ];
        let mut stall_ns = 0;
        let trial = disturbed(dir.path(), &out, &relay.url, &settings, || {
            let held = Instant::now();
            relay.hold_sent(true);
            std::thread::sleep(Duration::from_millis(2_500));
            relay.hold_sent(false);
            stall_ns = u64::try_from(held.elapsed().as_nanos()).expect("short");
        });
        if trial["status"] == "invalid" || trial["reasons"].to_string().contains("driver") {
            last = trial;
            continue;
        }
        let ns = |metric: &str, p: &str| u(&trial["latency"][metric][format!("{p}_ns")]);
        let blocked_ns = u(&trial["blocked_ns"]);
        // What the sockets hold by themselves went out first.
        assert!(
            (stall_ns / 4..stall_ns * 3 / 2).contains(&blocked_ns),
            "blocked {blocked_ns} of {stall_ns}"
        );
        assert!(ns("response", "p99") > stall_ns / 2, "{trial}");
        assert!(ns("lag", "p99") < stall_ns / 20, "{trial}");
        assert_eq!(trial["publish"]["acked"], trial["publish"]["attempted"]);
        return;
    }
    panic!("not once without fault of the driver: {}", last["reasons"])
}

/// A small trial with these arguments and the exit code 0.
fn small_trial(args: &[&str]) -> Value {
    let dir = scenario(&OPEN.replace("3s", "1s"));
    let mut command = jsbench(dir.path());
    command.args(["run", "s.toml", "--no-fail", "--out", "r"]);
    run(command.args(args), 0);
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(u(&trial["publish"]["acked"]), 750, "1.5 s at 500/s");
    assert_eq!(u(&trial["deliver"]["unique"]), 750);
    trial
}

fn port(server: &Server) -> &str {
    server.url.rsplit_once(':').expect("a port").1
}

#[test]
fn a_trial_runs_through_tls_and_not_with_a_wrong_ca() {
    let _alone = alone();
    let papers = tempfile::tempdir().expect("temporary directory");
    write_certificates(papers.path());
    let file = |name: &str| papers.path().join(name).display().to_string();
    let server = Server::start(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        file("ca-server.pem"),
        file("ca-server.key"),
        file("ca.pem")
    ));
    let url = format!("tls://localhost:{}", port(&server));
    let with = |ca: &str| -> Vec<String> {
        let args = [
            "--server",
            &url,
            "--tlsca",
            &file(ca),
            "--tlscert",
            &file("ca-client.pem"),
            "--tlskey",
            &file("ca-client.key"),
        ];
        args.map(str::to_owned).to_vec()
    };
    let right = with("ca.pem");
    small_trial(&right.iter().map(String::as_str).collect::<Vec<_>>());

    let dir = scenario(OPEN);
    let mut command = jsbench(dir.path());
    command.args(["run", "s.toml", "--out", "r"]);
    let (_, err) = run(command.args(with("other.pem")), 1);
    assert!(err.contains("was not issued by"), "{err}");
}

#[test]
fn a_trial_runs_with_every_kind_of_credentials() {
    let _alone = alone();
    let server = Server::start("authorization { user: bob, password: \"p@ss\" }");
    small_trial(&[
        "--server",
        &server.url,
        "--user",
        "bob",
        "--password",
        "p@ss",
    ]);

    let server = Server::start("authorization { token: s3cret }");
    small_trial(&["--server", &server.url, "--token", "s3cret"]);

    let user = nkeys::KeyPair::new_user();
    let seed = user.seed().expect("a seed");
    let server = Server::start(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    ));
    small_trial(&["--server", &server.url, "--nkey", &seed]);

    let (server, creds) = operator(&user);
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("user.creds");
    std::fs::write(&path, creds).expect("a writable directory");
    let path = path.display().to_string();
    small_trial(&["--server", &server.url, "--creds", &path]);
}

/// A server with an operator, and the credentials of a user of an account with JetStream.
fn operator(user: &nkeys::KeyPair) -> (Server, String) {
    let operator = nkeys::KeyPair::new_operator();
    let (account, system) = (nkeys::KeyPair::new_account(), nkeys::KeyPair::new_account());
    let plain = json!({"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1,
                       "data": -1, "payload": -1, "wildcards": true});
    let mut stores = plain.clone();
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        stores[limit] = json!(-1);
    }
    let signed = |subject: &nkeys::KeyPair, kind: &str, limits: &Value| {
        let claims = json!({"type": kind, "version": 2, "limits": limits});
        jwt(&operator, &subject.public_key(), &claims)
    };
    let server = Server::start(&format!(
        "operator: {}\nresolver: MEMORY\nsystem_account: {}\nresolver_preload: {{ {}: {}, {}: {} }}",
        signed(&operator, "operator", &plain),
        system.public_key(),
        account.public_key(),
        signed(&account, "account", &stores),
        system.public_key(),
        signed(&system, "account", &plain),
    ));
    let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(&account, &user.public_key(), &claims),
        user.seed().expect("a seed")
    );
    (server, creds)
}

#[test]
fn both_clients_count_the_same_and_measure_alike() {
    let _alone = alone();
    let server = Server::start("");
    for mode in ["sync", "async"] {
        let mode = format!("publish.mode={mode}");
        let trials = ["wire", "async-nats"].map(|client| {
            let client = format!("workload.client={client}");
            let set = ["--server", &server.url, "--set", &mode, "--set", &client];
            small_trial(&set)
        });
        let [wire, foreign] = &trials;
        for part in ["attempted", "acked", "refused", "unknown"] {
            assert_eq!(wire["publish"][part], foreign["publish"][part], "{part}");
        }
        for part in ["unique", "received"] {
            assert_eq!(wire["deliver"][part], foreign["deliver"][part], "{part}");
        }
        assert_eq!(wire["ledger"], foreign["ledger"], "{mode}");
        for trial in &trials {
            let reasons = trial["reasons"].to_string();
            assert!(!reasons.contains("reconnect"), "{mode}: {reasons}");
        }
        // At a rate far below what either can do both see the same server over the same sockets.
        // What differs is some tens of us of their own; the machine and its neighbours add more,
        // but not to the median of hundreds of messages in one of the two alone.
        let p50_ns = |trial: &Value| u(&trial["latency"]["service"]["p50_ns"]);
        let (one, other) = (p50_ns(wire), p50_ns(foreign));
        let (low, high) = (one.min(other), one.max(other));
        assert!(high <= 2 * low + 200_000, "{mode}: {one} and {other} ns");
    }
}
