//! One publisher: sends what is due while its window has room, reads acks as they come, and knows
//! at the end of each message whether it was acked, refused or is unknown. Which message an answer
//! is about is for `super::flight` to tell.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::Subject;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::blocked::Blocked;
use super::flight::{Acks, Draft, Fate, Flight, InFlight, Settled};
use super::pace::{Pace, Schedule};
use super::payload::Pool;
use super::recorder::Recorder;
use crate::measure::alarm::Alarm;
use crate::measure::clock;
use crate::measure::histogram::Metric;
use crate::measure::identity::Identity;
use crate::measure::seqset::{Ranges, SeqSet};
use crate::nats::batch::SERVER_IDLE_LIMIT;
use crate::nats::conn::{Conn, Inbox, Ticket};
use crate::scenario::model::Pacing;
use crate::units::as_ns;

/// Messages between two looks at the clock, while more are to be sent.
const BURST: u32 = 64;

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
    /// How they are acked, and how many may be in flight.
    pub acks: Acks,
    /// Send Nats-Msg-Id.
    pub message_id: bool,
    /// Share of messages that are sent once more with the same id.
    pub duplicate_ratio: f64,
    /// Headers of each message.
    pub headers: Vec<(String, String)>,
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
    /// Messages that were sent once more, under the same id.
    pub repeated: u64,
    /// Of them those that the server knew by their id.
    pub deduplicated: u64,
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

/// A message that was handed over and has not left, as far as is known.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    ticket: Ticket,
    /// Its place in flight.
    place: u64,
    sequence: u64,
    intended_ns: u64,
    /// Of its time until it was handed over, what is not ours.
    excused_ns: u64,
    /// How long the socket had taken nothing when it was handed over, all in all.
    blocked: Duration,
    repeat: bool,
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
    flight: Flight,
    /// Not known to have left, oldest first.
    leaving: VecDeque<Leaving>,
    /// To be sent once more.
    repeat: Option<InFlight>,
    /// Scratch for what an answer settles.
    settled: Settled,
    pool: Rc<Pool>,
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
    /// How long the socket had taken nothing at the last write that was looked at, all in all.
    socket_blocked: Duration,
    /// The spell in which nothing can be sent is counted with a message that waits for its write.
    counted: bool,
    /// The load ended, and what is still due waited for the target and not for us: it stays unsent.
    overrun: Option<bool>,
    cuts_seen: u64,
    alarm: Alarm,
    sweep: Interval,
    unknown: SeqSet,
    refused: SeqSet,
    causes: BTreeMap<Rc<str>, u64>,
    repeated: u64,
    deduplicated: u64,
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
        let inbox = conn.new_inbox();
        let name = format!("{:016x}-{}-{}", config.run, config.trial, config.id);
        let flight = Flight::new(config.acks, &inbox, &name);
        let inbox = match flight.answers(&inbox) {
            Some(subject) => Some(conn.subscribe(subject, None).await?),
            None => None,
        };
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
            flight,
            leaving: VecDeque::new(),
            repeat: None,
            settled: Vec::new(),
            pool,
            recorder,
            progress,
            stop_ns,
            next: 0,
            blocked: Blocked::default(),
            blocked_ns: 0,
            room_ns: None,
            cpu_ns: None,
            socket_blocked: Duration::ZERO,
            counted: false,
            overrun: None,
            alarm: Alarm::new()?,
            sweep,
            unknown: SeqSet::new(),
            refused: SeqSet::new(),
            causes: BTreeMap::new(),
            repeated: 0,
            deduplicated: 0,
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
        // A socket that takes nothing any more keeps nobody longer than an ack would.
        if let Ok(flushed) = tokio::time::timeout(self.config.timeout, self.conn.flush()).await {
            flushed?;
        }
        self.note_left();
        self.count_due(clock::now_ns());
        self.progress.done_ns.set(Some(clock::now_ns()));
        self.progress.bell.notify_one();
        self.leave_unsent();
        Ok(Outcome {
            id: self.config.id,
            attempted: self.next,
            refused: self.refused.ranges(),
            unknown: self.unknown.ranges(),
            causes: self
                .causes
                .into_iter()
                .map(|(cause, n)| (cause.to_string(), n))
                .collect(),
            repeated: self.repeated,
            deduplicated: self.deduplicated,
            offered: self.offered,
            blocked_ns: self.blocked_ns,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        loop {
            self.note_left();
            let mut moved = self.read_acks(cx)?;
            let (sent, wake) = self.send_due(cx)?;
            while self.sweep.poll_tick(cx).is_ready() {
                moved |= self.tend(cx)?;
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
            if sent {
                // More is due already. What was handed over leaves when the connection's own task has
                // its turn, and then the event loop looks at its sockets: both before ours comes again.
                return pin!(tokio::task::yield_now()).poll(cx).map(Ok);
            }
        }
    }

    /// Nothing more will be sent, and everything sent has its outcome.
    fn is_through(&self) -> bool {
        self.flight.is_empty() && self.is_sent(clock::now_ns())
    }

    /// Nothing more will be sent. What was due before the end is sent after it when we were late;
    /// where the target kept it waiting, it stays unsent and its wait is on record.
    fn is_sent(&self, now_ns: u64) -> bool {
        let stop_ns = self.stop_ns.get();
        self.config.messages == Some(self.next) && self.repeat.is_none()
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
        let mut sent = 0;
        let mut now_ns = clock::now_ns();
        loop {
            if sent % BURST == BURST - 1 {
                now_ns = clock::now_ns();
            }
            if now_ns >= self.stop_ns.get() {
                // Only what is due is still sent.
                self.repeat = None;
            }
            if self.is_sent(now_ns) {
                self.close_groups(cx, true, 0)?;
                return Ok((sent > 0, None));
            }
            let end_ns = if now_ns < self.stop_ns.get() {
                self.stop_ns.get()
            } else {
                self.last_ns()
            };
            let due_ns = match &self.schedule {
                Some(schedule) if self.repeat.is_none() => {
                    let due_ns = schedule.due_ns();
                    if due_ns >= self.stop_ns.get() {
                        return Ok((sent > 0, Some(Wake::End(self.stop_ns.get()))));
                    }
                    if due_ns > now_ns {
                        now_ns = clock::now_ns();
                    }
                    if due_ns > now_ns {
                        return Ok((sent > 0, Some(Wake::Due(due_ns))));
                    }
                    due_ns
                }
                _ => now_ns,
            };
            if now_ns >= self.stop_ns.get() {
                self.settle(due_ns, now_ns);
                if self.overrun == Some(true) {
                    return Ok((sent > 0, None));
                }
            }
            let has_room = self.flight.has_room();
            if !has_room || !self.conn.link().is_up() || self.conn.poll_ready(cx)?.is_pending() {
                self.begin_blocked(has_room, now_ns);
                return Ok((sent > 0, Some(Wake::End(end_ns))));
            }
            self.end_blocked(now_ns);
            match self.repeat.take() {
                Some(entry) => self.send_again(entry, now_ns)?,
                None => self.send(due_ns, now_ns)?,
            }
            sent += 1;
        }
    }

    /// Sends the next message. In closed loop it is intended now, at `due_ns`.
    fn send(&mut self, due_ns: u64, now_ns: u64) -> anyhow::Result<()> {
        // One by one as they are sent; what waits is counted by the sweep.
        self.count_due(due_ns + 1);
        let entry = InFlight {
            sequence: self.next,
            intended_ns: due_ns,
            handed_ns: now_ns,
            sent_ns: None,
            repeat: false,
        };
        self.next += 1;
        if let Some(schedule) = &mut self.schedule {
            schedule.advance();
        }
        self.note_tenth(due_ns);
        if is_repeated(self.config.run, entry.sequence, self.config.duplicate_ratio) {
            self.repeat = Some(InFlight {
                repeat: true,
                ..entry
            });
        }
        self.launch(entry)
    }

    fn send_again(&mut self, entry: InFlight, now_ns: u64) -> anyhow::Result<()> {
        self.repeated += 1;
        self.launch(InFlight {
            handed_ns: now_ns,
            ..entry
        })
    }

    fn launch(&mut self, entry: InFlight) -> anyhow::Result<()> {
        let config = &self.config;
        let identity = Identity {
            run: config.run,
            publisher: config.id,
            sequence: entry.sequence,
            intended_ns: entry.intended_ns,
            trial: config.trial,
        };
        let subjects = &config.subjects;
        let id;
        let mut headers: Vec<(&str, &str)> = Vec::new();
        if config.message_id || !config.headers.is_empty() {
            headers.extend(config.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        }
        if config.message_id {
            id = message_id(&identity);
            headers.push(("Nats-Msg-Id", &id));
        }
        let draft = Draft {
            subject: &subjects[(entry.sequence % subjects.len() as u64) as usize],
            headers: &headers,
            body: self.pool.body(entry.sequence),
            last: config.messages == Some(self.next) && self.repeat.is_none(),
        };
        let (place, ticket) = self
            .flight
            .launch(&mut self.conn, &draft, entry, |payload| {
                identity.seal(payload);
            })?;
        let excused_ns = match self.schedule {
            Some(_) if !entry.repeat => self.blocked.since(entry.intended_ns),
            _ => 0,
        };
        self.leaving.push_back(Leaving {
            ticket,
            place,
            sequence: entry.sequence,
            intended_ns: entry.intended_ns,
            excused_ns,
            blocked: self.conn.blocked(),
            repeat: entry.repeat,
        });
        Ok(())
    }

    /// Takes note of messages that left: stamps them, and says how late they were.
    fn note_left(&mut self) {
        let awaits_ack = self.config.acks != Acks::None;
        while let Some(first) = self.leaving.front() {
            let Some(left) = self.conn.left(first.ticket) else {
                return;
            };
            let at_ns = clock::ns_of(left.at);
            let mut count = 0;
            let mut recorder = self.recorder.borrow_mut();
            // The first of them waited for all of the spells since it was handed over, of which those
            // before an earlier write are counted already.
            let from = first.blocked.max(self.socket_blocked);
            self.socket_blocked = left.blocked;
            let waited_ns = as_ns(left.blocked.saturating_sub(from));
            self.blocked_ns += waited_ns;
            recorder.blocked(waited_ns);
            while let Some(leaving) = self.leaving.front().copied() {
                if leaving.ticket > left.up_to {
                    break;
                }
                self.leaving.pop_front();
                self.flight.left(leaving.place, leaving.sequence, at_ns);
                if leaving.repeat {
                    continue;
                }
                count += 1;
                if self.schedule.is_some() {
                    let intended_ns = leaving.intended_ns;
                    let blocked_ns = as_ns(left.blocked.saturating_sub(leaving.blocked));
                    let from_ns = intended_ns + leaving.excused_ns + blocked_ns;
                    let from_ns = from_ns.min(at_ns.max(intended_ns));
                    recorder.time(Metric::Lag, intended_ns, from_ns, at_ns);
                }
            }
            recorder.sent(at_ns, awaits_ack, count);
        }
    }

    /// A due message cannot be sent: its window is full, or the connection takes nothing.
    fn begin_blocked(&mut self, has_room: bool, now_ns: u64) {
        if !has_room {
            self.blocked.begin(now_ns);
            return;
        }
        self.room_ns = None;
        if !self.conn.knows_its_socket() {
            self.cpu_ns.get_or_insert_with(clock::thread_cpu_ns);
            self.blocked.begin(now_ns);
        } else if !self.conn.link().is_up() {
            self.blocked.begin(now_ns);
        } else if self.conn.blocked_since().is_some() {
            self.blocked.begin(now_ns);
            // Then the oldest message that has not left waits for the same spell, and counts it.
            self.counted = !self.leaving.is_empty();
        }
        // Else our own task has not had its turn.
    }

    /// There is room, or the load is over. A spell ends when the answer that made room arrived, not
    /// when this task came to it: what lies between is the driver's own lateness. So is the time in
    /// which this thread was busy while its connection took nothing, where the connection cannot
    /// tell when it did.
    fn end_blocked(&mut self, now_ns: u64) {
        if !self.blocked.is_open() {
            (self.cpu_ns, self.room_ns) = (None, None);
            return;
        }
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
        if !std::mem::take(&mut self.counted) {
            self.blocked_ns += waited_ns;
            self.recorder.borrow_mut().blocked(waited_ns);
        }
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
        let was_full = !self.flight.has_room();
        // Answers of one read have one time, and are recorded together.
        let mut read: Option<Instant> = None;
        while let Some(inbox) = &mut self.inbox {
            match inbox.poll_next(cx) {
                Poll::Ready(Some(answer)) => {
                    if let Some(at) = read.filter(|at| *at != answer.at) {
                        self.settle_all(clock::ns_of(at));
                    }
                    read = Some(answer.at);
                    self.flight.on_answer(&answer, &mut self.settled);
                    if was_full
                        && self.room_ns.is_none()
                        && self.flight.has_room()
                        && self.conn.link().is_up()
                    {
                        self.room_ns = Some(clock::ns_of(answer.at));
                    }
                }
                Poll::Ready(None) => {
                    anyhow::bail!("the connection of publisher {} closed", self.config.id)
                }
                Poll::Pending => break,
            }
        }
        if let Some(at) = read {
            self.settle_all(clock::ns_of(at));
        }
        // What had an answer before the cut has it.
        Ok(self.after_a_cut() || read.is_some())
    }

    /// Records what was settled at `at_ns`.
    fn settle_all(&mut self, at_ns: u64) {
        let mut settled = std::mem::take(&mut self.settled);
        let mut recorder = self.recorder.borrow_mut();
        let mut acked = Run::default();
        for (entry, fate) in settled.drain(..) {
            if entry.repeat {
                self.deduplicated += u64::from(fate == Fate::Acked { duplicate: true });
                continue;
            }
            match fate {
                Fate::Acked { .. } => {
                    if !acked.takes(&entry) {
                        acked.record(&mut recorder, at_ns, self.schedule.is_some());
                        acked = Run::of(&entry);
                    }
                }
                Fate::Refused(cause) => {
                    self.refused.insert(entry.sequence);
                    *self.causes.entry(cause).or_default() += 1;
                    recorder.refused();
                }
                Fate::Unknown => {
                    self.unknown.insert(entry.sequence);
                    recorder.unknown();
                    let intended_ns = entry.intended_ns;
                    let sent_ns = entry.sent_ns.unwrap_or(at_ns);
                    recorder.at_least(Metric::Service, intended_ns, sent_ns, at_ns);
                    if self.schedule.is_some() {
                        recorder.at_least(Metric::Response, intended_ns, intended_ns, at_ns);
                    }
                }
            }
        }
        acked.record(&mut recorder, at_ns, self.schedule.is_some());
        drop(recorder);
        self.settled = settled;
    }

    /// What was in flight when the connection was cut is unknown; says whether it was.
    fn after_a_cut(&mut self) -> bool {
        let cuts = self.conn.link().cuts();
        if cuts == self.cuts_seen {
            return false;
        }
        self.cuts_seen = cuts;
        self.flight
            .give_up("the connection was cut", &mut self.settled);
        self.settle_all(clock::now_ns());
        true
    }

    /// Now and then: gives up what waits too long, ends groups that do not fill.
    fn tend(&mut self, cx: &mut Context<'_>) -> anyhow::Result<bool> {
        let now_ns = clock::now_ns();
        let timeout_ns = as_ns(self.config.timeout);
        self.flight
            .give_up_late(now_ns.saturating_sub(timeout_ns), &mut self.settled);
        let gave_up = !self.settled.is_empty();
        self.settle_all(now_ns);
        if self.conn.link().is_up() {
            let patience_ns = (timeout_ns / 2).min(as_ns(SERVER_IDLE_LIMIT) / 2);
            self.close_groups(cx, false, now_ns.saturating_sub(patience_ns))?;
        }
        self.count_due(now_ns);
        Ok(gave_up)
    }

    /// Ends groups as [`Flight::close_groups`] says, once the connection takes what that sends.
    fn close_groups(
        &mut self,
        cx: &mut Context<'_>,
        all: bool,
        before_ns: u64,
    ) -> anyhow::Result<()> {
        let groups = matches!(self.config.acks, Acks::Atomic { .. } | Acks::Fast { .. });
        if groups && self.conn.poll_ready(cx)?.is_ready() {
            let subject = &self.config.subjects[0];
            self.flight
                .close_groups(&mut self.conn, subject, all, before_ns, clock::now_ns())?;
        }
        Ok(())
    }

    /// Messages that were due and could not be sent before the load ended: their wait counts.
    fn leave_unsent(&mut self) {
        let Some(schedule) = &mut self.schedule else {
            return;
        };
        if self.config.acks == Acks::None {
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

/// Messages with the same times: one look at the record for all of them.
#[derive(Debug, Default)]
struct Run {
    intended_ns: u64,
    sent_ns: Option<u64>,
    count: u64,
}

impl Run {
    fn of(entry: &InFlight) -> Self {
        Self {
            intended_ns: entry.intended_ns,
            sent_ns: entry.sent_ns,
            count: 1,
        }
    }

    /// Takes in a message with the same times.
    fn takes(&mut self, entry: &InFlight) -> bool {
        let same = self.intended_ns == entry.intended_ns && self.sent_ns == entry.sent_ns;
        self.count += u64::from(same);
        same
    }

    fn record(&self, recorder: &mut Recorder, at_ns: u64, open_loop: bool) {
        let (intended_ns, count) = (self.intended_ns, self.count);
        if count == 0 {
            return;
        }
        recorder.acked(at_ns, count);
        let sent_ns = self.sent_ns.unwrap_or(at_ns);
        recorder.times(Metric::Service, intended_ns, sent_ns, at_ns, count);
        if open_loop {
            recorder.times(Metric::Response, intended_ns, intended_ns, at_ns, count);
        }
    }
}

/// Whether a message is one of those that are sent once more: a share of all, always the same.
fn is_repeated(run: u64, sequence: u64, ratio: f64) -> bool {
    if ratio <= 0.0 {
        return false;
    }
    // SplitMix64's finalizer (Steele, Lea, Flood 2014) spreads the sequence over 64 bits.
    let mut z = (run ^ sequence).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) as f64) < ratio * u64::MAX as f64
}

fn message_id(identity: &Identity) -> String {
    format!(
        "{:016x}-{}-{}-{}",
        identity.run, identity.trial, identity.publisher, identity.sequence
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_repeats_is_what_was_asked_for() {
        for ratio in [0.0, 0.01, 0.5, 1.0] {
            let repeated = (0..100_000).filter(|i| is_repeated(7, *i, ratio)).count();
            let share = repeated as f64 / 1e5;
            assert!((share - ratio).abs() < 0.005, "{share} of {ratio}");
        }
    }
}
