//! The text of `jsbench check`: head, a row per cell, totals; at most 80 columns.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{CellPlan, Plan};
use crate::units::{human_bytes, thousands};

const WIDTH: u16 = 80;

/// What `jsbench check` prints of a scenario that is valid.
pub(super) fn render(plan: &Plan) -> String {
    let mut out = String::new();
    let cells = plan.cells.len();
    let _ = writeln!(
        out,
        "{}   {cells} {} x {} {}",
        plan.name,
        plural(cells, "cell"),
        plan.repeat,
        plural(plan.repeat as usize, "trial")
    );
    if let Some(question) = &plan.question {
        out.push_str(&wrapped(question, ""));
    }
    out.push('\n');
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(["cell", "messages", "deliveries", "trial", "memory", "disk"]);
    for cell in &plan.cells {
        table.add_row(row(cell));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for line in table.lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push('\n');
    for line in paces(plan) {
        let _ = writeln!(out, "Rate     {}", wrapped(&line, "         ").trim());
    }
    let trials = cells * plan.repeat as usize;
    let _ = writeln!(
        out,
        "Total    {trials} {}, about {}",
        plural(trials, "trial"),
        about(plan.total)
    );
    let _ = writeln!(
        out,
        "         at most {} of memory and {} of disk at a time",
        human_bytes(plan.memory_bytes),
        human_bytes(plan.disk_bytes)
    );
    if plan.cells.iter().any(|c| c.at_most) {
        out.push_str(&wrapped(
            "<= closed loop: an upper bound of 250,000 messages/s or 1.5 GB/s, half of it in \
             atomic batches and half as much again by fast ingest, a third of it with replicas, \
             20,000/s for each publisher that waits for acks, eight times as much where nothing \
             is stored, 100,000 requests/s",
            "         ",
        ));
    }
    if plan.cells.iter().any(|c| c.mean) {
        out.push_str(&wrapped(
            "~  Poisson arrivals: a mean, each trial has its own number",
            "         ",
        ));
    }
    if plan.cells.iter().any(|c| c.disk_bytes.is_none()) {
        out.push_str(&wrapped(
            "-  the servers are not jsbench's: what they store is not counted here",
            "         ",
        ));
    }
    for text in &plan.warnings {
        let _ = writeln!(out, "Warning  {}", wrapped(text, "         ").trim());
    }
    out
}

/// How messages come due, each way once, with the number of its cells where there are others.
fn paces(plan: &Plan) -> Vec<String> {
    let mut ways: Vec<(&str, usize)> = Vec::new();
    for pace in plan.cells.iter().filter_map(|cell| cell.pace.as_deref()) {
        match ways.iter_mut().find(|(way, _)| *way == pace) {
            Some((_, cells)) => *cells += 1,
            None => ways.push((pace, 1)),
        }
    }
    let all = plan.cells.len();
    ways.into_iter()
        .map(|(way, cells)| match cells {
            _ if cells == all => way.to_owned(),
            _ => format!("{way} ({cells} of {all} cells)"),
        })
        .collect()
}

fn row(cell: &CellPlan) -> [String; 6] {
    let numbers = |n: u64| match n {
        1.. if cell.at_most => format!("<= {}", thousands(n)),
        1.. if cell.mean => format!("~ {}", thousands(n)),
        _ => thousands(n),
    };
    let published = cell.messages.saturating_add(cell.prefilled);
    [
        cell.id.clone(),
        numbers(published),
        numbers(cell.deliveries),
        about(cell.trial),
        human_bytes(cell.memory_bytes),
        cell.disk_bytes.map_or("-".to_owned(), human_bytes),
    ]
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

/// `"2.5 s"`, `"4 min 10 s"`, `"3 h 20 min"`: no more digits than an estimate has.
fn about(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    let s = duration.as_secs_f64().round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3_600, s % 3_600 / 60),
    }
}

/// Words in lines of at most 80 columns, each after `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        let used = line.chars().count() + 1 + word.chars().count();
        if line.len() > indent.len() && used > usize::from(WIDTH) {
            let _ = writeln!(out, "{line}");
            indent.clone_into(&mut line);
        }
        if line.len() > indent.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
    out
}
