//! `[workload]`: who does how much, how fast and for how long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::check::Check;
use super::super::model::{Length, Payload, Rate, Stream, StreamKind, Workload};
use super::super::program::Program;
use super::super::wire::{self, PayloadKind, RateText, Text, Workers};
use super::Beside;

/// Random bytes do not compress unless the scenario says so.
const DEFAULT_COMPRESSIBLE: f64 = 0.0;
/// Every payload begins with its identity (`docs/FORMAT.md`).
const SMALLEST_PAYLOAD: u64 = 40;
/// More event loops in one process than any host serves well.
const MOST_THREADS: u32 = 64;
/// Keys of a publisher in a bucket that is not filled before.
const DEFAULT_KEYS: u32 = 1_000;
/// Each key is a subject that is made before the load begins.
const MOST_KEYS: u32 = 1_000_000;

pub(super) fn convert(
    check: &mut Check<'_, '_>,
    wire: &wire::Workload,
    nobody_reads: bool,
    stream: &Stream,
    beside: &mut Beside<'_>,
) -> Workload {
    check.choose("workload.path", wire.path, wire::Path);
    check.choose("workload.workers", wire.workers, Workers);
    let default = Workload::default();
    let arrivals = check.choose("workload.arrivals", wire.arrivals, default.arrivals);
    let pods = wire.pods.unwrap_or(default.pods);
    // One subject of an existing stream serves one app.
    let apps = if stream.existing.is_some() { 1 } else { pods };
    let apps = wire.apps.unwrap_or(apps);
    let types = wire.types.unwrap_or(default.types);
    let threads = wire.threads.unwrap_or(default.threads);
    for (path, zero) in [
        ("workload.pods", pods == 0),
        ("workload.apps", apps == 0),
        ("workload.types", types == 0),
        ("workload.connections", wire.connections == Some(0)),
        ("workload.threads", threads == 0),
        ("workload.keys", wire.keys == Some(0)),
    ] {
        check.not_zero(path, zero, "write 1 or more");
    }
    if threads > MOST_THREADS {
        check.refuse(
            &["workload.threads"],
            format!("{threads} event loops per pod"),
            format!("write at most {MOST_THREADS}, about as many as there are CPUs"),
        );
        check.broken.insert("workload.threads".to_owned());
    }
    let rate = rate(check, wire.rate.as_ref(), beside);
    let publishers = wire.publishers.unwrap_or(default.publishers);
    let prefill = wire.prefill.unwrap_or(default.prefill);
    Workload {
        pods,
        apps,
        types,
        publishers,
        subscribers: wire.subscribers.unwrap_or(u32::from(!nobody_reads)),
        payload: payload(check, wire.payload.as_ref(), beside.base),
        length: length(check, wire, publishers, &rate),
        rate,
        arrivals,
        pacing: check.choose("workload.pacing", wire.pacing, default.pacing),
        client: check.choose("workload.client", wire.client, default.client),
        connections: wire.connections,
        threads,
        keys: keys(check, wire.keys, stream.kind, prefill),
        prefill,
        drain: wire.drain.map_or(default.drain, |d| d.0.0),
    }
}

/// Keys of each publisher. A bucket always has some: enough for all that is filled in.
fn keys(
    check: &mut Check<'_, '_>,
    wire: Option<u32>,
    kind: StreamKind,
    prefill: u64,
) -> Option<u32> {
    if wire.is_some_and(|keys| keys > MOST_KEYS) {
        check.refuse(
            &["workload.keys"],
            format!(
                "{} keys for each publisher",
                check.written("workload.keys", "")
            ),
            format!("write at most {MOST_KEYS}, or more `publishers`"),
        );
        return Some(MOST_KEYS);
    }
    let of_bucket = match prefill {
        0 => DEFAULT_KEYS,
        n => u32::try_from(n).unwrap_or(MOST_KEYS).min(MOST_KEYS),
    };
    wire.or((kind == StreamKind::Kv).then_some(of_bucket))
}

fn rate(check: &mut Check<'_, '_>, wire: Option<&Text<RateText>>, beside: &mut Beside<'_>) -> Rate {
    match wire {
        None | Some(Text(RateText::Max)) => Rate::Max,
        Some(Text(RateText::Constant(per_s))) => Rate::Open(Arc::new(Program::constant(*per_s))),
        Some(Text(RateText::Program(program))) => Rate::Open(Arc::new(program.clone())),
        Some(Text(RateText::Replay(path))) => match beside.rates(path) {
            Ok(program) => Rate::Open(program),
            Err(wrong) => {
                check.refuse(&["workload.rate"], wrong.what, wrong.cure);
                check.broken.insert("workload.rate".to_owned());
                Rate::Max
            }
        },
    }
}

fn length(
    check: &mut Check<'_, '_>,
    wire: &wire::Workload,
    publishers: u32,
    rate: &Rate,
) -> Length {
    let duration = wire.duration.map(|d| d.0.0);
    check.not_zero(
        "workload.duration",
        duration == Some(Duration::ZERO),
        "write for example `duration = \"30s\"`",
    );
    if duration.is_some() && wire.messages.is_some() {
        check.refuse(
            &["workload.messages", "workload.duration"],
            "both `workload.duration` and `workload.messages` are set",
            "keep one: a span of time, or a number of messages per pod",
        );
    }
    let Some(messages) = wire.messages else {
        let program = match rate {
            Rate::Open(program) if !program.is_constant() => Some(program.length()),
            _ => None,
        };
        return match duration.or(program) {
            Some(duration) => Length::Duration(duration),
            None => Workload::default().length,
        };
    };
    if messages < u64::from(publishers.max(1)) {
        check.refuse(
            &["workload.messages"],
            format!("{messages} messages per pod do not reach its {publishers} publishers"),
            "write at least one message per publisher",
        );
    }
    Length::Messages(messages)
}

fn payload(check: &mut Check<'_, '_>, wire: Option<&wire::Payload>, base: &Path) -> Payload {
    let payload = match wire {
        None => Workload::default().payload,
        Some(wire::Payload::Size(size)) => random(*size),
        Some(wire::Payload::Table(table)) => payload_table(check, table, base),
    };
    let size = payload.size_bytes();
    if size < SMALLEST_PAYLOAD {
        check.refuse(
            &["workload.payload.size", "workload.payload"],
            format!("a payload of {size} bytes has no room for the identity of a message"),
            "write \"40B\" or more",
        );
    }
    payload
}

fn random(size_bytes: u64) -> Payload {
    Payload::Random {
        size_bytes,
        compressible: DEFAULT_COMPRESSIBLE,
    }
}

fn payload_table(check: &mut Check<'_, '_>, table: &wire::PayloadTable, base: &Path) -> Payload {
    let at = "workload.payload";
    let Some(kind) = table.kind else {
        check.refuse(
            &["workload.payload.kind"],
            "a payload table without `kind`",
            "write `kind = \"random\"` with a size, or `kind = \"file\"` with a path",
        );
        return Workload::default().payload;
    };
    let kind = check.choose("workload.payload.kind", Some(kind), PayloadKind::Random);
    let foreign: &[&str] = match kind {
        PayloadKind::Random => &["path"],
        PayloadKind::File => &["size", "compressible"],
    };
    for key in foreign {
        let path = format!("{at}.{key}");
        if check.is_set(&path) {
            check.refuse(
                &[&path],
                format!("`{path}` belongs to a payload of another kind"),
                format!("take `{key}` out, or change `{at}.kind`"),
            );
        }
    }
    if kind == PayloadKind::File {
        return file(check, table.path.as_deref(), base);
    }
    let Some(Text(size)) = table.size else {
        check.refuse(
            &["workload.payload.size", "workload.payload.kind"],
            "a random payload without a size",
            "write `size = \"10KiB\"`",
        );
        return Workload::default().payload;
    };
    let compressible = table.compressible.unwrap_or(DEFAULT_COMPRESSIBLE);
    if !(0.0..=1.0).contains(&compressible) {
        check.refuse(
            &["workload.payload.compressible"],
            format!("`{at}.compressible` is {compressible}"),
            "write a share from 0.0 (noise) to 1.0 (zeroes)",
        );
    }
    Payload::Random {
        size_bytes: size.0,
        compressible,
    }
}

fn file(check: &mut Check<'_, '_>, path: Option<&str>, base: &Path) -> Payload {
    let Some(path) = path else {
        check.refuse(
            &["workload.payload.path", "workload.payload.kind"],
            "a payload from a file without its path",
            "write `path = \"sample.json\"`, relative to the scenario file",
        );
        return Workload::default().payload;
    };
    let full = base.join(path);
    match std::fs::metadata(&full) {
        Ok(meta) if meta.is_file() => Payload::File {
            path: full,
            size_bytes: meta.len(),
        },
        found => {
            let why = found
                .err()
                .map_or("not a file".to_owned(), |e| e.to_string());
            check.refuse(
                &["workload.payload.path"],
                format!(
                    "the payload file `{}` cannot be read: {why}",
                    full.display()
                ),
                "name a file; the path is relative to the scenario file",
            );
            Workload::default().payload
        }
    }
}
