//! Messages of atomic batches: one is filled at a time, those before it wait for their commits.

use std::collections::VecDeque;

use anyhow::Result;
use async_nats::Subject;

use super::{Draft, InFlight, Settled, fate, left_before};
use crate::nats::batch::atomic::{Atomic, Part};
use crate::nats::batch::{self, read_answer};
use crate::nats::conn::{Conn, Inbound, Outbound, Ticket};

struct Group {
    batch: Atomic,
    open: Vec<InFlight>,
    /// Place of its first message.
    place: u64,
}

/// The batches in flight, oldest first.
pub struct AtomicBatches {
    inbox: String,
    name: String,
    window: usize,
    size: u64,
    ends: bool,
    /// Batches begun.
    batches: u64,
    groups: VecDeque<Group>,
    place: u64,
}

impl AtomicBatches {
    pub(super) fn new(inbox: &str, name: &str, window: u32, batch: u32, ends: bool) -> Self {
        Self {
            inbox: inbox.to_owned(),
            name: name.to_owned(),
            window: window as usize,
            size: u64::from(batch),
            ends,
            batches: 0,
            groups: VecDeque::new(),
            place: 0,
        }
    }

    /// The next batch begins when the one before is committed: what is published in order is stored
    /// in order.
    pub(super) fn has_room(&self) -> bool {
        let open: usize = self.groups.iter().map(|g| g.open.len()).sum();
        open < self.window
            && self
                .groups
                .back()
                .is_none_or(|g| g.batch.may_send() || g.batch.is_committed())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn launch(
        &mut self,
        conn: &mut Conn,
        draft: &Draft<'_>,
        entry: InFlight,
        seal: impl FnOnce(&mut [u8]),
    ) -> Result<(u64, Ticket)> {
        if self.groups.back().is_none_or(|g| !g.batch.may_send()) {
            self.batches += 1;
            let id = format!("{}-{}", self.name, self.batches);
            self.groups.push_back(Group {
                batch: Atomic::new(&self.inbox, &id)?,
                open: Vec::with_capacity(self.size as usize),
                place: self.place,
            });
        }
        let group = self.groups.back_mut().expect("made above");
        let last = draft.last || group.batch.sent() + 1 == self.size;
        let part = group.batch.message(last);
        let ticket = publish(conn, draft, &part, seal)?;
        group.open.push(entry);
        self.place += 1;
        Ok((self.place - 1, ticket))
    }

    pub(super) fn entry(&mut self, place: u64) -> Option<&mut InFlight> {
        let group = self.groups.iter_mut().rev().find(|g| g.place <= place)?;
        group.open.get_mut((place - group.place) as usize)
    }

    pub(super) fn on_answer(&mut self, answer: &Inbound, out: &mut Settled) {
        let Ok(subject) = std::str::from_utf8(answer.subject()) else {
            return;
        };
        let Some(group) = self.groups.iter_mut().find(|g| g.batch.owns(subject)) else {
            return;
        };
        let answer = read_answer(answer.payload(), answer.status());
        let settled = group.batch.on_answer(subject, &answer);
        group.settle(settled, out);
        self.groups.retain(|g| !g.batch.is_over());
    }

    pub(super) fn give_up(&mut self, why: &str, out: &mut Settled) {
        self.give_up_where(|_| true, why, out);
    }

    pub(super) fn give_up_late(&mut self, before_ns: u64, out: &mut Settled) {
        let is_late = |g: &Group| g.oldest_left_before(before_ns);
        self.give_up_where(is_late, "no ack in time", out);
    }

    fn give_up_where(&mut self, which: impl Fn(&Group) -> bool, why: &str, out: &mut Settled) {
        for group in self.groups.iter_mut().filter(|g| which(g)) {
            let settled = group.batch.give_up(why);
            group.settle(settled, out);
        }
        self.groups.retain(|g| !g.batch.is_over());
    }

    /// Commits the batch that is being filled, where all must end or its oldest message has waited
    /// for the rest; an older server would take the end of it for a message.
    pub(super) fn close(
        &mut self,
        conn: &mut Conn,
        subject: &Subject,
        all: bool,
        before_ns: u64,
    ) -> Result<()> {
        let Some(group) = self.groups.back_mut() else {
            return Ok(());
        };
        if self.ends
            && (all || group.oldest_left_before(before_ns))
            && let Some(part) = group.batch.end()
        {
            let draft = Draft {
                subject,
                headers: &[],
                body: &[],
                last: true,
            };
            publish(conn, &draft, &part, |_| {})?;
        }
        Ok(())
    }
}

impl Group {
    fn oldest_left_before(&self, before_ns: u64) -> bool {
        self.open.first().is_some_and(|e| left_before(e, before_ns))
    }

    fn settle(&mut self, settled: Vec<batch::Settled>, out: &mut Settled) {
        for piece in settled {
            let fate = fate(&piece.how);
            let from = piece.seqs.start().saturating_sub(1) as usize;
            for entry in self.open.iter().take(*piece.seqs.end() as usize).skip(from) {
                out.push((*entry, fate.clone()));
            }
        }
    }
}

fn publish(
    conn: &mut Conn,
    draft: &Draft<'_>,
    part: &Part<'_>,
    seal: impl FnOnce(&mut [u8]),
) -> Result<Ticket> {
    let mut headers = Vec::with_capacity(draft.headers.len() + 3);
    headers.extend_from_slice(draft.headers);
    headers.extend(part.headers());
    let message = Outbound {
        subject: draft.subject,
        reply: part.reply,
        headers: &headers,
        body: draft.body,
    };
    conn.publish(&message, seal)
}
