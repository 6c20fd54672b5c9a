//! When a publisher could not send, because its window was full, its socket took no bytes or it
//! was disconnected. What is late for that reason is the target's doing: it counts in `response`
//! and not in `lag`.

use std::collections::VecDeque;

/// Beyond this many spells ones closer together than [`COARSE_NS`] are kept as one line, so that
/// an overloaded publisher with a long backlog stays within bounds.
const FINE: usize = 1_024;
const COARSE_NS: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "units stand last in names")]
struct Spell {
    start_ns: u64,
    end_ns: u64,
    /// Time blocked within, less than `end - start` where several spells became one.
    blocked_ns: u64,
    /// Time blocked in all spells before it.
    before_ns: u64,
}

impl Spell {
    /// Time blocked in it up to `at_ns`.
    fn up_to(&self, at_ns: u64) -> u64 {
        if at_ns <= self.start_ns {
            0
        } else if at_ns >= self.end_ns {
            self.blocked_ns
        } else {
            let share = (at_ns - self.start_ns) as f64 / (self.end_ns - self.start_ns) as f64;
            (self.blocked_ns as f64 * share).round() as u64
        }
    }
}

/// The spells in which a publisher could not send.
#[derive(Debug, Default)]
pub struct Blocked {
    since_ns: Option<u64>,
    spells: VecDeque<Spell>,
    all_ns: u64,
}

impl Blocked {
    /// The publisher cannot send from now on.
    pub fn begin(&mut self, now_ns: u64) {
        self.since_ns.get_or_insert(now_ns);
    }

    /// Whether a spell is open.
    pub fn is_open(&self) -> bool {
        self.since_ns.is_some()
    }

    /// It can again. `due_ns` is when the message that waited was due. Returns how long that
    /// message waited: a full window that nobody waits for harms nobody.
    pub fn end(&mut self, now_ns: u64, due_ns: u64) -> u64 {
        let Some(start_ns) = self.since_ns.take() else {
            return 0;
        };
        let now_ns = now_ns.max(start_ns);
        let blocked_ns = now_ns - start_ns;
        let full = self.spells.len() >= FINE;
        match self.spells.back_mut() {
            Some(last) if full && now_ns.saturating_sub(last.start_ns) < COARSE_NS => {
                last.end_ns = now_ns;
                last.blocked_ns += blocked_ns;
            }
            _ => self.spells.push_back(Spell {
                start_ns,
                end_ns: now_ns,
                blocked_ns,
                before_ns: self.all_ns,
            }),
        }
        self.all_ns += blocked_ns;
        now_ns.saturating_sub(start_ns.max(due_ns))
    }

    /// Time since a message was due, until `until_ns`, in a spell that has not ended.
    pub fn open(&self, due_ns: u64, until_ns: u64) -> u64 {
        self.since_ns
            .map_or(0, |start_ns| until_ns.saturating_sub(start_ns.max(due_ns)))
    }

    /// Time blocked between when a message was due and now. Calls must not go back in `due_ns`.
    pub fn since(&mut self, due_ns: u64) -> u64 {
        while self.spells.front().is_some_and(|s| s.end_ns <= due_ns) {
            self.spells.pop_front();
        }
        self.spells
            .front()
            .map_or(0, |s| self.all_ns - s.before_ns - s.up_to(due_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_part_after_the_due_time_is_subtracted() {
        let mut blocked = Blocked::default();
        blocked.begin(100);
        assert_eq!(blocked.end(200, 150), 50, "nobody waited before 150");
        assert_eq!(blocked.since(150), 50, "due in the middle of the spell");
        blocked.begin(300);
        assert_eq!(blocked.end(400, 160), 100);
        assert_eq!(blocked.since(160), 40 + 100);
        assert_eq!(blocked.since(250), 100);
        assert_eq!(blocked.since(450), 0);
    }

    proptest! {
        #[test]
        fn never_more_than_the_wait_itself(steps in prop::collection::vec((1u64..5_000, 1u64..5_000), 1..3_000)) {
            let mut blocked = Blocked::default();
            let (mut now, mut exact) = (0, 0);
            for (free, full) in steps {
                now += free;
                blocked.begin(now);
                now += full;
                exact += full;
                blocked.end(now, 0);
            }
            prop_assert_eq!(blocked.since(0), exact);
            prop_assert!(blocked.since(now / 2) <= now - now / 2);
        }
    }
}
