//! `[stream]` and `[publish]`.

use std::time::Duration;

use super::super::check::Check;
use super::super::model::{Layout, Publish, PublishMode, Retention, Storage, Stream};
use super::super::wire::{self, Compression, Discard, Persist};

const DEFAULT_WINDOW: u32 = 1_000;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server's smallest for ages and windows.
const SHORTEST: Duration = Duration::from_millis(100);

pub(super) fn convert(check: &mut Check<'_, '_>, wire: wire::Stream) -> Stream {
    let replicas = wire.replicas.unwrap_or(1);
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
        layout: check.choose("stream.layout", wire.layout, Layout::Shared),
        storage: check.choose("stream.storage", wire.storage, Storage::File),
        replicas,
        retention: check.choose("stream.retention", wire.retention, Retention::Limits),
        discard_new: check
            .choose("stream.discard", wire.discard, Discard(false))
            .0,
        max_bytes,
        max_msgs: wire.max_msgs,
        max_msgs_per_subject: wire.max_msgs_per_subject,
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

pub(super) fn publish(check: &mut Check<'_, '_>, wire: wire::Publish) -> Publish {
    let mode = check.choose("publish.mode", wire.mode, PublishMode::Async);
    if wire.retries.is_some_and(|n| n > 0) {
        check.later(
            "publish.retries",
            "publishing again",
            "write `retries = 0` or take the key out",
        );
    }
    if let Some(ratio) = wire.duplicate_ratio {
        if ratio > 0.0 {
            check.later(
                "publish.duplicate_ratio",
                "publishing duplicates on purpose",
                "write `duplicate_ratio = 0.0` or take the key out",
            );
        } else if ratio < 0.0 || ratio.is_nan() {
            check.refuse(
                &["publish.duplicate_ratio"],
                format!("`publish.duplicate_ratio` is {ratio}"),
                "write a share from 0.0 to 1.0",
            );
        }
    }
    let timeout = wire.timeout.map_or(DEFAULT_TIMEOUT, |t| t.0.0);
    check.not_zero(
        "publish.timeout",
        timeout.is_zero(),
        "write for example `timeout = \"5s\"`",
    );
    if let Some(subject) = &wire.subject
        && !is_subject(subject)
    {
        check.refuse(
            &["publish.subject"],
            format!("`{subject}` is not a subject to publish to"),
            "write tokens with dots between and no wildcards, for example \"orders.new\"",
        );
    }
    Publish {
        mode,
        window: window(check, mode, wire.window),
        message_id: wire.message_id.unwrap_or(false),
        timeout,
        subject: wire.subject,
    }
}

/// Acks that the client holds for a publisher that is busy; it drops what is more.
const MAX_WINDOW: u32 = 65_536;

fn window(check: &mut Check<'_, '_>, mode: PublishMode, wire: Option<u32>) -> u32 {
    let paths = ["publish.window", "publish.mode"];
    match (mode, wire) {
        (_, Some(0)) => {
            check.refuse(
                &["publish.window"],
                "`publish.window` is 0: nothing could be in flight",
                "write 1 or more, for example `window = 1000`",
            );
            1
        }
        (_, Some(n)) if n > MAX_WINDOW => {
            check.refuse(
                &["publish.window"],
                format!(
                    "`publish.window` is {n}: the client keeps at most {MAX_WINDOW} acks waiting"
                ),
                "write 65536 or less, and spread more over several publishers",
            );
            MAX_WINDOW
        }
        (PublishMode::Sync, Some(n)) if n != 1 => {
            check.refuse(
                &paths,
                format!("mode \"sync\" has one message in flight, and `publish.window` is {n}"),
                "take `window` out, or write `mode = \"async\"`",
            );
            1
        }
        (PublishMode::Core, Some(n)) => {
            check.refuse(
                &paths,
                format!("mode \"core\" has no acks to wait for, and `publish.window` is {n}"),
                "take `window` out, or write `mode = \"async\"`",
            );
            1
        }
        (PublishMode::Async, n) => n.unwrap_or(DEFAULT_WINDOW),
        (PublishMode::Sync | PublishMode::Core, _) => 1,
    }
}

fn is_subject(subject: &str) -> bool {
    subject.len() < 256
        && subject.split('.').all(|token| {
            !token.is_empty() && !token.contains(['*', '>']) && !token.contains(char::is_whitespace)
        })
        && !subject.starts_with('$')
}
