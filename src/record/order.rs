//! Which event may follow which. The fold and the histogram log both ask here, so that they accept
//! the same events of a damaged or foreign journal and can never disagree.

use std::collections::{BTreeMap, BTreeSet};

use super::event::RunEvent;

/// How far a trial has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Started,
    Loading,
    Ended,
}

/// What the events so far allow.
#[derive(Debug, Default)]
pub(super) struct Order {
    started: bool,
    finished: bool,
    cells: BTreeSet<String>,
    trials: BTreeMap<u32, Phase>,
}

impl Order {
    /// Takes note of `event`, or says why it cannot come now; then it must be ignored.
    pub(super) fn admit(&mut self, event: &RunEvent) -> Result<(), String> {
        if let RunEvent::RunStarted(manifest) = event {
            if self.started {
                return Err("a second start of the run".to_owned());
            }
            self.started = true;
            self.cells = manifest.cells.iter().map(|c| c.id.clone()).collect();
            return Ok(());
        }
        if !self.started {
            return Err("an event before the start of the run".to_owned());
        }
        match event {
            RunEvent::Note { .. } | RunEvent::Interrupted { .. } => return Ok(()),
            _ if self.finished => return Err("an event after the end of the run".to_owned()),
            RunEvent::RunFinished { .. } => self.finished = true,
            RunEvent::TrialStarted { trial, cell, .. } => {
                if !self.cells.contains(cell) {
                    return Err(format!("trial {trial} of a cell that the manifest lacks"));
                }
                if self.trials.contains_key(trial) {
                    return Err(format!("a second start of trial {trial}"));
                }
                self.trials.insert(*trial, Phase::Started);
            }
            RunEvent::StreamsReady { trial, .. } => {
                self.open(*trial)?;
            }
            RunEvent::Sample(sample) => {
                self.open(sample.trial)?;
            }
            RunEvent::LoadStarted { trial, .. } => *self.open(*trial)? = Phase::Loading,
            RunEvent::Interval(interval) => {
                if *self.open(interval.trial)? != Phase::Loading {
                    return Err(format!("load in trial {} before it began", interval.trial));
                }
            }
            RunEvent::TrialFinished(result) => *self.open(result.trial)? = Phase::Ended,
            RunEvent::TrialFailed { trial, .. } => *self.open(*trial)? = Phase::Ended,
            RunEvent::RunStarted(_) | RunEvent::ServersReady { .. } => {}
        }
        Ok(())
    }

    fn open(&mut self, trial: u32) -> Result<&mut Phase, String> {
        match self.trials.get_mut(&trial) {
            None => Err(format!("an event of trial {trial}, which never began")),
            Some(Phase::Ended) => Err(format!("an event of trial {trial} after its end")),
            Some(phase) => Ok(phase),
        }
    }
}
