//! Small runs for the tests of this room and of those above it.

use std::collections::BTreeMap;

use super::document::{AckOf, Host, Ledger, LedgerVerdict, Resources, ServerInfo, Status};
use super::event::{
    CellRef, ClientRef, Counts, EffectiveConfig, ExpectationRef, Health, Interval, MANIFEST_SCHEMA,
    Machine, Manifest, RunEvent, Sample, ScenarioRef, ServerSample, Tool, TrialResult,
};
use super::fold::{Fold, Run, encode_histogram};
use crate::measure::histogram::{self, LatencySummary, Metric};
use crate::units::NS_PER_S;

/// 2026-11-23T09:15:00Z.
pub(crate) const STARTED_NS: u64 = 1_795_425_300 * NS_PER_S;

/// A closed-loop cell with publishers and consumers.
pub(crate) fn closed(id: &str, factors: &[(&str, &str)]) -> CellRef {
    CellRef {
        id: id.to_owned(),
        factors: factors
            .iter()
            .map(|(p, v)| ((*p).to_owned(), (*v).to_owned()))
            .collect(),
        closed_loop: true,
        rate_per_s: None,
        payload_bytes: 100,
        has_consumers: true,
        has_publishers: true,
        core: false,
        ack: Some(AckOf::Message),
        client: Some(ClientRef {
            name: "wire".into(),
            connections: 6,
            threads: 3,
        }),
        in_flight: Some(1_000),
        program: None,
        spin: false,
        rate_change_per_s: 0.0,
        poisson: false,
        file: true,
        replicas: 1,
        expectations: Vec::new(),
    }
}

/// The same in open loop.
pub(crate) fn open(id: &str, factors: &[(&str, &str)], rate_per_s: f64) -> CellRef {
    CellRef {
        closed_loop: false,
        rate_per_s: Some(rate_per_s),
        ..closed(id, factors)
    }
}

/// `response.p99 <= 50ms` with the limit in base units.
pub(crate) fn expectation(name: &str, op: &str, limit: f64) -> ExpectationRef {
    ExpectationRef {
        text: format!("{name} {op} {limit}"),
        name: name.to_owned(),
        op: op.to_owned(),
        limit,
    }
}

pub(crate) fn manifest(cells: Vec<CellRef>, axes: &[(&str, &[&str])]) -> Manifest {
    Manifest {
        schema: MANIFEST_SCHEMA.to_owned(),
        run_id: "3fa91c0200000001".to_owned(),
        scenario: ScenarioRef {
            name: "stream-layout".to_owned(),
            path: Some("stream-layout.toml".to_owned()),
            file_sha256: "00".repeat(32),
            resolved: "name = \"stream-layout\"\n".to_owned(),
            question: None,
            hypothesis: None,
            axes: axes
                .iter()
                .map(|(path, values)| {
                    let values = values.iter().map(|v| (*v).to_owned()).collect();
                    ((*path).to_owned(), values)
                })
                .collect(),
        },
        seed: 7,
        started_at: "2026-11-23T09:15:00Z".to_owned(),
        tool: Tool {
            version: "0.1.0".to_owned(),
            git: None,
        },
        host: Host::default(),
        servers: Vec::new(),
        calibration: None,
        command: "jsbench run stream-layout.toml".to_owned(),
        target: "1 embedded server".to_owned(),
        shared_host: true,
        planned_trials: 2,
        cells,
    }
}

/// A valid trial of one second: `acked` acks in the window, nothing lost.
pub(crate) fn result(trial: u32, acked: u64) -> TrialResult {
    TrialResult {
        trial,
        status: Status::Valid,
        reasons: Vec::new(),
        shared_host: true,
        window_start_ns: NS_PER_S,
        window_ns: NS_PER_S,
        offered: None,
        window_sent: acked,
        window_acked: acked,
        window_received: acked,
        blocked_ns: 0,
        attempted: 2 * acked,
        acked: Some(2 * acked),
        refused: Some(0),
        unknown: Some(0),
        refused_causes: BTreeMap::new(),
        repeated: None,
        deduplicated: None,
        expected: Some(2 * acked),
        received: Some(2 * acked),
        unique: Some(2 * acked),
        payload_bytes: 100,
        censored: BTreeMap::new(),
        clipped: BTreeMap::new(),
        ledger: Ledger {
            verdict: LedgerVerdict::Pass,
            lost: Some(0),
            corrupted: Some(0),
            ..Ledger::default()
        },
        resources: Resources::default(),
        reconnects: 0,
    }
}

pub(crate) fn trial_started(trial: u32, block: u32, cell: &str) -> RunEvent {
    RunEvent::TrialStarted {
        trial,
        block,
        cell: cell.to_owned(),
        at_unix_ns: STARTED_NS,
    }
}

/// A common start ten seconds after another for each trial.
pub(crate) fn load_started(trial: u32) -> RunEvent {
    RunEvent::LoadStarted {
        trial,
        start_unix_ns: STARTED_NS + (1 + u64::from(trial)) * 10 * NS_PER_S,
        skew_ns: 1_000,
        window_start_ns: Some(NS_PER_S),
        window_end_ns: Some(2 * NS_PER_S),
    }
}

/// An interval that ends at `end_ns`, with the same samples in every metric of `metrics`.
pub(crate) fn interval(trial: u32, end_ns: u64, metrics: &[Metric], samples: &[u64]) -> RunEvent {
    let mut part = histogram::new_histogram();
    for ns in samples {
        histogram::record(&mut part, *ns);
    }
    let n = samples.len() as u64;
    RunEvent::Interval(Box::new(Interval {
        trial,
        end_ns,
        length_ns: NS_PER_S,
        counts: Counts {
            intended: n,
            attempted: n,
            acked: n,
            received: n,
            ..Counts::default()
        },
        histograms: metrics
            .iter()
            .map(|m| (*m, encode_histogram(&part)))
            .collect(),
        latency: metrics
            .iter()
            .map(|m| (*m, LatencySummary::of(&part, 0, 0)))
            .collect(),
        health: Health::default(),
    }))
}

/// A run of two trials with every kind of event but failures.
pub(crate) fn small_run() -> Vec<RunEvent> {
    let cell = open("shared", &[("stream.layout", "shared")], 40.0);
    let samples: Vec<u64> = (1..=40).map(|i| i * 100_000).collect();
    let mut events = vec![
        RunEvent::RunStarted(Box::new(manifest(
            vec![cell],
            &[("stream.layout", &["shared"])],
        ))),
        RunEvent::ServersReady {
            servers: vec![ServerInfo {
                name: "n1".to_owned(),
                version: "2.15.1".to_owned(),
                ..ServerInfo::default()
            }],
        },
    ];
    for trial in 0..2 {
        events.extend([
            trial_started(trial, trial, "shared"),
            RunEvent::StreamsReady {
                trial,
                streams: vec![format!("JSB_3fa91c02_t{trial}")],
                config: EffectiveConfig::default(),
                stream_leaders: BTreeMap::from([("JSB".to_owned(), "n1".to_owned())]),
            },
            load_started(trial),
            RunEvent::Sample(Box::new(Sample {
                trial,
                at_ns: -5,
                driver_cpu_ns: 9,
                driver_rss_bytes: 8,
                servers: vec![ServerSample {
                    name: "n1".to_owned(),
                    cpu_ns: Some(3),
                    rss_bytes: None,
                }],
                stored_bytes: Some(4),
                stored_msgs: None,
                disk_bytes: None,
                machine: Machine::default(),
            })),
            interval(trial, NS_PER_S, &[], &[]),
            interval(trial, 2 * NS_PER_S, &Metric::ALL, &samples),
            interval(trial, 3 * NS_PER_S, &[Metric::E2e], &samples[..7]),
            RunEvent::TrialFinished(Box::new(TrialResult {
                offered: Some(40),
                censored: BTreeMap::from([(Metric::Response, 1)]),
                ..result(trial, 40)
            })),
        ]);
    }
    events.push(RunEvent::Note {
        text: "a note".to_owned(),
    });
    events.push(RunEvent::RunFinished {
        at_unix_ns: STARTED_NS + 60 * NS_PER_S,
    });
    events
}

/// The run of some events.
pub(crate) fn fold(events: &[RunEvent]) -> Option<Run> {
    let mut fold = Fold::new();
    for event in events {
        fold.apply(event);
    }
    fold.into_run()
}

/// A finished run with one trial for each of `results`: block, cell and what came of it.
pub(crate) fn run_of(manifest: Manifest, results: Vec<(u32, &str, TrialResult)>) -> Run {
    let mut events = vec![RunEvent::RunStarted(Box::new(manifest))];
    for (block, cell, result) in results {
        events.push(trial_started(result.trial, block, cell));
        events.push(load_started(result.trial));
        events.push(RunEvent::TrialFinished(Box::new(result)));
    }
    events.push(RunEvent::RunFinished { at_unix_ns: 0 });
    fold(&events).expect("a run that began")
}
