//! A stub of a nats-server whose answers are known: it acks each publish a known time after its
//! arrival, stands still when it is told to, and stores nothing. The driver is calibrated with it.
//!
//! It speaks as much NATS as publishers and core subscribers need, on a loopback port and a thread
//! of its own, so that its work is not mistaken for the driver's. A publish with a reply is answered
//! with a PubAck where a subscription takes the reply; one without goes to the subscriptions that
//! take its subject. There is no JetStream API, no authentication and no TLS. `engine` starts it.

mod wire;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};
use serde::Deserialize;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use self::wire::{Inlet, MAX_PAYLOAD_BYTES, Op, Violation, matches};
use crate::measure::alarm::Alarm;
use crate::measure::clock;
use crate::record::document::ServerInfo;
use crate::scenario::model::Stub;
use crate::units::as_ns;

/// Name of the stub, as servers have one.
const NAME: &str = "stub";
/// Bytes that a connection may have waiting for it; then nothing more is read from it, and what
/// others publish to it is lost.
const MAX_UNSENT_BYTES: usize = 16 << 20;
/// Out of file descriptors, say: worth another try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// A stub that listens. Dropping it ends it and cuts its connections.
#[derive(Debug)]
pub struct StubServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StubServer {
    /// Starts it on a free port of loopback.
    ///
    /// # Errors
    /// No port, thread or event loop can be had.
    pub fn start(spec: Stub) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("the stub cannot listen on loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // As the workers have it: with a socket or two a larger number only adds latency.
            .event_interval(16)
            .build()
            .context("the stub cannot have an event loop")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let thread = std::thread::Builder::new()
            .name("stub".to_owned())
            .spawn(move || {
                let hub = Rc::new(Hub {
                    answers: Answers::of(spec),
                    port: address.port(),
                    peers: RefCell::default(),
                    stored: Cell::new(0),
                    clients: Cell::new(0),
                });
                LocalSet::new().block_on(&runtime, async move {
                    tokio::select! {
                        // Also when it was dropped.
                        _ = stopped => {}
                        () = accept(&listener, &hub) => {}
                    }
                });
            })
            .context("cannot start the thread of the stub")?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// `nats://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// It as servers describe themselves.
    pub fn info() -> ServerInfo {
        ServerInfo {
            name: NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ServerInfo::default()
        }
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at its next wake-up, which this was. A panic in it was told already.
            let _ = thread.join();
        }
    }
}

/// When an ack leaves. Times in ns since the Unix epoch.
#[derive(Debug, Clone, Copy)]
struct Answers {
    delay_ns: u64,
    /// Length and period of the stalls.
    stall: Option<(u64, u64)>,
}

impl Answers {
    fn of(spec: Stub) -> Self {
        let stall = spec.stall.map(|s| (as_ns(s.length), as_ns(s.every)));
        Self {
            delay_ns: as_ns(spec.delay),
            stall: stall.filter(|(length_ns, every_ns)| *length_ns > 0 && every_ns > length_ns),
        }
    }

    /// The ack of what arrived at this time: after the delay, or at the end of the stall it would
    /// fall in. Never goes back as time goes on.
    fn due_ns(self, arrived_ns: u64) -> u64 {
        let due_ns = arrived_ns + self.delay_ns;
        match self.stall {
            Some((length_ns, every_ns)) => {
                let into_ns = due_ns % every_ns;
                due_ns + length_ns.saturating_sub(into_ns)
            }
            None => due_ns,
        }
    }
}

/// What connections share.
struct Hub {
    answers: Answers,
    port: u16,
    peers: RefCell<Vec<Rc<Peer>>>,
    /// Sequence of the last ack.
    stored: Cell<u64>,
    clients: Cell<u64>,
}

/// What others may do to a connection.
struct Peer {
    outlet: RefCell<Outlet>,
    subscriptions: RefCell<Vec<Subscription>>,
    waker: RefCell<Option<Waker>>,
}

struct Subscription {
    subject: Vec<u8>,
    queue: Option<Vec<u8>>,
    sid: Vec<u8>,
    delivered: u64,
    max: Option<u64>,
}

/// Bytes on their way to a client, in order.
#[derive(Debug, Default)]
struct Outlet {
    /// May leave now.
    out: BytesMut,
    /// Acks that wait for their time.
    waiting: BytesMut,
    /// When how many bytes of `waiting` may leave.
    batches: VecDeque<(u64, usize)>,
}

impl Outlet {
    /// Adds an ack that leaves at `due_ns`; acks never overtake each other.
    fn ack(&mut self, due_ns: u64, now_ns: u64, write: impl FnOnce(&mut BytesMut)) {
        if due_ns <= now_ns && self.batches.is_empty() {
            write(&mut self.out);
            return;
        }
        let before = self.waiting.len();
        write(&mut self.waiting);
        let added = self.waiting.len() - before;
        match self.batches.back_mut() {
            Some((last_ns, bytes)) if *last_ns >= due_ns => *bytes += added,
            _ => self.batches.push_back((due_ns, added)),
        }
    }

    /// Lets go what is due; says when more will be.
    fn release(&mut self, now_ns: u64) -> Option<u64> {
        while let Some((due_ns, bytes)) = self.batches.front().copied() {
            if due_ns > now_ns {
                return Some(due_ns);
            }
            self.out.extend_from_slice(&self.waiting[..bytes]);
            self.waiting.advance(bytes);
            self.batches.pop_front();
        }
        None
    }

    fn is_full(&self) -> bool {
        self.out.len() + self.waiting.len() >= MAX_UNSENT_BYTES
    }
}

impl Peer {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn say(&self, line: &[u8]) {
        self.outlet.borrow_mut().out.extend_from_slice(line);
    }

    /// Writes an ack where a subscription of this connection takes it.
    fn ack(&self, reply: &[u8], due_ns: u64, now_ns: u64, stored: &Cell<u64>) -> bool {
        let mut subscriptions = self.subscriptions.borrow_mut();
        let taker = subscriptions
            .iter_mut()
            .position(|s| matches(&s.subject, reply));
        let Some(at) = taker else { return false };
        let taker = &mut subscriptions[at];
        stored.set(stored.get() + 1);
        let mut digits = [0; 20];
        let sequence = decimal(stored.get(), &mut digits);
        self.outlet.borrow_mut().ack(due_ns, now_ns, |out| {
            const HEAD: &[u8] = b"{\"stream\":\"STUB\",\"seq\":";
            let mut length = [0; 20];
            let length = decimal((HEAD.len() + sequence.len() + 1) as u64, &mut length);
            out.reserve(reply.len() + taker.sid.len() + 64);
            for part in [&b"MSG "[..], reply, b" ", &taker.sid[..], b" ", length] {
                out.extend_from_slice(part);
            }
            for part in [b"\r\n", HEAD, sequence, b"}\r\n"] {
                out.extend_from_slice(part);
            }
        });
        taker.delivered += 1;
        if taker.is_through() {
            subscriptions.swap_remove(at);
        }
        true
    }
}

impl Subscription {
    fn is_through(&self) -> bool {
        self.max.is_some_and(|max| self.delivered >= max)
    }
}

/// `number` in digits, in the room given.
fn decimal(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}

impl Hub {
    fn join(&self) -> Rc<Peer> {
        self.clients.set(self.clients.get() + 1);
        let info = serde_json::json!({
            "server_id": NAME, "server_name": NAME, "version": env!("CARGO_PKG_VERSION"),
            "proto": 1, "host": "127.0.0.1", "port": self.port, "headers": true,
            "max_payload": MAX_PAYLOAD_BYTES, "jetstream": true, "client_id": self.clients.get(),
        });
        let mut outlet = Outlet::default();
        outlet
            .out
            .extend_from_slice(format!("INFO {info}\r\n").as_bytes());
        let peer = Rc::new(Peer {
            outlet: RefCell::new(outlet),
            subscriptions: RefCell::default(),
            waker: RefCell::default(),
        });
        self.peers.borrow_mut().push(peer.clone());
        peer
    }

    fn leave(&self, peer: &Rc<Peer>) {
        self.peers.borrow_mut().retain(|p| !Rc::ptr_eq(p, peer));
    }

    /// Acks a publish to whoever takes its reply, first of all the connection it came on.
    fn ack(&self, own: &Rc<Peer>, reply: &[u8], arrived_ns: u64) {
        let due_ns = self.answers.due_ns(arrived_ns);
        if own.ack(reply, due_ns, arrived_ns, &self.stored) {
            return;
        }
        for peer in &*self.peers.borrow() {
            let open = !Rc::ptr_eq(peer, own) && !peer.outlet.borrow().is_full();
            if open && peer.ack(reply, due_ns, arrived_ns, &self.stored) {
                peer.wake();
                return;
            }
        }
    }

    /// Delivers a core message to the subscriptions that take it, once to each queue group.
    fn deliver(&self, subject: &[u8], header_bytes: Option<usize>, payload: &[u8]) {
        let mut groups: Vec<Vec<u8>> = Vec::new();
        for peer in &*self.peers.borrow() {
            let mut outlet = peer.outlet.borrow_mut();
            let mut any = false;
            for subscription in &mut *peer.subscriptions.borrow_mut() {
                if !matches(&subscription.subject, subject) || outlet.is_full() {
                    continue;
                }
                if let Some(queue) = &subscription.queue {
                    if groups.contains(queue) {
                        continue;
                    }
                    groups.push(queue.clone());
                }
                let (mut head, mut length) = ([0; 20], [0; 20]);
                let verb: &[u8] = if header_bytes.is_some() {
                    b"HMSG "
                } else {
                    b"MSG "
                };
                for part in [verb, subject, b" ", &subscription.sid[..], b" "] {
                    outlet.out.extend_from_slice(part);
                }
                if let Some(bytes) = header_bytes {
                    outlet
                        .out
                        .extend_from_slice(decimal(bytes as u64, &mut head));
                    outlet.out.extend_from_slice(b" ");
                }
                let length = decimal(payload.len() as u64, &mut length);
                for part in [length, b"\r\n", payload, b"\r\n"] {
                    outlet.out.extend_from_slice(part);
                }
                subscription.delivered += 1;
                any = true;
            }
            if any {
                peer.subscriptions.borrow_mut().retain(|s| !s.is_through());
                peer.wake();
            }
        }
    }
}

async fn accept(listener: &TcpListener, hub: &Rc<Hub>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let hub = hub.clone();
        tokio::task::spawn_local(async move {
            // A connection that cannot be had or breaks is the client's to notice.
            let _ = serve(stream, &hub).await;
        });
    }
}

async fn serve(stream: TcpStream, hub: &Rc<Hub>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session {
        stream,
        alarm: Alarm::new()?,
        inlet: Inlet::new(),
        peer: hub.join(),
        hub: hub.clone(),
        verbose: false,
        closing: false,
    };
    let went = poll_fn(|cx| session.poll(cx)).await;
    hub.leave(&session.peer);
    went
}

/// One connection.
struct Session {
    stream: TcpStream,
    alarm: Alarm,
    inlet: Inlet,
    peer: Rc<Peer>,
    hub: Rc<Hub>,
    verbose: bool,
    closing: bool,
}

#[derive(Deserialize)]
struct ConnectOptions {
    #[serde(default)]
    verbose: bool,
}

impl Session {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.peer
            .waker
            .borrow_mut()
            .get_or_insert_with(|| cx.waker().clone())
            .clone_from(cx.waker());
        loop {
            let next_ns = self.peer.outlet.borrow_mut().release(clock::now_ns());
            let written = self.write(cx)?;
            if self.closing && written.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Some(next_ns) = next_ns
                && self.alarm.poll_at(cx, next_ns).is_ready()
            {
                continue;
            }
            if self.closing || self.peer.outlet.borrow().is_full() {
                // Either the socket or the alarm wakes us.
                return Poll::Pending;
            }
            if ready!(self.read(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Err(violation) = self.work(clock::now_ns()) {
                let mut outlet = self.peer.outlet.borrow_mut();
                outlet.out.extend_from_slice(violation.line());
                // Acks that still wait are not worth the connection.
                outlet.batches.clear();
                self.closing = true;
            }
        }
    }

    /// Writes until there is nothing left, then is ready.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let out = &mut self.peer.outlet.borrow_mut().out;
        while !out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, out)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => out.advance(count),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        Ok(Poll::Ready(()))
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(self.inlet.room());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        self.inlet.filled(count);
        Poll::Ready(Ok(count))
    }

    /// Does what arrived at this time.
    fn work(&mut self, arrived_ns: u64) -> Result<(), Violation> {
        while let Some(op) = self.inlet.next()? {
            match op {
                Op::Publish {
                    reply: Some(reply), ..
                } => self.hub.ack(&self.peer, reply, arrived_ns),
                Op::Publish {
                    subject,
                    header_bytes,
                    payload,
                    ..
                } => self.hub.deliver(subject, header_bytes, payload),
                Op::Subscribe {
                    subject,
                    queue,
                    sid,
                } => self.peer.subscriptions.borrow_mut().push(Subscription {
                    subject: subject.to_vec(),
                    queue: queue.map(<[u8]>::to_vec),
                    sid: sid.to_vec(),
                    delivered: 0,
                    max: None,
                }),
                Op::Unsubscribe { sid, max } => {
                    let mut subscriptions = self.peer.subscriptions.borrow_mut();
                    for subscription in subscriptions.iter_mut().filter(|s| s.sid == sid) {
                        subscription.max = Some(max.unwrap_or(0));
                    }
                    subscriptions.retain(|s| !s.is_through());
                }
                Op::Connect(options) => {
                    let options: ConnectOptions =
                        serde_json::from_slice(options).map_err(|_| Violation::Unknown)?;
                    self.verbose = options.verbose;
                }
                Op::Ping => self.peer.say(b"PONG\r\n"),
                Op::Pong => {}
            }
            if self.verbose && !matches!(op, Op::Ping | Op::Pong) {
                self.peer.say(b"+OK\r\n");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
