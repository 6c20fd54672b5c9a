//! Markdown for pull requests and job summaries: the figures of the terminal's table, with
//! expectations and findings. Everything from elsewhere is escaped.

use super::clean::markdown as md;
use super::view::checks::Check;
use super::view::figure::{AT_LEAST, AT_LEAST_SIGN, GREY, GREY_SIGN};
use super::view::merged::ACK_GROUP_SIGN;
use super::view::{SHARED_HOST, View};

pub fn write(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(why) = &view.partial {
        out.push(format!("**PARTIAL** {}\n", md(why)));
    }
    out.push(format!(
        "## {}: {}\n",
        md(&view.head.name),
        view.verdict.word
    ));
    if let Some(question) = &view.head.question {
        out.push(format!("_{}_\n", md(question)));
    }
    if !view.answer.is_empty() {
        out.push(format!("**{}**\n", md(&view.answer)));
    }
    out.push(format!(
        "{}: {}.",
        view.verdict.word,
        md(&view.verdict.text)
    ));
    for reason in &view.verdict.reasons {
        out.push(format!("- {}", md(reason)));
    }
    out.push(format!("\n{}\n", md(&view.head.target)));
    if view.head.shared_host {
        out.push(format!("**{SHARED_HOST}**\n"));
    }
    out.extend(cells(view));
    if !view.expectations.is_empty() {
        out.extend(expectations(view));
    }
    out.extend(checks(view));
    if !view.findings.is_empty() {
        out.push("\n### Findings\n".into());
        for finding in &view.findings {
            let evidence = if finding.evidence.is_empty() {
                String::new()
            } else {
                format!(" ({})", md(&finding.evidence))
            };
            out.push(format!("- {}{evidence}", md(&finding.text)));
        }
    }
    if !view.notes.is_empty() {
        out.push("\n### Notes\n".into());
        out.extend(view.notes.iter().map(|note| format!("- {}", md(note))));
    }
    out.push(format!(
        "\nNext, {}: <code>{}</code>\n",
        view.next.why,
        md(&view.next.command)
    ));
    out.push(format!("<sub>{}</sub>\n", calibration(view)));
    out.push(format!(
        "<sub>run {}, {}, {}, {}, seed {}</sub>\n",
        md(&view.head.run_id),
        md(&view.head.started_at),
        md(&view.head.tool),
        md(&view.head.host),
        view.method.seed
    ));
    out.join("\n").into_bytes()
}

fn cells(view: &View) -> Vec<String> {
    if view.cells.is_empty() {
        return vec!["No trial: nothing was measured.".into()];
    }
    let mut out = vec![
        format!(
            "| cell | {} | 95 % | MB/s | p50 service | p99 response | lost | us/msg | n | state |",
            view.rate_head
        ),
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|".into(),
    ];
    let sign = |sign: &str| {
        if sign.is_empty() {
            String::new()
        } else {
            format!(" {sign})")
        }
    };
    for cell in &view.cells {
        let row = &cell.row;
        let group = if cell.ack_groups { ACK_GROUP_SIGN } else { "" };
        let response = if cell.closed_loop { "c" } else { group };
        out.push(format!(
            "| {} | {}{} | {} | {} | {}{} | {}{} | {} | {} | {} of {} | {}{} |",
            md(&cell.name),
            row.rate,
            sign(&cell.rate_mark),
            md(&row.interval),
            row.mb_per_s,
            md(&row.service_p50.text),
            sign(group),
            md(&row.response_p99.text),
            sign(response),
            row.lost,
            row.us_per_msg,
            cell.n,
            cell.tried,
            row.state,
            sign(&cell.mark),
        ));
    }
    out.push(String::new());
    // What the stamp above says needs no footnote.
    for mark in view.marks.iter().filter(|mark| mark.text != SHARED_HOST) {
        out.push(format!("{}\\) {}  ", md(&mark.sign), md(&mark.text)));
    }
    if view.grey_in_table() || view.expectations.iter().any(|e| e.measured.grey) {
        out.push(format!("{} {GREY}  ", md(GREY_SIGN)));
    }
    if view.at_least_in_table() {
        out.push(format!("{} {AT_LEAST}  ", md(AT_LEAST_SIGN)));
    }
    out
}

/// What is known of the driver, in one line.
fn calibration(view: &View) -> String {
    let method = &view.method;
    let facts: Vec<String> = method
        .calibration
        .iter()
        .map(|(name, value)| format!("{name}: {}", md(value)))
        .collect();
    if facts.is_empty() {
        md(method.not_calibrated)
    } else {
        facts.join(". ")
    }
}

/// What figures rest on; what holds of several cells is told once.
fn checks(view: &View) -> Vec<String> {
    let mut told: Vec<(Check, Vec<&str>)> = Vec::new();
    for cell in &view.cells {
        let waiting = cell.waiting.iter().map(|waiting| Check {
            name: "waiting",
            text: waiting.sentence(),
            why: "",
        });
        for check in waiting.chain(cell.checks.iter().cloned()) {
            match told.iter_mut().find(|(other, _)| *other == check) {
                Some((_, cells)) => cells.push(&cell.name),
                None => told.push((check, vec![&cell.name])),
            }
        }
    }
    let mut out = Vec::new();
    if !told.is_empty() {
        out.push("\n### What the figures rest on\n".to_owned());
    }
    for (check, cells) in &told {
        let whose = if cells.len() == view.cells.len() && cells.len() > 1 {
            "all cells".to_owned()
        } else {
            cells.join(", ")
        };
        let text = md(&check.text);
        out.push(format!("- {}, {}: {text}", md(&whose), check.name));
    }
    for (name, why) in view.reading() {
        out.push(format!("\n{}: {}", md(name), md(why)));
    }
    out
}

fn expectations(view: &View) -> Vec<String> {
    let mut out = vec![
        "\n### Expectations\n".to_owned(),
        "| expectation | cell | measured | limit | result | decided by |".into(),
        "|---|---|--:|--:|---|---|".into(),
    ];
    for e in &view.expectations {
        out.push(format!(
            "| {} | {} | {} | {} | {} | {} |",
            md(&e.text),
            md(&e.cell_name),
            md(&e.measured.text),
            e.limit,
            e.result,
            md(&e.reason)
        ));
    }
    out
}
