//! Estimators over trials. Effects are ratios and rates are positive, so everything is done on
//! logarithms: geometric means, t intervals, paired ratios. Knows neither trials nor cells.

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::record::document::{Estimate, Stability};

/// Geometric mean; `None` without values or where one is not positive and finite.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logs = logs(values)?;
    finite(mean(&logs)?.exp())
}

/// Geometric mean with its 95 % t interval on logarithms, and the coefficient of variation. A
/// value of zero makes the mean zero and leaves no interval.
pub fn estimate(values: &[f64]) -> Estimate {
    let cv = coefficient_of_variation(values);
    let Some(logs) = logs(values) else {
        let zero = values.contains(&0.0) && values.iter().all(|v| v.is_finite() && *v >= 0.0);
        return Estimate {
            mean: zero.then_some(0.0),
            cv,
            ..Estimate::default()
        };
    };
    if let [first, _, ..] = values
        && values.iter().all(|v| v.total_cmp(first).is_eq())
    {
        // Logarithm and back is not exact, and a limit may be exactly this value.
        let same = Some(*first);
        return Estimate {
            mean: same,
            lo: same,
            hi: same,
            cv,
        };
    }
    let interval = t_interval(&logs);
    Estimate {
        mean: mean(&logs).and_then(|m| finite(m.exp())),
        lo: interval.and_then(|(lo, _)| finite(lo.exp())),
        hi: interval.and_then(|(_, hi)| finite(hi.exp())),
        cv,
    }
}

/// Standard deviation over mean; `None` for fewer than two values or a mean of zero.
pub fn coefficient_of_variation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|m| *m != 0.0)?;
    finite(deviation(values)? / mean.abs())
}

/// The grade of a coefficient of variation: up to 5, 10 and 20 %.
pub fn grade(cv: f64) -> Stability {
    if cv <= 0.05 {
        Stability::A
    } else if cv <= 0.10 {
        Stability::B
    } else if cv <= 0.20 {
        Stability::C
    } else {
        Stability::Unstable
    }
}

/// How much larger one level is than another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Geometric mean of the blocks' ratios.
    pub ratio: f64,
    /// 95 % interval; `None` for a single block.
    pub interval: Option<(f64, f64)>,
    /// Smallest ratio - 1 that would have been found with a power of 80 %.
    pub mde: Option<f64>,
    /// Blocks.
    pub n: u32,
}

/// The ratio from the logarithm of each block's ratio: mean and t interval on logarithms.
pub fn paired_ratio(log_ratios: &[f64]) -> Option<Ratio> {
    let ratio = finite(mean(log_ratios)?.exp())?;
    let interval = t_interval(log_ratios)
        .map(|(lo, hi)| (lo.exp(), hi.exp()))
        .filter(|(lo, hi)| lo.is_finite() && hi.is_finite());
    let mde = deviation(log_ratios).and_then(|sd| {
        let n = log_ratios.len() as f64;
        let t = t_quantile(0.975, n - 1.0)? + t_quantile(0.8, n - 1.0)?;
        finite((t * sd / n.sqrt()).exp_m1())
    });
    Some(Ratio {
        ratio,
        interval,
        mde,
        n: u32::try_from(log_ratios.len()).unwrap_or(u32::MAX),
    })
}

/// 95 % t interval of the mean; `None` for fewer than two values.
fn t_interval(values: &[f64]) -> Option<(f64, f64)> {
    let sd = deviation(values)?;
    let n = values.len() as f64;
    let half = t_quantile(0.975, n - 1.0)? * sd / n.sqrt();
    let mean = mean(values)?;
    Some((mean - half, mean + half))
}

fn t_quantile(q: f64, freedom: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    finite(t.inverse_cdf(q))
}

fn logs(values: &[f64]) -> Option<Vec<f64>> {
    let usable = |v: &f64| v.is_finite() && *v > 0.0;
    (!values.is_empty() && values.iter().all(usable))
        .then(|| values.iter().map(|v| v.ln()).collect())
}

fn mean(values: &[f64]) -> Option<f64> {
    finite(values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation with n - 1.
fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    finite((squares / (values.len() - 1) as f64).sqrt())
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(got: Option<f64>, want: f64) {
        let got = got.expect("a value");
        assert!((got / want - 1.0).abs() < 1e-6, "{got} is not {want}");
    }

    #[test]
    fn the_mean_is_geometric() {
        close(geometric_mean(&[2.0, 8.0]), 4.0);
        assert_eq!(geometric_mean(&[]), None);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
    }

    /// ln: 4.60517, 4.70048, 4.78749; mean 4.697715, sd 0.091192; t(0.975, 2) = 4.302653;
    /// half-width 4.302653 * 0.091192 / sqrt 3 = 0.226533.
    #[test]
    fn the_interval_of_three_is_the_one_computed_by_hand() {
        let got = estimate(&[100.0, 110.0, 120.0]);
        let near = |got: Option<f64>, want: f64| {
            let got = got.expect("a value");
            assert!((got - want).abs() < 0.02, "{got} is not {want}");
        };
        near(got.mean, 109.696);
        near(got.lo, 87.459);
        near(got.hi, 137.587);
        close(got.cv, 10.0 / 110.0);
    }

    #[test]
    fn one_value_has_no_interval_and_zero_no_logarithm() {
        let one = estimate(&[5.0]);
        close(one.mean, 5.0);
        assert_eq!((one.lo, one.hi, one.cv), (None, None, None));
        let zero = estimate(&[5.0, 0.0]);
        assert_eq!((zero.mean, zero.lo, zero.hi), (Some(0.0), None, None));
        assert_eq!(estimate(&[]), Estimate::default());
    }

    /// Ratios 2, 2.2, 1.8: log mean 0.692... by hand: (0.693147 + 0.788457 + 0.587787) / 3 =
    /// 0.689797; sd 0.100377; half-width 4.302653 * 0.100377 / sqrt 3 = 0.249348.
    #[test]
    fn blocks_are_compared_in_pairs() {
        let got = paired_ratio(&[2f64.ln(), 2.2f64.ln(), 1.8f64.ln()]).expect("three blocks");
        assert_eq!(got.n, 3);
        let (lo, hi) = got.interval.expect("an interval");
        for (got, want) in [
            (got.ratio, 0.689_797_f64.exp()),
            (lo, (0.689_797_f64 - 0.249_348).exp()),
            (hi, (0.689_797_f64 + 0.249_348).exp()),
        ] {
            assert!((got / want - 1.0).abs() < 1e-4, "{got} is not {want}");
        }
        assert!(paired_ratio(&[]).is_none());
        assert_eq!(paired_ratio(&[0.5]).and_then(|r| r.interval), None);
    }

    #[test]
    fn grades_have_the_documented_limits() {
        use Stability::{A, B, C, Unstable};
        let grades = [0.05, 0.10, 0.20, 0.21].map(grade);
        assert_eq!(grades, [A, B, C, Unstable]);
    }

    proptest! {
        #[test]
        fn an_interval_holds_its_mean_and_scales_with_the_unit(
            values in prop::collection::vec(1e-3f64..1e9, 2..12),
            factor in 1e-3f64..1e3,
        ) {
            let got = estimate(&values);
            let (mean, lo, hi) = (got.mean.unwrap_or(0.0), got.lo.unwrap_or(0.0), got.hi.unwrap_or(f64::MAX));
            prop_assert!(lo <= mean * (1.0 + 1e-9) && mean <= hi * (1.0 + 1e-9));
            let scaled: Vec<f64> = values.iter().map(|v| v * factor).collect();
            let again = estimate(&scaled).mean.unwrap_or(0.0);
            prop_assert!((again / (mean * factor) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn swapping_the_levels_inverts_the_ratio(logs in prop::collection::vec(-3f64..3.0, 2..9)) {
            let one = paired_ratio(&logs).expect("blocks");
            let swapped: Vec<f64> = logs.iter().map(|l| -l).collect();
            let other = paired_ratio(&swapped).expect("blocks");
            prop_assert!((one.ratio * other.ratio - 1.0).abs() < 1e-9);
            let ((lo, _), (_, hi)) = (one.interval.expect("n > 1"), other.interval.expect("n > 1"));
            prop_assert!((lo * hi - 1.0).abs() < 1e-6);
        }

        #[test]
        fn no_values_panic(values in prop::collection::vec(prop::num::f64::ANY, 0..6)) {
            let _ = (estimate(&values), paired_ratio(&values), geometric_mean(&values));
        }
    }
}
