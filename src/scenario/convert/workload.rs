//! `[workload]`: who does how much, how fast and for how long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::check::Check;
use super::super::model::{Arrivals, ClientKind, Length, Pacing, Payload, Rate, Stream, Workload};
use super::super::program::Program;
use super::super::wire::{self, PayloadKind, RateText, Text, Workers};
use super::Beside;

const DEFAULT_PAYLOAD_BYTES: u64 = 1024;
const DEFAULT_DURATION: Duration = Duration::from_secs(30);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// Random bytes do not compress unless the scenario says so.
const DEFAULT_COMPRESSIBLE: f64 = 0.0;
/// Every payload begins with its identity (`docs/FORMAT.md`).
const SMALLEST_PAYLOAD: u64 = 40;

pub(super) fn convert(
    check: &mut Check<'_, '_>,
    wire: &wire::Workload,
    nobody_reads: bool,
    stream: &Stream,
    beside: &mut Beside<'_>,
) -> Workload {
    check.choose("workload.path", wire.path, wire::Path);
    check.choose("workload.workers", wire.workers, Workers);
    let arrivals = check.choose("workload.arrivals", wire.arrivals, Arrivals::Uniform);
    let pods = wire.pods.unwrap_or(1);
    // One subject of an existing stream serves one app.
    let apps = if stream.existing.is_some() { 1 } else { pods };
    let apps = wire.apps.unwrap_or(apps);
    let types = wire.types.unwrap_or(1);
    for (path, zero) in [
        ("workload.pods", pods == 0),
        ("workload.apps", apps == 0),
        ("workload.types", types == 0),
        ("workload.connections", wire.connections == Some(0)),
    ] {
        check.not_zero(path, zero, "write 1 or more");
    }
    let rate = rate(check, wire.rate.as_ref(), beside);
    let publishers = wire.publishers.unwrap_or(1);
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
        pacing: check.choose("workload.pacing", wire.pacing, Pacing::Sleep),
        client: check.choose("workload.client", wire.client, ClientKind::AsyncNats),
        connections: wire.connections,
        prefill: wire.prefill.unwrap_or(0),
        drain: wire.drain.map_or(DEFAULT_DRAIN, |d| d.0.0),
    }
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
        return Length::Duration(duration.or(program).unwrap_or(DEFAULT_DURATION));
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
        None => random(DEFAULT_PAYLOAD_BYTES),
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
        return random(DEFAULT_PAYLOAD_BYTES);
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
        return random(DEFAULT_PAYLOAD_BYTES);
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
        return random(DEFAULT_PAYLOAD_BYTES);
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
            random(DEFAULT_PAYLOAD_BYTES)
        }
    }
}
