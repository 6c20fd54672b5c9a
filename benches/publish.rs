//! What the harness costs: async publish through jsbench (histograms, identity, checksum, outcome
//! of every message) against a bare loop on the same client, in turn, against one server.
//!
//! `cargo bench --bench publish [-- ROUNDS SECONDS]` prints the rate of each round, the median of
//! the ratios and the CPU of the driver per message. Needs a nats-server (`jsbench server
//! install`). Speed is shown here and asserted nowhere.

#![allow(
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints its result"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use jsbench::engine::run::{Access, Interrupts, Request, run};
use jsbench::nats::connect::connect;
use jsbench::nats::endpoint::{Auth, Endpoint};
use jsbench::record::event::{Manifest, RunEvent, TrialResult};
use jsbench::scenario::model::{
    Ack, Arrivals, Cell, CellSpec, ClientKind, Consumer, ConsumerKind, Deliver, Embedded,
    Encryption, External, Layout, Length, Pacing, Payload, Publish, PublishMode, Rate, Retention,
    Scenario, Share, Storage, Stream, SyncInterval, Target, Workload,
};
use jsbench::scenario::plan::Room;
use jsbench::target::{Guard, Search, Servers, StartOptions, find, start};

const PAYLOAD_BYTES: u64 = 512;
const WINDOW: u64 = 1_000;
const WARMUP: Duration = Duration::from_millis(500);

fn main() -> anyhow::Result<()> {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let rounds = numbers.first().copied().unwrap_or(7);
    let length = Duration::from_secs(numbers.get(1).copied().unwrap_or(3));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let guard = Guard::spawn(Path::new(env!("CARGO_BIN_EXE_jsbench")))?;
    let servers = runtime.block_on(start(
        &embedded(),
        &StartOptions {
            binary: find(&Search::from_environment(None))?.path,
            run_id: "00000000000000be".to_owned(),
            max_file_bytes: 16 << 30,
            max_mem_bytes: 1 << 30,
            guard: guard.clone(),
        },
    ))?;
    let endpoint = endpoint(&servers)?;
    println!(
        "async publish, {PAYLOAD_BYTES} B, R1 file, window {WINDOW}, {} s a round, server {}",
        length.as_secs(),
        servers.infos().first().map_or("", |i| &i.version)
    );
    let (mut ratios, mut cpus) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let bare = bare(&endpoint, length)?;
        let harness = runtime.block_on(harness(&endpoint, &servers, length))?;
        let rate = harness.window_acked as f64 / (harness.window_ns as f64 / 1e9);
        let cpu_us = harness.resources.driver_cpu_ns_per_msg.unwrap_or(f64::NAN) / 1e3;
        println!(
            "round {round}: bare {:>9.0}/s {:>5.2} us/msg   harness {rate:>9.0}/s {cpu_us:>5.2} us/msg   ratio {:.3}",
            bare.rate,
            bare.cpu_us,
            rate / bare.rate
        );
        ratios.push(rate / bare.rate);
        cpus.push(cpu_us);
    }
    println!(
        "median ratio harness/bare {:.3} [{:.3}, {:.3}], driver CPU {:.2} us/msg",
        median(&mut ratios),
        ratios[0],
        ratios[ratios.len() - 1],
        median(&mut cpus)
    );
    runtime.block_on(servers.stop(false))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bare {
    rate: f64,
    cpu_us: f64,
}

/// Publishes with a sliding window and counts acks; records nothing else. On a thread with an
/// event loop of its own, as a worker is.
fn bare(endpoint: &Endpoint, length: Duration) -> anyhow::Result<Bare> {
    let endpoint = endpoint.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let client = connect(&endpoint).await?;
            let api = jsbench::nats::api::Api::new(client.clone(), "$JS.API");
            let config = jsbench::nats::config::StreamConfig {
                name: "BARE".to_owned(),
                subjects: vec!["bare.>".to_owned()],
                ..Default::default()
            };
            api.create_stream(&config).await?;
            let inbox = client.new_inbox();
            let mut acks = client.subscribe(format!("{inbox}.*")).await?;
            let payload = Bytes::from(vec![7; PAYLOAD_BYTES as usize]);
            let subject = async_nats::Subject::from("bare.x");
            let (mut sent, mut acked) = (0_u64, 0_u64);
            let begun = Instant::now();
            let mut marks = None;
            loop {
                while sent - acked < WINDOW {
                    let reply = format!("{inbox}.{sent}");
                    client
                        .publish_with_reply(subject.clone(), reply, payload.clone())
                        .await?;
                    sent += 1;
                }
                acks.next().await.context("closed")?;
                acked += 1;
                while let Some(Some(_)) = acks.next().now_or_never() {
                    acked += 1;
                }
                let elapsed = begun.elapsed();
                if marks.is_none() && elapsed >= WARMUP {
                    marks = Some((acked, elapsed, cpu_ns()));
                }
                if elapsed >= WARMUP + length {
                    break;
                }
            }
            let (first, from, cpu) = marks.context("no window")?;
            let seconds = begun.elapsed().saturating_sub(from).as_secs_f64();
            let messages = (acked - first) as f64;
            let used = (cpu_ns() - cpu) as f64;
            api.delete_stream("BARE").await?;
            Ok(Bare {
                rate: messages / seconds,
                cpu_us: used / 1e3 / messages,
            })
        })
    })
    .join()
    .map_err(|_| anyhow::anyhow!("the bare loop panicked"))?
}

fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// One trial of the engine against the same server.
async fn harness(
    endpoint: &Endpoint,
    servers: &Servers,
    length: Duration,
) -> anyhow::Result<TrialResult> {
    let target = Target::External(External::default());
    let cell = Cell {
        id: "base".to_owned(),
        factors: BTreeMap::new(),
        spec: spec(target.clone(), length),
    };
    let request = Request {
        scenario: Scenario {
            name: "bench".to_owned(),
            question: None,
            hypothesis: None,
            axes: Vec::new(),
            repeat: 1,
            cells: vec![cell],
            path: None,
            file_sha256: String::new(),
            resolved_toml: String::new(),
        },
        manifest: serde_json::from_value::<Manifest>(serde_json::json!({
            "schema": "", "run_id": "00000000000000bf", "seed": 1, "started_at": "", "servers": [],
            "scenario": {"name": "bench", "path": null, "file_sha256": "", "resolved": "", "question": null,
                "hypothesis": null, "axes": []},
            "tool": {"version": "", "git": null}, "calibration": null, "command": "", "target": "",
            "host": {"os": "", "arch": "", "cpu": null, "cpus": 2, "memory": null},
            "shared_host": true, "planned_trials": 1, "cells": []
        }))?,
        run: 0xbf,
        binary: None,
        guard: None,
        access: vec![(
            target,
            Access {
                endpoint: endpoint.clone(),
                monitors: servers.monitor_urls(),
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

fn spec(target: Target, length: Duration) -> CellSpec {
    CellSpec {
        target,
        stream: Stream {
            layout: Layout::Shared,
            storage: Storage::File,
            replicas: 1,
            retention: Retention::Limits,
            discard_new: false,
            max_bytes: None,
            max_msgs: None,
            max_msgs_per_subject: None,
            max_age: None,
            duplicate_window: None,
            compression: false,
            persist_async: false,
            existing: None,
        },
        consumer: Consumer {
            kind: ConsumerKind::None,
            ack: Ack::None,
            max_ack_pending: 1_000,
            ack_wait: Duration::from_secs(30),
            max_deliver: None,
            deliver: Deliver::All,
            replicas: None,
            memory: false,
            flow_control: true,
            batch: 500,
            share: Share::None,
        },
        publish: Publish {
            mode: PublishMode::Async,
            window: WINDOW as u32,
            message_id: false,
            timeout: Duration::from_secs(5),
            subject: None,
        },
        workload: Workload {
            pods: 1,
            apps: 1,
            types: 1,
            publishers: 1,
            subscribers: 0,
            payload: Payload::Random {
                size_bytes: PAYLOAD_BYTES,
                compressible: 0.0,
            },
            rate: Rate::Max,
            arrivals: Arrivals::Uniform,
            pacing: Pacing::Sleep,
            length: Length::Duration(length),
            client: ClientKind::AsyncNats,
            connections: None,
            prefill: 0,
            drain: Duration::from_secs(30),
        },
        warmup: WARMUP,
        expect: Vec::new(),
        absences: Vec::new(),
    }
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

fn endpoint(servers: &Servers) -> anyhow::Result<Endpoint> {
    let mut endpoint = Endpoint::parse(&servers.urls().join(","))?;
    let (user, password) = servers.credentials();
    endpoint.auth = Auth::UserPassword {
        user: user.to_owned(),
        password: password.clone(),
    };
    Ok(endpoint)
}
