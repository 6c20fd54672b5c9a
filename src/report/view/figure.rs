//! A figure as people read it, with what its samples are worth: a quantile with fewer than a
//! hundred samples above it is greyed, and carries a sign where grey cannot be seen.

use std::fmt;

use serde::Serialize;

use crate::measure::histogram::{LatencySummary, Support};
use crate::units::human_ns;

/// What stands before a greyed figure.
pub const GREY_SIGN: &str = "~";
/// What that means.
pub const GREY: &str = "fewer than 100 samples lie above it";
/// What stands before a figure that is a lower bound.
pub const AT_LEAST_SIGN: &str = ">";
/// What that means.
pub const AT_LEAST: &str = "at least: messages without an answer count with the time until then";

/// A text, and whether it is greyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// With its unit, and with [`GREY_SIGN`] where it is greyed.
    pub text: String,
    /// Fewer samples than a plain number needs.
    pub grey: bool,
}

/// A quantile of a summary: which, and where it stands.
pub type Pick = (f64, fn(&LatencySummary) -> Option<u64>);
/// Median.
pub const P50: Pick = (0.5, |s| s.p50_ns);
/// 90th percentile.
pub const P90: Pick = (0.9, |s| s.p90_ns);
/// 99th percentile.
pub const P99: Pick = (0.99, |s| s.p99_ns);
/// 99.9th percentile.
pub const P999: Pick = (0.999, |s| s.p999_ns);

impl Figure {
    /// A figure that is no quantile.
    pub fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            grey: false,
        }
    }

    /// A figure that is greyed where `grey` is.
    pub fn of(text: String, grey: bool) -> Self {
        let text = if grey {
            format!("{GREY_SIGN}{text}")
        } else {
            text
        };
        Self { text, grey }
    }

    /// It is a lower bound.
    pub fn is_at_least(&self) -> bool {
        self.text
            .trim_start_matches(GREY_SIGN)
            .starts_with(AT_LEAST_SIGN)
    }

    /// A quantile of `summary`, `-` where it was not measured.
    pub fn quantile(summary: Option<&LatencySummary>, pick: Pick) -> Self {
        match summary.and_then(|s| pick.1(s)) {
            Some(ns) => {
                let bound = summary.is_some_and(|s| s.at_most_ns(pick.0).is_none());
                let sign = if bound { AT_LEAST_SIGN } else { "" };
                let text = format!("{sign}{}", human_ns(ns as f64));
                Self::of(text, is_grey(summary, pick))
            }
            None => Self::plain("-"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// There is such a quantile, and too few samples lie above it.
pub fn is_grey(summary: Option<&LatencySummary>, (q, of): Pick) -> bool {
    summary.is_some_and(|s| of(s).is_some() && Support::of(s.count, q) < Support::Plain)
}

/// The quantile that a name such as `response.p99` means.
pub fn named(name: &str) -> Option<Pick> {
    match name.rsplit_once('.')?.1 {
        "p50" => Some(P50),
        "p90" => Some(P90),
        "p99" => Some(P99),
        "p999" => Some(P999),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(count: u64) -> LatencySummary {
        LatencySummary {
            count,
            p99_ns: Some(7_410_000),
            ..LatencySummary::default()
        }
    }

    #[test]
    fn a_quantile_of_few_samples_is_greyed_and_one_of_none_is_a_dash() {
        let shown = |count| Figure::quantile(Some(&summary(count)), P99);
        assert_eq!(shown(10_000), Figure::plain("7.41 ms"));
        assert_eq!(shown(9_999).text, "~7.41 ms");
        assert!(shown(9_999).grey);
        assert_eq!(
            Figure::quantile(Some(&summary(50)), P50),
            Figure::plain("-")
        );
        assert_eq!(Figure::quantile(None, P99), Figure::plain("-"));
    }

    #[test]
    fn a_quantile_that_rests_on_messages_without_an_answer_is_a_lower_bound() {
        let mut cut = summary(10_000);
        cut.censored = 100;
        let shown = Figure::quantile(Some(&cut), P99);
        assert_eq!(shown.text, ">7.41 ms");
        assert!(shown.is_at_least());
        cut.max_ns = Some(9_000_000);
        cut.censored = 99;
        assert_eq!(Figure::quantile(Some(&cut), P99).text, "7.41 ms");
    }
}
