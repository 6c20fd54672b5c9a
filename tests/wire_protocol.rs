//! The protocol core against what goes over a real connection: async-nats talks to a nats-server
//! through a relay that records both directions. What the server said must be read as async-nats
//! read it, what async-nats said must be what our encoders write.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::BytesMut;
use common::Server;
use futures_util::StreamExt as _;
use jsbench::nats::wire::protocol::{self, Headers, Limits, Op, parse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A user who may not subscribe to everything, and a server that asks often whether we are there.
const SERVER: &str = r#"
ping_interval: "300ms"
ping_max: 100
authorization {
  users = [{ user: "u", password: "p", permissions: { subscribe: { allow: ">", deny: "forbidden" } } }]
}"#;
const PATIENCE: Duration = Duration::from_secs(20);

/// Both directions of a connection.
#[derive(Default)]
struct Recording {
    of_client: Mutex<Vec<u8>>,
    of_server: Mutex<Vec<u8>>,
}

/// Listens on loopback and passes one connection on, recording bytes before they are passed.
async fn relay(url: &str) -> (String, Arc<Recording>) {
    let upstream = url.trim_start_matches("nats://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let here = listener.local_addr().expect("an address");
    let recording = Arc::new(Recording::default());
    let kept = Arc::clone(&recording);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.expect("a connection");
        let server = TcpStream::connect(&upstream).await.expect("a server");
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            pass_on(from_client, to_server, &kept.of_client),
            pass_on(from_server, to_client, &kept.of_server),
        );
    });
    (format!("nats://{here}"), recording)
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    recording: &Mutex<Vec<u8>>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..count];
        recording.lock().expect("no panic").extend_from_slice(bytes);
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// An operation of a client after CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrote {
    Subscribe {
        subject: String,
        queue: Option<String>,
        sid: u64,
    },
    Unsubscribe {
        sid: u64,
        max: Option<u64>,
    },
    Publish {
        subject: String,
        reply: Option<String>,
        headers: Vec<(String, String)>,
        payload: Vec<u8>,
    },
    Ping,
    Pong,
}

/// A message as it was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    subject: String,
    reply: Option<String>,
    headers: Option<BTreeMap<String, Vec<String>>>,
    status: Option<u16>,
    description: Option<String>,
    payload: Vec<u8>,
}

impl From<Message> for Got {
    fn from(message: Message) -> Self {
        let headers = message.headers.map(|headers| {
            let texts = |values: &[async_nats::HeaderValue]| {
                values.iter().map(|v| v.as_str().to_owned()).collect()
            };
            headers
                .iter()
                .map(|(name, values)| (name.to_string(), texts(values)))
                .collect()
        });
        Self {
            subject: message.subject.to_string(),
            reply: message.reply.map(|r| r.to_string()),
            headers,
            status: message.status.map(u16::from),
            description: message.description,
            payload: message.payload.to_vec(),
        }
    }
}

/// async-nats, with notes of what it was asked to do and what it handed out.
struct Speaker {
    client: Client,
    wrote: Vec<Wrote>,
    subscribers: BTreeMap<u64, Subscriber>,
    got: BTreeMap<u64, Vec<Got>>,
}

impl Speaker {
    async fn subscribe(&mut self, subject: &str, queue: Option<&str>) -> u64 {
        let sid = self.subscribers.len() as u64 + 1;
        let subscriber = match queue {
            Some(queue) => {
                self.client
                    .queue_subscribe(subject.to_owned(), queue.to_owned())
                    .await
            }
            None => self.client.subscribe(subject.to_owned()).await,
        };
        self.subscribers
            .insert(sid, subscriber.expect("subscribed"));
        self.wrote.push(Wrote::Subscribe {
            subject: subject.to_owned(),
            queue: queue.map(str::to_owned),
            sid,
        });
        sid
    }

    async fn unsubscribe(&mut self, sid: u64, max: Option<u64>) {
        let subscriber = self.subscribers.get_mut(&sid).expect("subscribed");
        let done = match max {
            Some(max) => subscriber.unsubscribe_after(max).await,
            None => subscriber.unsubscribe().await,
        };
        done.expect("unsubscribed");
        self.wrote.push(Wrote::Unsubscribe { sid, max });
    }

    async fn publish(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        // The order on the wire is that of the map.
        let pairs = map.iter().flat_map(|(name, values)| {
            values
                .iter()
                .map(|v| (name.to_string(), v.as_str().to_owned()))
        });
        self.wrote.push(Wrote::Publish {
            subject: subject.to_owned(),
            reply: reply.map(str::to_owned),
            headers: pairs.collect(),
            payload: payload.to_vec(),
        });
        let (client, payload) = (&self.client, payload.to_vec().into());
        let subject = subject.to_owned();
        let sent = match (reply.map(str::to_owned), headers.is_empty()) {
            (None, true) => client.publish(subject, payload).await,
            (Some(reply), true) => client.publish_with_reply(subject, reply, payload).await,
            (None, false) => client.publish_with_headers(subject, map, payload).await,
            (Some(reply), false) => {
                client
                    .publish_with_reply_and_headers(subject, reply, map, payload)
                    .await
            }
        };
        sent.expect("published");
    }

    /// The next message of a subscription.
    async fn next(&mut self, sid: u64) -> Got {
        let subscriber = self.subscribers.get_mut(&sid).expect("subscribed");
        let message = timeout(PATIENCE, subscriber.next())
            .await
            .expect("a message in time");
        let got = Got::from(message.expect("a message"));
        self.got.entry(sid).or_default().push(got.clone());
        got
    }

    /// Asks for messages of the consumer; what comes goes to subscription `sid` up to the status
    /// that ends the request.
    async fn pull(&mut self, sid: u64, reply: &str, request: &str) -> Vec<Got> {
        let subject = "$JS.API.CONSUMER.MSG.NEXT.S.C";
        self.publish(subject, Some(reply), &[], request.as_bytes())
            .await;
        let mut answers = Vec::new();
        loop {
            answers.push(self.next(sid).await);
            if answers
                .last()
                .is_some_and(|g| g.status.is_some_and(|s| s >= 400))
            {
                return answers;
            }
        }
    }
}

/// What was asked for and handed out, and what went over the wire meanwhile.
struct Talk {
    wrote: Vec<Wrote>,
    got: BTreeMap<u64, Vec<Got>>,
    /// What the server refused, as async-nats tells it.
    errors: Vec<String>,
    of_client: Vec<u8>,
    of_server: Vec<u8>,
}

/// A stream `S` with one message in it and a pull consumer `C`.
async fn stream_with_a_message(url: &str) {
    let direct = async_nats::ConnectOptions::with_user_and_password("u".into(), "p".into())
        .connect(url)
        .await
        .expect("connects");
    let js = async_nats::jetstream::new(direct);
    let config = async_nats::jetstream::stream::Config {
        name: "S".into(),
        subjects: vec!["s.*".into()],
        ..Default::default()
    };
    let stream = js.create_stream(config).await.expect("a stream");
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("C".into()),
        ..Default::default()
    };
    stream.create_consumer(config).await.expect("a consumer");
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "one");
    let stored = js
        .publish_with_headers("s.a", headers, "stored".into())
        .await;
    stored.expect("sent").await.expect("stored");
}

async fn talk() -> Talk {
    let server = Server::start(SERVER);
    stream_with_a_message(&server.url).await;
    let (url, recording) = relay(&server.url).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let client = async_nats::ConnectOptions::with_user_and_password("u".into(), "p".into())
        .event_callback(move |event| {
            let tell = tell.clone();
            async move {
                if let async_nats::Event::ServerError(error) = event {
                    let async_nats::ServerError::Other(text) = error else {
                        panic!("{error:?}");
                    };
                    let _ = tell.send(text);
                }
            }
        })
        .connect(&url)
        .await
        .expect("connects");
    let mut speaker = Speaker {
        client,
        wrote: Vec::new(),
        subscribers: BTreeMap::new(),
        got: BTreeMap::new(),
    };
    core_messages(&mut speaker).await;
    jetstream_messages(&mut speaker).await;

    speaker.subscribe("forbidden", None).await;
    let error = timeout(PATIENCE, told.recv())
        .await
        .expect("a refusal in time");

    // What comes back was the last that was said: the recording has all of it. A PING of the
    // server and its answer come when nothing else does.
    let last = speaker.subscribe("last", None).await;
    speaker.publish("last", None, &[], b"").await;
    speaker.next(last).await;
    let has = |side: &Mutex<Vec<u8>>, what: &[u8]| side.lock().expect("no panic").ends_with(what);
    let quiet = async {
        while !has(&recording.of_server, b"PING\r\n") || !has(&recording.of_client, b"PONG\r\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, quiet)
        .await
        .expect("a PING of the server");
    let taken = |side: &Mutex<Vec<u8>>| side.lock().expect("no panic").clone();
    Talk {
        of_client: taken(&recording.of_client),
        of_server: taken(&recording.of_server),
        errors: error.into_iter().collect(),
        wrote: speaker.wrote,
        got: speaker.got,
    }
}

/// Publishes of all forms to a plain subscription, a queue and one with a maximum; a request that
/// nobody answers.
async fn core_messages(speaker: &mut Speaker) {
    let plain = speaker.subscribe("plain.>", None).await;
    let queue = speaker.subscribe("jobs", Some("workers")).await;
    let capped = speaker.subscribe("capped", None).await;
    speaker.unsubscribe(capped, Some(2)).await;

    let many = [
        ("Nats-Msg-Id", "1"),
        ("Name", "a b"),
        ("Name", "c"),
        ("name", "d:e"),
        ("Z", ""),
    ];
    let large: Vec<u8> = (0..70_000_u32).map(|i| (i % 251) as u8).collect();
    speaker.publish("plain.a", None, &[], b"hello").await;
    speaker.publish("plain.a", None, &[], b"").await;
    speaker
        .publish(
            "plain.b.c",
            Some("r.1"),
            &[],
            b"MSG plain.a 1 3\r\nabc\r\n\r\n",
        )
        .await;
    speaker
        .publish("plain.h", None, &[("One", "1")], b"payload")
        .await;
    speaker.publish("plain.h", Some("r.2"), &many, b"").await;
    speaker
        .publish("plain.large", Some("r.3"), &[("One", "1")], &large)
        .await;
    speaker.publish("plain.large", None, &[], &large).await;
    for _ in 0..7 {
        speaker.next(plain).await;
    }
    for payload in [b"1", b"2", b"3"] {
        speaker.publish("jobs", None, &[], payload).await;
        speaker.publish("capped", None, &[], payload).await;
        speaker.next(queue).await;
    }
    speaker.next(capped).await;
    speaker.next(capped).await;
    speaker.unsubscribe(plain, None).await;

    let refused = speaker.client.request("nobody.home", "?".into()).await;
    let kind = refused.expect_err("nobody is there").kind();
    assert_eq!(kind, async_nats::client::RequestErrorKind::NoResponders);
}

/// Control messages of JetStream, with and without headers of their own, and one delivery.
async fn jetstream_messages(speaker: &mut Speaker) {
    let inbox = speaker.subscribe("inbox.*", None).await;
    speaker
        .publish("nobody.home", Some("inbox.1"), &[], b"")
        .await;
    assert_eq!(speaker.next(inbox).await.status, Some(503));

    let expires = r#"{"batch":2,"expires":200000000}"#;
    let answers = speaker.pull(inbox, "inbox.2", expires).await;
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!((answers[0].status, answers[1].status), (None, Some(408)));
    let ack = answers[0].reply.clone().expect("where to ack");
    speaker.publish(&ack, None, &[], b"+ACK").await;

    let answers = speaker
        .pull(inbox, "inbox.3", r#"{"batch":1,"no_wait":true}"#)
        .await;
    assert_eq!(answers[0].status, Some(404));

    let beating = r#"{"batch":1,"expires":900000000,"idle_heartbeat":200000000}"#;
    let answers = speaker.pull(inbox, "inbox.4", beating).await;
    assert_eq!(answers[0].description.as_deref(), Some("Idle Heartbeat"));
}

/// What our parser makes of what a server said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    messages: BTreeMap<u64, Vec<Got>>,
    infos: Vec<Vec<u8>>,
    errors: Vec<String>,
    pings: usize,
    pongs: usize,
}

fn parsed(bytes: &[u8], chunk_bytes: usize) -> Parsed {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut parsed = Parsed::default();
    let mut buffer = BytesMut::new();
    for chunk in bytes.chunks(chunk_bytes) {
        buffer.extend_from_slice(chunk);
        while let Some((op, used)) = parse(&buffer, &Limits::default()).expect("sound") {
            let frame = buffer.split_to(used).freeze();
            match op {
                Op::Message(m) => {
                    let headers = Headers(m.headers.of(&frame));
                    let mut map = BTreeMap::<_, Vec<_>>::new();
                    for (name, value) in headers.iter() {
                        map.entry(name.to_owned())
                            .or_default()
                            .push(value.to_owned());
                        let first = map[name][0].as_str();
                        assert_eq!(headers.get(name), Some(first));
                    }
                    parsed.messages.entry(m.sid).or_default().push(Got {
                        subject: text(m.subject.of(&frame)),
                        reply: m.reply.map(|r| text(r.of(&frame))),
                        headers: (!m.headers.is_empty()).then_some(map),
                        status: headers.status(),
                        description: headers.description().map(str::to_owned),
                        payload: m.payload.of(&frame).to_vec(),
                    });
                }
                Op::Info(json) => parsed.infos.push(json.of(&frame).to_vec()),
                Op::Err(error) => parsed.errors.push(text(error.of(&frame))),
                Op::Ping => parsed.pings += 1,
                Op::Pong => parsed.pongs += 1,
                Op::Ok => panic!("nobody asked for +OK"),
            }
        }
    }
    assert!(buffer.is_empty(), "{} bytes are left", buffer.len());
    parsed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_read_as_async_nats_reads_it() {
    let talk = talk().await;
    let whole = parsed(&talk.of_server, talk.of_server.len());
    for chunk_bytes in [1, 2, 7, 61, 1 << 10, 64 << 10] {
        assert_eq!(
            parsed(&talk.of_server, chunk_bytes),
            whole,
            "in chunks of {chunk_bytes}"
        );
    }

    let mut messages = whole.messages;
    // async-nats keeps the answer to its request to itself: number 0 is its own subscription.
    let answers = messages.remove(&0).expect("an answer to the request");
    assert_eq!(answers.len(), 1);
    assert_eq!(
        (answers[0].status, answers[0].payload.len()),
        (Some(503), 0)
    );
    assert_eq!(messages, talk.got);

    let all: Vec<&Got> = messages.values().flatten().collect();
    for status in [100, 404, 408, 503] {
        assert!(
            all.iter().any(|g| g.status == Some(status)),
            "{status} was not said"
        );
    }
    let of_408 = all.iter().find(|g| g.status == Some(408)).expect("said");
    assert!(
        of_408
            .headers
            .as_ref()
            .is_some_and(|h| h.contains_key("Nats-Pending-Messages"))
    );
    assert!(
        all.iter()
            .any(|g| g.payload.len() == 70_000 && g.headers.is_some())
    );

    assert_eq!(whole.errors, talk.errors);
    assert_eq!(whole.errors.len(), 1);
    assert!(whole.pings > 0 && whole.pongs > 0);
    for info in &whole.infos {
        let info: serde_json::Value = serde_json::from_slice(info).expect("JSON");
        assert!(info["server_id"].is_string() && info["max_payload"].is_u64());
    }
    assert!(!whole.infos.is_empty());
}

/// What a client said after CONNECT, word by word.
fn taken_apart(mut bytes: &[u8]) -> Vec<Wrote> {
    fn line<'a>(bytes: &mut &'a [u8]) -> &'a str {
        let end = bytes
            .windows(2)
            .position(|two| two == b"\r\n")
            .expect("a line");
        let (line, rest) = bytes.split_at(end);
        *bytes = &rest[2..];
        std::str::from_utf8(line).expect("text")
    }
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(count);
        *bytes = rest;
        taken
    }
    let number = |word: &str| -> u64 { word.parse().expect("a number") };
    let connect = line(&mut bytes)
        .strip_prefix("CONNECT ")
        .expect("CONNECT first");
    let connect: serde_json::Value = serde_json::from_str(connect).expect("JSON");
    assert!(connect.is_object());
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let words: Vec<&str> = line(&mut bytes).split(' ').collect();
        let (head, total, named) = match words[..] {
            ["SUB", subject, .., sid] => {
                assert!(words.len() <= 4);
                all.push(Wrote::Subscribe {
                    subject: subject.to_owned(),
                    queue: (words.len() == 4).then(|| words[2].to_owned()),
                    sid: number(sid),
                });
                continue;
            }
            ["UNSUB", sid, ref max @ ..] => {
                let max = max.first().map(|m| number(m));
                all.push(Wrote::Unsubscribe {
                    sid: number(sid),
                    max,
                });
                continue;
            }
            ["PING"] => {
                all.push(Wrote::Ping);
                continue;
            }
            ["PONG"] => {
                all.push(Wrote::Pong);
                continue;
            }
            ["PUB", ref named @ .., total] => (0, number(total), named),
            ["HPUB", ref named @ .., head, total] => (number(head), number(total), named),
            _ => panic!("{words:?}"),
        };
        let block = std::str::from_utf8(take(&mut bytes, head as usize)).expect("text");
        let payload = take(&mut bytes, (total - head) as usize).to_vec();
        assert_eq!(take(&mut bytes, 2), b"\r\n");
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_owned(), value.to_owned())
        };
        let lines = block
            .strip_prefix("NATS/1.0\r\n")
            .unwrap_or_default()
            .trim_end_matches("\r\n\r\n");
        all.push(Wrote::Publish {
            subject: named[0].to_owned(),
            reply: named.get(1).map(|&reply| reply.to_owned()),
            headers: lines
                .split("\r\n")
                .filter(|l| !l.is_empty())
                .map(pair)
                .collect(),
            payload,
        });
    }
    all
}

/// The same with our encoders.
fn encoded(wrote: &Wrote) -> Vec<u8> {
    let mut out = Vec::new();
    match wrote {
        Wrote::Subscribe {
            subject,
            queue,
            sid,
        } => {
            protocol::subscribe(&mut out, subject, queue.as_deref(), *sid);
        }
        Wrote::Unsubscribe { sid, max } => protocol::unsubscribe(&mut out, *sid, *max),
        Wrote::Publish {
            subject,
            reply,
            headers,
            payload,
        } => {
            let reply = reply.as_deref().map(str::as_bytes);
            let headers: Vec<_> = headers.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            protocol::publish(
                &mut out,
                subject.as_bytes(),
                reply,
                &headers,
                payload,
                |_| {},
            );
        }
        Wrote::Ping => protocol::ping(&mut out),
        Wrote::Pong => protocol::pong(&mut out),
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_what_async_nats_says() {
    let talk = talk().await;
    let said = taken_apart(&talk.of_client);
    let connect_end = talk
        .of_client
        .iter()
        .position(|b| *b == b'\n')
        .expect("CONNECT")
        + 1;
    let mut rest = &talk.of_client[connect_end..];
    for wrote in &said {
        let ours = encoded(wrote);
        let theirs = &rest[..ours.len().min(rest.len())];
        assert_eq!(
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(theirs),
            "{wrote:?}"
        );
        assert_eq!(ours, theirs);
        rest = &rest[ours.len()..];
    }
    assert!(rest.is_empty());

    // And it is what was asked for, besides the request, whose inbox async-nats names itself.
    let (of_request, kept): (Vec<Wrote>, Vec<Wrote>) = said
        .into_iter()
        .filter(|w| !matches!(w, Wrote::Ping | Wrote::Pong))
        .partition(|w| match w {
            Wrote::Subscribe { sid, .. } => *sid == 0,
            Wrote::Publish { reply, .. } => {
                reply.as_deref().is_some_and(|r| r.starts_with("_INBOX."))
            }
            _ => false,
        });
    assert_eq!(of_request.len(), 2, "{of_request:?}");
    assert_eq!(kept, talk.wrote);
}
