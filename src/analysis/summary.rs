//! A cell over its usable trials.

use crate::record::document::{Summary, TrialRecord};
use crate::record::event::CellRef;

use super::stats;

/// The number by which cells are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Primary {
    /// Acked publishes per second.
    Acked,
    /// Deliveries per second: where nothing is acked, or nothing is published.
    Delivered,
    /// Publishes begun per second: core publishing that nobody reads.
    Sent,
}

impl Primary {
    /// That of a cell.
    pub fn of(cell: &CellRef) -> Self {
        if cell.has_publishers && !cell.core {
            Self::Acked
        } else if cell.has_consumers || !cell.has_publishers {
            Self::Delivered
        } else {
            Self::Sent
        }
    }

    /// Its name, as in expectations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acked => "acked_per_s",
            Self::Delivered => "deliver.per_s",
            Self::Sent => "sent_per_s",
        }
    }

    /// Its value in a trial.
    pub fn value(self, trial: &TrialRecord) -> Option<f64> {
        match self {
            Self::Acked => trial.publish.acked_per_s,
            Self::Delivered => trial.deliver.per_s,
            Self::Sent => trial.publish.sent_per_s,
        }
    }
}

/// The trials that count.
pub fn usable(trials: &[TrialRecord]) -> impl Iterator<Item = &TrialRecord> {
    trials.iter().filter(|t| t.status.usable())
}

/// Summarises the trials of a cell.
pub fn summarise(cell: &CellRef, trials: &[TrialRecord]) -> Summary {
    let over = |value: &dyn Fn(&TrialRecord) -> Option<f64>| {
        let values: Vec<f64> = usable(trials).filter_map(value).collect();
        stats::estimate(&values)
    };
    let primary = over(&|t| Primary::of(cell).value(t));
    Summary {
        n: u32::try_from(usable(trials).count()).unwrap_or(u32::MAX),
        acked_per_s: over(&|t| t.publish.acked_per_s),
        deliver_per_s: over(&|t| t.deliver.per_s),
        response_p99_ns: over(&|t| Some(t.latency.response.as_ref()?.p99_ns? as f64)),
        stability: primary.cv.map(stats::grade),
    }
}
