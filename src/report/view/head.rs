//! The first screen: what was asked, on what, how it ended and what to do next.

use serde::Serialize;

use super::cell::CellView;
use super::outcome_word;
use crate::record::document::{Outcome, Record, ServerInfo, Status};
use crate::record::fold::{Run, TrialEnd};
use crate::report::clean;
use crate::units::{human_duration, thousands};

/// Name, question, target.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    /// Scenario.
    pub name: String,
    /// In prose.
    pub question: Option<String>,
    /// In prose.
    pub hypothesis: Option<String>,
    /// `3 embedded servers 2.15.1, sync every 2m, driver on the same host`.
    pub target: String,
    /// Load and servers share a host.
    pub shared_host: bool,
    /// `Linux 6.1.0, x86_64, 2 CPUs (name), 7.6 GiB`.
    pub host: String,
    /// Run id.
    pub run_id: String,
    /// RFC 3339.
    pub started_at: String,
    /// `jsbench 0.1.0`.
    pub tool: String,
}

/// A word that limits what the numbers may be used for.
#[derive(Debug, Clone, Serialize)]
pub struct Stamp {
    /// The word.
    pub word: &'static str,
    /// What it means here.
    pub meaning: String,
}

/// How the run ended.
#[derive(Debug, Clone, Serialize)]
pub struct VerdictView {
    /// `PASS`, `FAIL`, `INCONCLUSIVE`.
    pub word: String,
    /// `pass`, `fail`, `inconclusive`.
    pub class: &'static str,
    /// What it rests on.
    pub text: String,
    /// Exit code of the run.
    pub exit_code: u8,
    /// Why, in words.
    pub reasons: Vec<String>,
}

/// The one thing to do next.
#[derive(Debug, Clone, Serialize)]
pub struct Next {
    /// Why.
    pub why: &'static str,
    /// What to type.
    pub command: String,
}

pub fn head(run: &Run, record: &Record) -> Head {
    let manifest = &run.manifest;
    let scenario = &manifest.scenario;
    let mut target = clean::line(&manifest.target);
    let servers = servers(run, record);
    let versions = distinct(servers.iter().map(|s| clean::line(&s.version)));
    if !versions.is_empty() {
        target = format!("{target} {}", versions.join(" and "));
    }
    let sync = distinct(servers.iter().filter_map(sync_policy));
    if !sync.is_empty() {
        target = format!("{target}, {}", sync.join(" and "));
    }
    if manifest.shared_host {
        target.push_str(", driver on the same host");
    }
    Head {
        name: clean::line(&scenario.name),
        question: scenario.question.as_deref().map(clean::line),
        hypothesis: scenario.hypothesis.as_deref().map(clean::line),
        target,
        shared_host: manifest.shared_host,
        host: super::method::host(&manifest.host),
        run_id: clean::line(&record.run_id),
        started_at: clean::line(&manifest.started_at),
        tool: super::method::tool(&manifest.tool),
    }
}

/// All servers of the run: a trial's own, or those of the manifest before the first trial.
pub fn servers(run: &Run, record: &Record) -> Vec<ServerInfo> {
    let mut all: Vec<ServerInfo> = Vec::new();
    let trials = record.cells.iter().flat_map(|c| &c.trials);
    for server in trials.flat_map(|t| &t.servers).chain(&run.manifest.servers) {
        if !all.contains(server) {
            all.push(server.clone());
        }
    }
    all
}

/// `sync always`, `sync every 2m`.
pub fn sync_policy(server: &ServerInfo) -> Option<String> {
    if server.sync_always == Some(true) {
        return Some("sync always".into());
    }
    server.sync_interval_ns.map(|ns| {
        format!(
            "sync every {}",
            human_duration(std::time::Duration::from_nanos(ns))
        )
    })
}

fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = Vec::new();
    for value in values {
        if !value.is_empty() && !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

/// Why this run is not whole.
pub fn partial(run: &Run, record: &Record) -> Option<String> {
    if run.complete && record.complete {
        return None;
    }
    let finished = run
        .trials
        .iter()
        .filter(|t| matches!(t.end, TrialEnd::Finished(_)))
        .count();
    let cause = match run.interrupted {
        Some(2) => "interrupted by Ctrl-C (SIGINT)".to_owned(),
        Some(15) => "interrupted by SIGTERM".to_owned(),
        Some(signal) => format!("interrupted by signal {signal}"),
        None => "the record ends before the run did: killed, still going on, or damaged".into(),
    };
    Some(format!(
        "{cause}; {finished} of {} planned trials finished",
        run.manifest.planned_trials
    ))
}

pub fn verdict(record: &Record, cells: &[CellView]) -> VerdictView {
    let word = outcome_word(record.verdict.result);
    let mut parts = vec![expectations_held(record)];
    parts.push(losses(cells));
    let trials = || record.cells.iter().flat_map(|c| &c.trials);
    let failed = trials().filter(|t| t.status == Status::Failed).count();
    if failed > 0 {
        parts.push(format!("{failed} of {} trials failed", trials().count()));
    }
    VerdictView {
        word: word.to_uppercase(),
        class: word,
        text: parts.join(", "),
        exit_code: record.verdict.exit_code,
        reasons: record
            .verdict
            .reasons
            .iter()
            .map(|r| clean::line(r))
            .collect(),
    }
}

/// An expectation holds where it holds in every cell that has it.
fn expectations_held(record: &Record) -> String {
    let texts = distinct(record.expectations.iter().map(|e| e.text.clone()));
    if texts.is_empty() {
        return "no expectations set".into();
    }
    let with = |outcome: Outcome| {
        texts
            .iter()
            .filter(|text| worst(record, text) == outcome)
            .count()
    };
    let all = texts.len();
    let held = format!("{} of {all} expectations held", with(Outcome::Pass));
    match with(Outcome::Inconclusive) {
        0 => held,
        open => format!("{held}, {open} could not be judged"),
    }
}

fn worst(record: &Record, text: &str) -> Outcome {
    let results = || {
        record
            .expectations
            .iter()
            .filter(|e| e.text == text)
            .map(|e| e.result)
    };
    if results().any(|r| r == Outcome::Fail) {
        Outcome::Fail
    } else if results().any(|r| r == Outcome::Inconclusive) {
        Outcome::Inconclusive
    } else {
        Outcome::Pass
    }
}

fn losses(cells: &[CellView]) -> String {
    let lost: Vec<u64> = cells.iter().filter_map(|c| c.balance.lost).collect();
    let all = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
    let of = all(&mut cells.iter().filter_map(|c| c.balance.of));
    if cells.is_empty() {
        return "nothing was counted".into();
    }
    let promised = cells.iter().any(|c| c.balance.verdict != "not-promised");
    if !promised {
        return "delivery was not promised".into();
    }
    let total = all(&mut lost.iter().copied());
    if lost.is_empty() || (total == 0 && lost.len() < cells.len()) {
        return "losses could not be counted in every cell".into();
    }
    format!("{} lost of {}", thousands(total), thousands(of))
}

pub fn stamps(cells: &[CellView], partial: Option<&str>) -> Vec<Stamp> {
    let mut stamps = Vec::new();
    let mut add = |word, meaning: String| stamps.push(Stamp { word, meaning });
    if let Some(why) = partial {
        add(
            "partial",
            format!("{why}. What follows is what was measured until then."),
        );
    }
    let count = |state: &str| {
        let trials = cells.iter().flat_map(|c| &c.trials);
        trials.filter(|t| t.state == state).count()
    };
    let all: usize = cells.iter().map(|c| c.trials.len()).sum();
    for (status, meaning) in [
        (
            Status::Degraded,
            "counted, but the driver was not at its best",
        ),
        (
            Status::Invalid,
            "left out, because the driver and not the target failed",
        ),
        (Status::Failed, "did not finish and were left out"),
    ] {
        let times = count(status.name());
        if times > 0 {
            add(
                status.name(),
                format!("{times} of {all} trials: {meaning}. Each says why below."),
            );
        }
    }
    let closed = cells.iter().filter(|c| c.closed_loop).count();
    if closed > 0 {
        add(
            "closed loop",
            format!(
                "{closed} of {} cells send the next message only when an ack came: their service \
                 time hides waiting, and no latency verdict rests on it.",
                cells.len()
            ),
        );
    }
    stamps
}

pub fn next(run: &Run, record: &Record, cells: &[CellView], partial: bool) -> Next {
    let command = clean::line(&run.manifest.command);
    let fewest = cells.iter().map(|c| c.n).min().unwrap_or(0);
    let ends = |status: Status| {
        let mut trials = record.cells.iter().flat_map(|c| &c.trials);
        trials.any(|t| t.status == status)
    };
    let is = |why, command: String| Next { why, command };
    if partial {
        is("run it to its end", command)
    } else if fewest == 0 || ends(Status::Failed) {
        is("run it again once what the marks name is mended", command)
    } else if ends(Status::Invalid) || ends(Status::Degraded) {
        is("run it again while nothing else uses this machine", command)
    } else if record.verdict.result == Outcome::Inconclusive || fewest < 10 {
        let trials = if fewest < 5 { 5 } else { fewest * 2 };
        is(
            "narrow the intervals with more trials",
            format!("{} --set trials.repeat={trials}", without_repeats(&command)),
        )
    } else if run.manifest.calibration.is_none() {
        is(
            "find out what this driver can do",
            "jsbench calibrate".to_owned(),
        )
    } else {
        let seed = run.manifest.seed.wrapping_add(1);
        is(
            "confirm it with another seed",
            format!("{} --seed {seed}", without_repeats(&command)),
        )
    }
}

/// The command without `--trials`, `--seed`, `--out` and `--set trials.repeat=…`, so that new
/// ones can follow. A command with quotes stays as it is: later options win.
fn without_repeats(command: &str) -> String {
    if command.contains(['\'', '"', '\\']) {
        return command.to_owned();
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut words = command.split(' ').peekable();
    while let Some(word) = words.next() {
        let takes_value = matches!(word, "--trials" | "--seed" | "--out")
            || (word == "--set"
                && words
                    .peek()
                    .is_some_and(|value| value.starts_with("trials.repeat=")));
        if takes_value {
            words.next();
        } else if !["--trials=", "--seed=", "--out=", "--set=trials.repeat="]
            .iter()
            .any(|option| word.starts_with(option))
        {
            kept.push(word);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_command_sets_each_option_once() {
        assert_eq!(
            without_repeats(
                "jsbench run a.toml --seed 7 --set trials.repeat=3 --set x=1 --out=d --trials=2"
            ),
            "jsbench run a.toml --set x=1"
        );
        let quoted = "jsbench run 'a b.toml' --seed 7";
        assert_eq!(without_repeats(quoted), quoted);
    }
}
