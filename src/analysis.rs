//! What the recorded run means: trial rows, summaries, expectations, findings, the verdict and the
//! answer. Pure functions of [`Run`]; reads no file and starts nothing. Called by the engine on the
//! record so far and by every verb that shows a run.

pub mod answer;
pub mod calibration;
pub mod expect;
pub mod findings;
pub mod ledger;
pub mod little;
pub mod stats;
pub mod steady;
pub mod summary;
pub mod trend;
pub mod trial;
pub mod validity;
pub mod verdict;

pub use answer::answer;

use crate::record::document::{CellRecord, RECORD_SCHEMA, Record};
use crate::record::event::CellRef;
use crate::record::fold::Run;

/// The record of a run: cells in the order of the matrix, trials in the order they ran.
pub fn analyse(run: &Run) -> Record {
    let cells: Vec<CellRecord> = run
        .manifest
        .cells
        .iter()
        .map(|cell| cell_record(run, cell))
        .collect();
    let judged = expect::judge(&run.manifest.cells, &cells);
    let verdict = verdict::verdict(run, &cells, &judged);
    let findings = findings::findings(&run.manifest, &cells);
    Record {
        schema: RECORD_SCHEMA.to_owned(),
        run_id: run.manifest.run_id.clone(),
        complete: run.complete,
        cells,
        findings,
        expectations: judged.into_iter().map(|j| j.result).collect(),
        verdict,
    }
}

fn cell_record(run: &Run, cell: &CellRef) -> CellRecord {
    let trials: Vec<_> = run
        .trials
        .iter()
        .filter(|log| log.cell == cell.id)
        .map(|log| trial::trial_record(log, cell, run.manifest.shared_host))
        .collect();
    let summary = summary::summarise(cell, &trials);
    CellRecord {
        id: cell.id.clone(),
        factors: cell.factors.clone(),
        trials,
        summary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::document::{Little, Outcome, Status, TrialRecord};
    use crate::record::event::RunEvent;
    use crate::record::fixture;

    /// Each number of a row, without what the trial was configured with.
    fn numbers(trial: &TrialRecord) -> serde_json::Value {
        serde_json::json!([
            trial.window_ns,
            trial.saturated,
            trial.offered_per_s,
            trial.blocked_ns,
            trial.publish,
            trial.deliver,
            trial.latency,
            trial.ledger,
            trial.resources,
            trial.little,
            trial.steady
        ])
    }

    #[test]
    fn a_whole_run_becomes_a_record_that_survives_json() {
        let run = fixture::fold(&fixture::small_run()).expect("it began");
        let record = analyse(&run);
        assert_eq!(record.verdict.exit_code, 0, "{:?}", record.verdict);
        assert_eq!(record.cells[0].summary.n, 2);
        assert_eq!(record.cells[0].trials[1].offered_per_s, Some(40.0));
        let json = serde_json::to_string(&record).expect("plain data");
        let back: Record = serde_json::from_str(&json).expect("own JSON");
        assert_eq!(back, record);
    }

    #[test]
    fn the_table_of_trials_has_the_numbers_of_the_record_and_no_others() {
        let run = fixture::fold(&fixture::small_run()).expect("it began");
        let mut record = analyse(&run);
        // In closed loop, and in a window that shows a course.
        let trial = &mut record.cells[0].trials[1];
        trial.little = Some(Little {
            in_flight: 10.0,
            rate_x_service: 9.5,
            ratio: 0.95,
        });
        trial.steady.slope_per_min = Some(-0.25);
        let mut bytes = Vec::new();
        crate::record::tables::write_trials(&record, &run.manifest.cells, &mut bytes)
            .expect("memory");
        let text = String::from_utf8(bytes).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cell,trial,metric,value");
        for want in [
            "shared,0,usable,1",
            "shared,0,shared_host,1",
            "shared,0,closed_loop,0",
            "shared,1,saturated,0",
            "shared,1,attempted,80",
            "shared,1,acked_per_s,40",
            "shared,0,deliver.received,80",
            "shared,0,response.count,40",
            "shared,0,response.censored,1",
            "shared,0,lost,0",
            "shared,1,little.ratio,0.95",
            "shared,1,steady.slope_per_min,-0.25",
        ] {
            assert!(lines.contains(&want), "{want} in {text}");
        }
        let unmeasured = [
            "response.p99_ns",
            ",stored_bytes,",
            ",recovered,",
            "shared,0,little.",
            "steady.cut_ns",
        ];
        assert!(!unmeasured.iter().any(|name| text.contains(name)), "{text}");
    }

    /// A killed run shows what surviving events support: the rows of finished trials as the whole
    /// run has them, and nothing of the others.
    #[test]
    fn every_prefix_is_judged_and_shows_no_number_that_it_does_not_know() {
        let events = fixture::small_run();
        let whole = analyse(&fixture::fold(&events).expect("it began"));
        for n in 1..events.len() {
            let run = fixture::fold(&events[..n]).expect("it began");
            let record = analyse(&run);
            assert!(!record.complete);
            assert_ne!(record.verdict.result, Outcome::Pass);
            let is_end = |e: &&RunEvent| matches!(e, RunEvent::TrialFinished(_));
            let ended = events[..n].iter().filter(is_end).count();
            let expected = if ended == 0 { 1 } else { 13 };
            assert_eq!(record.verdict.exit_code, expected);
            assert_eq!(record.cells[0].summary.n as usize, ended);
            let trials = &record.cells[0].trials;
            for (at, trial) in trials.iter().enumerate() {
                if at < ended {
                    let whole = &whole.cells[0].trials[at];
                    assert_eq!(numbers(trial), numbers(whole), "{n} events");
                } else {
                    assert_eq!(trial.status, Status::Failed);
                    let text = numbers(trial).to_string();
                    let digits = text
                        .replace("e2e", "")
                        .contains(|c: char| c.is_ascii_digit());
                    assert!(!digits, "{n} events: {text}");
                }
            }
            let answer = answer(&run, &record);
            assert_eq!(answer.starts_with("no answer: "), ended == 0, "{answer}");
        }
    }
}
