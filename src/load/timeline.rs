//! Counts over time in bounded memory, for windows that are known only afterwards: buckets of a
//! millisecond that double in width when a trial outgrows them.

const BUCKETS: usize = 8_192;
const FIRST_WIDTH_NS: u64 = 1_000_000;

/// Counts by time after the start.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Timeline {
    width_ns: u64,
    counts: Vec<u64>,
    last_ns: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width_ns: FIRST_WIDTH_NS,
            counts: Vec::new(),
            last_ns: 0,
        }
    }
}

impl Timeline {
    /// Counts so many at `at_ns` after the start.
    pub fn add(&mut self, at_ns: u64, count: u64) {
        self.last_ns = self.last_ns.max(at_ns);
        let mut bucket = (at_ns / self.width_ns) as usize;
        while bucket >= BUCKETS {
            self.counts = self
                .counts
                .chunks(2)
                .map(|pair| pair.iter().sum())
                .collect();
            self.width_ns *= 2;
            bucket = (at_ns / self.width_ns) as usize;
        }
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += count;
    }

    /// How many fell between two times after the start; buckets at the edges count in proportion.
    pub fn between(&self, from_ns: u64, to_ns: u64) -> f64 {
        let width = self.width_ns as f64;
        self.counts
            .iter()
            .enumerate()
            .map(|(i, count)| {
                let start = i as f64 * width;
                // The newest bucket holds nothing after the last count.
                let end = (start + width).min(self.last_ns as f64 + 1.0);
                let overlap = (to_ns as f64).min(end) - (from_ns as f64).max(start);
                *count as f64 * (overlap / (end - start)).clamp(0.0, 1.0)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_keeps_its_counts_in_eight_thousand_buckets() {
        let mut timeline = Timeline::default();
        for ms in 0..3_600_000 {
            timeline.add(ms * 1_000_000, 1);
        }
        assert!(timeline.counts.len() <= BUCKETS);
        let hour = 3_600_000_000_000;
        assert!((timeline.between(0, hour) - 3_600_000.0).abs() < 1.0);
        let half = timeline.between(hour / 4, hour / 4 * 3);
        assert!((half - 1_800_000.0).abs() < 2.0, "{half}");
    }
}
