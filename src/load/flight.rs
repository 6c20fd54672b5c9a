//! What is in flight of a publisher: which message an answer settles, and how. One form for each
//! way of acking; the publisher knows when to send, this knows what is open.

mod atomic;
mod each;
mod fast;

use std::rc::Rc;

use anyhow::Result;
use async_nats::Subject;

use crate::nats::conn::{Conn, Inbound, Outbound, Ticket};

use atomic::AtomicBatches;
use each::Each;
use fast::FastIngest;

/// How publishes are acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Not at all: core messages.
    None,
    /// Each by its own.
    Each {
        /// In flight at most.
        window: u32,
        /// Any answer will do (requests), and not only a PubAck.
        any: bool,
    },
    /// Atomic batches, by their commits.
    Atomic {
        /// Messages in flight at most.
        window: u32,
        /// Messages per batch.
        batch: u32,
        /// A batch may end with a message that is not stored.
        ends: bool,
    },
    /// Fast ingest, every so many messages.
    Fast {
        /// Messages in flight at most.
        window: u32,
        /// Messages per ack.
        flow: u32,
    },
}

/// A message that is to be answered.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// Sequence of its publisher.
    pub sequence: u64,
    /// When it was due, ns since the Unix epoch.
    pub intended_ns: u64,
    /// When it was handed to its connection, ns since the Unix epoch.
    pub handed_ns: u64,
    /// When it left, ns since the Unix epoch; `None` until it has.
    pub sent_ns: Option<u64>,
    /// It was sent before, under the same id.
    pub repeat: bool,
}

/// How a message ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The server has it.
    Acked {
        /// It had it already, by its id.
        duplicate: bool,
    },
    /// The server does not have it, and why.
    Refused(Rc<str>),
    /// Nobody can tell.
    Unknown,
}

/// Messages and how they ended.
pub type Settled = Vec<(InFlight, Fate)>;

/// A message before it is numbered for its acks.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Subject.
    pub subject: &'a Subject,
    /// Headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// Payload, before the identity is sealed into it.
    pub body: &'a [u8],
    /// It is the last one of its publisher.
    pub last: bool,
}

impl<'a> Draft<'a> {
    fn with(&self, reply: Option<&'a str>) -> Outbound<'a> {
        Outbound {
            subject: self.subject,
            reply,
            headers: self.headers,
            body: self.body,
        }
    }
}

/// What is in flight.
pub enum Flight {
    /// Nothing ever is.
    Unacked,
    /// Messages with an ack each.
    Each(Each),
    /// Messages of atomic batches.
    Atomic(AtomicBatches),
    /// Messages of fast-ingest batches.
    Fast(FastIngest),
}

impl Flight {
    /// Nothing in flight yet. Answers come below `inbox`; `name` makes batch ids unique.
    pub fn new(acks: Acks, inbox: &str, name: &str) -> Self {
        match acks {
            Acks::None => Self::Unacked,
            Acks::Each { window, any } => Self::Each(Each::new(inbox, window, any)),
            Acks::Atomic {
                window,
                batch,
                ends,
            } => Self::Atomic(AtomicBatches::new(inbox, name, window, batch, ends)),
            Acks::Fast { window, flow } => Self::Fast(FastIngest::new(inbox, name, window, flow)),
        }
    }

    /// What to subscribe to for the answers below `inbox`; `None` when none come.
    pub fn answers(&self, inbox: &str) -> Option<String> {
        match self {
            Self::Unacked => None,
            _ => Some(format!("{inbox}.>")),
        }
    }

    /// Whether another message may go.
    pub fn has_room(&self) -> bool {
        match self {
            Self::Unacked => true,
            Self::Each(each) => each.has_room(),
            Self::Atomic(batches) => batches.has_room(),
            Self::Fast(batch) => batch.has_room(),
        }
    }

    /// Whether nothing waits for an answer.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Unacked => true,
            Self::Each(each) => each.is_empty(),
            Self::Atomic(batches) => batches.is_empty(),
            Self::Fast(batch) => batch.is_empty(),
        }
    }

    /// Sends a message for which there is room. Returns its place, for [`Self::left`], and its
    /// ticket.
    pub fn launch(
        &mut self,
        conn: &mut Conn,
        draft: &Draft<'_>,
        entry: InFlight,
        seal: impl FnOnce(&mut [u8]),
    ) -> Result<(u64, Ticket)> {
        match self {
            Self::Unacked => Ok((0, conn.publish(&draft.with(None), seal)?)),
            Self::Each(each) => each.launch(conn, draft, entry, seal),
            Self::Atomic(batches) => batches.launch(conn, draft, entry, seal),
            Self::Fast(batch) => batch.launch(conn, draft, entry, seal),
        }
    }

    /// Message `sequence` at a place left at `at_ns`; nothing if it was given up meanwhile.
    pub fn left(&mut self, place: u64, sequence: u64, at_ns: u64) {
        let entry = match self {
            Self::Unacked => None,
            Self::Each(each) => each.entry(place),
            Self::Atomic(batches) => batches.entry(place),
            Self::Fast(batch) => batch.entry(place),
        };
        if let Some(entry) = entry.filter(|entry| entry.sequence == sequence) {
            entry.sent_ns = Some(at_ns);
        }
    }

    /// Takes in an answer.
    pub fn on_answer(&mut self, answer: &Inbound, out: &mut Settled) {
        match self {
            Self::Unacked => {}
            Self::Each(each) => each.on_answer(answer, out),
            Self::Atomic(batches) => batches.on_answer(answer, out),
            Self::Fast(batch) => batch.on_answer(answer, out),
        }
    }

    /// Settles everything: what was in flight at a cut is unknown.
    pub fn give_up(&mut self, why: &str, out: &mut Settled) {
        match self {
            Self::Unacked => {}
            Self::Each(each) => each.give_up(out),
            Self::Atomic(batches) => batches.give_up(why, out),
            Self::Fast(batch) => batch.give_up(why, out),
        }
    }

    /// Settles what left before `before_ns`, or was to, and has no answer yet.
    pub fn give_up_late(&mut self, before_ns: u64, out: &mut Settled) {
        match self {
            Self::Unacked => {}
            Self::Each(each) => each.give_up_late(before_ns, out),
            Self::Atomic(batches) => batches.give_up_late(before_ns, out),
            Self::Fast(batch) => batch.give_up_late(before_ns, out),
        }
    }

    /// Ends groups that would otherwise stay open: all of them when `all` is set, else those of
    /// which nothing newer than `before_ns` is known.
    pub fn close_groups(
        &mut self,
        conn: &mut Conn,
        subject: &Subject,
        all: bool,
        before_ns: u64,
        now_ns: u64,
    ) -> Result<()> {
        match self {
            Self::Unacked | Self::Each(_) => Ok(()),
            Self::Atomic(batches) => batches.close(conn, subject, all, before_ns),
            Self::Fast(batch) => batch.close(conn, subject, all, before_ns, now_ns),
        }
    }
}

fn left_before(entry: &InFlight, before_ns: u64) -> bool {
    entry.sent_ns.unwrap_or(entry.handed_ns) < before_ns
}

/// Pieces of a batch protocol's answer as fates.
fn fate(how: &crate::nats::batch::How) -> Fate {
    use crate::nats::batch::How;
    match how {
        How::Acked => Fate::Acked { duplicate: false },
        How::Refused(cause) => Fate::Refused(cause.as_str().into()),
        How::Unknown(_) => Fate::Unknown,
    }
}
