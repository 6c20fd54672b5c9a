//! When the messages of one publisher are due.

use std::sync::Arc;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};

use crate::scenario::model::Arrivals;
use crate::scenario::program::Program;

/// What the schedules of a cell have in common.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Rates of the cell after the common start, warm-up included.
    pub program: Arc<Program>,
    /// How messages are spread.
    pub arrivals: Arrivals,
    /// Publishers of the cell.
    pub publishers: u32,
    /// Seed of random arrivals, of the trial.
    pub seed: u64,
}

/// The due times of one publisher, one after the other.
#[derive(Debug)]
pub struct Schedule {
    start_ns: u64,
    program: Arc<Program>,
    publishers: u32,
    turns: Turns,
    index: u64,
    due_ns: u64,
}

#[derive(Debug)]
enum Turns {
    /// Publishers take turns, so that their sum is one evenly spaced series.
    Even { id: u32 },
    /// A Poisson process for each publisher, whose sum is one of the whole rate: arrivals of a
    /// process of rate 1 at `sum`, mapped through the program (Cinlar's time rescaling).
    Random { rng: Box<ChaCha8Rng>, sum: f64 },
}

impl Schedule {
    /// Of publisher `id`; `start_ns` is the common start, ns since the Unix epoch.
    pub fn new(pace: &Pace, id: u32, start_ns: u64) -> Self {
        let turns = match pace.arrivals {
            Arrivals::Uniform => Turns::Even { id },
            Arrivals::Poisson => {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&pace.seed.to_le_bytes());
                key[8..12].copy_from_slice(&id.to_le_bytes());
                Turns::Random {
                    rng: Box::new(ChaCha8Rng::from_seed(key)),
                    sum: 0.0,
                }
            }
        };
        let mut schedule = Self {
            start_ns,
            program: pace.program.clone(),
            publishers: pace.publishers,
            turns,
            index: 0,
            due_ns: 0,
        };
        schedule.due_ns = schedule.compute();
        schedule
    }

    /// When the next message is due, ns since the Unix epoch; `u64::MAX` where no more is.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Its index, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Goes on to the message after it.
    pub fn advance(&mut self) {
        self.index += 1;
        self.due_ns = self.compute();
    }

    fn compute(&mut self) -> u64 {
        let publishers = f64::from(self.publishers);
        let place = match &mut self.turns {
            Turns::Even { id } => self.index as f64 * publishers + f64::from(*id),
            Turns::Random { rng, sum } => {
                // 1 - u is above 0, so that its logarithm is finite.
                let unit: f64 = 1.0 - rng.random::<f64>();
                *sum -= unit.ln();
                *sum * publishers
            }
        };
        self.start_ns.saturating_add(self.program.due_ns(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::NS_PER_S;
    use proptest::prelude::*;

    fn schedules(rate_per_s: f64, publishers: u32, arrivals: Arrivals, seed: u64) -> Vec<Schedule> {
        let pace = Pace {
            program: Arc::new(Program::constant(rate_per_s)),
            arrivals,
            publishers,
            seed,
        };
        (0..publishers)
            .map(|id| Schedule::new(&pace, id, 1_000))
            .collect()
    }

    /// The due times of all publishers before `end_ns` after the start.
    fn all_due(schedules: Vec<Schedule>, end_ns: u64) -> Vec<u64> {
        let mut all = Vec::new();
        for mut schedule in schedules {
            while schedule.due_ns() - 1_000 < end_ns {
                all.push(schedule.due_ns() - 1_000);
                schedule.advance();
            }
        }
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn publishers_together_make_one_even_series(publishers in 1u32..20, rate in 1.0f64..1e5) {
            let end_ns = (200.0 / rate * 1e9) as u64;
            let all = all_due(schedules(rate, publishers, Arrivals::Uniform, 0), end_ns);
            prop_assert!((199..=201).contains(&all.len()));
            let gap = 1e9 / rate;
            for pair in all.windows(2) {
                prop_assert!(((pair[1] - pair[0]) as f64 - gap).abs() <= 1.0 + gap * 1e-6);
            }
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_variance_of_a_poisson_process() {
        // Counts in windows of a Poisson process have their mean as variance; evenly spaced ones
        // have almost none. 4,000 windows: both within 10 % for this seed and nearly any other.
        let all = all_due(schedules(5_000.0, 7, Arrivals::Poisson, 42), 40 * NS_PER_S);
        let mut counts = vec![0.0_f64; 4_000];
        for due_ns in &all {
            counts[(due_ns / 10_000_000) as usize] += 1.0;
        }
        let n = counts.len() as f64;
        let mean = counts.iter().sum::<f64>() / n;
        let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / n;
        assert!((mean / 50.0 - 1.0).abs() < 0.01, "{mean}");
        assert!((variance / mean - 1.0).abs() < 0.1, "{variance}");
    }

    #[test]
    fn a_seed_gives_the_same_arrivals_again_and_publishers_differ() {
        let due = |seed| all_due(schedules(100.0, 2, Arrivals::Poisson, seed), NS_PER_S);
        assert_eq!(due(1), due(1));
        assert_ne!(due(1), due(2));
        let both = schedules(100.0, 2, Arrivals::Poisson, 1);
        assert_ne!(both[0].due_ns(), both[1].due_ns());
    }
}
