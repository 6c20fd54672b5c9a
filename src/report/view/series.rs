//! Intervals of a trial, drawn together where there are more than a page can show.

use crate::measure::histogram::Metric;
use crate::record::document::TrialRecord;
use crate::record::fold::{SeriesRow, TrialEnd, TrialLog};

use super::cell::RateKind;
use super::figure::{self, P99};

/// Intervals of a trial for the charts over time.
#[derive(Debug, Clone)]
pub struct TrialSeries {
    /// In summaries.
    pub usable: bool,
    /// Window after the start, s.
    pub window_s: Option<(f64, f64)>,
    /// Points; a gap of the record is a gap here.
    pub points: Vec<Point>,
}

/// One interval.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Begin after the start, s.
    pub from_s: f64,
    /// End after the start, s.
    pub to_s: f64,
    /// Of the cell's kind, per second.
    pub rate: f64,
    /// Due in an open loop, per second; 0 in a closed one.
    pub offered: f64,
    /// p99 of response, else service, else end to end.
    pub p99_ns: Option<u64>,
    /// It has fewer samples above it than a plain number needs.
    pub p99_grey: bool,
}

/// Points of one trial on a page; more are drawn together, a gap staying a gap.
const MAX_POINTS: usize = 120;
/// Shorter intervals after the window are not drawn.
const REMNANT_NS: u64 = 200_000_000;

impl TrialSeries {
    /// The intervals of `log`; `trial` says whether they count.
    pub fn new(log: &TrialLog, trial: &TrialRecord, kind: RateKind) -> Self {
        let window = match &log.end {
            TrialEnd::Finished(result) => Some((
                result.window_start_ns,
                result.window_start_ns.saturating_add(result.window_ns),
            )),
            TrialEnd::Open | TrialEnd::Failed(_) => log.window,
        };
        let together = log.series.len().div_ceil(MAX_POINTS).max(1);
        let mut points = Vec::new();
        let mut group: Vec<&SeriesRow> = Vec::new();
        for row in log.series.iter().filter(|row| !is_remnant(row, window)) {
            let gap = group.last().is_some_and(|last| follows_late(last, row));
            if gap || group.len() == together {
                points.extend(point(&group, kind));
                group.clear();
            }
            group.push(row);
        }
        points.extend(point(&group, kind));
        Self {
            usable: trial.status.usable(),
            window_s: window.map(|(from, to)| (from as f64 / 1e9, to as f64 / 1e9)),
            points,
        }
    }
}

/// What came in the moment between the window's end and the last answer: as a rate it would look like
/// a collapse.
fn is_remnant(row: &SeriesRow, window: Option<(u64, u64)>) -> bool {
    let after = window.is_some_and(|(_, end)| row.begun_ns() >= end);
    after && row.length_ns < REMNANT_NS
}

/// An interval is missing between two rows.
fn follows_late(last: &SeriesRow, row: &SeriesRow) -> bool {
    row.begun_ns() > last.end_ns + row.length_ns / 2
}

fn point(rows: &[&SeriesRow], kind: RateKind) -> Option<Point> {
    let (first, last) = (rows.first()?, rows.last()?);
    let length_s = rows.iter().map(|r| r.length_ns as f64).sum::<f64>() / 1e9;
    if length_s <= 0.0 {
        return None;
    }
    let count = |row: &&SeriesRow| match kind {
        RateKind::Acked => row.counts.acked,
        RateKind::Delivered => row.counts.received,
        RateKind::Sent => row.counts.attempted,
    };
    let p99 = |row: &&SeriesRow| {
        [Metric::Response, Metric::Service, Metric::E2e]
            .iter()
            .find_map(|metric| {
                let summary = row.latency.get(metric)?;
                Some((summary.p99_ns?, figure::is_grey(Some(summary), P99)))
            })
    };
    // The worst of the intervals drawn together: a mean of quantiles means nothing.
    let worst = rows.iter().filter_map(p99).max();
    let intended: u64 = rows.iter().map(|row| row.counts.intended).sum();
    Some(Point {
        from_s: first.begun_ns() as f64 / 1e9,
        to_s: last.end_ns as f64 / 1e9,
        rate: rows.iter().map(|row| count(row) as f64).sum::<f64>() / length_s,
        offered: intended as f64 / length_s,
        p99_ns: worst.map(|(ns, _)| ns),
        p99_grey: worst.is_some_and(|(_, grey)| grey),
    })
}
