//! The task of a connection: moves bytes both ways, stamps them, answers the server's pings and
//! sends its own, and makes the connection again when it was cut.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep};

use super::client::{Core, Phase, UNREAD_BYTES};
use super::dial::{self, Dialled, Identity, Info, Pool, Transport};
use super::protocol::{self, Limits, Op};
use crate::nats::conn::Inbound;
use crate::nats::endpoint::Endpoint;

/// What is read at a time.
const READ_BYTES: usize = 256 << 10;
/// Less free space than this, and the buffer is made anew.
const LOW_BYTES: usize = 64 << 10;
/// Turns until the others of this thread have one.
const TURNS: usize = 16;
/// How often the server is asked whether it is there; after two questions without a word from it
/// the connection counts as cut.
const PING: Duration = Duration::from_secs(20);
const MAX_SILENT: u32 = 2;
/// How long a close waits for the proof that everything arrived.
const FAREWELL: Duration = Duration::from_secs(10);
/// So much of what a server refused is kept.
const REFUSAL_CHARS: usize = 200;
/// A connection that held so long was a success.
const LASTING: Duration = Duration::from_secs(1);
/// No sender hands over so much before the socket takes it: a buffer and the largest message.
const MAX_UNSENT_BYTES: usize = 128 << 20;
/// How long one attempt to connect again may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Drives a connection until its handles are gone or it is closed.
pub(super) async fn drive(
    core: Rc<RefCell<Core>>,
    first: Dialled,
    endpoint: Endpoint,
    identity: Identity,
    mut pool: Pool,
) {
    let every = endpoint.ping_every.unwrap_or(PING);
    let mut socket = Socket::new(first, every, &mut pool);
    loop {
        let end = poll_fn(|cx| socket.poll(cx, &core, &mut pool)).await;
        let End::Cut(why) = end else { break };
        let why = match socket.refusal.take() {
            Some(refusal) => format!("{why} after `{refusal}`"),
            None => why,
        };
        {
            let mut core = core.borrow_mut();
            core.link.say(format!("{}: {why}", socket.server));
            core.link.cut();
            core.lose();
            core.tell_all();
        }
        // One that lets in and cuts at once is not asked again without a wait.
        if socket.begun.elapsed() >= LASTING {
            pool.succeeded();
        }
        pool.failed();
        // A server that still holds it would go on sending to its subscriptions.
        drop(socket);
        let Some(dialled) = again(&core, &endpoint, &identity, &mut pool).await else {
            break;
        };
        socket = Socket::new(dialled, every, &mut pool);
        restore(&mut core.borrow_mut(), &socket);
    }
    let mut core = core.borrow_mut();
    core.phase = Phase::Closed;
    core.tell_all();
}

/// Makes the connection again; `None` when nobody wants it any more.
async fn again(
    core: &RefCell<Core>,
    endpoint: &Endpoint,
    identity: &Identity,
    pool: &mut Pool,
) -> Option<Dialled> {
    loop {
        let (address, wait) = pool.next();
        let attempt = async {
            sleep(wait).await;
            dial::dial(&address, endpoint, identity, ATTEMPT).await
        };
        let abandoned = poll_fn(|cx| {
            let mut core = core.borrow_mut();
            if core.phase == Phase::Open {
                core.driver = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        });
        tokio::select! {
            () = abandoned => return None,
            dialled = attempt => match dialled {
                Ok(dialled) => return Some(dialled),
                Err(error) => {
                    core.borrow().link.say(format!("cannot connect again: {error}"));
                    pool.failed();
                }
            },
        }
    }
}

/// Subscribes anew to all that was subscribed to.
fn restore(core: &mut Core, socket: &Socket) {
    core.max_payload_bytes = socket.max_payload_bytes;
    let mut subscriptions = Vec::new();
    for (sid, queue) in &core.inboxes {
        protocol::subscribe(
            &mut subscriptions,
            &queue.subject,
            queue.group.as_deref(),
            *sid,
        );
    }
    core.append(|out| out.extend_from_slice(&subscriptions));
    core.link.up();
    core.tell_all();
}

/// What a server refused, printable.
fn shown(text: &[u8]) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let text = String::from_utf8_lossy(text);
    text.chars().take(REFUSAL_CHARS).map(printable).collect()
}

/// Why the driver stopped.
enum End {
    /// Nobody wants the connection any more.
    Closed,
    /// It is lost.
    Cut(String),
}

/// A connected socket.
struct Socket {
    begun: Instant,
    transport: Transport,
    server: String,
    max_payload_bytes: usize,
    limits: Limits,
    read: BytesMut,
    /// Bytes came with the greeting that nobody has looked at.
    fresh: bool,
    flush: bool,
    /// The last question before the end is asked; when to wait no longer for its answer.
    farewell: Option<Pin<Box<Sleep>>>,
    /// What the server refused last.
    refusal: Option<String>,
    every: Duration,
    ping: Interval,
    /// Questions without an answer.
    unanswered: u32,
    /// Questions since the server last said anything.
    silent: u32,
}

impl Socket {
    fn new(dialled: Dialled, every: Duration, pool: &mut Pool) -> Self {
        pool.learn(&dialled.info);
        let mut ping = interval(every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        Self {
            begun: Instant::now(),
            transport: dialled.transport,
            server: dialled.server,
            max_payload_bytes: dialled.info.max_payload,
            limits: Limits::default(),
            fresh: !dialled.rest.is_empty(),
            read: dialled.rest,
            flush: false,
            farewell: None,
            refusal: None,
            every,
            ping,
            unanswered: 0,
            silent: 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, core: &RefCell<Core>, pool: &mut Pool) -> Poll<End> {
        let core = &mut *core.borrow_mut();
        for _ in 0..TURNS {
            if core.phase != Phase::Open && self.farewell.is_none() {
                // Its answer proves that all before it arrived.
                core.append(protocol::ping);
                self.unanswered += 1;
                self.farewell = Some(Box::pin(sleep(FAREWELL)));
            }
            let read = match self.poll_read(cx, core, pool) {
                Ok(read) => read,
                Err(why) => return Poll::Ready(End::Cut(why)),
            };
            if let Some(limit) = &mut self.farewell {
                if self.unanswered == 0 {
                    return Poll::Ready(End::Closed);
                }
                if limit.as_mut().poll(cx).is_ready() {
                    let text = format!("{}: no answer to the last ping", self.server);
                    core.link.say(text);
                    return Poll::Ready(End::Closed);
                }
            }
            let written = match self.poll_write(cx, core) {
                Ok(written) => written,
                Err(error) => return Poll::Ready(End::Cut(error.to_string())),
            };
            if let Err(why) = self.poll_ping(cx, core) {
                return Poll::Ready(End::Cut(why));
            }
            if !read && !written && (core.unsent() == 0 || core.blocked_since.is_some()) {
                core.driver = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what is there, once; says whether something was.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        core: &mut Core,
        pool: &mut Pool,
    ) -> Result<bool, String> {
        if !self.reads(core) {
            return Ok(false);
        }
        if !std::mem::take(&mut self.fresh) {
            if self.read.capacity() - self.read.len() < LOW_BYTES {
                // The whole of a large message at once, or it would be copied as the buffer grows.
                let rest_bytes = protocol::wanted(&self.read, &self.limits) + LOW_BYTES;
                self.read.reserve(READ_BYTES.max(rest_bytes));
            }
            match pin!(self.transport.read_buf(&mut self.read)).poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => return Err("the server closed the connection".to_owned()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error.to_string()),
            }
        }
        let at = Instant::now();
        self.silent = 0;
        while let Some((op, used)) =
            protocol::parse(&self.read, &self.limits).map_err(|violation| violation.to_string())?
        {
            let frame = self.read.split_to(used);
            match op {
                Op::Message(parts) => {
                    // Only at the end of a connection is more read than there is room for.
                    let room = self.farewell.is_none() || core.unread_bytes < UNREAD_BYTES;
                    if room && let Some(queue) = core.inboxes.get_mut(&parts.sid) {
                        let message = Inbound::of_wire(frame.freeze(), parts, at);
                        core.unread_bytes += message.size_bytes();
                        queue.arrived.push_back(message);
                        if let Some(waker) = queue.waker.take() {
                            waker.wake();
                        }
                    }
                }
                Op::Ping => core.append(protocol::pong),
                Op::Pong => self.unanswered = self.unanswered.saturating_sub(1),
                Op::Ok => {}
                Op::Err(text) => {
                    let refusal = shown(text.of(&frame));
                    core.link.say(refusal.clone());
                    self.refusal = Some(refusal);
                }
                Op::Info(json) => {
                    let info = Info::parse(json.of(&frame)).map_err(|e| format!("{e:#}"))?;
                    if info.ldm {
                        core.link.announce_end();
                    }
                    core.max_payload_bytes = info.max_payload;
                    pool.learn(&info);
                }
            }
        }
        Ok(true)
    }

    /// Writes what the socket takes; says whether it took something.
    fn poll_write(&mut self, cx: &mut Context<'_>, core: &mut Core) -> io::Result<bool> {
        let mut any = false;
        while core.unsent() > 0 {
            // Before the call: during it the bytes are on their way.
            let at = Instant::now();
            match Pin::new(&mut self.transport).poll_write(cx, &core.out[core.out_from..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    core.took(count, at);
                    any = true;
                    self.flush = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    core.blocked_since.get_or_insert(at);
                    break;
                }
            }
        }
        if self.flush && Pin::new(&mut self.transport).poll_flush(cx)?.is_ready() {
            self.flush = false;
        }
        if any {
            core.tell_waiting();
        }
        Ok(any)
    }

    /// Whether the socket is read: not while so much is unread that nobody has taken, nor while a
    /// server that asks and does not listen is owed so many answers. Who closes waits for the
    /// server's last answer, and reads on to it.
    fn reads(&self, core: &Core) -> bool {
        let room = core.unread_bytes < UNREAD_BYTES || self.farewell.is_some();
        room && core.unsent() < MAX_UNSENT_BYTES
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>, core: &mut Core) -> Result<(), String> {
        if self.ping.poll_tick(cx).is_ready() {
            // Its next tick must wake this task.
            let _ = self.ping.poll_tick(cx);
            if !self.reads(core) {
                // The silence is ours.
                return Ok(());
            }
            if self.silent >= MAX_SILENT {
                return Err(format!(
                    "no answer to {MAX_SILENT} pings, {:?} apart",
                    self.every
                ));
            }
            self.silent += 1;
            self.unanswered += 1;
            core.append(protocol::ping);
        }
        Ok(())
    }
}
