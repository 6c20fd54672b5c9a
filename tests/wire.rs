//! The data plane's connections: what a user of the seam sees of both clients, cuts of every kind,
//! servers that do not keep to the protocol, and sockets that take or give nothing.

mod common;
#[path = "common/relay.rs"]
mod relay;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Server, signal};
use jsbench::nats::conn::{Client, Conn, Inbound, Inbox, Outbound, Ticket};
use jsbench::nats::endpoint::{Auth, Endpoint};
use jsbench::nats::monitor::get_json;
use jsbench::secret::Secret;
use relay::Relay;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const CLIENTS: [Client; 2] = [Client::Wire, Client::AsyncNats];
/// Longer than anything takes here; what takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs in an event loop of one thread, as a worker does.
fn live<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let limited = async { timeout(2 * LIMIT, test).await.expect("it ends") };
    tokio::task::LocalSet::new().block_on(&runtime, limited)
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url).expect("a URL")
}

async fn connect(url: &str, client: Client) -> Conn {
    Conn::connect(&endpoint(url), client)
        .await
        .expect("connects")
}

async fn subscribe(conn: &Conn, subject: &str) -> Inbox {
    conn.subscribe(subject.to_owned(), None)
        .await
        .expect("subscribes")
}

/// Both directions work, and the server knows every subscription made before.
async fn works(conn: &Conn) {
    conn.round_trip(LIMIT).await.expect("a round trip");
}

async fn publish(conn: &mut Conn, subject: &str, body: &[u8]) -> Ticket {
    poll_fn(|cx| conn.poll_ready(cx)).await.expect("ready");
    let message = Outbound {
        subject: &subject.into(),
        reply: None,
        headers: &[],
        body,
    };
    conn.publish(&message, |_| {}).expect("published")
}

async fn next(inbox: &mut Inbox) -> Inbound {
    let message = timeout(LIMIT, inbox.next()).await.expect("in time");
    message.expect("the connection is there")
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The connection was cut, so often in all, and is there again.
async fn back(conn: &Conn, cuts: u64) {
    let link = conn.link().clone();
    until("the connection", || link.cuts() == cuts && link.is_up()).await;
    works(conn).await;
    assert_eq!(conn.link().cuts(), cuts, "{}", conn.link().said());
}

// What both clients do.

#[test]
fn messages_arrive_as_they_were_sent() {
    let server = Server::start("");
    let large = vec![7; 1 << 20];
    let headers: &[(&str, &str)] = &[("Kind", "a b"), ("Other", "")];
    let room = large.len() - 100;
    for client in CLIENTS {
        live(async {
            let mut conn = connect(&server.url, client).await;
            assert_eq!(conn.max_payload_bytes(), 1 << 20);
            let mut inbox = subscribe(&conn, "a.*").await;
            for (headers, reply, body) in [
                (&[][..], None, &b""[..]),
                (&[], Some("there.1"), b"x"),
                (headers, None, b"x"),
                (headers, Some("there.2"), b""),
                (&[], None, &large),
                (headers, Some("there.3"), &large[..room]),
            ] {
                let message = Outbound {
                    subject: &"a.b".into(),
                    reply,
                    headers,
                    body,
                };
                let begun = Instant::now();
                conn.send(&message).await.expect("sent");
                let got = next(&mut inbox).await;
                assert_eq!(got.subject(), b"a.b");
                assert_eq!(got.reply(), reply.map(str::as_bytes));
                assert!(got.payload() == body, "{client:?}: {} bytes", body.len());
                assert_eq!(got.status(), None);
                for (name, value) in headers {
                    assert_eq!(got.header(name), Some(*value), "{client:?}");
                }
                assert_eq!(got.header("Nothing"), None);
                assert!(got.at >= begun && got.at <= Instant::now());
            }
            // The sender's last touch.
            let message = Outbound {
                subject: &"a.b".into(),
                reply: None,
                headers: &[("K", "v")],
                body: b"12345",
            };
            poll_fn(|cx| conn.poll_ready(cx)).await.expect("ready");
            conn.publish(&message, |body| body[0] = b'X').expect("sent");
            assert_eq!(next(&mut inbox).await.payload(), b"X2345");
        });
    }
}

#[test]
fn the_largest_payload_of_any_server_passes() {
    let server = Server::start("max_payload: 64MB\nmax_pending: 256MB");
    live(async {
        let mut conn = connect(&server.url, Client::Wire).await;
        let mut inbox = subscribe(&conn, "large").await;
        let body: Vec<u8> = (0..64_u32 << 20).map(|i| ((i * 31) >> 7) as u8).collect();
        for _ in 0..2 {
            publish(&mut conn, "large", &body).await;
            assert!(next(&mut inbox).await.payload() == body);
        }
        assert_eq!(conn.link().cuts(), 0, "{}", conn.link().said());
    });
}

#[test]
fn each_message_reaches_one_member_of_a_group() {
    let server = Server::start("");
    for client in CLIENTS {
        live(async {
            let mut one = connect(&server.url, client).await;
            let two = connect(&server.url, client).await;
            let group = || Some("g".to_owned());
            let mut members = [
                one.subscribe("q".into(), group()).await.expect("a member"),
                two.subscribe("q".into(), group()).await.expect("a member"),
            ];
            let mut all = subscribe(&two, "q").await;
            works(&two).await;
            for i in 0..200_u8 {
                publish(&mut one, "q", &[i]).await;
            }
            works(&one).await;
            for i in 0..200 {
                assert_eq!(next(&mut all).await.payload(), [i]);
            }
            works(&two).await;
            let mut seen = Vec::new();
            let mut shares = [0; 2];
            for (inbox, share) in members.iter_mut().zip(&mut shares) {
                while let Ok(Some(message)) = timeout(Duration::ZERO, inbox.next()).await {
                    seen.push(message.payload()[0]);
                    *share += 1;
                }
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..200).collect::<Vec<_>>(), "{client:?}");
            assert!(shares.iter().all(|n| *n > 0), "{shares:?}");
        });
    }
}

#[test]
fn a_request_is_answered_or_nobody_is_there() {
    let server = Server::start("");
    for client in CLIENTS {
        live(async {
            let conn = connect(&server.url, client).await;
            let nobody = conn.request("svc", b"", LIMIT).await;
            let text = nobody.expect_err("nobody is there").to_string();
            assert!(text.contains("nobody answers there"), "{text}");

            let mut responder = connect(&server.url, client).await;
            let mut asked = subscribe(&responder, "svc").await;
            works(&responder).await;
            let respond = async {
                let question = next(&mut asked).await;
                let answer = [question.payload(), b"!"].concat();
                responder
                    .answer(&question, None, &answer)
                    .await
                    .expect("answered");
                // The next one gets none.
                next(&mut asked).await;
            };
            let ask = async {
                let answer = conn.request("svc", b"yes", LIMIT).await.expect("answered");
                assert_eq!(answer.payload(), b"yes!");
                let late = conn.request("svc", b"", Duration::from_millis(50)).await;
                let text = late.expect_err("no answer").to_string();
                assert!(text.contains("no answer within 50ms"), "{text}");
            };
            tokio::join!(respond, ask);
            // A message that wants no answer gets none.
            let mut conn = conn;
            let mut inbox = subscribe(&conn, "plain").await;
            publish(&mut conn, "plain", b"").await;
            let plain = next(&mut inbox).await;
            conn.answer(&plain, None, b"").await.expect("nothing to do");
        });
    }
}

#[test]
fn what_was_sent_before_a_close_is_at_the_server() {
    const COUNT: usize = 20_000;
    let server = Server::start("");
    for client in CLIENTS {
        let url = server.url.clone();
        live(async {
            let watcher = connect(&server.url, Client::Wire).await;
            let mut inbox = subscribe(&watcher, "c").await;
            works(&watcher).await;
            // Its event loop ends with it.
            let sender = std::thread::spawn(move || {
                live(async {
                    let mut conn = connect(&url, client).await;
                    let other = conn.clone();
                    for _ in 0..COUNT {
                        publish(&mut conn, "c", &[0; 100]).await;
                    }
                    conn.close().await;
                    if client == Client::Wire {
                        let ready = poll_fn(|cx| other.clone().poll_ready(cx)).await;
                        assert!(ready.is_err(), "it takes messages after its end");
                    }
                });
            });
            for i in 0..COUNT {
                let message = timeout(LIMIT, inbox.next()).await;
                assert!(message.is_ok(), "{client:?}: {i} of {COUNT}");
            }
            sender.join().expect("it ended well");
        });
    }
}

#[test]
fn handles_that_are_dropped_close_the_connection_too() {
    let server = Server::start("");
    live(async {
        let watcher = connect(&server.url, Client::Wire).await;
        let mut inbox = subscribe(&watcher, "d").await;
        works(&watcher).await;
        let mut conn = connect(&server.url, Client::Wire).await;
        let mut own = subscribe(&conn, "e").await;
        publish(&mut conn, "d", b"last words").await;
        drop(conn);
        assert_eq!(next(&mut inbox).await.payload(), b"last words");
        assert!(own.next().await.is_none(), "its inboxes end");
    });
}

#[test]
fn a_hundred_thousand_messages_arrive_in_order() {
    const COUNT: u32 = 100_000;
    let server = Server::start("");
    // async-nats drops what does not fit into its subscription.
    for (client, ahead) in CLIENTS.into_iter().zip([COUNT, 30_000]) {
        live(async {
            let received = Cell::new(0);
            let reader = connect(&server.url, client).await;
            let mut inbox = subscribe(&reader, "n").await;
            works(&reader).await;
            let mut conn = connect(&server.url, client).await;
            let send = async {
                for i in 0..COUNT {
                    while i - received.get() >= ahead {
                        tokio::task::yield_now().await;
                    }
                    publish(&mut conn, "n", &i.to_le_bytes()).await;
                }
                conn.flush().await.expect("flushed");
            };
            let read = async {
                for i in 0..COUNT {
                    assert_eq!(next(&mut inbox).await.payload(), i.to_le_bytes());
                    received.set(i);
                }
            };
            tokio::join!(send, read);
            assert_eq!(reader.link().dropped(), 0);
        });
    }
}

/// The subjects that connections of this name are subscribed to, as the server says.
async fn subscriptions(server: &Server, name: &str) -> BTreeSet<String> {
    let connz = connections(server, "?subs=1").await;
    let ours = connz.iter().filter(|c| c["name"] == name);
    ours.filter_map(|c| c["subscriptions_list"].as_array())
        .flatten()
        .filter_map(|s| s.as_str().map(str::to_owned))
        .collect()
}

async fn connections(server: &Server, query: &str) -> Vec<Value> {
    let url = format!("{}/connz{query}", server.monitor);
    let connz = get_json(&url).await.expect("monitoring");
    connz["connections"].as_array().expect("a list").clone()
}

#[test]
fn an_inbox_that_is_dropped_leaves_the_others_alone() {
    let server = Server::start("");
    for client in CLIENTS {
        live(async {
            let mut conn = connect(&server.url, client).await;
            let mut kept = subscribe(&conn, "kept").await;
            let dropped = subscribe(&conn, "dropped").await;
            publish(&mut conn, "dropped", b"").await;
            works(&conn).await;
            drop(dropped);
            for i in 0..100_u8 {
                publish(&mut conn, "dropped", &[i]).await;
                publish(&mut conn, "kept", &[i]).await;
                assert_eq!(next(&mut kept).await.payload(), [i]);
            }
            works(&conn).await;
            let mut left = subscriptions(&server, "jsbench").await;
            left.retain(|subject| !subject.starts_with("_INBOX."));
            assert_eq!(left, BTreeSet::from(["kept".to_owned()]), "{client:?}");
        });
    }
}

#[test]
fn messages_leave_in_order_and_not_before_they_are_published() {
    let server = Server::start("");
    for client in CLIENTS {
        live(async {
            let mut conn = connect(&server.url, client).await;
            let mut sent: Vec<(Ticket, Instant)> = Vec::new();
            for i in 0..2_000_usize {
                let before = Instant::now();
                let ticket = publish(&mut conn, "l", &[0; 40]).await;
                assert!(sent.last().is_none_or(|(last, _)| *last < ticket));
                sent.push((ticket, before));
                if i % 97 == 0 {
                    conn.flush().await.expect("flushed");
                }
            }
            conn.flush().await.expect("flushed");
            let after = Instant::now();
            let mut last = None;
            for (ticket, before) in sent {
                let left = conn.left(ticket).expect("it left");
                assert!(left.at >= before && left.at <= after, "{client:?}");
                assert!(last.is_none_or(|last| last <= left.at), "{client:?}");
                assert_eq!(left.blocked, Duration::ZERO);
                last = Some(left.at);
            }
            assert_eq!(conn.blocked_since(), None);
        });
    }
}

// Cuts.

#[test]
fn subscriptions_outlive_a_cut() {
    let server = Server::start("");
    for client in CLIENTS {
        let relay = Relay::to(&server.url);
        live(async {
            let conn = connect(&relay.url, client).await;
            let mut plain = subscribe(&conn, "p").await;
            let group = Some("g".to_owned());
            let mut member = conn.subscribe("p".into(), group).await.expect("a member");
            let gone = subscribe(&conn, "gone").await;
            works(&conn).await;
            let mut other = connect(&server.url, Client::Wire).await;
            for cuts in 1..=3 {
                relay.cut();
                back(&conn, cuts).await;
                publish(&mut other, "p", b"again").await;
                assert_eq!(next(&mut plain).await.payload(), b"again", "{client:?}");
                assert_eq!(next(&mut member).await.payload(), b"again", "{client:?}");
            }
            drop(gone);
            works(&conn).await;
            assert!(!subscriptions(&server, "jsbench").await.contains("gone"));
        });
    }
}

/// A port at which nothing listens.
fn nowhere() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").to_string()
}

#[test]
fn what_a_user_does_while_the_connection_is_down_has_an_end() {
    let server = Server::start("");
    let relay = Relay::to(&server.url);
    live(async {
        let mut conn = connect(&relay.url, Client::Wire).await;
        let mut before = subscribe(&conn, "s").await;
        let dropped = subscribe(&conn, "s.dropped").await;
        works(&conn).await;
        relay.lead_to(&nowhere());
        relay.cut();
        let link = conn.link().clone();
        until("the cut", || !link.is_up()).await;

        let ready = timeout(Duration::ZERO, poll_fn(|cx| conn.poll_ready(cx))).await;
        assert!(ready.is_err(), "no message is taken");
        conn.flush().await.expect("what was lost is not waited for");
        let soon = Duration::from_millis(50);
        assert!(conn.request("s", b"", soon).await.is_err());
        assert!(conn.round_trip(soon).await.is_err());
        let mut during = subscribe(&conn, "s").await;
        drop(dropped);
        until("a reason", || link.said().contains("cannot connect again")).await;

        relay.lead_to(&server.url);
        back(&conn, 1).await;
        publish(&mut conn, "s", b"here").await;
        assert_eq!(next(&mut before).await.payload(), b"here");
        assert_eq!(next(&mut during).await.payload(), b"here");

        relay.lead_to(&nowhere());
        relay.cut();
        until("the cut", || !link.is_up()).await;
        let begun = Instant::now();
        conn.close().await;
        assert!(before.next().await.is_none());
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "it waits for none"
        );
    });
}

/// Servers of one cluster that know each other.
fn cluster(count: usize, extra: &str) -> Vec<Server> {
    // JetStream wants a route, also of the first: nobody listens at this one.
    let mut route = "nats://127.0.0.1:1".to_owned();
    let mut servers = Vec::new();
    for i in 0..count {
        let server = Server::start(&format!(
            "server_name: s{i}\n\
             cluster {{ name: c, listen: \"127.0.0.1:-1\", routes: [ \"{route}\" ] }}\n{extra}"
        ));
        if i == 0 {
            route = server.routes.clone().expect("a port for routes");
        }
        servers.push(server);
    }
    live(async {
        for server in &servers {
            let varz = format!("{}/varz", server.monitor);
            loop {
                let known = get_json(&varz).await.expect("monitoring");
                if known["connect_urls"].as_array().map(Vec::len) == Some(count) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    servers
}

/// The server that the connection is on.
async fn host<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Option<usize> {
    for (i, server) in servers.into_iter().enumerate() {
        let connections = connections(server, "").await;
        if connections.iter().any(|c| c["name"] == "jsbench") {
            return Some(i);
        }
    }
    None
}

#[test]
fn the_others_of_a_cluster_take_over_from_one_that_is_killed() {
    for told in [true, false] {
        let mut servers = cluster(3, "");
        live(async {
            let urls: Vec<&str> = servers.iter().map(|s| s.url.as_str()).collect();
            // Told of all, or of one that tells of the others.
            let urls = if told {
                urls.join(",")
            } else {
                urls[0].to_owned()
            };
            let mut conn = connect(&urls, Client::Wire).await;
            let mut inbox = subscribe(&conn, "k").await;
            works(&conn).await;
            for cuts in 1..=2 {
                let at = host(&servers).await.expect("on one of them");
                drop(servers.remove(at));
                back(&conn, cuts).await;
                publish(&mut conn, "k", b"on").await;
                assert_eq!(next(&mut inbox).await.payload(), b"on");
            }
        });
    }
}

#[test]
fn a_lame_duck_is_announced_and_left() {
    let servers = cluster(
        2,
        "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"",
    );
    live(async {
        let conn = connect(&servers[0].url, Client::Wire).await;
        works(&conn).await;
        assert!(!conn.link().is_lame_duck());
        signal(servers[0].pid(), "USR2");
        let link = conn.link().clone();
        until("the announcement", || link.is_lame_duck()).await;
        assert_eq!(link.cuts(), 0, "told before");
        back(&conn, 1).await;
        assert!(!link.is_lame_duck(), "that was the other one");
        assert_eq!(host([&servers[1]]).await, Some(0));
    });
}

#[test]
fn a_server_that_stands_still_is_found_by_pings() {
    let (mute, other) = (Server::start(""), Server::start(""));
    let relay = Relay::to(&mute.url);
    live(async {
        let endpoint = Endpoint {
            ping_every: Some(Duration::from_millis(200)),
            ..endpoint(&relay.url)
        };
        let conn = Conn::connect(&endpoint, Client::Wire)
            .await
            .expect("connects");
        works(&conn).await;
        relay.lead_to(&other.url);
        signal(mute.pid(), "STOP");
        back(&conn, 1).await;
        let said = conn.link().said();
        assert!(said.contains("no answer to 2 pings"), "{said}");
    });
}

#[test]
fn credentials_that_are_refused_later_are_tried_again_and_named() {
    let authorization = |password: &str| {
        let user = format!("authorization {{ user: bob, password: {password} }}");
        Server::start(&user)
    };
    let (right, wrong) = (authorization("right"), authorization("wrong"));
    let relay = Relay::to(&right.url);
    live(async {
        let endpoint = Endpoint {
            auth: Auth::UserPassword {
                user: "bob".to_owned(),
                password: Secret::new("right"),
            },
            ..endpoint(&relay.url)
        };
        let conn = Conn::connect(&endpoint, Client::Wire)
            .await
            .expect("connects");
        works(&conn).await;
        let before = relay.dials();
        relay.lead_to(&wrong.url);
        relay.cut();
        let link = conn.link().clone();
        until("attempts", || relay.dials() >= before + 3).await;
        until("the reason", || {
            let said = link.said();
            said.contains("the server refuses the credentials: Authorization Violation")
        })
        .await;
        relay.lead_to(&right.url);
        back(&conn, 1).await;
    });
}

// Servers that do not keep to the protocol.

/// Something that lets clients in as a server does. Each connection is then `serve`d, with its
/// number. Returns its URL and the count of connections.
async fn pretend<F>(serve: impl Fn(usize, TcpStream) -> F + 'static) -> (String, Rc<Cell<usize>>)
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = listener.local_addr().expect("an address").to_string();
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let number = counted.replace(counted.get() + 1);
            if let Some(stream) = let_in(stream).await {
                tokio::task::spawn_local(serve(number, stream));
            }
        }
    });
    (url, count)
}

/// The greeting, up to the PONG.
async fn let_in(mut stream: TcpStream) -> Option<TcpStream> {
    stream.set_nodelay(true).expect("a TCP socket");
    let info =
        b"INFO {\"server_id\":\"X\",\"max_payload\":1048576,\"headers\":true,\"proto\":1}\r\n";
    stream.write_all(info).await.ok()?;
    let mut heard = Vec::new();
    while !heard.ends_with(b"PING\r\n") {
        if stream.read_buf(&mut heard).await.ok()? == 0 {
            return None;
        }
    }
    stream.write_all(b"PONG\r\n").await.ok()?;
    Some(stream)
}

/// Reads the lines of a client (which publishes nothing) and answers its pings, until `stop` says
/// so of a line or the client is gone.
async fn behave(stream: &mut TcpStream, mut stop: impl FnMut(&str) -> ControlFlow<()>) {
    let mut heard = Vec::new();
    loop {
        while let Some(end) = heard.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if line.starts_with("PING") && stream.write_all(b"PONG\r\n").await.is_err() {
                return;
            }
            if stop(&line).is_break() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut heard).await, Ok(1..)) {
            return;
        }
    }
}

async fn behave_on(mut stream: TcpStream) {
    behave(&mut stream, |_| ControlFlow::Continue(())).await;
}

/// Until the client has subscribed.
async fn subscribed(stream: &mut TcpStream) {
    behave(stream, |line| {
        if line.starts_with("SUB ") {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .await;
}

/// Nothing wrong is said after `flush`: the answer to a ping comes behind all before it.
async fn closes_well(conn: Conn) {
    let link = conn.link().clone();
    conn.close().await;
    assert_eq!(link.said(), "");
}

#[test]
fn what_no_server_may_say_ends_the_connection_and_is_named() {
    let long_line: &'static [u8] = vec![b'M'; 17_000].leak();
    let cases: [(&'static [u8], &str); 9] = [
        (
            b"HTTP/1.1 400 Bad Request\r\n",
            "no operation of the NATS protocol",
        ),
        (b"\x16\x03\x01\x00\r\n", "no operation of the NATS protocol"),
        (
            b"MSG a 1 1073741824\r\n",
            "announced a message of 1073741824 bytes",
        ),
        (b"MSG a 1 99999999999999999999999\r\n", "above the limit"),
        (long_line, "a line of more than 16384 bytes"),
        (b"MSG a 1 2\r\nhello\r\n", "instead of CRLF"),
        (
            b"HMSG a 1 9 3\r\nabc\r\n",
            "its headers are longer than all of it",
        ),
        (b"INFO {]\r\n", "its INFO cannot be read"),
        (b"MSG a\r\n", "too few arguments"),
    ];
    for (said, named) in cases {
        live(async {
            let poured = Rc::new(Cell::new(0));
            let counter = poured.clone();
            let (url, count) = pretend(move |number, mut stream| {
                let poured = counter.clone();
                async move {
                    if number > 0 {
                        return behave_on(stream).await;
                    }
                    // And goes on and on.
                    let more = vec![b'x'; 64 << 10];
                    let _ = stream.write_all(said).await;
                    while let Ok(n) = stream.write(&more).await {
                        poured.set(poured.get() + n);
                        assert!(poured.get() < 1 << 30, "nobody ends it");
                    }
                }
            })
            .await;
            let conn = connect(&url, Client::Wire).await;
            let link = conn.link().clone();
            until(named, || link.cuts() == 1 && link.is_up()).await;
            assert!(link.said().contains(named), "{named}: {}", link.said());
            assert!(link.said().contains(&url), "{}", link.said());
            // No more was read than sockets hold by themselves.
            assert!(poured.get() < 64 << 20, "{} bytes", poured.get());
            assert_eq!(count.get(), 2);
            conn.close().await;
        });
    }
}

#[test]
fn a_server_that_refuses_and_closes_is_quoted() {
    for (said, named) in [
        (
            &b"-ERR 'Slow Consumer\x1b[2J'\r\n"[..],
            "the server closed the connection after `Slow Consumer?[2J`",
        ),
        (b"MSG a 1 5\r\nhe", "the server closed the connection"),
        (b"", "the server closed the connection"),
    ] {
        live(async {
            let (url, _) = pretend(move |number, mut stream| async move {
                if number > 0 {
                    return behave_on(stream).await;
                }
                let _ = stream.write_all(said).await;
            })
            .await;
            let conn = connect(&url, Client::Wire).await;
            let link = conn.link().clone();
            until(named, || link.cuts() == 1 && link.is_up()).await;
            assert!(link.said().contains(named), "{}", link.said());
            conn.close().await;
        });
    }
}

#[test]
fn a_server_that_stops_within_a_line_is_found_by_pings() {
    live(async {
        let (url, _) = pretend(|number, mut stream| async move {
            if number > 0 {
                return behave_on(stream).await;
            }
            let _ = stream.write_all(b"MSG a 1 5\r\nhe").await;
            let mut sink = Vec::new();
            let _ = stream.read_to_end(&mut sink).await;
        })
        .await;
        let endpoint = Endpoint {
            ping_every: Some(Duration::from_millis(100)),
            ..endpoint(&url)
        };
        let conn = Conn::connect(&endpoint, Client::Wire)
            .await
            .expect("connects");
        let link = conn.link().clone();
        until("the pings", || link.cuts() == 1 && link.is_up()).await;
        assert!(
            link.said().contains("no answer to 2 pings"),
            "{}",
            link.said()
        );
    });
}

#[test]
fn a_socket_that_is_of_no_use_is_closed_at_once() {
    live(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = listener.local_addr().expect("an address").to_string();
        let closed = tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = let_in(stream).await.expect("lets in");
            // There will be no other connection.
            drop(listener);
            stream.write_all(b"Nonsense\r\n").await.expect("written");
            let mut sink = Vec::new();
            stream.read_to_end(&mut sink).await
        });
        let conn = connect(&url, Client::Wire).await;
        let end = timeout(LIMIT, closed).await.expect("it is closed");
        assert!(end.expect("no panic").is_ok());
        assert!(!conn.link().is_up());
    });
}

#[test]
fn a_refusal_of_one_thing_is_no_cut_and_strange_subscriptions_are_passed_over() {
    live(async {
        let (url, _) = pretend(|_, mut stream| async move {
            subscribed(&mut stream).await;
            let no = b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n";
            let _ = stream.write_all(no).await;
            let strange = b"MSG a 99 3\r\nabc\r\n".repeat(10_000);
            let _ = stream.write_all(&strange).await;
            let _ = stream
                .write_all(b"+OK\r\nPING\r\nMSG a 1 2\r\nok\r\n")
                .await;
            behave_on(stream).await;
        })
        .await;
        let conn = connect(&url, Client::Wire).await;
        let mut inbox = subscribe(&conn, "a").await;
        assert_eq!(next(&mut inbox).await.payload(), b"ok");
        let said = conn.link().said();
        let refusal = "(Permissions Violation for Publish to \"a\")";
        assert!(said.contains(refusal), "{said}");
        assert_eq!(conn.link().cuts(), 0);
        conn.close().await;
    });
}

#[test]
fn a_frame_may_be_split_at_every_byte() {
    live(async {
        let (url, _) = pretend(|_, mut stream| async move {
            subscribed(&mut stream).await;
            let said = b"HMSG a 1 r 21 24\r\nNATS/1.0\r\nKey: ab\r\n\r\nxyz\r\nPING\r\n\
                         MSG a 1 0\r\n\r\n+OK\r\nMSG a 1 r 3\r\nabc\r\n";
            for byte in said {
                let _ = stream.write_all(&[*byte]).await;
                // So that the other side sees them one by one.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            behave_on(stream).await;
        })
        .await;
        let conn = connect(&url, Client::Wire).await;
        let mut inbox = subscribe(&conn, "a").await;
        let first = next(&mut inbox).await;
        assert_eq!(first.payload(), b"xyz");
        assert_eq!(first.header("Key"), Some("ab"));
        assert_eq!(next(&mut inbox).await.payload(), b"");
        let last = next(&mut inbox).await;
        assert_eq!(
            (last.payload(), last.reply()),
            (&b"abc"[..], Some(&b"r"[..]))
        );
        closes_well(conn).await;
    });
}

#[test]
fn a_server_that_closes_again_and_again_is_not_asked_without_a_wait() {
    live(async {
        let (url, count) = pretend(|_, stream| async move { drop(stream) }).await;
        let conn = connect(&url, Client::Wire).await;
        let link = conn.link().clone();
        until("the first cut", || link.cuts() > 0).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Waits of 2, 4, 8 ms and so on: the ninth is over a second after the first.
        let dials = count.get();
        assert!((3..=12).contains(&dials), "{dials} dials in a second");
    });
}

#[test]
fn a_cut_in_a_greeting_is_one_more_attempt() {
    live(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = listener.local_addr().expect("an address").to_string();
        tokio::task::spawn_local(async move {
            for number in 0_usize.. {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                match number {
                    0 => drop(let_in(stream).await),
                    1 => drop(stream),
                    2 => drop(stream.write_all(b"INFO {\"max_pay").await),
                    3 => drop(stream.write_all(b"INFO {\"max_payload\":1}\r\n").await),
                    4 => drop(stream.write_all(b"HTTP/1.1 400 Bad\r\n").await),
                    _ => {
                        let stream = let_in(stream).await.expect("lets in");
                        tokio::task::spawn_local(behave_on(stream));
                    }
                }
            }
        });
        let conn = connect(&url, Client::Wire).await;
        let link = conn.link().clone();
        until("a server", || link.cuts() == 1 && link.is_up()).await;
        let said = link.said();
        assert!(
            said.contains("cannot connect again: not the NATS"),
            "{said}"
        );
        conn.close().await;
    });
}

// Sockets that take or give nothing.

#[test]
fn a_socket_that_takes_nothing_blocks_and_says_since_when() {
    live(async {
        let open = Rc::new(tokio::sync::Notify::new());
        let opened = open.clone();
        let (url, _) = pretend(move |_, mut stream| {
            let opened = opened.clone();
            async move {
                opened.notified().await;
                // Only reads, so that the end of what was published can be found.
                let mut sink = vec![0; 1 << 20];
                while let Ok(1..) = stream.read(&mut sink).await {}
            }
        })
        .await;
        let mut conn = connect(&url, Client::Wire).await;
        let mut tickets = Vec::new();
        loop {
            let ready = poll_fn(|cx| conn.poll_ready(cx));
            if timeout(Duration::from_millis(300), ready).await.is_err() {
                break;
            }
            tickets.push(publish(&mut conn, "b", &[0; 16 << 10]).await);
            assert!(tickets.len() < 16 << 10, "nobody stops it");
        }
        let since = conn.blocked_since().expect("it takes nothing");
        let first = tickets.partition_point(|ticket| conn.left(*ticket).is_some());
        let waiting = &tickets[first..];
        assert!(
            !waiting.is_empty() && waiting.len() <= 6,
            "{}",
            waiting.len()
        );
        let flush = timeout(Duration::from_millis(50), conn.flush()).await;
        assert!(flush.is_err(), "what is not in the socket is not flushed");

        let opened = Instant::now();
        open.notify_one();
        timeout(LIMIT, conn.flush())
            .await
            .expect("it goes on")
            .expect("there");
        let left = conn.left(waiting[0]).expect("it left");
        assert_eq!(left.blocked, left.at - since);
        assert!(left.at >= opened && left.at <= Instant::now());
        assert_eq!(conn.blocked_since(), None);
        timeout(LIMIT, poll_fn(|cx| conn.poll_ready(cx)))
            .await
            .expect("room")
            .expect("there");
    });
}

#[test]
fn a_close_that_nobody_answers_has_an_end() {
    live(async {
        // Takes nothing and says nothing, for ever.
        let (url, _) = pretend(|_, stream| async move {
            let _held = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let mut conn = connect(&url, Client::Wire).await;
        publish(&mut conn, "x", b"").await;
        let link = conn.link().clone();
        conn.close().await;
        assert!(
            link.said().contains("no answer to the last ping"),
            "{}",
            link.said()
        );
    });
}

/// Messages of 64 KiB, numbered, that are more than may wait unread.
const POURED: u32 = 3_200;

fn poured(number: u32) -> Vec<u8> {
    let mut frame = b"MSG a 1 65536\r\n".to_vec();
    frame.extend_from_slice(&number.to_le_bytes());
    frame.resize(frame.len() + 65_532, b'.');
    frame.extend_from_slice(b"\r\n");
    frame
}

#[test]
fn a_reader_that_does_not_read_stops_the_socket_and_loses_nothing() {
    live(async {
        let stalled_at = Rc::new(Cell::new(None));
        let stall = stalled_at.clone();
        let (url, _) = pretend(move |_, mut stream| {
            let stall = stall.clone();
            async move {
                subscribed(&mut stream).await;
                let mut written = 0_usize;
                for number in 0..POURED {
                    let frame = poured(number);
                    let mut from = 0;
                    while from < frame.len() {
                        let write = stream.write(&frame[from..]);
                        // Once nothing is taken for a second, which is five pings.
                        let n = if let Ok(n) = timeout(Duration::from_secs(1), write).await {
                            n.expect("no cut")
                        } else {
                            stall.set(Some(written));
                            stream.write(&frame[from..]).await.expect("no cut")
                        };
                        from += n;
                        written += n;
                    }
                }
                behave_on(stream).await;
            }
        })
        .await;
        let endpoint = Endpoint {
            ping_every: Some(Duration::from_millis(200)),
            ..endpoint(&url)
        };
        let conn = Conn::connect(&endpoint, Client::Wire)
            .await
            .expect("connects");
        let mut inbox = subscribe(&conn, "a").await;
        let link = conn.link().clone();
        until("a stall", || stalled_at.get().is_some() || link.cuts() > 0).await;
        assert_eq!(link.cuts(), 0, "{}", link.said());
        let written = stalled_at.get().expect("a stall");
        // 64 MiB are kept, and the sockets hold some by themselves.
        assert!(written < 96 << 20, "{written} bytes");
        for number in 0..POURED {
            let message = next(&mut inbox).await;
            assert_eq!(message.payload()[..4], number.to_le_bytes());
            assert_eq!(message.payload().len(), 65_536);
        }
        assert_eq!((link.cuts(), link.dropped()), (0, 0), "{}", link.said());
        closes_well(conn).await;
    });
}

#[test]
fn a_subscription_that_is_dropped_unread_lets_the_others_go_on() {
    let server = Server::start("max_pending: 1GB\nwrite_deadline: \"60s\"");
    live(async {
        let reader = connect(&server.url, Client::Wire).await;
        let mut read = subscribe(&reader, "read").await;
        let mut unread = subscribe(&reader, "unread").await;
        works(&reader).await;
        let mut conn = connect(&server.url, Client::Wire).await;
        publish(&mut conn, "unread", b"first").await;
        let body = vec![0; 1 << 20];
        for _ in 0..128 {
            publish(&mut conn, "unread", &body).await;
        }
        publish(&mut conn, "read", b"behind it").await;
        conn.flush().await.expect("flushed");
        // Some of it is in the subscription's hands.
        assert_eq!(next(&mut unread).await.payload(), b"first");
        let behind = timeout(Duration::from_millis(300), read.next()).await;
        assert!(behind.is_err(), "it is behind more than may wait");
        drop(unread);
        assert_eq!(next(&mut read).await.payload(), b"behind it");
    });
}

#[test]
fn a_close_comes_through_what_nobody_read() {
    let server = Server::start("max_pending: 1GB\nwrite_deadline: \"60s\"");
    live(async {
        let reader = connect(&server.url, Client::Wire).await;
        let unread = subscribe(&reader, "unread").await;
        works(&reader).await;
        let mut conn = connect(&server.url, Client::Wire).await;
        let body = vec![0; 1 << 20];
        for _ in 0..128 {
            publish(&mut conn, "unread", &body).await;
        }
        conn.close().await;
        closes_well(reader).await;
        drop(unread);
    });
}
