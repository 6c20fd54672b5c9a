//! The one View that every format shows: a pure function of what was recorded, so that text,
//! Markdown and HTML say the same. All strings in it are cleaned (see [`clean`]); numbers that
//! charts need stand beside the strings that people read.
//!
//! It judges nothing: verdicts, findings and summaries come from the record. `cli` builds it for
//! a run that just ended and for `jsbench report`.

mod balance;
pub mod cell;
pub mod checks;
pub mod figure;
mod head;
pub mod merged;
pub(super) mod method;
pub mod series;
pub mod waiting;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measure::histogram::Metric;
use crate::record::document::{Outcome, Record};
use crate::record::event::CellRef;
use crate::record::fold::Run;
use crate::units::{human_ns, human_rate, thousands};
use cell::{CellView, RateKind};
use figure::Figure;
pub use head::{Head, Next, Stamp, VerdictView};
pub use method::{Config, Method};

use super::clean;

/// The stamp of every rendering of a run whose driver and servers shared a host.
pub const SHARED_HOST: &str = "shared host: compare within this run only";

/// Everything a rendering says.
#[derive(Debug, Clone, Serialize)]
pub struct View<'a> {
    /// The run, for the formats that are data.
    #[serde(skip)]
    pub run: &'a Run,
    /// Its record as it is, for the same.
    #[serde(skip)]
    pub record: &'a Record,
    /// Where the HTML report stands, for the last lines of the text.
    pub report_path: Option<String>,
    /// Text may use bold, dim and the colour of the verdict.
    pub color: bool,
    /// Name, question, target.
    pub head: Head,
    /// Why the run is marked PARTIAL; `None` for a complete one.
    pub partial: Option<String>,
    /// One sentence.
    pub answer: String,
    /// The verdict in a word and a sentence.
    pub verdict: VerdictView,
    /// The one thing to do next.
    pub next: Next,
    /// What must be known before numbers are compared.
    pub stamps: Vec<Stamp>,
    /// Expectations by cell.
    pub expectations: Vec<ExpectationView>,
    /// Claims with their evidence.
    pub findings: Vec<FindingView>,
    /// Cells in the order of the matrix.
    pub cells: Vec<CellView>,
    /// What the rate column counts.
    pub rate_head: &'static str,
    /// Footnotes of the table of cells.
    pub marks: Vec<Mark>,
    /// Notes of the run.
    pub notes: Vec<String>,
    /// How it was measured.
    pub method: Method,
}

/// A footnote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// `0`, `1`, `c`: shown as `1)`.
    pub sign: String,
    /// What it says.
    pub text: String,
}

/// One expectation of one cell.
#[derive(Debug, Clone, Serialize)]
pub struct ExpectationView {
    /// As the scenario wrote it.
    pub text: String,
    /// Cell id.
    pub cell: String,
    /// Cell by its factors.
    pub cell_name: String,
    /// With its unit.
    pub limit: String,
    /// With its unit, `-` where nothing could be measured.
    pub measured: Figure,
    /// `pass`, `fail`, `inconclusive`.
    pub result: &'static str,
    /// Which trial decided, or why it is inconclusive.
    pub reason: String,
}

/// A claim with its evidence.
#[derive(Debug, Clone, Serialize)]
pub struct FindingView {
    /// `effect`, `null`, `contradiction`, …
    pub kind: String,
    /// In words.
    pub text: String,
    /// Interval, n and the smallest effect that could have been seen.
    pub evidence: String,
}

impl<'a> View<'a> {
    /// Builds the View of a run, its record and the sentence that answers its question.
    pub fn new(run: &'a Run, record: &'a Record, answer: &str) -> Self {
        let refs: BTreeMap<&str, &CellRef> = run
            .manifest
            .cells
            .iter()
            .map(|cell| (cell.id.as_str(), cell))
            .collect();
        let varied: Vec<&str> = run
            .manifest
            .scenario
            .axes
            .iter()
            .filter(|(_, values)| values.len() > 1)
            .map(|(path, _)| path.as_str())
            .collect();
        let mut cells: Vec<CellView> = record
            .cells
            .iter()
            .map(|cell| CellView::new(run, cell, refs.get(cell.id.as_str()).copied(), &varied))
            .collect();
        let rate_head = common_rate(&cells).map_or("acked/s", RateKind::head);
        let marks = mark_cells(&mut cells, run.manifest.shared_host, rate_head);
        let partial = head::partial(run, record);
        let verdict = head::verdict(record, &cells);
        Self {
            run,
            record,
            report_path: None,
            color: false,
            head: head::head(run, record),
            next: head::next(run, record, &cells, partial.is_some()),
            stamps: head::stamps(&cells, partial.as_deref()),
            partial,
            answer: clean::line(answer),
            verdict,
            expectations: expectations(record, &cells, &refs),
            findings: findings(record),
            rate_head,
            marks,
            notes: run.notes.iter().map(|note| clean::line(note)).collect(),
            method: method::method(run, record, &cells),
            cells,
        }
    }

    /// Names the path of the HTML report in the last lines of the text.
    #[must_use]
    pub fn report_at(mut self, path: &str) -> Self {
        self.report_path = Some(clean::line(path));
        self
    }

    /// How to read the checks of the cells: name and explanation, each once.
    pub fn reading(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = Vec::new();
        for check in self.cells.iter().flat_map(|cell| &cell.checks) {
            let entry = (check.name, check.why);
            if !check.why.is_empty() && !all.contains(&entry) {
                all.push(entry);
            }
        }
        all
    }

    /// Greyed figures stand in the table that text and Markdown have.
    pub fn grey_in_table(&self) -> bool {
        let grey = |cell: &CellView| cell.row.service_p50.grey || cell.row.response_p99.grey;
        self.cells.iter().any(grey)
    }

    /// Lower bounds stand in the table that text and Markdown have.
    pub fn at_least_in_table(&self) -> bool {
        let bound = |cell: &CellView| {
            cell.row.service_p50.is_at_least() || cell.row.response_p99.is_at_least()
        };
        self.cells.iter().any(bound)
    }

    /// Allows the text to use bold, dim and the colour of the verdict.
    #[must_use]
    pub fn colored(mut self, color: bool) -> Self {
        self.color = color;
        self
    }
}

/// The kind of rate that all cells share.
fn common_rate(cells: &[CellView]) -> Option<RateKind> {
    let first = cells.first()?.rate_kind;
    cells
        .iter()
        .all(|cell| cell.rate_kind == first)
        .then_some(first)
}

/// Gives each cell the signs of its footnotes and returns the footnotes; cells with the same note
/// share a sign.
fn mark_cells(cells: &mut [CellView], shared_host: bool, rate_head: &str) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut add = |sign: &str, text: &str| {
        let mark = Mark {
            sign: sign.to_owned(),
            text: text.to_owned(),
        };
        if !marks.contains(&mark) {
            marks.push(mark);
        }
    };
    if shared_host {
        add("0", SHARED_HOST);
    }
    if cells.iter().any(|cell| cell.closed_loop) {
        add(
            "c",
            "closed loop: no response time; its service time hides waiting",
        );
    }
    if cells.iter().any(|cell| cell.ack_groups) {
        add(merged::ACK_GROUP_SIGN, merged::ACK_GROUP_MEANS);
    }
    for cell in cells.iter_mut() {
        if cell.rate_kind.head() != rate_head {
            let (sign, text) = cell.rate_kind.mark();
            sign.clone_into(&mut cell.rate_mark);
            add(sign, text);
        }
    }
    let mut notes: Vec<&str> = Vec::new();
    for cell in cells.iter_mut().filter(|cell| !cell.note.is_empty()) {
        let at = notes
            .iter()
            .position(|note| *note == cell.note)
            .unwrap_or_else(|| {
                notes.push(&cell.note);
                notes.len() - 1
            });
        cell.mark = (at + 1).to_string();
        add(&cell.mark, &cell.note);
    }
    marks
}

fn expectations(
    record: &Record,
    cells: &[CellView],
    refs: &BTreeMap<&str, &CellRef>,
) -> Vec<ExpectationView> {
    record
        .expectations
        .iter()
        .map(|expectation| {
            let cell = cells.iter().find(|cell| cell.id == expectation.cell);
            let name = refs
                .get(expectation.cell.as_str())
                .into_iter()
                .flat_map(|cell| &cell.expectations)
                .find(|e| e.text == expectation.text)
                .map_or("", |e| e.name.as_str());
            ExpectationView {
                text: clean::line(&expectation.text),
                cell: clean::line(&expectation.cell),
                cell_name: cell
                    .map_or_else(|| clean::line(&expectation.cell), |cell| cell.name.clone()),
                limit: quantity(name, expectation.limit),
                measured: expectation.value.map_or_else(
                    || Figure::plain("-"),
                    |value| {
                        let grey = rests_on_few(record, &expectation.cell, name);
                        Figure::of(quantity(name, value), grey)
                    },
                ),
                result: outcome_word(expectation.result),
                reason: {
                    let until_ack = name.starts_with("service.") || name.starts_with("response.");
                    let grouped = until_ack && cell.is_some_and(|cell| cell.ack_groups);
                    let what = grouped.then(|| merged::ACK_GROUP.to_owned());
                    let reason = expectation.reason.as_deref().map(clean::line);
                    let parts: Vec<String> = what.into_iter().chain(reason).collect();
                    parts.join("; ")
                },
            }
        })
        .collect()
}

/// A quantile of a usable trial that has too few samples above it to be printed plainly.
fn rests_on_few(record: &Record, cell: &str, name: &str) -> bool {
    let Some(pick) = figure::named(name) else {
        return false;
    };
    let metric = Metric::ALL
        .into_iter()
        .find(|metric| name.split('.').next() == Some(metric.name()));
    let trials = record.cells.iter().filter(|c| c.id == cell);
    let mut usable = trials.flat_map(|c| &c.trials).filter(|t| t.status.usable());
    metric
        .is_some_and(|metric| usable.any(|t| figure::is_grey(merged::of(&t.latency, metric), pick)))
}

/// A value in the unit of the expectation's name (contract: latency quantiles have a quantile
/// behind a latency's name, rates end in `per_s`, the rest are counts).
fn quantity(name: &str, value: f64) -> String {
    let latency = ["lag.", "service.", "response.", "e2e."];
    if latency.iter().any(|prefix| name.starts_with(prefix)) {
        human_ns(value)
    } else if name.ends_with("per_s") {
        format!("{}/s", human_rate(value))
    } else if value >= 0.0 && value.fract() == 0.0 {
        thousands(value as u64)
    } else {
        format!("{value}")
    }
}

/// `pass`, `fail`, `inconclusive`: the words of the record.
pub fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "fail",
        Outcome::Inconclusive => "inconclusive",
    }
}

fn findings(record: &Record) -> Vec<FindingView> {
    record
        .findings
        .iter()
        .map(|finding| {
            let percent = |ratio: f64| format!("{:+.1}", (ratio - 1.0) * 100.0);
            let mut evidence = Vec::new();
            if let (Some(ratio), Some(lo), Some(hi)) = (finding.ratio, finding.lo, finding.hi) {
                evidence.push(format!(
                    "{} % [{}, {}]",
                    percent(ratio),
                    percent(lo),
                    percent(hi)
                ));
            }
            if finding.n > 0 {
                evidence.push(format!("n = {}", finding.n));
            }
            if let Some(q) = finding.q {
                evidence.push(format!("q = {q:.3}"));
            }
            if let Some(mde) = finding.mde {
                evidence.push(format!(
                    "an effect below {:.1} % could not have been seen",
                    mde * 100.0
                ));
            }
            FindingView {
                kind: clean::line(&finding.kind),
                text: clean::line(&finding.text),
                evidence: evidence.join(", "),
            }
        })
        .collect()
}
