//! The table a run ends with: at most 80 columns, the same figures as in the page.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::clean::{COLUMNS, hanging, pad, shorten, width};
use super::view::View;
use super::view::cell::CellView;
use super::view::figure::{AT_LEAST, AT_LEAST_SIGN, GREY, GREY_SIGN};
use super::view::merged::ACK_GROUP_SIGN;

/// The same, where names and figures leave no room for long ones.
const SHORT_HEADS: [&str; 6] = ["MB/s", "p50 svc", "p99 resp", "lost", "us/msg", "state"];
/// Heads of the columns behind the cell; the first is the rate's.
const HEADS: [&str; 6] = [
    "MB/s",
    "p50 service",
    "p99 response",
    "lost",
    "us/msg",
    "state",
];

pub fn write(view: &View) -> Vec<u8> {
    let style = Style(view.color);
    let mut lines = Vec::new();
    if let Some(why) = &view.partial {
        let text = hanging("PARTIAL  ", why, "");
        lines.extend(text.into_iter().map(|l| style.strong("33", &l)));
    }
    lines.extend(head(view));
    if let Some(question) = &view.head.question {
        lines.extend(hanging("", question, ""));
    }
    lines.push(String::new());
    let table = table(view, &style);
    if view.cells.is_empty() {
        lines.push(" no trial: nothing was measured".into());
    } else {
        let mut rows = table.into_iter();
        lines.extend(rows.next().map(|l| style.dim(&l)));
        lines.extend(rows);
    }
    lines.push(String::new());
    for mark in &view.marks {
        let label = format!(" {}) ", mark.sign);
        lines.extend(
            hanging(&label, &mark.text, "")
                .into_iter()
                .map(|l| style.dim(&l)),
        );
    }
    if view.grey_in_table() {
        lines.push(style.dim(&format!(" {GREY_SIGN}  {GREY}")));
    }
    if view.at_least_in_table() {
        lines.push(style.dim(&format!(" {AT_LEAST_SIGN}  {AT_LEAST}")));
    }
    for note in &view.notes {
        lines.extend(hanging(" note: ", note, ""));
    }
    if let Some(note) = waiting(view) {
        lines.extend(hanging(" note: ", &note, ""));
    }
    if !view.answer.is_empty() {
        lines.extend(hanging("Answer   ", &view.answer, ""));
    }
    lines.extend(verdict(view, &style));
    if let Some(path) = &view.report_path {
        lines.extend(hanging("Report   ", path, ""));
    }
    lines.extend(hanging("Next     ", &view.next.command, " \\"));
    let mut out = lines.join("\n");
    out.push('\n');
    out.into_bytes()
}

fn head(view: &View) -> Vec<String> {
    let mark = if view.head.shared_host { " 0)" } else { "" };
    // A long name leaves no room beside it for what follows.
    let label = format!("{}   ", shorten(&view.head.name, COLUMNS / 2));
    hanging(&label, &format!("{}{mark}", view.head.target), "")
}

/// That messages waited, told of the first cell in which they did.
fn waiting(view: &View) -> Option<String> {
    let mut cells = view.cells.iter().filter(|cell| cell.waiting.is_some());
    let first = cells.next()?;
    let figures = &first.waiting.as_ref()?.figures;
    let text = format!(
        "{}: {figures}: messages waited for the target, not for the driver",
        first.name
    );
    Some(match cells.count() {
        0 => text,
        1 => format!("{text}; so it is in 1 other cell"),
        more => format!("{text}; so it is in {more} other cells"),
    })
}

fn verdict(view: &View, style: &Style) -> Vec<String> {
    let verdict = &view.verdict;
    let mut text = format!("{}: {}", verdict.word, verdict.text);
    if verdict.class != "pass" && !verdict.reasons.is_empty() {
        text = format!("{text}; {}", verdict.reasons.join("; "));
    }
    let color = match verdict.class {
        "pass" => "32",
        "fail" => "31",
        _ => "33",
    };
    let word = format!("{}:", verdict.word);
    hanging("Verdict  ", &text, "")
        .into_iter()
        .map(|line| match line.split_once(&word) {
            Some((label, rest)) if label == "Verdict  " => {
                format!("{label}{}{rest}", style.strong(color, &word))
            }
            _ => line,
        })
        .collect()
}

/// Head and rows. Columns stand two spaces apart as far as the page has room, then one; a name
/// that still does not fit gets a line of its own.
fn table(view: &View, style: &Style) -> Vec<String> {
    let names = names(&view.cells);
    let rows = rows(view, HEADS);
    let name_columns = names.iter().map(|n| width(n)).max().unwrap_or(0).max(4);
    let taken = |rows: &[Vec<String>]| -> usize { widths(rows).iter().map(|w| w + 1).sum() };
    let rows = if 1 + name_columns + taken(&rows) > COLUMNS {
        self::rows(view, SHORT_HEADS)
    } else {
        rows
    };
    let widths = widths(&rows);
    let name_width = names.iter().map(|n| width(n)).max().unwrap_or(0).max(4);
    let needed = 1 + widths.iter().sum::<usize>() + widths.len();
    let room = COLUMNS.saturating_sub(needed);
    let spare = room.saturating_sub(name_width);
    let name_width = name_width.min(room.max(4));

    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    let mut above = Vec::new();
    let heads = std::iter::once("cell".to_owned()).chain(names);
    for (at, (name, row)) in heads.zip(rows).enumerate() {
        let fits = width(&name) <= name_width;
        let first = if fits { &name } else { "" };
        table.add_row(std::iter::once(first.to_owned()).chain(row));
        if !fits {
            above.push((at, format!(" {}", shorten(&name, COLUMNS - 1))));
        }
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        let gap = match at {
            0 => 1,
            _ if at <= spare => 2,
            _ => 1,
        };
        column.set_padding((gap, 0));
        if at > 0 && at <= HEADS.len() {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
    for (line, cell) in lines.iter_mut().skip(1).zip(&view.cells) {
        *line = dim_greyed(line, cell, style);
    }
    for (at, line) in above.into_iter().rev() {
        lines.insert(at, line);
    }
    lines
}

/// The row of `cell` with its greyed figures dim. From the right: a name may hold anything.
fn dim_greyed(line: &str, cell: &CellView, style: &Style) -> String {
    let (mut head, mut tail) = (line, String::new());
    for figure in [&cell.row.response_p99, &cell.row.service_p50] {
        if figure.grey
            && let Some(at) = head.rfind(&figure.text)
        {
            let behind = &head[at + figure.text.len()..];
            tail = format!("{}{behind}{tail}", style.dim(&figure.text));
            head = &head[..at];
        }
    }
    format!("{head}{tail}")
}

/// Heads and figures.
fn rows(view: &View, heads: [&str; 6]) -> Vec<Vec<String>> {
    let head = std::iter::once(view.rate_head).chain(heads);
    let mut rows = vec![head.map(str::to_owned).collect()];
    rows.extend(figures(view));
    rows
}

/// The widest text of each column.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, Vec::len);
    let widest = |column: usize| {
        rows.iter()
            .map(|row| width(&row[column]))
            .max()
            .unwrap_or(0)
    };
    (0..columns).map(widest).collect()
}

/// Names with their labels in columns, so that levels of an axis stand below each other.
fn names(cells: &[CellView]) -> Vec<String> {
    let columns = cells.iter().map(|c| c.labels.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| {
            let labels = cells.iter().filter_map(|c| c.labels.get(i));
            labels.map(|l| width(l)).max().unwrap_or(0)
        })
        .collect();
    cells
        .iter()
        .map(|cell| {
            if cell.labels.is_empty() {
                return cell.name.clone();
            }
            let labels = cell.labels.iter().zip(&widths);
            let padded: Vec<String> = labels.map(|(l, w)| pad(l, *w, false)).collect();
            padded.join(" ").trim_end().to_owned()
        })
        .collect()
}

/// The texts of each row behind its name. Signs are filled up so that digits stay below digits.
fn figures(view: &View) -> Vec<Vec<String>> {
    let rate_marked = view.cells.iter().any(|c| !c.rate_mark.is_empty());
    let closed = view.cells.iter().any(|c| c.closed_loop);
    let grouped = view.cells.iter().any(|c| c.ack_groups);
    let open = view.cells.iter().any(|c| c.row.response_p99.text != "-");
    let signed = |text: &str, sign: &str, any: bool| match (sign, any) {
        ("", true) => format!("{text}   "),
        ("", false) => text.to_owned(),
        (sign, _) => format!("{text} {sign})"),
    };
    view.cells
        .iter()
        .map(|cell| {
            let row = &cell.row;
            let group_sign = if cell.ack_groups { ACK_GROUP_SIGN } else { "" };
            let response_sign = if cell.closed_loop { "c" } else { group_sign };
            vec![
                signed(&row.rate, &cell.rate_mark, rate_marked),
                row.mb_per_s.clone(),
                signed(&row.service_p50.text, group_sign, grouped),
                signed(
                    &row.response_p99.text,
                    response_sign,
                    (closed || grouped) && open,
                ),
                row.lost.clone(),
                row.us_per_msg.clone(),
                signed(row.state, &cell.mark, false),
            ]
        })
        .collect()
}

/// Escape codes, or none.
pub(super) struct Style(pub(super) bool);

impl Style {
    pub(super) fn strong(&self, color: &str, text: &str) -> String {
        self.code(&format!("1;{color}"), text)
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.code("2", text)
    }

    fn code(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}
