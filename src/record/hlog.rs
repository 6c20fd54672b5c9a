//! `histograms.hlog`: an HdrHistogram V2 interval log, readable by HdrHistogram's own tools. Made
//! by a second pass over the journal, because a folded run keeps only merged histograms.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};

use super::event::{Interval, RunEvent};
use super::fold::{Run, TrialLog, decode_histogram, merge};
use super::journal;
use super::order::Order;
use crate::measure::histogram::Metric;
use crate::units::NS_PER_S;

/// Trials with a longer window are logged in the coarse step.
const FINE_UP_TO_NS: u64 = 60 * NS_PER_S;
const FINE_NS: u64 = NS_PER_S;
const COARSE_NS: u64 = 10 * NS_PER_S;
/// Java's tools show the maximum in ms where values are ns.
const MAX_VALUE_DIVISOR: f64 = 1e6;

type Writer<'a, 'b, W> = IntervalLogWriter<'a, 'b, W, V2DeflateSerializer>;

/// Writes the histograms of the journal at `journal`, which `run` was folded from. Stamps count
/// from the log's StartTime, which is the start of the run.
///
/// # Errors
/// The journal cannot be read or `out` cannot be written.
pub fn write(run: &Run, journal: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let started_ns = started_unix_ns(run);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!(
            "[jsbench run {}, values in ns, tags cell/trial/metric]",
            run.manifest.run_id
        ))
        .with_start_time(UNIX_EPOCH + Duration::from_nanos(started_ns))
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(out, &mut serializer)?;
    let mut order = Order::default();
    let mut steps: BTreeMap<u32, Step> = BTreeMap::new();
    journal::for_each_event(journal, |event| {
        if order.admit(&event).is_err() {
            return Ok(());
        }
        match event {
            RunEvent::Interval(interval) => {
                let Some(trial) = run.trial(interval.trial) else {
                    return Ok(());
                };
                let step = steps.entry(interval.trial).or_default();
                if !step.takes(&interval, step_ns(trial)) {
                    step.write(&mut log, trial, started_ns)?;
                }
                step.add(&interval);
            }
            RunEvent::TrialFinished(result) => {
                end_trial(&mut log, run, &mut steps, result.trial, started_ns)?;
            }
            RunEvent::TrialFailed { trial, .. } => {
                end_trial(&mut log, run, &mut steps, trial, started_ns)?;
            }
            _ => {}
        }
        Ok(())
    })?;
    let open: Vec<u32> = steps.keys().copied().collect();
    for trial in open {
        end_trial(&mut log, run, &mut steps, trial, started_ns)?;
    }
    Ok(())
}

/// The start of the run to the millisecond, which is what the log keeps of it.
fn started_unix_ns(run: &Run) -> u64 {
    let started = run.manifest.started_at.parse::<jiff::Timestamp>();
    let ms = started.map_or(0, jiff::Timestamp::as_millisecond);
    u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000)
}

fn step_ns(trial: &TrialLog) -> u64 {
    let window_ns = match trial.window {
        Some((start, end)) => end.saturating_sub(start),
        None => trial.series.last().map_or(0, |row| row.end_ns),
    };
    if window_ns <= FINE_UP_TO_NS {
        FINE_NS
    } else {
        COARSE_NS
    }
}

fn end_trial<W: Write>(
    log: &mut Writer<'_, '_, W>,
    run: &Run,
    steps: &mut BTreeMap<u32, Step>,
    trial: u32,
    started_ns: u64,
) -> anyhow::Result<()> {
    match (steps.remove(&trial), run.trial(trial)) {
        (Some(mut step), Some(trial)) => step.write(log, trial, started_ns),
        _ => Ok(()),
    }
}

/// Intervals of one trial that become one entry per metric.
#[derive(Default)]
struct Step {
    /// Start of its first interval, also of one without histograms; `None` before that.
    start_ns: Option<u64>,
    end_ns: u64,
    histograms: BTreeMap<Metric, Histogram<u64>>,
}

impl Step {
    fn takes(&self, interval: &Interval, step_ns: u64) -> bool {
        // Intervals end a little late: half of one decides.
        let slack_ns = interval.length_ns / 2;
        self.start_ns.is_none_or(|start_ns| {
            interval.end_ns <= start_ns.saturating_add(step_ns).saturating_add(slack_ns)
        })
    }

    fn add(&mut self, interval: &Interval) {
        let begun_ns = interval.end_ns.saturating_sub(interval.length_ns);
        self.start_ns.get_or_insert(begun_ns);
        self.end_ns = interval.end_ns;
        for (metric, text) in &interval.histograms {
            if let Some(part) = decode_histogram(text) {
                merge(&mut self.histograms, *metric, part);
            }
        }
    }

    fn write<W: Write>(
        &mut self,
        log: &mut Writer<'_, '_, W>,
        trial: &TrialLog,
        started_ns: u64,
    ) -> anyhow::Result<()> {
        let Some(start_ns) = self.start_ns.take() else {
            return Ok(());
        };
        let load_ns = trial.start_unix_ns.unwrap_or(started_ns);
        let at = load_ns.saturating_add(start_ns).saturating_sub(started_ns);
        let length = self.end_ns.saturating_sub(start_ns);
        for (metric, histogram) in std::mem::take(&mut self.histograms) {
            let text = format!("{}/{}/{}", trial.cell, trial.trial, metric.name());
            let tag = Tag::new(&text)
                .with_context(|| format!("`{text}` cannot be a tag of an interval log"))?;
            log.write_histogram(
                &histogram,
                Duration::from_nanos(at),
                Duration::from_nanos(length),
                Some(tag),
            )
            .map_err(|e| anyhow!("cannot write a histogram: {e}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    struct Entry {
        tag: String,
        start_s: f64,
        length_s: f64,
        max: f64,
        histogram: Histogram<u64>,
    }

    /// The log of some events, read with HdrHistogram's own reader: StartTime and entries.
    fn log_of(events: &[RunEvent]) -> (Duration, Vec<Entry>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal.jsonl");
        let mut writer = journal::JournalWriter::create(&path).expect("new");
        for event in events {
            writer.append(event).expect("room");
        }
        let run = fixture::fold(events).expect("it began");
        let mut bytes = Vec::new();
        write(&run, &path, &mut bytes).expect("memory");
        let mut started = Duration::ZERO;
        let mut entries = Vec::new();
        for entry in IntervalLogIterator::new(&bytes) {
            match entry.expect("a line that HdrHistogram reads") {
                LogEntry::StartTime(at) => started = at,
                LogEntry::BaseTime(_) => panic!("stamps count from StartTime"),
                LogEntry::Interval(i) => entries.push(Entry {
                    tag: i.tag().expect("a tag").as_str().to_owned(),
                    start_s: i.start_timestamp().as_secs_f64(),
                    length_s: i.duration().as_secs_f64(),
                    max: i.max(),
                    histogram: decode_histogram(i.encoded_histogram()).expect("V2"),
                }),
            }
        }
        (started, entries)
    }

    fn assert_equals_the_run(events: &[RunEvent], entries: Vec<Entry>) {
        let run = fixture::fold(events).expect("it began");
        let mut merged = BTreeMap::new();
        for entry in entries {
            merge(&mut merged, entry.tag, entry.histogram);
        }
        let want: BTreeMap<String, Histogram<u64>> = run
            .trials
            .iter()
            .flat_map(|log| {
                log.histograms.iter().map(|(metric, histogram)| {
                    let tag = format!("{}/{}/{}", log.cell, log.trial, metric.name());
                    (tag, histogram.clone())
                })
            })
            .collect();
        assert_eq!(merged, want);
    }

    #[test]
    fn read_back_by_its_own_reader_it_equals_the_run() {
        let events = fixture::small_run();
        let (started, entries) = log_of(&events);
        assert_eq!(started.as_nanos(), u128::from(fixture::STARTED_NS));
        // Two trials with four metrics in one interval and one in another.
        assert_eq!(entries.len(), 10);
        let first = &entries[0];
        assert_eq!(first.tag, "shared/0/lag");
        // The load began 10 s after the run, the window 1 s after that.
        assert_eq!((first.start_s, first.length_s), (11.0, 1.0));
        // The largest is 4 ms, and the divisor makes it ms.
        assert!((first.max - 4.0).abs() < 0.01, "{}", first.max);
        assert_equals_the_run(&events, entries);
    }

    fn long_run(window_s: u64) -> Vec<RunEvent> {
        let mut events = fixture::small_run();
        events.truncate(2);
        events.push(fixture::trial_started(0, 0, "shared"));
        events.push(RunEvent::LoadStarted {
            trial: 0,
            start_unix_ns: fixture::STARTED_NS,
            skew_ns: 0,
            window_start_ns: Some(0),
            window_end_ns: Some(window_s * NS_PER_S),
        });
        for second in 1..=window_s {
            // As real intervals do, each ends a little late.
            let end_ns = second * NS_PER_S + 3_000_000;
            events.push(fixture::interval(
                0,
                end_ns,
                &[Metric::E2e],
                &[second * 1_000_000],
            ));
        }
        events
    }

    #[test]
    fn a_long_trial_is_logged_every_ten_seconds_also_where_it_was_killed() {
        let events = long_run(65);
        let (_, entries) = log_of(&events);
        let lengths: Vec<u64> = entries.iter().map(|e| e.length_s.round() as u64).collect();
        assert_eq!(lengths, [10, 10, 10, 10, 10, 10, 5]);
        assert_equals_the_run(&events, entries);
        let (_, entries) = log_of(&long_run(60));
        assert_eq!(entries.len(), 60);
    }

    #[test]
    fn events_that_the_run_ignores_are_not_logged() {
        let mut events = fixture::small_run();
        events.push(fixture::interval(0, 9, &Metric::ALL, &[77_000; 9]));
        let (_, entries) = log_of(&events);
        assert_equals_the_run(&events, entries);
    }
}
