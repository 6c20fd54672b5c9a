//! How async publish scales with publishers, connections and event loops: measured, to say what the
//! defaults cost. The driver's own client, 128 B, R1 file, 500 in flight per publisher, against one
//! server on the same machine.
//!
//! `cargo bench --bench scale [-- ROUNDS SECONDS]` prints a Markdown table of medians; rounds go
//! through all rows in turn, so that a noisy machine is noisy for all. Needs a nats-server (`jsbench
//! server install`). Speed is shown here and asserted nowhere.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a benchmark prints its result"
)]

mod drive;

use std::time::Duration;

use drive::{Cost, Site, Spread};
use jsbench::scenario::model::{Publish, Workload};

const PAYLOAD_BYTES: u64 = 128;
const WINDOW: u32 = 500;
const PUBLISHERS: [u32; 4] = [1, 2, 4, 8];
const THREADS: [u32; 2] = [1, 2];

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    publishers: u32,
    connections: u32,
    threads: u32,
}

/// All that make a difference: an event loop has a publisher and a connection of its own.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for publishers in PUBLISHERS {
        for connections in [1, publishers] {
            for threads in THREADS.into_iter().filter(|n| *n <= connections) {
                let row = Row {
                    publishers,
                    connections,
                    threads,
                };
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
    }
    rows
}

fn main() -> anyhow::Result<()> {
    let (rounds, length) = drive::arguments(7, 3);
    let site = Site::start()?;
    println!(
        "async publish, {PAYLOAD_BYTES} B, R1 file, window {WINDOW} per publisher, {rounds} rounds of \
         {} s, server {}; medians of rounds [least, most]\n",
        length.as_secs(),
        site.version()
    );
    let rows = rows();
    let mut costs = vec![Vec::new(); rows.len()];
    for round in 0..rounds {
        eprintln!("round {round}");
        for (row, costs) in rows.iter().zip(&mut costs) {
            costs.push(measure(&site, *row, length)?);
        }
    }
    println!(
        "| publishers | connections | threads | acked/s | rate / first row | driver CPU, us/msg |"
    );
    println!("|---|---|---|---|---|---|");
    for (row, of_row) in rows.iter().zip(&costs) {
        let per_s = Spread::of(of_row.iter().map(|c| c.per_s));
        // Of the same round: what disturbed one disturbed the other.
        let ratio = Spread::of(
            of_row
                .iter()
                .zip(&costs[0])
                .map(|(c, one)| c.per_s / one.per_s),
        );
        let cpu_us = Spread::of(of_row.iter().map(|c| c.cpu_us));
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            row.publishers,
            row.connections,
            row.threads,
            per_s.shown(0),
            ratio.shown(2),
            cpu_us.shown(2)
        );
    }
    site.stop()
}

fn measure(site: &Site, row: Row, length: Duration) -> anyhow::Result<Cost> {
    let publish = Publish {
        window: WINDOW,
        ..Publish::default()
    };
    let workload = Workload {
        publishers: row.publishers,
        connections: Some(row.connections),
        threads: row.threads,
        ..Workload::default()
    };
    site.trial(PAYLOAD_BYTES, publish, workload, length)
}
