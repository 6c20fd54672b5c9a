//! What a calibration means: whether known answers were met, and which rates its driver may not keep.
//! Pure; called by the engine that measured it and by the verbs that rely on it.

use std::time::Duration;

use crate::record::calibration::{Calibration, ClientCalibration, DelayCheck, StallCheck};
use crate::record::document::Outcome;
use crate::scenario::model::{Cell, PublishMode, Rate, Workload};
use crate::units::{human_bytes, human_duration, human_ns, short_rate, thousands};

/// Up to this share of its ceiling a driver can be relied on to send in time.
pub const RELIABLE_SHARE: f64 = 0.7;

/// A delay may be missed by this much, which are the ways to the stub and back,
const DELAY_TOLERANCE_NS: u64 = 200_000;
/// and by this share.
const DELAY_TOLERANCE_SHARE: f64 = 0.02;
/// How far the quantiles of the stall may be off.
const STALL_TOLERANCE: f64 = 0.15;
/// A closed loop that says less than this share of the open loop's p99 has missed the stall.
const MISSED_SHARE: f64 = 0.1;

impl DelayCheck {
    /// Judges the median service time against a known delay; `service_ns` are p50, p90 and p99.
    pub fn of(delay_ns: u64, service_ns: [Option<u64>; 3]) -> Self {
        let [service_p50_ns, service_p90_ns, service_p99_ns] = service_ns;
        let tolerance_ns =
            DELAY_TOLERANCE_NS + (delay_ns as f64 * DELAY_TOLERANCE_SHARE).round() as u64;
        Self {
            delay_ns,
            service_p50_ns,
            service_p90_ns,
            service_p99_ns,
            tolerance_ns,
            result: service_p50_ns.map_or(Outcome::Inconclusive, |p50_ns| {
                outcome(p50_ns.abs_diff(delay_ns) <= tolerance_ns)
            }),
        }
    }
}

impl StallCheck {
    /// Judges both loops against a stall of `stall_ns` each `every_ns`. A share S/T of evenly spaced
    /// messages falls into it and waits for U(0, S), so that quantile q is S - (1-q) T.
    /// `response_ns` are p90 and p99.
    pub fn of(
        stall_ns: u64,
        every_ns: u64,
        response_ns: [Option<u64>; 2],
        closed_loop_p99_ns: Option<u64>,
    ) -> Self {
        let [response_p90_ns, response_p99_ns] = response_ns;
        let expected_p90_ns = stall_ns.saturating_sub(every_ns / 10);
        let expected_p99_ns = stall_ns.saturating_sub(every_ns / 100);
        let near = |(ns, expected_ns): (u64, u64)| {
            ns.abs_diff(expected_ns) as f64 <= expected_ns as f64 * STALL_TOLERANCE
        };
        let within = match [
            response_p90_ns.map(|ns| near((ns, expected_p90_ns))),
            response_p99_ns.map(|ns| near((ns, expected_p99_ns))),
        ] {
            [Some(false), _] | [_, Some(false)] => Some(false),
            [Some(true), Some(true)] => Some(true),
            _ => None,
        };
        let missed = response_p99_ns
            .zip(closed_loop_p99_ns)
            .map(|(open_ns, closed_ns)| (closed_ns as f64) < open_ns as f64 * MISSED_SHARE);
        let result = match (within, missed) {
            (Some(false), _) | (_, Some(false)) => Outcome::Fail,
            (Some(true), Some(true)) => Outcome::Pass,
            _ => Outcome::Inconclusive,
        };
        Self {
            stall_ns,
            every_ns,
            expected_p90_ns,
            response_p90_ns,
            expected_p99_ns,
            response_p99_ns,
            closed_loop_p99_ns,
            result,
        }
    }

    /// What the two loops say of the stall, in words.
    pub fn in_words(&self) -> String {
        let quantile = |name: &str, ns: Option<u64>, expected_ns: u64| {
            let ns = ns.map_or_else(|| "not measured".to_owned(), |ns| human_ns(ns as f64));
            format!("{name} {ns} ({} expected)", human_ns(expected_ns as f64))
        };
        let open = format!(
            "open loop {}, {}",
            quantile("p90", self.response_p90_ns, self.expected_p90_ns),
            quantile("p99", self.response_p99_ns, self.expected_p99_ns)
        );
        let closed = match (self.closed_loop_p99_ns, self.response_p99_ns) {
            (None, _) => "the closed loop beside it was not measured".to_owned(),
            (Some(ns), open_ns) => {
                let missed =
                    open_ns.is_some_and(|open_ns| (ns as f64) < open_ns as f64 * MISSED_SHARE);
                let said = format!("a closed loop beside it says {}", human_ns(ns as f64));
                if missed {
                    format!("{said}: it never saw the stall")
                } else {
                    said
                }
            }
        };
        format!("{open}; {closed}")
    }
}

fn outcome(held: bool) -> Outcome {
    if held { Outcome::Pass } else { Outcome::Fail }
}

/// The result of all checks, and why it is not a pass.
pub fn judge(delays: &[DelayCheck], stall: &StallCheck) -> (Outcome, Vec<String>) {
    let mut reasons = Vec::new();
    let mut result = Outcome::Pass;
    let mut note = |of: Outcome, failed: String, unknown: String| match of {
        Outcome::Pass => {}
        Outcome::Fail => {
            result = Outcome::Fail;
            reasons.push(failed);
        }
        Outcome::Inconclusive => {
            if result == Outcome::Pass {
                result = Outcome::Inconclusive;
            }
            reasons.push(unknown);
        }
    };
    for check in delays {
        let delay = human_duration(Duration::from_nanos(check.delay_ns));
        note(
            check.result,
            format!(
                "a delay of {delay} was measured as {}, off by more than {}",
                human_ns(check.service_p50_ns.unwrap_or_default() as f64),
                human_ns(check.tolerance_ns as f64)
            ),
            format!("a delay of {delay} could not be measured"),
        );
    }
    let words = stall.in_words();
    note(
        stall.result,
        format!("stall missed: {words}"),
        format!("stall not judged: {words}"),
    );
    (result, reasons)
}

/// The result of all clients: the worst of theirs.
pub fn worst(clients: &[ClientCalibration]) -> Outcome {
    let any = |of| clients.iter().any(|c| c.result == of);
    if any(Outcome::Fail) {
        Outcome::Fail
    } else if any(Outcome::Inconclusive) || clients.is_empty() {
        Outcome::Inconclusive
    } else {
        Outcome::Pass
    }
}

impl Calibration {
    /// A line for each cell whose rate this driver may not keep, with the cure. Core publishing is
    /// left out: the ceilings are of acked publishes.
    pub fn warnings(&self, cells: &[Cell]) -> Vec<String> {
        cells.iter().filter_map(|cell| self.warning(cell)).collect()
    }

    fn warning(&self, cell: &Cell) -> Option<String> {
        let load = &cell.spec.workload;
        let Rate::Open(program) = &load.rate else {
            return None;
        };
        if cell.spec.publish.mode == PublishMode::Core || load.publishers == 0 {
            return None;
        }
        let client = load.client.word();
        let of = self.of(load.client);
        let why = of.map_or(
            Some("it is of another client"),
            ClientCalibration::unreliable,
        );
        if let Some(why) = why {
            return Some(format!(
                "cell `{}`: workload.client = \"{client}\", and the calibration of this machine is not \
                 used for it: {why}; run `jsbench calibrate`",
                cell.id
            ));
        }
        let peak_per_s = program.peak_per_s();
        let threads = publishing_threads(load);
        let (ceiling_per_s, known) = of?.ceiling(threads)?;
        let share = peak_per_s / ceiling_per_s;
        if share <= RELIABLE_SHARE {
            return None;
        }
        let means = if share > 1.0 && known {
            "this driver cannot send it, and the trial will be saturated, degraded or invalid"
                .to_owned()
        } else if share > 1.0 {
            "more than was seen of this driver, and the trial may be degraded or invalid".to_owned()
        } else {
            format!(
                "above {:.0} % of it the driver may be late",
                RELIABLE_SHARE * 100.0
            )
        };
        let threads = if threads == 1 {
            "1 thread".to_owned()
        } else {
            format!("{threads} threads")
        };
        Some(format!(
            "cell `{}`: workload.rate = {}, and the ceiling of this driver with client {client} and \
             {threads} is {}{}/s of {} as calibrated: {means}; spread it over more threads or pods, \
             lower the rate, or drive from several machines",
            cell.id,
            short_rate(peak_per_s),
            if known { "" } else { "about " },
            thousands(ceiling_per_s.round() as u64),
            human_bytes(self.payload_bytes),
        ))
    }
}

/// Event loops of a cell that publish: pods times threads, of which those without a publisher do
/// nothing for the rate.
fn publishing_threads(load: &Workload) -> u32 {
    load.pods
        .saturating_mul(load.threads.min(load.publishers).max(1))
}

impl ClientCalibration {
    /// The ceiling of this many threads in messages per second, and whether it is known: for a number
    /// that was not calibrated it is in proportion to the next smaller one, at most what more threads
    /// reached.
    pub fn ceiling(&self, threads: u32) -> Option<(f64, bool)> {
        let below = self.ceilings.iter().filter(|c| c.threads <= threads);
        let below = below.max_by_key(|c| c.threads)?;
        let above = self.ceilings.iter().filter(|c| c.threads > threads);
        let Some(above) = above.min_by_key(|c| c.threads) else {
            // All CPUs were busy with fewer.
            return Some((below.per_s, !below.at_least));
        };
        if below.threads == threads {
            return Some((below.per_s, !below.at_least));
        }
        let share = f64::from(threads) / f64::from(below.threads);
        let most_per_s = if above.at_least {
            f64::INFINITY
        } else {
            above.per_s
        };
        Some(((below.per_s * share).min(most_per_s), false))
    }
}

#[cfg(test)]
mod tests;
