//! Modes of publishing and reading, buckets, keys and event loops.

use super::super::model::{
    ClientKind, Deliver, Publish, PublishMode, PullStyle, Stream, StreamKind, Workload,
};
use super::*;

fn spec(text: &str) -> super::super::model::CellSpec {
    good(text).cells[0].spec.clone()
}

#[test]
fn what_is_not_written_is_the_default_of_the_model() {
    let spec = spec("[workload]\nsubscribers = 0\n");
    assert_eq!(spec.stream, Stream::default());
    assert_eq!(spec.publish, Publish::default());
    assert_eq!(spec.workload, Workload::default());
    assert_eq!(spec.consumer, super::super::model::Consumer::default());
}

#[test]
fn defaults_of_publishing_follow_its_mode() {
    let of = |mode: &str, more: &str| {
        let publish = spec(&format!("[publish]\nmode = \"{mode}\"\n{more}")).publish;
        (publish.window, publish.batch)
    };
    assert_eq!(of("atomic-batch", ""), (1_000, 500));
    assert_eq!(of("fast-ingest", "window = 64\n"), (64, 64));
    assert_eq!(of("fast-ingest", "batch = 7\n"), (1_000, 7));
    assert_eq!(of("request", ""), (1, 1));
    assert_eq!(of("request", "window = 1_048_576\n").0, 1_048_576);
    assert_eq!(of("sync", "").0, 1);
}

#[test]
fn requests_are_answered_by_subscribers_without_a_word() {
    let spec = spec("[publish]\nmode = \"request\"\n[expect]\nresponse.p99 = \"<= 5ms\"\n");
    assert_eq!(spec.consumer.kind, ConsumerKind::Reply);
    assert_eq!(spec.consumer.share, Share::App);
    assert_eq!(spec.consumer.ack, Ack::None);
}

#[test]
fn a_bucket_brings_its_own_defaults() {
    let bucket = |text: &str| spec(&format!("[stream]\nkind = \"kv\"\n{text}"));
    let plain = bucket("");
    assert_eq!(plain.stream.kind, StreamKind::Kv);
    assert!(plain.stream.discard_new);
    assert_eq!(plain.stream.max_msgs_per_subject, Some(1));
    assert_eq!(plain.workload.keys, Some(1_000));
    assert_eq!(plain.consumer.deliver, Deliver::All);
    assert_eq!(
        bucket("max_msgs_per_subject = 5\n")
            .stream
            .max_msgs_per_subject,
        Some(5)
    );
    assert_eq!(bucket("[workload]\nprefill = 7\n").workload.keys, Some(7));
    assert_eq!(
        bucket("[workload]\nprefill = 7\nkeys = 9\n").workload.keys,
        Some(9)
    );
    let watch = "[consumer]\nkind = \"ordered\"\n";
    assert_eq!(bucket(watch).consumer.deliver, Deliver::LastPerSubject);
    // A watch sees what is there, so that it drains a bucket.
    let drain = bucket(&format!(
        "{watch}[workload]\npublishers = 0\nprefill = 10\n"
    ));
    assert_eq!(drain.consumer.deliver, Deliver::LastPerSubject);
    bucket("[workload]\nprefill = 10\n[consumer]\nkind = \"ordered\"\n");
}

#[test]
fn gets_ask_for_one_message_at_a_time_unless_told() {
    let get = |text: &str| {
        let text = format!(
            "[workload]\npublishers = 0\nprefill = 100\n[consumer]\nkind = \"get\"\n{text}"
        );
        spec(&text).consumer
    };
    assert_eq!((get("").kind, get("").batch), (ConsumerKind::Get, 1));
    assert_eq!(get("batch = 200\n").batch, 200);
    assert_eq!(get("").ack, Ack::None);
    get("[stream]\nretention = \"workqueue\"\n");
    get("[stream]\nkind = \"kv\"\n");
}

#[test]
fn a_pull_consumer_is_asked_again_early_or_late() {
    assert_eq!(spec("").consumer.pull, PullStyle::Consume);
    let fetch = spec("[consumer]\npull = \"fetch\"\nbatch = 10\n").consumer;
    assert_eq!((fetch.pull, fetch.batch), (PullStyle::Fetch, 10));
}

#[test]
fn headers_keep_the_order_in_which_they_were_written() {
    let text = "[publish.headers]\nz-last = \"1\"\n\"ce.type\" = \"order.created\"\na = \"\"\n";
    let headers = spec(text).publish.headers;
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["z-last", "ce.type", "a"]);
    let scenario = good(text);
    let again = good_with(&scenario.resolved_toml, &Overrides::default());
    assert_eq!(again.cells[0].spec.publish.headers, headers);
}

#[test]
fn a_layer_replaces_headers_whole() {
    let text = "name = \"t\"\n[publish]\nheaders = { a = \"1\", b = \"2\" }\n\
                [profile.p]\npublish.headers = { c = \"3\" }\n";
    let headers = |overrides: &Overrides| {
        let scenario = good_with(text, overrides);
        let headers = scenario.cells[0].spec.publish.headers.iter();
        headers.map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>()
    };
    assert_eq!(headers(&Overrides::default()), ["a=1", "b=2"]);
    let profile = Overrides {
        profile: Some("p".to_owned()),
        ..Overrides::default()
    };
    assert_eq!(headers(&profile), ["c=3"]);
    assert!(headers(&sets(&["publish.headers={}"])).is_empty());
    assert_eq!(headers(&sets(&["publish.headers.d=x"])), ["d=x"]);
}

#[test]
fn headers_are_an_axis_as_a_whole() {
    let text = "name = \"t\"\n[publish]\nheaders = { a = \"0\" }\n[matrix]\n\
                publish.headers = [{}, { a = \"1\" }, { a = \"1\", b = \"2\" }]\n";
    let scenario = good_with(text, &Overrides::default());
    assert_eq!(ids(&scenario), ["headers", "headers-1", "headers-1-2"]);
    let counts = |scenario: &Scenario| -> Vec<usize> {
        let cells = scenario.cells.iter();
        cells.map(|c| c.spec.publish.headers.len()).collect()
    };
    assert_eq!(counts(&scenario), [0, 1, 2]);
    assert_eq!(scenario.cells[0].factors["publish.headers"], "{}");
    // What a filter left out stays out, and no more than that.
    for (filter, kept) in [("headers={}", vec![0]), ("headers=*b*", vec![2])] {
        let only = Overrides {
            filter: vec![filter.to_owned()],
            ..Overrides::default()
        };
        let filtered = good_with(text, &only);
        assert_eq!(counts(&filtered), kept, "{filter}");
        let again = good_with(&filtered.resolved_toml, &Overrides::default());
        assert_eq!(counts(&again), kept, "{}", filtered.resolved_toml);
    }
    let set = good_with(text, &sets(&["publish.headers={}"]));
    assert_eq!(ids(&set), ["base"], "setting it removes the axis");
}

#[test]
fn every_new_key_can_be_an_axis() {
    for (axis, more) in [
        ("stream.kind = [\"stream\", \"kv\"]", ""),
        (
            "publish.mode = [\"sync\", \"async\", \"atomic-batch\", \"fast-ingest\"]",
            "",
        ),
        (
            "publish.batch = [1, 100]",
            "[publish]\nmode = \"fast-ingest\"\n",
        ),
        (
            "publish.duplicate_ratio = [0.0, 0.5, 1.0]",
            "[publish]\nmessage_id = true\n",
        ),
        (
            "publish.ttl = [\"1s\", \"1h\"]",
            "[expect]\nabsences = [\"ttl\"]\n",
        ),
        (
            "consumer.kind = [\"pull\", \"ordered\", \"get\"]",
            "[workload]\npublishers = 0\nprefill = 9\n",
        ),
        ("consumer.pull = [\"consume\", \"fetch\"]", ""),
        ("workload.client = [\"wire\", \"async-nats\"]", ""),
        ("workload.threads = [1, 2]", ""),
        ("workload.keys = [1, 10]", ""),
    ] {
        let scenario = good(&format!("{more}[matrix]\n{axis}\n"));
        let values = axis.split(',').count();
        assert_eq!(scenario.cells.len(), values, "{axis}");
        let specs: Vec<String> = scenario
            .cells
            .iter()
            .map(|c| format!("{:?}", c.spec))
            .collect();
        let distinct: std::collections::BTreeSet<&String> = specs.iter().collect();
        assert_eq!(distinct.len(), values, "{axis}");
    }
}

#[test]
fn a_mode_or_kind_displaces_the_keys_that_it_does_not_have() {
    let publish = "name = \"t\"\n[publish]\nmode = \"fast-ingest\"\nbatch = 10\nwindow = 100\n\
                   message_id = true\nttl = \"1h\"\nduplicate_ratio = 0.5\n";
    let of = |text: &str, set: &[&str]| good_with(text, &sets(set)).cells[0].spec.clone();
    for mode in ["sync", "async", "request", "core"] {
        let mode = format!("publish.mode={mode}");
        let spec = of(publish, &[&mode]);
        assert!(!spec.publish.mode.has_group_acks());
        assert_eq!(spec.publish.ttl.is_some(), !spec.publish.mode.is_core());
    }
    let consumer = "name = \"t\"\n[consumer]\nkind = \"pull\"\nbatch = 10\npull = \"fetch\"\nack = \"all\"\n\
                    max_ack_pending = 5\ndeliver = \"new\"\n";
    for kind in ["none", "ordered", "push", "push-queue"] {
        of(consumer, &[&format!("consumer.kind={kind}")]);
    }
    let get = of(
        consumer,
        &[
            "consumer.kind=get",
            "workload.publishers=0",
            "workload.prefill=5",
        ],
    );
    assert_eq!((get.consumer.batch, get.consumer.ack), (10, Ack::None));
    of(consumer, &["consumer.kind=reply", "publish.mode=request"]);
    let stream = "name = \"t\"\n[stream]\nretention = \"interest\"\ndiscard = \"old\"\n";
    assert_eq!(of(stream, &["stream.kind=kv"]).stream.kind, StreamKind::Kv);
    // In one layer the same is a contradiction.
    for text in [publish, consumer, stream] {
        let text = text
            .replace("\"fast-ingest\"", "\"core\"")
            .replace("\"pull\"", "\"ordered\"")
            .replace("[stream]\n", "[stream]\nkind = \"kv\"\n");
        bad(&text);
    }
}

#[test]
fn both_clients_and_their_windows() {
    assert_eq!(spec("").workload.client, ClientKind::Wire);
    let many = "[publish]\nwindow = 65_536\n[workload]\nclient = \"async-nats\"\n";
    assert_eq!(spec(many).publish.window, 65_536);
    assert_eq!(
        spec("[publish]\nwindow = 1_048_576\n").publish.window,
        1_048_576
    );
}

#[test]
fn a_time_to_live_is_measured_against_the_trial() {
    // 5 s of warm-up, 30 s of window and 30 s of drain.
    spec("[publish]\nttl = \"65s\"\n");
    let short = "[publish]\nttl = \"64s\"\n";
    assert_eq!(bad(&format!("name = \"t\"\n{short}")).len(), 1);
    spec(&format!("{short}[expect]\nabsences = [\"ttl\"]\n"));
    spec(&format!("{short}[consumer]\nkind = \"none\"\n"));
    spec("[publish]\nttl = \"10m\"\n[workload]\nmessages = 10_000\n");
    assert_eq!(
        bad(&format!(
            "name = \"t\"\n{short}[workload]\nmessages = 10_000_000\n"
        ))
        .len(),
        1
    );
}

#[test]
fn external_servers_may_have_other_limits() {
    let external = "[target]\nkind = \"external\"\nurls = [\"nats://127.0.0.1:4222\"]\n";
    let text = format!("{external}[publish]\nmode = \"fast-ingest\"\nbatch = 800\n");
    assert_eq!(spec(&text).publish.batch, 800);
    let text =
        format!("{external}[publish]\nmode = \"atomic-batch\"\nbatch = 2_000\nwindow = 200_000\n");
    assert_eq!(spec(&text).publish.mode, PublishMode::AtomicBatch);
}

const DRAIN: &str = "[workload]\npublishers = 0\nprefill = 10\n[consumer]\nkind = \"get\"\n";

#[test]
fn contradictions_of_modes_are_refused() {
    refused(REFUSED);
    let drained = [
        ("share = \"app\"\n", "can be shared"),
        ("ack = \"explicit\"\n", "only pull, push and push-queue"),
        ("deliver = \"all\"\n", "`consumer.deliver` means nothing"),
        ("pull = \"fetch\"\n", "`consumer.pull` means nothing"),
        ("batch = 0\n", "`consumer.batch` is 0"),
        ("batch = 5\n[stream]\nkind = \"kv\"\n", "one key at a time"),
        (
            "[stream]\nretention = \"interest\"\n",
            "drops every message",
        ),
    ];
    for (more, words) in drained {
        refused(&[(&format!("{DRAIN}{more}"), words)]);
    }
}

#[test]
fn the_errors_of_modes_have_place_value_and_cure() {
    let text = r#"name = "modes"

[stream]
kind = "kv"
retention = "workqueue"
discard = "old"
max_msgs_per_subject = 65

[consumer]
kind = "get"
batch = 10

[publish]
mode = "atomic-batch"
batch = 1001
window = 100_000
ttl = "1500ms"
duplicate_ratio = 0.1
headers = { "Nats-Msg-Id" = "1", "a b" = "2", "c" = "3\n4", d = 5 }

[workload]
client = "async-nats"
threads = 65
keys = 2_000_000
"#;
    insta::assert_snapshot!("bad_modes", bad(text).render(false));
    let text = "name = \"late\"\n\n[target]\nkind = \"stub\"\n\n[stream]\nkind = \"kv\"\n\n\
                [publish]\nmode = \"request\"\n\n[workload]\nkeys = 5\n";
    insta::assert_snapshot!("bad_modes_of_a_stub", bad(text).render(false));
}

/// What must be refused, and words of the message; each is the only error.
const REFUSED: &[(&str, &str)] = &[
    (
        "[publish]\nbatch = 10\n",
        "each message has an ack of its own",
    ),
    (
        "[publish]\nmode = \"fast-ingest\"\nbatch = 0\n",
        "`publish.batch` is 0",
    ),
    (
        "[publish]\nmode = \"fast-ingest\"\nbatch = 200\nwindow = 100\n",
        "none would ever be full",
    ),
    (
        "[publish]\nmode = \"atomic-batch\"\nbatch = 1001\nwindow = 2000\n",
        "takes atomic batches of at most 1000",
    ),
    (
        "[publish]\nmode = \"fast-ingest\"\nbatch = 501\n",
        "acks a fast batch after at most 500",
    ),
    (
        "[publish]\nmode = \"atomic-batch\"\nbatch = 10\nwindow = 501\n",
        "51 atomic batches in flight on one stream, 51 of each publisher",
    ),
    (
        "[publish]\nmode = \"atomic-batch\"\n[workload]\npods = 13\npublishers = 2\n",
        "52 atomic batches in flight on one stream, 2 of each publisher",
    ),
    (
        "[publish]\nmode = \"atomic-batch\"\n[stream]\npersist = \"async\"\n",
        "error 10052",
    ),
    (
        "[publish]\nmode = \"fast-ingest\"\n[stream]\nlayout = \"per-type\"\n[workload]\ntypes = 2\n",
        "a batch goes to one stream",
    ),
    (
        "[publish]\nduplicate_ratio = 1.5\nmessage_id = true\n",
        "`publish.duplicate_ratio` is 1.5",
    ),
    (
        "[publish]\nduplicate_ratio = -0.5\n",
        "`publish.duplicate_ratio` is -0.5",
    ),
    (
        "[publish]\nduplicate_ratio = nan\n",
        "`publish.duplicate_ratio` is NaN",
    ),
    (
        "[publish]\nduplicate_ratio = 0.5\n",
        "`publish.message_id` is false",
    ),
    (
        "[publish]\nmode = \"core\"\nduplicate_ratio = 0.5\n",
        "duplicates are found by a stream, and `publish.mode` is core",
    ),
    (
        "[publish]\nmode = \"atomic-batch\"\nmessage_id = true\nduplicate_ratio = 0.5\n",
        "refuses a whole atomic batch",
    ),
    (
        "[publish]\nttl = \"500ms\"\n",
        "the server counts whole seconds",
    ),
    (
        "[publish]\nttl = \"1500ms\"\n",
        "the server counts whole seconds",
    ),
    (
        "[publish]\nmode = \"request\"\nttl = \"1h\"\n",
        "messages leave a stream after `ttl`",
    ),
    (
        "[publish]\nttl = \"10s\"\n",
        "messages live for 10s, and the trial may last 65s",
    ),
    (
        "[publish]\nheaders = { \"a:b\" = \"c\" }\n",
        "`a:b` is not the name of a header",
    ),
    (
        "[publish]\nheaders = { \"\" = \"c\" }\n",
        "`` is not the name of a header",
    ),
    (
        "[publish]\nheaders = { nats-ttl = \"1s\" }\n",
        "is set by jsbench",
    ),
    (
        "[publish]\nheaders = { Nats-Batch-Id = \"1\" }\n",
        "is set by jsbench",
    ),
    (
        "[publish]\nheaders = { a = \"b\\r\\nc\" }\n",
        "has a line break",
    ),
    (
        "[publish]\nheaders = { a = 1 }\n",
        "found integer `1`, expected a string",
    ),
    (
        "[publish]\nheaders = \"a: b\"\n",
        "expected a table of strings",
    ),
    (
        "[matrix]\npublish.headers.a = [\"1\", \"2\"]\n",
        "`publish.headers` is one value",
    ),
    (
        "[workload]\npayload = \"1MiB\"\n[publish]\nheaders = { a = \"b\" }\n",
        "and 18 of headers are more than the server takes",
    ),
    (
        "[workload]\npayload = \"1MiB\"\n[publish]\nmode = \"atomic-batch\"\n",
        "and 112 of headers are more",
    ),
    (
        "[publish]\nmode = \"request\"\n[workload]\nsubscribers = 0\n",
        "a request without a responder: `consumer.kind` is none by default",
    ),
    (
        "[publish]\nmode = \"request\"\n[consumer]\nkind = \"none\"\n",
        "a request without a responder",
    ),
    (
        "[publish]\nmode = \"request\"\n[consumer]\nkind = \"core\"\n",
        "a request without a responder",
    ),
    (
        "[consumer]\nkind = \"reply\"\n",
        "answers requests, and `publish.mode` is async by default",
    ),
    (
        "[publish]\nmode = \"core\"\n[consumer]\nkind = \"reply\"\n",
        "answers requests",
    ),
    (
        "[publish]\nmode = \"request\"\n[consumer]\nshare = \"none\"\n",
        "answered by one of the app's subscribers",
    ),
    (
        "[publish]\nmode = \"request\"\nmessage_id = true\n",
        "message ids are for JetStream",
    ),
    (
        "[publish]\nmode = \"request\"\n[workload]\nprefill = 5\n",
        "mode \"request\" stores nothing",
    ),
    (
        "[publish]\nmode = \"request\"\n[workload]\nkeys = 5\n",
        "that a stream keeps apart",
    ),
    (
        "[publish]\nmode = \"core\"\n[workload]\nkeys = 5\n",
        "that a stream keeps apart",
    ),
    (
        "[consumer]\nkind = \"get\"\n",
        "and there are publishers beside it",
    ),
    (
        "[publish]\nmode = \"core\"\n[consumer]\nkind = \"get\"\n",
        "stores nothing that a JetStream consumer could read",
    ),
    (
        "[consumer]\nkind = \"get\"\n[workload]\npublishers = 0\n",
        "nothing filled in before",
    ),
    (
        "[consumer]\nkind = \"ordered\"\npull = \"fetch\"\n",
        "`consumer.pull` means nothing",
    ),
    (
        "[stream]\nkind = \"kv\"\nretention = \"interest\"\n",
        "a bucket keeps what is in it",
    ),
    (
        "[stream]\nkind = \"kv\"\ndiscard = \"old\"\n",
        "a full bucket refuses puts",
    ),
    (
        "[stream]\nkind = \"kv\"\nmax_msgs_per_subject = 65\n",
        "at most 64 values of a key",
    ),
    (
        "[stream]\nkind = \"kv\"\n[publish]\nmode = \"fast-ingest\"\n",
        "a bucket takes puts, each with an ack",
    ),
    (
        "[stream]\nkind = \"kv\"\n[publish]\nmode = \"core\"\n",
        "a bucket takes puts, each with an ack",
    ),
    (
        "[target]\nkind = \"external\"\nurls = [\"nats://a\"]\n[stream]\nkind = \"kv\"\nexisting = \"S\"\n\
         [publish]\nsubject = \"a.b\"\n",
        "a bucket is made by jsbench",
    ),
    (
        "[stream]\nkind = \"kv\"\n[consumer]\nkind = \"get\"\n\
         [workload]\npublishers = 0\nprefill = 10\ntypes = 2\nkeys = 4\n",
        "10 puts to the 8 keys of a pod",
    ),
    (
        "[stream]\nkind = \"kv\"\nmax_msgs_per_subject = 2\n[workload]\npublishers = 0\nprefill = 10\nkeys = 4\n",
        "10 puts to the 4 keys of a pod",
    ),
    (
        "[target]\nkind = \"external\"\nurls = [\"nats://a\"]\n[stream]\nexisting = \"S\"\n\
         [publish]\nsubject = \"a.b\"\n[workload]\nkeys = 4\n",
        "used through one subject",
    ),
    (
        "[target]\nkind = \"external\"\nurls = [\"nats://a\"]\n[stream]\nexisting = \"S\"\n\
         [publish]\nsubject = \"a.b\"\nttl = \"1h\"\n",
        "`ttl` needs a stream that allows it",
    ),
    ("[workload]\nkeys = 0\n", "`workload.keys` is 0"),
    ("[workload]\nkeys = 1_000_001\n", "keys for each publisher"),
    ("[workload]\nthreads = 0\n", "`workload.threads` is 0"),
    (
        "[workload]\nthreads = 65\npublishers = 90\n",
        "65 event loops per pod",
    ),
    (
        "[workload]\nthreads = 3\n",
        "3 event loops for the 2 clients of a pod",
    ),
    (
        "[workload]\nthreads = 3\npublishers = 5\nconnections = 2\n",
        "`workload.connections` is 2: each needs one",
    ),
    (
        "[target]\nkind = \"stub\"\n[stream]\nkind = \"kv\"\n",
        "there is no bucket",
    ),
    (
        "[target]\nkind = \"stub\"\n[publish]\nmode = \"atomic-batch\"\n",
        "a stub acks each publish alone, and `publish.mode` is atomic-batch",
    ),
    (
        "[target]\nkind = \"stub\"\n[publish]\nmode = \"request\"\n",
        "a stub acks each publish alone",
    ),
    (
        "[target]\nkind = \"stub\"\n[publish]\nttl = \"1h\"\n",
        "nothing that could be gone",
    ),
    (
        "[target]\nkind = \"stub\"\n[publish]\nmessage_id = true\nduplicate_ratio = 0.1\n",
        "remembers no message ids",
    ),
    (
        "[target]\nkind = \"stub\"\n[consumer]\nkind = \"reply\"\n",
        "a stub delivers nothing",
    ),
];
