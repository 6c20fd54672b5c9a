//! Latency histograms: HdrHistogram with one configuration everywhere (1 us to 1 h, 3 digits,
//! values in ns), so that merging is exact and percentiles are never averaged.

use std::io::Read;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Lowest value told apart.
pub const LOWEST_NS: u64 = 1_000;
/// Highest value recorded; longer ones are recorded as this.
pub const HIGHEST_NS: u64 = 3_600 * 1_000_000_000;
const DIGITS: u8 = 3;

/// The four times of a message (`docs/FORMAT.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// sent - intended, less the time in which the publisher could not send.
    Lag,
    /// acked - sent.
    Service,
    /// acked - intended.
    Response,
    /// received - intended.
    E2e,
}

impl Metric {
    /// All four, in the order of the record.
    pub const ALL: [Self; 4] = [Self::Lag, Self::Service, Self::Response, Self::E2e];

    /// The name in files: `lag`, `service`, `response`, `e2e`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::Service => "service",
            Self::Response => "response",
            Self::E2e => "e2e",
        }
    }
}

/// An empty histogram of the one configuration.
///
/// # Panics
/// Never: the bounds are constants that HdrHistogram accepts.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS).expect("constant bounds are valid")
}

/// Records `ns`, values above an hour as an hour.
pub fn record(histogram: &mut Histogram<u64>, ns: u64) {
    record_many(histogram, ns, 1);
}

/// Records `count` times `ns`.
pub fn record_many(histogram: &mut Histogram<u64>, ns: u64, count: u64) {
    histogram.saturating_record_n(ns, count);
}

/// A histogram as bytes: HdrHistogram V2 with deflate, the form of `.hlog` files.
pub fn encode(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("writing to memory does not fail");
    bytes
}

/// Reads bytes of [`encode`] and asserts the one configuration.
///
/// # Errors
/// Not a V2 histogram, or one of another configuration.
pub fn decode(bytes: &[u8]) -> anyhow::Result<Histogram<u64>> {
    let plain = inflate(bytes)?;
    let histogram: Histogram<u64> = Deserializer::new()
        .deserialize(&mut plain.as_slice())
        .map_err(|e| anyhow::anyhow!("not an HdrHistogram in V2 format: {e}"))?;
    anyhow::ensure!(
        histogram.low() == LOWEST_NS
            && histogram.high() == HIGHEST_NS
            && histogram.sigfig() == DIGITS,
        "histogram of another configuration: {} to {} with {} digits",
        histogram.low(),
        histogram.high(),
        histogram.sigfig()
    );
    Ok(histogram)
}

/// More bytes than any histogram of the one configuration takes: 24,576 counts of up to 9.
const MAX_PLAIN_BYTES: u64 = 256 << 10;

/// The V2 form behind the compressed one. The deserializer trusts the length it reads there with
/// up to 4 GiB of memory, and these bytes may come from anybody's file.
fn inflate(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let deflated = bytes.get(8..).unwrap_or_default();
    let mut plain = Vec::new();
    flate2::read::ZlibDecoder::new(deflated)
        .take(MAX_PLAIN_BYTES)
        .read_to_end(&mut plain)
        .map_err(|e| anyhow::anyhow!("not an HdrHistogram in V2 format: {e}"))?;
    let says = plain.get(4..8).and_then(|b| b.try_into().ok());
    let says = says.map_or(u32::MAX, u32::from_be_bytes) as usize;
    anyhow::ensure!(
        says <= plain.len(),
        "not an HdrHistogram in V2 format: it is shorter than it says"
    );
    Ok(plain)
}

/// What the record says of one latency: a quantile is null where fewer than 10 samples lie above
/// it, n(1-q) < 10.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Samples.
    pub count: u64,
    /// Samples that stand for a longer, unknown time (time-outs, unacked at the end).
    pub censored: u64,
    /// Negative times, recorded as 0.
    pub clipped: u64,
    /// Smallest.
    pub min_ns: Option<u64>,
    /// Mean.
    pub mean_ns: Option<u64>,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// Largest.
    pub max_ns: Option<u64>,
}

impl LatencySummary {
    /// Summarises a histogram.
    pub fn of(histogram: &Histogram<u64>, censored: u64, clipped: u64) -> Self {
        let n = histogram.len();
        let some = |value: u64| (n > 0).then_some(value);
        Self {
            count: n,
            censored,
            clipped,
            min_ns: some(histogram.min()),
            mean_ns: some(histogram.mean().round() as u64),
            p50_ns: quantile(histogram, 0.5),
            p90_ns: quantile(histogram, 0.9),
            p99_ns: quantile(histogram, 0.99),
            p999_ns: quantile(histogram, 0.999),
            max_ns: some(histogram.max()),
        }
    }
}

impl LatencySummary {
    /// The most that the quantile `q` can be, in ns; `None` where it may be anything, or was not
    /// measured. Censored samples stand for longer times: moved to the top, where they belong at
    /// worst, they shift each quantile by `censored / count` at most.
    pub fn at_most_ns(&self, q: f64) -> Option<u64> {
        let shifted = q + self.censored as f64 / self.count.max(1) as f64;
        // All above the last that is not censored may be anything.
        if self.censored > 0 && shifted >= 1.0 {
            return None;
        }
        [
            (0.5, self.p50_ns),
            (0.9, self.p90_ns),
            (0.99, self.p99_ns),
            (0.999, self.p999_ns),
            (1.0, self.max_ns),
        ]
        .into_iter()
        .find_map(|(at, ns)| ns.filter(|_| at >= shifted))
    }
}

/// The quantile, or `None` where fewer than 10 samples lie above it.
pub fn quantile(histogram: &Histogram<u64>, q: f64) -> Option<u64> {
    (Support::of(histogram.len(), q) > Support::None).then(|| histogram.value_at_quantile(q))
}

/// Samples above a quantile that make it worth a number at all.
pub const LEAST_ABOVE: f64 = 10.0;
/// Samples above a quantile that make it worth a plain number.
pub const PLAIN_ABOVE: f64 = 100.0;

/// How well samples support a quantile: by how many of them lie above it, n(1-q).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Support {
    /// Fewer than [`LEAST_ABOVE`]: it is null.
    None,
    /// Fewer than [`PLAIN_ABOVE`]: it is shown greyed.
    Grey,
    /// It is shown as it is.
    Plain,
}

impl Support {
    /// Of the quantile `q` of `n` samples.
    pub fn of(n: u64, q: f64) -> Self {
        // 1 - 0.999 is a little less than a thousandth in binary.
        let above = n as f64 * (1.0 - q) + 1e-6;
        if above >= PLAIN_ABOVE {
            Self::Plain
        } else if above >= LEAST_ABOVE {
            Self::Grey
        } else {
            Self::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_needs_ten_samples_above_it() {
        let mut histogram = new_histogram();
        for ms in 1..=999 {
            record(&mut histogram, ms * 1_000_000);
        }
        assert!(quantile(&histogram, 0.99).is_none());
        record(&mut histogram, 1_000_000_000);
        assert!(quantile(&histogram, 0.99).is_some());
        assert!(quantile(&histogram, 0.999).is_none());
    }

    #[test]
    fn censored_samples_bound_a_quantile_from_below_only() {
        let summary = |censored| LatencySummary {
            count: 10_000,
            censored,
            p50_ns: Some(50),
            p90_ns: Some(90),
            p99_ns: Some(99),
            max_ns: Some(1_000),
            ..LatencySummary::default()
        };
        assert_eq!(summary(0).at_most_ns(0.99), Some(99));
        assert_eq!(summary(50).at_most_ns(0.99), Some(1_000), "p99.9 is null");
        assert_eq!(summary(50).at_most_ns(0.5), Some(90));
        assert_eq!(summary(100).at_most_ns(0.99), None);
        assert_eq!(summary(6_000).at_most_ns(0.5), None);
        assert_eq!(LatencySummary::default().at_most_ns(0.5), None);
    }

    #[test]
    fn support_grows_with_the_samples_above() {
        for (n, q, want) in [
            (999, 0.99, Support::None),
            (1_000, 0.99, Support::Grey),
            (9_999, 0.99, Support::Grey),
            (10_000, 0.99, Support::Plain),
            (99_999, 0.999, Support::Grey),
            (100_000, 0.999, Support::Plain),
            (20, 0.5, Support::Grey),
            (0, 0.5, Support::None),
        ] {
            assert_eq!(Support::of(n, q), want, "{n} at {q}");
        }
    }

    #[test]
    fn bytes_come_back_as_the_same_histogram() {
        let mut histogram = new_histogram();
        for i in 0..10_000 {
            record(&mut histogram, i * 12_345);
        }
        let back = decode(&encode(&histogram)).expect("own bytes");
        assert_eq!(back, histogram);
        assert!(decode(b"nonsense").is_err());
        let mut long = inflate(&encode(&histogram)).expect("own bytes");
        long[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut zlib = flate2::write::ZlibEncoder::new(vec![0; 8], flate2::Compression::fast());
        std::io::Write::write_all(&mut zlib, &long).expect("memory");
        let error = decode(&zlib.finish().expect("memory")).expect_err("4 GiB announced");
        assert!(error.to_string().contains("shorter than it says"));
        let other = encode(&Histogram::<u64>::new_with_bounds(1, 1_000, 2).expect("valid"));
        assert!(
            decode(&other)
                .expect_err("another configuration")
                .to_string()
                .contains("another configuration")
        );
    }
}
