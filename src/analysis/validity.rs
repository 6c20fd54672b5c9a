//! Whether a trial may be used. Only the driver's failure spoils one: that it was late, held back
//! by its host or its own event loop, or lost count of what it sent. A slow target is a result.
//!
//! Pure rules on the log of one trial, each with its threshold as a constant. What was not
//! measured is not judged, so older journals keep their status. Called for each finished trial;
//! `docs/FORMAT.md` has the same rules in words.

use hdrhistogram::Histogram;

use crate::measure::histogram::{Metric, quantile};
use crate::record::document::Status;
use crate::record::event::{CellRef, Health, Sample, TrialResult};
use crate::record::fold::TrialLog;
use crate::units::human_ns;

/// The driver is late above this, or above a tenth of the response time.
const LATE_NS: f64 = 1e6;
/// It was so late that the trial says nothing above this, or above half of the response time.
const USELESS_NS: f64 = 5e6;

/// Of the messages due in the window, how many must have been recorded, but for a few.
const RECORDED: f64 = 0.99;
const FEW: f64 = 10.0;

/// Shares above which a trial is degraded, or invalid.
#[derive(Debug, Clone, Copy)]
struct Limits {
    degraded: f64,
    invalid: f64,
}

/// Not a reason to leave a trial out.
const NEVER: f64 = f64::INFINITY;

/// Time for which the driver's cgroup was throttled, summed over CPUs as the kernel does, of the
/// window. A throttled driver is stopped for most of a period of 100 ms: each is a pause in the
/// schedule, and 1 % of the time is all of a p99.
const THROTTLED: Limits = Limits {
    degraded: 0.0,
    invalid: 0.01,
};
/// On a host shared with the servers these are held back too, in the same cgroup: part of the time
/// is the target's.
const THROTTLED_SHARED: Limits = Limits {
    degraded: 0.0,
    invalid: 0.10,
};
/// Time for which a worker stood still, of the window, on any host: nothing was sent or received
/// then, whoever had the CPU. A development build on two cores shared with one or three servers and
/// nobody else showed 0.0 to 0.4 %, in open loop as in closed loop at full speed, in windows of one
/// second as of ten; with a neighbour that took half a core 0.2 to 2 %, and with compilers on both
/// cores 4 to 13 %.
const STALLED: Limits = Limits {
    degraded: 0.01,
    invalid: 0.10,
};
/// CPU that the driver used, of what it may use. In a queue of random arrivals (M/M/1) times grow by
/// a factor of three at 70 % and of ten at 90 %.
const CPU: Limits = Limits {
    degraded: 0.70,
    invalid: 0.90,
};
/// On a shared host the servers want the rest: what is left of it shows as stalls and lag.
const CPU_SHARED: Limits = Limits {
    degraded: 0.70,
    invalid: NEVER,
};
/// CPU of the busiest worker's thread, of the window. The rate of such a trial is the driver's, not
/// the target's; its numbers are right.
const BUSIEST: Limits = Limits {
    degraded: 0.95,
    invalid: NEVER,
};
/// CPU time that the hypervisor gave to other machines, of all CPU time.
const STEAL: Limits = Limits {
    degraded: 0.01,
    invalid: 0.10,
};
/// The servers lose their part of it as well, and such a host is compared with itself: a virtual
/// machine of two cores showed 1 to 5 % all day.
const STEAL_SHARED: Limits = Limits {
    degraded: 0.10,
    invalid: NEVER,
};
/// Time in which some task of the host waited for a CPU (PSI), of the window.
const PRESSURE: Limits = Limits {
    degraded: 0.10,
    invalid: 0.50,
};
/// On a shared host driver and servers press each other by design. Two cores with nobody else on
/// them showed 21 % (1,000 messages a second, one server), 35 to 49 % (10,000 a second or closed
/// loop, one server), 80 to 84 % (either with three servers); and 82 to 100 % with neighbours, so
/// that only what no healthy trial comes near can be told apart.
const PRESSURE_SHARED: Limits = Limits {
    degraded: 0.95,
    invalid: NEVER,
};

/// A change of wall clock less monotonic clock from one sample to the next that is a step: no
/// slewing (at most 0.5 ms a second) comes near it.
const CLOCK_STEP_NS: u64 = 50_000_000;

/// A sample this long after the window's beginning is the one that was taken for it.
const SAMPLED_LATE_NS: i64 = 50_000_000;

/// Everything that can be said against the trial of `log`, with the status that it costs.
/// `saturated`: not all that was due was acked; `fault_on`: something was broken on purpose.
pub fn judge(
    log: &TrialLog,
    cell: &CellRef,
    result: &TrialResult,
    saturated: bool,
    fault_on: bool,
) -> Vec<(Status, String)> {
    let acks = cell.has_publishers && !cell.core;
    let open_loop = cell.has_publishers && !cell.closed_loop;
    let lag = log.histograms.get(&Metric::Lag).filter(|_| open_loop);
    let response = log.histograms.get(&Metric::Response).filter(|_| acks);
    let around = Around::window(log, result);
    let around = around.as_ref();
    [
        lag.and_then(|lag| late(lag, response)),
        conservation(result).filter(|_| acks),
        unrecorded(result, response.filter(|_| open_loop)),
        starved(log, result),
        around.and_then(throttled),
        around.and_then(cpu).filter(|_| !cell.spin),
        driver_bound(log, result, saturated).filter(|_| !cell.spin),
        around.and_then(steal),
        around.and_then(pressure),
        reconnects(result).filter(|_| !fault_on),
        clock_step(log),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether the driver was late, by the highest quantile that its samples allow.
fn late(lag: &Histogram<u64>, response: Option<&Histogram<u64>>) -> Option<(Status, String)> {
    let (q, name, lag_ns) = [(0.99, "p99"), (0.9, "p90"), (0.5, "p50")]
        .into_iter()
        .find_map(|(q, name)| Some((q, name, quantile(lag, q)?)))?;
    let response_ns = response.and_then(|r| quantile(r, q));
    let above = |limit_ns: f64, share: f64| {
        lag_ns as f64 > limit_ns.max(share * response_ns.unwrap_or(0) as f64)
    };
    let status = if above(USELESS_NS, 0.5) {
        Status::Invalid
    } else if above(LATE_NS, 0.1) {
        Status::Degraded
    } else {
        return None;
    };
    let ms = |ns: u64| ns as f64 / 1e6;
    let of = response_ns.map_or_else(String::new, |ns| {
        format!(" of response {name} {:.1} ms", ms(ns))
    });
    Some((
        status,
        format!("driver late: lag {name} {:.1} ms{of}", ms(lag_ns)),
    ))
}

/// Every publish must end in exactly one outcome.
fn conservation(result: &TrialResult) -> Option<(Status, String)> {
    let (acked, refused, unknown) = (result.acked?, result.refused?, result.unknown?);
    let ended = u128::from(acked) + u128::from(refused) + u128::from(unknown);
    (ended != u128::from(result.attempted)).then(|| {
        let attempted = result.attempted;
        (
            Status::Invalid,
            format!(
                "conservation broken: {attempted} attempted, but {acked} acked + {refused} refused + {unknown} unknown = {ended}"
            ),
        )
    })
}

/// Every message that was due in the window must have a response time, unless it was refused. A
/// window that is known only afterwards begins some messages late.
fn unrecorded(result: &TrialResult, response: Option<&Histogram<u64>>) -> Option<(Status, String)> {
    let (offered, recorded) = (result.offered?, response?.len());
    let told = recorded + result.refused.unwrap_or(0);
    ((told as f64) < RECORDED * offered as f64 - FEW).then(|| {
        (
            Status::Invalid,
            format!(
                "conservation broken: {offered} messages were due in the window, and {recorded} have a response time"
            ),
        )
    })
}

impl Limits {
    fn status(self, share: f64) -> Option<Status> {
        if share > self.invalid {
            Some(Status::Invalid)
        } else if share > self.degraded {
            Some(Status::Degraded)
        } else {
            None
        }
    }
}

/// The looks at the machine between which the window lies.
struct Around<'a> {
    first: &'a Sample,
    last: &'a Sample,
    shared_host: bool,
}

impl<'a> Around<'a> {
    /// `None` where there are no two samples, as in a trial that was cut short.
    fn window(log: &'a TrialLog, result: &TrialResult) -> Option<Self> {
        let start_ns = i64::try_from(result.window_start_ns).ok()?;
        let end_ns = start_ns.checked_add_unsigned(result.window_ns)?;
        // The journal has them in the order in which their slow parts were there.
        let mut samples: Vec<&Sample> = log.samples.iter().collect();
        samples.sort_by_key(|sample| sample.at_ns);
        let before = |sample: &&&Sample| sample.at_ns <= start_ns.saturating_add(SAMPLED_LATE_NS);
        let first = samples.iter().rfind(before).or(samples.first())?;
        let after = samples.iter().find(|sample| sample.at_ns >= end_ns);
        let last = after.or(samples.last())?;
        (result.window_ns > 0 && first.at_ns < last.at_ns).then_some(Self {
            first,
            last,
            shared_host: result.shared_host,
        })
    }

    fn length_ns(&self) -> f64 {
        self.last.at_ns.abs_diff(self.first.at_ns) as f64
    }

    /// By how much a counter rose; `None` where it is not known, or began anew.
    fn rose(&self, counter: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let rose = counter(self.last)?.checked_sub(counter(self.first)?)?;
        Some(rose as f64)
    }

    fn limits(&self, own: Limits, shared: Limits) -> Limits {
        if self.shared_host { shared } else { own }
    }
}

/// Health of the workers in the window: the part of each interval that lies in it, added up. `None`
/// where it was not recorded: a thread that ran has used CPU.
fn health(log: &TrialLog, result: &TrialResult) -> Option<Health> {
    let start_ns = result.window_start_ns;
    let end_ns = start_ns.saturating_add(result.window_ns);
    let mut sum = Health::default();
    for row in &log.series {
        let begun_ns = row.begun_ns();
        let inside_ns = row
            .end_ns
            .min(end_ns)
            .saturating_sub(begun_ns.max(start_ns));
        if inside_ns == 0 {
            continue;
        }
        let part = |ns: u64| (ns as f64 * inside_ns as f64 / row.length_ns as f64).round() as u64;
        sum.stalled_ns += part(row.health.stalled_ns);
        sum.busiest_cpu_ns += part(row.health.busiest_cpu_ns);
        sum.cpu_ns += part(row.health.cpu_ns);
        sum.longest_stall_ns = sum.longest_stall_ns.max(row.health.longest_stall_ns);
    }
    (sum.busiest_cpu_ns > 0).then_some(sum)
}

/// A worker stood still: its event loop did not run although it wanted to.
fn starved(log: &TrialLog, result: &TrialResult) -> Option<(Status, String)> {
    let health = health(log, result)?;
    let status = STALLED.status(health.stalled_ns as f64 / result.window_ns as f64)?;
    Some((
        status,
        format!(
            "driver starved: a worker stood still for {} of {} (longest {})",
            human_ns(health.stalled_ns as f64),
            human_ns(result.window_ns as f64),
            human_ns(health.longest_stall_ns as f64)
        ),
    ))
}

fn throttled(around: &Around<'_>) -> Option<(Status, String)> {
    let ns = around.rose(|s| s.machine.throttled_ns)?;
    let periods = around
        .rose(|s| s.machine.throttled_periods)
        .unwrap_or_default();
    let limits = around.limits(THROTTLED, THROTTLED_SHARED);
    let status = limits.status(ns / around.length_ns())?;
    Some((
        status,
        format!(
            "driver throttled: its cgroup was kept from running for {} of {}, in {periods} periods",
            human_ns(ns),
            human_ns(around.length_ns())
        ),
    ))
}

fn cpu(around: &Around<'_>) -> Option<(Status, String)> {
    let used_ns = around.rose(|s| Some(s.driver_cpu_ns))?;
    let cpus = around.first.machine.cpus.filter(|cpus| *cpus > 0.0)?;
    let share = used_ns / (around.length_ns() * cpus);
    let status = around.limits(CPU, CPU_SHARED).status(share)?;
    Some((
        status,
        format!(
            "driver CPU: {:.0} % of the {cpus} CPUs it may use",
            share * 100.0
        ),
    ))
}

/// The driver gave all it has. Where that was not enough, it was not the target that fell behind.
fn driver_bound(log: &TrialLog, result: &TrialResult, saturated: bool) -> Option<(Status, String)> {
    let share = health(log, result)?.busiest_cpu_ns as f64 / result.window_ns as f64;
    let status = match BUSIEST.status(share)? {
        Status::Degraded if saturated => Status::Invalid,
        status => status,
    };
    Some((
        status,
        format!(
            "driver-bound: the busiest worker's thread ran for {:.0} % of the window",
            share * 100.0
        ),
    ))
}

fn steal(around: &Around<'_>) -> Option<(Status, String)> {
    let all_ns = around.rose(|s| s.machine.all_cpu_ns)?;
    let share = around.rose(|s| s.machine.steal_ns)? / all_ns;
    let status = around.limits(STEAL, STEAL_SHARED).status(share)?;
    Some((
        status,
        format!(
            "CPU steal: the hypervisor gave {:.1} % of the CPU time to others",
            share * 100.0
        ),
    ))
}

fn pressure(around: &Around<'_>) -> Option<(Status, String)> {
    let share = around.rose(|s| s.machine.cpu_pressure_ns)? / around.length_ns();
    let status = around.limits(PRESSURE, PRESSURE_SHARED).status(share)?;
    Some((
        status,
        format!(
            "CPU pressure: tasks of the host waited for a CPU in {:.0} % of the time",
            share * 100.0
        ),
    ))
}

fn reconnects(result: &TrialResult) -> Option<(Status, String)> {
    (result.reconnects > 0).then(|| {
        (
            Status::Degraded,
            format!(
                "reconnects: connections were cut {} times",
                result.reconnects
            ),
        )
    })
}

/// The wall clock was set. All times of a run are of the monotonic clock, so no number changes; but
/// what others wrote down meanwhile, the servers' logs and the times of their messages first of
/// all, does not line up with them any more, and that is worth a stamp.
fn clock_step(log: &TrialLog) -> Option<(Status, String)> {
    let mut samples: Vec<(i64, i64)> = log
        .samples
        .iter()
        .filter_map(|s| Some((s.at_ns, s.machine.clock_offset_ns?)))
        .collect();
    samples.sort_unstable();
    let step_ns = samples
        .windows(2)
        .map(|pair| pair[1].1.saturating_sub(pair[0].1))
        .max_by_key(|step_ns| step_ns.unsigned_abs())?;
    (step_ns.unsigned_abs() > CLOCK_STEP_NS).then(|| {
        let step_s = step_ns as f64 / 1e9;
        // A step that a tenth of a second cannot show keeps its milliseconds.
        let step = if step_s.abs() < 1.0 {
            format!("{:+.0} ms", step_s * 1e3)
        } else {
            format!("{step_s:+.1} s")
        };
        (
            Status::Degraded,
            format!("the system clock stepped by {step}; times are monotonic and not affected"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::histogram::{new_histogram, record};
    use crate::record::event::{Counts, Machine};
    use crate::record::fixture;
    use crate::record::fold::SeriesRow;
    use crate::units::NS_PER_S;

    const MS: u64 = 1_000_000;
    /// The window lies from 1 s to 11 s after the start.
    const WINDOW_S: u64 = 10;

    /// A trial in closed loop with a window of ten seconds, looked at from 0 to 12 s.
    struct Trial {
        log: TrialLog,
        cell: CellRef,
        result: TrialResult,
    }

    impl Trial {
        /// Two CPUs, of which driver and worker use 0.1; nobody presses.
        fn healthy(shared_host: bool) -> Self {
            let cell = fixture::closed("a", &[]);
            let mut result = fixture::result(0, 2_000);
            result.shared_host = shared_host;
            result.window_ns = WINDOW_S * NS_PER_S;
            let manifest = fixture::manifest(vec![cell.clone()], &[]);
            let mut run = fixture::run_of(manifest, vec![(0, "a", result.clone())]);
            let mut log = run.trials.remove(0);
            log.samples = (0..=12).map(sample).collect();
            // In the order in which their slow parts arrived.
            log.samples.swap(3, 4);
            log.series = (1..=12).map(row).collect();
            Self { log, cell, result }
        }

        /// A look at the machine changed by the seconds of the window that lie before it.
        fn machine(mut self, change: impl Fn(&mut Sample, u64)) -> Self {
            for sample in &mut self.log.samples {
                let seconds = sample.at_ns.unsigned_abs() / NS_PER_S;
                change(sample, seconds.clamp(1, 1 + WINDOW_S) - 1);
            }
            self
        }

        /// Health changed in every interval of the window.
        fn workers(mut self, change: impl Fn(&mut Health)) -> Self {
            for row in &mut self.log.series[1..=WINDOW_S as usize] {
                change(&mut row.health);
            }
            self
        }

        fn judged(&self) -> Vec<(Status, String)> {
            judge(&self.log, &self.cell, &self.result, false, false)
        }

        /// The one thing said against it.
        fn status(&self) -> Status {
            let all = self.judged();
            assert!(all.len() < 2, "{all:?}");
            all.first().map_or(Status::Valid, |(status, _)| *status)
        }

        fn reason(&self) -> String {
            self.judged().remove(0).1
        }
    }

    fn sample(second: u64) -> Sample {
        Sample {
            trial: 0,
            at_ns: (second * NS_PER_S).cast_signed(),
            driver_cpu_ns: second * 100 * MS,
            driver_rss_bytes: 1,
            servers: Vec::new(),
            stored_bytes: None,
            stored_msgs: None,
            disk_bytes: None,
            machine: Machine {
                cpus: Some(2.0),
                throttled_periods: Some(7),
                throttled_ns: Some(7_000),
                steal_ns: Some(900),
                all_cpu_ns: Some(second * 2 * NS_PER_S),
                cpu_pressure_ns: Some(800),
                clock_offset_ns: Some(-40),
            },
        }
    }

    fn row(second: u64) -> SeriesRow {
        SeriesRow {
            end_ns: second * NS_PER_S,
            length_ns: NS_PER_S,
            counts: Counts::default(),
            latency: std::collections::BTreeMap::new(),
            health: Health {
                busiest_cpu_ns: 100 * MS,
                cpu_ns: 100 * MS,
                ..Health::default()
            },
        }
    }

    const DEGRADED: Status = Status::Degraded;
    const INVALID: Status = Status::Invalid;
    const VALID: Status = Status::Valid;

    /// At, and above, thresholds in 0.1 % of the window; on a host of its own and on a shared one.
    fn gate(table: &[(u64, Status, Status)], trial: impl Fn(bool, u64) -> Trial) {
        for (permille, own, shared) in table {
            for (shared_host, want) in [(false, *own), (true, *shared)] {
                let got = trial(shared_host, *permille).status();
                assert_eq!(got, want, "{permille} permille, shared host: {shared_host}");
            }
        }
    }

    #[test]
    fn a_healthy_trial_has_nothing_against_it() {
        for shared in [false, true] {
            assert_eq!(Trial::healthy(shared).judged(), []);
        }
    }

    #[test]
    fn a_throttled_driver_is_stamped_and_a_much_throttled_one_left_out() {
        let trial = |shared, permille| {
            Trial::healthy(shared).machine(move |s, t| {
                let per_s = permille * MS;
                s.machine.throttled_ns = s.machine.throttled_ns.map(|n| n + t * per_s);
                s.machine.throttled_periods = s.machine.throttled_periods.map(|n| n + 3 * t);
            })
        };
        let table = [
            (0, VALID, VALID),
            (1, DEGRADED, DEGRADED),
            (10, DEGRADED, DEGRADED),
            (11, INVALID, DEGRADED),
            (100, INVALID, DEGRADED),
            (101, INVALID, INVALID),
        ];
        gate(&table, trial);
        assert_eq!(
            trial(true, 250).reason(),
            "driver throttled: its cgroup was kept from running for 2.50 s of 10.0 s, in 30 periods"
        );
    }

    #[test]
    fn a_worker_that_stands_still_starves_on_any_host() {
        let trial = |shared, permille| {
            Trial::healthy(shared).workers(move |health| {
                health.stalled_ns = permille * MS;
                health.longest_stall_ns = 2 * permille * MS;
            })
        };
        let table = [
            (10, VALID, VALID),
            (11, DEGRADED, DEGRADED),
            (100, DEGRADED, DEGRADED),
            (101, INVALID, INVALID),
        ];
        gate(&table, trial);
        let mut open = trial(true, 210);
        open.cell = fixture::open("a", &[], 40.0);
        assert_eq!(open.status(), INVALID, "in open loop too");
        assert_eq!(
            open.reason(),
            "driver starved: a worker stood still for 2.10 s of 10.0 s (longest 420 ms)"
        );
    }

    #[test]
    fn intervals_count_by_the_part_that_lies_in_the_window() {
        let mut trial = Trial::healthy(true);
        trial.result.window_start_ns += NS_PER_S / 2;
        let stall = |trial: &mut Trial, second: usize, ns: u64| {
            trial.log.series[second - 1].health.stalled_ns = ns;
        };
        stall(&mut trial, 1, NS_PER_S);
        assert_eq!(trial.status(), VALID, "before the window");
        stall(&mut trial, 2, 200 * MS);
        assert_eq!(trial.status(), VALID, "half of it, 1 %");
        stall(&mut trial, 12, 2 * MS);
        assert_eq!(trial.status(), DEGRADED);
    }

    #[test]
    fn a_driver_that_uses_all_its_cpu_is_no_measure_of_a_target() {
        let trial = |shared, permille: u64| {
            Trial::healthy(shared).machine(move |s, t| {
                s.machine.cpus = Some(1.5);
                s.driver_cpu_ns = t * permille * 1_500_000;
            })
        };
        let table = [
            (700, VALID, VALID),
            (701, DEGRADED, DEGRADED),
            (900, DEGRADED, DEGRADED),
            (901, INVALID, DEGRADED),
        ];
        gate(&table, trial);
        assert_eq!(
            trial(false, 910).reason(),
            "driver CPU: 91 % of the 1.5 CPUs it may use"
        );
    }

    #[test]
    fn a_full_thread_bounds_the_rate() {
        let trial = |shared, permille: u64| {
            Trial::healthy(shared).workers(move |h| h.busiest_cpu_ns = permille * MS)
        };
        let table = [
            (950, VALID, VALID),
            (951, DEGRADED, DEGRADED),
            (1000, DEGRADED, DEGRADED),
        ];
        gate(&table, trial);
        assert_eq!(
            trial(true, 990).reason(),
            "driver-bound: the busiest worker's thread ran for 99 % of the window"
        );
        let (full, spare) = (trial(false, 990), trial(false, 900));
        let status = |t: &Trial, saturated| {
            let judged = judge(&t.log, &t.cell, &t.result, saturated, false);
            judged.into_iter().map(|(status, _)| status).max()
        };
        assert_eq!(status(&full, false), Some(Status::Degraded));
        assert_eq!(status(&full, true), Some(Status::Invalid), "whose fault?");
        assert_eq!(status(&spare, true), None, "the target's");
    }

    #[test]
    fn stolen_cpu_time_is_a_share_of_all() {
        let trial = |shared, permille: u64| {
            Trial::healthy(shared)
                .machine(move |s, t| s.machine.steal_ns = Some(5 + t * permille * 2 * MS))
        };
        let table = [
            (10, VALID, VALID),
            (11, DEGRADED, VALID),
            (100, DEGRADED, VALID),
            (101, INVALID, DEGRADED),
        ];
        gate(&table, trial);
        assert_eq!(
            trial(true, 134).reason(),
            "CPU steal: the hypervisor gave 13.4 % of the CPU time to others"
        );
    }

    #[test]
    fn pressure_on_a_shared_host_is_a_stamp_at_most() {
        let trial = |shared, permille: u64| {
            Trial::healthy(shared)
                .machine(move |s, t| s.machine.cpu_pressure_ns = Some(5 + t * permille * MS))
        };
        let limit = (PRESSURE_SHARED.degraded * 1_000.0) as u64;
        let table = [
            (100, VALID, VALID),
            (101, DEGRADED, VALID),
            (500, DEGRADED, VALID),
            (501, INVALID, VALID),
            (limit, INVALID, VALID),
            (limit + 1, INVALID, DEGRADED),
            (1000, INVALID, DEGRADED),
        ];
        gate(&table, trial);
        assert_eq!(
            trial(false, 600).reason(),
            "CPU pressure: tasks of the host waited for a CPU in 60 % of the time"
        );
    }

    #[test]
    fn a_cut_connection_is_a_stamp_unless_it_was_cut_on_purpose() {
        let mut trial = Trial::healthy(false);
        trial.result.reconnects = 2;
        assert_eq!(trial.status(), DEGRADED);
        assert_eq!(trial.reason(), "reconnects: connections were cut 2 times");
        assert_eq!(
            judge(&trial.log, &trial.cell, &trial.result, false, true),
            []
        );
    }

    #[test]
    fn a_step_of_the_clock_is_said_and_slewing_is_not() {
        let set = |offsets: [i64; 3]| {
            let mut trial = Trial::healthy(true);
            for (sample, offset) in trial.log.samples.iter_mut().zip(offsets) {
                sample.machine.clock_offset_ns = Some(offset);
            }
            // The others look on from the last of them.
            for sample in &mut trial.log.samples[3..] {
                sample.machine.clock_offset_ns = Some(offsets[2]);
            }
            trial
        };
        let ms = 1_000_000;
        assert_eq!(set([0, 50 * ms, 100 * ms]).status(), VALID);
        assert_eq!(set([0, -51 * ms, -51 * ms]).status(), DEGRADED);
        let said = |offsets| set(offsets).reason();
        let tail = "; times are monotonic and not affected";
        assert_eq!(
            said([7, 3_000 * ms, 3_000 * ms]),
            format!("the system clock stepped by +3.0 s{tail}")
        );
        assert_eq!(
            said([0, -80 * ms, 10 * ms]),
            format!("the system clock stepped by +90 ms{tail}")
        );
    }

    #[test]
    fn what_happens_outside_of_the_window_is_not_judged() {
        // Samples at 1 s, as late as they come, and at 11 s bracket it.
        let mut trial = Trial::healthy(false);
        for sample in &mut trial.log.samples {
            if sample.at_ns == NS_PER_S.cast_signed() {
                sample.at_ns += 40_000_000;
            }
            let outside = match sample.at_ns.unsigned_abs() / NS_PER_S {
                0 => 0,
                1..=11 => 50 * NS_PER_S,
                _ => 99 * NS_PER_S,
            };
            sample.machine.throttled_ns = Some(outside);
            sample.machine.cpu_pressure_ns = Some(outside);
            sample.machine.steal_ns = Some(outside);
        }
        assert_eq!(trial.status(), VALID);
        // A second of it is within.
        trial.log.samples[10].machine.cpu_pressure_ns = Some(48 * NS_PER_S);
        trial.log.samples[11].machine.cpu_pressure_ns = Some(52 * NS_PER_S);
        assert_eq!(trial.status(), DEGRADED);
    }

    #[test]
    fn everything_is_said_and_what_is_unknown_is_not_judged() {
        let all = |trial: Trial| {
            let mut trial = trial
                .workers(|h| (h.stalled_ns, h.busiest_cpu_ns) = (NS_PER_S / 2, NS_PER_S))
                .machine(|s, t| {
                    s.driver_cpu_ns = t * 2 * NS_PER_S;
                    s.machine.throttled_ns = Some(t * NS_PER_S);
                    s.machine.steal_ns = Some(t * NS_PER_S);
                    s.machine.cpu_pressure_ns = Some(t * NS_PER_S);
                    s.machine.clock_offset_ns = Some(t.cast_signed() * 1_000_000_000);
                });
            trial.result.reconnects = 1;
            trial.result.unknown = Some(1);
            trial
        };
        let trial = all(Trial::healthy(false));
        let said = trial.judged();
        assert_eq!(said.len(), 9, "{said:?}");
        assert!(said.iter().any(|(status, _)| *status == INVALID));
        assert!(said.iter().any(|(status, _)| *status == DEGRADED));

        let mut older = all(Trial::healthy(false));
        older.result.reconnects = 0;
        older.result.unknown = Some(0);
        let older = older.machine(|s, _| s.machine = Machine::default());
        let older = older.workers(|h| *h = Health::default());
        assert_eq!(older.judged(), []);
        // A counter that began anew says nothing.
        let anew =
            Trial::healthy(false).machine(|s, t| s.machine.steal_ns = Some((20 - t) * NS_PER_S));
        assert_eq!(anew.judged(), []);
        let mut unseen = all(Trial::healthy(false));
        unseen.log.samples.truncate(1);
        unseen.log.series.clear();
        assert_eq!(unseen.judged().len(), 2, "conservation and reconnects");
    }

    fn histogram(n: u64, ns: u64) -> Histogram<u64> {
        let mut histogram = new_histogram();
        (0..n).for_each(|_| record(&mut histogram, ns));
        histogram
    }

    #[test]
    fn a_late_driver_degrades_and_a_very_late_one_invalidates() {
        let lag = |lag_ns, response_ns| {
            let mut trial = Trial::healthy(true);
            trial.cell = fixture::open("a", &[], 2_000.0);
            for (metric, ns) in [(Metric::Lag, lag_ns), (Metric::Response, response_ns)] {
                trial.log.histograms.insert(metric, histogram(2_000, ns));
            }
            trial
        };
        for (lag_ns, response_ns, want) in [
            (MS * 9 / 10, 2 * MS, VALID),      // below 1 ms
            (MS * 11 / 10, 2 * MS, DEGRADED),  // above 1 ms and 0.2 ms
            (MS * 19 / 10, 20 * MS, VALID),    // below a tenth
            (MS * 21 / 10, 20 * MS, DEGRADED), // above a tenth
            (MS * 49 / 10, 6 * MS, DEGRADED),  // below 5 ms
            (MS * 51 / 10, 6 * MS, INVALID),   // above 5 ms and 3 ms
            (MS * 49, 100 * MS, DEGRADED),     // below half
            (MS * 51, 100 * MS, INVALID),      // above half
        ] {
            let got = lag(lag_ns, response_ns);
            assert_eq!(got.status(), want, "{lag_ns} of {response_ns}");
        }
        assert_eq!(
            lag(MS * 9 / 4, MS * 69 / 10).reason(),
            "driver late: lag p99 2.3 ms of response p99 6.9 ms"
        );
        let mut closed = lag(60 * MS, MS);
        closed.cell = fixture::closed("a", &[]);
        assert_eq!(closed.status(), VALID, "no schedule to be late for");
    }

    #[test]
    fn a_short_trial_is_judged_by_the_quantile_it_has() {
        let (status, reason) = late(&histogram(150, 2 * MS), None).expect("late");
        assert_eq!(status, DEGRADED);
        assert_eq!(reason, "driver late: lag p90 2.0 ms");
    }

    #[test]
    fn what_is_sent_must_end_in_one_outcome() {
        let mut trial = Trial::healthy(true);
        trial.result.unknown = Some(3);
        assert_eq!(trial.status(), INVALID);
        assert_eq!(
            trial.reason(),
            "conservation broken: 4000 attempted, but 4000 acked + 0 refused + 3 unknown = 4003"
        );
        trial.result.acked = Some(u64::MAX);
        trial.result.unknown = Some(u64::MAX);
        assert_eq!(trial.status(), INVALID);
    }
}
