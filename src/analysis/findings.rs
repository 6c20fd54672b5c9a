//! What the cells say about the axes: the effect of each level against the first one of its axis,
//! paired by block, and whether offered rates were sustained. Every claim carries its interval.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::document::{CellRecord, Finding};
use crate::record::event::{CellRef, Manifest};
use crate::units::short_rate;

use super::stats::{self, Ratio};
use super::summary::{Primary, usable};

/// A difference whose interval excludes 1.
pub const EFFECT: &str = "effect";
/// The interval holds 1 and little else: no difference.
pub const NULL: &str = "null";
/// The interval holds 1 and much else: nothing can be said.
pub const UNDECIDED: &str = "undecided";
/// One block: a ratio without an interval.
pub const SINGLE: &str = "single";
/// Whether an offered rate was sustained.
pub const SUSTAINED: &str = "sustained";

/// An interval within these bounds says that there is no difference; a wider one says nothing.
const SAME: (f64, f64) = (0.8, 1.25);
/// From here on a ratio is told as a multiple, which then rounds to 2.0.
const MULTIPLE: f64 = 1.95;
/// Cells named in a text before it says how many more there are.
const NAMED: usize = 3;

/// The findings of a run: axes in the order of the scenario, then offered rates.
pub fn findings(manifest: &Manifest, records: &[CellRecord]) -> Vec<Finding> {
    let cells: Vec<Cell<'_>> = manifest
        .cells
        .iter()
        .filter_map(|cell| {
            let record = records.iter().find(|r| r.id == cell.id)?;
            Some(Cell { cell, record })
        })
        .collect();
    let mut found = Vec::new();
    for (path, values) in &manifest.scenario.axes {
        axis_effects(path, values, &cells, &mut found);
    }
    found.extend(sustained(&cells));
    found
}

#[derive(Clone, Copy)]
struct Cell<'a> {
    cell: &'a CellRef,
    record: &'a CellRecord,
}

impl Cell<'_> {
    /// The logarithm of the primary metric by block, over usable trials.
    fn log_by_block(&self) -> BTreeMap<u32, f64> {
        let primary = Primary::of(self.cell);
        usable(&self.record.trials)
            .filter_map(|t| Some((t.block, primary.value(t).filter(|v| *v > 0.0)?.ln())))
            .collect()
    }

    /// Same factors but for the axis `path`, and the same metric to compare by.
    fn matches(&self, other: &Cell<'_>, path: &str) -> bool {
        let rest = |cell: &CellRef| -> Vec<(String, String)> {
            let others = cell.factors.iter().filter(|(p, _)| *p != path);
            others.map(|(p, v)| (p.clone(), v.clone())).collect()
        };
        rest(self.cell) == rest(other.cell) && Primary::of(self.cell) == Primary::of(other.cell)
    }
}

fn axis_effects(path: &str, values: &[String], cells: &[Cell<'_>], found: &mut Vec<Finding>) {
    let at_level = |level: &str| -> Vec<Cell<'_>> {
        let closed = cells.iter().filter(|c| c.cell.closed_loop);
        closed
            .filter(|c| c.cell.factors.get(path).is_some_and(|v| v == level))
            .copied()
            .collect()
    };
    let mut levels = values.iter().filter(|v| !at_level(v).is_empty());
    let Some(base) = levels.next() else { return };
    let base_cells = at_level(base);
    for other in levels {
        let pairs: Vec<(Cell<'_>, Cell<'_>)> = at_level(other)
            .into_iter()
            .filter_map(|o| Some((*base_cells.iter().find(|b| b.matches(&o, path))?, o)))
            .collect();
        let log_ratios = paired_log_ratios(&pairs);
        if let (Some((first, _)), Some(ratio)) = (pairs.first(), stats::paired_ratio(&log_ratios)) {
            let metric = Primary::of(first.cell).name();
            found.push(effect(
                metric,
                &level_name(path, base),
                &level_name(path, other),
                &ratio,
            ));
        }
    }
}

/// For each block the mean log ratio over all pairs of cells. Only blocks in which every pair was
/// measured: else a block's ratio would depend on which cells it happens to have.
fn paired_log_ratios(pairs: &[(Cell<'_>, Cell<'_>)]) -> Vec<f64> {
    let ratios: Vec<BTreeMap<u32, f64>> = pairs
        .iter()
        .map(|(base, other)| {
            let base = base.log_by_block();
            let other = other.log_by_block();
            other
                .into_iter()
                .filter_map(|(block, log)| Some((block, log - base.get(&block)?)))
                .collect()
        })
        .filter(|by_block: &BTreeMap<u32, f64>| !by_block.is_empty())
        .collect();
    let blocks: BTreeSet<u32> = ratios.iter().flat_map(|r| r.keys().copied()).collect();
    blocks
        .into_iter()
        .filter_map(|block| {
            let logs: Vec<f64> = ratios
                .iter()
                .map(|r| r.get(&block).copied())
                .collect::<Option<_>>()?;
            Some(logs.iter().sum::<f64>() / logs.len() as f64)
        })
        .collect()
}

/// How a text calls a level: by its value where that is a word, else with the name of the key.
fn level_name(path: &str, value: &str) -> String {
    let value = value.trim_matches('"');
    let word = value.starts_with(|c: char| c.is_ascii_alphabetic())
        && !["true", "false", "on", "off", "none", "max"].contains(&value);
    if word {
        value.to_owned()
    } else {
        let key = path.rsplit('.').next().unwrap_or(path);
        format!("{key} {value}")
    }
}

fn effect(metric: &str, base: &str, other: &str, ratio: &Ratio) -> Finding {
    let (kind, text) = match ratio.interval {
        None => (
            SINGLE,
            format!(
                "{}, one trial each: no interval",
                claim(base, other, ratio.ratio, None)
            ),
        ),
        Some((lo, hi)) => {
            let trials = format!("{} trials", ratio.n);
            if lo <= 1.0 && 1.0 <= hi {
                let numbers = format!("{other}/{base} {:.2} [{lo:.2}, {hi:.2}]", ratio.ratio);
                if lo >= SAME.0 && hi <= SAME.1 {
                    let text =
                        format!("no difference between {base} and {other}: {numbers}, {trials}");
                    (NULL, text)
                } else {
                    let text =
                        format!("too noisy to tell {other} from {base}: {numbers}, {trials}");
                    (UNDECIDED, text)
                }
            } else {
                let claim = claim(base, other, ratio.ratio, Some((lo, hi)));
                (EFFECT, format!("{claim}, {trials}"))
            }
        }
    };
    Finding {
        kind: kind.to_owned(),
        metric: metric.to_owned(),
        base: base.to_owned(),
        other: other.to_owned(),
        ratio: Some(ratio.ratio),
        lo: ratio.interval.map(|(lo, _)| lo),
        hi: ratio.interval.map(|(_, hi)| hi),
        q: None,
        n: ratio.n,
        mde: ratio.mde,
        text,
    }
}

/// `async is 9.1x sync [8.2, 10.1]`, `memory is 21 % faster than file [+9, +34]`.
fn claim(base: &str, other: &str, ratio: f64, interval: Option<(f64, f64)>) -> String {
    if ratio <= 1.0 / MULTIPLE {
        let inverted = interval.map(|(lo, hi)| (1.0 / hi, 1.0 / lo));
        return claim(other, base, 1.0 / ratio, inverted);
    }
    if ratio >= MULTIPLE {
        let times = |r: f64| {
            if r < 10.0 {
                format!("{r:.1}")
            } else {
                format!("{r:.0}")
            }
        };
        let interval = interval.map_or_else(String::new, |(lo, hi)| {
            format!(" [{}, {}]", times(lo), times(hi))
        });
        return format!("{other} is {}x {base}{interval}", times(ratio));
    }
    let percent = (ratio - 1.0) * 100.0;
    let decimals = usize::from(percent.abs() < 3.0);
    let interval = interval.map_or_else(String::new, |(lo, hi)| {
        let (lo, hi) = ((lo - 1.0) * 100.0, (hi - 1.0) * 100.0);
        format!(" [{lo:+.decimals$}, {hi:+.decimals$}]")
    });
    let word = if percent < 0.0 { "slower" } else { "faster" };
    let percent = percent.abs();
    format!("{other} is {percent:.decimals$} % {word} than {base}{interval}")
}

/// For each offered rate: in how many cells all usable trials kept up.
fn sustained(cells: &[Cell<'_>]) -> Vec<Finding> {
    let mut rates: Vec<(String, Vec<Cell<'_>>)> = Vec::new();
    for cell in cells {
        let open_loop = !cell.cell.closed_loop && !cell.cell.core && cell.cell.has_publishers;
        let Some(rate) = cell.cell.rate_per_s.filter(|_| open_loop) else {
            continue;
        };
        let rate = cell
            .cell
            .program
            .clone()
            .unwrap_or_else(|| short_rate(rate));
        match rates.iter_mut().find(|(r, _)| *r == rate) {
            Some((_, cells)) => cells.push(*cell),
            None => rates.push((rate, vec![*cell])),
        }
    }
    rates
        .into_iter()
        .filter_map(|(rate, cells)| sustained_at(&rate, &cells))
        .collect()
}

fn sustained_at(rate: &str, cells: &[Cell<'_>]) -> Option<Finding> {
    let mut held = 0;
    let mut not = Vec::new();
    let mut trials = 0;
    for cell in cells {
        let saturated: Vec<bool> = usable(&cell.record.trials)
            .filter_map(|t| t.saturated)
            .collect();
        trials += saturated.len();
        if saturated.is_empty() {
            not.push(format!("{} unknown", cell.cell.id));
        } else if saturated.contains(&true) {
            not.push(format!("not in {}", cell.cell.id));
        } else {
            held += 1;
        }
    }
    if trials == 0 {
        return None;
    }
    let more = not.len().saturating_sub(NAMED);
    not.truncate(NAMED);
    if more > 0 {
        not.push(format!("{more} more"));
    }
    let not = if not.is_empty() {
        String::new()
    } else {
        format!(" ({})", not.join(", "))
    };
    let all = cells.len();
    Some(Finding {
        kind: SUSTAINED.to_owned(),
        metric: Primary::Acked.name().to_owned(),
        base: rate.to_owned(),
        other: String::new(),
        ratio: None,
        lo: None,
        hi: None,
        q: None,
        n: u32::try_from(trials).unwrap_or(u32::MAX),
        mde: None,
        text: format!("{rate} is sustained in {held} of {all} cells{not}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{analyse, answer};
    use crate::record::fixture;

    const MODES: (&str, &[&str]) = ("publish.mode", &["sync", "async"]);
    const LAYOUTS: (&str, &[&str]) = ("stream.layout", &["shared", "per-app"]);

    /// Findings and answer of cells with the rates of their trials by block.
    fn said(axes: &[(&str, &[&str])], cells: &[(CellRef, &[u64])]) -> (Vec<Finding>, String) {
        let manifest = fixture::manifest(cells.iter().map(|(c, _)| c.clone()).collect(), axes);
        let mut results = Vec::new();
        for (cell, rates) in cells {
            for (block, rate) in (0..).zip(*rates) {
                let trial = u32::try_from(results.len()).expect("few");
                let mut result = fixture::result(trial, *rate);
                result.offered = cell.rate_per_s.map(|r| r as u64);
                results.push((block, cell.id.as_str(), result));
            }
        }
        let run = fixture::run_of(manifest, results);
        let record = analyse(&run);
        let answer = answer(&run, &record);
        (record.findings, answer)
    }

    fn mode(value: &str) -> CellRef {
        fixture::closed(value, &[("publish.mode", value)])
    }

    fn modes(sync: &[u64], r#async: &[u64]) -> Finding {
        let cells = [(mode("sync"), sync), (mode("async"), r#async)];
        let (mut findings, answer) = said(&[MODES], &cells);
        assert_eq!(findings.len(), 1);
        assert_eq!(answer, findings[0].text);
        findings.remove(0)
    }

    #[test]
    fn a_large_effect_is_a_multiple_and_a_small_one_a_percentage() {
        let got = modes(&[1_000, 1_010, 990], &[9_100, 9_000, 9_200]);
        assert_eq!(got.text, "async is 9.1x sync [8.6, 9.6], 3 trials");
        assert_eq!(got.kind, EFFECT);
        assert_eq!(
            (got.base.as_str(), got.other.as_str(), got.n),
            ("sync", "async", 3)
        );
        assert_eq!(got.metric, "acked_per_s");
        let got = modes(&[9_100, 9_000, 9_200], &[1_000, 1_010, 990]);
        assert_eq!(got.text, "sync is 9.1x async [8.6, 9.6], 3 trials");
        assert!(got.ratio.is_some_and(|r| r < 0.2), "other / base");
        let got = modes(&[1_000, 1_000, 1_000], &[1_200, 1_210, 1_220]);
        assert_eq!(
            got.text,
            "async is 21 % faster than sync [+19, +24], 3 trials"
        );
        let got = modes(&[1_200, 1_210, 1_220], &[1_000, 1_000, 1_000]);
        assert_eq!(
            got.text,
            "async is 17 % slower than sync [-19, -16], 3 trials"
        );
        let got = modes(&[1_000, 1_000, 1_000], &[1_010, 1_011, 1_012]);
        assert_eq!(
            got.text,
            "async is 1.1 % faster than sync [+0.9, +1.3], 3 trials"
        );
    }

    #[test]
    fn no_difference_is_told_from_too_much_noise() {
        let got = modes(&[1_000, 1_010, 990], &[1_010, 990, 1_000]);
        assert_eq!(
            got.text,
            "no difference between sync and async: async/sync 1.00 [0.96, 1.04], 3 trials"
        );
        assert_eq!(got.kind, NULL);
        assert!(got.mde.is_some_and(|mde| mde > 0.0 && mde < 0.1));
        let got = modes(&[1_000, 400, 2_000], &[500, 1_500, 1_000]);
        assert_eq!(got.kind, UNDECIDED);
        assert!(
            got.text.starts_with("too noisy to tell async from sync:"),
            "{}",
            got.text
        );
    }

    #[test]
    fn one_trial_has_no_interval() {
        let got = modes(&[1_000], &[3_000]);
        assert_eq!(got.text, "async is 3.0x sync, one trial each: no interval");
        assert_eq!(
            (got.kind.as_str(), got.lo, got.hi, got.n),
            (SINGLE, None, None, 1)
        );
    }

    #[test]
    fn trials_are_paired_by_block_whatever_the_machine_did_meanwhile() {
        // The machine got ten times slower from block to block; the ratio did not change.
        let got = modes(&[10_000, 1_000, 100], &[20_000, 2_020, 198]);
        assert_eq!(got.text, "async is 2.0x sync [2.0, 2.1], 3 trials");
    }

    #[test]
    fn an_axis_is_judged_over_all_cells_that_match() {
        let cell = |mode: &str, layout: &str| {
            let factors = [("publish.mode", mode), ("stream.layout", layout)];
            fixture::closed(&format!("{mode}-{layout}"), &factors)
        };
        let cells: [(CellRef, &[u64]); 4] = [
            (cell("sync", "shared"), &[1_000, 1_010]),
            (cell("sync", "per-app"), &[1_000, 1_010]),
            (cell("async", "shared"), &[2_000, 2_020]),
            (cell("async", "per-app"), &[8_000, 8_080]),
        ];
        let (findings, answer) = said(&[MODES, LAYOUTS], &cells);
        let texts: Vec<&str> = findings.iter().map(|f| f.text.as_str()).collect();
        // Two and eight times: four on average. One and four times: two.
        assert_eq!(
            texts,
            [
                "async is 4.0x sync [4.0, 4.0], 2 trials",
                "per-app is 2.0x shared [2.0, 2.0], 2 trials",
            ]
        );
        assert_eq!(answer, texts.join("; "));
    }

    #[test]
    fn levels_that_are_no_words_carry_their_key() {
        assert_eq!(level_name("stream.storage", "\"memory\""), "memory");
        assert_eq!(level_name("stream.replicas", "3"), "replicas 3");
        assert_eq!(level_name("publish.message_id", "true"), "message_id true");
    }

    #[test]
    fn open_loop_cells_say_whether_they_kept_up_and_are_not_compared() {
        let axis: (&str, &[&str]) = ("stream.storage", &["file", "memory"]);
        let cell = |storage: &str| fixture::open(storage, &[("stream.storage", storage)], 5_000.0);
        let cells: [(CellRef, &[u64]); 2] = [
            (cell("file"), &[5_000, 4_000]),
            (cell("memory"), &[5_000, 5_000]),
        ];
        let (findings, answer) = said(&[axis], &cells);
        assert_eq!(findings.len(), 1);
        assert_eq!(answer, "5k/s is sustained in 1 of 2 cells (not in file)");
        assert_eq!((findings[0].kind.as_str(), findings[0].n), (SUSTAINED, 4));
    }

    #[test]
    fn a_single_cell_answers_with_its_number() {
        let (findings, answer) = said(&[], &[(fixture::closed("base", &[]), &[1_000, 1_010, 990])]);
        assert!(findings.is_empty());
        assert_eq!(answer, "1,000 acked/s [975, 1,025], 3 trials");
        let open = fixture::open("base", &[], 5_000.0);
        let (_, answer) = said(&[], &[(open.clone(), &[4_000])]);
        assert_eq!(
            answer,
            "5k/s is not sustained: 4,000 acked/s, one trial: no interval"
        );
        let (_, answer) = said(&[], &[(open.clone(), &[5_000, 5_000])]);
        assert_eq!(answer, "5k/s is sustained, 2 trials");
        let (_, answer) = said(&[], &[(open, &[])]);
        assert_eq!(answer, "no answer: no trial began");
    }
}
