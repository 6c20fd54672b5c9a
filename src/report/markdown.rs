//! Markdown for pull requests and job summaries: the figures of the terminal's table, with
//! expectations and findings. Everything from elsewhere is escaped.

use super::clean::markdown as md;
use super::view::View;

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
    let mark = if view.head.shared_host { " 0)" } else { "" };
    out.push(format!("\n{}{mark}\n", md(&view.head.target)));
    out.extend(cells(view));
    if !view.expectations.is_empty() {
        out.extend(expectations(view));
    }
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
        let closed = if cell.closed_loop { " c)" } else { "" };
        out.push(format!(
            "| {} | {}{} | {} | {} | {} | {}{closed} | {} | {} | {} of {} | {}{} |",
            md(&cell.name),
            row.rate,
            sign(&cell.rate_mark),
            md(&row.interval),
            row.mb_per_s,
            row.service_p50,
            row.response_p99,
            row.lost,
            row.us_per_msg,
            cell.n,
            cell.tried,
            row.state,
            sign(&cell.mark),
        ));
    }
    out.push(String::new());
    for mark in &view.marks {
        out.push(format!("{}\\) {}  ", md(&mark.sign), md(&mark.text)));
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
            e.measured,
            e.limit,
            e.result,
            md(&e.reason)
        ));
    }
    out
}
