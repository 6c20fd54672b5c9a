//! The heartbeat of a worker: says how long its event loop stood still, whoever kept it from
//! running. Pure; the worker owns the timer and the clock.

use std::ops::Range;

/// From beat to beat.
const EVERY_NS: u64 = 50_000_000;
/// So late may a beat be on a machine that does its work: the timer, a frame being cut, another
/// thread's time slice. Only what is beyond counts.
const TOLERANCE_NS: u64 = 5_000_000;

/// Beats every 50 ms. Times in ns since the Unix epoch.
#[derive(Debug)]
pub struct Heartbeat {
    due_ns: u64,
    /// Those that no cut has told in full yet.
    stalls: Vec<Stall>,
}

/// The loop stood still.
#[derive(Debug)]
struct Stall {
    /// In ns.
    span: Range<u64>,
    /// What came before is told.
    told_ns: u64,
}

/// How a stretch of time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stalled {
    /// Time of it in which the loop stood still.
    pub ns: u64,
    /// The longest stall of which a part lies in it, in its whole length.
    pub longest_ns: u64,
}

impl Heartbeat {
    /// Begins at `start_ns`.
    pub fn new(start_ns: u64) -> Self {
        Self {
            due_ns: start_ns + EVERY_NS,
            stalls: Vec::new(),
        }
    }

    /// When it must be [looked at](Self::beat) next; `u64::MAX` once it has ended.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// It is `now_ns`: notes by how much a due beat is late. Missed beats are skipped.
    pub fn beat(&mut self, now_ns: u64) {
        let Some(late_ns) = now_ns.checked_sub(self.due_ns) else {
            return;
        };
        if late_ns > TOLERANCE_NS {
            let from_ns = self.due_ns + TOLERANCE_NS;
            self.stalls.push(Stall {
                span: from_ns..now_ns,
                told_ns: from_ns,
            });
        }
        self.due_ns += (late_ns / EVERY_NS + 1) * EVERY_NS;
    }

    /// The last beat.
    pub fn end(&mut self, now_ns: u64) {
        self.beat(now_ns);
        self.due_ns = u64::MAX;
    }

    /// What there was before `end_ns` and after the last cut. After a stall an interval is cut long
    /// after its end: what came later belongs to the next one.
    pub fn cut(&mut self, end_ns: u64) -> Stalled {
        let mut stalled = Stalled::default();
        for stall in &mut self.stalls {
            if stall.told_ns < end_ns {
                let until_ns = end_ns.min(stall.span.end);
                stalled.ns += until_ns - stall.told_ns;
                stalled.longest_ns = stalled.longest_ns.max(stall.span.end - stall.span.start);
                stall.told_ns = until_ns;
            }
        }
        self.stalls.retain(|stall| stall.told_ns < stall.span.end);
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::NS_PER_S;

    const MS: u64 = 1_000_000;
    const START: u64 = 1_000 * NS_PER_S;

    fn stalled(ms: u64, longest_ms: u64) -> Stalled {
        Stalled {
            ns: ms * MS,
            longest_ns: longest_ms * MS,
        }
    }

    #[test]
    fn a_loop_that_keeps_time_never_stands_still() {
        let mut heart = Heartbeat::new(START);
        for n in 1..=40 {
            assert_eq!(heart.due_ns(), START + n * 50 * MS);
            // Late by as much as is allowed, and looked at too early in between.
            heart.beat(heart.due_ns() - 1);
            heart.beat(heart.due_ns() + 5 * MS);
        }
        assert_eq!(heart.cut(START + 3 * NS_PER_S), Stalled::default());
    }

    #[test]
    fn a_late_beat_counts_by_what_is_beyond_tolerance() {
        let mut heart = Heartbeat::new(START);
        heart.beat(START + 50 * MS + 5 * MS + 1);
        heart.beat(START + 100 * MS + 12 * MS);
        assert_eq!(heart.due_ns(), START + 150 * MS);
        let told = heart.cut(START + NS_PER_S);
        assert_eq!((told.ns, told.longest_ns), (7 * MS + 1, 7 * MS));
        assert_eq!(heart.cut(START + 2 * NS_PER_S), Stalled::default());
    }

    #[test]
    fn a_stall_of_a_second_is_one_beat_and_counts_once() {
        let mut heart = Heartbeat::new(START);
        heart.beat(START + 1_050 * MS);
        // The beats that were missed meanwhile are not made up for.
        assert_eq!(heart.due_ns(), START + 1_100 * MS);
        heart.beat(START + 1_100 * MS);
        assert_eq!(heart.cut(START + 2 * NS_PER_S), stalled(995, 995));
    }

    #[test]
    fn a_stall_belongs_to_the_intervals_it_lies_in() {
        let mut heart = Heartbeat::new(START);
        // From 55 ms to 3.2 s; three intervals are cut at once when it is over.
        heart.beat(START + 3_200 * MS);
        for (second, want) in [(1, 945), (2, 1_000), (3, 1_000)] {
            assert_eq!(heart.cut(START + second * NS_PER_S), stalled(want, 3_145));
        }
        heart.end(START + 3_310 * MS);
        assert_eq!(heart.cut(START + 4 * NS_PER_S), stalled(200 + 55, 3_145));
        assert_eq!(heart.cut(START + 5 * NS_PER_S), Stalled::default());
    }

    #[test]
    fn it_ends_with_what_was_late_by_then() {
        let mut heart = Heartbeat::new(START);
        heart.end(START + 150 * MS);
        heart.beat(START + 60 * NS_PER_S);
        assert_eq!(heart.due_ns(), u64::MAX);
        assert_eq!(heart.cut(u64::MAX), stalled(95, 95));
    }
}
