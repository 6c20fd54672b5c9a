//! The stub as its clients see it, over TCP, and the times at which it answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream as Client;
use std::time::Instant;

use futures_util::StreamExt as _;
use proptest::prelude::*;

use super::*;
use crate::scenario::model::Stall;

const PATIENCE: Duration = Duration::from_secs(30);

/// A client by hand; a stub that says nothing fails the test instead of hanging it.
fn dial(stub: &StubServer) -> (BufReader<Client>, Client) {
    let stream = Client::connect(stub.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
    (
        BufReader::new(stream.try_clone().expect("a socket")),
        stream,
    )
}

fn line(reader: &mut BufReader<Client>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer");
    line.trim_end().to_owned()
}

fn delayed(delay: Duration) -> Stub {
    Stub { delay, stall: None }
}

#[tokio::test]
async fn a_jetstream_client_gets_its_acks_after_the_delay() {
    for delay in [Duration::ZERO, Duration::from_millis(30)] {
        let stub = StubServer::start(delayed(delay)).expect("it starts");
        let client = async_nats::connect(stub.url()).await.expect("it connects");
        assert_eq!(client.server_info().server_name, "stub");
        let js = async_nats::jetstream::new(client);
        for sequence in 1..=3 {
            let begun = Instant::now();
            let published = js.publish("jobs.a", "x".into()).await.expect("sent");
            let ack = published.await.expect("acked");
            assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
            assert_eq!((ack.stream.as_str(), ack.sequence), ("STUB", sequence));
        }
    }
}

#[tokio::test]
async fn an_ack_that_falls_into_a_stall_comes_at_its_end() {
    let stall = Stall {
        length: Duration::from_millis(60),
        every: Duration::from_millis(120),
    };
    let stub = Stub {
        delay: Duration::from_millis(1),
        stall: Some(stall),
    };
    let stub = StubServer::start(stub).expect("it starts");
    let client = async_nats::connect(stub.url()).await.expect("it connects");
    let js = async_nats::jetstream::new(client);
    let mut waited = 0;
    let mut sent = 0;
    while waited < 2 {
        sent += 1;
        assert!(sent < 1_000, "half of all time is a stall");
        let sent_ns = clock::now_ns();
        js.publish("a", "x".into())
            .await
            .expect("sent")
            .await
            .expect("acked");
        let due_ns = sent_ns + 1_000_000;
        let into_ns = due_ns % as_ns(stall.every);
        if into_ns < as_ns(stall.length) {
            waited += 1;
            let end_ns = due_ns - into_ns + as_ns(stall.length);
            assert!(clock::now_ns() >= end_ns, "acked within a stall");
        }
    }
}

#[tokio::test]
async fn core_messages_reach_each_subscription_and_one_of_a_group() {
    let stub = StubServer::start(Stub::default()).expect("it starts");
    let connect = || async { async_nats::connect(stub.url()).await.expect("it connects") };
    let (publisher, reader) = (connect().await, connect().await);
    let mut own = publisher.subscribe("a.*").await.expect("subscribed");
    let mut far = reader.subscribe("a.>").await.expect("subscribed");
    let mut group = reader
        .queue_subscribe("a.b", "g".into())
        .await
        .expect("subscribed");
    let mut other = reader
        .queue_subscribe("a.b", "g".into())
        .await
        .expect("subscribed");
    // A round trip: what was said before it has been read.
    reader.flush().await.expect("sent");
    let mut probe = reader.subscribe("probe").await.expect("subscribed");
    reader.publish("probe", "".into()).await.expect("sent");
    probe.next().await.expect("back");

    let mut headers = async_nats::HeaderMap::new();
    headers.insert("K", "v");
    publisher
        .publish_with_headers("a.b", headers, "hello".into())
        .await
        .expect("sent");
    publisher.publish("a.b", "".into()).await.expect("sent");
    for inbox in [&mut own, &mut far] {
        let first = inbox.next().await.expect("delivered");
        assert_eq!(
            (first.subject.as_str(), &first.payload[..]),
            ("a.b", &b"hello"[..])
        );
        let value = first.headers.as_ref().and_then(|h| h.get("K"));
        assert_eq!(value.map(async_nats::HeaderValue::as_str), Some("v"));
        assert!(inbox.next().await.expect("delivered").payload.is_empty());
    }
    let mut received = 0;
    while received < 2 {
        tokio::select! {
            Some(_) = group.next() => received += 1,
            Some(_) = other.next() => received += 1,
        }
    }
    // What would have come twice would be here by the time of another round trip.
    reader.publish("probe", "".into()).await.expect("sent");
    probe.next().await.expect("back");
    for inbox in [&mut group, &mut other] {
        let more = futures_util::FutureExt::now_or_never(inbox.next());
        assert!(more.is_none(), "one message of a group came twice");
    }
}

#[test]
fn it_greets_confirms_where_asked_and_shuts_out_garbage() {
    let stub = StubServer::start(Stub::default()).expect("it starts");
    let (mut reader, mut writer) = dial(&stub);
    let info = line(&mut reader);
    let info: serde_json::Value =
        serde_json::from_str(info.strip_prefix("INFO ").expect("INFO")).expect("JSON");
    assert_eq!(info["headers"], true);
    assert_eq!(info["jetstream"], true);
    assert_eq!(info["max_payload"], 1 << 20);
    writer
        .write_all(b"CONNECT {\"verbose\":true}\r\nSUB r.* 7\r\nPUB x r.1 2\r\nhi\r\nPING\r\n")
        .expect("written");
    let want = [
        "+OK",
        "+OK",
        "MSG r.1 7 25",
        "{\"stream\":\"STUB\",\"seq\":1}",
        "+OK",
        "PONG",
    ];
    for want in want {
        assert_eq!(line(&mut reader), want);
    }
    writer
        .write_all(b"UNSUB 7\r\nPUB x r.1 0\r\n\r\nPING\r\n")
        .expect("written");
    for want in ["+OK", "+OK", "PONG"] {
        assert_eq!(line(&mut reader), want, "nobody takes the reply any more");
    }
    writer.write_all(b"HELO\r\n").expect("written");
    assert_eq!(line(&mut reader), "-ERR 'Unknown Protocol Operation'");
    assert_eq!(reader.read(&mut [0; 1]).expect("an end"), 0, "it hangs up");
}

/// Bounded memory: what is not taken is not asked for. The client writes until the stub reads no
/// more, then reads, and everything is there, in order.
#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let stub = StubServer::start(Stub::default()).expect("it starts");
    let (mut reader, mut writer) = dial(&stub);
    writer
        .write_all(b"CONNECT {}\r\nSUB r.> 1\r\n")
        .expect("written");
    let reply = format!("r.{}", "x".repeat(2_000));
    let publish = format!("PUB a {reply} 0\r\n\r\n").repeat(64);
    let most = 16 * MAX_UNSENT_BYTES;
    writer
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a socket");
    let (mut written, mut at) = (0, 0);
    while written < most {
        match writer.write(&publish.as_bytes()[at..]) {
            Ok(count) => {
                written += count;
                at = (at + count) % publish.len();
            }
            Err(_) => break,
        }
    }
    assert!(written < most, "it went on reading");
    let one = publish.len() / 64;
    let whole = written / one;
    assert!(whole > 1_000);
    assert!(line(&mut reader).starts_with("INFO"));
    for sequence in 1..=whole {
        assert!(line(&mut reader).starts_with("MSG r.xxx"));
        let ack = format!("{{\"stream\":\"STUB\",\"seq\":{sequence}}}");
        assert_eq!(line(&mut reader), ack);
    }
}

#[test]
fn it_ends_when_it_is_dropped() {
    let stub = StubServer::start(Stub::default()).expect("it starts");
    let address = stub.address;
    let (mut reader, _writer) = dial(&stub);
    assert!(line(&mut reader).starts_with("INFO"));
    drop(stub);
    let mut rest = Vec::new();
    // An end or a reset, as the kernel likes; never silence.
    let went = reader.read_to_end(&mut rest);
    assert!(went.is_ok_and(|n| n == 0) || rest.is_empty());
    assert!(Client::connect(address).is_err());
}

#[test]
fn acks_leave_in_order_and_those_of_one_time_together() {
    let mut outlet = Outlet::default();
    let word =
        |text: &'static str| move |out: &mut BytesMut| out.extend_from_slice(text.as_bytes());
    outlet.ack(5, 5, word("a"));
    assert_eq!(&outlet.out[..], b"a", "due at once");
    outlet.ack(20, 10, word("b"));
    outlet.ack(20, 11, word("c"));
    outlet.ack(30, 12, word("d"));
    // Due before the one ahead of it, and still behind it.
    outlet.ack(12, 12, word("e"));
    assert_eq!(outlet.batches, [(20, 2), (30, 2)]);
    assert_eq!(outlet.release(19), Some(20));
    assert_eq!(&outlet.out[..], b"a");
    assert_eq!(outlet.release(20), Some(30));
    assert_eq!(&outlet.out[..], b"abc");
    assert_eq!(outlet.release(99), None);
    assert_eq!(&outlet.out[..], b"abcde");
    assert!(outlet.waiting.is_empty());
}

proptest! {
    #[test]
    fn an_ack_is_due_after_its_delay_and_outside_of_stalls(
        arrived_ns in 1_700_000_000_000_000_000u64..1_900_000_000_000_000_000,
        later_ns in 0u64..10_000_000_000,
        delay_ms in 0u64..500,
        stall_ms in 1u64..400,
        every_ms in 401u64..6_000,
    ) {
        let (length, every) = (Duration::from_millis(stall_ms), Duration::from_millis(every_ms));
        let answers = Answers::of(Stub {
            delay: Duration::from_millis(delay_ms),
            stall: Some(Stall { length, every }),
        });
        let due_ns = answers.due_ns(arrived_ns);
        let plain_ns = arrived_ns + delay_ms * 1_000_000;
        prop_assert!(due_ns % as_ns(every) >= as_ns(length), "within a stall");
        prop_assert!(due_ns >= plain_ns && due_ns <= plain_ns + as_ns(length));
        let was_free = plain_ns % as_ns(every) >= as_ns(length);
        prop_assert_eq!(due_ns == plain_ns, was_free);
        prop_assert!(answers.due_ns(arrived_ns + later_ns) >= due_ns);
    }
}
