//! The rate of an open loop as a function of time: when messages are due. Pure; the wire form and
//! its errors are in `convert`, the publishers that keep it in `load`.

use std::time::Duration;

use crate::units::{NS_PER_S, as_ns, human_duration, short_rate};

/// A stretch of a program in which the rate is constant or changes evenly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// How long.
    pub length: Duration,
    /// Messages per second at its start.
    pub from_per_s: f64,
    /// Messages per second at its end.
    pub to_per_s: f64,
}

/// Rates over time, total of the cell. After the last segment its last rate holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    stretches: Vec<Stretch>,
    last_per_s: f64,
    text: String,
}

/// A segment with what came before it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    segment: Segment,
    start_s: f64,
    /// Messages due before it.
    before: f64,
}

impl Segment {
    fn messages(&self) -> f64 {
        self.length.as_secs_f64() * f64::midpoint(self.from_per_s, self.to_per_s)
    }

    /// Messages due in its first `t` seconds.
    fn count(&self, t: f64) -> f64 {
        let slope = (self.to_per_s - self.from_per_s) / self.length.as_secs_f64();
        self.from_per_s * t + slope * t * t / 2.0
    }

    /// When `n` messages are due, in seconds after its start: the root of [`Self::count`] in the
    /// form that is stable for small slopes.
    fn due_s(&self, n: f64) -> f64 {
        let slope = (self.to_per_s - self.from_per_s) / self.length.as_secs_f64();
        let root = (self.from_per_s * self.from_per_s + 2.0 * slope * n)
            .max(0.0)
            .sqrt();
        let denominator = self.from_per_s + root;
        if denominator > 0.0 {
            (2.0 * n / denominator).min(self.length.as_secs_f64())
        } else {
            0.0
        }
    }
}

impl Program {
    /// One rate for ever.
    pub fn constant(per_s: f64) -> Self {
        Self {
            stretches: Vec::new(),
            last_per_s: per_s,
            text: short_rate(per_s),
        }
    }

    /// Segments one after the other; `text` is how a person wrote them. `None` where there are no
    /// segments, one has no length, a rate is negative or not finite, or all are zero.
    pub fn new(segments: Vec<Segment>, text: String) -> Option<Self> {
        let sound = |s: &Segment| {
            let rate = |r: f64| r.is_finite() && r >= 0.0;
            !s.length.is_zero() && rate(s.from_per_s) && rate(s.to_per_s)
        };
        let last_per_s = segments.last()?.to_per_s;
        if !segments.iter().all(sound) || segments.iter().all(|s| s.messages() <= 0.0) {
            return None;
        }
        let (mut start_s, mut before) = (0.0, 0.0);
        let mut stretches = Vec::with_capacity(segments.len());
        for segment in segments {
            stretches.push(Stretch {
                segment,
                start_s,
                before,
            });
            start_s += segment.length.as_secs_f64();
            before += segment.messages();
        }
        Some(Self {
            stretches,
            last_per_s,
            text,
        })
    }

    /// The same after a warm-up at its first rate.
    #[must_use]
    pub fn after_warmup(&self, warmup: Duration) -> Self {
        if warmup.is_zero() || self.is_constant() {
            return self.clone();
        }
        let first = self.first_per_s();
        let lead = Segment {
            length: warmup,
            from_per_s: first,
            to_per_s: first,
        };
        let segments = std::iter::once(lead).chain(self.segments());
        Self::new(segments.collect(), self.text.clone()).unwrap_or_else(|| self.clone())
    }

    /// One rate for ever.
    pub fn is_constant(&self) -> bool {
        self.stretches.is_empty()
    }

    /// What it is made of; nothing for one rate for ever.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        self.stretches.iter().map(|s| s.segment)
    }

    /// The rate at the start.
    pub fn first_per_s(&self) -> f64 {
        self.stretches
            .first()
            .map_or(self.last_per_s, |s| s.segment.from_per_s)
    }

    /// The rate that goes on after its segments.
    pub fn last_per_s(&self) -> f64 {
        self.last_per_s
    }

    /// The highest rate.
    pub fn peak_per_s(&self) -> f64 {
        self.stretches
            .iter()
            .flat_map(|s| [s.segment.from_per_s, s.segment.to_per_s])
            .fold(self.last_per_s, f64::max)
    }

    /// How long its segments last; zero for one rate for ever.
    pub fn length(&self) -> Duration {
        self.stretches.iter().map(|s| s.segment.length).sum()
    }

    /// As a person wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Messages due in the first `at_ns`, as a real number.
    pub fn count(&self, at_ns: u64) -> f64 {
        let at_s = at_ns as f64 / NS_PER_S as f64;
        let past = self.stretches.partition_point(|s| s.start_s <= at_s);
        let Some(last) = past.checked_sub(1).map(|i| self.stretches[i]) else {
            return self.last_per_s * at_s;
        };
        let within = at_s - last.start_s;
        let length = last.segment.length.as_secs_f64();
        if within <= length {
            last.before + last.segment.count(within)
        } else {
            last.before + last.segment.messages() + self.last_per_s * (within - length)
        }
    }

    /// When message number `n` (a real number, from 0) is due, in ns after the start; never, which
    /// is `u64::MAX`, where the program ends with rate 0 before.
    pub fn due_ns(&self, n: f64) -> u64 {
        let past = self.stretches.partition_point(|s| s.before <= n);
        // Of several that begin at `n` the last one with messages is meant: a pause sends nothing.
        let at = self.stretches[..past]
            .iter()
            .rev()
            .find(|s| s.segment.messages() > 0.0);
        let due_s = match at {
            Some(s) if n < s.before + s.segment.messages() => {
                s.start_s + s.segment.due_s(n - s.before)
            }
            _ => {
                let (start_s, before) = self.stretches.last().map_or((0.0, 0.0), |s| {
                    (
                        s.start_s + s.segment.length.as_secs_f64(),
                        s.before + s.segment.messages(),
                    )
                });
                if self.last_per_s <= 0.0 {
                    return u64::MAX;
                }
                start_s + (n - before).max(0.0) / self.last_per_s
            }
        };
        // A saturating cast: further away than any run.
        (due_s * NS_PER_S as f64) as u64
    }

    /// The rate at a time after the start; at the end of a segment, the one it ends with.
    pub fn at_per_s(&self, at_ns: u64) -> f64 {
        let at_s = at_ns as f64 / NS_PER_S as f64;
        let past = self.stretches.partition_point(|s| s.start_s < at_s);
        let Some(last) = past.checked_sub(1).map(|i| self.stretches[i]) else {
            return self.first_per_s();
        };
        let length_s = last.segment.length.as_secs_f64();
        let share = ((at_s - last.start_s) / length_s).min(1.0);
        let Segment {
            from_per_s,
            to_per_s,
            ..
        } = last.segment;
        from_per_s + (to_per_s - from_per_s) * share
    }

    /// The mean rate between two times after the start, per second.
    pub fn mean_per_s(&self, start_ns: u64, end_ns: u64) -> f64 {
        let seconds = end_ns.saturating_sub(start_ns) as f64 / NS_PER_S as f64;
        if seconds > 0.0 {
            (self.count(end_ns) - self.count(start_ns)) / seconds
        } else {
            self.first_per_s()
        }
    }

    /// What a window of this length makes of it, where it does not fit: for `check`.
    pub fn misfit(&self, window: Duration) -> Option<String> {
        let length = self.length();
        if self.is_constant() || length == window {
            return None;
        }
        let (length_text, window_text) = (human_duration(length), human_duration(window));
        Some(if as_ns(length) > as_ns(window) {
            format!(
                "the rate program lasts {length_text} and the window {window_text}: its end is cut off"
            )
        } else {
            format!(
                "the rate program lasts {length_text} and the window {window_text}: its last rate, {}, goes on",
                short_rate(self.last_per_s)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(parts: &[(f64, f64, f64)]) -> Program {
        let segments = parts
            .iter()
            .map(|&(seconds, from_per_s, to_per_s)| Segment {
                length: Duration::from_secs_f64(seconds),
                from_per_s,
                to_per_s,
            })
            .collect();
        Program::new(segments, "test".to_owned()).expect("a sound program")
    }

    const S: u64 = NS_PER_S;

    #[test]
    fn a_constant_rate_is_evenly_spaced_and_exact_over_a_day() {
        let program = Program::constant(3_000.0);
        let day = 86_400;
        assert_eq!(program.due_ns(0.0), 0);
        assert_eq!(program.due_ns(3_000.0 * day as f64), day * S);
        assert!((program.count(day * S) - 3_000.0 * day as f64).abs() < 1e-3);
    }

    #[test]
    fn steps_ramps_pauses_and_what_comes_after() {
        let steps = program(&[(10.0, 100.0, 100.0), (5.0, 0.0, 0.0), (10.0, 200.0, 200.0)]);
        assert_eq!(steps.due_ns(999.0), 9_990_000_000);
        assert_eq!(steps.due_ns(1_000.0), 15 * S, "the pause sends nothing");
        assert_eq!(steps.due_ns(1_200.0), 16 * S);
        assert_eq!(steps.due_ns(3_200.0), 26 * S, "the last rate goes on");
        assert_eq!(steps.length(), Duration::from_secs(25));
        assert!((steps.count(13 * S) - 1_000.0).abs() < 1e-6);

        let ramp = program(&[(10.0, 0.0, 100.0)]);
        assert!((ramp.count(10 * S) - 500.0).abs() < 1e-6);
        assert_eq!(ramp.due_ns(125.0), 5 * S, "a quarter in half of the time");
        assert_eq!(ramp.due_ns(600.0), 11 * S);

        assert!((steps.at_per_s(10 * S) - 100.0).abs() < 1e-9);
        assert!((steps.at_per_s(12 * S)).abs() < 1e-9);
        assert!((steps.at_per_s(99 * S) - 200.0).abs() < 1e-9);
        assert!((ramp.at_per_s(5 * S) - 50.0).abs() < 1e-9);

        let to_rest = program(&[(10.0, 100.0, 0.0)]);
        assert_eq!(to_rest.due_ns(500.0), u64::MAX);
        assert!(to_rest.due_ns(499.9) < 10 * S);
    }

    #[test]
    fn a_warmup_runs_at_the_first_rate() {
        let warm = program(&[(10.0, 50.0, 100.0)]).after_warmup(Duration::from_secs(2));
        assert!((warm.count(2 * S) - 100.0).abs() < 1e-9);
        assert_eq!(warm.length(), Duration::from_secs(12));
        assert_eq!(
            Program::constant(5.0).after_warmup(Duration::from_secs(2)),
            Program::constant(5.0)
        );
    }

    #[test]
    fn what_makes_no_program_is_none() {
        let segment = |seconds: f64, from_per_s: f64| Segment {
            length: Duration::from_secs_f64(seconds),
            from_per_s,
            to_per_s: from_per_s,
        };
        for bad in [
            vec![],
            vec![segment(0.0, 5.0)],
            vec![segment(1.0, 0.0)],
            vec![segment(1.0, -1.0)],
        ] {
            assert_eq!(Program::new(bad, String::new()), None);
        }
    }

    fn any_program() -> impl Strategy<Value = Program> {
        let rate = prop_oneof![Just(0.0), 0.1f64..50_000.0];
        prop::collection::vec((0.001f64..100.0, rate.clone(), rate), 1..6).prop_filter_map(
            "all zero",
            |parts| {
                let segments = parts
                    .into_iter()
                    .map(|(s, from_per_s, to_per_s)| Segment {
                        length: Duration::from_secs_f64(s),
                        from_per_s,
                        to_per_s,
                    })
                    .collect();
                Program::new(segments, String::new())
            },
        )
    }

    proptest! {
        #[test]
        fn due_times_never_go_back_and_invert_the_count(program in any_program(), at in 0.0f64..1.0) {
            let total = program.count(as_ns(program.length()));
            let n = total * at;
            let due = program.due_ns(n);
            prop_assert!(due <= as_ns(program.length()) + 1);
            // A ns of a fast rate is the resolution.
            prop_assert!((program.count(due) - n).abs() < 1e-3 + n * 1e-9, "{} {}", program.count(due), n);
            prop_assert!(program.due_ns(n + 1.0) >= due);
        }
    }
}
