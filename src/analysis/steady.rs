//! Whether a trial was steady: the course of its main number over the seconds of the window, and
//! what the servers do so seldom that the window holds it once or not at all. Nothing is cut from
//! any number; what would be is told. Called for each row of the record.

use std::time::Duration;

use crate::measure::histogram::Metric;
use crate::record::document::{Period, Steady, SteadyClass};
use crate::record::event::CellRef;
use crate::record::fold::{SeriesRow, TrialLog};
use crate::units::{NS_PER_S, human_duration};

use super::summary::Primary;
use super::trend::{block_means, mann_kendall, mean, median, mser5, theil_sen};

/// A shorter window shows no course.
const SHORTEST_NS: u64 = 60 * NS_PER_S;
/// Of the window, what must have been recorded.
const RECORDED: f64 = 0.75;
/// Fewer intervals than this are no series.
const FEWEST: usize = 30;
/// A trend changes by more than this in a minute, as a share of the median,
const SLOPE_PER_MIN: f64 = 0.01;
/// its Mann-Kendall test has a p below this,
const SIGNIFICANT: f64 = 0.01;
/// and the means of the two halves differ by more than this.
const HALVES: f64 = 0.05;
/// Means that the test looks at: seconds hang on those before them, blocks of many hardly do.
const BLOCKS: usize = 12;
/// Points that the slope is taken from; more are averaged first.
const SLOPE_POINTS: usize = 300;
/// How often nats-server compacts the log of a replicated stream.
const RAFT_COMPACTION_NS: u64 = 120 * NS_PER_S;

/// The course of a finished trial of `cell`.
pub fn steady(log: &TrialLog, cell: &CellRef, saturated: bool) -> Steady {
    let Some((start_ns, end_ns)) = log.window else {
        return Steady::default();
    };
    let window_ns = end_ns.saturating_sub(start_ns);
    let periods = periods(log, cell, window_ns);
    match assess(log, cell, saturated, (start_ns, end_ns)) {
        Ok(assessed) => Steady {
            periods,
            ..assessed
        },
        Err(reason) => Steady {
            reason: Some(reason),
            periods,
            ..Steady::default()
        },
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Rate(Primary),
    /// Mean of each second.
    Latency(Metric),
}

impl Subject {
    /// The rate, where the target sets it. In open loop the schedule does, and the time that a
    /// message takes is what may change.
    fn of(cell: &CellRef, saturated: bool) -> Option<Self> {
        if saturated || cell.closed_loop || !cell.has_publishers {
            Some(Self::Rate(Primary::of(cell)))
        } else if !cell.core {
            Some(Self::Latency(Metric::Response))
        } else {
            cell.has_consumers.then_some(Self::Latency(Metric::E2e))
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rate(primary) => primary.name(),
            Self::Latency(metric) => metric.name(),
        }
    }

    fn value(self, row: &SeriesRow) -> Option<f64> {
        let count = match self {
            Self::Latency(metric) => return Some(row.latency.get(&metric)?.mean_ns? as f64),
            Self::Rate(Primary::Acked) => row.counts.acked,
            Self::Rate(Primary::Delivered) => row.counts.received,
            Self::Rate(Primary::Sent) => row.counts.attempted,
        };
        Some(count as f64 * NS_PER_S as f64 / row.length_ns as f64)
    }
}

/// The course, or why it is not assessed.
fn assess(
    log: &TrialLog,
    cell: &CellRef,
    saturated: bool,
    window: (u64, u64),
) -> Result<Steady, String> {
    if cell.program.is_some() {
        return Err("the rate changes by design".to_owned());
    }
    let window_ns = window.1.saturating_sub(window.0);
    let length = human_duration(Duration::from_nanos(window_ns));
    if window_ns < SHORTEST_NS {
        return Err(format!(
            "the window is {length}: under 60s a course cannot be told"
        ));
    }
    let subject = Subject::of(cell, saturated)
        .ok_or("core publishing at a rate that nobody reads has no time that could change")?;
    let name = subject.name();
    let mut rows: Vec<&SeriesRow> = log
        .series
        .iter()
        .filter(|row| inside(row, window) && subject.value(row).is_some())
        .collect();
    rows.sort_by_key(|row| row.end_ns);
    let recorded_ns = rows
        .iter()
        .fold(0, |sum: u64, row| sum.saturating_add(row.length_ns));
    if rows.len() < FEWEST || (recorded_ns as f64) < RECORDED * window_ns as f64 {
        let recorded = human_duration(Duration::from_nanos(recorded_ns));
        return Err(format!(
            "{name} was recorded in {recorded} of the window of {length}, which is too little"
        ));
    }
    let points: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|row| Some((middle_s(row), subject.value(row)?)))
        .collect();
    let course = course(&points)
        .ok_or_else(|| format!("{name} is 0 in half of the window: nothing to compare with"))?;
    Ok(Steady {
        class: course.class(matches!(subject, Subject::Rate(_))),
        metric: Some(name.to_owned()),
        // The window begins between two intervals: no cut is none of it.
        cut_ns: Some(match course.cut {
            0 => 0,
            cut => rows[cut].begun_ns() - window.0,
        }),
        slope_per_min: Some(course.slope_per_min),
        reason: None,
        periods: Vec::new(),
    })
}

/// Wholly inside of the window: what lies across an end is of both sides.
fn inside(row: &SeriesRow, window: (u64, u64)) -> bool {
    row.length_ns > 0 && row.lies_in(window)
}

fn middle_s(row: &SeriesRow) -> f64 {
    (row.end_ns as f64 - row.length_ns as f64 / 2.0) / NS_PER_S as f64
}

/// How a series goes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Course {
    /// Points that MSER-5 would cut.
    cut: usize,
    at_limit: bool,
    slope_per_min: f64,
    p: f64,
    /// Second half over first half, less 1.
    halves: f64,
}

/// The course of (time in s, value) after what MSER-5 would cut. Where it would cut as much as it
/// may, nothing is known to have settled and all of it is looked at. `None` where there is no
/// median to compare with.
fn course(points: &[(f64, f64)]) -> Option<Course> {
    let values = |points: &[(f64, f64)]| -> Vec<f64> { points.iter().map(|(_, y)| *y).collect() };
    let cut = mser5(&values(points))?;
    let kept = if cut.at_limit {
        points
    } else {
        &points[cut.values..]
    };
    let median = median(values(kept)).filter(|m| *m > 0.0)?;
    let (first, second) = kept.split_at(kept.len() / 2);
    Some(Course {
        cut: cut.values,
        at_limit: cut.at_limit,
        slope_per_min: theil_sen(&block_means(kept, SLOPE_POINTS))? * 60.0 / median,
        p: mann_kendall(&values(&block_means(kept, BLOCKS)))?.p,
        halves: mean(&values(second)) / mean(&values(first)) - 1.0,
    })
}

impl Course {
    fn class(self, more_is_better: bool) -> SteadyClass {
        // A change that nobody would act on is none, however sure it is. In a quiet series MSER-5
        // cuts for a change of a percent all that it may.
        if self.halves.abs() <= HALVES {
            return SteadyClass::Flat;
        }
        let trend = self.slope_per_min.abs() > SLOPE_PER_MIN && self.p < SIGNIFICANT;
        let better = (self.slope_per_min > 0.0) == more_is_better;
        match (trend, better) {
            (true, true) => SteadyClass::Warming,
            (true, false) => SteadyClass::Degrading,
            (false, _) if self.at_limit => SteadyClass::NoSteadyState,
            (false, _) => SteadyClass::Flat,
        }
    }
}

/// What the servers do in known periods of which the window holds less than two.
fn periods(log: &TrialLog, cell: &CellRef, window_ns: u64) -> Vec<Period> {
    let synced = log.servers.iter().filter(|s| s.sync_always != Some(true));
    let fsync = synced.filter_map(|s| s.sync_interval_ns).max();
    let compaction = (cell.replicas > 1).then_some(RAFT_COMPACTION_NS);
    [
        ("fsync", fsync.filter(|_| cell.file)),
        ("raft compaction", compaction),
    ]
    .into_iter()
    .filter_map(|(name, every_ns)| Some((name, every_ns?)))
    .filter(|(_, every_ns)| window_ns < every_ns.saturating_mul(2))
    .map(|(name, every_ns)| Period {
        name: name.to_owned(),
        every_ns,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::histogram::LatencySummary;
    use crate::record::document::ServerInfo;
    use crate::record::event::{Counts, Health};
    use crate::record::fixture;
    use SteadyClass::{Degrading, Flat, NoSteadyState, NotAssessed, Warming};
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt as _, SeedableRng as _};

    /// A trial with a warm-up of a second, a window of a second for each value, and a drain. The
    /// values are acks and deliveries per second, and the mean response and end-to-end times in us.
    fn log(values: &[f64]) -> TrialLog {
        let manifest = fixture::manifest(vec![fixture::closed("a", &[])], &[]);
        let mut result = fixture::result(0, 100);
        result.window_ns = values.len() as u64 * NS_PER_S;
        let mut log = fixture::run_of(manifest, vec![(0, "a", result)])
            .trials
            .remove(0);
        let all = [&[9e9], values, &[0.0]].concat();
        log.series = (1..).zip(all).map(|(s, y)| row(s, y)).collect();
        log
    }

    fn row(second: u64, y: f64) -> SeriesRow {
        let latency = LatencySummary {
            count: 1,
            mean_ns: Some((y * 1e3) as u64),
            ..LatencySummary::default()
        };
        SeriesRow {
            end_ns: second * NS_PER_S,
            length_ns: NS_PER_S,
            counts: Counts {
                attempted: 1,
                acked: y as u64,
                received: y as u64,
                ..Counts::default()
            },
            latency: [Metric::Response, Metric::E2e]
                .map(|m| (m, latency.clone()))
                .into(),
            health: Health::default(),
        }
    }

    /// 100,000 with a coefficient of variation of `cv`, each value hanging on the one before it
    /// with 0.6, times the shape.
    fn noisy(seed: u64, n: u32, cv: f64, shape: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || {
            let (u, v): (f64, f64) = (rng.random(), rng.random());
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let mut x = normal();
        (0..n)
            .map(|i| {
                x = 0.6 * x + 0.8 * normal();
                1e5 * (1.0 + cv * x) * shape(f64::from(i))
            })
            .collect()
    }

    fn of(values: &[f64]) -> Steady {
        steady(&log(values), &fixture::closed("a", &[]), false)
    }

    /// Of `n` series with these seeds, the share whose course is one of `classes`.
    fn share(n: u64, series: impl Fn(u64) -> Vec<f64>, classes: &[SteadyClass]) -> f64 {
        let hits = (0..n).filter(|seed| classes.contains(&of(&series(*seed)).class));
        hits.count() as f64 / n as f64
    }

    #[test]
    fn noise_alone_is_flat() {
        for n in [60, 120] {
            let flat = share(500, |seed| noisy(seed, n, 0.05, |_| 1.0), &[Flat]);
            assert!(flat >= 0.95, "{flat} of windows of {n} s");
        }
    }

    /// The first 15 s are up to 30 % slower.
    #[test]
    fn a_slow_start_is_cut_and_the_rest_is_nearer_to_the_truth() {
        let warm_up = |t: f64| 1.0 - 0.3 * (-t / 15.0).exp();
        let (mut before, mut after) = (0.0, 0.0);
        for seed in 0..100 {
            let values = noisy(seed, 120, 0.05, warm_up);
            let steady = of(&values);
            let cut = (steady.cut_ns.expect("assessed") / NS_PER_S) as usize;
            assert!(cut > 0 && cut <= 60, "{cut} s");
            before += mean(&values) / 1e5 - 1.0;
            after += mean(&values[cut..]) / 1e5 - 1.0;
        }
        assert!(before < -3.0 && after.abs() < 1.0, "{before} % {after} %");
    }

    #[test]
    fn a_drift_is_told_with_its_direction() {
        let falls = |t: f64| 1.0 - 0.1 * t / 60.0;
        let rises = |t: f64| 1.0 + 0.1 * t / 60.0;
        for (n, least) in [(180, 0.8), (300, 0.95)] {
            for (shape, class) in [
                (&falls as &dyn Fn(f64) -> f64, Degrading),
                (&rises, Warming),
            ] {
                let found = share(100, |seed| noisy(seed, n, 0.05, shape), &[class]);
                assert!(found >= least, "{found} {class:?} in {n} s");
            }
        }
        let slope = of(&noisy(1, 300, 0.02, falls)).slope_per_min;
        // A tenth of the start is 0.133 of the median.
        assert!(slope.is_some_and(|s| (s + 0.133).abs() < 0.02), "{slope:?}");
    }

    #[test]
    fn less_is_better_for_times() {
        let rises = noisy(1, 120, 0.01, |t| 1.0 + 0.2 * t / 60.0);
        let log = log(&rises);
        let open = fixture::open("a", &[], 100.0);
        let core = |cell: CellRef| CellRef { core: true, ..cell };
        let drain = CellRef {
            has_publishers: false,
            ..fixture::closed("a", &[])
        };
        let unread = CellRef {
            has_consumers: false,
            ..core(open.clone())
        };
        for (cell, saturated, class, metric) in [
            (fixture::closed("a", &[]), false, Warming, "acked_per_s"),
            (open.clone(), true, Warming, "acked_per_s"),
            (open.clone(), false, Degrading, "response"),
            (core(open), false, Degrading, "e2e"),
            (drain, false, Warming, "deliver.per_s"),
            (
                core(fixture::closed("a", &[])),
                false,
                Warming,
                "deliver.per_s",
            ),
        ] {
            let got = steady(&log, &cell, saturated);
            assert_eq!((got.class, got.metric.as_deref()), (class, Some(metric)));
            assert_eq!(got.reason, None);
        }
        let got = steady(&log, &unread, false);
        assert_eq!((got.class, got.metric), (NotAssessed, None));
        assert!(got.reason.is_some());
    }

    #[test]
    fn a_step_in_the_middle_never_settled_and_a_small_one_is_none() {
        let step = |size: f64| {
            noisy(1, 120, 0.01, move |t| {
                1.0 + if t < 60.0 { 0.0 } else { size }
            })
        };
        let got = of(&step(0.3));
        assert_eq!(
            (got.class, got.cut_ns),
            (NoSteadyState, Some(60 * NS_PER_S))
        );
        assert_eq!(of(&step(0.03)).class, Flat);
    }

    #[test]
    fn what_shows_no_course_says_why() {
        let cell = fixture::closed("a", &[]);
        let why = |log: &TrialLog, cell: &CellRef| {
            let got = steady(log, cell, false);
            assert_eq!(
                (got.class, got.cut_ns, got.slope_per_min),
                (NotAssessed, None, None)
            );
            got.reason.expect("a reason")
        };
        assert_eq!(
            why(&log(&[5.0; 30]), &cell),
            "the window is 30s: under 60s a course cannot be told"
        );
        let program = CellRef {
            program: Some("1k/s for 10s, 5k/s for 110s".to_owned()),
            ..fixture::open("a", &[], 100.0)
        };
        assert_eq!(
            why(&log(&[5.0; 120]), &program),
            "the rate changes by design"
        );
        let mut sparse = log(&[5.0; 120]);
        sparse.series.retain(|row| row.end_ns <= 60 * NS_PER_S);
        assert_eq!(
            why(&sparse, &cell),
            "acked_per_s was recorded in 59s of the window of 2m, which is too little"
        );
        assert_eq!(
            why(&log(&[0.0; 120]), &cell),
            "acked_per_s is 0 in half of the window: nothing to compare with"
        );
        assert_eq!(of(&[5.0; 60]).class, Flat);
    }

    /// Rates before and after the window, and across its ends, are not of it; seconds that are
    /// missing leave the others at their times.
    #[test]
    fn only_the_seconds_of_the_window_count_and_gaps_do_no_harm() {
        let values = noisy(3, 300, 0.01, |t| 1.0 - 0.1 * t / 60.0);
        let whole = of(&values);
        let mut gaps = log(&values);
        gaps.series.retain(|row| row.end_ns / NS_PER_S % 7 != 3);
        gaps.series.reverse();
        let got = steady(&gaps, &fixture::closed("a", &[]), false);
        assert_eq!(got.class, Degrading);
        let (all, some) = (whole.slope_per_min, got.slope_per_min);
        let near = all
            .zip(some)
            .is_some_and(|(a, b)| (a / b - 1.0).abs() < 0.05);
        assert!(near, "{all:?} {some:?}");
        // The window of a drain or of a message count begins within a second.
        let mut across = log(&[5.0; 120]);
        across.window = Some((NS_PER_S / 2, 120 * NS_PER_S));
        let got = steady(&across, &fixture::closed("a", &[]), false);
        assert_eq!((got.class, got.cut_ns), (Flat, Some(0)));
    }

    #[test]
    fn periods_that_the_window_holds_less_than_twice_are_told() {
        let cell = CellRef {
            replicas: 3,
            ..fixture::closed("a", &[])
        };
        let two_minutes = 120 * NS_PER_S;
        let server = ServerInfo {
            sync_interval_ns: Some(two_minutes),
            sync_always: Some(false),
            ..ServerInfo::default()
        };
        let names = |seconds: usize, server: &ServerInfo, cell: &CellRef| -> Vec<String> {
            let mut log = log(&vec![5.0; seconds]);
            log.servers = vec![server.clone()];
            let periods = steady(&log, cell, false).periods;
            assert!(periods.iter().all(|p| p.every_ns == two_minutes));
            periods.into_iter().map(|p| p.name).collect()
        };
        assert_eq!(names(30, &server, &cell), ["fsync", "raft compaction"]);
        assert_eq!(names(239, &server, &cell), ["fsync", "raft compaction"]);
        assert!(names(240, &server, &cell).is_empty());
        let change = |f: fn(&mut ServerInfo)| {
            let mut changed = server.clone();
            f(&mut changed);
            changed
        };
        let always = change(|s| s.sync_always = Some(true));
        let unknown = change(|s| s.sync_interval_ns = None);
        assert_eq!(names(30, &always, &cell), ["raft compaction"]);
        assert_eq!(names(30, &unknown, &cell), ["raft compaction"]);
        let memory = CellRef {
            file: false,
            replicas: 1,
            ..cell.clone()
        };
        assert!(names(30, &server, &memory).is_empty());
    }
}
