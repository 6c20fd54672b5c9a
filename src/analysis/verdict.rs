//! The verdict of a run: its exit code, in the order that `docs/FORMAT.md` gives, with the reasons in words.

use crate::record::document::{
    CellRecord, ExpectationResult, Ledger, LedgerVerdict, Outcome, Status, TrialRecord, Verdict,
};
use crate::record::fold::Run;
use crate::units::{human_ns, human_rate, thousands};

use super::expect::Judged;
use super::summary::usable;

const NO_TRIAL: u8 = 1;
const EXPECTATION: u8 = 10;
const CORRECTNESS: u8 = 11;
const INCONCLUSIVE: u8 = 13;

/// Judges a run: interrupted; then no finished trial; then broken delivery, failed expectations,
/// and what could not be said.
pub fn verdict(run: &Run, cells: &[CellRecord], judged: &[Judged]) -> Verdict {
    let violations = violations(cells, judged);
    let failures = expectations(judged, |j| j.result.result == Outcome::Fail && !j.ledger);
    let doubts = doubts(run, cells, judged);
    let finished = cells
        .iter()
        .flat_map(|c| &c.trials)
        .any(|t| t.status != Status::Failed);

    let (mut exit_code, mut result) = if !violations.is_empty() {
        (CORRECTNESS, Outcome::Fail)
    } else if !failures.is_empty() {
        (EXPECTATION, Outcome::Fail)
    } else if !doubts.is_empty() {
        (INCONCLUSIVE, Outcome::Inconclusive)
    } else {
        (0, Outcome::Pass)
    };
    let mut reasons = Vec::new();
    if !finished {
        (exit_code, result) = (NO_TRIAL, Outcome::Inconclusive);
        reasons.push("no trial finished".to_owned());
    }
    if let Some(signal) = run.interrupted {
        exit_code = 128_u8.saturating_add(u8::try_from(signal).unwrap_or(2));
        if result == Outcome::Pass {
            result = Outcome::Inconclusive;
        }
        reasons.push(format!("interrupted by {}", signal_name(signal)));
    }
    reasons.extend(violations);
    reasons.extend(failures);
    reasons.extend(doubts);
    Verdict {
        result,
        exit_code,
        reasons,
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        2 => "SIGINT".to_owned(),
        15 => "SIGTERM".to_owned(),
        other => format!("signal {other}"),
    }
}

/// Broken promises of delivery. A trial that the driver spoiled still tells of lost messages.
fn violations(cells: &[CellRecord], judged: &[Judged]) -> Vec<String> {
    let mut reasons: Vec<String> = with_ledger(cells, LedgerVerdict::Fail)
        .filter(|(_, trial)| trial.status != Status::Failed)
        .map(|(cell, trial)| {
            let what = ledger_text(&trial.ledger);
            format!(
                "{}: delivery violated in trial {}{what}",
                cell.id, trial.trial
            )
        })
        .collect();
    reasons.extend(expectations(judged, |j| {
        j.result.result == Outcome::Fail && j.ledger
    }));
    reasons
}

/// Everything that keeps a run from being conclusive.
fn doubts(run: &Run, cells: &[CellRecord], judged: &[Judged]) -> Vec<String> {
    let mut reasons = Vec::new();
    if !run.complete && run.interrupted.is_none() {
        reasons.push("the run did not reach its end".to_owned());
    }
    for cell in cells.iter().filter(|c| usable(&c.trials).next().is_none()) {
        reasons.push(format!("{}: no usable trial", cell.id));
    }
    reasons.extend(
        with_ledger(cells, LedgerVerdict::Inconclusive)
            .filter(|(_, trial)| trial.status.usable())
            .map(|(cell, trial)| {
                let why = ledger_text(&trial.ledger);
                format!(
                    "{}: delivery not judged in trial {}{why}",
                    cell.id, trial.trial
                )
            }),
    );
    reasons.extend(expectations(judged, |j| {
        j.result.result == Outcome::Inconclusive
    }));
    reasons
}

fn with_ledger(
    cells: &[CellRecord],
    verdict: LedgerVerdict,
) -> impl Iterator<Item = (&CellRecord, &TrialRecord)> {
    cells
        .iter()
        .flat_map(|cell| cell.trials.iter().map(move |trial| (cell, trial)))
        .filter(move |(_, trial)| trial.ledger.verdict == verdict)
}

/// `: 5 lost, 2 corrupted`, or the ledger's own words.
fn ledger_text(ledger: &Ledger) -> String {
    if !ledger.reasons.is_empty() {
        return format!(": {}", ledger.reasons.join(", "));
    }
    let counts = [
        (ledger.lost, "lost"),
        (ledger.duplicated, "duplicated"),
        (ledger.reordered, "reordered"),
        (ledger.corrupted, "corrupted"),
        (ledger.unexpected, "unexpected"),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .filter_map(|(count, name)| {
            let count = count.filter(|n| *n > 0)?;
            Some(format!("{} {name}", thousands(count)))
        })
        .collect();
    if counts.is_empty() {
        String::new()
    } else {
        format!(": {}", counts.join(", "))
    }
}

fn expectations(judged: &[Judged], which: impl Fn(&Judged) -> bool) -> Vec<String> {
    judged
        .iter()
        .filter(|j| which(j))
        .map(|j| expectation_text(&j.result))
        .collect()
}

/// `shared: response.p99 <= 50ms fails with 61.2 ms (…)`.
fn expectation_text(result: &ExpectationResult) -> String {
    let word = match result.result {
        Outcome::Pass => "holds",
        Outcome::Fail => "fails",
        Outcome::Inconclusive => "is inconclusive",
    };
    let value = result.value.map_or_else(String::new, |value| {
        let shown = if result.text.contains("per_s") {
            format!("{}/s", human_rate(value))
        } else if result.text.split(' ').next().is_some_and(is_latency) {
            human_ns(value)
        } else {
            format!("{value}")
        };
        format!(" with {shown}")
    });
    let reason = result
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("{}: {} {word}{value}{reason}", result.cell, result.text)
}

fn is_latency(name: &str) -> bool {
    let latency = name.split('.').next().unwrap_or(name);
    name.contains('.') && ["lag", "service", "response", "e2e"].contains(&latency)
}

#[cfg(test)]
mod tests {
    use crate::analysis::analyse;
    use crate::record::document::{LedgerVerdict, Outcome, Status, Verdict};
    use crate::record::event::{RunEvent, TrialResult};
    use crate::record::fixture;

    /// The verdict over one cell with the expectations of `expect` and these trials; `end` follows.
    fn judge(expect: &[(&str, &str, f64)], results: Vec<TrialResult>, end: &[RunEvent]) -> Verdict {
        let mut cell = fixture::closed("a", &[]);
        cell.expectations = expect
            .iter()
            .map(|(name, op, limit)| fixture::expectation(name, op, *limit))
            .collect();
        let mut events = vec![RunEvent::RunStarted(Box::new(fixture::manifest(
            vec![cell],
            &[],
        )))];
        for result in results {
            events.push(fixture::trial_started(result.trial, 0, "a"));
            events.push(RunEvent::TrialFinished(Box::new(result)));
        }
        events.extend_from_slice(end);
        analyse(&fixture::fold(&events).expect("it began")).verdict
    }

    fn ledger(trial: u32, verdict: LedgerVerdict, status: Status) -> TrialResult {
        let mut result = fixture::result(trial, 100);
        result.ledger.verdict = verdict;
        result.status = status;
        if verdict == LedgerVerdict::Fail {
            result.ledger.lost = Some(5);
        }
        result
    }

    const FINISHED: [RunEvent; 1] = [RunEvent::RunFinished { at_unix_ns: 0 }];

    #[test]
    fn the_worst_comes_first() {
        use LedgerVerdict::{Fail, Inconclusive, NotPromised, Pass};
        let good = || ledger(0, Pass, Status::Valid);
        let slow = ("acked_per_s", ">=", 1e6);
        let open = ("service.p99", "<=", 1.0);
        let none_lost = ("lost", "==", 0.0);
        let one = |verdict, status| vec![ledger(0, verdict, status)];
        let two = |verdict, status| vec![good(), ledger(1, verdict, status)];
        for (line, expect, results, want) in [
            (1, vec![], vec![good()], 0),
            (2, vec![none_lost], vec![good()], 0),
            (3, vec![], one(NotPromised, Status::Degraded), 0),
            (4, vec![open], vec![good()], 13),
            (5, vec![], one(Inconclusive, Status::Valid), 13),
            (6, vec![], two(Inconclusive, Status::Invalid), 0),
            (7, vec![], one(Pass, Status::Invalid), 13),
            (8, vec![slow, open], vec![good()], 10),
            (9, vec![slow, open], two(Fail, Status::Valid), 11),
            (10, vec![slow, open], two(Fail, Status::Degraded), 11),
            (11, vec![slow, open], two(Fail, Status::Invalid), 11),
            (12, vec![], two(Fail, Status::Failed), 0),
            (13, vec![], one(Fail, Status::Failed), 1),
            (
                14,
                vec![none_lost, slow, open],
                two(Fail, Status::Valid),
                11,
            ),
            (15, vec![slow], vec![], 1),
        ] {
            let got = judge(&expect, results, &FINISHED);
            assert_eq!(got.exit_code, want, "line {line}: {got:?}");
            assert_eq!(got.reasons.is_empty(), want == 0, "line {line}: {got:?}");
            let result = match want {
                0 => Outcome::Pass,
                10 | 11 => Outcome::Fail,
                _ => Outcome::Inconclusive,
            };
            assert_eq!(got.result, result, "line {line}");
        }
    }

    #[test]
    fn a_ledger_count_that_fails_is_a_violation_also_where_nothing_was_promised() {
        let mut result = ledger(0, LedgerVerdict::NotPromised, Status::Valid);
        result.ledger.lost = Some(2);
        let got = judge(&[("lost", "==", 0.0)], vec![result], &FINISHED);
        assert_eq!(got.exit_code, 11);
        assert_eq!(
            got.reasons,
            ["a: lost == 0 fails with 2 (trial 0 violates it)"]
        );
    }

    #[test]
    fn an_interrupt_goes_before_everything_and_a_kill_is_inconclusive() {
        let failed = || vec![ledger(0, LedgerVerdict::Fail, Status::Valid)];
        let good = || vec![fixture::result(0, 100)];
        let sigint = [RunEvent::Interrupted { signal: 2 }];
        let sigterm = [RunEvent::Interrupted { signal: 15 }];
        let got = judge(&[], failed(), &sigint);
        assert_eq!((got.exit_code, got.result), (130, Outcome::Fail));
        assert_eq!(
            got.reasons,
            [
                "interrupted by SIGINT",
                "a: delivery violated in trial 0: 5 lost"
            ]
        );
        let got = judge(&[], good(), &sigterm);
        assert_eq!((got.exit_code, got.result), (143, Outcome::Inconclusive));
        assert_eq!(judge(&[], vec![], &sigint).exit_code, 130);
        let got = judge(&[], good(), &[]);
        assert_eq!(got.exit_code, 13);
        assert_eq!(got.reasons, ["the run did not reach its end"]);
        assert_eq!(judge(&[], failed(), &[]).exit_code, 11);
    }
}
