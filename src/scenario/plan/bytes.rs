//! How many bytes messages take: on the wire beside their payload, in streams, in raft logs, and
//! their subjects in the driver.

use super::super::model::{
    CellSpec, ConsumerKind, Publish, PublishMode, Storage, StreamKind, Target,
};
use super::{payload, streams, total_prefill};

/// Bytes of `jsb.<id>.t<trial>.app<k>.type<j>`.
const SUBJECT_BYTES: u64 = 28;
/// By how much `$KV.JSB_<id>_t<trial>.app<k>.type<j>` is longer.
const BUCKET_BYTES: u64 = 5;
/// `NATS/1.0` and the line breaks around all headers.
const HEAD_BYTES: u64 = 12;
/// `Nats-Msg-Id` and its value.
const MESSAGE_ID_BYTES: u64 = 40;
/// `Nats-Batch-Id`, `-Sequence` and `-Commit` with their values.
const BATCH_BYTES: u64 = 100;
/// Colon, space and line break of a header.
const PER_HEADER_BYTES: u64 = 4;
/// What the driver holds of a subject beside its text.
const SUBJECT_OVERHEAD_BYTES: u64 = 56;

/// Bytes of a message's headers, which count as payload; 0 without any.
pub(in crate::scenario) fn header_bytes(publish: &Publish) -> u64 {
    let own = publish.headers.iter();
    let own: u64 = own
        .map(|(name, value)| (name.len() + value.len()) as u64 + PER_HEADER_BYTES)
        .sum();
    let ttl = publish.ttl.map_or(0, |ttl| {
        let seconds = format!("{}s", ttl.as_secs());
        ("Nats-TTL".len() + seconds.len()) as u64 + PER_HEADER_BYTES
    });
    let id = if publish.message_id {
        MESSAGE_ID_BYTES
    } else {
        0
    };
    let batch = match publish.mode {
        PublishMode::AtomicBatch => BATCH_BYTES,
        _ => 0,
    };
    match own + ttl + id + batch {
        0 => 0,
        headers => HEAD_BYTES + headers,
    }
}

/// Bytes of one stored message as the server counts them: in a file 22 + subject + payload + 8
/// and 4 + headers, in memory subject + payload + headers + 16.
pub(super) fn record_bytes(spec: &CellSpec) -> u64 {
    let headers = header_bytes(&spec.publish);
    let message = subject_bytes(spec) + payload(spec) + headers;
    match spec.stream.storage {
        Storage::File => 30 + message + if headers > 0 { 4 } else { 0 },
        Storage::Memory => 16 + message,
    }
}

fn subject_bytes(spec: &CellSpec) -> u64 {
    if let Some(subject) = &spec.publish.subject {
        return subject.len() as u64;
    }
    let digits = |n: u32| u64::from(n.checked_ilog10().unwrap_or(0)) + 1;
    // `.p<publisher>.k<key>`
    let key = spec.workload.keys.map_or(0, |keys| {
        let publishers = spec.workload.pods.saturating_mul(spec.workload.publishers);
        4 + digits(publishers) + digits(keys)
    });
    let bucket = match spec.stream.kind {
        StreamKind::Kv => BUCKET_BYTES,
        StreamKind::Stream => 0,
    };
    SUBJECT_BYTES + bucket + key
}

/// Subjects that are published to; each publisher, prefilling ones too, has keys of its own.
fn subjects(spec: &CellSpec) -> u64 {
    let load = &spec.workload;
    let types = u64::from(load.types);
    match load.keys {
        None => u64::from(load.apps) * types,
        Some(keys) => {
            let each = u64::from(load.publishers) + u64::from(load.prefill > 0);
            let publishers = u64::from(load.pods).saturating_mul(each);
            publishers
                .saturating_mul(types)
                .saturating_mul(u64::from(keys))
        }
    }
}

/// What the driver holds of subjects where they are keys.
pub(super) fn subjects_bytes(spec: &CellSpec) -> u64 {
    let load = &spec.workload;
    if load.keys.is_none() {
        return 0;
    }
    // In a bucket a subscriber that gets has a list of all that it asks for.
    let asked = if spec.consumer.kind == ConsumerKind::Get && spec.stream.kind == StreamKind::Kv {
        super::deliveries(spec, total_prefill(spec))
    } else {
        0
    };
    // Held by the plan of a trial, by the assignment of a worker and by the publisher.
    subjects(spec)
        .saturating_mul(3)
        .saturating_add(asked)
        .saturating_mul(subject_bytes(spec) + SUBJECT_OVERHEAD_BYTES)
}

/// Bytes that one replica of all streams holds after so many messages, within their limits.
pub(super) fn stream_bytes(spec: &CellSpec, messages: u64) -> u64 {
    if spec.publish.mode.is_core() || matches!(spec.target, Target::Stub(_)) {
        return 0;
    }
    let streams = streams(spec);
    let within = |limit: Option<u64>, of: u64| limit.map_or(u64::MAX, |n| n.saturating_mul(of));
    messages
        .saturating_add(total_prefill(spec))
        .min(within(spec.stream.max_msgs, streams))
        .min(within(spec.stream.max_msgs_per_subject, subjects(spec)))
        .saturating_mul(record_bytes(spec))
        .min(within(spec.stream.max_bytes, streams))
}

/// Bytes of all replicas; with the raft log, which each replica writes as well and compacts later.
pub(super) fn replicated(spec: &CellSpec, messages: u64, with_log: bool) -> u64 {
    let replicas = u64::from(spec.stream.replicas);
    let mut each = stream_bytes(spec, messages);
    if with_log && replicas > 1 && !spec.publish.mode.is_core() {
        let message = payload(spec) + header_bytes(&spec.publish);
        let entry = message + message / 10 + 110;
        let all = messages.saturating_add(total_prefill(spec));
        each = each.saturating_add(all.saturating_mul(entry));
    }
    each.saturating_mul(replicas)
}
