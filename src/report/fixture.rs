//! A run made up for the tests of this room: 2 layouts x (closed loop, 5k/s), 3 trials each, one
//! degraded, one failed. No chance in it: the same bytes every time.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::json;

use crate::measure::histogram::{LatencySummary, Metric, new_histogram, record};
use crate::record::calibration::*;
use crate::record::document::*;
use crate::record::event::*;
use crate::record::fold::{Run, SeriesRow, TrialEnd, TrialLog};

const WARMUP_S: u64 = 5;
const WINDOW_S: u64 = 30;

/// The run, its record and the answer to its question.
pub fn sample() -> (Run, Record, String) {
    let mut run = empty_run();
    let mut cells = Vec::new();
    for (index, (layout, rate)) in [
        ("shared", "max"),
        ("shared", "5k/s"),
        ("per-app", "max"),
        ("per-app", "5k/s"),
    ]
    .into_iter()
    .enumerate()
    {
        let cell = cell_ref(layout, rate);
        let mut trials = Vec::new();
        for block in 0..3 {
            let (log, trial) = trial(&cell, block * 4 + index as u32, block);
            run.trials.push(log);
            trials.push(trial);
        }
        cells.push(cell_record(&cell, trials));
        run.manifest.cells.push(cell);
    }
    let expectations = ["shared-5k-s", "per-app-5k-s"]
        .into_iter()
        .map(|cell| ExpectationResult {
            text: "response.p99 <= 50ms".into(),
            cell: cell.into(),
            result: Outcome::Pass,
            value: Some(7_410_000.0),
            limit: 50e6,
            reason: Some("upper end of the interval over 3 trials".into()),
        })
        .chain(cells.iter().map(|cell| ExpectationResult {
            text: "lost == 0".into(),
            cell: cell.id.clone(),
            result: Outcome::Pass,
            value: Some(0.0),
            limit: 0.0,
            reason: None,
        }))
        .collect();
    let record = Record {
        schema: RECORD_SCHEMA.into(),
        run_id: run.manifest.run_id.clone(),
        complete: true,
        cells,
        findings: vec![finding()],
        expectations,
        verdict: Verdict {
            result: Outcome::Pass,
            exit_code: 0,
            reasons: Vec::new(),
        },
    };
    let answer = "per-app streams publish 21 % faster in closed loop [+9, +34], 3 trials; both \
                  layouts sustain 5k/s";
    (run, record, answer.into())
}

/// The same with all that may mislead: a program with random arrivals and a stall in one cell, a
/// window too small and a warming trial in the other, nothing calibrated, and a host of its own.
pub fn troubled() -> (Run, Record, String) {
    let (mut run, mut document, answer) = sample();
    run.manifest.calibration = None;
    run.manifest.shared_host = false;
    run.manifest.cells.retain(|c| !c.closed_loop);
    document.cells.retain(|c| c.id.ends_with("5k-s"));
    document.expectations.retain(|e| e.cell.ends_with("5k-s"));
    document.findings.clear();
    let [stalled, small] = &mut run.manifest.cells[..] else {
        unreachable!("two cells have a rate");
    };
    stalled.program = Some("1k/s for 10s, 9k/s for 20s".into());
    stalled.poisson = true;
    small.in_flight = Some(8);
    for log in &mut run.trials {
        if log.cell == "shared-5k-s" {
            for row in &mut log.series {
                let rate = if row.end_ns <= 15_000_000_000 {
                    1_000
                } else {
                    9_000
                };
                row.counts.intended = if row.counts.intended == 0 { 0 } else { rate };
                row.counts.acked = row.counts.acked * rate / 5_000;
            }
            // A target that stands still for 2 s of 30 delays a fifteenth of what is due.
            let response = log
                .histograms
                .entry(Metric::Response)
                .or_insert_with(new_histogram);
            (0..1_400).for_each(|i| record(response, i * 2_000_000_000 / 1_400));
        } else if let Some(service) = log.histograms.get(&Metric::Service) {
            let mut response = new_histogram();
            (0..service.len()).for_each(|i| record(&mut response, i * 400_000));
            log.histograms.insert(Metric::Response, response);
        }
    }
    let logs = &run.trials;
    for cell in &mut document.cells {
        let small = cell.id.starts_with("per-app");
        for trial in &mut cell.trials {
            let log = logs.iter().find(|log| log.trial == trial.trial);
            let response = log.and_then(|log| log.histograms.get(&Metric::Response));
            trial.latency.response = response.map(|h| LatencySummary::of(h, 0, 0));
            trial.shared_host = false;
            if small {
                let service = trial.latency.service.as_ref().and_then(|s| s.mean_ns);
                let rate = 8e9 / service.unwrap_or(1) as f64;
                trial.publish.acked_per_s = Some(rate);
                trial.saturated = Some(true);
                trial.offered_per_s = Some(9_000.0);
            }
            if small && trial.block < 2 {
                trial.steady = Steady {
                    class: SteadyClass::Warming,
                    metric: Some("response".into()),
                    cut_ns: Some(9_000_000_000),
                    slope_per_min: Some(-0.12),
                    ..Steady::default()
                };
            }
        }
        let known = run.manifest.cells.iter().find(|c| c.id == cell.id);
        if let Some(known) = known {
            *cell = cell_record(known, std::mem::take(&mut cell.trials));
        }
    }
    (run, document, answer)
}

/// A run that was killed before its first trial.
pub fn nothing() -> (Run, Record, String) {
    let mut run = empty_run();
    run.complete = false;
    run.interrupted = Some(2);
    run.manifest.servers.clear();
    let record = Record {
        schema: RECORD_SCHEMA.into(),
        run_id: run.manifest.run_id.clone(),
        complete: false,
        cells: Vec::new(),
        findings: Vec::new(),
        expectations: Vec::new(),
        verdict: Verdict {
            result: Outcome::Inconclusive,
            exit_code: 130,
            reasons: vec!["no trial finished".into()],
        },
    };
    (run, record, "nothing was measured".into())
}

fn empty_run() -> Run {
    Run {
        manifest: Manifest {
            schema: "jsbench.manifest/v1".into(),
            run_id: "3fa91c02d41e77b0".into(),
            scenario: ScenarioRef {
                name: "stream-layout".into(),
                path: Some("scenarios/stream-layout.toml".into()),
                file_sha256: "9f86d081884c7d659a2feaa0c55ad015".repeat(2),
                resolved: "name = \"stream-layout\"\n\n[target]\nkind = \"embedded\"\n\
                           servers = 3\nsync_interval = \"2m\"\n\n[workload]\npods = 3\n\
                           payload = \"10KiB\"\nduration = \"30s\"\n\n[trials]\nrepeat = 3\n\
                           warmup = \"5s\"\n"
                    .into(),
                question: Some(
                    "Does sharing one stream cost publish throughput, and from how many apps on?"
                        .into(),
                ),
                hypothesis: Some("No difference above 10 % until the leader's CPU is full.".into()),
                axes: vec![
                    (
                        "stream.layout".into(),
                        vec!["shared".into(), "per-app".into()],
                    ),
                    ("workload.rate".into(), vec!["max".into(), "5k/s".into()]),
                ],
            },
            seed: 42,
            started_at: "2026-11-23T09:15:00Z".into(),
            tool: Tool {
                version: "0.1.0".into(),
                git: Some("3ddf06f".into()),
            },
            host: host(),
            servers: servers(),
            calibration: Some(calibration()),
            command: "jsbench run scenarios/stream-layout.toml --seed 42".into(),
            target: "3 embedded servers".into(),
            shared_host: true,
            planned_trials: 12,
            cells: Vec::new(),
        },
        trials: Vec::new(),
        notes: vec!["cgroup limits could not be set: no rights; GOMAXPROCS alone holds".into()],
        interrupted: None,
        complete: true,
    }
}

fn servers() -> Vec<ServerInfo> {
    (0..3)
        .map(|i| ServerInfo {
            name: format!("jsb-{i}"),
            version: "2.15.1".into(),
            git_commit: Some("a1b2c3d".into()),
            sync_interval_ns: Some(120_000_000_000),
            sync_always: Some(false),
            cpus: Some(1.0),
            memory: Some(2 << 30),
            applied: vec!["GOMAXPROCS=1".into()],
        })
        .collect()
}

fn host() -> Host {
    Host {
        os: "Linux 6.1.0".into(),
        arch: "x86_64".into(),
        cpu: Some("AMD EPYC 7763".into()),
        cpus: 2,
        memory: Some(8_160_437_862),
    }
}

fn calibration() -> Calibration {
    Calibration {
        schema: CALIBRATION_SCHEMA.into(),
        id: "00000000c0ffee00".into(),
        measured_at: "2026-11-22T08:00:00Z".into(),
        version: "0.1.0".into(),
        optimised: true,
        host: host(),
        payload_bytes: 1_024,
        clients: vec![ClientCalibration {
            client: "wire".into(),
            ceilings: vec![
                Ceiling {
                    threads: 1,
                    per_s: 210_000.0,
                    at_least: false,
                    cpu_ns_per_msg: Some(1_900.0),
                },
                Ceiling {
                    threads: 2,
                    per_s: 260_000.0,
                    at_least: true,
                    cpu_ns_per_msg: Some(2_100.0),
                },
            ],
            lags: vec![LagAt {
                pacing: "sleep".into(),
                rate_per_s: 10_000.0,
                p50_ns: Some(52_000),
                p99_ns: Some(181_000),
                p999_ns: None,
            }],
            delays: vec![DelayCheck {
                delay_ns: 5_000_000,
                service_p50_ns: Some(5_090_000),
                service_p90_ns: Some(5_110_000),
                service_p99_ns: Some(5_400_000),
                tolerance_ns: 300_000,
                result: Outcome::Pass,
            }],
            stall: StallCheck {
                stall_ns: 200_000_000,
                every_ns: 1_000_000_000,
                expected_p90_ns: 100_000_000,
                response_p90_ns: Some(101_000_000),
                expected_p99_ns: 190_000_000,
                response_p99_ns: Some(189_000_000),
                closed_loop_p99_ns: Some(210_000),
                result: Outcome::Pass,
            },
            result: Outcome::Pass,
            reasons: Vec::new(),
        }],
        result: Outcome::Pass,
    }
}

fn cell_ref(layout: &str, rate: &str) -> CellRef {
    let closed_loop = rate == "max";
    CellRef {
        id: format!("{layout}-{}", rate.replace('/', "-")),
        factors: BTreeMap::from([
            ("stream.layout".into(), layout.into()),
            ("workload.rate".into(), rate.into()),
        ]),
        closed_loop,
        rate_per_s: (!closed_loop).then_some(5_000.0),
        payload_bytes: 10_240,
        has_consumers: true,
        has_publishers: true,
        core: false,
        ack: Some(AckOf::Message),
        client: Some(ClientRef {
            name: "wire".into(),
            connections: 6,
            threads: 3,
        }),
        in_flight: Some(if closed_loop { 12 } else { 1_000 }),
        program: None,
        spin: false,
        rate_change_per_s: 0.0,
        poisson: false,
        file: true,
        replicas: 3,
        expectations: [
            ("response.p99 <= 50ms", "response.p99", "<=", 50e6),
            ("lost == 0", "lost", "==", 0.0),
        ]
        .into_iter()
        .map(|(text, name, op, limit)| ExpectationRef {
            text: text.into(),
            name: name.into(),
            op: op.into(),
            limit,
        })
        .collect(),
    }
}

/// Values spread like latencies: a body and a long tail, without chance.
fn histogram(middle_ns: f64, n: u64) -> Histogram<u64> {
    let mut histogram = new_histogram();
    for i in 0..n {
        let q = (i as f64 + 0.5) / n as f64;
        let ns = middle_ns * (0.6 + 0.4 * (q / 0.5).powi(2)) * (1.0 - q).powf(-0.35);
        record(&mut histogram, ns as u64);
    }
    histogram
}

fn trial(cell: &CellRef, number: u32, block: u32) -> (TrialLog, TrialRecord) {
    let per_app = cell.id.starts_with("per-app");
    let wobble = 1.0 + f64::from(block) * 0.03 - 0.03;
    let rate = match (cell.closed_loop, per_app) {
        (true, false) => 1_027.0 * wobble,
        (true, true) => 1_240.0 * wobble,
        (false, _) => 4_997.0 + f64::from(block),
    };
    let failed = per_app && cell.closed_loop && block == 2;
    let degraded = per_app && !cell.closed_loop && block == 1;
    let status = match (failed, degraded) {
        (true, _) => Status::Failed,
        (_, true) => Status::Degraded,
        _ => Status::Valid,
    };
    // One cell has too few samples for a plain p99.
    let samples = if per_app && !cell.closed_loop {
        2_500
    } else {
        20_000
    };
    let service = histogram(
        if cell.closed_loop { 5.8e6 } else { 0.9e6 } * wobble,
        samples,
    );
    let mut histograms = BTreeMap::from([
        (Metric::Service, service),
        (Metric::E2e, histogram(1.4e6 * wobble, samples)),
    ]);
    if !cell.closed_loop {
        histograms.insert(Metric::Response, histogram(1.3e6 * wobble, samples));
        let lag_ns = if degraded { 1.5e5 } else { 2e4 };
        histograms.insert(Metric::Lag, histogram(lag_ns, samples));
    }
    let reasons = match status {
        Status::Failed => vec!["server jsb-1 died: signal 9".into()],
        Status::Degraded => vec!["driver late: lag p99 0.9 ms of response p99 6.9 ms".into()],
        _ => Vec::new(),
    };
    let log = TrialLog {
        trial: number,
        block,
        cell: cell.id.clone(),
        servers: servers(),
        streams: vec![format!("JSB_3fa91c02_t{number}")],
        config: config(number),
        stream_leaders: BTreeMap::from([(format!("JSB_3fa91c02_t{number}"), "jsb-0".into())]),
        start_unix_ns: Some(1_795_425_300_000_000_000 + u64::from(number) * 60_000_000_000),
        skew_ns: 120_000,
        window: Some((
            WARMUP_S * 1_000_000_000,
            (WARMUP_S + WINDOW_S) * 1_000_000_000,
        )),
        series: series(
            rate,
            cell.rate_per_s,
            &histograms,
            if failed { 12 } else { 37 },
        ),
        samples: Vec::new(),
        histograms: if failed {
            BTreeMap::new()
        } else {
            histograms.clone()
        },
        end: if failed {
            TrialEnd::Failed("server jsb-1 died: signal 9".into())
        } else {
            TrialEnd::Open
        },
    };
    let trial = judged(cell, &log, status, reasons, rate, &histograms);
    (log, trial)
}

fn judged(
    cell: &CellRef,
    log: &TrialLog,
    status: Status,
    reasons: Vec<String>,
    rate: f64,
    histograms: &BTreeMap<Metric, Histogram<u64>>,
) -> TrialRecord {
    let failed = status == Status::Failed;
    let acked = (rate * 37.0) as u64;
    let latency = |metric| {
        let histogram = histograms.get(&metric).filter(|_| !failed)?;
        Some(LatencySummary::of(histogram, 0, 0))
    };
    let some = |value: u64| (!failed).then_some(value);
    let number_of = |value: f64| (!failed).then_some(value);
    TrialRecord {
        trial: log.trial,
        block: log.block,
        status,
        reasons,
        saturated: (!cell.closed_loop).then_some(false),
        shared_host: true,
        window_ns: some(WINDOW_S * 1_000_000_000),
        streams: log.streams.clone(),
        aa_of: None,
        config: log.config.clone(),
        servers: servers(),
        offered_per_s: cell.rate_per_s,
        blocked_ns: some(0),
        publish: PublishRecord {
            attempted: some(acked + 3),
            acked: some(acked),
            refused: some(2),
            unknown: some(1),
            sent_per_s: number_of(rate),
            acked_per_s: number_of(rate),
            payload_bytes_per_s: number_of(rate * 10_240.0),
            ack: Some(AckOf::Message),
            repeated: None,
            deduplicated: None,
        },
        deliver: DeliverRecord {
            expected: some(acked * 10),
            received: some(acked * 10 + 4),
            unique: some(acked * 10),
            per_s: number_of(rate * 10.0),
        },
        latency: LatencyRecord {
            lag: latency(Metric::Lag),
            service: latency(Metric::Service),
            response: latency(Metric::Response),
            e2e: latency(Metric::E2e),
        },
        little: number_of(rate)
            .filter(|_| cell.closed_loop)
            .zip(latency(Metric::Service).and_then(|s| s.mean_ns))
            .map(|(rate, mean_ns)| {
                let rate_x_service = rate * mean_ns as f64 / 1e9;
                Little {
                    in_flight: 12.0,
                    rate_x_service,
                    ratio: rate_x_service / 12.0,
                }
            }),
        steady: if failed {
            Steady::default()
        } else {
            steady(cell)
        },
        hops: Vec::new(),
        ledger: ledger(failed),
        resources: Resources {
            driver_cpu_ns_per_msg: number_of(if cell.closed_loop { 18_000.0 } else { 2_100.0 }),
            server_cpu_ns_per_msg: number_of(96_000.0),
            driver_rss_max_bytes: some(48 << 20),
            server_rss_max_bytes: some(310 << 20),
            stored_bytes: some(acked * 10_300),
            disk_bytes: some(acked * 31_000),
        },
        placement: Placement::default(),
        faults: Vec::new(),
    }
}

/// One layout was looked at and is flat, the other one was not.
fn steady(cell: &CellRef) -> Steady {
    let periods = [("fsync", 120), ("raft compaction", 120)]
        .into_iter()
        .map(|(name, every_s)| Period {
            name: name.into(),
            every_ns: every_s * 1_000_000_000,
        })
        .collect();
    if cell.id.starts_with("per-app") {
        return Steady {
            reason: Some("window under 60s".into()),
            periods,
            ..Steady::default()
        };
    }
    Steady {
        class: SteadyClass::Flat,
        metric: Some("acked_per_s".into()),
        cut_ns: Some(2_000_000_000),
        slope_per_min: Some(0.002),
        reason: None,
        periods,
    }
}

fn config(number: u32) -> EffectiveConfig {
    EffectiveConfig {
        streams: vec![json!({
            "name": format!("JSB_3fa91c02_t{number}"), "storage": "file", "num_replicas": 3,
            "subjects": [format!("jsb.3fa91c02.t{number}.>")],
        })],
        consumers: vec![json!({"ack_policy": "explicit", "max_ack_pending": 1000})],
    }
}

fn ledger(failed: bool) -> Ledger {
    if failed {
        return Ledger::default();
    }
    Ledger {
        verdict: LedgerVerdict::Pass,
        lost: Some(0),
        lost_storage: Some(0),
        lost_delivery: Some(0),
        duplicated: Some(0),
        redelivered: Some(4),
        reordered: Some(0),
        corrupted: Some(0),
        unexpected: Some(0),
        recovered: Some(1),
        reasons: Vec::new(),
    }
}

/// A second each, the 20th missing.
fn series(
    rate: f64,
    offered: Option<f64>,
    of: &BTreeMap<Metric, Histogram<u64>>,
    seconds: u64,
) -> Vec<SeriesRow> {
    let summaries: BTreeMap<Metric, LatencySummary> = of
        .iter()
        .map(|(metric, histogram)| (*metric, LatencySummary::of(histogram, 0, 0)))
        .collect();
    (1..=seconds)
        .filter(|second| *second != 20)
        .map(|second| {
            let start = if second < 3 { 0.5 } else { 1.0 };
            let wave = 1.0 + 0.02 * (second as f64 * 0.9).sin();
            let drained = if second > WARMUP_S + WINDOW_S {
                0.0
            } else {
                1.0
            };
            SeriesRow {
                end_ns: second * 1_000_000_000,
                length_ns: 1_000_000_000,
                counts: Counts {
                    intended: (offered.unwrap_or(0.0) * drained) as u64,
                    acked: (rate * start * wave * drained) as u64,
                    attempted: (rate * start * wave * drained) as u64,
                    received: (rate * start * wave) as u64 * 10,
                    ..Counts::default()
                },
                health: Health::default(),
                latency: summaries
                    .iter()
                    .map(|(metric, summary)| {
                        let stretched = |ns| (ns as f64 * wave * wave * (2.0 - start)) as u64;
                        let mut summary = summary.clone();
                        summary.p99_ns = summary.p99_ns.map(stretched);
                        (*metric, summary)
                    })
                    .collect(),
            }
        })
        .collect()
}

fn cell_record(cell: &CellRef, trials: Vec<TrialRecord>) -> CellRecord {
    let usable: Vec<&TrialRecord> = trials.iter().filter(|t| t.status.usable()).collect();
    let of = |pick: fn(&TrialRecord) -> Option<f64>| {
        let values: Vec<f64> = usable.iter().filter_map(|t| pick(t)).collect();
        let mean = values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64;
        let spread = values
            .iter()
            .map(|v| (v.ln() - mean).abs())
            .fold(0.0, f64::max)
            * 2.0;
        Estimate {
            mean: (!values.is_empty()).then(|| mean.exp()),
            lo: (values.len() > 1).then(|| (mean - spread).exp()),
            hi: (values.len() > 1).then(|| (mean + spread).exp()),
            cv: (values.len() > 1).then_some(spread / 2.0),
        }
    };
    let summary = Summary {
        n: usable.len() as u32,
        acked_per_s: of(|t| t.publish.acked_per_s),
        deliver_per_s: of(|t| t.deliver.per_s),
        response_p99_ns: of(|t| t.latency.response.as_ref()?.p99_ns.map(|ns| ns as f64)),
        stability: Some(Stability::A),
    };
    CellRecord {
        id: cell.id.clone(),
        factors: cell.factors.clone(),
        trials,
        summary,
    }
}

fn finding() -> Finding {
    Finding {
        kind: "effect".into(),
        metric: "acked_per_s".into(),
        base: "shared-max".into(),
        other: "per-app-max".into(),
        ratio: Some(1.21),
        lo: Some(1.09),
        hi: Some(1.34),
        q: Some(0.012),
        n: 3,
        mde: Some(0.08),
        text: "per-app publishes 21 % faster than shared in closed loop".into(),
    }
}
