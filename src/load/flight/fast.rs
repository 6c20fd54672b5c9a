//! Messages of fast-ingest batches, one batch after another: an ack settles all up to it.

use std::collections::VecDeque;

use anyhow::Result;
use async_nats::Subject;

use super::{Draft, InFlight, Settled, fate, left_before};
use crate::nats::batch::fast::Fast;
use crate::nats::batch::{self, read_answer};
use crate::nats::conn::{Conn, Inbound, Outbound, Ticket};

/// The batch that is open, and its messages.
pub struct FastIngest {
    inbox: String,
    name: String,
    window: u32,
    flow: u32,
    /// Batches begun.
    batches: u64,
    batch: Option<Fast>,
    /// Messages not settled, oldest first; `None` where one was settled ahead of others.
    open: VecDeque<Option<InFlight>>,
    /// Batch sequence of the first of them.
    first: u64,
    /// Place of the first of them; places never repeat.
    place: u64,
    /// When the last message was handed over, ns since the Unix epoch.
    touched_ns: u64,
    /// When the end of the batch was sent, ns since the Unix epoch.
    closing_ns: Option<u64>,
}

impl FastIngest {
    pub(super) fn new(inbox: &str, name: &str, window: u32, flow: u32) -> Self {
        Self {
            inbox: inbox.to_owned(),
            name: name.to_owned(),
            window,
            flow,
            batches: 0,
            batch: None,
            open: VecDeque::new(),
            first: 1,
            place: 0,
            touched_ns: 0,
            closing_ns: None,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.batch.as_ref().is_none_or(Fast::may_send)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn launch(
        &mut self,
        conn: &mut Conn,
        draft: &Draft<'_>,
        entry: InFlight,
        seal: impl FnOnce(&mut [u8]),
    ) -> Result<(u64, Ticket)> {
        if self.batch.is_none() {
            self.batches += 1;
            self.first = 1;
            let id = format!("{}-{}", self.name, self.batches);
            self.batch = Some(Fast::new(&self.inbox, &id, self.flow, self.window)?);
        }
        let batch = self.batch.as_mut().expect("made above");
        let ticket = conn.publish(&draft.with(Some(batch.reply())), seal)?;
        let place = self.place + self.open.len() as u64;
        self.touched_ns = entry.handed_ns;
        self.open.push_back(Some(entry));
        Ok((place, ticket))
    }

    pub(super) fn entry(&mut self, place: u64) -> Option<&mut InFlight> {
        let at = place.checked_sub(self.place)?;
        self.open.get_mut(at as usize)?.as_mut()
    }

    pub(super) fn on_answer(&mut self, answer: &Inbound, out: &mut Settled) {
        let Some(batch) = &mut self.batch else { return };
        let Ok(subject) = std::str::from_utf8(answer.subject()) else {
            return;
        };
        let settled = batch.on_answer(subject, &read_answer(answer.payload(), answer.status()));
        self.settle(settled, out);
    }

    pub(super) fn give_up(&mut self, why: &str, out: &mut Settled) {
        if let Some(batch) = &mut self.batch {
            let settled = batch.give_up(why);
            self.settle(settled, out);
        }
    }

    pub(super) fn give_up_late(&mut self, before_ns: u64, out: &mut Settled) {
        // Its end may be all that has no answer.
        let unanswered = self.closing_ns.is_some_and(|at_ns| at_ns < before_ns);
        if self.oldest_left_before(before_ns) || unanswered {
            self.give_up("no ack in time", out);
        }
    }

    /// Ends the batch where it must be, where its oldest message has waited for its group, and where
    /// nothing was sent for so long that the server may be about to abandon it.
    pub(super) fn close(
        &mut self,
        conn: &mut Conn,
        subject: &Subject,
        all: bool,
        before_ns: u64,
        now_ns: u64,
    ) -> Result<()> {
        let waits = all && !self.open.is_empty()
            || self.oldest_left_before(before_ns)
            || self.touched_ns < before_ns;
        let Some(batch) = &mut self.batch else {
            return Ok(());
        };
        if (waits && !batch.is_closed() || batch.must_close())
            && let Some(reply) = batch.close()
        {
            let end = Outbound {
                subject,
                reply: Some(reply),
                headers: &[],
                body: &[],
            };
            conn.publish(&end, |_| {})?;
            self.closing_ns = Some(now_ns);
        }
        Ok(())
    }

    fn oldest_left_before(&self, before_ns: u64) -> bool {
        let oldest = self.open.iter().flatten().next();
        oldest.is_some_and(|entry| left_before(entry, before_ns))
    }

    fn settle(&mut self, settled: Vec<batch::Settled>, out: &mut Settled) {
        for piece in settled {
            let fate = fate(&piece.how);
            let (from, to) = (*piece.seqs.start(), *piece.seqs.end());
            if from <= self.first {
                // The oldest ones, as nearly always.
                let count = ((to + 1).saturating_sub(self.first)).min(self.open.len() as u64);
                let entries = self.open.drain(..count as usize).flatten();
                out.extend(entries.map(|entry| (entry, fate.clone())));
                self.pass(count);
            } else {
                for sequence in from..=to {
                    let at = (sequence - self.first) as usize;
                    if let Some(entry) = self.open.get_mut(at).and_then(Option::take) {
                        out.push((entry, fate.clone()));
                    }
                }
            }
            while let Some(None) = self.open.front() {
                self.open.pop_front();
                self.pass(1);
            }
        }
        if self.batch.as_ref().is_some_and(Fast::is_over) {
            self.batch = None;
            self.closing_ns = None;
        }
    }

    /// So many of the oldest messages are gone.
    fn pass(&mut self, count: u64) {
        self.first += count;
        self.place += count;
    }
}
