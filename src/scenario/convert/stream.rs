//! `[stream]`.

use std::time::Duration;

use super::super::check::Check;
use super::super::model::{Stream, StreamKind};
use super::super::wire::{self, Compression, Discard, Persist};

/// The server's smallest for ages and windows.
const SHORTEST: Duration = Duration::from_millis(100);

pub(super) fn convert(check: &mut Check<'_, '_>, wire: wire::Stream) -> Stream {
    let default = Stream::default();
    let kind = check.choose("stream.kind", wire.kind, default.kind);
    let is_bucket = kind == StreamKind::Kv;
    let replicas = wire.replicas.unwrap_or(default.replicas);
    if !(1..=5).contains(&replicas) {
        check.refuse(
            &["stream.replicas"],
            format!("{replicas} replicas"),
            "write 1, 3 or 5",
        );
    }
    let max_bytes = wire.max_bytes.map(|b| b.0.0);
    for (path, zero) in [
        ("stream.max_bytes", max_bytes == Some(0)),
        ("stream.max_msgs", wire.max_msgs == Some(0)),
        (
            "stream.max_msgs_per_subject",
            wire.max_msgs_per_subject == Some(0),
        ),
    ] {
        check.not_zero(path, zero, "take the key out: without it there is no limit");
    }
    let max_age = wire.max_age.map(|a| a.0.0);
    let duplicate_window = wire.duplicate_window.map(|d| d.0.0);
    for (path, span) in [
        ("stream.max_age", max_age),
        ("stream.duplicate_window", duplicate_window),
    ] {
        if span.is_some_and(|s| s < SHORTEST) {
            check.refuse(
                &[path],
                format!(
                    "`{path}` is {}, shorter than the server takes",
                    check.written(path, "")
                ),
                "write \"100ms\" or more, or take the key out",
            );
        }
    }
    if let (Some(age), Some(window)) = (max_age, duplicate_window)
        && window > age
    {
        check.refuse(
            &["stream.duplicate_window", "stream.max_age"],
            "the duplicate window is longer than messages live",
            "make `duplicate_window` at most `max_age`",
        );
    }
    if wire
        .existing
        .as_ref()
        .is_some_and(|name| name.is_empty() || name.contains(['.', '*', '>', ' ', '/', '\\']))
    {
        check.refuse(
            &["stream.existing"],
            "`stream.existing` is not the name of a stream",
            "write the name that `nats stream ls` shows",
        );
    }
    Stream {
        kind,
        layout: check.choose("stream.layout", wire.layout, default.layout),
        storage: check.choose("stream.storage", wire.storage, default.storage),
        replicas,
        retention: check.choose("stream.retention", wire.retention, default.retention),
        discard_new: check
            .choose("stream.discard", wire.discard, Discard(is_bucket))
            .0,
        max_bytes,
        max_msgs: wire.max_msgs,
        // In a bucket: how many values of a key are kept.
        max_msgs_per_subject: wire.max_msgs_per_subject.or(is_bucket.then_some(1)),
        max_age,
        duplicate_window,
        compression: check
            .choose("stream.compression", wire.compression, Compression(false))
            .0,
        persist_async: check
            .choose("stream.persist", wire.persist, Persist(false))
            .0,
        existing: wire.existing,
    }
}
