//! What the clients of one worker record: counters and the four histograms, split into the
//! messages of the window and all others, cut into intervals.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::timeline::Timeline;
use crate::measure::histogram::{Metric, encode, new_histogram, record_many};
use crate::record::event::Counts;

/// Counts inside the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCounts {
    /// Publishes begun.
    pub sent: u64,
    /// Acks that arrived.
    pub acked: u64,
    /// Deliveries that arrived.
    pub received: u64,
}

/// Counts over time, for windows that are known only afterwards.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timelines {
    /// Messages due (open loop).
    pub intended: Timeline,
    /// Publishes begun.
    pub sent: Timeline,
    /// Acks that arrived.
    pub acked: Timeline,
    /// Deliveries that arrived.
    pub received: Timeline,
}

struct Pair {
    window: Histogram<u64>,
    others: Histogram<u64>,
    censored: u64,
    clipped: u64,
}

/// One interval of a worker. Histograms are HdrHistogram V2 with deflate, absent where empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// Counters since the last cut.
    pub counts: Counts,
    /// Messages intended inside the window.
    pub window: BTreeMap<Metric, Vec<u8>>,
    /// All others: warm-up and what came after.
    pub others: BTreeMap<Metric, Vec<u8>>,
}

/// Records for all clients of a worker.
pub struct Recorder {
    /// When load began, ns since the Unix epoch.
    start_ns: u64,
    /// The window, ns since the Unix epoch; `None` until it is known.
    window: Option<(u64, u64)>,
    pairs: [Pair; 4],
    counts: Counts,
    totals: Counts,
    window_counts: WindowCounts,
    timelines: Option<Timelines>,
    receipts: Option<(u64, u64)>,
}

impl Recorder {
    /// A recorder for load that begins at `start_ns`. With `later` the window is known only
    /// afterwards, and counts are kept over time.
    pub fn new(later: bool) -> Self {
        Self {
            start_ns: u64::MAX,
            window: None,
            pairs: Metric::ALL.map(|_| Pair {
                window: new_histogram(),
                others: new_histogram(),
                censored: 0,
                clipped: 0,
            }),
            counts: Counts::default(),
            totals: Counts::default(),
            window_counts: WindowCounts::default(),
            timelines: later.then(Timelines::default),
            receipts: None,
        }
    }

    /// Load begins at `start_ns`, with the window if it is known; ns since the Unix epoch.
    pub fn start(&mut self, start_ns: u64, window: Option<(u64, u64)>) {
        self.start_ns = start_ns;
        self.window = window;
    }

    /// The window began.
    pub fn open_window(&mut self, at_ns: u64) {
        self.window = Some((at_ns, u64::MAX));
    }

    /// The window ended.
    pub fn close_window(&mut self, at_ns: u64) {
        if let Some(window) = &mut self.window {
            window.1 = at_ns;
        }
    }

    fn in_window(&self, at_ns: u64) -> bool {
        self.window
            .is_some_and(|(start, end)| at_ns >= start && at_ns < end)
    }

    fn after_start(&self, at_ns: u64) -> u64 {
        at_ns.saturating_sub(self.start_ns)
    }

    /// A time of the message that was intended at `intended_ns`. Negative times are recorded as 0
    /// and counted.
    pub fn time(&mut self, metric: Metric, intended_ns: u64, from_ns: u64, to_ns: u64) {
        self.times(metric, intended_ns, from_ns, to_ns, 1);
    }

    /// The same time of `count` messages.
    pub fn times(
        &mut self,
        metric: Metric,
        intended_ns: u64,
        from_ns: u64,
        to_ns: u64,
        count: u64,
    ) {
        let inside = self.in_window(intended_ns);
        let pair = &mut self.pairs[metric as usize];
        if to_ns < from_ns && inside {
            pair.clipped += count;
        }
        let histogram = if inside {
            &mut pair.window
        } else {
            &mut pair.others
        };
        record_many(histogram, to_ns.saturating_sub(from_ns), count);
    }

    /// A time that is at least this long: the message had no answer by then.
    pub fn at_least(&mut self, metric: Metric, intended_ns: u64, from_ns: u64, to_ns: u64) {
        self.time(metric, intended_ns, from_ns, to_ns);
        if self.in_window(intended_ns) {
            self.pairs[metric as usize].censored += 1;
        }
    }

    /// A message became due.
    pub fn intended(&mut self, due_ns: u64) {
        self.counts.intended += 1;
        let after = self.after_start(due_ns);
        if let Some(lines) = &mut self.timelines {
            lines.intended.add(after, 1);
        }
    }

    /// So many publishes left.
    pub fn sent(&mut self, at_ns: u64, awaits_ack: bool, count: u64) {
        self.counts.attempted += count;
        self.counts.in_flight += u64::from(awaits_ack) * count;
        self.window_counts.sent += u64::from(self.in_window(at_ns)) * count;
        let after = self.after_start(at_ns);
        if let Some(lines) = &mut self.timelines {
            lines.sent.add(after, count);
        }
    }

    /// So many publishes were acked.
    pub fn acked(&mut self, at_ns: u64, count: u64) {
        self.counts.acked += count;
        self.counts.in_flight = self.counts.in_flight.saturating_sub(count);
        self.window_counts.acked += u64::from(self.in_window(at_ns)) * count;
        let after = self.after_start(at_ns);
        if let Some(lines) = &mut self.timelines {
            lines.acked.add(after, count);
        }
    }

    /// A publish was refused.
    pub fn refused(&mut self) {
        self.counts.refused += 1;
        self.counts.in_flight = self.counts.in_flight.saturating_sub(1);
    }

    /// A publish stayed without an answer.
    pub fn unknown(&mut self) {
        self.counts.unknown += 1;
        self.counts.in_flight = self.counts.in_flight.saturating_sub(1);
    }

    /// A message of ours was delivered.
    pub fn received(&mut self, at_ns: u64) {
        self.counts.received += 1;
        self.window_counts.received += u64::from(self.in_window(at_ns));
        let after = self.after_start(at_ns);
        if let Some(lines) = &mut self.timelines {
            lines.received.add(after, 1);
        }
        let first = self.receipts.map_or(at_ns, |(first, _)| first);
        self.receipts = Some((first, at_ns));
    }

    /// Time in which a due message could not be sent.
    pub fn blocked(&mut self, ns: u64) {
        self.counts.blocked_ns += ns;
    }

    /// Everything counted up to the last cut.
    pub fn totals(&self) -> Counts {
        self.totals
    }

    /// Ends an interval.
    pub fn cut(&mut self) -> Cut {
        self.totals = self.totals.plus(self.counts);
        let mut cut = Cut {
            counts: self.counts,
            ..Cut::default()
        };
        self.counts = Counts {
            in_flight: self.counts.in_flight,
            ..Counts::default()
        };
        for (metric, pair) in Metric::ALL.into_iter().zip(&mut self.pairs) {
            for (histogram, out) in [
                (&mut pair.window, &mut cut.window),
                (&mut pair.others, &mut cut.others),
            ] {
                if !histogram.is_empty() {
                    out.insert(metric, encode(histogram));
                    histogram.reset();
                }
            }
        }
        cut
    }

    /// Counts inside the window, when it was known from the start.
    pub fn window_counts(&self) -> WindowCounts {
        self.window_counts
    }

    /// Counts over time, when the window was not known.
    pub fn timelines(&self) -> Option<&Timelines> {
        self.timelines.as_ref()
    }

    /// First and last receipt, ns since the Unix epoch.
    pub fn receipts(&self) -> Option<(u64, u64)> {
        self.receipts
    }

    /// Samples of the window that stand for a longer, unknown time.
    pub fn censored(&self) -> BTreeMap<Metric, u64> {
        Metric::ALL
            .into_iter()
            .zip(&self.pairs)
            .map(|(m, p)| (m, p.censored))
            .collect()
    }

    /// Negative times of the window.
    pub fn clipped(&self) -> BTreeMap<Metric, u64> {
        Metric::ALL
            .into_iter()
            .zip(&self.pairs)
            .map(|(m, p)| (m, p.clipped))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::histogram::decode;

    #[test]
    fn latency_takes_the_messages_intended_in_the_window_and_rates_the_acks_in_it() {
        let mut recorder = Recorder::new(false);
        recorder.start(0, Some((1_000_000, 2_000_000)));
        recorder.time(Metric::Response, 999_999, 999_999, 1_500_000);
        recorder.time(Metric::Response, 1_000_000, 1_000_000, 9_000_000);
        recorder.time(Metric::Response, 2_000_000, 2_000_000, 2_000_001);
        for at in [999_999, 1_000_000, 1_999_999, 2_000_000] {
            recorder.acked(at, 1);
        }
        let cut = recorder.cut();
        let of = |bytes: &Vec<u8>| decode(bytes).expect("own bytes").len();
        assert_eq!(cut.window.get(&Metric::Response).map(of), Some(1));
        assert_eq!(cut.others.get(&Metric::Response).map(of), Some(2));
        assert_eq!(recorder.window_counts().acked, 2);
        assert_eq!(recorder.cut(), Cut::default(), "a cut starts anew");
    }

    #[test]
    fn negative_times_are_zero_and_counted() {
        let mut recorder = Recorder::new(false);
        recorder.start(0, Some((0, 100)));
        recorder.time(Metric::E2e, 50, 50, 20);
        assert_eq!(recorder.clipped()[&Metric::E2e], 1);
        recorder.at_least(Metric::Service, 50, 50, 5_000);
        assert_eq!(recorder.censored()[&Metric::Service], 1);
    }
}
