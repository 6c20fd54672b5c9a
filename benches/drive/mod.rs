//! What benches of the whole driver share: an embedded server, trials of the engine against it, and
//! medians of rounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use jsbench::engine::run::{Access, Interrupts, Request, run};
use jsbench::nats::endpoint::{Auth, Endpoint};
use jsbench::record::event::{Manifest, RunEvent, TrialResult};
use jsbench::scenario::model::{
    Cell, CellSpec, Consumer, Embedded, Encryption, External, Length, Payload, Publish, Scenario,
    Stream, SyncInterval, Target, Workload,
};
use jsbench::scenario::plan::Room;
use jsbench::target::{Guard, Search, Servers, StartOptions, find, start};
use tokio::runtime::Runtime;

/// Load before the window.
pub const WARMUP: Duration = Duration::from_millis(500);

/// `-- ROUNDS SECONDS`, else what is given.
pub fn arguments(rounds: u64, seconds: u64) -> (u64, Duration) {
    let numbers: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let at = |i: usize, default| numbers.get(i).copied().unwrap_or(default).max(1);
    (at(0, rounds), Duration::from_secs(at(1, seconds)))
}

/// Rate and CPU of one measurement.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Acked messages per second.
    pub per_s: f64,
    /// CPU of the driver per acked message, in us.
    pub cpu_us: f64,
}

/// Middle, least and most of some values.
pub struct Spread {
    /// The median.
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self {
            median: values[values.len() / 2],
            least: values[0],
            most: values[values.len() - 1],
        }
    }

    /// `1.04 [0.84, 1.11]`
    pub fn shown(&self, digits: usize) -> String {
        let Self {
            median,
            least,
            most,
        } = self;
        format!("{median:.digits$} [{least:.digits$}, {most:.digits$}]")
    }
}

/// One embedded server on this machine.
pub struct Site {
    /// Of the engine.
    pub runtime: Runtime,
    /// How it is reached.
    pub endpoint: Endpoint,
    servers: Servers,
    // It cleans up when this process dies.
    _guard: Guard,
}

impl Site {
    /// Starts it; needs a nats-server.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let guard = Guard::spawn(Path::new(env!("CARGO_BIN_EXE_jsbench")))?;
        let options = StartOptions {
            binary: find(&Search::from_environment(None))?.path,
            run_id: "00000000000000be".to_owned(),
            max_file_bytes: 16 << 30,
            max_mem_bytes: 1 << 30,
            guard: guard.clone(),
        };
        let servers = runtime.block_on(start(&embedded(), &options))?;
        let mut endpoint = Endpoint::parse(&servers.urls().join(","))?;
        let (user, password) = servers.credentials();
        endpoint.auth = Auth::UserPassword {
            user: user.to_owned(),
            password: password.clone(),
        };
        Ok(Self {
            runtime,
            endpoint,
            servers,
            _guard: guard,
        })
    }

    /// Version of its server.
    pub fn version(&self) -> &str {
        self.servers.infos().first().map_or("", |i| &i.version)
    }

    /// One trial of the engine on a stream of its own.
    pub fn trial(
        &self,
        payload_bytes: u64,
        publish: Publish,
        workload: Workload,
        length: Duration,
    ) -> anyhow::Result<Cost> {
        let spec = spec(payload_bytes, publish, workload, length);
        let result = self.runtime.block_on(self.drive(spec))?;
        let cpu_ns = result.resources.driver_cpu_ns_per_msg;
        Ok(Cost {
            per_s: result.window_acked as f64 / (result.window_ns as f64 / 1e9),
            cpu_us: cpu_ns.unwrap_or(f64::NAN) / 1e3,
        })
    }

    async fn drive(&self, spec: CellSpec) -> anyhow::Result<TrialResult> {
        let request = Request {
            scenario: Scenario {
                name: "bench".to_owned(),
                question: None,
                hypothesis: None,
                axes: Vec::new(),
                repeat: 1,
                cells: vec![Cell {
                    id: "base".to_owned(),
                    factors: BTreeMap::new(),
                    spec,
                }],
                path: None,
                file_sha256: String::new(),
                resolved_toml: String::new(),
            },
            manifest: manifest()?,
            run: 0xbf,
            binary: None,
            guard: None,
            access: vec![(
                Target::External(External::default()),
                Access {
                    endpoint: self.endpoint.clone(),
                    monitors: self.servers.monitor_urls(),
                },
            )],
            keep: false,
            room: Room {
                disk_free_bytes: 0,
                memory_free_bytes: 0,
                cpus: 2,
            },
        };
        let (_keep, interrupts) = tokio::sync::watch::channel(Interrupts::default());
        let mut result = None;
        run(&request, interrupts, &mut |event| {
            match event {
                RunEvent::TrialFinished(finished) => result = Some(*finished),
                RunEvent::TrialFailed { reason, .. } => anyhow::bail!(reason),
                _ => {}
            }
            Ok(())
        })
        .await?;
        result.context("the trial did not finish")
    }

    /// Ends the server.
    pub fn stop(self) -> anyhow::Result<()> {
        self.runtime.block_on(self.servers.stop(false))
    }
}

fn spec(payload_bytes: u64, publish: Publish, workload: Workload, length: Duration) -> CellSpec {
    CellSpec {
        target: Target::External(External::default()),
        stream: Stream::default(),
        consumer: Consumer::default(),
        publish,
        workload: Workload {
            payload: Payload::Random {
                size_bytes: payload_bytes,
                compressible: 0.0,
            },
            length: Length::Duration(length),
            ..workload
        },
        warmup: WARMUP,
        expect: Vec::new(),
        absences: Vec::new(),
    }
}

fn manifest() -> anyhow::Result<Manifest> {
    Ok(serde_json::from_value(serde_json::json!({
        "schema": "", "run_id": "00000000000000bf", "seed": 1, "started_at": "", "servers": [],
        "scenario": {"name": "bench", "path": null, "file_sha256": "", "resolved": "", "question": null,
            "hypothesis": null, "axes": []},
        "tool": {"version": "", "git": null}, "calibration": null, "command": "", "target": "",
        "host": {"os": "", "arch": "", "cpu": null, "cpus": 2, "memory": null},
        "shared_host": true, "planned_trials": 1, "cells": []
    }))?)
}

fn embedded() -> Embedded {
    Embedded {
        servers: 1,
        cpus: None,
        memory_bytes: None,
        sync_interval: SyncInterval::Every(Duration::from_mins(2)),
        store_dir: None,
        encryption: Encryption::Off,
        port: None,
    }
}
