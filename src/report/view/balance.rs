//! The delivery ledger of a cell as a balance, summed over its usable trials.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cell::RateKind;
use crate::record::document::{LedgerVerdict, TrialRecord};
use crate::record::fold::{Run, TrialEnd};
use crate::report::clean;
use crate::units::thousands;

/// Sums over usable trials; `-` where something could not be counted.
#[derive(Debug, Clone, Serialize)]
pub struct Balance {
    /// attempted, acked, refused, unknown.
    pub publish: [String; 4],
    /// attempted = acked + refused + unknown; `None` where there is nothing to add up.
    pub adds_up: Option<bool>,
    /// expected, received, unique.
    pub deliver: [String; 3],
    /// lost in storage, lost in delivery, duplicated, redelivered, reordered, corrupted,
    /// unexpected, recovered.
    pub ledger: [String; 8],
    /// Worst of the trials: `pass`, `fail`, `inconclusive`, `not-promised`.
    pub verdict: &'static str,
    /// Why it is not a plain pass, and why the server refused.
    pub reasons: Vec<String>,
    /// Lost, for sums.
    #[serde(skip)]
    pub lost: Option<u64>,
    /// What `lost` is lost of: acked messages, in a drain expected deliveries.
    #[serde(skip)]
    pub of: Option<u64>,
}

impl Balance {
    /// The balance of the usable trials of a cell.
    pub fn new(run: &Run, usable: &[&TrialRecord], kind: RateKind) -> Self {
        let total = |of: &dyn Fn(&TrialRecord) -> Option<u64>| sum(usable.iter().map(|t| of(t)));
        let publish = [
            total(&|t| t.publish.attempted),
            total(&|t| t.publish.acked),
            total(&|t| t.publish.refused),
            total(&|t| t.publish.unknown),
        ];
        let adds_up = match publish {
            [Some(attempted), Some(acked), Some(refused), Some(unknown)] => {
                let ends = [acked, refused, unknown];
                Some(attempted == ends.into_iter().fold(0, u64::saturating_add))
            }
            _ => None,
        };
        let expected = total(&|t| t.deliver.expected);
        let verdicts = usable.iter().map(|t| t.ledger.verdict);
        let mut reasons: Vec<String> = usable
            .iter()
            .flat_map(|t| &t.ledger.reasons)
            .map(|r| clean::line(r))
            .collect();
        reasons.extend(refusals(run, usable));
        reasons.dedup();
        Self {
            publish: publish.map(counted),
            adds_up,
            deliver: [
                expected,
                total(&|t| t.deliver.received),
                total(&|t| t.deliver.unique),
            ]
            .map(counted),
            ledger: [
                total(&|t| t.ledger.lost_storage),
                total(&|t| t.ledger.lost_delivery),
                total(&|t| t.ledger.duplicated),
                total(&|t| t.ledger.redelivered),
                total(&|t| t.ledger.reordered),
                total(&|t| t.ledger.corrupted),
                total(&|t| t.ledger.unexpected),
                total(&|t| t.ledger.recovered),
            ]
            .map(counted),
            verdict: verdicts
                .max_by_key(|verdict| severity(*verdict))
                .map_or("inconclusive", ledger_word),
            reasons,
            lost: total(&|t| t.ledger.lost),
            of: if kind == RateKind::Delivered {
                expected
            } else {
                publish[1]
            },
        }
    }
}

/// Refusals by cause over usable trials.
fn refusals(run: &Run, usable: &[&TrialRecord]) -> Vec<String> {
    let mut causes = BTreeMap::new();
    for log in &run.trials {
        if let TrialEnd::Finished(result) = &log.end
            && usable.iter().any(|t| t.trial == log.trial)
        {
            for (cause, times) in &result.refused_causes {
                let sum: &mut u64 = causes.entry(cause).or_default();
                *sum = sum.saturating_add(*times);
            }
        }
    }
    causes
        .into_iter()
        .map(|(cause, times)| format!("refused {}: {}", thousands(times), clean::line(cause)))
        .collect()
}

fn severity(verdict: LedgerVerdict) -> u8 {
    match verdict {
        LedgerVerdict::Pass => 0,
        LedgerVerdict::NotPromised => 1,
        LedgerVerdict::Inconclusive => 2,
        LedgerVerdict::Fail => 3,
    }
}

/// `pass`, `fail`, `inconclusive`, `not-promised`: the words of the record.
fn ledger_word(verdict: LedgerVerdict) -> &'static str {
    match verdict {
        LedgerVerdict::Pass => "pass",
        LedgerVerdict::Fail => "fail",
        LedgerVerdict::Inconclusive => "inconclusive",
        LedgerVerdict::NotPromised => "not-promised",
    }
}

/// A count, or `-` where it could not be counted.
pub fn counted(count: Option<u64>) -> String {
    count.map_or("-".into(), thousands)
}

/// Sum of what was counted; `None` where nothing was, and where what was counted is 0 beside
/// something that was not.
fn sum(counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let counts: Vec<Option<u64>> = counts.collect();
    let total = counts
        .iter()
        .flatten()
        .fold(0_u64, |sum, count| sum.saturating_add(*count));
    let known = counts.iter().flatten().count();
    (known > 0 && (known == counts.len() || total > 0)).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_counted_is_never_zero() {
        assert_eq!(sum([None, None].into_iter()), None);
        assert_eq!(sum([Some(0), None].into_iter()), None);
        assert_eq!(sum([Some(2), None].into_iter()), Some(2));
        assert_eq!(sum([Some(0), Some(0)].into_iter()), Some(0));
        assert_eq!(sum([Some(u64::MAX), Some(1)].into_iter()), Some(u64::MAX));
    }
}
