//! The grammar of `workload.rate`: `max`, one rate, a program of steps and ramps, or the name of a
//! file to replay. Reads text only; the file is opened by `convert`.

use std::time::Duration;

use super::super::decode::nearest;
use super::super::program::{Program, Segment};
use super::written::{Span, Written, with_cure};
use crate::units::parse_rate;

/// `workload.rate`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::scenario) enum RateText {
    Max,
    /// Per second.
    Constant(f64),
    /// A rate that changes with time.
    Program(Program),
    /// Path of a CSV file with rates.
    Replay(String),
}

/// The words between rates and spans.
const WORDS: [&str; 4] = ["for", "ramp", "to", "over"];
/// What an element of a program looks like.
const SHAPES: &str = "write a step \"1k/s for 10s\" or a ramp \"ramp 1k/s to 5k/s over 20s\", \
                      with commas between several";

impl Written for RateText {
    fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "max" {
            return Ok(Self::Max);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.first() == Some(&"replay") {
            return match text["replay".len()..].trim() {
                "" => Err(
                    "`replay` names no file\nwrite for example \"replay rates.csv\", \
                           relative to the scenario file"
                        .to_owned(),
                ),
                path => Ok(Self::Replay(path.to_owned())),
            };
        }
        match parse_rate(text) {
            Ok(per_s) => Ok(Self::Constant(per_s)),
            Err(error) if words.len() <= 1 => Err(with_cure(&error)),
            Err(_) => program(text, &words.join(" ")).map(Self::Program),
        }
    }
}

/// Steps and ramps with commas between; `text` as written, `tidy` with single spaces.
fn program(text: &str, tidy: &str) -> Result<Program, String> {
    let elements = text.split(',').map(element);
    let segments = elements.collect::<Result<Vec<Segment>, String>>()?;
    Program::new(segments, tidy.to_owned()).ok_or_else(|| {
        "all rates of the program are 0: nothing would be sent\n\
         write a rate above 0 for one of its steps"
            .to_owned()
    })
}

fn element(text: &str) -> Result<Segment, String> {
    let text = text.trim();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [] => Err(format!("a comma without a step beside it\n{SHAPES}")),
        ["max", ..] => Err(
            "`max` cannot be a step: a closed loop keeps no rate\nwrite a rate, or \"max\" alone"
                .to_owned(),
        ),
        ["replay", ..] => Err(format!(
            "`{text}` cannot be a step: a replay stands alone\n\
             write the other steps into its file, or take them out"
        )),
        ["ramp", rest @ ..] => ramp(text, rest),
        words => step(text, words),
    }
}

/// `1k/s for 10s`
fn step(text: &str, words: &[&str]) -> Result<Segment, String> {
    let begins = rate(words[0]).is_ok() || words[0] == "to";
    if begins && !words.contains(&"for") && words.iter().any(|w| matches!(*w, "to" | "over")) {
        return Err(format!(
            "`{text}` is a ramp without its first word\nwrite for example \"ramp 1k/s to 5k/s over 20s\""
        ));
    }
    let (per_s, length) = around(text, words, "for")?;
    let per_s = rate(&per_s)?;
    Ok(Segment {
        length: length_of(text, &length)?,
        from_per_s: per_s,
        to_per_s: per_s,
    })
}

/// `ramp 1k/s to 20k/s over 60s`
fn ramp(text: &str, words: &[&str]) -> Result<Segment, String> {
    let at = |word: &str| words.iter().position(|w| *w == word);
    if let (Some(to), Some(over)) = (at("to"), at("over"))
        && over < to
    {
        return Err(format!(
            "`{text}` has `over` before `to`\nwrite for example \"ramp 1k/s to 5k/s over 20s\""
        ));
    }
    let (from, rest) = around(text, words, "to")?;
    let rest: Vec<&str> = rest.split(' ').collect();
    let (to, length) = around(text, &rest, "over")?;
    let (from_per_s, to_per_s) = (rate(&from)?, rate(&to)?);
    let length = length_of(text, &length)?;
    if from_per_s <= 0.0 && to_per_s <= 0.0 {
        return Err(format!(
            "`{text}` goes nowhere\nwrite a pause as \"0/s for 10s\""
        ));
    }
    Ok(Segment {
        length,
        from_per_s,
        to_per_s,
    })
}

/// What stands before and behind a word of an element.
fn around(text: &str, words: &[&str], word: &str) -> Result<(String, String), String> {
    let Some(at) = words.iter().position(|w| *w == word) else {
        return Err(without(text, words, word));
    };
    let (before, behind) = (words[..at].join(" "), words[at + 1..].join(" "));
    if before.is_empty() || behind.is_empty() {
        let side = if behind.is_empty() {
            "behind"
        } else {
            "before"
        };
        return Err(format!("`{text}` has nothing {side} `{word}`\n{SHAPES}"));
    }
    Ok((before, behind))
}

/// Why an element lacks a word: another is misspelt, its rate is none, or it was forgotten.
fn without(text: &str, words: &[&str], word: &str) -> String {
    let strange = words
        .iter()
        .find(|w| w.len() > 1 && w.chars().all(|c| c.is_ascii_alphabetic()) && !WORDS.contains(w));
    if let Some(strange) = strange {
        let help = nearest(strange, &WORDS);
        return format!("`{strange}` is not a word of a rate\n{help}");
    }
    let begin = |n: usize| rate(&words[..n.min(words.len())].join(" "));
    if let (Err(error), Err(_)) = (begin(1), begin(2)) {
        return error;
    }
    let what = match word {
        "for" => "does not say for how long",
        "over" => "does not say over how long",
        _ => "does not say to which rate",
    };
    format!("`{text}` {what}: the word `{word}` is missing\n{SHAPES}")
}

/// A rate within a program, where 0 is a pause.
fn rate(text: &str) -> Result<f64, String> {
    let unit = text.trim_start_matches(['0', '.', '_']);
    let more_digits = unit.starts_with(|c: char| c.is_ascii_digit());
    if text.starts_with('0') && !more_digits && parse_rate(&format!("1{unit}")).is_ok() {
        return Ok(0.0);
    }
    let per_s = parse_rate(text).map_err(|e| {
        // A closed loop cannot be a part of a program.
        with_cure(&e).replace("\"5k/s\", \"200/s\" or \"max\"", "\"5k/s\" or \"0/s\"")
    })?;
    if per_s.is_finite() {
        Ok(per_s)
    } else {
        Err(format!(
            "`{text}` is more than can be counted\nwrite for example \"5k/s\""
        ))
    }
}

fn length_of(text: &str, span: &str) -> Result<Duration, String> {
    let Span(length) = Span::read(span)?;
    if length.is_zero() {
        return Err(format!(
            "`{text}` takes no time\nwrite for example \"10s\" instead of \"{span}\", or take it out"
        ));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(length_ms: u64, from_per_s: f64, to_per_s: f64) -> Segment {
        Segment {
            length: Duration::from_millis(length_ms),
            from_per_s,
            to_per_s,
        }
    }

    fn parsed(text: &str) -> Vec<Segment> {
        match RateText::read(text) {
            Ok(RateText::Program(program)) => program.segments().collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn steps_ramps_and_pauses_are_read() {
        assert_eq!(
            parsed("1k/s for 10s, ramp 1k/s to 5k/s over 1m 30s,0 /s for 500ms, 5 k/s for 10s"),
            [
                segment(10_000, 1_000.0, 1_000.0),
                segment(90_000, 1_000.0, 5_000.0),
                segment(500, 0.0, 0.0),
                segment(10_000, 5_000.0, 5_000.0),
            ]
        );
        assert_eq!(
            parsed("ramp 0k/s to 60/m over 1s"),
            [segment(1_000, 0.0, 1.0)]
        );
    }

    #[test]
    fn one_rate_max_and_a_file_are_no_programs() {
        assert_eq!(RateText::read(" max "), Ok(RateText::Max));
        assert_eq!(RateText::read("5 k/s"), Ok(RateText::Constant(5_000.0)));
        assert_eq!(
            RateText::read("replay  my rates, old.csv "),
            Ok(RateText::Replay("my rates, old.csv".to_owned()))
        );
    }

    #[test]
    fn the_text_is_kept_on_one_line() {
        let Ok(RateText::Program(program)) = RateText::read(" 1/s for 1s,\n  2/s  for 1s ") else {
            panic!("a program");
        };
        assert_eq!(program.text(), "1/s for 1s, 2/s for 1s");
    }

    /// What is wrong, and words of what is said.
    const WRONG: &[(&str, &str)] = &[
        ("0/s", "not above zero"),
        ("5000", "no unit of time"),
        ("fast", "does not start with a number"),
        ("1,000/s", "`1,000/s` is not a rate"),
        ("1k/s for", "nothing behind `for`"),
        ("for 10s", "nothing before `for`"),
        ("1k/s 10s", "does not say for how long"),
        ("1k/s for 10s, 5k/s", "`5k/s` does not say for how long"),
        ("1k/s fro 10s", "did you mean `for`?"),
        ("rmap 1k/s to 5k/s over 10s", "did you mean `ramp`?"),
        ("1k/s to 5k/s over 10s", "a ramp without its first word"),
        ("1k for 10s", "`1k` is not a rate: it has no unit of time"),
        ("1k/s for 10", "`10` is not a duration: it has no unit"),
        ("0 for 10s", "`0` is not a rate: it has no unit of time"),
        ("-1/s for 10s", "does not start with a number"),
        ("1k/s for 0s", "takes no time"),
        ("1k/s for 10s,", "a comma without a step"),
        ("max for 10s, 1k/s for 1s", "`max` cannot be a step"),
        ("1k/s for 10s, replay a.csv", "a replay stands alone"),
        ("0/s for 10s, 0/s for 1s", "all rates of the program are 0"),
        ("ramp 0/s to 0/s over 1s", "goes nowhere"),
        ("ramp 1k/s to 5k/s", "does not say over how long"),
        ("ramp 1k/s over 10s", "does not say to which rate"),
        ("ramp 1k/s over 10s to 5k/s", "has `over` before `to`"),
        ("ramp 1k/s to over 10s", "nothing before `over`"),
        ("ramp 1k/s to 5k/s over 0s", "takes no time"),
        ("ramp 1k/s to 5k/s for 10s", "does not say over how long"),
        ("ramp to 5k/s over 10s", "nothing before `to`"),
        ("replay", "names no file"),
    ];

    #[test]
    fn what_is_no_rate_is_told_with_a_cure() {
        for (text, words) in WRONG {
            let error = RateText::read(text).expect_err(text);
            let (_, cure) = error.split_once('\n').unwrap_or_else(|| panic!("{error}"));
            assert!(error.contains(words), "{text}: {error}");
            assert!(cure.len() > 5, "{text}: {error}");
        }
    }

    /// A rate per second and how a person may write it.
    fn any_rate() -> impl Strategy<Value = (f64, String)> {
        prop_oneof![
            Just((0.0, "0/s".to_owned())),
            Just((0.0, "0.0k/s".to_owned())),
            (1u32..1_000_000).prop_map(|n| (f64::from(n), format!("{n}/s"))),
            (1u32..1_000)
                .prop_map(|n| (f64::from(n) * 500.0, format!("{}k/s", f64::from(n) / 2.0))),
            (1u32..1_000).prop_map(|n| (f64::from(n) * 60.0 / 60.0, format!("{} /m", n * 60))),
        ]
    }

    fn any_element() -> impl Strategy<Value = (Segment, String)> {
        let span = prop_oneof![
            (1u64..100_000).prop_map(|ms| (ms, format!("{ms}ms"))),
            (1u64..100_000).prop_map(|s| (s * 1_000, format!("{s}s"))),
            (1u64..60).prop_map(|m| (m * 60_000 + 5_000, format!("{m}m5s"))),
        ];
        (any_rate(), any_rate(), span, any::<bool>()).prop_map(|(from, to, (ms, span), ramp)| {
            if ramp && from.0 + to.0 > 0.0 {
                let text = format!("ramp {} to {} over {span}", from.1, to.1);
                (segment(ms, from.0, to.0), text)
            } else {
                (
                    segment(ms, from.0, from.0),
                    format!("{} for {span}", from.1),
                )
            }
        })
    }

    proptest! {
        #[test]
        fn a_program_written_from_segments_is_read_as_those_segments(
            elements in prop::collection::vec(any_element(), 1..8),
            comma in prop_oneof![Just(","), Just(", "), Just(" ,\n\t")],
        ) {
            let (segments, texts): (Vec<Segment>, Vec<String>) = elements.into_iter().unzip();
            let text = texts.join(comma);
            match RateText::read(&text) {
                Ok(RateText::Program(program)) => {
                    prop_assert_eq!(program.segments().collect::<Vec<_>>(), segments);
                    prop_assert_eq!(RateText::read(program.text()), Ok(RateText::Program(program.clone())));
                }
                other => {
                    let silent = segments.iter().all(|s| s.from_per_s + s.to_per_s <= 0.0);
                    prop_assert!(silent && other.is_err(), "{} {:?}", text, other);
                }
            }
        }

        #[test]
        fn any_text_is_a_rate_or_an_error_with_a_cure(text in "((ramp|replay|for|to|over|max|[0-9.]{1,3}|k?/s|,|\\PC) ?){0,9}") {
            if let Err(error) = RateText::read(&text) {
                prop_assert!(error.contains('\n'), "{}", error);
            }
        }
    }
}
