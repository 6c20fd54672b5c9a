//! From the wire structs of one cell to its domain values: defaults, and what each table may say
//! on its own. What tables say together is judged by `rules`.

mod consumer;
mod expect;
mod publish;
mod replay;
mod stream;
mod target;
mod workload;

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::Check;
use super::decode::decode;
use super::diagnostic::Findings;
use super::model::{CellSpec, Target};
use super::rules;
use super::tree::Table;
use super::wire;

pub(super) use replay::Beside;

/// Repeats of each cell when the scenario does not say.
pub(super) const DEFAULT_REPEAT: u32 = 5;
const DEFAULT_WARMUP: Duration = Duration::from_secs(5);

/// Converts one cell; errors go to `check`. `beside` holds what lies beside the scenario file.
pub(super) fn cell(
    check: &mut Check<'_, '_>,
    wire: wire::Scenario,
    beside: &mut Beside<'_>,
) -> CellSpec {
    not_yet(check, &wire);
    let target = target::convert(check, wire.target);
    let stream = stream::convert(check, wire.stream);
    let publish = publish::convert(check, wire.publish);
    let nobody_reads = matches!(target, Target::Stub(_)) || consumer::is_none(&wire.consumer);
    let workload = workload::convert(check, &wire.workload, nobody_reads, &stream, beside);
    let consumer = consumer::convert(check, &wire.consumer, &workload, publish.mode, stream.kind);
    let (expect, absences) = expect::convert(check, &wire.expect);
    let spec = CellSpec {
        target,
        stream,
        consumer,
        publish,
        workload,
        warmup: wire.trials.warmup.map_or(DEFAULT_WARMUP, |w| w.0.0),
        expect,
        absences,
    };
    rules::judge(check, &spec);
    spec
}

/// Checks what the file says of its target when another takes its place.
pub(super) fn target_alone(tree: &Table<'_>, findings: &mut Findings) {
    let mut broken = BTreeSet::new();
    let wire: wire::Scenario = decode(tree, findings, &mut broken);
    let mut check = Check {
        tree,
        findings,
        broken,
    };
    target::convert(&mut check, wire.target);
}

/// Tables of the format that this version does not run.
fn not_yet(check: &mut Check<'_, '_>, wire: &wire::Scenario) {
    if wire.http.is_some() {
        check.later("http", "the table `[http]`", "take the table out");
    }
    if wire.search.is_some() {
        let cure = "take the table out and list rates in an axis: `[matrix] workload.rate = [\"1k/s\", \"2k/s\"]`";
        check.later("search", "the table `[search]`", cure);
    }
    if !wire.fault.is_empty() {
        check.later("fault", "a `[[fault]]`", "take the table out");
    }
}
