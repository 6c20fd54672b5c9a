//! How it was measured: everything a reader needs to repeat the run or to doubt it.

use serde::Serialize;

use super::cell::CellView;
use super::head::{servers, sync_policy};
use crate::record::document::{Host, Record};
use crate::record::event::Tool;
use crate::record::fold::Run;
use crate::report::clean;
use crate::units::human_bytes;

/// Text that all configurations of a page may take.
const MAX_CONFIGS: usize = 200_000;
/// Text that one block of a page may take; the rest stands in `record.json`.
const MAX_BLOCK: usize = 20_000;

/// How a run was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Method {
    /// Name and value.
    pub facts: Vec<(String, String)>,
    /// Seed of trial order, payloads and arrivals.
    pub seed: u64,
    /// The command that repeats the run.
    pub command: String,
    /// The resolved scenario.
    pub scenario: String,
    /// Effective configuration, the same ones told once.
    pub configs: Vec<Config>,
    /// The calibration, if the run relied on one.
    pub calibration: Option<String>,
    /// Terms and what they mean.
    pub glossary: &'static [(&'static str, &'static str)],
}

/// A configuration as the server reported it.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Cells that ran with it.
    pub cells: String,
    /// As JSON.
    pub json: String,
}

pub fn method(run: &Run, record: &Record, cells: &[CellView]) -> Method {
    let manifest = &run.manifest;
    let mut facts = vec![
        ("Run".to_owned(), record.run_id.clone()),
        ("Started".into(), manifest.started_at.clone()),
        ("Tool".into(), tool(&manifest.tool)),
        ("Driver host".into(), host(&manifest.host)),
        ("Target".into(), manifest.target.clone()),
    ];
    for server in servers(run, record) {
        let mut parts = vec![format!("nats-server {}", server.version)];
        parts.extend(server.git_commit.as_ref().map(|c| format!("commit {c}")));
        parts.extend(sync_policy(&server));
        parts.extend(server.cpus.map(|c| format!("{c} CPUs")));
        parts.extend(server.memory.map(human_bytes));
        parts.extend(server.applied.iter().cloned());
        facts.push((format!("Server {}", server.name), parts.join(", ")));
    }
    facts.extend([
        ("Seed".into(), manifest.seed.to_string()),
        (
            "Trials".into(),
            format!(
                "{} planned, {} begun, in randomised blocks with a fresh stream each",
                manifest.planned_trials,
                run.trials.len()
            ),
        ),
        (
            "Scenario".into(),
            format!(
                "{}, SHA-256 {}",
                manifest.scenario.path.as_deref().unwrap_or("built in"),
                manifest.scenario.file_sha256
            ),
        ),
    ]);
    for (path, values) in &manifest.scenario.axes {
        facts.push((format!("Axis {path}"), values.join(", ")));
    }
    let skew = run.trials.iter().map(|t| t.skew_ns).max();
    if let Some(skew) = skew.filter(|ns| *ns > 0) {
        facts.push((
            "Start skew".into(),
            format!("at most {}", crate::units::human_ns(skew as f64)),
        ));
    }
    Method {
        facts: facts
            .iter()
            .map(|(name, value)| (clean::line(name), clean::line(value)))
            .collect(),
        seed: manifest.seed,
        command: clean::line(&manifest.command),
        scenario: limited(&clean::block(&manifest.scenario.resolved)),
        configs: configs(record, cells),
        calibration: manifest.calibration.as_ref().map(pretty),
        glossary: GLOSSARY,
    }
}

/// `Linux 6.1.0, x86_64, 2 CPUs (model), 7.6 GiB`.
pub fn host(host: &Host) -> String {
    let model = host
        .cpu
        .as_deref()
        .map_or(String::new(), |cpu| format!(" ({cpu})"));
    let memory = host
        .memory
        .map_or(String::new(), |bytes| format!(", {}", human_bytes(bytes)));
    let text = format!(
        "{}, {}, {} CPUs{model}{memory}",
        host.os, host.arch, host.cpus
    );
    clean::line(&text)
}

/// `jsbench 0.1.0 (abc123)`.
pub fn tool(tool: &Tool) -> String {
    let git = tool
        .git
        .as_deref()
        .map_or(String::new(), |git| format!(" ({git})"));
    clean::line(&format!("jsbench {}{git}", tool.version))
}

/// The first usable trial of each cell, cells with the same configuration together. Names of
/// streams differ from trial to trial and are left out of the comparison.
fn configs(record: &Record, views: &[CellView]) -> Vec<Config> {
    let mut all: Vec<(Vec<String>, String, String)> = Vec::new();
    for (cell, view) in record.cells.iter().zip(views) {
        let Some(trial) = cell
            .trials
            .iter()
            .find(|t| !t.config.streams.is_empty() || !t.config.consumers.is_empty())
        else {
            continue;
        };
        let json = pretty(&serde_json::json!({
            "streams": trial.config.streams, "consumers": trial.config.consumers,
        }));
        let key = json
            .replace(&format!("_t{}", trial.trial), "_t")
            .replace(&format!(".t{}", trial.trial), ".t");
        match all.iter_mut().find(|(_, k, _)| *k == key) {
            Some((cells, _, _)) => cells.push(view.name.clone()),
            None => all.push((vec![view.name.clone()], key, json)),
        }
    }
    let mut room = MAX_CONFIGS;
    all.into_iter()
        .map(|(cells, _, json)| {
            let fits = json.len() <= room;
            room = room.saturating_sub(json.len());
            Config {
                cells: cells.join(", "),
                json: if fits {
                    json
                } else {
                    "stands in record.json".into()
                },
            }
        })
        .collect()
}

fn pretty(value: &serde_json::Value) -> String {
    limited(&clean::block(
        &serde_json::to_string_pretty(value).unwrap_or_default(),
    ))
}

fn limited(text: &str) -> String {
    if text.len() <= MAX_BLOCK {
        return text.to_owned();
    }
    let head: String = text.chars().take(MAX_BLOCK).collect();
    format!("{head}\n… cut here; the whole stands in the run directory")
}

/// The words of `docs/FORMAT.md`, as a reader of the page needs them.
const GLOSSARY: &[(&str, &str)] = &[
    (
        "open loop",
        "Messages become due on a schedule, whatever the target does. A slow answer does not \
         slow the load, so waiting shows in the numbers.",
    ),
    (
        "closed loop",
        "The next message is sent when an ack came back. It finds the highest rate, but a stall \
         also stops the load, so its latency hides waiting.",
    ),
    (
        "service",
        "Acked less sent: what the server and the network took.",
    ),
    (
        "response",
        "Acked less intended: service plus the time the message waited to be sent. What a user \
         of the target would feel.",
    ),
    (
        "e2e",
        "Received less intended: the whole way to a subscriber.",
    ),
    (
        "lag",
        "How late the driver itself was, without the time in which the target held it up.",
    ),
    (
        "offered",
        "Messages that were due in the window, per second. In closed loop there is none.",
    ),
    (
        "saturated",
        "Less than 99 % of the offered messages were acked in the window: the target could not \
         keep up. A result, not a fault.",
    ),
    (
        "trial",
        "One repetition of a cell on a fresh stream. Intervals and claims are computed over \
         trials, never over messages.",
    ),
    (
        "interval",
        "95 % confidence interval of the mean over trials.",
    ),
    (
        "valid, degraded",
        "Counted. Degraded: the driver was late or under pressure, which is stamped with its \
         reason.",
    ),
    (
        "invalid, failed",
        "Shown and left out. Invalid: the driver failed to measure. Failed: the trial did not \
         end.",
    ),
    (
        "censored",
        "Messages without an answer: their latency is at least what is recorded for them.",
    ),
    (
        "clipped",
        "Times that came out negative between two clocks and were recorded as 0.",
    ),
    (
        "attempted, acked, refused, unknown",
        "Every publish ends in one of the last three: confirmed, turned down by the server, or \
         without an answer. They add up to the first.",
    ),
    (
        "lost in storage, in delivery",
        "Acked and not in the stream; in the stream and not delivered.",
    ),
    (
        "duplicated, redelivered",
        "Stored more than once; delivered again.",
    ),
    (
        "reordered",
        "Delivered against the order in which a publisher sent.",
    ),
    (
        "corrupted, unexpected",
        "Ours and altered; not ours, or never attempted.",
    ),
    (
        "recovered",
        "Unknown at publish, and in the stream all the same.",
    ),
    (
        "not-promised",
        "The scenario uses a mode that promises no delivery; the counts are shown and not judged.",
    ),
    (
        "shared host",
        "Driver and servers ran on one machine and competed for it: numbers may be compared \
         within this page, not with other machines.",
    ),
    (
        "stability",
        "Spread of the trials (coefficient of variation): A up to 5 %, B up to 10 %, C up to \
         20 %, beyond that unstable.",
    ),
];
