//! The phases of a trial as a pure machine: what workers say and what time it is go in, what to
//! tell them and what to record comes out. No IO and no clock; every wait has a deadline.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::judge::{Facts, evidence};
use super::messages::{Dump, Frame, FromWorker, ToWorker};
use crate::load::publisher::Outcome;
use crate::load::subscriber::Received;
use crate::measure::histogram::{LatencySummary, Metric, decode, new_histogram};
use crate::measure::ledger::balance;
use crate::record::event::{Counts, Health, Interval, RunEvent};
use crate::record::fold::encode_histogram;
use crate::units::NS_PER_S;

/// Histograms are journaled for each second in trials up to this long, else every ten seconds.
const FINE_TRIAL_NS: u64 = 60 * NS_PER_S;
const COARSE_INTERVALS: u64 = 10;
/// Everything that must happen before the barrier, and the last word after it.
const PREPARE_NS: u64 = 60 * NS_PER_S;
const DUMP_NS: u64 = 30 * NS_PER_S;
/// From the barrier's fall to the common start.
const LEAD_NS: u64 = 50_000_000;
/// Silence after which it is worth asking what arrived, where counting is no proof.
const QUIET_NS: u64 = NS_PER_S / 5;
/// Silence after which no core message can be on its way any more.
const CORE_QUIET_NS: u64 = NS_PER_S;
/// Beyond the load itself, for the outcomes of the last messages.
const SETTLE_NS: u64 = 20 * NS_PER_S;

/// What a machine must know of its trial. Times in ns.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Trial.
    pub trial: u32,
    /// Workers.
    pub workers: u32,
    /// Warm-up and window after the start; `None` with message counts and in drains.
    pub window_ns: Option<(u64, u64)>,
    /// Longest time the load may take: the window's end, or a bound on message counts.
    pub load_ns: u64,
    /// How long deliveries may take to catch up; in a drain, its limit.
    pub drain_ns: u64,
    /// How long a publish may wait for its outcome.
    pub publish_timeout_ns: u64,
    /// How long a prefill may take.
    pub prefill_ns: u64,
    /// App -> subscriptions that receive each of its messages.
    pub subscriptions: BTreeMap<u32, u64>,
    /// What the ledger must know.
    pub facts: Facts,
    /// Subscribers share durables, and one message may reach two of them.
    pub shared: bool,
    /// App of each worker's prefill.
    pub worker_apps: Vec<u32>,
    /// There are no publishers: the trial is a drain.
    pub drain_only: bool,
}

/// What goes in.
#[derive(Debug)]
pub enum Input {
    /// A worker speaks.
    From(u32, FromWorker),
    /// A worker's channel closed.
    Lost(u32),
    /// Time passes.
    Tick,
    /// A server ended unbidden.
    ServerDied(String),
    /// The user wants to stop.
    Interrupt,
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// Tell a worker.
    To(u32, ToWorker),
    /// Record.
    Event(RunEvent),
    /// Look at servers and driver now.
    Sample,
    /// The trial is over.
    Done(Box<Ended>),
    /// It cannot be finished.
    Failed(String),
}

/// How far deliveries had come when reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything expected arrived, or nothing was expected.
    CaughtUp,
    /// Time ran out while deliveries still arrived.
    RanOut,
    /// Nothing arrived any more, and something is missing.
    Stuck,
    /// The user interrupted it.
    Interrupted,
}

/// What a trial gave, for judging.
#[derive(Debug)]
pub struct Ended {
    /// Common start, ns since the Unix epoch.
    pub start_ns: u64,
    /// Window after the start (start, end).
    pub window_ns: Option<(u64, u64)>,
    /// One per publisher.
    pub outcomes: Vec<Outcome>,
    /// Messages stored before the barrier, by app.
    pub prefilled: BTreeMap<u32, u64>,
    /// One per worker.
    pub dumps: Vec<Dump>,
    /// How far deliveries had come.
    pub drained: Drained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preparing,
    Loading,
    Draining,
    Dumping,
    Over,
}

#[derive(Debug, Default)]
struct WorkerState {
    ready: bool,
    started_ns: Option<u64>,
    tenth_ns: Option<u64>,
    load_done: bool,
    unique: u64,
    told: Option<Vec<Received>>,
    frames: u64,
    dump: Option<Dump>,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    setup: Setup,
    phase: Phase,
    deadline_ns: u64,
    workers: Vec<WorkerState>,
    start_ns: u64,
    window_ns: Option<(u64, u64)>,
    opened: bool,
    outcomes: Vec<Outcome>,
    prefilled: BTreeMap<u32, u64>,
    expected: u64,
    last_arrival_ns: u64,
    /// How many had arrived when the workers were last asked what.
    asked_at: Option<u64>,
    drained: Drained,
    announced: bool,
    intervals: Intervals,
}

impl Machine {
    /// A machine whose workers have been told to prepare at `now_ns`.
    pub fn new(setup: Setup, now_ns: u64) -> Self {
        Self {
            phase: Phase::Preparing,
            deadline_ns: now_ns + PREPARE_NS + setup.prefill_ns,
            workers: (0..setup.workers).map(|_| WorkerState::default()).collect(),
            start_ns: 0,
            window_ns: None,
            opened: false,
            outcomes: Vec::new(),
            prefilled: BTreeMap::new(),
            expected: 0,
            last_arrival_ns: 0,
            asked_at: None,
            drained: Drained::CaughtUp,
            announced: false,
            intervals: Intervals::new(
                setup.trial,
                setup.window_ns.is_none_or(|w| w.1 <= FINE_TRIAL_NS),
            ),
            setup,
        }
    }

    /// The start and the window after it, once the barrier fell.
    pub fn timing(&self) -> Option<(u64, Option<(u64, u64)>)> {
        (self.start_ns > 0).then(|| {
            let window = self.window_ns.map(|(a, b)| {
                (
                    a.saturating_sub(self.start_ns),
                    b.saturating_sub(self.start_ns),
                )
            });
            (self.start_ns, window)
        })
    }

    /// One step.
    pub fn step(&mut self, now_ns: u64, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        if self.phase == Phase::Over {
            return out;
        }
        match input {
            Input::From(worker, message) => self.on_message(now_ns, worker, message, &mut out),
            Input::Lost(worker) if self.workers[worker as usize].dump.is_none() => {
                self.fail(format!("worker {worker} was lost"), &mut out);
            }
            Input::ServerDied(reason) => self.fail(reason, &mut out),
            Input::Interrupt => self.on_interrupt(now_ns, &mut out),
            Input::Lost(_) | Input::Tick => {}
        }
        if self.phase == Phase::Draining {
            self.look_at_drain(now_ns, &mut out);
        }
        if now_ns >= self.deadline_ns
            && matches!(
                self.phase,
                Phase::Preparing | Phase::Loading | Phase::Dumping
            )
        {
            let what = match self.phase {
                Phase::Preparing => "the workers did not become ready",
                Phase::Loading => "the load did not end",
                _ => "the workers did not report",
            };
            self.fail(format!("{what} in time{}", self.who_is_missing()), &mut out);
        }
        out
    }

    fn who_is_missing(&self) -> String {
        let missing: Vec<String> = self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, w)| match self.phase {
                Phase::Preparing => !w.ready,
                Phase::Loading => !w.load_done,
                _ => w.dump.is_none(),
            })
            .map(|(i, _)| i.to_string())
            .collect();
        format!(" (worker {})", missing.join(", "))
    }

    fn fail(&mut self, reason: String, out: &mut Vec<Output>) {
        self.phase = Phase::Over;
        out.push(Output::Failed(reason));
    }

    fn on_message(&mut self, now_ns: u64, worker: u32, message: FromWorker, out: &mut Vec<Output>) {
        let state = &mut self.workers[worker as usize];
        match message {
            FromWorker::Ready { prefilled } => {
                state.ready = true;
                if prefilled > 0 {
                    *self
                        .prefilled
                        .entry(self.setup.worker_apps[worker as usize])
                        .or_default() += prefilled;
                }
                if self.phase == Phase::Preparing && self.workers.iter().all(|w| w.ready) {
                    self.go(now_ns, out);
                }
            }
            FromWorker::Started { at_ns } => {
                state.started_ns = Some(at_ns);
                self.announce(out);
            }
            FromWorker::TenthSent { at_ns } => {
                state.tenth_ns = Some(at_ns);
                let all: Option<Vec<u64>> = self.workers.iter().map(|w| w.tenth_ns).collect();
                if let Some(at_ns) = all.and_then(|t| t.into_iter().max())
                    && !self.opened
                {
                    self.opened = true;
                    self.window_ns = Some((at_ns, self.window_ns.map_or(u64::MAX, |w| w.1)));
                    self.to_all(|| ToWorker::OpenWindow { at_ns }, out);
                    out.push(Output::Sample);
                }
            }
            FromWorker::FirstDone { at_ns } => {
                let end = self.window_ns.map_or(u64::MAX, |w| w.1).min(at_ns);
                let start = if self.opened {
                    self.window_ns.map_or(u64::MAX, |w| w.0)
                } else {
                    u64::MAX
                };
                self.window_ns = Some((start, end));
                self.to_all(|| ToWorker::CloseWindow { at_ns: end }, out);
                out.push(Output::Sample);
            }
            FromWorker::Frame(frame) => {
                state.frames = frame.number + 1;
                self.intervals.add(&frame, self.start_ns);
                self.flush_intervals(false, out);
            }
            FromWorker::LoadDone { outcomes } => {
                state.load_done = true;
                self.outcomes.extend(outcomes);
                if self.phase == Phase::Loading && self.workers.iter().all(|w| w.load_done) {
                    self.begin_drain(now_ns, out);
                }
            }
            FromWorker::Unique { unique } => {
                if unique > state.unique {
                    self.last_arrival_ns = now_ns;
                }
                state.unique = unique;
            }
            FromWorker::Told { received } => {
                state.told = Some(received);
                self.look_at_told(now_ns, out);
            }
            FromWorker::Dumped(dump) => {
                state.dump = Some(*dump);
                self.flush_intervals(false, out);
                if self.phase == Phase::Dumping && self.workers.iter().all(|w| w.dump.is_some()) {
                    self.finish(out);
                }
            }
            FromWorker::Failed { reason } => self.fail(format!("worker {worker}: {reason}"), out),
        }
    }

    fn to_all(&self, mut message: impl FnMut() -> ToWorker, out: &mut Vec<Output>) {
        out.extend((0..self.setup.workers).map(|w| Output::To(w, message())));
    }

    fn go(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        self.phase = Phase::Loading;
        let start_ns = now_ns + LEAD_NS;
        self.start_ns = start_ns;
        self.window_ns = self
            .setup
            .window_ns
            .map(|(a, b)| (start_ns + a, start_ns + b));
        self.deadline_ns =
            start_ns + self.setup.load_ns + self.setup.publish_timeout_ns + SETTLE_NS;
        let window_ns = self.window_ns;
        self.to_all(
            || ToWorker::Go {
                start_ns,
                window_ns,
            },
            out,
        );
    }

    fn announce(&mut self, out: &mut Vec<Output>) {
        let started: Option<Vec<u64>> = self.workers.iter().map(|w| w.started_ns).collect();
        let Some(started) = started else { return };
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        let (first, last) = (started.iter().min(), started.iter().max());
        let skew_ns = last.zip(first).map_or(0, |(l, f)| l - f);
        out.push(Output::Event(RunEvent::LoadStarted {
            trial: self.setup.trial,
            start_unix_ns: self.start_ns,
            skew_ns,
            window_start_ns: self.setup.window_ns.map(|w| w.0),
            window_end_ns: self.setup.window_ns.map(|w| w.1),
        }));
    }

    fn begin_drain(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        self.phase = Phase::Draining;
        self.last_arrival_ns = now_ns;
        self.deadline_ns = now_ns + self.setup.drain_ns;
        out.push(Output::Sample);
        let subscriptions = |app: &u32| self.setup.subscriptions.get(app).copied().unwrap_or(0);
        let core = self.setup.facts.core;
        let published: u64 = self
            .outcomes
            .iter()
            .map(|o| {
                let count = if core { o.attempted } else { o.acked().len() };
                count * self.setup.facts.apps.get(&o.id).map_or(0, subscriptions)
            })
            .sum();
        let prefilled: u64 = self
            .prefilled
            .iter()
            .map(|(app, n)| n * subscriptions(app))
            .sum();
        self.expected = published + prefilled;
    }

    fn look_at_drain(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        let unique: u64 = self.workers.iter().map(|w| w.unique).sum();
        let quiet_ns = now_ns.saturating_sub(self.last_arrival_ns);
        let enough = unique >= self.expected;
        if enough && self.counts_prove_it() || self.setup.facts.core && quiet_ns >= CORE_QUIET_NS {
            self.begin_dump(now_ns, Drained::CaughtUp, out);
        } else if (enough || self.may_miss())
            && quiet_ns >= QUIET_NS
            && self.asked_at != Some(unique)
        {
            self.asked_at = Some(unique);
            for worker in &mut self.workers {
                worker.told = None;
            }
            self.to_all(|| ToWorker::Tell, out);
        } else if now_ns >= self.deadline_ns {
            // Deliveries in the last fifth of the time mean that more would have come.
            let still =
                self.last_arrival_ns > self.deadline_ns.saturating_sub(self.setup.drain_ns / 5);
            self.begin_dump(
                now_ns,
                if still {
                    Drained::RanOut
                } else {
                    Drained::Stuck
                },
                out,
            );
        }
    }

    /// As many as were acked have arrived only then means that all of those have: nothing else
    /// could have been counted.
    fn counts_prove_it(&self) -> bool {
        !self.setup.shared && self.outcomes.iter().all(|o| o.unknown.is_empty())
    }

    /// In a bucket what was replaced before it was read never arrives.
    fn may_miss(&self) -> bool {
        !self.setup.facts.kept.is_empty()
    }

    /// The workers have told what arrived: whether something acked is missing.
    fn look_at_told(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        if self.phase != Phase::Draining || self.workers.iter().any(|w| w.told.is_none()) {
            return;
        }
        let told = self
            .workers
            .iter()
            .filter_map(|w| w.told.as_ref())
            .flatten();
        if balance(&evidence(&self.setup.facts, &self.outcomes, told)).lost_delivery == 0 {
            self.begin_dump(now_ns, Drained::CaughtUp, out);
        }
    }

    fn begin_dump(&mut self, now_ns: u64, drained: Drained, out: &mut Vec<Output>) {
        self.drained = drained;
        self.phase = Phase::Dumping;
        self.deadline_ns = now_ns + DUMP_NS;
        out.push(Output::Sample);
        self.to_all(|| ToWorker::Dump, out);
    }

    fn on_interrupt(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        match self.phase {
            Phase::Preparing => self.fail("interrupted".to_owned(), out),
            Phase::Loading => {
                self.deadline_ns = self
                    .deadline_ns
                    .min(now_ns + self.setup.publish_timeout_ns + SETTLE_NS);
                self.setup.drain_ns = self.setup.drain_ns.min(10 * NS_PER_S);
                if let Some(window) = &mut self.window_ns {
                    window.1 = window.1.min(now_ns);
                }
                self.to_all(|| ToWorker::StopLoad, out);
            }
            Phase::Draining => self.begin_dump(now_ns, Drained::Interrupted, out),
            Phase::Dumping | Phase::Over => {}
        }
    }

    fn flush_intervals(&mut self, all: bool, out: &mut Vec<Output>) {
        let ready = self
            .workers
            .iter()
            .map(|w| if w.dump.is_some() { u64::MAX } else { w.frames })
            .min()
            .unwrap_or(0);
        for interval in self.intervals.take(if all { u64::MAX } else { ready }) {
            out.push(Output::Event(RunEvent::Interval(Box::new(interval))));
        }
    }

    fn finish(&mut self, out: &mut Vec<Output>) {
        self.flush_intervals(true, out);
        self.phase = Phase::Over;
        let dumps: Vec<Dump> = self
            .workers
            .iter_mut()
            .filter_map(|w| w.dump.take())
            .collect();
        if self.setup.drain_only {
            let receipts = || dumps.iter().filter_map(|d| d.receipts_ns);
            let (first, last) = (receipts().map(|r| r.0).min(), receipts().map(|r| r.1).max());
            self.window_ns = first.zip(last);
        }
        out.push(Output::Done(Box::new(Ended {
            start_ns: self.start_ns,
            window_ns: self.timing().and_then(|(_, w)| w).filter(|(a, b)| a < b),
            outcomes: std::mem::take(&mut self.outcomes),
            prefilled: std::mem::take(&mut self.prefilled),
            dumps,
            drained: self.drained,
        })));
    }
}

/// Merges the workers' frames into the intervals of the trial.
#[derive(Debug)]
struct Intervals {
    trial: u32,
    fine: bool,
    next: u64,
    open: BTreeMap<u64, Merged>,
    /// Window histograms of the intervals whose own were held back.
    held: BTreeMap<Metric, Histogram<u64>>,
}

#[derive(Debug, Default)]
struct Merged {
    end_ns: u64,
    length_ns: u64,
    counts: Counts,
    health: Health,
    window: BTreeMap<Metric, Histogram<u64>>,
    all: BTreeMap<Metric, Histogram<u64>>,
}

impl Intervals {
    fn new(trial: u32, fine: bool) -> Self {
        Self {
            trial,
            fine,
            next: 0,
            open: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    fn add(&mut self, frame: &Frame, start_ns: u64) {
        let merged = self.open.entry(frame.number).or_default();
        merged.end_ns = merged.end_ns.max(frame.end_ns.saturating_sub(start_ns));
        merged.length_ns = merged.length_ns.max(frame.length_ns);
        merged.counts = merged.counts.plus(frame.cut.counts);
        merged.health = merged.health.beside(frame.health);
        for (metric, bytes) in &frame.cut.window {
            merge(&mut merged.window, *metric, bytes);
            merge(&mut merged.all, *metric, bytes);
        }
        for (metric, bytes) in &frame.cut.others {
            merge(&mut merged.all, *metric, bytes);
        }
    }

    /// The intervals below `limit`, in order.
    fn take(&mut self, limit: u64) -> Vec<Interval> {
        let mut out = Vec::new();
        while let Some(entry) = self.open.first_entry() {
            let number = *entry.key();
            // With coarse histograms the newest is kept back: it carries the rest if it is the last.
            let newest = !self.fine && limit != u64::MAX && number + 1 == limit;
            if number >= limit || newest {
                break;
            }
            let merged = entry.remove();
            for (metric, histogram) in merged.window {
                add(&mut self.held, metric, &histogram);
            }
            self.next = number + 1;
            let due = self.fine
                || self.next.is_multiple_of(COARSE_INTERVALS)
                || limit == u64::MAX && self.open.is_empty();
            let histograms = if due {
                std::mem::take(&mut self.held)
            } else {
                BTreeMap::new()
            };
            out.push(Interval {
                trial: self.trial,
                end_ns: merged.end_ns,
                length_ns: merged.length_ns,
                counts: merged.counts,
                histograms: histograms
                    .iter()
                    .map(|(m, h)| (*m, encode_histogram(h)))
                    .collect(),
                latency: merged
                    .all
                    .iter()
                    .map(|(m, h)| (*m, LatencySummary::of(h, 0, 0)))
                    .collect(),
                health: merged.health,
            });
        }
        out
    }
}

fn merge(into: &mut BTreeMap<Metric, Histogram<u64>>, metric: Metric, bytes: &[u8]) {
    let histogram = decode(bytes).expect("a worker of this process encoded it");
    add(into, metric, &histogram);
}

fn add(into: &mut BTreeMap<Metric, Histogram<u64>>, metric: Metric, histogram: &Histogram<u64>) {
    let target = into.entry(metric).or_insert_with(new_histogram);
    target
        .add(histogram)
        .expect("all histograms have one configuration");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::recorder::Cut;
    use crate::measure::histogram::{encode, record};
    use crate::measure::seqset::Ranges;

    const S: u64 = NS_PER_S;

    fn setup(workers: u32) -> Setup {
        Setup {
            trial: 7,
            workers,
            window_ns: Some((S, 3 * S)),
            load_ns: 3 * S,
            drain_ns: 10 * S,
            publish_timeout_ns: 5 * S,
            prefill_ns: 0,
            subscriptions: BTreeMap::from([(0, 2)]),
            facts: Facts {
                apps: (0..workers).map(|w| (w, 0)).collect(),
                ..Facts::default()
            },
            shared: false,
            worker_apps: vec![0; workers as usize],
            drain_only: false,
        }
    }

    fn outcome(id: u32, attempted: u64) -> Outcome {
        Outcome {
            id,
            attempted,
            refused: Ranges::of(0..1),
            ..Outcome::default()
        }
    }

    fn orders(outputs: &[Output]) -> Vec<&ToWorker> {
        let of = |o: &'_ Output| matches!(o, Output::To(..));
        outputs
            .iter()
            .filter(|o| of(o))
            .map(|o| match o {
                Output::To(_, order) => order,
                _ => unreachable!("filtered"),
            })
            .collect()
    }

    fn failed(outputs: &[Output]) -> Option<&str> {
        outputs.iter().find_map(|o| match o {
            Output::Failed(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    fn done(outputs: Vec<Output>) -> Option<Ended> {
        outputs.into_iter().find_map(|o| match o {
            Output::Done(ended) => Some(*ended),
            _ => None,
        })
    }

    /// A machine whose load is on, at 100 s.
    fn loading(workers: u32) -> Machine {
        let mut machine = Machine::new(setup(workers), 99 * S);
        let mut last = Vec::new();
        for worker in 0..workers {
            assert!(orders(&last).is_empty(), "nobody goes before all are ready");
            last = machine.step(
                100 * S,
                Input::From(worker, FromWorker::Ready { prefilled: 0 }),
            );
        }
        let went = orders(&last);
        assert_eq!(went.len(), workers as usize);
        assert!(went.iter().all(
            |o| matches!(o, ToWorker::Go { start_ns, window_ns: Some((a, b)) }
            if *a == start_ns + S && *b == start_ns + 3 * S)
        ));
        machine
    }

    fn end_load(machine: &mut Machine, workers: u32, at_ns: u64) -> Vec<Output> {
        let mut last = Vec::new();
        for worker in 0..workers {
            let outcomes = vec![outcome(worker, 101)];
            last = machine.step(
                at_ns,
                Input::From(worker, FromWorker::LoadDone { outcomes }),
            );
        }
        last
    }

    #[test]
    fn coarse_intervals_lose_no_message_wherever_the_load_ends() {
        for frames in [1, 9, 10, 11, 66] {
            let mut intervals = Intervals::new(0, false);
            let mut told = Vec::new();
            for number in 0..frames {
                let mut histogram = new_histogram();
                record(&mut histogram, 1_000_000);
                let mut cut = Cut::default();
                cut.window.insert(Metric::Response, encode(&histogram));
                let frame = Frame {
                    number,
                    end_ns: (number + 1) * S,
                    length_ns: S,
                    cut,
                    health: Health::default(),
                };
                intervals.add(&frame, 0);
                told.extend(intervals.take(number + 1));
            }
            told.extend(intervals.take(u64::MAX));
            let texts = told.iter().flat_map(|i| i.histograms.values());
            let kept: u64 = texts
                .map(|text| {
                    crate::record::fold::decode_histogram(text)
                        .expect("ours")
                        .len()
                })
                .sum();
            assert_eq!((told.len() as u64, kept), (frames, frames));
        }
    }

    #[test]
    fn a_trial_goes_through_all_phases() {
        let mut machine = loading(2);
        let start = machine.timing().expect("it began").0;
        machine.step(
            start,
            Input::From(0, FromWorker::Started { at_ns: start + 10 }),
        );
        let out = machine.step(
            start,
            Input::From(1, FromWorker::Started { at_ns: start + 50 }),
        );
        assert!(
            out.iter()
                .any(|o| matches!(o, Output::Event(RunEvent::LoadStarted { skew_ns: 40, .. })))
        );
        end_load(&mut machine, 2, 104 * S);
        // 100 acked by each of two publishers, for two subscriptions.
        machine.step(104 * S, Input::From(0, FromWorker::Unique { unique: 200 }));
        let out = machine.step(104 * S, Input::From(1, FromWorker::Unique { unique: 199 }));
        assert!(orders(&out).is_empty(), "one is missing");
        let out = machine.step(104 * S, Input::From(1, FromWorker::Unique { unique: 200 }));
        assert!(
            orders(&out).iter().all(|o| matches!(o, ToWorker::Dump)) && orders(&out).len() == 2
        );
        machine.step(104 * S, Input::From(0, FromWorker::Dumped(Box::default())));
        assert!(
            machine.step(104 * S, Input::Lost(0)).is_empty(),
            "a dumped worker may go"
        );
        let ended = done(machine.step(104 * S, Input::From(1, FromWorker::Dumped(Box::default()))));
        let ended = ended.expect("both have reported");
        assert_eq!(ended.drained, Drained::CaughtUp);
        assert_eq!(ended.window_ns, Some((S, 3 * S)));
        assert_eq!(ended.outcomes.len(), 2);
    }

    #[test]
    fn every_wait_ends() {
        let mut machine = Machine::new(setup(2), 0);
        machine.step(S, Input::From(1, FromWorker::Ready { prefilled: 0 }));
        let out = machine.step(PREPARE_NS, Input::Tick);
        assert_eq!(
            failed(&out),
            Some("the workers did not become ready in time (worker 0)")
        );
        let mut machine = loading(2);
        assert!(failed(&machine.step(110 * S, Input::Tick)).is_none());
        assert!(
            failed(&machine.step(1_000 * S, Input::Tick))
                .is_some_and(|r| r.contains("load did not end"))
        );
        let mut machine = loading(1);
        end_load(&mut machine, 1, 104 * S);
        machine.step(120 * S, Input::Tick);
        assert!(
            failed(&machine.step(1_000 * S, Input::Tick))
                .is_some_and(|r| r.contains("did not report"))
        );
    }

    #[test]
    fn a_drain_that_runs_out_is_told_from_one_that_is_stuck() {
        for (last_arrival, drained) in [(113 * S, Drained::RanOut), (105 * S, Drained::Stuck)] {
            let mut machine = loading(1);
            end_load(&mut machine, 1, 104 * S);
            machine.step(
                last_arrival,
                Input::From(0, FromWorker::Unique { unique: 150 }),
            );
            machine.step(114 * S, Input::Tick);
            let ended =
                done(machine.step(114 * S, Input::From(0, FromWorker::Dumped(Box::default()))));
            assert_eq!(ended.expect("dumped").drained, drained);
        }
    }

    /// 100 puts to two keys, of which the last two stay: a reader need not have seen the others.
    #[test]
    fn the_drain_of_a_bucket_ends_when_what_stays_was_read() {
        use crate::measure::ledger::Kept;
        let mut setup = setup(1);
        setup.facts.kept.insert(
            0,
            Kept {
                keys: 2,
                history: 1,
            },
        );
        let mut machine = Machine::new(setup, 99 * S);
        machine.step(100 * S, Input::From(0, FromWorker::Ready { prefilled: 0 }));
        end_load(&mut machine, 1, 104 * S);
        let told = |sequences| {
            let received = Received {
                sets: BTreeMap::from([(0, Ranges::of(sequences))]),
                ..Received::default()
            };
            FromWorker::Told {
                received: vec![received],
            }
        };
        for (second, sequences, ends) in [(105, 40..100, false), (106, 40..101, true)] {
            let at_ns = second * S;
            let unique = sequences.end - sequences.start;
            machine.step(at_ns, Input::From(0, FromWorker::Unique { unique }));
            let out = machine.step(at_ns + S / 2, Input::Tick);
            assert!(matches!(orders(&out)[..], [ToWorker::Tell]), "{second}");
            let out = machine.step(at_ns + S / 2, Input::From(0, told(sequences)));
            assert_eq!(
                matches!(orders(&out)[..], [ToWorker::Dump]),
                ends,
                "{second}"
            );
        }
    }

    #[test]
    fn what_ends_a_trial_early_ends_it_once() {
        for input in [
            Input::Lost(0),
            Input::ServerDied("n1 died".into()),
            Input::From(
                0,
                FromWorker::Failed {
                    reason: "no".into(),
                },
            ),
        ] {
            let mut machine = loading(1);
            assert!(failed(&machine.step(101 * S, input)).is_some());
            assert!(
                machine.step(102 * S, Input::Lost(0)).is_empty(),
                "nothing is said twice"
            );
        }
    }

    #[test]
    fn an_interrupt_stops_the_load_and_shortens_the_drain() {
        let mut machine = loading(1);
        let start = machine.timing().expect("it began").0;
        let out = machine.step(start + 2 * S, Input::Interrupt);
        assert!(matches!(orders(&out)[..], [ToWorker::StopLoad]));
        end_load(&mut machine, 1, start + 2 * S);
        let out = machine.step(start + 3 * S, Input::Interrupt);
        assert!(matches!(orders(&out)[..], [ToWorker::Dump]));
        let ended = done(machine.step(
            start + 3 * S,
            Input::From(0, FromWorker::Dumped(Box::default())),
        ));
        let ended = ended.expect("dumped");
        assert_eq!(
            (ended.drained, ended.window_ns),
            (Drained::Interrupted, Some((S, 2 * S)))
        );
    }

    #[test]
    fn with_message_counts_the_window_is_what_all_have_in_common() {
        let mut machine = Machine::new(
            Setup {
                window_ns: None,
                ..setup(2)
            },
            99 * S,
        );
        for worker in 0..2 {
            machine.step(
                100 * S,
                Input::From(worker, FromWorker::Ready { prefilled: 0 }),
            );
        }
        let start = machine.timing().expect("it began").0;
        machine.step(
            start,
            Input::From(0, FromWorker::TenthSent { at_ns: start + 10 }),
        );
        let out = machine.step(
            start,
            Input::From(1, FromWorker::TenthSent { at_ns: start + 30 }),
        );
        assert!(
            orders(&out)
                .iter()
                .all(|o| matches!(o, ToWorker::OpenWindow { at_ns } if *at_ns == start + 30))
        );
        machine.step(
            start,
            Input::From(1, FromWorker::FirstDone { at_ns: start + 90 }),
        );
        machine.step(
            start,
            Input::From(0, FromWorker::FirstDone { at_ns: start + 80 }),
        );
        assert_eq!(machine.timing().expect("it began").1, Some((30, 80)));
    }

    #[test]
    fn intervals_are_merged_once_all_workers_have_told_theirs() {
        let mut machine = loading(2);
        let start = machine.timing().expect("it began").0;
        let frame = |ns: u64| {
            let mut histogram = new_histogram();
            record(&mut histogram, ns);
            let mut cut = Cut::default();
            cut.counts.acked = 5;
            cut.window.insert(Metric::Service, encode(&histogram));
            FromWorker::Frame(Box::new(Frame {
                number: 0,
                end_ns: start + S,
                length_ns: S,
                cut,
                health: Health::default(),
            }))
        };
        let told = |out: Vec<Output>| {
            out.into_iter().find_map(|o| match o {
                Output::Event(RunEvent::Interval(interval)) => Some(*interval),
                _ => None,
            })
        };
        assert!(told(machine.step(start + S, Input::From(0, frame(1_000_000)))).is_none());
        let interval =
            told(machine.step(start + S, Input::From(1, frame(3_000_000)))).expect("both told");
        assert_eq!((interval.counts.acked, interval.end_ns), (10, S));
        assert_eq!(interval.latency[&Metric::Service].count, 2);
    }
}
