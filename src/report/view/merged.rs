//! Latencies of a cell from the histograms of its usable trials, merged and never averaged.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::figure::{Figure, P50, P90, P99, P999};
use crate::measure::histogram::{LEAST_ABOVE, LatencySummary, Metric, Support, new_histogram};
use crate::record::document::{CellRecord, LatencyRecord, TrialRecord};
use crate::record::fold::Run;
use crate::units::{human_ns, thousands};

/// Steps of a percentile curve in each factor of ten of 1/(1-q).
const STEPS_PER_DECADE: u32 = 16;

/// What service is called where an ack stands for a group.
pub const ACK_GROUP: &str = "ack-group latency";
/// What response is called there.
pub const ACK_GROUP_RESPONSE: &str = "ack-group response";
/// Sign behind such figures in a table.
pub const ACK_GROUP_SIGN: &str = "g";
/// What it means.
pub const ACK_GROUP_MEANS: &str = "ack-group latency: until the ack that stands for a message's group; \
     not comparable with an ack for each message";

/// One latency of a cell over its usable trials.
#[derive(Debug, Clone, Serialize)]
pub struct LatencyView {
    /// Which.
    #[serde(skip)]
    pub metric: Metric,
    /// Its name.
    pub name: &'static str,
    /// Samples.
    pub count: String,
    /// Censored samples.
    pub censored: String,
    /// Clipped samples.
    pub clipped: String,
    /// min, p50, p90, p99, p99.9, max with their units.
    pub figures: [Figure; 6],
    /// The same as numbers.
    #[serde(skip)]
    pub summary: LatencySummary,
    /// (1/(1-q), ns) up to the quantile above which ten samples lie; empty without a histogram.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// The latencies that the cell's usable trials measured; with `ack_groups` an ack stands for a group,
/// and what ends with it has a name of its own.
pub fn latencies(run: &Run, cell: &CellRecord, ack_groups: bool) -> Vec<LatencyView> {
    let usable: Vec<&TrialRecord> = cell.trials.iter().filter(|t| t.status.usable()).collect();
    let logs: BTreeMap<u32, _> = run.trials.iter().map(|log| (log.trial, log)).collect();
    Metric::ALL
        .into_iter()
        .filter_map(|metric| {
            let recorded: Vec<&LatencySummary> = usable
                .iter()
                .filter_map(|trial| of(&trial.latency, metric))
                .collect();
            if recorded.is_empty() {
                return None;
            }
            let mut merged = new_histogram();
            for trial in &usable {
                // Only what the record says was measured: in closed loop it has no response.
                if of(&trial.latency, metric).is_some()
                    && let Some(histogram) = logs
                        .get(&trial.trial)
                        .and_then(|log| log.histograms.get(&metric))
                {
                    merged.add(histogram).ok()?;
                }
            }
            let sum = |of: fn(&LatencySummary) -> u64| {
                recorded.iter().map(|s| of(s)).fold(0, u64::saturating_add)
            };
            let summary = match recorded.as_slice() {
                // An imported trial has its figures and no histogram.
                [only] if merged.is_empty() => (*only).clone(),
                _ => LatencySummary::of(&merged, sum(|s| s.censored), sum(|s| s.clipped)),
            };
            Some(LatencyView::new(
                metric,
                ack_groups,
                summary,
                curve(&merged),
            ))
        })
        .collect()
}

/// One of the four.
pub fn of(latency: &LatencyRecord, metric: Metric) -> Option<&LatencySummary> {
    match metric {
        Metric::Lag => latency.lag.as_ref(),
        Metric::Service => latency.service.as_ref(),
        Metric::Response => latency.response.as_ref(),
        Metric::E2e => latency.e2e.as_ref(),
    }
}

impl LatencyView {
    fn new(
        metric: Metric,
        ack_groups: bool,
        summary: LatencySummary,
        curve: Vec<(f64, f64)>,
    ) -> Self {
        let quantile = |pick| Figure::quantile(Some(&summary), pick);
        let figures = [
            Figure::plain(shown(summary.min_ns)),
            quantile(P50),
            quantile(P90),
            quantile(P99),
            quantile(P999),
            Figure::plain(shown(summary.max_ns)),
        ];
        Self {
            metric,
            name: match (ack_groups, metric) {
                (true, Metric::Service) => ACK_GROUP,
                (true, Metric::Response) => ACK_GROUP_RESPONSE,
                _ => metric.name(),
            },
            count: thousands(summary.count),
            censored: thousands(summary.censored),
            clipped: thousands(summary.clipped),
            figures,
            summary,
            curve,
        }
    }

    /// How many points of the curve have the samples of a plain number above them.
    pub fn plain_points(&self) -> usize {
        let count = self.summary.count;
        self.curve
            .partition_point(|(x, _)| Support::of(count, 1.0 - 1.0 / x) == Support::Plain)
    }
}

/// A time, or `-` where it was not measured.
pub fn shown(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".into(), |ns| human_ns(ns as f64))
}

/// Points up to the last quantile with ten samples above it: beyond, a curve shows chance.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let last = histogram.len() as f64 / LEAST_ABOVE;
    if last < 2.0 {
        return Vec::new();
    }
    let steps = (last.log10() * f64::from(STEPS_PER_DECADE)).floor() as u32;
    (0..=steps)
        .map(|step| 10_f64.powf(f64::from(step) / f64::from(STEPS_PER_DECADE)))
        .chain([last])
        .map(|x| (x, histogram.value_at_quantile(1.0 - 1.0 / x) as f64))
        .collect()
}
