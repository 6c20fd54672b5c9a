//! The connection: its state, shared by the handles on it and by the one task that drives its
//! socket. Handles append to a buffer and take from queues; the task alone reads and writes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::dial::{self, Identity, Pool};
use super::driver;
use super::protocol;
use crate::nats::conn::{Inbound, Left, Link, Outbound, Ticket, Writes};
use crate::nats::endpoint::Endpoint;

/// A sender waits when so much is handed over and not in the socket.
const BUFFER_BYTES: usize = 64 << 10;
/// So much may be received and not read; beyond it the socket is left alone until it is read,
/// so that a slow reader is the server's to notice and nothing is dropped here.
pub(super) const UNREAD_BYTES: usize = 64 << 20;

/// What handles and driver share.
pub(super) struct Core {
    pub(super) link: Arc<Link>,
    /// Bytes handed over, and the first that the socket has not taken.
    pub(super) out: Vec<u8>,
    pub(super) out_from: usize,
    /// Bytes ever handed over, and ever taken by the socket.
    handed: Ticket,
    written: Ticket,
    writes: Writes,
    pub(super) blocked_since: Option<Instant>,
    /// Spells in which the socket took nothing, all in all, without an open one.
    blocked: Duration,
    pub(super) inboxes: BTreeMap<u64, Queue>,
    next_sid: u64,
    pub(super) unread_bytes: usize,
    pub(super) max_payload_bytes: usize,
    pub(super) phase: Phase,
    /// The driver, when it sleeps.
    pub(super) driver: Option<Waker>,
    /// Who waits for room, for the end of a flush or of the connection.
    waiting: Vec<Waker>,
}

/// How far the life of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There, or being made again.
    Open,
    /// Sends what was handed over and ends.
    Closing,
    /// Over.
    Closed,
}

/// What arrived for a subscription.
pub(super) struct Queue {
    pub(super) subject: String,
    pub(super) group: Option<String>,
    pub(super) arrived: VecDeque<Inbound>,
    pub(super) waker: Option<Waker>,
}

impl Core {
    fn new(link: Arc<Link>, max_payload_bytes: usize) -> Self {
        Self {
            link,
            out: Vec::with_capacity(2 * BUFFER_BYTES),
            out_from: 0,
            handed: 0,
            written: 0,
            writes: Writes::default(),
            blocked_since: None,
            blocked: Duration::ZERO,
            inboxes: BTreeMap::new(),
            next_sid: 1,
            unread_bytes: 0,
            max_payload_bytes,
            phase: Phase::Open,
            driver: None,
            waiting: Vec::new(),
        }
    }

    /// Something was handed over: `append` writes it.
    fn hand_over(&mut self, append: impl FnOnce(&mut Vec<u8>)) -> Ticket {
        let before = self.out.len();
        append(&mut self.out);
        self.handed += (self.out.len() - before) as u64;
        self.rouse();
        self.handed
    }

    /// So much is unread no longer, which may be what the driver waits for.
    fn take_in(&mut self, bytes: usize) {
        let was_full = self.unread_bytes >= UNREAD_BYTES;
        self.unread_bytes -= bytes;
        if was_full && self.unread_bytes < UNREAD_BYTES {
            self.rouse();
        }
    }

    /// Wakes the driver.
    fn rouse(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// The driver's own operations: they are of no sender.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.out.len();
        write(&mut self.out);
        self.handed += (self.out.len() - before) as u64;
    }

    /// The socket took the next `count` bytes at `at`.
    pub(super) fn took(&mut self, count: usize, at: Instant) {
        self.out_from += count;
        self.written += count as u64;
        self.unblock(at);
        self.writes.note(self.written, at, self.blocked);
        if self.out_from == self.out.len() {
            self.out.clear();
            self.out_from = 0;
        } else if self.out_from >= BUFFER_BYTES.max(self.unsent()) {
            // No more is moved than was sent, or a large message would be moved at every write.
            self.out.drain(..self.out_from);
            self.out_from = 0;
        }
    }

    /// What was handed over is lost with its connection.
    pub(super) fn lose(&mut self) {
        self.out.clear();
        self.out_from = 0;
        self.written = self.handed;
        let now = Instant::now();
        self.unblock(now);
        self.writes.note(self.written, now, self.blocked);
    }

    /// The socket takes something again, or is no more.
    fn unblock(&mut self, at: Instant) {
        if let Some(since) = self.blocked_since.take() {
            self.blocked += at.saturating_duration_since(since);
        }
    }

    /// Bytes that the socket has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.out_from
    }

    fn has_room(&self) -> bool {
        self.link.is_up() && self.unsent() < BUFFER_BYTES
    }

    /// Wakes those who wait for what is the case now.
    pub(super) fn tell_waiting(&mut self) {
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }

    /// Wakes everyone: the connection was cut, is there again or is over.
    pub(super) fn tell_all(&mut self) {
        self.tell_waiting();
        for queue in self.inboxes.values_mut() {
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }
}

/// Connects and starts the driver, on this thread's `LocalSet`.
pub async fn connect(endpoint: &Endpoint, link: Arc<Link>) -> anyhow::Result<Handle> {
    let identity = Identity::load(endpoint)?;
    let mut pool = Pool::new(endpoint)?;
    let dialled = dial::first(endpoint, &identity, &mut pool).await?;
    let core = Rc::new(RefCell::new(Core::new(link, dialled.info.max_payload)));
    let prefix = endpoint.inbox_prefix.as_deref().unwrap_or("_INBOX");
    let handle = Handle {
        life: Rc::new(Life(core.clone())),
        prefix: prefix.into(),
    };
    let drive = driver::drive(core, dialled, endpoint.clone(), identity, pool);
    // It has limits of its own on how long it keeps the thread.
    tokio::task::spawn_local(tokio::task::unconstrained(drive));
    Ok(handle)
}

/// A handle on a connection. When the last one is dropped the connection closes.
#[derive(Clone)]
pub struct Handle {
    life: Rc<Life>,
    prefix: Rc<str>,
}

struct Life(Rc<RefCell<Core>>);

impl Drop for Life {
    fn drop(&mut self) {
        let mut core = self.0.borrow_mut();
        if core.phase == Phase::Open {
            core.phase = Phase::Closing;
        }
        core.rouse();
    }
}

impl Handle {
    fn core(&self) -> &RefCell<Core> {
        &self.life.0
    }

    /// The largest payload the server takes.
    pub fn max_payload_bytes(&self) -> usize {
        self.core().borrow().max_payload_bytes
    }

    /// A new inbox prefix.
    pub fn new_inbox(&self) -> String {
        format!("{}.{:016x}", self.prefix, rand::random::<u64>())
    }

    /// Subscribes.
    pub fn subscribe(&self, subject: String, group: Option<String>) -> Subscription {
        let mut core = self.core().borrow_mut();
        let sid = core.next_sid;
        core.next_sid += 1;
        if core.link.is_up() {
            core.hand_over(|out| protocol::subscribe(out, &subject, group.as_deref(), sid));
        }
        let queue = Queue {
            subject,
            group,
            arrived: VecDeque::new(),
            waker: None,
        };
        core.inboxes.insert(sid, queue);
        Subscription {
            core: self.life.0.clone(),
            sid,
            taken: VecDeque::new(),
            taken_bytes: 0,
        }
    }

    /// Whether there is room for a message.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        let mut core = self.core().borrow_mut();
        if core.phase != Phase::Open {
            return Poll::Ready(Err(anyhow::anyhow!(
                "connection closed{}",
                core.link.said()
            )));
        }
        if core.has_room() {
            return Poll::Ready(Ok(()));
        }
        core.wait(cx);
        Poll::Pending
    }

    /// Hands over a message.
    pub fn publish(&self, message: &Outbound<'_>, touch: impl FnOnce(&mut [u8])) -> Ticket {
        self.core().borrow_mut().hand_over(|out| {
            protocol::publish(
                out,
                message.subject.as_str().as_bytes(),
                message.reply.map(str::as_bytes),
                message.headers,
                message.body,
                touch,
            );
        })
    }

    /// Sends to where a message wants its answer, when there is room.
    pub async fn answer(
        &self,
        to: &Inbound,
        reply: Option<&str>,
        body: &[u8],
    ) -> anyhow::Result<()> {
        if let Some(subject) = to.reply() {
            poll_fn(|cx| self.poll_ready(cx)).await?;
            let reply = reply.map(str::as_bytes);
            self.core()
                .borrow_mut()
                .hand_over(|out| protocol::publish(out, subject, reply, &[], body, |_| {}));
        }
        Ok(())
    }

    /// When the message of a ticket left.
    pub fn left(&self, ticket: Ticket) -> Option<Left> {
        self.core().borrow().writes.left(ticket)
    }

    /// For how long the socket has taken nothing, all in all.
    pub fn blocked(&self) -> Duration {
        let core = self.core().borrow();
        let open = core.blocked_since.map(|since| since.elapsed());
        core.blocked + open.unwrap_or_default()
    }

    /// Since when the socket takes nothing.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.core().borrow().blocked_since
    }

    /// Waits until everything handed over is in the socket, or lost with it.
    pub async fn flush(&self) -> anyhow::Result<()> {
        let until = self.core().borrow().handed;
        poll_fn(|cx| {
            let mut core = self.core().borrow_mut();
            if core.written >= until {
                return Poll::Ready(Ok(()));
            }
            if core.phase == Phase::Closed {
                return Poll::Ready(Err(anyhow::anyhow!("cannot flush: connection closed")));
            }
            core.wait(cx);
            Poll::Pending
        })
        .await
    }

    /// Sends what was handed over and ends the connection.
    pub async fn close(self) {
        {
            let mut core = self.core().borrow_mut();
            if core.phase == Phase::Open {
                core.phase = Phase::Closing;
            }
            core.rouse();
        }
        poll_fn(|cx| {
            let mut core = self.core().borrow_mut();
            if core.phase == Phase::Closed {
                return Poll::Ready(());
            }
            core.wait(cx);
            Poll::Pending
        })
        .await;
    }
}

/// A subscription; ends when it is dropped.
pub struct Subscription {
    core: Rc<RefCell<Core>>,
    sid: u64,
    /// Taken from the core's queue, many at a time.
    taken: VecDeque<Inbound>,
    /// Of what was taken at a time; unread until the last of it is given out.
    taken_bytes: usize,
}

impl Subscription {
    /// The next message; `None` after the connection ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Inbound>> {
        if let Some(message) = self.taken.pop_front() {
            if self.taken.is_empty() {
                let bytes = std::mem::take(&mut self.taken_bytes);
                self.core.borrow_mut().take_in(bytes);
            }
            return Poll::Ready(Some(message));
        }
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let Some(queue) = core.inboxes.get_mut(&self.sid) else {
            return Poll::Ready(None);
        };
        std::mem::swap(&mut self.taken, &mut queue.arrived);
        let Some(first) = self.taken.pop_front() else {
            if core.phase == Phase::Closed {
                return Poll::Ready(None);
            }
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.taken_bytes = self.taken.iter().map(Inbound::size_bytes).sum();
        core.take_in(first.size_bytes());
        Poll::Ready(Some(first))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        let Some(queue) = core.inboxes.remove(&self.sid) else {
            return;
        };
        let unread: usize = queue.arrived.iter().map(Inbound::size_bytes).sum();
        core.take_in(unread + self.taken_bytes);
        if core.link.is_up() && core.phase == Phase::Open {
            let sid = self.sid;
            core.hand_over(|out| protocol::unsubscribe(out, sid, None));
        }
    }
}
