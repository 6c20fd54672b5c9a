//! The sentence that answers the scenario's question: the largest effect, whether offered rates
//! were sustained, and how sure that is.

use crate::record::document::{CellRecord, Estimate, Finding, Record, Status};
use crate::record::event::CellRef;
use crate::record::fold::Run;
use crate::units::{human_ns, human_rate, short_rate};

use super::findings::{EFFECT, NULL, SINGLE, SUSTAINED, UNDECIDED};
use super::summary::{Primary, usable};

/// One sentence without an end mark.
pub fn answer(run: &Run, record: &Record) -> String {
    if record.cells.iter().all(|c| c.summary.n == 0) {
        return format!("no answer: {}", why_nothing(record));
    }
    let mut parts: Vec<String> = Vec::new();
    if let [cell] = record.cells.as_slice()
        && let Some(known) = run.manifest.cells.iter().find(|c| c.id == cell.id)
    {
        parts.push(one_cell(known, cell));
    } else {
        let sustained = record.findings.iter().filter(|f| f.kind == SUSTAINED);
        parts.extend(sustained.map(|f| f.text.clone()));
        parts.extend(effects(&record.findings).iter().map(|f| f.text.clone()));
        if parts.is_empty() {
            parts.extend(fastest(run, record));
        }
    }
    if !record.complete {
        parts.push("the run did not reach its end".to_owned());
    }
    parts.join("; ")
}

fn why_nothing(record: &Record) -> String {
    let mut trials = record.cells.iter().flat_map(|c| &c.trials);
    let Some(first) = trials.clone().next() else {
        return "no trial began".to_owned();
    };
    let which = if trials.any(|t| t.status != Status::Failed) {
        "no trial is usable"
    } else {
        "no trial finished"
    };
    match first.reasons.first() {
        Some(reason) => format!("{which} (trial {}: {reason})", first.trial),
        None => which.to_owned(),
    }
}

/// What each axis does, while that still makes a sentence; else the strongest statement alone.
fn effects(findings: &[Finding]) -> Vec<&Finding> {
    const A_SENTENCE: usize = 3;
    let all: Vec<&Finding> = findings.iter().filter(|f| f.kind != SUSTAINED).collect();
    if all.len() <= A_SENTENCE {
        all
    } else {
        strongest(findings).into_iter().collect()
    }
}

/// The effect that is largest, else the surest statement that there is none.
fn strongest(findings: &[Finding]) -> Option<&Finding> {
    let size = |f: &&Finding| f.ratio.map_or(0.0, |r| r.ln().abs());
    [EFFECT, NULL, SINGLE, UNDECIDED]
        .into_iter()
        .find_map(|kind| {
            findings
                .iter()
                .filter(|f| f.kind == kind)
                .max_by(|a, b| size(a).total_cmp(&size(b)))
        })
}

fn one_cell(cell: &CellRef, record: &CellRecord) -> String {
    let trials = trials(record.summary.n);
    let rate = rate_of(cell, record);
    let open_loop_rate = cell
        .rate_per_s
        .filter(|_| !cell.closed_loop && cell.has_publishers && !cell.core);
    let Some(offered) = open_loop_rate else {
        return format!("{rate}, {trials}");
    };
    let offered = cell.program.clone().unwrap_or_else(|| short_rate(offered));
    if usable(&record.trials).any(|t| t.saturated == Some(true)) {
        return format!("{offered} is not sustained: {rate}, {trials}");
    }
    let response = &record.summary.response_p99_ns;
    match response.mean {
        Some(mean) => {
            let p99 = human_ns(mean);
            let interval = interval(response, human_ns);
            format!("{offered} is sustained, response p99 {p99}{interval}, {trials}")
        }
        None => format!("{offered} is sustained, {trials}"),
    }
}

/// Without axes to compare by: which cell is fastest.
fn fastest(run: &Run, record: &Record) -> Option<String> {
    let cells = run.manifest.cells.iter();
    let (cell, found) = cells
        .filter_map(|c| Some((c, record.cells.iter().find(|r| r.id == c.id)?)))
        .filter(|(_, r)| r.summary.n > 0)
        .max_by(|(_, a), (_, b)| {
            let rate = |r: &CellRecord| r.summary.acked_per_s.mean.unwrap_or(0.0);
            rate(a).total_cmp(&rate(b))
        })?;
    Some(format!(
        "{} is the fastest cell: {}, {}",
        cell.id,
        rate_of(cell, found),
        trials(found.summary.n)
    ))
}

fn rate_of(cell: &CellRef, record: &CellRecord) -> String {
    let (estimate, unit) = match Primary::of(cell) {
        Primary::Acked => (&record.summary.acked_per_s, "acked/s"),
        Primary::Delivered => (&record.summary.deliver_per_s, "delivered/s"),
        Primary::Sent => {
            let sent: Vec<f64> = usable(&record.trials)
                .filter_map(|t| t.publish.sent_per_s)
                .collect();
            return number_of(&super::stats::estimate(&sent), "sent/s");
        }
    };
    number_of(estimate, unit)
}

fn number_of(estimate: &Estimate, unit: &str) -> String {
    match estimate.mean {
        Some(mean) => format!(
            "{} {unit}{}",
            human_rate(mean),
            interval(estimate, human_rate)
        ),
        None => format!("{unit} was not measured"),
    }
}

/// ` [975, 1,025]`, or nothing.
fn interval(estimate: &Estimate, show: fn(f64) -> String) -> String {
    estimate
        .lo
        .zip(estimate.hi)
        .map_or_else(String::new, |(lo, hi)| {
            format!(" [{}, {}]", show(lo), show(hi))
        })
}

fn trials(n: u32) -> String {
    if n == 1 {
        "one trial: no interval".to_owned()
    } else {
        format!("{n} trials")
    }
}
