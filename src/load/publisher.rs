//! One publisher: sends what is due while its window has room, reads acks as they come, and knows
//! at the end of each message whether it was acked, refused or is unknown.
//!
//! Acks come back on one inbox whose last tokens name a slot of the window and its generation, so
//! a message costs no allocation for its reply and a late ack can never be taken for another's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::blocked::Blocked;
use super::pace::{Pace, Schedule};
use super::payload::{Builder, Pool};
use super::recorder::Recorder;
use crate::measure::alarm::Alarm;
use crate::measure::clock;
use crate::measure::histogram::Metric;
use crate::measure::identity::Identity;
use crate::measure::seqset::{Ranges, SeqSet};
use crate::nats::conn::{Conn, Inbound, Inbox, Outbound};
use crate::scenario::model::Pacing;
use crate::units::as_ns;

/// What a publisher is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Run, trial: the constant part of identities.
    pub run: u64,
    /// Trial.
    pub trial: u32,
    /// Number in the cell.
    pub id: u32,
    /// Subjects, used in turn.
    pub subjects: Vec<Subject>,
    /// Messages to publish; until it is stopped when `None`.
    pub messages: Option<u64>,
    /// In flight; `None` in core mode, which awaits no acks.
    pub window: Option<u32>,
    /// Send Nats-Msg-Id.
    pub message_id: bool,
    /// Without an answer for this long a publish is unknown.
    pub timeout: Duration,
    /// How to wait for what is due.
    pub pacing: Pacing,
}

/// How the messages of a publisher ended. Acked ones are all others.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Publisher.
    pub id: u32,
    /// Sequences 0 to this were attempted.
    pub attempted: u64,
    /// Refused by the server.
    pub refused: Ranges,
    /// Without an answer.
    pub unknown: Ranges,
    /// Refusals by cause.
    pub causes: BTreeMap<String, u64>,
    /// Messages intended in the window (open loop).
    pub offered: u64,
    /// Time in which a due message could not be sent.
    pub blocked_ns: u64,
}

impl Outcome {
    /// The acked sequences.
    pub fn acked(&self) -> Ranges {
        Ranges::of(0..self.attempted)
            .minus(&self.refused)
            .minus(&self.unknown)
    }
}

/// What a publisher tells its worker while it runs.
#[derive(Debug)]
pub struct Progress {
    /// Rung when one of the two is set; shared by the publishers of a worker.
    pub bell: Rc<Notify>,
    /// When a tenth of its messages was sent, ns since the Unix epoch (message counts only).
    pub tenth_ns: Cell<Option<u64>>,
    /// When the last of its messages was answered.
    pub done_ns: Cell<Option<u64>>,
}

impl Progress {
    /// Nothing done yet.
    pub fn new(bell: Rc<Notify>) -> Self {
        Self {
            bell,
            tenth_ns: Cell::new(None),
            done_ns: Cell::new(None),
        }
    }
}

/// When to look again, ns since the Unix epoch.
#[derive(Debug, Clone, Copy)]
enum Wake {
    /// A message is due then.
    Due(u64),
    /// The load ends then; what else may come wakes the task by itself.
    End(u64),
}

/// A slot of the window.
#[derive(Debug)]
struct Slot {
    reply: Subject,
    generation: u32,
    busy: Option<InFlight>,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    sequence: u64,
    intended_ns: u64,
    sent_ns: u64,
}

/// A publisher that is ready to run.
pub struct Publisher {
    config: Config,
    /// When messages are due; as soon as there is room when `None`.
    schedule: Option<Schedule>,
    /// The same, at the first message that is not counted as due yet.
    uncounted: Option<Schedule>,
    /// For what is offered in it (start, end), ns since the Unix epoch.
    window: Option<(u64, u64)>,
    offered: u64,
    conn: Conn,
    inbox: Option<Inbox>,
    prefix: String,
    slots: Vec<Slot>,
    free: Vec<u32>,
    pool: Rc<Pool>,
    builder: Builder,
    recorder: Rc<RefCell<Recorder>>,
    progress: Rc<Progress>,
    /// No message is sent that is due at or after this, ns since the Unix epoch.
    stop_ns: Rc<Cell<u64>>,
    next: u64,
    blocked: Blocked,
    blocked_ns: u64,
    /// When an answer made room in a full window, until the next message is sent.
    room_ns: Option<u64>,
    /// CPU time of this thread when the connection was first seen to take nothing, until the next
    /// message is sent.
    cpu_ns: Option<u64>,
    /// The load ended, and what is still due waited for the target and not for us: it stays unsent.
    overrun: Option<bool>,
    cuts_seen: u64,
    alarm: Alarm,
    sweep: Interval,
    unknown: SeqSet,
    refused: SeqSet,
    causes: BTreeMap<String, u64>,
}

impl Publisher {
    /// Subscribes to the acks and makes the window.
    pub async fn new(
        config: Config,
        conn: Conn,
        pool: Rc<Pool>,
        recorder: Rc<RefCell<Recorder>>,
        progress: Rc<Progress>,
        stop_ns: Rc<Cell<u64>>,
    ) -> anyhow::Result<Self> {
        let window = config.window.unwrap_or(0);
        let prefix = format!("{}.", conn.new_inbox());
        let inbox = match config.window {
            Some(_) => Some(conn.subscribe(format!("{prefix}*.*"), None).await?),
            None => None,
        };
        let slots = (0..window)
            .map(|slot| Slot {
                reply: reply(&prefix, slot, 0),
                generation: 0,
                busy: None,
            })
            .collect();
        let step =
            (config.timeout / 10).clamp(Duration::from_millis(5), Duration::from_millis(100));
        let mut sweep = interval(step);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            schedule: None,
            uncounted: None,
            window: None,
            offered: 0,
            cuts_seen: conn.link().cuts(),
            conn,
            inbox,
            prefix,
            slots,
            free: (0..window).rev().collect(),
            pool,
            builder: Builder::default(),
            recorder,
            progress,
            stop_ns,
            next: 0,
            blocked: Blocked::default(),
            blocked_ns: 0,
            room_ns: None,
            cpu_ns: None,
            overrun: None,
            alarm: Alarm::new()?,
            sweep,
            unknown: SeqSet::new(),
            refused: SeqSet::new(),
            causes: BTreeMap::new(),
            config,
        })
    }

    /// Its number in the cell.
    pub fn id(&self) -> u32 {
        self.config.id
    }

    /// Publishes until it is stopped or through, and every message has its outcome. Without a
    /// `pace` (and the common start, ns since the Unix epoch) a message is due as soon as there is room. `window` is (start, end) in ns since
    /// the Unix epoch, for what is offered in it.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub async fn run(
        mut self,
        pace: Option<(Pace, u64)>,
        window: Option<(u64, u64)>,
    ) -> anyhow::Result<Outcome> {
        let schedule = || {
            pace.as_ref()
                .map(|(pace, start_ns)| Schedule::new(pace, self.config.id, *start_ns))
        };
        (self.schedule, self.uncounted) = (schedule(), schedule());
        self.window = window;
        poll_fn(|cx| self.poll(cx)).await?;
        self.end_blocked(clock::now_ns().min(self.stop_ns.get()));
        if self.config.window.is_none() {
            self.conn.flush().await?;
        }
        self.count_due(clock::now_ns());
        self.progress.done_ns.set(Some(clock::now_ns()));
        self.progress.bell.notify_one();
        self.leave_unsent();
        Ok(Outcome {
            id: self.config.id,
            attempted: self.next,
            refused: self.refused.ranges(),
            unknown: self.unknown.ranges(),
            causes: self.causes,
            offered: self.offered,
            blocked_ns: self.blocked_ns,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        loop {
            let mut moved = self.read_acks(cx)?;
            let (sent, wake) = self.send_due(cx)?;
            moved |= sent;
            while self.sweep.poll_tick(cx).is_ready() {
                self.give_up_on_late();
                self.count_due(clock::now_ns());
            }
            if self.is_through() {
                return Poll::Ready(Ok(()));
            }
            match wake {
                // Again, after the others of this event loop.
                Some(Wake::Due(_)) if self.config.pacing == Pacing::Spin => {
                    cx.waker().wake_by_ref();
                }
                Some(Wake::Due(at_ns) | Wake::End(at_ns)) => {
                    moved |= self.alarm.poll_at(cx, at_ns).is_ready();
                }
                None => {}
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Nothing more will be sent, and everything sent has its outcome.
    fn is_through(&self) -> bool {
        self.free.len() == self.slots.len() && self.is_sent(clock::now_ns())
    }

    /// Nothing more will be sent. What was due before the end is sent after it when we were late;
    /// where the target kept it waiting, it stays unsent and its wait is on record.
    fn is_sent(&self, now_ns: u64) -> bool {
        let stop_ns = self.stop_ns.get();
        self.config.messages == Some(self.next)
            || now_ns >= stop_ns
                && (self.overrun == Some(true)
                    || now_ns >= self.last_ns()
                    || self.schedule.as_ref().is_none_or(|s| s.due_ns() >= stop_ns))
    }

    /// When also those give up that we were late with, ns since the Unix epoch.
    fn last_ns(&self) -> u64 {
        self.stop_ns
            .get()
            .saturating_add(as_ns(self.config.timeout))
    }

    /// The load has ended: who kept the message waiting that is due next, by the greater part of its
    /// wait. Decided once: what waits from here on waits because it is sent late.
    fn settle(&mut self, due_ns: u64, now_ns: u64) {
        if self.overrun.is_none() {
            let until_ns = self.room_ns.unwrap_or(now_ns).min(now_ns);
            let theirs_ns = self.blocked.since(due_ns) + self.blocked.open(due_ns, until_ns);
            self.overrun = Some(theirs_ns * 2 > now_ns.saturating_sub(due_ns));
        }
    }

    /// Sends what is due; says whether it sent, and when to look again.
    fn send_due(&mut self, cx: &mut Context<'_>) -> anyhow::Result<(bool, Option<Wake>)> {
        let mut sent_any = false;
        loop {
            let now_ns = clock::now_ns();
            if self.is_sent(now_ns) {
                return Ok((sent_any, None));
            }
            let end_ns = if now_ns < self.stop_ns.get() {
                self.stop_ns.get()
            } else {
                self.last_ns()
            };
            let due_ns = match &self.schedule {
                Some(schedule) => {
                    let due_ns = schedule.due_ns();
                    if due_ns >= self.stop_ns.get() {
                        return Ok((sent_any, Some(Wake::End(self.stop_ns.get()))));
                    }
                    if due_ns > now_ns {
                        return Ok((sent_any, Some(Wake::Due(due_ns))));
                    }
                    due_ns
                }
                None => now_ns,
            };
            if now_ns >= self.stop_ns.get() {
                self.settle(due_ns, now_ns);
                if self.overrun == Some(true) {
                    return Ok((sent_any, None));
                }
            }
            let has_room = self.config.window.is_none() || !self.free.is_empty();
            if !has_room || !self.conn.link().is_up() || self.conn.poll_ready(cx)?.is_pending() {
                if has_room {
                    // The socket or the connection is what blocks now.
                    self.room_ns = None;
                    self.cpu_ns.get_or_insert_with(clock::thread_cpu_ns);
                }
                self.blocked.begin(now_ns);
                return Ok((sent_any, Some(Wake::End(end_ns))));
            }
            self.send(due_ns)?;
            sent_any = true;
        }
    }

    fn send(&mut self, due_ns: u64) -> anyhow::Result<()> {
        let sent_ns = clock::now_ns();
        let intended_ns = if self.schedule.is_some() {
            due_ns
        } else {
            sent_ns
        };
        self.end_blocked(sent_ns);
        // One by one as they are sent; what waits is counted by the sweep.
        self.count_due(intended_ns + 1);
        let excused_ns = self.blocked.since(intended_ns);
        {
            let mut recorder = self.recorder.borrow_mut();
            recorder.sent(sent_ns, self.config.window.is_some());
            if self.schedule.is_some() {
                recorder.time(Metric::Lag, intended_ns, intended_ns + excused_ns, sent_ns);
            }
        }
        let sequence = self.next;
        let identity = Identity {
            run: self.config.run,
            publisher: self.config.id,
            sequence,
            intended_ns,
            trial: self.config.trial,
        };
        let reply = match self.free.pop() {
            Some(slot) => {
                let slot = &mut self.slots[slot as usize];
                slot.busy = Some(InFlight {
                    sequence,
                    intended_ns,
                    sent_ns,
                });
                Some(slot.reply.clone())
            }
            None => None,
        };
        self.next += 1;
        if let Some(schedule) = &mut self.schedule {
            schedule.advance();
        }
        self.note_tenth(sent_ns);
        let subjects = &self.config.subjects;
        self.conn.start_send(Outbound {
            subject: subjects[(sequence % subjects.len() as u64) as usize].clone(),
            reply,
            headers: self.config.message_id.then(|| message_id(&identity)),
            payload: self.builder.build(&self.pool, &identity),
        })
    }

    /// There is room, or the load is over. A spell ends when the answer that made room arrived, not
    /// when this task came to it: what lies between is the driver's own lateness. So is the time in
    /// which this thread was busy while its connection took nothing.
    fn end_blocked(&mut self, now_ns: u64) {
        // In closed loop the next message is always waiting.
        let waiting_since_ns = self.schedule.as_ref().map_or(0, Schedule::due_ns);
        let until_ns = match (self.cpu_ns.take(), self.room_ns.take()) {
            (Some(cpu_ns), _) => {
                let busy_ns = clock::thread_cpu_ns().saturating_sub(cpu_ns);
                now_ns.saturating_sub(busy_ns)
            }
            (None, Some(room_ns)) => room_ns.min(now_ns),
            (None, None) => now_ns,
        };
        let waited_ns = self.blocked.end(until_ns, waiting_since_ns);
        self.blocked_ns += waited_ns;
        self.recorder.borrow_mut().blocked(waited_ns);
    }

    /// Counts what became due before `now_ns`.
    fn count_due(&mut self, now_ns: u64) {
        let Some(schedule) = &mut self.uncounted else {
            return;
        };
        let limit = self.config.messages.unwrap_or(u64::MAX);
        let until_ns = now_ns.min(self.stop_ns.get());
        let mut recorder = self.recorder.borrow_mut();
        while schedule.due_ns() < until_ns && schedule.index() < limit {
            let due_ns = schedule.due_ns();
            recorder.intended(due_ns);
            if self
                .window
                .is_some_and(|(start, end)| due_ns >= start && due_ns < end)
            {
                self.offered += 1;
            }
            schedule.advance();
        }
    }

    fn note_tenth(&self, now_ns: u64) {
        if let Some(messages) = self.config.messages
            && self.progress.tenth_ns.get().is_none()
            && self.next * 10 >= messages
        {
            self.progress.tenth_ns.set(Some(now_ns));
            self.progress.bell.notify_one();
        }
    }

    fn read_acks(&mut self, cx: &mut Context<'_>) -> anyhow::Result<bool> {
        self.after_a_cut();
        let mut any = false;
        while let Some(inbox) = &mut self.inbox {
            match inbox.poll_next(cx) {
                Poll::Ready(Some(answer)) => {
                    any = true;
                    self.on_answer(&answer);
                }
                Poll::Ready(None) => {
                    anyhow::bail!("the connection of publisher {} closed", self.config.id)
                }
                Poll::Pending => break,
            }
        }
        Ok(any)
    }

    fn on_answer(&mut self, answer: &Inbound) {
        let Some((slot, generation)) = slot_of(&self.prefix, answer.subject.as_str()) else {
            return;
        };
        let Some(entry) = self.slots.get_mut(slot as usize) else {
            return;
        };
        // An ack of an earlier generation is of a message that is unknown already.
        if entry.generation != generation {
            return;
        }
        let Some(sent) = entry.busy.take() else {
            return;
        };
        let at_ns = clock::ns_of(answer.at);
        if self.free.is_empty() && self.conn.link().is_up() {
            self.room_ns = Some(at_ns);
        }
        self.free.push(slot);
        match refusal(answer) {
            None => {
                let mut recorder = self.recorder.borrow_mut();
                recorder.acked(at_ns);
                recorder.time(Metric::Service, sent.intended_ns, sent.sent_ns, at_ns);
                if self.schedule.is_some() {
                    recorder.time(Metric::Response, sent.intended_ns, sent.intended_ns, at_ns);
                }
            }
            Some(cause) => {
                self.refused.insert(sent.sequence);
                *self.causes.entry(cause).or_default() += 1;
                self.recorder.borrow_mut().refused();
            }
        }
    }

    /// What was in flight when the connection was cut is unknown.
    fn after_a_cut(&mut self) {
        let cuts = self.conn.link().cuts();
        if cuts != self.cuts_seen {
            self.cuts_seen = cuts;
            let now_ns = clock::now_ns();
            for slot in 0..self.slots.len() {
                self.give_up(slot, now_ns);
            }
        }
    }

    fn give_up_on_late(&mut self) {
        let now_ns = clock::now_ns();
        let timeout_ns = as_ns(self.config.timeout);
        for slot in 0..self.slots.len() {
            if self.slots[slot]
                .busy
                .is_some_and(|f| now_ns.saturating_sub(f.sent_ns) >= timeout_ns)
            {
                self.give_up(slot, now_ns);
            }
        }
    }

    fn give_up(&mut self, slot: usize, now_ns: u64) {
        let entry = &mut self.slots[slot];
        let Some(sent) = entry.busy.take() else {
            return;
        };
        entry.generation = entry.generation.wrapping_add(1);
        entry.reply = reply(&self.prefix, slot as u32, entry.generation);
        self.free.push(slot as u32);
        self.unknown.insert(sent.sequence);
        let mut recorder = self.recorder.borrow_mut();
        recorder.unknown();
        recorder.at_least(Metric::Service, sent.intended_ns, sent.sent_ns, now_ns);
        if self.schedule.is_some() {
            recorder.at_least(Metric::Response, sent.intended_ns, sent.intended_ns, now_ns);
        }
    }

    /// Messages that were due and could not be sent before the load ended: their wait counts.
    fn leave_unsent(&mut self) {
        let Some(schedule) = &mut self.schedule else {
            return;
        };
        if self.config.window.is_none() {
            return;
        }
        let limit = self.config.messages.unwrap_or(u64::MAX);
        let stop_ns = self.stop_ns.get().min(clock::now_ns());
        let mut recorder = self.recorder.borrow_mut();
        while schedule.due_ns() < stop_ns && schedule.index() < limit {
            let due_ns = schedule.due_ns();
            let excused_ns = self.blocked.since(due_ns);
            let from_ns = (due_ns + excused_ns).min(stop_ns);
            recorder.at_least(Metric::Lag, due_ns, from_ns, stop_ns);
            recorder.at_least(Metric::Response, due_ns, due_ns, stop_ns);
            schedule.advance();
        }
    }
}

fn reply(prefix: &str, slot: u32, generation: u32) -> Subject {
    format!("{prefix}{slot}.{generation}").into()
}

fn slot_of(prefix: &str, subject: &str) -> Option<(u32, u32)> {
    let (slot, generation) = subject.strip_prefix(prefix)?.split_once('.')?;
    Some((slot.parse().ok()?, generation.parse().ok()?))
}

fn message_id(identity: &Identity) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let id = format!(
        "{:016x}-{}-{}-{}",
        identity.run, identity.trial, identity.publisher, identity.sequence
    );
    headers.insert("Nats-Msg-Id", id);
    headers
}

/// Why the server refused, or `None` for an ack.
fn refusal(answer: &Inbound) -> Option<String> {
    // A PubAck begins with its stream; everything else is looked at closely.
    if answer.payload.starts_with(b"{\"stream\":") {
        return None;
    }
    if answer.status == Some(503) {
        return Some("no responders".to_owned());
    }
    Some(error_of(&answer.payload))
}

#[cold]
fn error_of(payload: &Bytes) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
    let error = parsed.as_ref().and_then(|v| v.get("error"));
    match error {
        Some(error) => {
            let code = error
                .get("err_code")
                .and_then(serde_json::Value::as_u64)
                .unwrap_or_default();
            let text = error
                .get("description")
                .and_then(serde_json::Value::as_str)
                .unwrap_or("no description");
            format!("{code} {text}")
        }
        None => "an answer that is no PubAck".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_name_their_slot_and_generation() {
        let subject = reply("_INBOX.x.", 17, 3);
        assert_eq!(slot_of("_INBOX.x.", subject.as_str()), Some((17, 3)));
        assert_eq!(slot_of("_INBOX.y.", subject.as_str()), None);
        assert_eq!(slot_of("_INBOX.x.", "_INBOX.x.a.b"), None);
    }

    #[test]
    fn refusals_keep_their_cause() {
        let body = Bytes::from_static(
            br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}"#,
        );
        assert_eq!(error_of(&body), "10077 maximum bytes exceeded");
        assert_eq!(
            error_of(&Bytes::from_static(b"junk")),
            "an answer that is no PubAck"
        );
    }
}
