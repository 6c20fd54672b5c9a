//! Renderings of a made-up run, looked at as a reader would, and of runs that nobody wants.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::record::document::{
    DeliverRecord, Estimate, LatencyRecord, Ledger, Outcome, PublishRecord, Record, Resources,
    Status, Summary,
};
use crate::record::fold::{Run, TrialEnd};

type Sample = (Run, Record, String);

fn formats() -> Vec<Format> {
    Format::names().filter_map(Format::parse).collect()
}

fn text_of(format: Format, (run, record, answer): &Sample) -> String {
    let view = View::new(run, record, answer)
        .report_at("results/stream-layout-20261123T091500Z-3fa91c02/report.html");
    String::from_utf8(render(format, &view)).expect("formats are UTF-8")
}

#[test]
fn the_text_is_the_table_of_the_contract() {
    insta::assert_snapshot!(text_of(Format::Text, &fixture::sample()));
}

#[test]
fn markdown_says_the_same() {
    insta::assert_snapshot!(text_of(Format::Markdown, &fixture::sample()));
}

#[test]
fn a_run_without_a_trial_is_marked_partial() {
    insta::assert_snapshot!(text_of(Format::Text, &fixture::nothing()));
}

#[test]
fn drains_and_core_publishing_say_what_their_rate_counts() {
    let mut sample = fixture::sample();
    sample.0.manifest.cells[0].has_publishers = false;
    sample.0.manifest.cells[0].closed_loop = false;
    for trial in &mut sample.1.cells[0].trials {
        trial.publish = PublishRecord::default();
        trial.latency.service = None;
    }
    sample.1.cells[0].summary.acked_per_s = Estimate::default();
    sample.0.manifest.cells[1].core = true;
    insta::assert_snapshot!(text_of(Format::Text, &sample));
}

#[test]
fn names_too_long_for_the_table_get_their_own_line() {
    let mut sample = fixture::sample();
    for cell in &mut sample.1.cells {
        let rate = cell.factors.get_mut("workload.rate").expect("has a rate");
        rate.push_str(" for 10s, 10k/s for 10s, 20k/s for 10s");
    }
    insta::assert_snapshot!(text_of(Format::Text, &sample));
}

#[test]
fn color_adds_codes_and_nothing_else() {
    let (run, record, answer) = fixture::sample();
    let plain = render(Format::Text, &View::new(&run, &record, &answer));
    let colored = render(
        Format::Text,
        &View::new(&run, &record, &answer).colored(true),
    );
    let mut colored = String::from_utf8(colored).expect("UTF-8");
    assert!(colored.contains("\u{1b}[1;32mPASS:"), "{colored}");
    for code in ["\u{1b}[1;32m", "\u{1b}[2m", "\u{1b}[0m"] {
        colored = colored.replace(code, "");
    }
    assert_eq!(colored.into_bytes(), plain);
}

#[test]
fn the_same_record_gives_the_same_bytes_and_json_is_the_record() {
    let (run, record, answer) = fixture::sample();
    let view = View::new(&run, &record, &answer);
    assert_eq!(files(&view), files(&View::new(&run, &record, &answer)));
    let back: Record = serde_json::from_slice(&render(Format::Json, &view)).expect("JSON");
    assert_eq!(back, record);
}

#[test]
fn csv_has_a_line_for_what_was_measured_only() {
    let csv = text_of(Format::Csv, &fixture::sample());
    assert!(csv.starts_with("cell,trial,metric,value\n"));
    assert!(csv.contains("shared-max,0,usable,1\n"), "{csv}");
    assert!(csv.contains("shared-5k-s,1,response.p99_ns,"), "{csv}");
    // Closed loop has no response.
    assert!(!csv.contains("shared-max,0,response"));
}

#[test]
fn junit_has_a_case_for_each_expectation_and_ledger() {
    let mut sample = fixture::sample();
    sample.1.expectations[0].result = Outcome::Fail;
    sample.1.expectations[1].result = Outcome::Inconclusive;
    insta::assert_snapshot!(text_of(Format::Junit, &sample));
    assert!(text_of(Format::Junit, &fixture::nothing()).contains("<error message=\"interrupted"));
}

/// Runs that went wrong in every way that a record can tell.
fn broken() -> Vec<(&'static str, Sample)> {
    let of = |change: fn(&mut Sample)| {
        let mut sample = fixture::sample();
        change(&mut sample);
        sample
    };
    vec![
        ("no trial at all", fixture::nothing()),
        (
            "only failed trials",
            of(|(run, record, _)| {
                for trial in record.cells.iter_mut().flat_map(|c| &mut c.trials) {
                    trial.status = Status::Failed;
                    trial.latency = LatencyRecord::default();
                    trial.publish = PublishRecord::default();
                    trial.deliver = DeliverRecord::default();
                    trial.ledger = Ledger::default();
                    trial.resources = Resources::default();
                }
                for cell in &mut record.cells {
                    cell.summary = Summary::default();
                }
                for log in &mut run.trials {
                    log.series.clear();
                    log.histograms.clear();
                    log.end = TrialEnd::Failed("no server".into());
                }
            }),
        ),
        (
            "no histograms and no series",
            of(|(run, _, _)| {
                for log in &mut run.trials {
                    log.histograms.clear();
                    log.series.clear();
                    log.window = None;
                }
            }),
        ),
        (
            "trials that the run does not know",
            of(|(run, _, _)| {
                run.trials.clear();
                run.manifest.cells.clear();
                run.manifest.scenario.axes.clear();
            }),
        ),
        (
            "cells without a trial",
            of(|(_, record, _)| {
                for cell in &mut record.cells {
                    cell.trials.clear();
                    cell.summary = Summary::default();
                }
            }),
        ),
        (
            "intervals of no length",
            of(|(run, _, _)| {
                for row in run.trials.iter_mut().flat_map(|t| &mut t.series) {
                    row.length_ns = 0;
                    row.end_ns = 0;
                }
            }),
        ),
        (
            "values at the ends of their range",
            of(|(_, record, _)| {
                for trial in record.cells.iter_mut().flat_map(|c| &mut c.trials) {
                    trial.publish.acked_per_s = Some(0.0);
                    trial.publish.attempted = Some(u64::MAX);
                    trial.publish.acked = Some(u64::MAX);
                    trial.ledger.lost = Some(u64::MAX);
                    if let Some(latency) = &mut trial.latency.response {
                        latency.p99_ns = Some(0);
                    }
                }
            }),
        ),
    ]
}

#[test]
fn no_run_is_too_broken_to_be_shown() {
    for (what, mut sample) in broken() {
        sample.0.complete = false;
        for format in formats() {
            assert!(!text_of(format, &sample).is_empty(), "{what} in {format:?}");
        }
        let first = |format| text_of(format, &sample).lines().next().map(str::to_owned);
        let first_of = |format| first(format).unwrap_or_default();
        assert!(first_of(Format::Text).starts_with("PARTIAL"), "{what}");
        assert!(first_of(Format::Markdown).contains("PARTIAL"), "{what}");
        let html = text_of(Format::Html, &sample);
        assert!(html.contains("<p class=\"partial\">PARTIAL"), "{what}");
        assert!(html.trim_end().ends_with("</html>"), "{what}: {html}");
        files(&View::new(&sample.0, &sample.1, &sample.2));
    }
}

/// The sample with `text` wherever text comes from elsewhere.
fn with_text(text: &str) -> Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    let small = || {
        let mut sample = fixture::sample();
        // One cell with curves is as good as four, and merging is what takes time.
        for log in &mut sample.0.trials {
            log.series.truncate(4);
            if log.trial != 1 {
                log.histograms.clear();
            }
        }
        sample
    };
    let (mut run, mut record, _) = SAMPLE.get_or_init(small).clone();
    let manifest = &mut run.manifest;
    manifest.scenario.name = text.into();
    manifest.scenario.question = Some(text.into());
    manifest.scenario.hypothesis = Some(text.into());
    manifest.scenario.resolved = text.into();
    manifest.target = text.into();
    manifest.command = text.into();
    manifest.started_at = text.into();
    manifest.tool.version = text.into();
    manifest.host.os = text.into();
    manifest.calibration = Some(serde_json::json!({ "text": text }));
    run.notes = vec![text.into()];
    record.run_id = text.into();
    record.verdict.reasons = vec![text.into()];
    for expectation in &mut record.expectations {
        expectation.text = text.into();
        expectation.reason = Some(text.into());
    }
    for finding in &mut record.findings {
        finding.text = text.into();
        finding.kind = text.into();
    }
    for (at, cell) in record.cells.iter_mut().enumerate() {
        cell.id = format!("{at}{text}");
        for value in cell.factors.values_mut() {
            *value = text.into();
        }
        for trial in &mut cell.trials {
            trial.reasons = vec![text.into()];
            trial.ledger.reasons = vec![text.into()];
            trial.config.streams = vec![serde_json::json!({ "description": text })];
            for server in &mut trial.servers {
                server.name = text.into();
                server.version = text.into();
            }
        }
    }
    (run, record, text.into())
}

/// How often a character that has a meaning in the format stands there with that meaning.
fn markup(page: &str, marks: &[char]) -> usize {
    if marks == ['<'] {
        return page.matches('<').count();
    }
    let mut last = ' ';
    let mut found = 0;
    for c in page.chars() {
        if marks.contains(&c) && last != '\\' {
            found += 1;
        }
        last = if last == '\\' { ' ' } else { c };
    }
    found
}

fn check_harmless(text: &str) -> Result<(), TestCaseError> {
    static PLAIN: OnceLock<[String; 3]> = OnceLock::new();
    let pages = |text: &str| {
        let (run, record, answer) = with_text(text);
        let view = View::new(&run, &record, &answer);
        let files: Vec<String> = files(&view).into_iter().map(|(path, _)| path).collect();
        let page = |format| String::from_utf8(render(format, &view)).expect("UTF-8");
        let marked = [Format::Html, Format::Junit, Format::Markdown].map(page);
        (marked, page(Format::Text), page(Format::Csv), files)
    };
    let (marked, table, csv, files) = pages(text);
    let plain = PLAIN.get_or_init(|| pages("x").0);
    let marks: [&[char]; 3] = [&['<'], &['<'], &['|', '<', '`', '\n']];
    for ((page, plain), marks) in marked.iter().zip(plain).zip(marks) {
        prop_assert_eq!(markup(page, marks), markup(plain, marks), "{}", page);
        prop_assert!(!page.contains("<script"));
    }
    for line in table.lines() {
        prop_assert!(
            clean::width(line) <= clean::COLUMNS,
            "{}: {line}",
            clean::width(line)
        );
        prop_assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    for row in ::csv::Reader::from_reader(csv.as_bytes()).records() {
        for field in &row.expect("well-formed CSV") {
            let number = field.parse::<f64>().is_ok();
            prop_assert!(
                number || !field.starts_with(['=', '+', '-', '@']),
                "{field}"
            );
        }
    }
    prop_assert!(files.iter().all(|path| !path.contains("..")), "{files:?}");
    Ok(())
}

#[test]
fn hostile_text_is_text_in_every_format() {
    for text in [
        "<script>alert(1)</script>",
        "\"><svg onload=alert(1)>",
        "]]></desc><script>",
        "{{ view.head }}{% for %}",
        "a|b`c`\n# d",
        "=HYPERLINK(\"http://x\")",
        "\u{1b}[2J\u{9b}31m\u{202e}gnp",
        "../../etc/passwd",
        "\\",
    ] {
        check_harmless(text).expect(text);
    }
    let page = text_of(Format::Html, &with_text("<script>alert(1)</script>"));
    assert!(
        page.contains("&lt;script&gt;alert(1)"),
        "it is shown as text"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_text_is_text_in_every_format(text in "x\\PC{0,60}", tail in proptest::collection::vec(any::<char>(), 0..12)) {
        check_harmless(&format!("{text}{}", tail.into_iter().collect::<String>()))?;
    }
}
