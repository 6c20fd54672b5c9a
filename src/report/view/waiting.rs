//! Why a response time is long where the target answers quickly and the driver was on time: the
//! sentence that a reader of the figures alone would have to find himself.

use serde::Serialize;

use super::figure::{Figure, P50, P99};
use crate::measure::histogram::LatencySummary;
use crate::units::{human_ns, human_rate, thousands};

/// Response p99 this many times above service p50 is waiting, and not service.
const MUCH: u64 = 10;
/// Lag p99 below this part of response p99 is not what made it long.
const LITTLE: u64 = 10;
/// Window / service is what bounds the rate where it comes this near.
const NEAR: f64 = 0.15;

/// Waiting in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// `response p99 2.01 s against service p50 210 us with lag p99 300 us`.
    pub figures: String,
    /// What they mean.
    pub meaning: &'static str,
}

impl Waiting {
    /// The whole sentence.
    pub fn sentence(&self) -> String {
        format!("{}: {}", self.figures, self.meaning)
    }
}

/// The messages were kept from being sent. The words hold for a target that stood still and for a
/// window that was too small, which look the same from here.
const BEFORE: &str = "the target stood still or what may be in flight was full, and messages that \
     were due waited; a closed loop would have sent none of them and shown nothing";
/// They were sent when due, and the answer took that long.
const WITHIN: &str = "a hundredth of the messages waited inside the target, ten times as long as the \
     median or more: it stood still for a time, or its answers have a long tail; a closed loop sends \
     next to nothing meanwhile and would have shown fewer of them";

/// Messages waited, and it was not the driver that let them.
pub fn waiting(
    response: &LatencySummary,
    service: &LatencySummary,
    lag: &LatencySummary,
) -> Option<Waiting> {
    let (response_ns, service_ns, lag_ns) = (response.p99_ns?, service.p50_ns?, lag.p99_ns?);
    let waited = response_ns >= service_ns.saturating_mul(MUCH);
    let on_time = lag_ns.saturating_mul(LITTLE) < response_ns;
    let in_target = service.p99_ns.is_some_and(|ns| ns >= response_ns / 2);
    (waited && on_time).then(|| Waiting {
        figures: format!(
            "response p99 {} against service p50 {} with lag p99 {}",
            Figure::quantile(Some(response), P99),
            Figure::quantile(Some(service), P50),
            Figure::quantile(Some(lag), P99),
        ),
        meaning: if in_target { WITHIN } else { BEFORE },
    })
}

/// A saturated rate that is what Little's law makes of a full window: N / R.
pub fn bound(in_flight: u64, service: &LatencySummary, acked_per_s: f64) -> Option<String> {
    let mean_ns = service.mean_ns.filter(|ns| *ns > 0)? as f64;
    let bound_per_s = in_flight as f64 * 1e9 / mean_ns;
    let near = (acked_per_s / bound_per_s - 1.0).abs() <= NEAR;
    near.then(|| {
        format!(
            "the rate was bounded by what was in flight: {} / {} of service = {}/s, and {}/s were \
             acked; a larger window gives more only where service stays as it is",
            thousands(in_flight),
            human_ns(mean_ns),
            human_rate(bound_per_s),
            human_rate(acked_per_s)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn summary(p50_ns: u64, p99_ns: u64) -> LatencySummary {
        LatencySummary {
            count: 50_000,
            mean_ns: Some(p50_ns),
            p50_ns: Some(p50_ns),
            p99_ns: Some(p99_ns),
            ..LatencySummary::default()
        }
    }

    #[test]
    fn a_long_response_over_a_short_service_is_explained_with_its_numbers() {
        let of = |service_p99_ns| {
            let service = summary(210_000, service_p99_ns);
            waiting(
                &summary(MS, 2_010 * MS),
                &service,
                &summary(50_000, 300_000),
            )
        };
        let before = of(400_000).expect("they waited");
        assert_eq!(
            before.sentence(),
            "response p99 2.01 s against service p50 210 us with lag p99 300 us: the target stood \
             still or what may be in flight was full, and messages that were due waited; a closed \
             loop would have sent none of them and shown nothing"
        );
        let within = of(1_900 * MS).expect("they waited");
        assert_eq!(within.figures, before.figures);
        assert!(
            within.meaning.contains("waited inside the target"),
            "{within:?}"
        );
    }

    #[test]
    fn a_slow_target_and_a_late_driver_are_not_a_stall() {
        let said = |response_ns: u64, service_ns: u64, lag_ns: u64| {
            let response = summary(MS, response_ns);
            waiting(&response, &summary(service_ns, MS), &summary(1_000, lag_ns)).is_some()
        };
        assert!(said(10 * MS, MS, MS - 1));
        assert!(!said(10 * MS - 1, MS, 1_000), "service alone is that long");
        assert!(!said(10 * MS, MS, MS), "the driver was late");
        assert!(said(1_000 * MS, MS, 99 * MS));
    }

    #[test]
    fn what_was_not_measured_explains_nothing() {
        let known = summary(MS, 1_000 * MS);
        let unknown = LatencySummary::default();
        assert_eq!(waiting(&unknown, &known, &known), None);
        assert_eq!(waiting(&known, &unknown, &known), None);
        let short = summary(1_000, 2_000);
        assert_eq!(waiting(&known, &short, &unknown), None);
        assert_eq!(bound(8, &unknown, 100.0), None);
    }

    #[test]
    fn a_full_window_bounds_the_rate_where_the_numbers_agree() {
        let service = summary(5 * MS, 6 * MS);
        let text = bound(8, &service, 1_580.0).expect("1,600/s is near");
        assert!(
            text.contains("8 / 5.00 ms of service = 1,600/s, and 1,580/s were acked"),
            "{text}"
        );
        assert!(bound(8, &service, 1_840.0).is_some(), "15 % more");
        assert_eq!(bound(8, &service, 1_850.0), None);
        assert_eq!(bound(8, &service, 1_350.0), None);
    }
}
