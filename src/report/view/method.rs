//! How it was measured: everything a reader needs to repeat the run or to doubt it.

use std::time::Duration;

use serde::Serialize;

use super::cell::CellView;
use super::head::{servers, sync_policy};
use super::{merged, outcome_word};
use crate::record::calibration::{Calibration, Ceiling, ClientCalibration};
use crate::record::document::{Host, Record};
use crate::record::event::{ClientRef, Tool};
use crate::record::fold::Run;
use crate::report::clean;
use crate::units::{human_bytes, human_duration, human_ns, human_rate, short_rate};

/// What a run says that relied on no calibration.
const NOT_CALIBRATED: &str = "not calibrated: `jsbench calibrate` tells what this driver can do";
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
    /// What is known of the driver; empty without a calibration.
    pub calibration: Vec<(String, String)>,
    /// What to say without one.
    pub not_calibrated: &'static str,
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
    facts.extend(clients(run, cells));
    let skew = run.trials.iter().map(|t| t.skew_ns).max();
    if let Some(skew) = skew.filter(|ns| *ns > 0) {
        facts.push((
            "Start skew".into(),
            format!("at most {}", human_ns(skew as f64)),
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
        calibration: manifest
            .calibration
            .as_ref()
            .map_or_else(Vec::new, calibration),
        not_calibrated: NOT_CALIBRATED,
        glossary: GLOSSARY,
    }
}

/// How the clients reached NATS; what holds of several cells is told once.
fn clients(run: &Run, views: &[CellView]) -> Vec<(String, String)> {
    let mut all: Vec<(&ClientRef, Vec<&str>)> = Vec::new();
    for cell in &run.manifest.cells {
        let Some(client) = &cell.client else { continue };
        let view = views.iter().find(|view| view.id == clean::line(&cell.id));
        let name = view.map_or(cell.id.as_str(), |view| view.name.as_str());
        match all.iter_mut().find(|(other, _)| *other == client) {
            Some((_, cells)) => cells.push(name),
            None => all.push((client, vec![name])),
        }
    }
    let counted = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let one = all.len() == 1;
    all.into_iter()
        .map(|(client, cells)| {
            let library = match client.name.as_str() {
                "wire" => "wire (jsbench's own protocol core)",
                name => name,
            };
            let connections = counted(client.connections, "connection");
            let threads = counted(client.threads, "thread");
            let whose = if one {
                String::new()
            } else {
                format!(": {}", cells.join(", "))
            };
            let text = format!("{library}, {connections} on {threads} in a cell{whose}");
            ("Client".to_owned(), limited(&text))
        })
        .collect()
}

/// What a calibration found out about the driver: name and value.
fn calibration(calibration: &Calibration) -> Vec<(String, String)> {
    let build = if calibration.optimised {
        ""
    } else {
        ", built without optimisation"
    };
    let mut facts = vec![
        (
            "Calibration",
            format!(
                "{} of {}: {}",
                calibration.id,
                calibration.measured_at,
                outcome_word(calibration.result)
            ),
        ),
        (
            "Calibrated on",
            format!(
                "{}, jsbench {}{build}",
                host(&calibration.host),
                calibration.version
            ),
        ),
    ];
    for of in &calibration.clients {
        facts.extend(of_client(of, calibration.payload_bytes));
    }
    facts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), limited(&clean::line(value))))
        .collect()
}

/// What a calibration found out with one client; each value begins with its name.
fn of_client(of: &ClientCalibration, payload_bytes: u64) -> Vec<(&'static str, String)> {
    let quantile = |ns| merged::shown(ns);
    let span = |ns| human_duration(Duration::from_nanos(ns));
    let client = &of.client;
    let mut facts = Vec::new();
    let ceilings: Vec<String> = of.ceilings.iter().map(ceiling).collect();
    if !ceilings.is_empty() {
        let payload = human_bytes(payload_bytes);
        let text = format!("{client}: {}; payload {payload}", ceilings.join(", "));
        facts.push(("Ceiling", text));
    }
    for lag in &of.lags {
        let [p50, p99, p999] = [lag.p50_ns, lag.p99_ns, lag.p999_ns].map(quantile);
        let rate = short_rate(lag.rate_per_s);
        let text = format!("p50 {p50}, p99 {p99}, p99.9 {p999}");
        facts.push((
            "Lag",
            format!("{client}, at {rate}, {}: {text}", lag.pacing),
        ));
    }
    for delay in &of.delays {
        let text = format!(
            "{client}: {} measured as {} (p99 {}), may differ by {}: {}",
            quantile(Some(delay.delay_ns)),
            quantile(delay.service_p50_ns),
            quantile(delay.service_p99_ns),
            quantile(Some(delay.tolerance_ns)),
            outcome_word(delay.result)
        );
        facts.push(("Known delay", text));
    }
    let stall = &of.stall;
    facts.push((
        "Known stall",
        format!(
            "{client}: {} every {}: response p90 {} where {} must be seen, p99 {} where {} must be \
             seen, service p99 of a closed loop beside it {}: {}",
            span(stall.stall_ns),
            span(stall.every_ns),
            quantile(stall.response_p90_ns),
            quantile(Some(stall.expected_p90_ns)),
            quantile(stall.response_p99_ns),
            quantile(Some(stall.expected_p99_ns)),
            quantile(stall.closed_loop_p99_ns),
            outcome_word(stall.result)
        ),
    ));
    let reasons = of.reasons.iter();
    facts.extend(reasons.map(|reason| ("Not a pass", format!("{client}: {reason}"))));
    facts
}

/// `at least 260,000/s with 2 threads (2.1 us of CPU a message)`.
fn ceiling(ceiling: &Ceiling) -> String {
    let threads = match ceiling.threads {
        1 => "1 thread".to_owned(),
        n => format!("{n} threads"),
    };
    let cpu = ceiling.cpu_ns_per_msg.map_or(String::new(), |ns| {
        format!(" ({} of CPU a message)", human_ns(ns))
    });
    let least = if ceiling.at_least { "at least " } else { "" };
    format!("{least}{}/s with {threads}{cpu}", human_rate(ceiling.per_s))
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
        "ack-group latency",
        "Service where an ack stands for a group: from a message's own sending to the ack of its \
         group. The first of a group waits for the last, so it is not comparable with service \
         where each message has an ack.",
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
        "grey, ~",
        "A quantile with fewer than 100 samples above it: another run may show another one. With \
         fewer than 10 it is not shown.",
    ),
    (
        "Poisson",
        "Messages become due at random times that keep the rate on average, as those of many \
         independent users do.",
    ),
    (
        "steady state",
        "Whether a trial was flat, warming up, degrading or never settled. MSER-5 says what part \
         of the window's start differs from the rest.",
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
         within this run only.",
    ),
    (
        "stability",
        "Spread of the trials (coefficient of variation): A up to 5 %, B up to 10 %, C up to \
         20 %, beyond that unstable.",
    ),
];
