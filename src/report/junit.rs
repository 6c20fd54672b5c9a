//! JUnit XML for CI: one test suite a run; one test case for each expectation of each cell and one
//! `ledger` case for each cell.
//!
//! A case fails where the record says `fail`. What is inconclusive, or was not promised, is
//! `skipped` with its reason: JUnit has no word for "cannot be said", an error would claim that
//! the tool broke, and the exit code (13) already stops a pipeline that wants to be stopped. A
//! run that did not reach its end, or in which no trial finished, has one case `run` more, an
//! error.

use crate::record::document::{LedgerVerdict, Status};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::view::{SHARED_HOST, View};

pub fn write(view: &View) -> Vec<u8> {
    let mut suite = TestSuite::new(view.head.name.as_str());
    suite.add_property(("run_id", view.head.run_id.as_str()));
    suite.add_property(("target", view.head.target.as_str()));
    suite.add_property(("verdict", view.verdict.class));
    suite.add_property(("exit_code", view.verdict.exit_code.to_string().as_str()));
    if view.head.shared_host {
        suite.add_property(("shared_host", SHARED_HOST));
    }
    if let Some(status) = broken_run(view) {
        suite.add_test_case(case(view, "run", &view.head.name, status));
    }
    for expectation in &view.expectations {
        let message = format!(
            "measured {}, limit {}{}{}",
            expectation.measured,
            expectation.limit,
            if expectation.reason.is_empty() {
                ""
            } else {
                ": "
            },
            expectation.reason
        );
        let status = status(expectation.result, &message);
        suite.add_test_case(case(view, &expectation.text, &expectation.cell, status));
    }
    for cell in &view.cells {
        let lost = format!("{} lost", cell.row.lost);
        let mut message = vec![lost];
        message.extend(cell.balance.reasons.iter().cloned());
        if cell.closed_loop {
            message.push("closed loop".into());
        }
        // A trial that is left out for its lateness may have broken a promise all the same.
        let trials = view
            .record
            .cells
            .iter()
            .filter(|c| c.id == cell.id)
            .flat_map(|c| &c.trials);
        let broken = trials
            .filter(|t| t.status != Status::Failed)
            .find(|t| t.ledger.verdict == LedgerVerdict::Fail);
        let verdict = match broken {
            Some(trial) => {
                message.extend(trial.ledger.reasons.iter().cloned());
                "fail"
            }
            None => cell.balance.verdict,
        };
        let status = status(verdict, &message.join("; "));
        suite.add_test_case(case(view, "ledger", &cell.id, status));
    }
    let mut report = Report::new(view.head.name.as_str());
    report.add_test_suite(suite);
    report.to_string().unwrap_or_default().into_bytes()
}

fn broken_run(view: &View) -> Option<TestCaseStatus> {
    let usable = view.cells.iter().any(|cell| cell.n > 0);
    let message = match (&view.partial, usable) {
        (Some(why), _) => why.clone(),
        (None, false) => "no trial can be used".to_owned(),
        (None, true) => return None,
    };
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_message(message.as_str());
    Some(status)
}

fn status(result: &str, message: &str) -> TestCaseStatus {
    let mut status = match result {
        "pass" => return TestCaseStatus::success(),
        "fail" => TestCaseStatus::non_success(NonSuccessKind::Failure),
        _ => TestCaseStatus::skipped(),
    };
    status.set_message(format!("{result}: {message}").as_str());
    status
}

/// A case; what was measured in closed loop says so.
fn case(view: &View, name: &str, cell: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(cell);
    if view.cells.iter().any(|c| c.id == cell && c.closed_loop) {
        case.add_property(("closed_loop", "true"));
    }
    case
}
