//! Every way to publish and to read, end to end against real servers: counts are exact, promises are
//! judged, and what a server cannot do is said before any load.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use async_nats::jetstream::stream::Stream;
use common::{SMALL, Server, first_trial, jsbench, older_server, run, run_for_counts, scenario, u};
use futures_util::StreamExt as _;
use jsbench::measure::identity::{Decoded, Identity};
use serde_json::Value;
use tempfile::TempDir;

/// Runs the small scenario with these settings against a server.
fn against(server: &Server, settings: &[&str], code: i32) -> (TempDir, Value) {
    let dir = scenario(SMALL);
    let mut command = jsbench(dir.path());
    let fixed = ["run", "s.toml", "--out", "r", "--quiet", "--keep"];
    command.args(fixed).args(["--server", &server.url]);
    // Kept streams share the memory of the server.
    command.args([
        "--set",
        "stream.storage=memory",
        "--set",
        "stream.max_bytes=8MiB",
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
    (dir, trial)
}

/// The same, for the trial alone.
fn counted(server: &Server, settings: &[&str], code: i32) -> Value {
    against(server, settings, code).1
}

/// A message read back from a stream.
struct Stored {
    subject: String,
    headers: BTreeMap<String, Vec<String>>,
    identity: Identity,
}

/// All messages of a trial's streams, and the configuration of the first of them.
fn read_back(server: &Server, trial: &Value) -> (Vec<Stored>, Value) {
    let names = trial["streams"].as_array().expect("streams");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut all = Vec::new();
    for name in names {
        let name = name.as_str().expect("a name");
        all.extend(runtime.block_on(messages(&server.url, name)));
    }
    (all, trial["config"]["streams"][0].clone())
}

async fn messages(url: &str, name: &str) -> Vec<Stored> {
    let client = async_nats::connect(url).await.expect("connects");
    let jetstream = async_nats::jetstream::new(client);
    let stream: Stream = jetstream.get_stream(name).await.expect("the stream");
    let expected = stream.get_info().await.expect("info").state.messages;
    let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let arriving = consumer.messages().await.expect("messages");
    arriving
        .take(expected as usize)
        .map(|message| {
            let message = message.expect("a message");
            let headers = message.headers.clone().unwrap_or_default();
            let values =
                |v: &Vec<async_nats::HeaderValue>| v.iter().map(ToString::to_string).collect();
            Stored {
                subject: message.subject.to_string(),
                headers: headers
                    .iter()
                    .map(|(name, v)| (name.to_string(), values(v)))
                    .collect(),
                identity: match Identity::decode(&message.payload) {
                    Decoded::Ours(identity) => identity,
                    other => panic!("{other:?}"),
                },
            }
        })
        .collect()
        .await
}

/// Sequences of each publisher, sorted.
fn sequences(stored: &[Stored]) -> BTreeMap<u32, Vec<u64>> {
    let mut all: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for message in stored {
        let of = all.entry(message.identity.publisher).or_default();
        of.push(message.identity.sequence);
    }
    for of in all.values_mut() {
        of.sort_unstable();
    }
    all
}

const NOBODY_READS: [&str; 2] = ["consumer.kind=none", "workload.subscribers=0"];

#[test]
fn every_publish_mode_stores_every_message_once() {
    let server = Server::start("");
    for (mode, ack) in [
        ("sync", "message"),
        ("async", "message"),
        ("atomic-batch", "group"),
        ("fast-ingest", "group"),
    ] {
        for how in [
            ["workload.client=wire", "workload.threads=1"],
            ["workload.client=async-nats", "workload.connections=1"],
            ["workload.client=wire", "workload.threads=2"],
        ] {
            let mode_set = format!("publish.mode={mode}");
            let mut settings = vec![
                mode_set.as_str(),
                // No multiple of the batch, for any of the publishers.
                "workload.messages=1000",
                "workload.publishers=3",
            ];
            if mode != "sync" {
                settings.push("publish.window=200");
            }
            if ack == "group" {
                settings.push("publish.batch=64");
            }
            settings.extend(how);
            let trial = counted(&server, &settings, 0);
            let publish = &trial["publish"];
            assert_eq!(u(&publish["acked"]), 1_000, "{settings:?}");
            assert_eq!(publish["ack"], ack, "{mode}");
            assert_eq!(publish["repeated"], Value::Null, "{mode}");
            assert_eq!(publish["deduplicated"], Value::Null, "{mode}");
            assert_eq!(u(&trial["deliver"]["unique"]), 1_000, "{settings:?}");
            assert_eq!(trial["ledger"]["verdict"], "pass", "{settings:?}");
            assert_eq!(u(&trial["ledger"]["duplicated"]), 0, "{settings:?}");
            assert!(!trial["latency"]["service"]["p50_ns"].is_null(), "{mode}");
            let (stored, _) = read_back(&server, &trial);
            let expected = [(0, 334), (1, 333), (2, 333)].map(|(p, n)| (p, (0..n).collect()));
            assert_eq!(sequences(&stored), BTreeMap::from(expected), "{settings:?}");
        }
    }
}

#[test]
fn a_batch_ends_with_the_load_when_its_length_is_not_known_beforehand() {
    let server = Server::start("");
    for (mode, client) in [
        ("atomic-batch", "wire"),
        ("fast-ingest", "wire"),
        ("atomic-batch", "async-nats"),
        ("fast-ingest", "async-nats"),
    ] {
        let client_set = format!("workload.client={client}");
        let mode_set = format!("publish.mode={mode}");
        let trial = counted(
            &server,
            &[
                &mode_set,
                &client_set,
                "workload.publishers=2",
                "publish.batch=100",
            ],
            0,
        );
        let publish = &trial["publish"];
        assert!(u(&publish["attempted"]) > 0, "{mode}");
        assert_eq!(publish["acked"], publish["attempted"], "{mode}: {publish}");
        let ledger = &trial["ledger"];
        assert_eq!(
            (&ledger["verdict"], u(&ledger["unexpected"])),
            (&"pass".into(), 0),
            "{mode}"
        );
    }
}

/// Too slow to fill a group: it is closed early, and every message has its ack.
#[test]
fn groups_that_do_not_fill_are_closed_early() {
    let server = Server::start("");
    for mode in ["atomic-batch", "fast-ingest"] {
        let mode_set = format!("publish.mode={mode}");
        let trial = counted(
            &server,
            &[
                &mode_set,
                "workload.rate=40/s",
                "workload.duration=3s",
                "publish.window=1000",
                "publish.batch=500",
                "publish.timeout=1s",
            ],
            0,
        );
        let publish = &trial["publish"];
        assert!(u(&publish["attempted"]) >= 120, "{mode}: {publish}");
        assert_eq!(publish["acked"], publish["attempted"], "{mode}: {publish}");
        assert_eq!(trial["ledger"]["verdict"], "pass", "{mode}");
        assert_eq!(u(&trial["ledger"]["unexpected"]), 0, "{mode}");
        // The first of a group waits for half of the time-out, and none for all of it.
        let longest = u(&trial["latency"]["service"]["max_ns"]);
        assert!(longest >= 400_000_000, "{mode}: {longest}");
    }
}

#[test]
fn every_way_to_pull_reads_every_message() {
    let server = Server::start("");
    for pull in ["consume", "fetch"] {
        let pull_set = format!("consumer.pull={pull}");
        let trial = counted(
            &server,
            &[
                &pull_set,
                "consumer.batch=7",
                "workload.messages=600",
                "workload.subscribers=2",
            ],
            0,
        );
        assert_eq!(u(&trial["deliver"]["unique"]), 1_200, "{pull}");
        assert_eq!(trial["ledger"]["verdict"], "pass", "{pull}");
    }
}

const DRAIN: [&str; 4] = [
    "workload.publishers=0",
    "workload.prefill=1003",
    "workload.subscribers=2",
    "workload.duration=20s",
];

#[test]
fn gets_read_each_message_once_for_each_subscriber() {
    let server = Server::start("");
    for extra in [
        &["consumer.batch=1"][..],
        &["consumer.batch=100"],
        &["consumer.batch=1003", "workload.client=async-nats"],
        &["consumer.batch=10", "workload.threads=2"],
        &[
            "consumer.batch=10",
            "workload.connections=1",
            "workload.keys=7",
        ],
        &[
            "consumer.batch=9",
            "stream.layout=per-type",
            "workload.types=3",
        ],
    ] {
        let settings = [
            &DRAIN,
            &["consumer.kind=get", "consumer.ack=none"][..],
            extra,
        ]
        .concat();
        let trial = counted(&server, &settings, 0);
        let deliver = &trial["deliver"];
        assert_eq!(u(&deliver["expected"]), 2_006, "{extra:?}");
        assert_eq!(u(&deliver["received"]), 2_006, "{extra:?}");
        assert_eq!(u(&deliver["unique"]), 2_006, "{extra:?}");
        assert_eq!(trial["ledger"]["verdict"], "not-promised", "{extra:?}");
        for broken in ["lost", "duplicated", "unexpected", "corrupted"] {
            assert_eq!(u(&trial["ledger"][broken]), 0, "{extra:?}: {broken}");
        }
        let latency = &trial["latency"];
        assert_eq!(u(&latency["service"]["count"]), 2_006, "{extra:?}");
        assert!(u(&latency["service"]["p50_ns"]) > 0, "{extra:?}");
        assert_eq!(latency["response"], Value::Null);
        assert_eq!(trial["publish"]["ack"], Value::Null);
        assert_eq!(trial["config"]["streams"][0]["allow_direct"], true);
    }
}

/// What the played stream does with a request.
#[derive(Clone, Copy)]
enum Play {
    /// Answers it.
    Answer(&'static str, &'static str),
    /// Does not.
    Lose,
    /// Answers the one before, and then this one.
    LateAnswer(&'static str, &'static str),
}

/// Plays the direct gets of a stream at `PLAY.DIRECT.GET.S`, a request for each step, and gives their
/// bodies. It speaks the protocol itself, since clients send no statuses.
fn play(url: &str, script: &'static [Play]) -> std::thread::JoinHandle<Vec<Value>> {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let address = url.trim_start_matches("nats://");
    let mut socket = std::net::TcpStream::connect(address).expect("the server is there");
    let mut lines = BufReader::new(socket.try_clone().expect("a second handle"));
    let hello =
        "CONNECT {\"headers\":true,\"verbose\":false}\r\nSUB PLAY.DIRECT.GET.S 1\r\nPING\r\n";
    socket.write_all(hello.as_bytes()).expect("sent");
    let mut line = String::new();
    while !line.starts_with("PONG") {
        line.clear();
        lines.read_line(&mut line).expect("a line");
    }
    std::thread::spawn(move || {
        let (mut bodies, mut before) = (Vec::new(), String::new());
        while bodies.len() < script.len() {
            line.clear();
            lines.read_line(&mut line).expect("a line");
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["MSG", _, _, reply, size] = words[..] else {
                continue;
            };
            let mut body = vec![0; size.parse::<usize>().expect("a size") + 2];
            lines.read_exact(&mut body).expect("the payload");
            let mut answer = |to: &str, head: &str, body: &str| {
                let (head, all) = (format!("{head}\r\n\r\n"), head.len() + 4 + body.len());
                let sent = format!("HPUB {to} {} {all}\r\n{head}{body}\r\n", head.len());
                socket.write_all(sent.as_bytes()).expect("sent");
            };
            match script[bodies.len()] {
                Play::Answer(head, body) => answer(reply, head, body),
                Play::Lose => {}
                Play::LateAnswer(head, body) => {
                    answer(&before, head, "late");
                    answer(reply, head, body);
                }
            }
            reply.clone_into(&mut before);
            bodies.push(serde_json::from_slice(&body).expect("JSON"));
        }
        bodies
    })
}

#[test]
fn gets_outlive_lost_answers_and_replicas_that_are_behind() {
    use jsbench::nats::conn::{Client, Conn};
    use jsbench::nats::endpoint::Endpoint;
    use jsbench::nats::get::{Gets, Wanted};
    use std::time::Duration;

    const SCRIPT: &[Play] = &[
        Play::Answer("NATS/1.0 404 Message Not Found", ""),
        Play::Answer("NATS/1.0\r\nNats-Sequence: 3", "three"),
        Play::Lose,
        Play::LateAnswer("NATS/1.0\r\nNats-Sequence: 4", "four"),
        Play::Answer("NATS/1.0 408 Bad Request", ""),
    ];
    let server = Server::start("");
    let played = play(&server.url, SCRIPT);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let endpoint = Endpoint::parse(&server.url).expect("an address");
        let conn = Conn::connect(&endpoint, Client::Wire)
            .await
            .expect("connects");
        let wanted = Wanted::Sequences {
            filter: "s.>".to_owned(),
            batch: 1,
        };
        let gets = Gets::attach(conn, "PLAY", "S", wanted)
            .await
            .expect("attached");
        let mut gets = gets.with_patience(Duration::from_millis(500));
        for (body, waited) in [("three", 100), ("four", 500)] {
            let got = gets.next().await.expect("no refusal").expect("a message");
            assert_eq!(got.message.payload(), body.as_bytes());
            // Since it was first asked for.
            assert!(
                got.message.at - got.asked >= Duration::from_millis(waited),
                "{body}"
            );
        }
        let refused = gets.next().await.expect_err("a refusal").to_string();
        assert!(refused.contains("408 Bad Request"), "{refused}");
    });
    let bodies = played.join().expect("the script was played");
    let sequences: Vec<&Value> = bodies.iter().map(|body| &body["seq"]).collect();
    assert_eq!(sequences, [1, 1, 4, 4, 5]);
    assert!(
        bodies
            .iter()
            .all(|body| body["next_by_subj"] == "s.>" && body["batch"].is_null())
    );
}

#[test]
fn requests_are_answered_and_nothing_is_stored() {
    let server = Server::start("");
    for client in ["wire", "async-nats"] {
        let client_set = format!("workload.client={client}");
        let trial = counted(
            &server,
            &[
                "publish.mode=request",
                "publish.window=10",
                "consumer.kind=reply",
                "consumer.ack=none",
                "workload.messages=600",
                "workload.subscribers=2",
                &client_set,
            ],
            0,
        );
        let publish = &trial["publish"];
        assert_eq!((u(&publish["attempted"]), u(&publish["acked"])), (600, 600));
        assert_eq!((u(&publish["refused"]), u(&publish["unknown"])), (0, 0));
        assert_eq!(publish["ack"], "message");
        assert!(publish["acked_per_s"].as_f64().is_some_and(|r| r > 0.0));
        assert_eq!(
            u(&trial["deliver"]["unique"]),
            600,
            "one of the two answers"
        );
        for metric in ["service", "e2e"] {
            assert!(u(&trial["latency"][metric]["p50_ns"]) > 0, "{metric}");
        }
        let ledger = &trial["ledger"];
        assert_eq!(ledger["verdict"], "not-promised");
        assert_eq!(
            (u(&ledger["lost"]), &ledger["lost_storage"]),
            (0, &Value::Null)
        );
        assert_eq!(trial["streams"], Value::Array(Vec::new()));
    }
    let jsz = server.jsz();
    assert_eq!(u(&jsz["streams"]), 0, "{jsz}");
}

#[test]
fn headers_ids_and_times_to_live_arrive_in_every_mode() {
    let server = Server::start("");
    for mode in ["async", "atomic-batch", "fast-ingest"] {
        let mode_set = format!("publish.mode={mode}");
        let settings = [
            &[
                mode_set.as_str(),
                "publish.ttl=1h",
                "publish.message_id=true",
                "publish.headers={ \"ce-type\" = \"order.created\", \"ce-source\" = \"a b\" }",
                "workload.messages=130",
                "workload.prefill=10",
            ],
            &NOBODY_READS[..],
        ]
        .concat();
        let trial = counted(&server, &settings, 0);
        assert_eq!(u(&trial["publish"]["acked"]), 130, "{mode}");
        let (stored, config) = read_back(&server, &trial);
        assert_eq!(stored.len(), 140, "{mode}");
        assert_eq!(config["allow_msg_ttl"], true, "{mode}");
        let mut ids = Vec::new();
        for message in &stored {
            let one = |name: &str| match message.headers.get(name).map(Vec::as_slice) {
                Some([value]) => value.clone(),
                other => panic!("{mode}: {name} is {other:?}"),
            };
            assert_eq!(
                (one("ce-type").as_str(), one("ce-source").as_str()),
                ("order.created", "a b")
            );
            assert_eq!(one("Nats-TTL"), "3600s", "{mode}");
            ids.push(one("Nats-Msg-Id"));
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 140, "{mode}: each has an id of its own");
    }
}

/// Messages of a second ago are gone by the end, which the scenario declares.
#[test]
fn messages_that_expire_are_no_loss_where_that_is_declared() {
    let server = Server::start("");
    let settings = [
        &[
            "publish.ttl=1s",
            "expect.absences=[\"ttl\"]",
            "publish.mode=sync",
            "workload.rate=100/s",
            "workload.duration=5s",
        ],
        &NOBODY_READS[..],
    ]
    .concat();
    let trial = counted(&server, &settings, 0);
    let ledger = &trial["ledger"];
    assert_eq!(
        (&ledger["verdict"], u(&ledger["lost"])),
        (&"pass".into(), 0)
    );
    assert!(
        ledger["reasons"][0]
            .as_str()
            .is_some_and(|r| r.contains("absent as")),
        "{ledger}"
    );
}

#[test]
fn what_is_sent_twice_is_stored_once_and_counted() {
    let server = Server::start("");
    for (mode, group) in [("sync", false), ("async", false), ("fast-ingest", true)] {
        let mode_set = format!("publish.mode={mode}");
        let settings = [
            &[
                mode_set.as_str(),
                "publish.message_id=true",
                "publish.duplicate_ratio=0.25",
                "workload.messages=1000",
                "workload.publishers=2",
            ],
            &NOBODY_READS[..],
        ]
        .concat();
        let trial = counted(&server, &settings, 0);
        let publish = &trial["publish"];
        let repeated = u(&publish["repeated"]);
        assert!((200..300).contains(&repeated), "{mode}: {repeated} of 1000");
        let known = if group { Value::Null } else { repeated.into() };
        assert_eq!(publish["deduplicated"], known, "{mode}");
        assert_eq!(
            (u(&publish["attempted"]), u(&publish["acked"])),
            (1_000, 1_000),
            "{mode}"
        );
        assert_eq!(trial["ledger"]["verdict"], "pass", "{mode}");
        assert_eq!(read_back(&server, &trial).0.len(), 1_000, "{mode}");
    }
}

#[test]
fn a_bucket_is_what_its_clients_expect_and_keeps_the_last_puts() {
    let server = Server::start("");
    for history in [1, 3] {
        let history_set = format!("stream.max_msgs_per_subject={history}");
        let settings = [
            &[
                "stream.kind=kv",
                &history_set,
                "workload.keys=10",
                "workload.publishers=2",
                "workload.messages=1006",
            ],
            &NOBODY_READS[..],
        ]
        .concat();
        let trial = counted(&server, &settings, 0);
        let kept = 10 * history;
        assert_eq!(u(&trial["publish"]["acked"]), 1_006);
        let ledger = &trial["ledger"];
        assert_eq!(
            (&ledger["verdict"], u(&ledger["lost"])),
            (&"pass".into(), 0)
        );
        let replaced = format!("{} replaced by later puts", 1_006 - 2 * kept);
        assert!(
            ledger["reasons"][0]
                .as_str()
                .is_some_and(|r| r.starts_with(&replaced)),
            "{ledger}"
        );

        let (stored, config) = read_back(&server, &trial);
        let last = (503 - kept..503).collect::<Vec<u64>>();
        assert_eq!(
            sequences(&stored),
            BTreeMap::from([(0, last.clone()), (1, last)])
        );
        let bucket = trial["streams"][0].as_str().expect("a stream");
        let bucket = bucket.strip_prefix("KV_").expect("a bucket's stream");
        let key = format!("$KV.{bucket}.app0.type0.p1.k7");
        let newest = stored
            .iter()
            .filter(|m| m.subject == key)
            .map(|m| m.identity.sequence)
            .max();
        assert_eq!(newest, Some(497), "put 497 is the last to key 7");
        let asked = [
            ("subjects", format!("[\"$KV.{bucket}.>\"]")),
            ("max_msgs_per_subject", history.to_string()),
            ("discard", "\"new\"".to_owned()),
            ("retention", "\"limits\"".to_owned()),
            ("allow_rollup_hdrs", "true".to_owned()),
            ("deny_delete", "true".to_owned()),
            ("deny_purge", "false".to_owned()),
            ("allow_direct", "true".to_owned()),
            ("duplicate_window", "120000000000".to_owned()),
            ("max_consumers", "-1".to_owned()),
        ];
        for (name, value) in asked {
            assert_eq!(config[name].to_string(), value, "{name}");
        }
    }
}

/// A watch sees what is there and every put it comes to see; what was replaced before is no loss.
#[test]
fn a_bucket_is_watched_pulled_and_got() {
    let server = Server::start("");
    for kind in ["ordered", "pull"] {
        let settings = [
            "stream.kind=kv",
            "workload.keys=5",
            "workload.publishers=2",
            "workload.messages=2000",
            &format!("consumer.kind={kind}"),
            &format!(
                "consumer.ack={}",
                if kind == "pull" { "explicit" } else { "none" }
            ),
        ];
        let trial = counted(&server, &settings, 0);
        let ledger = &trial["ledger"];
        assert_eq!(
            (&ledger["verdict"], u(&ledger["lost"])),
            (&"pass".into(), 0),
            "{kind}: {ledger}"
        );
        assert!(
            u(&trial["deliver"]["unique"]) >= 10,
            "{kind}: the last of each key"
        );
    }
    let settings = [
        &DRAIN,
        &["stream.kind=kv", "consumer.kind=get", "consumer.ack=none"][..],
    ]
    .concat();
    let trial = counted(&server, &settings, 0);
    assert_eq!(u(&trial["deliver"]["unique"]), 2_006);
    assert_eq!(u(&trial["latency"]["service"]["count"]), 2_006);
    assert_eq!(u(&trial["ledger"]["duplicated"]), 0);
}

#[test]
fn payloads_of_a_file_are_stored_behind_their_identity() {
    let server = Server::start("");
    let dir = scenario(SMALL);
    std::fs::write(dir.path().join("order.json"), [b'x'; 500]).expect("a writable directory");
    let mut command = jsbench(dir.path());
    command.args([
        "run",
        "s.toml",
        "--out",
        "r",
        "--quiet",
        "--keep",
        "--server",
        &server.url,
    ]);
    command.args(["--set", "workload.messages=50"]);
    command.args([
        "--set",
        "workload.payload={ kind = \"file\", path = \"order.json\" }",
    ]);
    run(&mut command, 0);
    let trial = first_trial(&dir.path().join("r"));
    assert_eq!(trial["ledger"]["verdict"], "pass");
    // 50 of 500 bytes, and what the server counts besides.
    assert!(u(&trial["resources"]["stored_bytes"]) > 25_000);
    assert_eq!(read_back(&server, &trial).0.len(), 50);
}

/// Why the only trial of a run failed.
fn why_failed(dir: &Path) -> String {
    let trial = first_trial(&dir.join("r"));
    assert_eq!(trial["status"], "failed", "{trial}");
    trial["reasons"][0].as_str().expect("a reason").to_owned()
}

#[test]
fn a_message_above_max_payload_is_refused_before_the_load_headers_included() {
    let server = Server::start("max_payload: 2000");
    let just_fits = "workload.payload=2000B";
    for (settings, code, said) in [
        (vec![just_fits], 0, ""),
        (
            vec!["workload.payload=2001B"],
            1,
            "2001 bytes, and the server takes at most 2000",
        ),
        (
            vec![just_fits, "publish.message_id=true"],
            1,
            "its headers up to",
        ),
        (
            vec![just_fits, "publish.headers={ a = \"b\" }"],
            1,
            "its headers up to 18",
        ),
        (
            vec!["workload.payload=1982B", "publish.headers={ a = \"b\" }"],
            0,
            "",
        ),
        (
            vec![just_fits, "publish.mode=atomic-batch"],
            1,
            "its headers up to",
        ),
        (vec![just_fits, "publish.mode=fast-ingest"], 0, ""),
    ] {
        let all = [&["workload.messages=20"][..], &settings].concat();
        let (dir, trial) = against(&server, &all, code);
        if code == 0 {
            assert_eq!(u(&trial["publish"]["acked"]), 20, "{settings:?}");
        } else {
            let why = why_failed(dir.path());
            assert!(why.contains(said), "{settings:?}: {why}");
        }
    }
}

#[test]
fn batches_that_the_server_does_not_take_end_refused_with_their_cause() {
    let server = Server::start_as(
        &common::nats_server(),
        "limits { batch { max_msgs: 50 } }",
        "",
    );
    let settings = [
        "publish.mode=atomic-batch",
        "publish.batch=60",
        "workload.messages=240",
    ];
    for (more, code, verdict) in [
        // Nothing is stored, and nothing to judge.
        (&[][..], 13, "inconclusive"),
        (&["expect.refused=\"== 0\""], 10, "inconclusive"),
    ] {
        let (dir, trial) = against(&server, &[&settings, more].concat(), code);
        let publish = &trial["publish"];
        assert_eq!(
            (u(&publish["attempted"]), u(&publish["refused"])),
            (240, 240),
            "{publish}"
        );
        assert_eq!(trial["ledger"]["verdict"], verdict);
        let journal =
            std::fs::read_to_string(dir.path().join("r/journal.jsonl")).expect("a journal");
        assert!(
            journal.contains("limits.batch.max_msgs"),
            "the cause is on record"
        );
    }
    let fits = [
        "publish.mode=atomic-batch",
        "publish.batch=50",
        "workload.messages=200",
    ];
    let trial = counted(&server, &fits, 0);
    assert_eq!(u(&trial["publish"]["acked"]), 200);
}

#[test]
fn an_older_server_is_refused_before_any_load() {
    let modes = [
        (
            "2.11.10",
            "publish.mode=atomic-batch",
            "an atomic batch that ends with a message of its own needs",
        ),
        (
            "2.11.10",
            "publish.mode=fast-ingest",
            "fast ingest needs nats-server 2.14",
        ),
        // It could not be ended with the load.
        (
            "2.12.0",
            "publish.mode=atomic-batch",
            "needs nats-server 2.14",
        ),
        (
            "2.10.27",
            "publish.ttl=1h",
            "`publish.ttl` needs nats-server 2.11",
        ),
    ];
    for (version, setting, said) in modes {
        let Some(program) = older_server(version) else {
            continue;
        };
        let server = Server::start_as(&program, "", "");
        let (dir, _) = against(&server, &[setting], 1);
        let why = why_failed(dir.path());
        assert!(
            why.contains(said) && why.contains(version),
            "{setting}: {why}"
        );
        assert_eq!(u(&server.jsz()["streams"]), 0, "nothing was made");
    }
    // Where the last message is known, it commits.
    if let Some(program) = older_server("2.12.0") {
        let server = Server::start_as(&program, "", "");
        let settings = [
            "publish.mode=atomic-batch",
            "publish.batch=64",
            "workload.messages=200",
        ];
        let trial = counted(&server, &settings, 0);
        assert_eq!(u(&trial["publish"]["acked"]), 200);
        assert_eq!(trial["ledger"]["verdict"], "pass");
    }
}

#[test]
fn an_existing_stream_must_allow_what_is_done_with_it() {
    let server = Server::start("");
    common::foreign_stream(&server.url, "ORDERS", "orders.>", "orders.new", 1_000_000);
    let existing = SMALL
        .replace("kind = \"embedded\"\nservers = 1", "kind = \"external\"")
        .replace(
            "storage = \"file\"\nreplicas = 1\nmax_bytes = \"256MiB\"",
            "existing = \"ORDERS\"",
        )
        .replace(
            "mode = \"async\"",
            "mode = \"async\"\nsubject = \"orders.new\"",
        );
    for (mode, key) in [
        ("atomic-batch", "allow_atomic"),
        ("fast-ingest", "allow_batched"),
    ] {
        let dir = scenario(&existing);
        let mut command = jsbench(dir.path());
        command.args([
            "run",
            "s.toml",
            "--out",
            "r",
            "--quiet",
            "--server",
            &server.url,
        ]);
        command.args(["--set", &format!("publish.mode={mode}")]);
        run(&mut command, 1);
        let why = why_failed(dir.path());
        assert!(why.contains("ORDERS") && why.contains(key), "{why}");
    }
}
