//! Both batch protocols against real servers, older ones included: what is settled is what the
//! stream holds.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use common::{Server, nats_server, older_server};
use futures_util::StreamExt as _;
use jsbench::nats::api::Api;
use jsbench::nats::batch::atomic::{Atomic, Part};
use jsbench::nats::batch::fast::Fast;
use jsbench::nats::batch::{Answer, How, Kind, Settled, check_level, read_answer};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Until an answer that must come is missed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server, a connection to it and its API.
struct Bench {
    _server: Server,
    client: Client,
    api: Api,
    inbox: String,
    answers: Subscriber,
}

impl Bench {
    async fn new() -> Self {
        Self::on(&nats_server(), "").await
    }

    /// With something in the `limits` of the server's `jetstream` block.
    async fn limited(limits: &str) -> Self {
        Self::on(&nats_server(), &format!("limits {{ {limits} }}")).await
    }

    async fn on(program: &Path, jetstream: &str) -> Self {
        let server = Server::start_as(program, jetstream, "");
        let client = async_nats::connect(&server.url).await.expect("connects");
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.>")).await.expect("room");
        Self {
            api: Api::new(client.clone(), "$JS.API"),
            _server: server,
            client,
            inbox,
            answers,
        }
    }

    /// A stream in memory for `<name>.*` with these keys besides.
    async fn stream(&self, name: &str, keys: Value) -> Value {
        let mut config = json!({"name": name, "subjects": [format!("{name}.*")],
            "storage": "memory", "retention": "limits", "num_replicas": 1});
        let config_keys = config.as_object_mut().expect("an object");
        config_keys.extend(keys.as_object().expect("an object").clone());
        let endpoint = format!("STREAM.CREATE.{name}");
        let made = self.api.request(name, &endpoint, &config).await;
        made.expect("a stream")
    }

    async fn held(&self, stream: &str) -> u64 {
        self.api.stream(stream).await.expect("info").state.messages
    }

    async fn publish(&self, subject: &str, reply: Option<String>, headers: HeaderMap) {
        self.publish_bytes(subject, reply, headers, "payload".into())
            .await;
    }

    async fn publish_bytes(
        &self,
        subject: &str,
        reply: Option<String>,
        headers: HeaderMap,
        payload: Bytes,
    ) {
        let (client, subject) = (&self.client, subject.to_owned());
        match reply {
            Some(reply) => {
                client
                    .publish_with_reply_and_headers(subject, reply, headers, payload)
                    .await
            }
            None => client.publish_with_headers(subject, headers, payload).await,
        }
        .expect("sent");
    }

    /// The next answer; `None` after a silence.
    async fn answer_within(&mut self, limit: Duration) -> Option<(String, Answer)> {
        let message = timeout(limit, self.answers.next()).await.ok()??;
        let status = message.status.map(|s| s.as_u16());
        Some((
            message.subject.to_string(),
            read_answer(&message.payload, status),
        ))
    }

    async fn answer(&mut self) -> (String, Answer) {
        let answer = self.answer_within(PATIENCE).await;
        answer.expect("an answer")
    }

    fn fast(&self, id: &str, flow: u32, window: u32) -> Fast {
        Fast::new(&self.inbox, id, flow, window).expect("an id")
    }

    async fn send(&self, batch: &mut Fast, subject: &str) {
        let reply = batch.reply().to_owned();
        self.publish(subject, Some(reply), HeaderMap::new()).await;
    }

    async fn send_close(&self, batch: &mut Fast, subject: &str) {
        let reply = batch.close().expect("something to close").to_owned();
        self.publish_bytes(subject, Some(reply), HeaderMap::new(), Bytes::new())
            .await;
    }

    async fn send_ping(&self, batch: &mut Fast, subject: &str) {
        let reply = batch.ping().expect("something to ask for").to_owned();
        self.publish_bytes(subject, Some(reply), HeaderMap::new(), Bytes::new())
            .await;
    }

    /// Takes in the next answer to this batch; late ones to an earlier one are passed over.
    async fn hear(&mut self, batch: &mut Fast, tally: &mut Tally) -> Answer {
        loop {
            let (subject, answer) = self.answer().await;
            tally.add(batch.on_answer(&subject, &answer));
            if batch.owns(&subject) {
                return answer;
            }
        }
    }

    /// Sends until `messages` are sent and the batch is over, or it is over before.
    async fn run(&mut self, batch: &mut Fast, subject: &str, messages: u64) -> Tally {
        let mut tally = Tally::default();
        while !batch.is_over() {
            self.go_on(batch, subject, messages).await;
            self.hear(batch, &mut tally).await;
        }
        tally.finish(batch.sent())
    }

    /// Sends what may be sent now.
    async fn go_on(&self, batch: &mut Fast, subject: &str, messages: u64) {
        while batch.may_send() && batch.sent() < messages {
            self.send(batch, subject).await;
        }
        let done = batch.sent() == messages && batch.every().is_some() && !batch.is_closed();
        if done || batch.must_close() {
            self.send_close(batch, subject).await;
        }
    }

    /// Sends a message of an atomic batch, with a message id of its own if there is one.
    async fn send_part(&self, subject: &str, part: Part<'_>, message_id: Option<&str>) {
        let mut headers = HeaderMap::new();
        for (name, value) in part.headers() {
            headers.insert(name, value);
        }
        if let Some(id) = message_id {
            headers.insert("Nats-Msg-Id", id);
        }
        self.publish(subject, part.reply.map(str::to_owned), headers)
            .await;
    }

    async fn hear_atomic(&mut self, batch: &mut Atomic, tally: &mut Tally) -> Answer {
        let (subject, answer) = self.answer().await;
        assert!(batch.owns(&subject), "{subject} is not of this batch");
        tally.add(batch.on_answer(&subject, &answer));
        answer
    }

    /// Sends a whole atomic batch: `messages` of them, the last of which commits, or an end after
    /// them.
    async fn run_atomic(&mut self, id: &str, subject: &str, messages: u64, end: bool) -> Ended {
        let mut batch = Atomic::new(&self.inbox, id).expect("an id");
        let mut tally = Tally::default();
        while !batch.is_over() {
            while batch.may_send() && batch.sent() < messages {
                let last = !end && batch.sent() + 1 == messages;
                self.send_part(subject, batch.message(last), None).await;
            }
            if end && batch.sent() == messages && batch.may_send() {
                let part = batch.end().expect("something to end");
                self.send_part(subject, part, None).await;
            }
            self.hear_atomic(&mut batch, &mut tally).await;
        }
        Ended {
            tally: tally.finish(batch.sent()),
            fault: batch.fault().map(str::to_owned),
        }
    }
}

/// How an atomic batch ended.
struct Ended {
    tally: Tally,
    fault: Option<String>,
}

impl Ended {
    fn fault(&self) -> &str {
        self.fault.as_deref().expect("a fault")
    }
}

/// Fates of messages by batch sequence.
#[derive(Debug, Default)]
struct Tally {
    fates: BTreeMap<u64, How>,
}

impl Tally {
    fn add(&mut self, settled: Vec<Settled>) {
        for Settled { seqs, how } in settled {
            for seq in seqs {
                let before = self.fates.insert(seq, how.clone());
                assert_eq!(before, None, "message {seq} is settled twice, now {how:?}");
            }
        }
    }

    /// Checks that every message that was sent has a fate, and no other one.
    fn finish(self, sent: u64) -> Self {
        let settled: Vec<u64> = self.fates.keys().copied().collect();
        assert_eq!(settled, (1..=sent).collect::<Vec<_>>());
        self
    }

    fn count(&self, wanted: impl Fn(&How) -> bool) -> u64 {
        self.fates.values().filter(|how| wanted(how)).count() as u64
    }

    fn acked(&self) -> u64 {
        self.count(|how| *how == How::Acked)
    }

    fn refused(&self) -> u64 {
        self.count(|how| matches!(how, How::Refused(_)))
    }

    fn unknown(&self) -> u64 {
        self.count(|how| matches!(how, How::Unknown(_)))
    }

    /// (acked, refused, unknown).
    fn all(&self) -> (u64, u64, u64) {
        (self.acked(), self.refused(), self.unknown())
    }

    fn cause(&self, seq: u64) -> &str {
        match &self.fates[&seq] {
            How::Acked => "acked",
            How::Refused(why) | How::Unknown(why) => why,
        }
    }
}

fn batched() -> Value {
    json!({"allow_batched": true})
}

fn atomic() -> Value {
    json!({"allow_atomic": true})
}

#[tokio::test]
async fn fast_ingest_stores_and_settles_every_message_whatever_the_window() {
    let mut bench = Bench::new().await;
    for (at, (flow, window)) in [
        (500, 500),
        (500, 5000),
        (500, 100),
        (1, 1),
        (90_000, 90_000),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = format!("S{at}");
        bench.stream(&stream, batched()).await;
        let mut batch = bench.fast("one", flow, window);
        let (mut tally, mut most) = (Tally::default(), 0);
        while !batch.is_over() {
            bench.go_on(&mut batch, &format!("{stream}.a"), 2000).await;
            most = most.max(batch.in_flight());
            bench.hear(&mut batch, &mut tally).await;
        }
        assert_eq!(tally.finish(2000).all(), (2000, 0, 0), "{flow} {window}");
        assert_eq!(bench.held(&stream).await, 2000, "{flow} {window}");
        assert_eq!(most, 2000.min(u64::from(window)), "{flow} {window}");
        assert_eq!(batch.fault(), None);
    }
}

#[tokio::test]
async fn batches_on_one_stream_share_it_and_ramp_up_from_one() {
    let mut bench = Bench::new().await;
    bench.stream("S", batched()).await;
    let mut batches = [
        bench.fast("first", 500, 500),
        bench.fast("second", 500, 500),
    ];
    let mut tallies = [Tally::default(), Tally::default()];
    let mut steps: [Vec<u64>; 2] = Default::default();
    // The second opens while the first is open.
    bench.send(&mut batches[0], "S.a").await;
    bench.hear(&mut batches[0], &mut tallies[0]).await;
    steps[0].extend(batches[0].every());
    while !batches.iter().all(Fast::is_over) {
        for batch in batches.iter_mut().filter(|b| !b.is_over()) {
            bench.go_on(batch, "S.a", 2000).await;
        }
        let (subject, answer) = bench.answer().await;
        for ((batch, tally), steps) in batches.iter_mut().zip(&mut tallies).zip(&mut steps) {
            tally.add(batch.on_answer(&subject, &answer));
            let now = batch.every().filter(|e| steps.last() != Some(e));
            steps.extend(now);
        }
    }
    for tally in tallies {
        assert_eq!(tally.finish(2000).all(), (2000, 0, 0));
    }
    assert_eq!(bench.held("S").await, 4000);
    assert_eq!(steps[0][0], 500, "alone it gets what it asks for");
    assert_eq!(steps[1][0], 1, "beside another it begins with one");
    assert!(
        steps[1].windows(2).any(|w| w[0] < w[1]),
        "and ramps up: {steps:?}"
    );
}

#[tokio::test]
async fn a_fast_batch_can_be_closed_before_an_ack_is_due() {
    let mut bench = Bench::new().await;
    bench.stream("S", batched()).await;
    let mut batch = bench.fast("early", 500, 1000);
    assert_eq!(batch.close(), None, "nothing was sent");
    let tally = bench.run(&mut batch, "S.a", 7).await;
    assert_eq!(tally.all(), (7, 0, 0));
    assert_eq!(bench.held("S").await, 7, "the end is not stored");
    assert_eq!(batch.close(), None, "it is over");
}

#[tokio::test]
async fn a_gap_ends_a_fast_batch_and_what_came_before_it_is_acked() {
    let mut bench = Bench::new().await;
    bench.stream("S", batched()).await;
    let mut batch = bench.fast("gap", 10, 100);
    let mut tally = Tally::default();
    bench.send(&mut batch, "S.a").await;
    bench.hear(&mut batch, &mut tally).await;
    for seq in 2..=50 {
        if seq == 25 {
            batch.reply();
        } else {
            bench.send(&mut batch, "S.a").await;
        }
    }
    while !batch.is_over() {
        let answer = bench.hear(&mut batch, &mut tally).await;
        if let Answer::Gap { expected, got } = answer {
            assert_eq!((expected, got), (25, 26));
        }
    }
    let tally = tally.finish(50);
    assert_eq!(tally.all(), (24, 26, 0));
    assert_eq!(bench.held("S").await, 24);
    let cause = "a gap ended the batch: the server expected message 25 and got 26";
    assert_eq!(tally.cause(50), cause);
    assert_eq!(batch.fault(), Some(cause));
    assert!(!batch.may_send());
}

#[tokio::test]
async fn a_batch_that_the_server_forgot_is_unknown_and_then_refused() {
    let mut bench = Bench::new().await;
    bench.stream("S", batched()).await;
    let mut batch = bench.fast("lost", 500, 500);
    let mut tally = Tally::default();
    bench.send(&mut batch, "S.a").await;
    bench.hear(&mut batch, &mut tally).await;
    for _ in 2..=5 {
        bench.send(&mut batch, "S.a").await;
    }
    // Its answer says that the server has seen all before it.
    bench.send_ping(&mut batch, "S.a").await;
    bench.hear(&mut batch, &mut tally).await;
    // Batches go with their stream.
    bench.api.delete_stream("S").await.expect("deleted");
    bench.stream("S", batched()).await;
    for _ in 6..=8 {
        bench.send(&mut batch, "S.a").await;
    }
    while !batch.is_over() {
        bench.hear(&mut batch, &mut tally).await;
    }
    let tally = tally.finish(8);
    assert_eq!(tally.all(), (0, 3, 5));
    assert!(tally.cause(6).starts_with("10208 "), "{}", tally.cause(6));
    assert_eq!(bench.held("S").await, 0);
}

#[tokio::test]
async fn a_server_that_abandons_an_idle_fast_batch_says_so_when_asked() {
    let mut bench = Bench::limited("batch { timeout: \"200ms\" }").await;
    bench.stream("S", batched()).await;
    let mut batch = bench.fast("idle", 500, 500);
    let mut tally = Tally::default();
    bench.send(&mut batch, "S.a").await;
    bench.hear(&mut batch, &mut tally).await;
    // A ping keeps the batch alive, so each one waits twice as long as the one before.
    let mut silence = Duration::from_millis(100);
    while !batch.is_over() {
        assert!(silence < PATIENCE, "the server keeps the batch");
        let heard = bench.answer_within(silence).await;
        assert_eq!(heard, None, "nothing is said of an abandoned batch");
        silence *= 2;
        bench.send_ping(&mut batch, "S.a").await;
        bench.hear(&mut batch, &mut tally).await;
    }
    let tally = tally.finish(1);
    assert_eq!(tally.all(), (0, 0, 1));
    assert!(tally.cause(1).contains("idle time"), "{}", tally.cause(1));
    assert_eq!(bench.held("S").await, 1, "stored all the same");
}

#[tokio::test]
async fn a_ping_brings_back_a_lost_ack_and_finds_a_lost_message() {
    let mut bench = Bench::new().await;
    bench.stream("S", batched()).await;
    let mut batch = bench.fast("ping", 4, 4);
    let mut tally = Tally::default();
    bench.send(&mut batch, "S.a").await;
    bench.answer().await;
    assert!(!batch.may_send(), "its answer was not heard");
    bench.send_ping(&mut batch, "S.a").await;
    bench.hear(&mut batch, &mut tally).await;
    for _ in 2..=4 {
        bench.send(&mut batch, "S.a").await;
    }
    assert_eq!(bench.answer().await.1, Answer::Flow { seq: 4, every: 4 });
    assert!(!batch.may_send());
    bench.send_ping(&mut batch, "S.a").await;
    bench.hear(&mut batch, &mut tally).await;
    assert_eq!(batch.in_flight(), 0);

    bench.send(&mut batch, "S.a").await;
    batch.reply();
    bench.send_ping(&mut batch, "S.a").await;
    while !batch.is_over() {
        bench.hear(&mut batch, &mut tally).await;
    }
    assert_eq!(tally.finish(6).all(), (5, 1, 0));
    assert_eq!(bench.held("S").await, 5);
}

#[tokio::test]
async fn a_full_stream_ends_a_fast_batch_at_what_fits() {
    let mut bench = Bench::new().await;
    let full = json!({"allow_batched": true, "max_msgs": 100, "discard": "new"});
    bench.stream("S", full).await;
    let mut batch = bench.fast("full", 10, 40);
    let tally = bench.run(&mut batch, "S.a", 200).await;
    assert_eq!(tally.acked(), 100);
    assert_eq!(tally.unknown(), 0);
    assert!(
        tally.cause(101).starts_with("10077 "),
        "{}",
        tally.cause(101)
    );
    assert_eq!(bench.held("S").await, 100);

    // The first of a batch is refused by itself.
    let mut batch = bench.fast("none", 10, 40);
    let tally = bench.run(&mut batch, "S.a", 200).await;
    assert_eq!(tally.acked(), 0);
    assert!(tally.cause(1).starts_with("10077 "), "{}", tally.cause(1));
    assert_eq!(bench.held("S").await, 100);
}

#[tokio::test]
async fn a_message_refused_outside_of_its_batch_makes_a_gap_that_closing_finds() {
    let mut bench = Bench::new().await;
    let small = json!({"allow_batched": true, "max_msg_size": 100});
    bench.stream("S", small).await;
    let mut batch = bench.fast("large", 500, 500);
    let mut tally = Tally::default();
    bench.send(&mut batch, "S.a").await;
    bench.hear(&mut batch, &mut tally).await;
    bench.send(&mut batch, "S.a").await;
    let reply = batch.reply().to_owned();
    bench
        .publish_bytes("S.a", Some(reply), HeaderMap::new(), vec![b'x'; 200].into())
        .await;
    bench.hear(&mut batch, &mut tally).await;
    assert!(batch.must_close() && !batch.may_send());
    bench.send_close(&mut batch, "S.a").await;
    assert!(!batch.must_close());
    while !batch.is_over() {
        bench.hear(&mut batch, &mut tally).await;
    }
    let tally = tally.finish(3);
    assert_eq!(tally.all(), (2, 1, 0));
    assert!(tally.cause(3).starts_with("10054 "), "{}", tally.cause(3));
    assert_eq!(bench.held("S").await, 2);
}

#[tokio::test]
async fn what_keeps_a_fast_batch_from_opening_is_named() {
    let mut bench = Bench::limited("batch { max_inflight_per_stream: 1 }").await;
    bench.stream("S", batched()).await;
    bench.stream("PLAIN", json!({})).await;
    for (id, subject, says) in [
        (
            "a",
            "PLAIN.a",
            "10205 batch publish is disabled: the stream needs allow_batched",
        ),
        ("b", "NOBODY.a", "no responders"),
    ] {
        let mut batch = bench.fast(id, 10, 10);
        let tally = bench.run(&mut batch, subject, 5).await;
        assert_eq!(tally.all(), (0, 1, 0), "{subject}");
        assert_eq!(tally.cause(1), says);
        assert_eq!(batch.fault(), Some(says));
    }
    assert_eq!(bench.held("PLAIN").await, 0);

    let mut open = bench.fast("open", 10, 10);
    bench.send(&mut open, "S.a").await;
    bench.hear(&mut open, &mut Tally::default()).await;
    let mut batch = bench.fast("more", 10, 10);
    let tally = bench.run(&mut batch, "S.a", 5).await;
    assert!(tally.cause(1).starts_with("10211 "), "{}", tally.cause(1));
    assert!(tally.cause(1).contains("max_inflight_per_stream"));
    assert_eq!(bench.held("S").await, 1);
}

#[tokio::test]
async fn an_id_that_is_not_unique_settles_nothing_as_acked() {
    let mut bench = Bench::new().await;
    bench.stream("S", batched()).await;
    let mut batch = bench.fast("same", 500, 500);
    let mut tally = Tally::default();
    for _ in 0..3 {
        bench.send(&mut batch, "S.a").await;
        if batch.sent() == 1 {
            bench.hear(&mut batch, &mut tally).await;
        }
    }
    let inbox = format!("{}.other", bench.inbox);
    let mut other = Fast::new(&inbox, "same", 500, 500).expect("an id");
    let mut others = Tally::default();
    bench.send(&mut other, "S.a").await;
    while !other.is_over() {
        bench.hear(&mut other, &mut others).await;
    }
    let others = others.finish(1);
    assert_eq!(others.all(), (0, 0, 1), "{others:?}");
    assert!(
        others.cause(1).contains("not unique"),
        "{}",
        others.cause(1)
    );
    assert_eq!(bench.held("S").await, 3);

    // The first finds out when it goes on: its last ack went to the other.
    bench.send(&mut batch, "S.a").await;
    while !batch.is_over() {
        bench.hear(&mut batch, &mut tally).await;
    }
    assert_eq!(tally.finish(4).all(), (0, 1, 3));
}

#[tokio::test]
async fn duplicates_are_acked_but_not_stored_again_in_fast_ingest() {
    let mut bench = Bench::new().await;
    bench.stream("S", batched()).await;
    let mut batch = bench.fast("ids", 2, 10);
    let mut tally = Tally::default();
    for id in ["x", "y", "x", "z"] {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        let reply = batch.reply().to_owned();
        bench.publish("S.a", Some(reply), headers).await;
        if batch.sent() == 1 {
            bench.hear(&mut batch, &mut tally).await;
        }
    }
    bench.send_close(&mut batch, "S.a").await;
    while !batch.is_over() {
        bench.hear(&mut batch, &mut tally).await;
    }
    assert_eq!(tally.finish(4).all(), (4, 0, 0));
    assert_eq!(bench.held("S").await, 3);
}

#[tokio::test]
async fn an_atomic_batch_is_stored_by_its_commit() {
    let mut bench = Bench::new().await;
    bench.stream("S", atomic()).await;
    let mut stored = 0;
    for (id, messages, end) in [
        ("commit", 500, false),
        ("end", 500, true),
        ("one", 1, false),
        ("one-and-end", 1, true),
        ("most", 1000, false),
        ("most-and-end", 1000, true),
    ] {
        let ended = bench.run_atomic(id, "S.a", messages, end).await;
        assert_eq!(ended.tally.all(), (messages, 0, 0), "{id}");
        assert_eq!(ended.fault, None, "{id}");
        stored += messages;
        assert_eq!(bench.held("S").await, stored, "{id}");
    }
}

#[tokio::test]
async fn an_atomic_batch_above_the_limit_is_refused_as_a_whole() {
    let mut bench = Bench::new().await;
    bench.stream("S", atomic()).await;
    for end in [false, true] {
        let ended = bench.run_atomic("large", "S.a", 1001, end).await;
        assert_eq!(ended.tally.all(), (0, 1001, 0));
        assert!(ended.fault().starts_with("10199 "), "{}", ended.fault());
        assert!(ended.fault().contains("limits.batch.max_msgs"));
    }
    assert_eq!(bench.held("S").await, 0);
}

#[tokio::test]
async fn what_keeps_an_atomic_batch_from_opening_is_named() {
    let mut bench = Bench::limited("batch { max_inflight_per_stream: 1 }").await;
    bench.stream("S", atomic()).await;
    bench.stream("PLAIN", json!({})).await;
    for (subject, says) in [
        (
            "PLAIN.a",
            "10174 atomic publish is disabled: the stream needs allow_atomic",
        ),
        ("NOBODY.a", "no responders"),
    ] {
        let ended = bench.run_atomic("a", subject, 5, false).await;
        assert_eq!(ended.tally.all(), (0, 1, 0), "{subject}");
        assert_eq!(ended.fault(), says);
    }
    assert_eq!(bench.held("PLAIN").await, 0);

    let mut open = Atomic::new(&bench.inbox, "open").expect("an id");
    bench.send_part("S.a", open.message(false), None).await;
    bench.hear_atomic(&mut open, &mut Tally::default()).await;
    let ended = bench.run_atomic("more", "S.a", 5, false).await;
    assert!(ended.fault().starts_with("10210 "), "{}", ended.fault());
    assert_eq!(bench.held("S").await, 0);
}

#[tokio::test]
async fn an_abandoned_atomic_batch_stores_nothing() {
    let mut bench = Bench::limited("batch { timeout: \"200ms\" }").await;
    bench.stream("S", atomic()).await;
    let subject = "$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.S";
    let mut advisories = bench.client.subscribe(subject).await.expect("room");
    let mut batch = Atomic::new(&bench.inbox, "idle").expect("an id");
    let mut tally = Tally::default();
    bench.send_part("S.a", batch.message(false), None).await;
    bench.hear_atomic(&mut batch, &mut tally).await;
    let advisory = timeout(PATIENCE, advisories.next()).await;
    let advisory = advisory.expect("in time").expect("a message");
    let advisory: Value = serde_json::from_slice(&advisory.payload).expect("JSON");
    assert_eq!(advisory["reason"], "timeout");
    bench.send_part("S.a", batch.message(true), None).await;
    bench.hear_atomic(&mut batch, &mut tally).await;
    assert_eq!(tally.finish(2).all(), (0, 2, 0));
    let fault = batch.fault().expect("a fault");
    assert!(fault.starts_with("10176 "), "{fault}");
    assert!(fault.contains("idle time"), "{fault}");
    assert_eq!(bench.held("S").await, 0);
}

#[tokio::test]
async fn atomic_batches_interleave_and_each_is_stored_in_one_piece() {
    let mut bench = Bench::new().await;
    bench.stream("S", atomic()).await;
    let mut batches = [
        Atomic::new(&bench.inbox, "first").expect("an id"),
        Atomic::new(&bench.inbox, "second").expect("an id"),
    ];
    let mut tallies = [Tally::default(), Tally::default()];
    for (batch, tally) in batches.iter_mut().zip(&mut tallies) {
        bench.send_part("S.0", batch.message(false), None).await;
        bench.hear_atomic(batch, tally).await;
    }
    for at in 2..=100 {
        for (batch, subject) in batches.iter_mut().zip(["S.0", "S.1"]) {
            let part = batch.message(at == 100);
            bench.send_part(subject, part, None).await;
        }
    }
    for (batch, tally) in batches.iter_mut().zip(&mut tallies) {
        bench.hear_atomic(batch, tally).await;
        assert!(batch.is_over());
    }
    for tally in tallies {
        assert_eq!(tally.finish(100).all(), (100, 0, 0));
    }
    assert_eq!(bench.held("S").await, 200);
    for (seq, batch) in [
        (1, "first"),
        (100, "first"),
        (101, "second"),
        (200, "second"),
    ] {
        let at = json!({ "seq": seq });
        let got = bench.api.request("message", "STREAM.MSG.GET.S", &at).await;
        let got = got.expect("a message");
        let headers = base64_text(got["message"]["hdrs"].as_str().expect("headers"));
        assert!(
            headers.contains(&format!("Nats-Batch-Id: {batch}\r\n")),
            "{seq}: {headers}"
        );
    }
}

fn base64_text(text: &str) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    String::from_utf8(bytes.expect("base64")).expect("text")
}

#[tokio::test]
async fn an_atomic_batch_with_a_lost_or_repeated_message_is_refused() {
    let mut bench = Bench::new().await;
    bench.stream("S", atomic()).await;
    for (id, lost, ids, code) in [
        ("gap", Some(3), [None; 5], "10176 "),
        (
            "ids",
            None,
            [None, Some("x"), Some("y"), Some("x"), None],
            "10201 ",
        ),
    ] {
        let mut batch = Atomic::new(&bench.inbox, id).expect("an id");
        let mut tally = Tally::default();
        for (seq, message_id) in (1..=5).zip(ids) {
            let part = batch.message(seq == 5);
            if Some(seq) != lost {
                bench.send_part("S.a", part, message_id).await;
            }
            if seq == 1 {
                bench.hear_atomic(&mut batch, &mut tally).await;
            }
        }
        bench.hear_atomic(&mut batch, &mut tally).await;
        assert_eq!(tally.finish(5).all(), (0, 5, 0), "{id}");
        let fault = batch.fault().expect("a fault");
        assert!(fault.starts_with(code), "{fault}");
    }
    assert_eq!(bench.held("S").await, 0);
}

/// What keeps this server from a batch of this kind, asked as a caller would.
async fn too_old(bench: &Bench, kind: Kind) -> Option<String> {
    let account = bench.api.account().await.expect("account");
    let info = bench.client.server_info();
    check_level(kind, &info.version, account.api_level())
        .err()
        .map(|e| e.to_string())
}

#[tokio::test]
async fn this_server_is_new_enough_for_everything() {
    let bench = Bench::new().await;
    for kind in [Kind::Atomic, Kind::AtomicEnd, Kind::Fast] {
        assert_eq!(too_old(&bench, kind).await, None, "{kind:?}");
    }
}

#[tokio::test]
async fn server_2_11_knows_no_batches_and_that_is_said() {
    let Some(program) = older_server("2.11.10") else {
        return;
    };
    let mut bench = Bench::on(&program, "").await;
    assert_eq!(
        too_old(&bench, Kind::Atomic).await.as_deref(),
        Some(
            "an atomic batch needs nats-server 2.12 or newer (API level 2), this one is 2.11.10 \
             (API level 1)"
        )
    );
    assert!(too_old(&bench, Kind::Fast).await.is_some());

    // The keys of the stream are ignored, and the first message is stored by itself.
    let both = json!({"allow_batched": true, "allow_atomic": true});
    let made = bench.stream("S", both).await;
    assert_eq!(made["config"]["allow_batched"], Value::Null);
    let mut batch = bench.fast("fast", 10, 10);
    let tally = bench.run(&mut batch, "S.a", 5).await;
    assert_eq!(tally.all(), (1, 0, 0));
    let fault = batch.fault().expect("a fault");
    assert!(
        fault.contains("fast ingest needs nats-server 2.14"),
        "{fault}"
    );
    let ended = bench.run_atomic("atomic", "S.a", 5, false).await;
    assert_eq!(ended.tally.all(), (1, 0, 0));
    assert!(
        ended
            .fault()
            .contains("an atomic batch needs nats-server 2.12"),
        "{}",
        ended.fault()
    );
    assert_eq!(bench.held("S").await, 2);
}

#[tokio::test]
async fn server_2_12_knows_atomic_batches_and_no_fast_ingest() {
    let Some(program) = older_server("2.12.0") else {
        return;
    };
    let mut bench = Bench::on(&program, "").await;
    assert_eq!(too_old(&bench, Kind::Atomic).await, None);
    assert_eq!(
        too_old(&bench, Kind::Fast).await.as_deref(),
        Some(
            "fast ingest needs nats-server 2.14 or newer (API level 4), this one is 2.12.0 (API \
             level 2)"
        )
    );
    bench.stream("S", atomic()).await;
    let ended = bench.run_atomic("atomic", "S.a", 500, false).await;
    assert_eq!(ended.tally.all(), (500, 0, 0));
    assert_eq!(bench.held("S").await, 500);

    // Any commit is one that stores: the end of the batch becomes a message.
    assert!(too_old(&bench, Kind::AtomicEnd).await.is_some());
    let ended = bench.run_atomic("end", "S.a", 5, true).await;
    assert_eq!(ended.tally.all(), (5, 0, 0));
    assert!(
        ended.fault().contains("needs nats-server 2.14"),
        "{}",
        ended.fault()
    );
    assert_eq!(bench.held("S").await, 506);

    let unknown_key = bench
        .api
        .request(
            "stream",
            "STREAM.CREATE.F",
            &json!({"name": "F", "subjects": ["F.*"], "allow_batched": true}),
        )
        .await;
    let error = unknown_key.expect_err("a key it does not know").to_string();
    assert!(error.contains("10025"), "{error}");
    let mut batch = bench.fast("fast", 10, 10);
    let tally = bench.run(&mut batch, "S.a", 5).await;
    assert_eq!(tally.all(), (1, 0, 0));
    assert!(batch.fault().expect("a fault").contains("2.14"));
    assert_eq!(bench.held("S").await, 507);
}
