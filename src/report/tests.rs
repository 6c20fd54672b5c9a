//! Renderings of a made-up run, looked at as a reader would, and of runs that nobody wants.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::record::document::{
    AckOf, DeliverRecord, Estimate, LatencyRecord, Ledger, Outcome, PublishRecord, Record,
    Resources, Status, Summary,
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
fn what_may_mislead_is_said_beside_the_figures() {
    let sample = fixture::troubled();
    insta::assert_snapshot!("troubled_text", text_of(Format::Text, &sample));
    insta::assert_snapshot!("troubled_markdown", text_of(Format::Markdown, &sample));
}

#[test]
fn a_shared_host_is_stamped_in_every_format_and_a_host_of_its_own_in_none() {
    let (shared, alone) = (fixture::sample(), fixture::troubled());
    let stamp = |format, sample| text_of(format, sample).matches(view::SHARED_HOST).count();
    for format in [Format::Text, Format::Markdown, Format::Html, Format::Junit] {
        assert!(stamp(format, &shared) > 0, "{format:?}");
        assert_eq!(stamp(format, &alone), 0, "{format:?}");
    }
    let csv = |sample| text_of(Format::Csv, sample);
    assert!(csv(&shared).contains("shared-5k-s,1,shared_host,1\n"));
    assert!(csv(&alone).contains("shared-5k-s,1,shared_host,0\n"));
    let view = View::new(&shared.0, &shared.1, &shared.2);
    for chart in charts::all(&view) {
        assert!(chart.svg.contains(view::SHARED_HOST), "{}", chart.name);
    }
}

#[test]
fn a_closed_loop_is_called_one_in_every_format() {
    let sample = fixture::sample();
    for format in [Format::Text, Format::Markdown, Format::Html] {
        let text = text_of(format, &sample);
        assert!(text.contains("closed loop: no response time"), "{format:?}");
    }
    let junit = text_of(Format::Junit, &sample);
    let closed = "classname=\"shared-max\">\n            <properties>\n                \
                  <property name=\"closed_loop\" value=\"true\"/>";
    assert!(junit.contains(closed), "{junit}");
    assert_eq!(
        junit.matches("closed_loop").count(),
        4,
        "two cells have two cases"
    );
    let csv = text_of(Format::Csv, &sample);
    assert!(csv.contains("shared-max,0,closed_loop,1\n"));
    assert!(csv.contains("shared-5k-s,1,closed_loop,0\n"));
    let view = View::new(&sample.0, &sample.1, &sample.2);
    for (at, cell) in view.cells.iter().enumerate() {
        for chart in charts::of_cell(cell, at) {
            let title = chart.title.contains("closed loop");
            assert_eq!(title, cell.closed_loop, "{}", chart.name);
            let drawn = chart.svg.matches("closed loop").count() > 1;
            assert_eq!(drawn, cell.closed_loop, "{}", chart.name);
        }
    }
    for chart in charts::pictures(&view, charts::NARROW) {
        assert!(chart.svg.contains("closed loop"), "{}", chart.name);
    }
}

#[test]
fn a_quantile_of_few_samples_is_greyed_in_every_rendering() {
    let (run, record, answer) = fixture::sample();
    let view = View::new(&run, &record, &answer);
    let text = |format, view: &View| String::from_utf8(render(format, view)).expect("UTF-8");
    // 3 x 2,500 samples have 75 above their p99, 3 x 20,000 have 600.
    assert!(text(Format::Text, &view).contains(" ~14.1 ms "));
    assert!(text(Format::Text, &view).contains("  14.1 ms "));
    let colored = text(Format::Text, &view.clone().colored(true));
    assert!(colored.contains("\u{1b}[2m~14.1 ms\u{1b}[0m"), "{colored}");
    assert!(text(Format::Markdown, &view).contains("| \\~14.1 ms |"));
    let html = text(Format::Html, &view);
    let title = "title=\"fewer than 100 samples lie above it\">~14.1 ms</span>";
    assert!(html.contains(title));
    let few = |cell: &view::cell::CellView| {
        let response = cell.latency(crate::measure::histogram::Metric::Response);
        response.map(|l| l.curve.len() - l.plain_points())
    };
    // The p99.9 of 60,000 samples is pale too, further up the same curve.
    for at in [1, 3] {
        // A factor of ten is 16 points and the end.
        assert_eq!(few(&view.cells[at]), Some(17), "{}", view.cells[at].name);
        let charts = charts::of_cell(&view.cells[at], at);
        assert!(charts[0].svg.contains("#8FBCD9"), "no pale line");
        assert!(charts[0].svg.contains("samples lie above it"));
    }
}

#[test]
fn an_open_loop_draws_what_was_offered() {
    let (run, record, answer) = fixture::troubled();
    let view = View::new(&run, &record, &answer);
    assert_eq!(
        view.cells[0].pacing,
        "open loop, 1k/s for 10s, 9k/s for 20s, Poisson"
    );
    let rate = &charts::of_cell(&view.cells[0], 0)[1];
    assert!(rate.svg.contains("grey line: offered"), "{}", rate.svg);
    let (run, record, answer) = fixture::sample();
    let view = View::new(&run, &record, &answer);
    let closed = &charts::of_cell(&view.cells[0], 0)[1];
    assert!(!closed.svg.contains("offered"));
}

#[test]
fn without_a_calibration_the_next_step_may_be_one() {
    let (mut run, mut record, answer) = fixture::sample();
    record.cells.truncate(1);
    record.cells[0].summary.n = 10;
    let next = |run: &Run| View::new(run, &record, &answer).next.command;
    assert!(next(&run).contains("--seed"), "{}", next(&run));
    run.manifest.calibration = None;
    assert_eq!(next(&run), "jsbench calibrate");
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

/// The cells whose acks stand for groups beside others.
fn grouped() -> Sample {
    let mut sample = fixture::sample();
    for (cell, row) in sample.0.manifest.cells.iter_mut().zip(&mut sample.1.cells) {
        if cell.factors["stream.layout"] == "per-app" {
            cell.ack = Some(AckOf::Group);
            let client = cell.client.as_mut().expect("a client");
            client.name = "async-nats".into();
            for trial in &mut row.trials {
                trial.publish.ack = Some(AckOf::Group);
            }
        }
    }
    sample
}

#[test]
fn acks_for_groups_have_a_latency_of_their_own_name() {
    insta::assert_snapshot!(text_of(Format::Text, &grouped()));
    let (run, record, answer) = &grouped();
    let view = View::new(run, record, answer);
    let names: Vec<Vec<&str>> = view
        .cells
        .iter()
        .map(|cell| cell.latencies.iter().map(|latency| latency.name).collect())
        .collect();
    let (each, group) = ("service", "ack-group latency");
    assert!(
        names[0].contains(&each) && !names[0].contains(&group),
        "{names:?}"
    );
    assert!(
        names[2].contains(&group) && !names[2].contains(&each),
        "{names:?}"
    );
    let page = text_of(Format::Html, &grouped());
    assert!(page.contains("p99 ack-group latency") && page.contains(" g)"));
    let markdown = text_of(Format::Markdown, &grouped());
    assert!(markdown.contains(" g)") && markdown.contains("ack-group latency"));
    let clients: Vec<&str> = view
        .method
        .facts
        .iter()
        .filter(|f| f.0 == "Client")
        .map(|f| f.1.as_str())
        .collect();
    assert_eq!(
        clients,
        [
            "wire (jsbench's own protocol core), 6 connections on 3 threads in a cell: shared max, shared 5k/s",
            "async-nats, 6 connections on 3 threads in a cell: per-app max, per-app 5k/s",
        ]
    );
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
    if let Some(calibration) = &mut manifest.calibration {
        calibration.measured_at = text.into();
        calibration.id = text.into();
        for of in &mut calibration.clients {
            of.client = text.into();
            of.reasons = vec![text.into()];
        }
    }
    for cell in &mut manifest.cells {
        cell.program = Some(text.into());
    }
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
            trial.steady.metric = Some(text.into());
            trial.steady.reason = Some(text.into());
            for period in &mut trial.steady.periods {
                period.name = text.into();
            }
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
