//! Expectations of a scenario, judged. Counts: one violating trial fails. Rates and latencies: by
//! the 95 % interval from three trials on, below that by the worst trial.

use crate::measure::histogram::LatencySummary;
use crate::record::document::{CellRecord, ExpectationResult, Outcome, TrialRecord};
use crate::record::event::{CellRef, ExpectationRef};
use crate::units::thousands;

use super::{stats, summary};

/// From this many trials on the interval decides.
const BY_INTERVAL: usize = 3;

/// A judged expectation, and whether it is about the ledger: one that fails is then a violation.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// For the record.
    pub result: ExpectationResult,
    /// It is about a count of the ledger.
    pub ledger: bool,
}

/// Judges every expectation of every cell, in the order of the matrix and of the scenario.
pub fn judge(cells: &[CellRef], records: &[CellRecord]) -> Vec<Judged> {
    let mut judged = Vec::new();
    for cell in cells {
        let trials: Vec<&TrialRecord> = records
            .iter()
            .find(|r| r.id == cell.id)
            .map(|r| summary::usable(&r.trials).collect())
            .unwrap_or_default();
        for expectation in &cell.expectations {
            judged.push(judge_one(cell, expectation, &trials));
        }
    }
    judged
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Latency,
    Rate,
    Count,
    LedgerCount,
}

fn subject(name: &str) -> Option<Subject> {
    Some(match name {
        "acked_per_s" | "sent_per_s" | "deliver.per_s" => Subject::Rate,
        "refused" | "unknown" => Subject::Count,
        "lost" | "lost_storage" | "lost_delivery" | "duplicated" | "redelivered" | "reordered"
        | "corrupted" | "unexpected" | "recovered" => Subject::LedgerCount,
        _ => {
            let (latency, quantile) = name.split_once('.')?;
            let known = ["lag", "service", "response", "e2e"].contains(&latency)
                && ["min", "mean", "p50", "p90", "p99", "p999", "max"].contains(&quantile);
            return known.then_some(Subject::Latency);
        }
    })
}

/// The value of a name in a trial; `None` where it was not measured.
fn value(name: &str, trial: &TrialRecord) -> Option<f64> {
    let ledger = &trial.ledger;
    let count = match name {
        "acked_per_s" => return trial.publish.acked_per_s,
        "sent_per_s" => return trial.publish.sent_per_s,
        "deliver.per_s" => return trial.deliver.per_s,
        "refused" => trial.publish.refused,
        "unknown" => trial.publish.unknown,
        "lost" => ledger.lost,
        "lost_storage" => ledger.lost_storage,
        "lost_delivery" => ledger.lost_delivery,
        "duplicated" => ledger.duplicated,
        "redelivered" => ledger.redelivered,
        "reordered" => ledger.reordered,
        "corrupted" => ledger.corrupted,
        "unexpected" => ledger.unexpected,
        "recovered" => ledger.recovered,
        _ => latency_ns(name, trial),
    };
    count.map(|n| n as f64)
}

fn summary<'a>(latency: &str, trial: &'a TrialRecord) -> Option<&'a LatencySummary> {
    let latencies = &trial.latency;
    match latency {
        "lag" => latencies.lag.as_ref(),
        "service" => latencies.service.as_ref(),
        "response" => latencies.response.as_ref(),
        "e2e" => latencies.e2e.as_ref(),
        _ => None,
    }
}

fn latency_ns(name: &str, trial: &TrialRecord) -> Option<u64> {
    let (latency, quantile) = name.split_once('.')?;
    let summary = summary(latency, trial)?;
    match quantile {
        "min" => summary.min_ns,
        "mean" => summary.mean_ns,
        "p50" => summary.p50_ns,
        "p90" => summary.p90_ns,
        "p99" => summary.p99_ns,
        "p999" => summary.p999_ns,
        "max" => summary.max_ns,
        _ => None,
    }
}

/// A comparison with its limit.
#[derive(Debug, Clone, Copy)]
struct Test<'a> {
    op: &'a str,
    limit: f64,
}

impl Test<'_> {
    fn holds(self, value: f64) -> bool {
        match self.op {
            "<" => value < self.limit,
            "<=" => value <= self.limit,
            ">=" => value >= self.limit,
            ">" => value > self.limit,
            // Counts are whole and below 2^53; a rate that must be equal has to be exactly so.
            _ => value.total_cmp(&self.limit).is_eq(),
        }
    }

    /// Larger is worse: the value that is hardest on the limit.
    fn badness(self, value: f64) -> f64 {
        match self.op {
            "<" | "<=" => value,
            ">" | ">=" => -value,
            _ => (value - self.limit).abs(),
        }
    }

    fn known(self) -> bool {
        ["<", "<=", "==", ">=", ">"].contains(&self.op)
    }
}

fn judge_one(cell: &CellRef, expectation: &ExpectationRef, trials: &[&TrialRecord]) -> Judged {
    let subject = subject(&expectation.name);
    let test = Test {
        op: &expectation.op,
        limit: expectation.limit,
    };
    let decision = match subject {
        None => Decision::open(format!(
            "`{}` is not a quantity that this version of jsbench can judge",
            expectation.name
        )),
        Some(_) if !test.known() => Decision::open(format!(
            "`{}` is not a comparison that this version of jsbench knows",
            test.op
        )),
        Some(Subject::Latency) if cell.closed_loop => Decision::open(unjudgeable(cell).to_owned()),
        Some(_) if trials.is_empty() => Decision::open("no usable trial".to_owned()),
        Some(Subject::Count | Subject::LedgerCount) => {
            by_worst_trial(test, &measured(&expectation.name, trials))
        }
        Some(Subject::Rate) => by_trials(test, &measured(&expectation.name, trials)),
        Some(Subject::Latency) => {
            let decision = by_trials(test, &measured(&expectation.name, trials));
            if decision.outcome == Outcome::Pass && test.op.starts_with('<') {
                uncensored(test, &expectation.name, trials, decision)
            } else {
                decision
            }
        }
    };
    Judged {
        ledger: subject == Some(Subject::LedgerCount),
        result: ExpectationResult {
            text: expectation.text.clone(),
            cell: cell.id.clone(),
            result: decision.outcome,
            value: decision.value,
            limit: expectation.limit,
            reason: decision.reason,
        },
    }
}

/// Times of messages that had no answer are longer than recorded: a limit holds only where it holds
/// whatever they are.
fn uncensored(test: Test<'_>, name: &str, trials: &[&TrialRecord], held: Decision) -> Decision {
    let Some((latency, statistic)) = name.split_once('.') else {
        return held;
    };
    let most: Vec<(u32, Option<f64>)> = trials
        .iter()
        .map(|trial| {
            let most_ns = summary(latency, trial).and_then(|s| at_most_ns(s, statistic));
            (trial.trial, most_ns.map(|ns| ns as f64))
        })
        .collect();
    let unknown = most.iter().any(|(_, most_ns)| most_ns.is_none());
    if !unknown && by_trials(test, &most).outcome == Outcome::Pass {
        return held;
    }
    let censored = trials.iter().filter_map(|trial| summary(latency, trial));
    let (censored, count) = censored.fold((0, 0), |(c, n), s| (c + s.censored, n + s.count));
    Decision {
        outcome: Outcome::Inconclusive,
        value: held.value,
        reason: Some(format!(
            "{} of {} messages had no answer or were never sent, and their times are longer than \
             recorded: the value is at least this",
            thousands(censored),
            thousands(count)
        )),
    }
}

/// The most that a statistic can be; `None` where that is not known.
fn at_most_ns(summary: &LatencySummary, statistic: &str) -> Option<u64> {
    match statistic {
        "p50" => summary.at_most_ns(0.5),
        "p90" => summary.at_most_ns(0.9),
        "p99" => summary.at_most_ns(0.99),
        "p999" => summary.at_most_ns(0.999),
        "max" => summary.at_most_ns(1.0),
        "mean" => summary.mean_ns.filter(|_| summary.censored == 0),
        _ => summary.min_ns,
    }
}

/// Why no latency of a closed loop is judged.
fn unjudgeable(cell: &CellRef) -> &'static str {
    if cell.has_publishers {
        "closed loop: each message waits until an answer makes room for it, and that wait is in none \
         of its times; set workload.rate to judge latency"
    } else {
        "a drain: its messages lay in the stream before anybody read, and their times hold that; \
         set workload.publishers and workload.rate to judge latency"
    }
}

struct Decision {
    outcome: Outcome,
    value: Option<f64>,
    reason: Option<String>,
}

impl Decision {
    fn open(reason: String) -> Self {
        Self {
            outcome: Outcome::Inconclusive,
            value: None,
            reason: Some(reason),
        }
    }
}

/// Trial numbers with their values.
fn measured(name: &str, trials: &[&TrialRecord]) -> Vec<(u32, Option<f64>)> {
    trials.iter().map(|t| (t.trial, value(name, t))).collect()
}

/// Rates and latencies: the interval where there are trials enough for one.
fn by_trials(test: Test<'_>, measured: &[(u32, Option<f64>)]) -> Decision {
    if measured.len() < BY_INTERVAL {
        return by_worst_trial(test, measured);
    }
    if let Some((trial, _)) = measured.iter().find(|(_, value)| value.is_none()) {
        return Decision::open(format!("not measured in trial {trial}"));
    }
    let values: Vec<f64> = measured.iter().filter_map(|(_, v)| *v).collect();
    // A rate of zero has no logarithm and so leaves no interval.
    by_interval(test, &values).unwrap_or_else(|| by_worst_trial(test, measured))
}

/// By the 95 % interval; `None` where the values do not give one.
fn by_interval(test: Test<'_>, values: &[f64]) -> Option<Decision> {
    let estimate = stats::estimate(values);
    let (mean, lo, hi) = (estimate.mean?, estimate.lo?, estimate.hi?);
    let inside = lo <= test.limit && test.limit <= hi;
    let (best, worst) = if test.badness(lo) <= test.badness(hi) {
        (lo, hi)
    } else {
        (hi, lo)
    };
    let n = values.len();
    Some(if test.holds(lo) && test.holds(hi) {
        Decision {
            outcome: Outcome::Pass,
            value: Some(worst),
            reason: None,
        }
    } else if !test.holds(best) && (test.op != "==" || !inside) {
        Decision {
            outcome: Outcome::Fail,
            value: Some(best),
            reason: Some(format!(
                "the whole 95 % interval of {n} trials is beyond it"
            )),
        }
    } else {
        Decision {
            outcome: Outcome::Inconclusive,
            value: Some(mean),
            reason: Some(format!(
                "the 95 % interval of {n} trials straddles the limit"
            )),
        }
    })
}

/// By the worst trial: a violation fails whatever else is unknown.
fn by_worst_trial(test: Test<'_>, measured: &[(u32, Option<f64>)]) -> Decision {
    let worst = measured
        .iter()
        .filter_map(|(trial, value)| Some((*trial, (*value)?)))
        .max_by(|(_, a), (_, b)| test.badness(*a).total_cmp(&test.badness(*b)));
    let missing = measured.iter().find(|(_, value)| value.is_none());
    match (worst, missing) {
        (Some((trial, value)), _) if !test.holds(value) => Decision {
            outcome: Outcome::Fail,
            value: Some(value),
            reason: Some(format!("trial {trial} violates it")),
        },
        (_, Some((trial, _))) => Decision::open(format!("not measured in trial {trial}")),
        (Some((_, value)), None) => Decision {
            outcome: Outcome::Pass,
            value: Some(value),
            reason: None,
        },
        (None, None) => Decision::open("no usable trial".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::document::Status;
    use crate::record::event::{RunEvent, TrialResult};
    use crate::record::fixture;
    use Outcome::{Fail, Inconclusive, Pass};

    /// Judges one expectation over trials with these results.
    fn judged(
        cell: CellRef,
        name: &str,
        op: &str,
        limit: f64,
        results: Vec<TrialResult>,
    ) -> Judged {
        let cell = CellRef {
            expectations: vec![fixture::expectation(name, op, limit)],
            ..cell
        };
        let manifest = fixture::manifest(vec![cell.clone()], &[]);
        let results = results.into_iter().map(|r| (r.trial, "a", r)).collect();
        let run = fixture::run_of(manifest, results);
        let record = crate::analysis::analyse(&run);
        judge(&[cell], &record.cells).remove(0)
    }

    fn rates(values: &[u64], op: &str, limit: f64) -> (Outcome, Option<f64>) {
        let results = (0..).zip(values).map(|(t, v)| fixture::result(t, *v));
        let cell = fixture::closed("a", &[]);
        let got = judged(cell, "acked_per_s", op, limit, results.collect());
        assert!(!got.ledger);
        (got.result.result, got.result.value)
    }

    #[test]
    fn below_three_trials_the_worst_decides() {
        for (values, op, limit, want, value) in [
            (&[100][..], ">=", 100.0, Pass, Some(100.0)),
            (&[100], ">", 100.0, Fail, Some(100.0)),
            (&[100, 90], ">=", 95.0, Fail, Some(90.0)),
            (&[100, 90], ">=", 90.0, Pass, Some(90.0)),
            (&[100, 90], "<", 100.0, Fail, Some(100.0)),
            (&[100, 90], "<=", 100.0, Pass, Some(100.0)),
            (&[100, 100], "==", 100.0, Pass, Some(100.0)),
            (&[], ">=", 1.0, Inconclusive, None),
        ] {
            assert_eq!(
                rates(values, op, limit),
                (want, value),
                "{values:?} {op} {limit}"
            );
        }
    }

    /// The interval of 100, 110, 120 is about 87.5 to 137.6.
    #[test]
    fn from_three_trials_on_the_interval_decides() {
        let three = &[100, 110, 120];
        for (op, limit, want) in [
            (">=", 87.0, Pass),
            (">=", 88.0, Inconclusive),
            (">=", 137.0, Inconclusive),
            (">=", 138.0, Fail),
            ("<=", 138.0, Pass),
            ("<=", 137.0, Inconclusive),
            ("<=", 87.0, Fail),
            ("<", 138.0, Pass),
            (">", 87.0, Pass),
            ("==", 110.0, Inconclusive),
            ("==", 80.0, Fail),
        ] {
            assert_eq!(rates(three, op, limit).0, want, "{op} {limit}");
        }
        let (_, value) = rates(three, ">=", 87.0);
        assert!(value.is_some_and(|v| (v - 87.5).abs() < 0.1), "{value:?}");
        // Exactly the limit, where logarithm and back would miss it.
        assert_eq!(rates(&[4_999; 3], ">=", 4_999.0).0, Pass);
        // Zero has no logarithm: the worst trial decides.
        assert_eq!(rates(&[0, 100, 100], ">=", 50.0), (Fail, Some(0.0)));
    }

    #[test]
    fn one_trial_that_violates_a_count_fails() {
        let lost = |counts: &[Option<u64>]| {
            let results = (0..).zip(counts).map(|(t, lost)| {
                let mut result = fixture::result(t, 100);
                result.ledger.lost = *lost;
                result
            });
            let cell = fixture::closed("a", &[]);
            let got = judged(cell, "lost", "==", 0.0, results.collect());
            assert!(got.ledger);
            got.result.result
        };
        assert_eq!(lost(&[Some(0); 5]), Pass);
        assert_eq!(lost(&[Some(0), Some(0), Some(1), Some(0)]), Fail);
        assert_eq!(lost(&[Some(0), None]), Inconclusive);
        assert_eq!(lost(&[Some(1), None]), Fail);
        assert_eq!(lost(&[]), Inconclusive);
    }

    #[test]
    fn refusals_are_counts_but_not_the_ledgers() {
        let mut result = fixture::result(0, 100);
        (result.acked, result.refused) = (Some(190), Some(10));
        let cell = fixture::closed("a", &[]);
        let got = judged(cell, "refused", "<=", 9.0, vec![result]);
        assert_eq!((got.result.result, got.ledger), (Fail, false));
    }

    #[test]
    fn trials_that_do_not_count_do_not_judge() {
        let good = fixture::result(0, 100);
        let bad = TrialResult {
            status: Status::Invalid,
            ..fixture::result(1, 1)
        };
        let cell = fixture::closed("a", &[]);
        let got = judged(
            cell.clone(),
            "acked_per_s",
            ">=",
            50.0,
            vec![good, bad.clone()],
        );
        assert_eq!(got.result.result, Pass);
        let got = judged(cell, "acked_per_s", ">=", 50.0, vec![bad]);
        assert_eq!(got.result.result, Inconclusive);
        assert_eq!(got.result.reason.as_deref(), Some("no usable trial"));
    }

    /// Also where it would hold by far, and where it was measured.
    #[test]
    fn a_closed_loop_cannot_judge_latency() {
        let drain = CellRef {
            has_publishers: false,
            ..fixture::closed("a", &[])
        };
        for (cell, begins) in [
            (fixture::closed("a", &[]), "closed loop: "),
            (drain, "a drain: "),
        ] {
            for latency in ["lag", "service", "response", "e2e"] {
                for quantile in ["min", "mean", "p50", "p90", "p99", "p999", "max"] {
                    let name = format!("{latency}.{quantile}");
                    let result = vec![fixture::result(0, 100)];
                    let got = judged(cell.clone(), &name, "<=", 1e12, result).result;
                    assert_eq!((got.result, got.value), (Inconclusive, None), "{name}");
                    let reason = got.reason.unwrap_or_default();
                    assert!(reason.starts_with(begins), "{name}: {reason}");
                    assert!(reason.contains("workload.rate"), "{name}: {reason}");
                }
            }
        }
    }

    /// Forty samples up to 4 ms in each of two trials: p50 is there, p99 is not.
    #[test]
    fn latency_is_judged_in_open_loop_and_null_is_inconclusive() {
        let cell = |name: &str, limit: f64| {
            let mut events = fixture::small_run();
            if let RunEvent::RunStarted(manifest) = &mut events[0] {
                manifest.cells[0].expectations = vec![fixture::expectation(name, "<=", limit)];
            }
            let run = fixture::fold(&events).expect("it began");
            crate::analysis::analyse(&run).expectations.remove(0)
        };
        // Some had no answer: the median is 2 ms or more, and 4 ms at most.
        assert_eq!(cell("response.p50", 4.1e6).result, Pass);
        let at_least = cell("response.p50", 2.1e6);
        assert_eq!(at_least.result, Inconclusive);
        assert!(at_least.value.is_some_and(|ns| ns < 2.1e6));
        let reason = at_least.reason.unwrap_or_default();
        assert!(reason.contains("messages had no answer"), "{reason}");
        assert_eq!(cell("response.p50", 1.9e6).result, Fail);
        let none = cell("response.p99", 1e9);
        assert_eq!((none.result, none.value), (Inconclusive, None));
        assert_eq!(none.reason.as_deref(), Some("not measured in trial 0"));
        assert_eq!(cell("response.p42", 1e9).result, Inconclusive);
    }

    #[test]
    fn one_null_among_many_leaves_a_rate_open() {
        let mut results: Vec<_> = (0..4).map(|t| fixture::result(t, 100)).collect();
        results[2].window_ns = 0;
        let cell = fixture::closed("a", &[]);
        let got = judged(cell, "acked_per_s", ">=", 50.0, results);
        assert_eq!(got.result.result, Inconclusive);
        assert_eq!(
            got.result.reason.as_deref(),
            Some("not measured in trial 2")
        );
    }
}
