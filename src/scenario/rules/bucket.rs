//! A key-value bucket is a stream with rules of its own, which its clients rely on.

use super::super::check::Check;
use super::super::model::{CellSpec, ConsumerKind, Deliver, PublishMode, Retention, StreamKind};
use crate::units::thousands;

/// The most values of a key that clients of buckets ask for.
const MAX_HISTORY: u64 = 64;

pub(super) fn judge(check: &mut Check<'_, '_>, spec: &CellSpec) {
    if spec.stream.kind != StreamKind::Kv {
        return;
    }
    stream(check, spec);
    let mode = check.written("publish.mode", "async");
    if !matches!(spec.publish.mode, PublishMode::Sync | PublishMode::Async) {
        check.refuse(
            &["publish.mode", "stream.kind"],
            format!("a bucket takes puts, each with an ack, and `publish.mode` is {mode}"),
            "write `mode = \"sync\"` or \"async\", or `kind = \"stream\"` under [stream]",
        );
    }
    if spec.consumer.kind == ConsumerKind::Get && spec.consumer.batch > 1 {
        check.refuse(
            &["consumer.batch", "consumer.kind", "stream.kind"],
            format!(
                "a bucket is asked for one key at a time, and `consumer.batch` is {}",
                spec.consumer.batch
            ),
            "take `batch` out, or write `kind = \"stream\"` under [stream]",
        );
    }
    drain(check, spec);
}

fn stream(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let stream = &spec.stream;
    let retention = check.written("stream.retention", "limits");
    let history = stream.max_msgs_per_subject.unwrap_or(1);
    let wrong = [
        (
            "stream.existing",
            stream.existing.is_some(),
            "a bucket is made by jsbench, and `stream.existing` names a stream".to_owned(),
            "take `existing` out, or write `kind = \"stream\"`",
        ),
        (
            "stream.retention",
            stream.retention != Retention::Limits,
            format!("a bucket keeps what is in it, and `stream.retention` is {retention}"),
            "take `retention` out, or write `kind = \"stream\"`",
        ),
        (
            "stream.discard",
            !stream.discard_new,
            "a full bucket refuses puts, and `stream.discard` is old".to_owned(),
            "take `discard` out, or write `kind = \"stream\"`",
        ),
        (
            "stream.max_msgs_per_subject",
            history > MAX_HISTORY,
            format!("a bucket keeps at most {MAX_HISTORY} values of a key, and not {history}"),
            "write a smaller `max_msgs_per_subject`, or `kind = \"stream\"`",
        ),
    ];
    for (path, wrong, message, cure) in wrong {
        if wrong {
            check.refuse(&[path, "stream.kind"], message, cure);
        }
    }
}

/// A drain ends when each message was received that was filled in: none may be overwritten.
fn drain(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let load = &spec.workload;
    if load.publishers > 0 {
        return;
    }
    let keys = u64::from(load.keys.unwrap_or(0)) * u64::from(load.types);
    let one =
        spec.consumer.kind == ConsumerKind::Get || spec.consumer.deliver == Deliver::LastPerSubject;
    let values = match spec.stream.max_msgs_per_subject {
        Some(history) if !one => history,
        _ => 1,
    };
    if keys.saturating_mul(values) < load.prefill {
        check.refuse(
            &["workload.keys", "workload.prefill", "stream.kind"],
            format!(
                "{} puts to the {} keys of a pod: some would be overwritten before they are read",
                thousands(load.prefill),
                thousands(keys)
            ),
            "take `keys` out, or write a smaller `prefill`",
        );
    }
}
