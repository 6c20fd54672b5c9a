//! What the figures of a cell rest on, in sentences: whether its trials were steady, whether the
//! window holds what the servers do now and then, and in closed loop whether its numbers agree with
//! Little's law. The record says what is so; here it is only put into words.

use std::time::Duration;

use serde::Serialize;

use crate::record::document::{SteadyClass, TrialRecord};
use crate::report::clean;
use crate::units::{human_duration, human_ns, human_rate, thousands};

/// One sentence about a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about: `steady state`.
    pub name: &'static str,
    /// What is so.
    pub text: String,
    /// How to read it, where that is not plain; the same for every cell.
    pub why: &'static str,
}

const LITTLE_WHY: &str = "a closed loop keeps its window full, so what is in flight (N) is rate (X) \
     times service time (R). Far from 1, the window was not kept full or a number is wrong.";
const STEADY_WHY: &str =
    "the class is told and nothing is cut: the figures are of the whole window.";

/// The checks of the usable trials of a cell.
pub fn checks(usable: &[&TrialRecord]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, text: String, why| checks.push(Check { name, text, why });
    if let Some(text) = little(usable) {
        add("Little's law", text, LITTLE_WHY);
    }
    if let Some(text) = steady(usable) {
        let assessed = |t: &&TrialRecord| t.steady.class != SteadyClass::NotAssessed;
        let why = if usable.iter().any(assessed) {
            STEADY_WHY
        } else {
            ""
        };
        add("steady state", text, why);
    }
    for text in periods(usable) {
        add("periods", text, "");
    }
    checks
}

/// `N = X R: 1,000 against 63,751/s x 15.6 ms = 996 (0.996)`, of the trial that is furthest from 1.
fn little(usable: &[&TrialRecord]) -> Option<String> {
    let off = |ratio: f64| ratio.max(f64::MIN_POSITIVE).ln().abs();
    let known = usable.iter().filter_map(|t| Some((*t, t.little?)));
    let count = known.clone().count();
    let (trial, law) = known.max_by(|a, b| off(a.1.ratio).total_cmp(&off(b.1.ratio)))?;
    let rate = trial.publish.acked_per_s;
    let service_ns = trial.latency.service.as_ref().and_then(|s| s.mean_ns);
    let product = match (rate, service_ns) {
        (Some(rate), Some(ns)) => {
            format!("{}/s x {} = ", human_rate(rate), human_ns(ns as f64))
        }
        _ => String::new(),
    };
    let of = if count > 1 {
        format!(", the furthest from 1 of {count} trials")
    } else {
        String::new()
    };
    Some(format!(
        "N = X R: {} against {product}{} ({:.3}){of}",
        thousands(law.in_flight.round() as u64),
        human_rate(law.rate_x_service),
        law.ratio
    ))
}

/// The word for a class, and what it asks for.
pub fn class_words(class: SteadyClass) -> (&'static str, &'static str) {
    match class {
        SteadyClass::Flat => ("flat", ""),
        SteadyClass::Warming => ("warming", "longer warm-up needed"),
        SteadyClass::Degrading => ("degrading", "it got worse while it ran"),
        SteadyClass::NoSteadyState => ("no steady state", "it never settled"),
        SteadyClass::NotAssessed => ("not assessed", ""),
    }
}

/// `flat 3 of 5, warming 2 of 5: longer warm-up needed; MSER-5 would cut at most 4s`.
fn steady(usable: &[&TrialRecord]) -> Option<String> {
    if usable.is_empty() {
        return None;
    }
    let all = usable.len();
    let mut parts: Vec<String> = Vec::new();
    for class in [
        SteadyClass::Flat,
        SteadyClass::Warming,
        SteadyClass::Degrading,
        SteadyClass::NoSteadyState,
        SteadyClass::NotAssessed,
    ] {
        let of = || usable.iter().filter(|t| t.steady.class == class);
        let count = of().count();
        if count == 0 {
            continue;
        }
        let (word, meaning) = class_words(class);
        let mut reasons: Vec<String> = Vec::new();
        for reason in of().filter_map(|t| t.steady.reason.as_deref()) {
            let reason = clean::line(reason);
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        if !meaning.is_empty() {
            reasons.insert(0, meaning.to_owned());
        }
        let times = if class == SteadyClass::NotAssessed && count == all {
            String::new()
        } else {
            format!(" {count} of {all}")
        };
        let why = if reasons.is_empty() {
            String::new()
        } else {
            format!(": {}", reasons.join(" and "))
        };
        parts.push(format!("{word}{times}{why}"));
    }
    let mut text = vec![parts.join(", ")];
    text.extend(steepest(usable));
    text.extend(cut(usable));
    Some(text.join("; "))
}

/// The largest change among trials that are not flat.
fn steepest(usable: &[&TrialRecord]) -> Option<String> {
    let steady = usable.iter().map(|t| &t.steady);
    let (metric, slope) = steady
        .filter(|s| !matches!(s.class, SteadyClass::Flat | SteadyClass::NotAssessed))
        .filter_map(|s| Some((s.metric.as_deref().unwrap_or("it"), s.slope_per_min?)))
        .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))?;
    Some(format!(
        "{} changed by up to {:+.1} % a minute",
        clean::line(metric),
        slope * 100.0
    ))
}

fn cut(usable: &[&TrialRecord]) -> Option<String> {
    let cut_ns = usable.iter().filter_map(|t| t.steady.cut_ns).max()?;
    Some(if cut_ns == 0 {
        "MSER-5 would cut nothing".into()
    } else {
        format!("MSER-5 would cut at most the first {}", span(cut_ns))
    })
}

/// What the window holds less than twice.
fn periods(usable: &[&TrialRecord]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for trial in usable {
        let window = trial.window_ns.map_or("the window".into(), |ns| {
            format!("the window of {}", span(ns))
        });
        for period in &trial.steady.periods {
            let name = clean::line(&period.name);
            let text = format!(
                "{window} holds less than two {name} periods of {}: what happens at {} {name} is \
                 seen once or never",
                span(period.every_ns),
                article(&name)
            );
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    texts
}

/// `an fsync`, `a raft compaction`.
fn article(name: &str) -> &'static str {
    if name.starts_with(['a', 'e', 'i', 'o']) || name.starts_with("fsync") {
        "an"
    } else {
        "a"
    }
}

fn span(ns: u64) -> String {
    human_duration(Duration::from_nanos(ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::document::{Little, Period, Steady};
    use crate::report::fixture;

    /// The first three trials of a closed loop, steady as `of` says.
    fn trials(of: [Steady; 3]) -> Vec<TrialRecord> {
        let (_, record, _) = fixture::sample();
        let mut trials = record.cells[0].trials.clone();
        for (trial, steady) in trials.iter_mut().zip(of) {
            trial.steady = steady;
        }
        trials
    }

    fn steady_of(of: [Steady; 3]) -> String {
        let trials = trials(of);
        steady(&trials.iter().collect::<Vec<_>>()).expect("three trials")
    }

    fn class(class: SteadyClass) -> Steady {
        Steady {
            class,
            ..Steady::default()
        }
    }

    #[test]
    fn classes_are_counted_and_the_bad_ones_say_what_they_ask_for() {
        let flat = || Steady {
            cut_ns: Some(0),
            slope_per_min: Some(0.5),
            ..class(SteadyClass::Flat)
        };
        assert_eq!(
            steady_of([flat(), flat(), flat()]),
            "flat 3 of 3; MSER-5 would cut nothing"
        );
        let warming = Steady {
            metric: Some("response".into()),
            slope_per_min: Some(-0.031),
            cut_ns: Some(4_000_000_000),
            ..class(SteadyClass::Warming)
        };
        assert_eq!(
            steady_of([flat(), warming, class(SteadyClass::NoSteadyState)]),
            "flat 1 of 3, warming 1 of 3: longer warm-up needed, no steady state 1 of 3: it never \
             settled; response changed by up to -3.1 % a minute; MSER-5 would cut at most the \
             first 4s"
        );
        let short = || Steady {
            reason: Some("window under 60s".into()),
            ..Steady::default()
        };
        let all_short = steady_of([short(), short(), short()]);
        assert_eq!(all_short, "not assessed: window under 60s");
        let some_short = steady_of([flat(), flat(), short()]);
        assert!(some_short.starts_with("flat 2 of 3, not assessed 1 of 3: window under 60s;"));
        assert_eq!(steady(&[]), None);
    }

    #[test]
    fn littles_law_shows_the_trial_that_is_furthest_off() {
        let mut all = trials([Steady::default(), Steady::default(), Steady::default()]);
        for (trial, ratio) in all.iter_mut().zip([0.99, 0.5, 1.2]) {
            trial.little = Some(Little {
                in_flight: 1_000.0,
                rate_x_service: 1_000.0 * ratio,
                ratio,
            });
        }
        let text = little(&all.iter().collect::<Vec<_>>()).expect("known");
        assert!(
            text.starts_with("N = X R: 1,000 against 1,027/s x "),
            "{text}"
        );
        let end = "= 500 (0.500), the furthest from 1 of 3 trials";
        assert!(text.ends_with(end), "{text}");
        for trial in &mut all {
            trial.little = None;
        }
        assert_eq!(little(&all.iter().collect::<Vec<_>>()), None);
    }

    #[test]
    fn a_period_that_the_window_cannot_hold_twice_is_told_once() {
        let fsync = || Steady {
            periods: vec![Period {
                name: "fsync".into(),
                every_ns: 120_000_000_000,
            }],
            ..Steady::default()
        };
        let all = trials([fsync(), fsync(), fsync()]);
        assert_eq!(
            periods(&all.iter().collect::<Vec<_>>()),
            [
                "the window of 30s holds less than two fsync periods of 2m: what happens at an \
                 fsync is seen once or never"
            ]
        );
    }
}
