//! The record of a run as a fold over its events. A run that is still going on, one that was
//! killed, an imported one and a finished one are all the same type.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;

use super::document::ServerInfo;
use super::event::{
    Counts, EffectiveConfig, Health, Interval, Manifest, RunEvent, Sample, TrialResult,
};
use super::order::Order;
use crate::measure::histogram::{self, LatencySummary, Metric};

/// A run, as far as its events tell.
#[derive(Debug, Clone)]
pub struct Run {
    /// The first event.
    pub manifest: Manifest,
    /// Trials in the order they began.
    pub trials: Vec<TrialLog>,
    /// Notes in the order they came.
    pub notes: Vec<String>,
    /// The signal that interrupted it.
    pub interrupted: Option<i32>,
    /// It reached its end and no event was lost.
    pub complete: bool,
}

/// One trial, as far as its events tell.
#[derive(Debug, Clone)]
pub struct TrialLog {
    /// Unique in the run.
    pub trial: u32,
    /// Block.
    pub block: u32,
    /// Cell id.
    pub cell: String,
    /// Servers it ran on.
    pub servers: Vec<ServerInfo>,
    /// Stream names.
    pub streams: Vec<String>,
    /// As read back.
    pub config: EffectiveConfig,
    /// Stream to leader.
    pub stream_leaders: BTreeMap<String, String>,
    /// Common start, ns since the Unix epoch; `None` before the barrier fell.
    pub start_unix_ns: Option<u64>,
    /// Latest less earliest start of a worker.
    pub skew_ns: u64,
    /// The planned window after the start (start, end), until the result says it exactly.
    pub window: Option<(u64, u64)>,
    /// What happened by interval, warm-up and drain too.
    pub series: Vec<SeriesRow>,
    /// Looks at servers and driver.
    pub samples: Vec<Sample>,
    /// Window messages of the whole trial, merged.
    pub histograms: BTreeMap<Metric, Histogram<u64>>,
    /// How it ended.
    pub end: TrialEnd,
}

/// How a trial ended.
#[derive(Debug, Clone)]
pub enum TrialEnd {
    /// It did not: the run was killed or is going on.
    Open,
    /// It could not be finished.
    Failed(String),
    /// It was judged.
    Finished(Box<TrialResult>),
}

/// One interval of a trial.
#[derive(Debug, Clone)]
pub struct SeriesRow {
    /// End after the common start.
    pub end_ns: u64,
    /// Length.
    pub length_ns: u64,
    /// Counters.
    pub counts: Counts,
    /// All messages of the interval.
    pub latency: BTreeMap<Metric, LatencySummary>,
    /// How the workers fared.
    pub health: Health,
}

/// Ignored events that are told one by one; the rest are counted.
const TOLD: u64 = 10;

/// Folds events into a [`Run`], one at a time. An event that cannot come now is ignored with a
/// note; no sequence of events panics.
#[derive(Debug, Default)]
pub struct Fold {
    order: Order,
    run: Option<Run>,
    servers: Vec<ServerInfo>,
    finished: bool,
    lost: bool,
    ignored: u64,
}

impl Fold {
    /// Before the first event.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event in.
    pub fn apply(&mut self, event: &RunEvent) {
        match self.order.admit(event) {
            Err(why) => self.ignore(&why),
            Ok(()) => {
                if let RunEvent::RunStarted(manifest) = event {
                    self.run = Some(Run {
                        manifest: (**manifest).clone(),
                        trials: Vec::new(),
                        notes: Vec::new(),
                        interrupted: None,
                        complete: false,
                    });
                } else {
                    self.apply_admitted(event);
                }
            }
        }
        self.settle();
    }

    /// Events are missing: the run cannot be called complete.
    pub fn lose(&mut self, note: impl Into<String>) {
        self.lost = true;
        if let Some(run) = &mut self.run {
            run.notes.push(note.into());
        }
        self.settle();
    }

    /// The run so far; `None` before [`RunEvent::RunStarted`].
    pub fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// The run; `None` where [`RunEvent::RunStarted`] never came.
    pub fn into_run(mut self) -> Option<Run> {
        if self.ignored > TOLD {
            let more = self.ignored - TOLD;
            if let Some(run) = &mut self.run {
                run.notes.push(format!("ignored {more} more events"));
            }
        }
        self.run
    }

    fn settle(&mut self) {
        if let Some(run) = &mut self.run {
            run.complete = self.finished && !self.lost && run.interrupted.is_none();
        }
    }

    fn ignore(&mut self, why: &str) {
        self.ignored += 1;
        if self.ignored <= TOLD
            && let Some(run) = &mut self.run
        {
            run.notes.push(format!("ignored {why}"));
        }
    }

    fn apply_admitted(&mut self, event: &RunEvent) {
        let Some(run) = &mut self.run else { return };
        match event {
            RunEvent::ServersReady { servers } => {
                if run.manifest.servers.is_empty() {
                    run.manifest.servers.clone_from(servers);
                }
                self.servers.clone_from(servers);
            }
            RunEvent::TrialStarted {
                trial, block, cell, ..
            } => run
                .trials
                .push(TrialLog::new(*trial, *block, cell, &self.servers)),
            RunEvent::StreamsReady {
                trial,
                streams,
                config,
                stream_leaders,
            } => {
                if let Some(log) = run.trial_mut(*trial) {
                    log.streams.clone_from(streams);
                    log.config.clone_from(config);
                    log.stream_leaders.clone_from(stream_leaders);
                }
            }
            RunEvent::LoadStarted {
                trial,
                start_unix_ns,
                skew_ns,
                window_start_ns,
                window_end_ns,
            } => {
                if let Some(log) = run.trial_mut(*trial) {
                    log.start_unix_ns = Some(*start_unix_ns);
                    log.skew_ns = *skew_ns;
                    log.window = window_start_ns.zip(*window_end_ns);
                }
            }
            RunEvent::Interval(interval) => {
                let broken = run
                    .trial_mut(interval.trial)
                    .map_or(0, |log| log.add(interval));
                if broken > 0 {
                    self.lost = true;
                    self.ignore(&format!(
                        "an unreadable histogram of trial {}",
                        interval.trial
                    ));
                }
            }
            RunEvent::Sample(sample) => {
                if let Some(log) = run.trial_mut(sample.trial) {
                    log.samples.push((**sample).clone());
                }
            }
            RunEvent::TrialFinished(result) => {
                if let Some(log) = run.trial_mut(result.trial) {
                    let end_ns = result.window_start_ns.saturating_add(result.window_ns);
                    log.window = Some((result.window_start_ns, end_ns));
                    log.end = TrialEnd::Finished(result.clone());
                }
            }
            RunEvent::TrialFailed { trial, reason } => {
                if let Some(log) = run.trial_mut(*trial) {
                    log.end = TrialEnd::Failed(reason.clone());
                }
            }
            RunEvent::Note { text } => run.notes.push(text.clone()),
            RunEvent::Interrupted { signal } => run.interrupted = Some(*signal),
            RunEvent::RunFinished { .. } => self.finished = true,
            RunEvent::RunStarted(_) => {}
        }
    }
}

impl Run {
    /// The log of a trial.
    pub fn trial(&self, trial: u32) -> Option<&TrialLog> {
        self.trials.iter().rev().find(|log| log.trial == trial)
    }

    fn trial_mut(&mut self, trial: u32) -> Option<&mut TrialLog> {
        // The newest trial is the one that events are about.
        self.trials.iter_mut().rev().find(|log| log.trial == trial)
    }
}

impl SeriesRow {
    /// Its beginning after the common start.
    pub fn begun_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.length_ns)
    }

    /// Whether it lies wholly within a stretch of time after the start (start, end).
    pub fn lies_in(&self, (start_ns, end_ns): (u64, u64)) -> bool {
        self.begun_ns() >= start_ns && self.end_ns <= end_ns
    }
}

impl TrialLog {
    fn new(trial: u32, block: u32, cell: &str, servers: &[ServerInfo]) -> Self {
        Self {
            trial,
            block,
            cell: cell.to_owned(),
            servers: servers.to_vec(),
            streams: Vec::new(),
            config: EffectiveConfig::default(),
            stream_leaders: BTreeMap::new(),
            start_unix_ns: None,
            skew_ns: 0,
            window: None,
            series: Vec::new(),
            samples: Vec::new(),
            histograms: BTreeMap::new(),
            end: TrialEnd::Open,
        }
    }

    /// Adds an interval; returns how many of its histograms could not be read.
    fn add(&mut self, interval: &Interval) -> usize {
        self.series.push(SeriesRow {
            end_ns: interval.end_ns,
            length_ns: interval.length_ns,
            counts: interval.counts,
            latency: interval.latency.clone(),
            health: interval.health,
        });
        let mut broken = 0;
        for (metric, text) in &interval.histograms {
            match decode_histogram(text) {
                Some(part) => merge(&mut self.histograms, *metric, part),
                None => broken += 1,
            }
        }
        broken
    }
}

/// Reads a histogram of [`Interval::histograms`]; `None` where it is not one of ours.
pub fn decode_histogram(text: &str) -> Option<Histogram<u64>> {
    histogram::decode(&BASE64.decode(text).ok()?).ok()
}

/// A histogram as [`Interval::histograms`] holds it.
pub fn encode_histogram(histogram: &Histogram<u64>) -> String {
    BASE64.encode(histogram::encode(histogram))
}

/// Adds `part` to the histogram of its key.
pub(super) fn merge<K: Ord>(into: &mut BTreeMap<K, Histogram<u64>>, key: K, part: Histogram<u64>) {
    if let Some(whole) = into.get_mut(&key) {
        whole
            .add(part)
            .expect("both have the one configuration, which decoding asserts");
    } else {
        into.insert(key, part);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_whole_run_is_complete_and_has_what_its_events_say() {
        let run = fixture::fold(&fixture::small_run()).expect("it began");
        assert!(run.complete);
        assert_eq!(run.manifest.servers[0].name, "n1");
        assert_eq!(run.notes, ["a note"]);
        let trial = run.trial(1).expect("two trials");
        assert_eq!(trial.servers[0].version, "2.15.1");
        assert_eq!(trial.series.len(), 3);
        assert_eq!(trial.histograms[&Metric::Lag].len(), 40);
        assert_eq!(trial.histograms[&Metric::E2e].len(), 47);
        assert_eq!(trial.window, Some((1_000_000_000, 2_000_000_000)));
        assert!(matches!(trial.end, TrialEnd::Finished(_)));
    }

    #[test]
    fn no_prefix_is_complete_but_the_whole() {
        let events = fixture::small_run();
        for n in 0..events.len() {
            let run = fixture::fold(&events[..n]);
            assert_eq!(run.is_some(), n > 0);
            assert!(run.is_none_or(|run| !run.complete), "{n} events");
        }
    }

    fn folded() -> Fold {
        let mut fold = Fold::new();
        for event in fixture::small_run() {
            fold.apply(&event);
        }
        fold
    }

    #[test]
    fn lost_and_interrupted_runs_are_not_complete() {
        let mut fold = folded();
        fold.apply(&RunEvent::Interrupted { signal: 15 });
        let run = fold.run().expect("it began");
        assert_eq!((run.complete, run.interrupted), (false, Some(15)));

        let mut fold = folded();
        fold.lose("a line is missing");
        let run = fold.into_run().expect("it began");
        assert!(!run.complete && run.notes.contains(&"a line is missing".to_owned()));
    }

    #[test]
    fn what_cannot_come_now_is_ignored_with_a_note() {
        let mut events = fixture::small_run();
        let after_the_end = fixture::interval(0, 9, &Metric::ALL, &[5_000; 9]);
        let before_load = fixture::interval(7, 9, &Metric::ALL, &[5_000; 9]);
        let end = events.len() - 1;
        events.splice(
            end..end,
            [
                after_the_end,
                before_load.clone(),
                fixture::trial_started(0, 0, "shared"),
                fixture::trial_started(8, 0, "nobody-knows"),
                fixture::trial_started(7, 0, "shared"),
                before_load,
            ],
        );
        let run = fixture::fold(&events).expect("it began");
        assert_eq!(
            run.notes[1..],
            [
                "ignored an event of trial 0 after its end",
                "ignored an event of trial 7, which never began",
                "ignored a second start of trial 0",
                "ignored trial 8 of a cell that the manifest lacks",
                "ignored load in trial 7 before it began",
            ]
        );
        assert_eq!(run.trials.len(), 3);
        assert_eq!(run.trials[0].histograms[&Metric::Lag].len(), 40);
        assert!(matches!(run.trials[2].end, TrialEnd::Open));
    }

    #[test]
    fn many_ignored_events_become_one_number() {
        let mut events = fixture::small_run();
        events.extend(vec![fixture::trial_started(0, 0, "shared"); 500]);
        let run = fixture::fold(&events).expect("it began");
        assert_eq!(run.notes.len(), 1 + 10 + 1);
        assert_eq!(run.notes[11], "ignored 490 more events");
    }

    #[test]
    fn an_unreadable_histogram_is_a_loss() {
        let mut events = fixture::small_run();
        for event in &mut events {
            if let RunEvent::Interval(interval) = event {
                for text in interval.histograms.values_mut() {
                    text.insert(0, '!');
                }
            }
        }
        let run = fixture::fold(&events).expect("it began");
        assert!(!run.complete);
        assert!(run.trials[0].histograms.is_empty());
        assert!(run.notes[0].contains("unreadable histogram of trial 0"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn events_in_any_order_never_panic(order in prop::collection::vec(0usize..64, 0..60)) {
            let events = fixture::small_run();
            let mut fold = Fold::new();
            for at in order {
                fold.apply(&events[at % events.len()]);
            }
            if let Some(run) = fold.into_run() {
                for trial in &run.trials {
                    prop_assert!(trial.series.is_empty() || trial.start_unix_ns.is_some());
                }
            }
        }
    }
}
