//! What the harness costs: async publish through jsbench (histograms, identity, checksum, outcome
//! of every message), with each of its clients, against a bare loop on async-nats, in turn, against
//! one server.
//!
//! `cargo bench --bench publish [-- ROUNDS SECONDS]` prints a Markdown table: rate and CPU of the
//! driver per message of each round, then medians and the ratios to the bare loop. Needs a
//! nats-server (`jsbench server install`). Speed is shown here and asserted nowhere.

#![allow(
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints its result"
)]

mod drive;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use drive::{Cost, Site, Spread, WARMUP};
use futures_util::{FutureExt as _, StreamExt as _};
use jsbench::nats::connect::connect;
use jsbench::nats::endpoint::Endpoint;
use jsbench::scenario::model::{ClientKind, Publish, Workload};

const PAYLOAD_BYTES: u64 = 512;
const WINDOW: u64 = 1_000;

/// Who publishes, one a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A loop on async-nats that counts acks and records nothing.
    Bare,
    /// jsbench over this client.
    Harness(ClientKind),
}

impl Way {
    const ALL: [Self; 3] = [
        Self::Bare,
        Self::Harness(ClientKind::AsyncNats),
        Self::Harness(ClientKind::Wire),
    ];

    fn name(self) -> String {
        match self {
            Self::Bare => "bare async-nats".to_owned(),
            Self::Harness(client) => format!("jsbench over {}", client.word()),
        }
    }

    fn measure(self, site: &Site, length: Duration) -> anyhow::Result<Cost> {
        match self {
            Self::Bare => bare(&site.endpoint, length),
            Self::Harness(client) => {
                let publish = Publish {
                    window: WINDOW as u32,
                    ..Publish::default()
                };
                let workload = Workload {
                    client,
                    ..Workload::default()
                };
                site.trial(PAYLOAD_BYTES, publish, workload, length)
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    let (rounds, length) = drive::arguments(7, 3);
    let site = Site::start()?;
    println!(
        "async publish, {PAYLOAD_BYTES} B, R1 file, window {WINDOW}, {} s a round, server {}; acked/s and \
         CPU of the driver in us/msg\n",
        length.as_secs(),
        site.version()
    );
    let names = Way::ALL.map(|way| way.name() + " | CPU");
    println!("| round | {} |", names.join(" | "));
    println!("|---{}|", "|---|---".repeat(Way::ALL.len()));
    let mut costs = Way::ALL.map(|_| Vec::new());
    for round in 0..rounds {
        // Another one begins each round.
        for turn in 0..Way::ALL.len() {
            let at = (round as usize + turn) % Way::ALL.len();
            costs[at].push(Way::ALL[at].measure(&site, length)?);
        }
        let last = costs
            .each_ref()
            .map(|of| of.last().map_or_else(String::new, shown));
        println!("| {round} | {} |", last.join(" | "));
    }
    println!("\n| way | acked/s | CPU, us/msg | rate / bare | CPU / bare |");
    println!("|---|---|---|---|---|");
    for (way, of_way) in Way::ALL.iter().zip(&costs) {
        let bare = of_way.iter().zip(&costs[0]);
        println!(
            "| {} | {} | {} | {} | {} |",
            way.name(),
            Spread::of(of_way.iter().map(|c| c.per_s)).shown(0),
            Spread::of(of_way.iter().map(|c| c.cpu_us)).shown(2),
            Spread::of(bare.clone().map(|(c, bare)| c.per_s / bare.per_s)).shown(2),
            Spread::of(bare.map(|(c, bare)| c.cpu_us / bare.cpu_us)).shown(2),
        );
    }
    println!("\nmedians of rounds [least, most]; ratios are of the same round");
    site.stop()
}

fn shown(cost: &Cost) -> String {
    format!("{:.0} | {:.2}", cost.per_s, cost.cpu_us)
}

/// Publishes with a sliding window and counts acks; records nothing else. On a thread with an
/// event loop of its own, as a worker is.
fn bare(endpoint: &Endpoint, length: Duration) -> anyhow::Result<Cost> {
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
            Ok(Cost {
                per_s: messages / seconds,
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
