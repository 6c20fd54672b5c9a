//! One cell of the View: its row in the table, its trials, its curves and its balance.

use serde::Serialize;

use super::balance::{Balance, counted};
use super::checks::{self, Check};
use super::figure::{self, Figure, P50, P99, Pick};
use super::merged::{self, LatencyView};
use super::series::TrialSeries;
use super::waiting::{self, Waiting};
use crate::measure::histogram::{LatencySummary, Metric};
use crate::record::document::{
    AckOf, CellRecord, Estimate, Stability, Status, SteadyClass, TrialRecord,
};
use crate::record::event::CellRef;
use crate::record::fold::Run;
use crate::report::clean;
use crate::units::{human_bytes, human_rate, short_rate, thousands};

/// What a cell's rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RateKind {
    /// Acked publishes.
    Acked,
    /// Receipts of a drain.
    Delivered,
    /// Core publishes, which have no acks.
    Sent,
}

impl RateKind {
    /// Head of its column.
    pub fn head(self) -> &'static str {
        match self {
            Self::Acked => "acked/s",
            Self::Delivered => "deliver/s",
            Self::Sent => "sent/s",
        }
    }

    /// Footnote where a column mixes kinds.
    pub fn mark(self) -> (&'static str, &'static str) {
        match self {
            Self::Acked => ("a", "acked per second"),
            Self::Delivered => ("d", "drain: received per second, nothing was published"),
            Self::Sent => ("s", "core publish: sent per second, there are no acks"),
        }
    }
}

/// One cell.
#[derive(Debug, Clone, Serialize)]
pub struct CellView {
    /// Id.
    pub id: String,
    /// Values of the axes that vary, in the order of the file.
    pub labels: Vec<String>,
    /// The labels as one text; the id where no axis varies.
    pub name: String,
    /// All factors.
    pub factors: Vec<(String, String)>,
    /// `closed loop`, `open loop, 5k/s, Poisson`, `drain`.
    pub pacing: String,
    /// Its latencies hide waiting.
    pub closed_loop: bool,
    /// What `rate` counts.
    pub rate_kind: RateKind,
    /// Geometric mean and interval over usable trials.
    #[serde(skip)]
    pub rate: Estimate,
    /// The same in words: `1,027 [980, 1,075]`.
    pub rate_interval: String,
    /// Usable trials.
    pub n: u32,
    /// Trials that ended or failed.
    pub tried: usize,
    /// Its row in the table.
    pub row: Row,
    /// Sign behind the rate.
    pub rate_mark: String,
    /// Its acks stand for groups: what is measured of each message is ack-group latency.
    pub ack_groups: bool,
    /// Sign behind the state.
    pub mark: String,
    /// What the sign stands for.
    pub note: String,
    /// A to C, or `unstable`, with what it means.
    pub stability: String,
    /// Why messages waited, where it is plain from the figures.
    pub waiting: Option<Waiting>,
    /// What its figures rest on.
    pub checks: Vec<Check>,
    /// Latencies over usable trials.
    pub latencies: Vec<LatencyView>,
    /// Every trial.
    pub trials: Vec<TrialView>,
    /// Intervals of every trial.
    #[serde(skip)]
    pub series: Vec<TrialSeries>,
    /// The ledger as a balance over usable trials.
    pub balance: Balance,
    /// Over usable trials.
    pub resources: Vec<String>,
}

/// The figures of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Of the cell's kind.
    pub rate: String,
    /// 95 % interval of the rate.
    pub interval: String,
    /// Payload, 10^6 bytes.
    pub mb_per_s: String,
    /// With unit.
    pub service_p50: Figure,
    /// With unit.
    pub response_p99: Figure,
    /// With unit.
    pub e2e_p99: Figure,
    /// Receipts.
    pub deliver_per_s: String,
    /// Count.
    pub lost: String,
    /// Driver CPU, median of trials.
    pub us_per_msg: String,
    /// `valid`, `degraded`, `invalid`, `failed`, `no trial`.
    pub state: &'static str,
}

/// One trial.
#[derive(Debug, Clone, Serialize)]
pub struct TrialView {
    /// Number.
    pub trial: u32,
    /// Block.
    pub block: u32,
    /// Status.
    pub state: &'static str,
    /// In summaries.
    pub usable: bool,
    /// Of the cell's kind.
    #[serde(skip)]
    pub rate: Option<f64>,
    /// Response p99.
    #[serde(skip)]
    pub p99_ns: Option<u64>,
    /// It has fewer samples above it than a plain number needs.
    #[serde(skip)]
    pub p99_grey: bool,
    /// rate, offered/s, service p50, service p99, response p99, e2e p99, lag p99, lost.
    pub figures: [Figure; 8],
    /// Why it is not valid.
    pub reasons: String,
}

impl CellView {
    /// The view of `cell`; `varied` are the axes that tell cells apart.
    pub fn new(run: &Run, cell: &CellRecord, planned: Option<&CellRef>, varied: &[&str]) -> Self {
        let usable: Vec<&TrialRecord> = cell.trials.iter().filter(|t| t.status.usable()).collect();
        let closed_loop = planned.map_or_else(
            || !usable.is_empty() && usable.iter().all(|t| t.latency.response.is_none()),
            |planned| planned.closed_loop && planned.has_publishers,
        );
        let rate_kind = match planned {
            Some(planned) if !planned.has_publishers => RateKind::Delivered,
            Some(planned) if planned.core => RateKind::Sent,
            _ => RateKind::Acked,
        };
        let rate = match rate_kind {
            RateKind::Acked => cell.summary.acked_per_s.clone(),
            RateKind::Delivered => cell.summary.deliver_per_s.clone(),
            RateKind::Sent => Estimate {
                mean: geometric_mean(usable.iter().map(|t| t.publish.sent_per_s)),
                ..Estimate::default()
            },
        };
        let ack_groups = planned.is_some_and(|planned| planned.ack == Some(AckOf::Group));
        let latencies = merged::latencies(run, cell, ack_groups);
        let balance = Balance::new(run, &usable, rate_kind);
        let labels: Vec<String> = varied
            .iter()
            .filter_map(|path| cell.factors.get(*path))
            .map(|value| clean::line(value))
            .collect();
        Self {
            id: clean::line(&cell.id),
            name: if labels.is_empty() {
                clean::line(&cell.id)
            } else {
                labels.join(" ")
            },
            labels,
            factors: cell
                .factors
                .iter()
                .map(|(path, value)| (clean::line(path), clean::line(value)))
                .collect(),
            pacing: pacing(planned, closed_loop, rate_kind),
            closed_loop,
            rate_kind,
            rate_interval: interval(&rate),
            row: Row::new(
                &usable, cell, planned, rate_kind, &rate, &latencies, &balance,
            ),
            rate,
            n: cell.summary.n,
            tried: cell.trials.len(),
            rate_mark: String::new(),
            ack_groups,
            mark: String::new(),
            note: note(cell),
            stability: stability(cell),
            // A message of a group waits for the last of it: that is neither server nor window.
            waiting: waiting(&latencies).filter(|_| !ack_groups),
            checks: cell_checks(cell, planned.filter(|_| !ack_groups), &usable, &latencies),
            latencies,
            trials: cell
                .trials
                .iter()
                .map(|trial| TrialView::new(trial, rate_kind))
                .collect(),
            series: cell
                .trials
                .iter()
                .filter_map(|trial| {
                    let log = run.trials.iter().find(|log| log.trial == trial.trial)?;
                    Some(TrialSeries::new(log, trial, rate_kind))
                })
                .collect(),
            balance,
            resources: resources(&usable),
        }
    }

    /// The latency of that metric.
    pub fn latency(&self, metric: Metric) -> Option<&LatencyView> {
        self.latencies.iter().find(|view| view.metric == metric)
    }
}

fn pacing(planned: Option<&CellRef>, closed_loop: bool, kind: RateKind) -> String {
    if kind == RateKind::Delivered {
        return "drain".into();
    }
    if closed_loop {
        return "closed loop".into();
    }
    let mut parts = vec!["open loop".to_owned()];
    if let Some(planned) = planned {
        let program = planned.program.as_deref().map(clean::line);
        parts.extend(program.or_else(|| planned.rate_per_s.map(short_rate)));
        parts.extend(planned.poisson.then(|| "Poisson".to_owned()));
        parts.extend(planned.spin.then(|| "spinning".to_owned()));
    }
    parts.join(", ")
}

fn waiting(latencies: &[LatencyView]) -> Option<Waiting> {
    let of = |metric| Some(&latencies.iter().find(|l| l.metric == metric)?.summary);
    waiting::waiting(
        of(Metric::Response)?,
        of(Metric::Service)?,
        of(Metric::Lag)?,
    )
}

fn cell_checks(
    cell: &CellRecord,
    planned: Option<&CellRef>,
    usable: &[&TrialRecord],
    latencies: &[LatencyView],
) -> Vec<Check> {
    let mut all = checks::checks(usable);
    let saturated = usable.iter().any(|t| t.saturated == Some(true));
    let service = latencies.iter().find(|l| l.metric == Metric::Service);
    if let (true, Some(in_flight), Some(service), Some(acked)) = (
        saturated,
        planned.and_then(|p| p.in_flight),
        service,
        cell.summary.acked_per_s.mean,
    ) && let Some(text) = waiting::bound(in_flight, &service.summary, acked)
    {
        all.insert(
            0,
            Check {
                name: "saturated",
                text,
                why: "",
            },
        );
    }
    all
}

impl Row {
    fn new(
        usable: &[&TrialRecord],
        cell: &CellRecord,
        planned: Option<&CellRef>,
        kind: RateKind,
        rate: &Estimate,
        latencies: &[LatencyView],
        balance: &Balance,
    ) -> Self {
        let latency = |metric, pick: Pick| {
            let found = latencies.iter().find(|l| l.metric == metric);
            Figure::quantile(found.map(|l| &l.summary), pick)
        };
        let mb_per_s = match (kind, planned) {
            (RateKind::Delivered, Some(planned)) => rate
                .mean
                .map(|per_s| per_s * planned.payload_bytes as f64 / 1e6),
            _ => geometric_mean(usable.iter().map(|t| t.publish.payload_bytes_per_s))
                .map(|bytes| bytes / 1e6),
        };
        Self {
            rate: rate.mean.map_or("-".into(), human_rate),
            interval: match (rate.lo, rate.hi) {
                (Some(lo), Some(hi)) => format!("[{}, {}]", human_rate(lo), human_rate(hi)),
                _ => "-".into(),
            },
            mb_per_s: mb_per_s.map_or("-".into(), |mb| {
                if mb < 100.0 {
                    format!("{mb:.1}")
                } else {
                    human_rate(mb)
                }
            }),
            service_p50: latency(Metric::Service, P50),
            response_p99: latency(Metric::Response, P99),
            e2e_p99: latency(Metric::E2e, P99),
            deliver_per_s: cell
                .summary
                .deliver_per_s
                .mean
                .map_or("-".into(), human_rate),
            lost: counted(balance.lost),
            us_per_msg: median(usable.iter().map(|t| t.resources.driver_cpu_ns_per_msg))
                .map_or("-".into(), micros),
            state: state(cell),
        }
    }
}

/// One word for the trials of a cell: the worst that its figures rest on.
fn state(cell: &CellRecord) -> &'static str {
    let worst = |usable: bool| {
        cell.trials
            .iter()
            .map(|t| t.status)
            .filter(|status| status.usable() == usable)
            .max()
    };
    worst(true)
        .or_else(|| worst(false))
        .map_or("no trial", Status::name)
}

/// What must be said of a cell's trials, each kind of reason once with how often it came.
fn note(cell: &CellRecord) -> String {
    let mut groups: Vec<(String, String, usize)> = Vec::new();
    let mut add = |key: String, text: String| match groups.iter_mut().find(|(k, _, _)| *k == key) {
        Some((_, _, times)) => *times += 1,
        None => groups.push((key, text, 1)),
    };
    for trial in &cell.trials {
        let mut kinds = Vec::new();
        for reason in &trial.reasons {
            // Lines of a server's log behind the first belong to the page, not to a footnote.
            let reason = clean::line(reason.lines().next().unwrap_or_default());
            // Figures behind the colon differ from trial to trial; the kind is what repeats.
            let kind = reason.split(':').next().unwrap_or_default().to_owned();
            if kinds.contains(&kind) {
                continue;
            }
            kinds.push(kind.clone());
            let word = trial.status.name();
            if trial.status.usable() || kind.eq_ignore_ascii_case(word) {
                add(kind, reason);
            } else {
                add(format!("{word} {kind}"), format!("{word}: {reason}"));
            }
        }
        if trial.reasons.is_empty() && trial.status != Status::Valid {
            let word = trial.status.name();
            add(word.to_owned(), word.to_owned());
        }
        let (class, ask) = checks::class_words(trial.steady.class);
        let unsteady = matches!(
            trial.steady.class,
            SteadyClass::Warming | SteadyClass::Degrading | SteadyClass::NoSteadyState
        );
        if unsteady && trial.status.usable() && !kinds.iter().any(|kind| kind == class) {
            add(class.to_owned(), format!("{class}: {ask}"));
        }
        let (unknown, refused) = (trial.publish.unknown, trial.publish.refused);
        let counts = [(unknown, "without an answer"), (refused, "refused")];
        let not_acked: Vec<String> = counts
            .into_iter()
            .filter_map(|(count, word)| Some((count.filter(|n| *n > 0)?, word)))
            .map(|(count, word)| format!("{} {word}", thousands(count)))
            .collect();
        if let (false, Some(all)) = (not_acked.is_empty(), trial.publish.attempted) {
            let text = format!(
                "{} of {} publishes",
                not_acked.join(" and "),
                thousands(all)
            );
            add("not acked".to_owned(), text);
        }
        if trial.saturated == Some(true) && trial.status.usable() {
            let offered = trial.offered_per_s.map_or("-".into(), human_rate);
            let acked = trial.publish.acked_per_s.map_or("-".into(), human_rate);
            add(
                "saturated".into(),
                format!("saturated: acked {acked}/s of {offered}/s offered"),
            );
        }
    }
    let all = cell.trials.len();
    groups
        .into_iter()
        .map(|(_, text, times)| format!("{text}, in {times} of {all} trials"))
        .collect::<Vec<_>>()
        .join("; ")
}

fn stability(cell: &CellRecord) -> String {
    let spread = cell
        .summary
        .acked_per_s
        .cv
        .or(cell.summary.deliver_per_s.cv)
        .map_or(String::new(), |cv| {
            format!(", trials spread by {:.1} % (CV)", cv * 100.0)
        });
    match cell.summary.stability {
        Some(Stability::A) => format!("A{spread}"),
        Some(Stability::B) => format!("B{spread}"),
        Some(Stability::C) => format!("C{spread}"),
        Some(Stability::Unstable) => format!("unstable{spread}"),
        None => "not graded: fewer than 2 usable trials".into(),
    }
}

impl TrialView {
    fn new(trial: &TrialRecord, kind: RateKind) -> Self {
        let rate = match kind {
            RateKind::Acked => trial.publish.acked_per_s,
            RateKind::Delivered => trial.deliver.per_s,
            RateKind::Sent => trial.publish.sent_per_s,
        };
        let latency = &trial.latency;
        let response = latency.response.as_ref();
        let of = |summary: &Option<LatencySummary>, pick| Figure::quantile(summary.as_ref(), pick);
        Self {
            trial: trial.trial,
            block: trial.block,
            state: trial.status.name(),
            usable: trial.status.usable(),
            rate,
            p99_ns: response.and_then(|l| l.p99_ns),
            p99_grey: figure::is_grey(response, P99),
            figures: [
                Figure::plain(rate.map_or("-".into(), human_rate)),
                Figure::plain(trial.offered_per_s.map_or("-".into(), human_rate)),
                of(&latency.service, P50),
                of(&latency.service, P99),
                of(&latency.response, P99),
                of(&latency.e2e, P99),
                of(&latency.lag, P99),
                Figure::plain(counted(trial.ledger.lost)),
            ],
            reasons: trial
                .reasons
                .iter()
                .map(|r| clean::line(r))
                .chain((trial.saturated == Some(true)).then(|| "saturated".to_owned()))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

/// Driver us/msg, server us/msg, driver RSS, server RSS, stored, on disk.
fn resources(usable: &[&TrialRecord]) -> Vec<String> {
    let cpu = |of: fn(&TrialRecord) -> Option<f64>| {
        median(usable.iter().map(|t| of(t))).map_or("-".into(), micros)
    };
    let largest = |of: fn(&TrialRecord) -> Option<u64>| {
        let bytes = usable.iter().filter_map(|t| of(t)).max();
        bytes.map_or("-".into(), human_bytes)
    };
    vec![
        cpu(|t| t.resources.driver_cpu_ns_per_msg),
        cpu(|t| t.resources.server_cpu_ns_per_msg),
        largest(|t| t.resources.driver_rss_max_bytes),
        largest(|t| t.resources.server_rss_max_bytes),
        largest(|t| t.resources.stored_bytes),
        largest(|t| t.resources.disk_bytes),
    ]
}

fn micros(ns: f64) -> String {
    let us = ns / 1e3;
    if us < 10.0 {
        format!("{us:.1}")
    } else {
        thousands(us.round() as u64)
    }
}

/// `1,027 [980, 1,075]`, `1,027` without an interval, `-` without a mean.
pub fn interval(estimate: &Estimate) -> String {
    match (estimate.mean, estimate.lo, estimate.hi) {
        (Some(mean), Some(lo), Some(hi)) => format!(
            "{} [{}, {}]",
            human_rate(mean),
            human_rate(lo),
            human_rate(hi)
        ),
        (Some(mean), _, _) => human_rate(mean),
        _ => "-".into(),
    }
}

/// Geometric mean of what was measured; the arithmetic one where a value is 0.
fn geometric_mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    let n = values.len() as f64;
    if values.is_empty() {
        None
    } else if values.iter().all(|v| *v > 0.0) {
        Some((values.iter().map(|v| v.ln()).sum::<f64>() / n).exp())
    } else {
        Some(values.iter().sum::<f64>() / n)
    }
}

fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.is_empty() {
        None
    } else if values.len() % 2 == 1 {
        Some(values[middle])
    } else {
        Some(f64::midpoint(values[middle - 1], values[middle]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_none() {
        assert_eq!(geometric_mean([None].into_iter()), None);
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn middles_are_the_right_ones() {
        let mean = geometric_mean([Some(1.0), Some(4.0), None].into_iter()).expect("measured");
        assert!((mean - 2.0).abs() < 1e-12, "{mean}");
        assert_eq!(
            median([Some(9.0), Some(1.0), None, Some(2.0)].into_iter()),
            Some(2.0)
        );
        assert_eq!(median([Some(1.0), Some(2.0)].into_iter()), Some(1.5));
    }
}
