//! Estimators over one series in time: where it settles (MSER-5), how it goes on (Theil-Sen) and
//! whether that may be chance (Mann-Kendall). All of them are told finite values in the order of
//! time. Knows neither trials nor units; `steady` calls it.

use statrs::function::erf::erfc;

/// Values that MSER-5 averages before it looks.
const BATCH: usize = 5;
/// Up to this many values without ties the null distribution of Mann-Kendall is counted out.
const EXACT_UP_TO: usize = 60;

/// How much of a series belongs to its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Values to leave out, a multiple of five.
    pub values: usize,
    /// It is as much as may be cut, half of the series: nothing shows that the rest has settled.
    pub at_limit: bool,
}

/// MSER-5: of all cuts at multiples of five values, up to half of the series, the one after which
/// the mean is known best, the smallest sum((y - mean)^2) / m^2 over the m means of five that are
/// left. `None` for fewer than two batches; what fills no batch at the end is not looked at.
///
/// White, "An effective truncation heuristic for bias reduction in simulation output", Simulation
/// 69(6), 1997; in batches of five, and recommended among automatic rules, by Hoad and Robinson,
/// "Implementing MSER-5 in commercial simulation software and its wider implications", WSC 2011.
pub fn mser5(values: &[f64]) -> Option<Cut> {
    let (batches, _) = values.as_chunks::<BATCH>();
    if batches.len() < 2 {
        return None;
    }
    // Around the first, so that equal batches leave a sum of exactly 0.
    let first = mean(&batches[0]);
    let means: Vec<f64> = batches.iter().map(|b| mean(b) - first).collect();
    let limit = means.len() / 2;
    let error = |from: usize| {
        let left = &means[from..];
        let (centre, m) = (mean(left), left.len() as f64);
        left.iter().map(|y| (y - centre).powi(2)).sum::<f64>() / (m * m)
    };
    let from = (0..=limit).min_by(|a, b| error(*a).total_cmp(&error(*b)))?;
    Some(Cut {
        values: from * BATCH,
        at_limit: from == limit,
    })
}

/// The median slope between any two of the points (time, value), in value per time; `None` where
/// no two differ in time. Takes time and memory of the points squared.
///
/// Theil 1950; Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63,
/// 1968.
pub fn theil_sen(points: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2);
    for (at, (t0, y0)) in points.iter().enumerate() {
        for (t1, y1) in &points[at + 1..] {
            if t1 > t0 {
                slopes.push((y1 - y0) / (t1 - t0));
            }
        }
    }
    median(slopes)
}

/// Whether values rise or fall more than chance lets them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MannKendall {
    /// Pairs that rise less pairs that fall.
    pub s: i64,
    /// Two-sided p value if the values were independent and without a trend.
    pub p: f64,
}

/// The test of Mann and Kendall; `None` for fewer than three values. Exact for up to 60 values that
/// all differ, else the normal approximation with correction for continuity and ties. Values that
/// hang on those before them make its p too small: give it means of blocks.
///
/// Mann 1945; Kendall, "Rank correlation methods", 4th edition, 1975.
pub fn mann_kendall(values: &[f64]) -> Option<MannKendall> {
    let n = values.len();
    if n < 3 {
        return None;
    }
    let mut s = 0;
    for (at, before) in values.iter().enumerate() {
        for after in &values[at + 1..] {
            s += i64::from(after > before) - i64::from(after < before);
        }
    }
    let ties = ties(values);
    let p = if n <= EXACT_UP_TO && ties.iter().all(|t| *t == 1) {
        exact_p(n, s)
    } else {
        normal_p(n, s, &ties)
    };
    Some(MannKendall { s, p })
}

/// Sizes of the groups of equal values.
fn ties(values: &[f64]) -> Vec<usize> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .chunk_by(|a, b| a.total_cmp(b).is_eq())
        .map(<[f64]>::len)
        .collect()
}

/// Of all orders of `n` values, the share whose S is at least as far from 0, by counting
/// inversions: placing the m-th value adds 0 to m - 1 of them, each as often.
fn exact_p(n: usize, s: i64) -> f64 {
    let pairs = n * (n - 1) / 2;
    let most = (pairs - s.unsigned_abs() as usize) / 2;
    let mut shares = vec![0.0; most + 1];
    shares[0] = 1.0;
    for m in 2..=n {
        let before = shares.clone();
        let mut sum = 0.0;
        for (inversions, share) in shares.iter_mut().enumerate() {
            sum += before[inversions];
            if inversions >= m {
                sum -= before[inversions - m];
            }
            *share = sum / m as f64;
        }
    }
    (2.0 * shares.iter().sum::<f64>()).min(1.0)
}

fn normal_p(n: usize, s: i64, ties: &[usize]) -> f64 {
    let part = |n: usize| (n * (n - 1) * (2 * n + 5)) as f64;
    let variance = (part(n) - ties.iter().map(|t| part(*t)).sum::<f64>()) / 18.0;
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (s.abs() - 1).max(0) as f64 / variance.sqrt();
    erfc(z / std::f64::consts::SQRT_2)
}

/// Means of time and value over `blocks` stretches of about as many points each; the points
/// themselves where there are not more of them.
pub fn block_means(points: &[(f64, f64)], blocks: usize) -> Vec<(f64, f64)> {
    let n = points.len();
    if n <= blocks {
        return points.to_vec();
    }
    (0..blocks)
        .map(|i| {
            let block = &points[i * n / blocks..(i + 1) * n / blocks];
            let (t, y): (Vec<f64>, Vec<f64>) = block.iter().copied().unzip();
            (mean(&t), mean(&y))
        })
        .collect()
}

/// Arithmetic mean; not a number without values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The median; `None` without values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let (half, even) = (values.len() / 2, values.len().is_multiple_of(2));
    let (_, middle, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let middle = *middle;
    if !even {
        return Some(middle);
    }
    // Selecting left all that are not larger before it.
    let below = values[..half].iter().copied().max_by(f64::total_cmp)?;
    Some(f64::midpoint(below, middle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A series and what SciPy says of it: `scripts/golden/steady.py`.
    #[derive(serde::Deserialize)]
    struct Known {
        name: String,
        times: Vec<f64>,
        values: Vec<f64>,
        slope: f64,
        s: i64,
        p: f64,
        cut: Option<usize>,
        at_limit: Option<bool>,
    }

    #[test]
    fn the_answers_are_those_of_scipy() {
        let text = include_str!("../../tests/golden/steady.json");
        let all: Vec<Known> = serde_json::from_str(text).expect("what the script wrote");
        assert!(all.len() > 10);
        for known in all {
            let name = &known.name;
            let close = |got: f64, want: f64, what: &str| {
                let off = (got - want).abs();
                let limit = 1e-9 * want.abs();
                assert!(off <= limit, "{name}: {what} is {got}, not {want}");
            };
            let points: Vec<(f64, f64)> = known
                .times
                .iter()
                .copied()
                .zip(known.values.iter().copied())
                .collect();
            close(
                theil_sen(&points).expect("points"),
                known.slope,
                "the slope",
            );
            let test = mann_kendall(&known.values).expect("three values");
            assert_eq!(test.s, known.s, "{name}");
            close(test.p, known.p, "p");
            let cut = mser5(&known.values);
            assert_eq!(cut.map(|c| c.values), known.cut, "{name}");
            assert_eq!(cut.map(|c| c.at_limit), known.at_limit, "{name}");
        }
    }

    #[test]
    fn too_few_points_have_no_answer() {
        assert_eq!(mser5(&[1.0; 9]), None);
        assert_eq!(theil_sen(&[(1.0, 2.0)]), None);
        assert_eq!(theil_sen(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(mann_kendall(&[1.0, 2.0]), None);
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn blocks_share_the_points_among_them() {
        let points: Vec<(f64, f64)> = (0..25).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        let blocks = block_means(&points, 12);
        assert_eq!(blocks.len(), 12);
        assert_eq!((blocks[0], blocks[11]), ((0.5, 1.0), (23.0, 46.0)));
        assert_eq!(block_means(&points, 100), points);
    }

    proptest! {
        #[test]
        fn the_median_has_as_many_below_as_above(values in prop::collection::vec(-1e6f64..1e6, 1..40)) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let n = sorted.len();
            let want = f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]);
            prop_assert_eq!(median(values), Some(want));
        }

        #[test]
        fn turning_time_around_turns_the_signs_and_a_unit_scales_the_slope(
            values in prop::collection::vec(-1e3f64..1e3, 3..40),
            factor in 0.01f64..100.0,
        ) {
            let points = |values: &[f64]| -> Vec<(f64, f64)> {
                (0..values.len()).map(|i| i as f64).zip(values.iter().copied()).collect()
            };
            let back: Vec<f64> = values.iter().rev().copied().collect();
            let scaled: Vec<f64> = values.iter().map(|v| v * factor).collect();
            let slope = theil_sen(&points(&values)).expect("points");
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (a.abs() + b.abs()) + 1e-12;
            prop_assert!(near(theil_sen(&points(&back)).expect("points"), -slope));
            prop_assert!(near(theil_sen(&points(&scaled)).expect("points"), slope * factor));
            let (one, other) = (mann_kendall(&values), mann_kendall(&back));
            let (one, other) = (one.expect("three"), other.expect("three"));
            prop_assert_eq!(one.s, -other.s);
            prop_assert!(near(one.p, other.p) && one.p <= 1.0 && one.p > 0.0);
        }

        #[test]
        fn a_constant_added_or_a_unit_moves_no_cut(
            values in prop::collection::vec(1i32..1000, 10..80),
            power in 0i32..8,
        ) {
            // Whole numbers and powers of two leave no rounding that could decide a tie.
            let factor = 2f64.powi(power);
            let plain: Vec<f64> = values.iter().map(|v| f64::from(v * 5)).collect();
            let moved: Vec<f64> = plain.iter().map(|v| (v + 4096.0) * factor).collect();
            prop_assert_eq!(mser5(&plain), mser5(&moved));
        }
    }
}
