//! When bytes left: the last writes of a connection, by which each of its senders finds out when a
//! message of its own left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Left, Ticket};

/// How long writes are remembered, and how many at most. A sender looks at each wakeup, and at
/// least every 100 ms; a write that was forgotten by then would let its messages seem to have left
/// later than they did.
const KEPT: Duration = Duration::from_secs(1);
const MAX_KEPT: usize = 4_096;

/// The last writes of a connection, oldest first.
#[derive(Debug, Default)]
pub(in crate::nats) struct Writes {
    kept: VecDeque<Left>,
}

impl Writes {
    /// Everything up to `end` has left at `at`, until when the socket had taken nothing for
    /// `blocked`, all in all.
    pub(in crate::nats) fn note(&mut self, end: Ticket, at: Instant, blocked: Duration) {
        let is_old = |w: &Left| at.saturating_duration_since(w.at) > KEPT;
        while self.kept.len() >= MAX_KEPT || self.kept.front().is_some_and(is_old) {
            self.kept.pop_front();
        }
        self.kept.push_back(Left {
            at,
            blocked,
            up_to: end,
        });
    }

    /// When the message of a ticket left.
    pub(in crate::nats) fn left(&self, ticket: Ticket) -> Option<Left> {
        // Nearly always asked for what left last.
        let last = *self.kept.back().filter(|w| w.up_to >= ticket)?;
        let before = self.kept.len().checked_sub(2).map(|i| self.kept[i].up_to);
        if before.is_none_or(|up_to| up_to < ticket) {
            return Some(last);
        }
        let at = self.kept.partition_point(|w| w.up_to < ticket);
        Some(self.kept[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_ticket_finds_the_write_that_took_its_last_byte() {
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_millis(n);
        let mut writes = Writes::default();
        assert_eq!(writes.left(1), None);
        for n in 1..=2_000 {
            writes.note(n * 10, at(n), Duration::ZERO);
        }
        for (ticket, left) in [
            (20_000, 2_000),
            (19_991, 2_000),
            (19_990, 1_999),
            (15_001, 1_501),
            // The oldest one that is remembered, 1 s after it.
            (10_000, 1_000),
        ] {
            assert_eq!(
                writes.left(ticket).map(|l| l.at),
                Some(at(left)),
                "{ticket}"
            );
        }
        assert_eq!(writes.kept.len(), 1_001);
        assert_eq!(writes.left(20_001), None, "not written yet");
        for n in 2_001..200_000 {
            writes.note(n * 10, at(2_000), Duration::ZERO);
        }
        assert_eq!(
            writes.kept.len(),
            MAX_KEPT,
            "however many there are at once"
        );
    }
}
