//! The verdict of the delivery ledger: which counts break a promise, and what keeps a trial from
//! being judged. The counts themselves are `measure::ledger`'s.

use crate::measure::ledger::Balance;
use crate::record::document::{Ledger, LedgerVerdict};

/// The circumstances of a balance.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent circumstances, each asked about on its own"
)]
pub struct Reading {
    /// Delivery was promised: JetStream publish with acks, and a consumer that is ordered or acks
    /// explicitly or doubly, or `all` on a consumer of its own; or nobody reads and storage alone
    /// is judged.
    pub promised: bool,
    /// Order was promised (ordered consumer).
    pub ordered: bool,
    /// Messages of others are expected (an existing stream): counted, not judged.
    pub foreign_expected: bool,
    /// Nobody reads: storage alone is judged, from a scan.
    pub storage_only: bool,
    /// Nothing was published or stored.
    pub nothing_to_judge: bool,
    /// Why deliveries had not caught up, if they might have.
    pub cut_short: Option<String>,
    /// Deliveries that the driver's own client dropped.
    pub dropped_by_driver: u64,
    /// Why a subscriber stopped reading.
    pub broken: Option<String>,
    /// Why the stream could not be read back.
    pub unread: Option<String>,
    /// The stream was read back.
    pub scanned: bool,
    /// Core publishing: nothing is stored.
    pub core: bool,
    /// A bucket, in which a put takes the place of one before it.
    pub bucket: bool,
}

/// Judges a balance.
pub fn judge(reading: &Reading, balance: &Balance) -> Ledger {
    let lost = balance.lost_storage + balance.lost_delivery;
    let mut violations = Vec::new();
    let mut violated = |count: u64, what: &str| {
        if count > 0 {
            violations.push(format!("{count} {what}"));
        }
    };
    violated(balance.lost_storage, "acked and not stored");
    let undelivered = match (reading.scanned, reading.core) {
        (true, _) => "stored and not delivered",
        (false, true) => "sent and not delivered",
        (false, false) => "acked and not delivered",
    };
    violated(balance.lost_delivery, undelivered);
    violated(balance.corrupted, "corrupted");
    violated(balance.duplicated, "stored more often than attempted");
    if !reading.foreign_expected {
        violated(balance.unexpected, "unexpected");
    }
    if reading.ordered {
        violated(balance.reordered, "out of order on an ordered consumer");
    }
    let only_undelivered = violations.len() == 1 && balance.lost_delivery > 0;
    let doubts = doubts(reading, balance);
    let (verdict, mut reasons) = if !reading.promised {
        (LedgerVerdict::NotPromised, violations)
    } else if !violations.is_empty() && (!only_undelivered || doubts.is_empty()) {
        (LedgerVerdict::Fail, violations)
    } else if !doubts.is_empty() {
        (LedgerVerdict::Inconclusive, doubts)
    } else {
        (LedgerVerdict::Pass, Vec::new())
    };
    if balance.explained > 0 {
        let why = if reading.bucket {
            "replaced by later puts, or absent as the scenario declares"
        } else {
            "absent as the scenario declares"
        };
        reasons.push(format!("{} {why}", balance.explained));
    }
    let counted = |count: u64| Some(count);
    let of_readers = |count: u64| (!reading.storage_only).then_some(count);
    // All that was delivered was stored; of what was not delivered only a scan can say it.
    let stored_known = reading.scanned || !reading.storage_only && balance.lost_delivery == 0;
    Ledger {
        verdict,
        lost: counted(lost).filter(|_| reading.scanned || !reading.storage_only),
        lost_storage: counted(balance.lost_storage).filter(|_| stored_known && !reading.core),
        lost_delivery: of_readers(balance.lost_delivery),
        duplicated: counted(balance.duplicated),
        redelivered: of_readers(balance.redelivered),
        reordered: of_readers(balance.reordered),
        corrupted: counted(balance.corrupted),
        unexpected: counted(balance.unexpected),
        recovered: counted(balance.recovered),
        reasons,
    }
}

/// What keeps a clean balance from being a pass, and a missing delivery from being a loss.
fn doubts(reading: &Reading, balance: &Balance) -> Vec<String> {
    let mut doubts = Vec::new();
    if reading.nothing_to_judge {
        doubts.push("nothing was acked".to_owned());
    }
    if let Some(why) = &reading.unread
        && reading.storage_only
    {
        doubts.push(format!("the stream could not be read back: {why}"));
    }
    if balance.lost_delivery > 0 {
        doubts.extend(reading.cut_short.clone());
        if reading.dropped_by_driver > 0 {
            doubts.push(format!(
                "the driver's client dropped {} deliveries",
                reading.dropped_by_driver
            ));
        }
        doubts.extend(
            reading
                .broken
                .as_ref()
                .map(|why| format!("a subscriber stopped reading: {why}")),
        );
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promised() -> Reading {
        Reading {
            promised: true,
            ..Reading::default()
        }
    }

    #[test]
    fn each_violation_fails_what_was_promised() {
        for balance in [
            Balance {
                lost_storage: 1,
                ..Balance::default()
            },
            Balance {
                lost_delivery: 1,
                ..Balance::default()
            },
            Balance {
                corrupted: 1,
                ..Balance::default()
            },
            Balance {
                duplicated: 1,
                ..Balance::default()
            },
            Balance {
                unexpected: 1,
                ..Balance::default()
            },
        ] {
            assert_eq!(
                judge(&promised(), &balance).verdict,
                LedgerVerdict::Fail,
                "{balance:?}"
            );
            let unpromised = judge(&Reading::default(), &balance);
            assert_eq!(unpromised.verdict, LedgerVerdict::NotPromised);
            assert_eq!(
                unpromised.reasons.len(),
                1,
                "the count is shown all the same"
            );
        }
    }

    #[test]
    fn disorder_counts_only_where_order_was_promised() {
        let balance = Balance {
            reordered: 3,
            redelivered: 2,
            recovered: 1,
            ..Balance::default()
        };
        assert_eq!(judge(&promised(), &balance).verdict, LedgerVerdict::Pass);
        let ordered = Reading {
            ordered: true,
            ..promised()
        };
        assert_eq!(judge(&ordered, &balance).verdict, LedgerVerdict::Fail);
    }

    #[test]
    fn a_drain_that_ran_out_is_no_proof_of_loss_and_none_of_delivery() {
        let cut = Reading {
            cut_short: Some("the drain ran out".into()),
            ..promised()
        };
        let missing = Balance {
            lost_delivery: 5,
            ..Balance::default()
        };
        assert_eq!(judge(&cut, &missing).verdict, LedgerVerdict::Inconclusive);
        assert_eq!(
            judge(&cut, &Balance::default()).verdict,
            LedgerVerdict::Pass,
            "all arrived in time"
        );
        let also_altered = Balance {
            corrupted: 1,
            ..missing
        };
        assert_eq!(judge(&cut, &also_altered).verdict, LedgerVerdict::Fail);
    }

    #[test]
    fn nothing_read_back_is_never_a_pass() {
        let unread = Reading {
            storage_only: true,
            unread: Some("silence".into()),
            ..promised()
        };
        let ledger = judge(&unread, &Balance::default());
        assert_eq!(ledger.verdict, LedgerVerdict::Inconclusive);
        assert_eq!(
            (ledger.lost, ledger.lost_storage, ledger.lost_delivery),
            (None, None, None)
        );
        let nothing = Reading {
            nothing_to_judge: true,
            ..promised()
        };
        assert_eq!(
            judge(&nothing, &Balance::default()).verdict,
            LedgerVerdict::Inconclusive
        );
    }
}
