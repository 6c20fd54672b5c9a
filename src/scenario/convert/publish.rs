//! `[publish]`: what its own keys may say together.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::check::Check;
use super::super::model::{Publish, PublishMode};
use super::super::tree;
use super::super::wire;

pub(super) fn convert(check: &mut Check<'_, '_>, wire: wire::Publish) -> Publish {
    let default = Publish::default();
    let mode = check.choose("publish.mode", wire.mode, default.mode);
    if wire.retries.is_some_and(|n| n > 0) {
        check.later(
            "publish.retries",
            "publishing again",
            "write `retries = 0` or take the key out",
        );
    }
    let timeout = wire.timeout.map_or(default.timeout, |t| t.0.0);
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
    let window = window(check, mode, wire.window);
    let message_id = wire.message_id.unwrap_or(default.message_id);
    Publish {
        mode,
        window,
        batch: batch(check, mode, wire.batch, window),
        message_id,
        duplicate_ratio: duplicate_ratio(check, mode, wire.duplicate_ratio, message_id),
        ttl: ttl(check, mode, wire.ttl.map(|t| t.0.0)),
        headers: headers(check, wire.headers.unwrap_or_default()),
        timeout,
        subject: wire.subject,
    }
}

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
        (PublishMode::Async | PublishMode::AtomicBatch | PublishMode::FastIngest, n) => {
            n.unwrap_or(Publish::default().window)
        }
        (PublishMode::Request, n) => n.unwrap_or(1),
        (PublishMode::Sync | PublishMode::Core, _) => 1,
    }
}

/// Messages per ack; what the server allows is judged by `rules`.
fn batch(check: &mut Check<'_, '_>, mode: PublishMode, wire: Option<u32>, window: u32) -> u32 {
    let default = Publish::default().batch.min(window);
    let Some(batch) = wire else { return default };
    if !mode.has_group_acks() {
        let word = check.written("publish.mode", "async");
        check.refuse(
            &["publish.batch", "publish.mode"],
            format!("`publish.mode` is {word}: each message has an ack of its own, and no batch"),
            "take `batch` out, or write `mode = \"atomic-batch\"` or \"fast-ingest\"",
        );
    } else if batch == 0 {
        check.refuse(
            &["publish.batch"],
            "`publish.batch` is 0: nothing could be acked",
            "write 1 or more, or take the key out",
        );
    } else if batch > window {
        let written = check.written("publish.window", &window.to_string());
        check.refuse(
            &["publish.batch", "publish.window"],
            format!(
                "batches of {batch}, and `publish.window` is {written}: none would ever be full"
            ),
            "write a `batch` of at most `window`",
        );
    } else {
        return batch;
    }
    default
}

fn duplicate_ratio(
    check: &mut Check<'_, '_>,
    mode: PublishMode,
    wire: Option<f64>,
    message_id: bool,
) -> f64 {
    let path = "publish.duplicate_ratio";
    let ratio = wire.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&ratio) {
        check.refuse(
            &[path],
            format!("`{path}` is {ratio}"),
            "write a share from 0.0 to 1.0",
        );
        return 0.0;
    }
    if ratio <= 0.0 {
        return 0.0;
    }
    if mode.is_core() {
        let word = check.written("publish.mode", "async");
        check.refuse(
            &[path, "publish.mode"],
            format!("duplicates are found by a stream, and `publish.mode` is {word}"),
            "take `duplicate_ratio` out, or write `mode = \"async\"`",
        );
    } else if mode == PublishMode::AtomicBatch {
        check.refuse(
            &[path, "publish.mode"],
            "the server refuses a whole atomic batch with a message id that it knows",
            "take `duplicate_ratio` out, or write `mode = \"async\"`",
        );
    } else if !message_id {
        check.refuse(
            &[path, "publish.message_id"],
            "duplicates are told by their message ids, and `publish.message_id` is false",
            "write `message_id = true` as well, or take `duplicate_ratio` out",
        );
    }
    ratio
}

fn ttl(check: &mut Check<'_, '_>, mode: PublishMode, wire: Option<Duration>) -> Option<Duration> {
    let ttl = wire?;
    if ttl < Duration::from_secs(1) || ttl.subsec_nanos() > 0 {
        check.refuse(
            &["publish.ttl"],
            format!(
                "`publish.ttl` is {}: the server counts whole seconds, at least one",
                check.written("publish.ttl", "")
            ),
            "write for example `ttl = \"10s\"`, or take the key out",
        );
    } else if mode.is_core() {
        let word = check.written("publish.mode", "async");
        check.refuse(
            &["publish.ttl", "publish.mode"],
            format!("messages leave a stream after `ttl`, and `publish.mode` is {word}"),
            "take `ttl` out, or write `mode = \"async\"`",
        );
    } else {
        return Some(ttl);
    }
    None
}

/// Headers in the order of the text, which is the order in which they are sent.
fn headers(check: &mut Check<'_, '_>, wire: BTreeMap<String, String>) -> Vec<(String, String)> {
    let table = tree::get(check.tree, "publish.headers").and_then(|v| v.get_ref().as_table());
    let place = |name: &str| {
        let entry = table.and_then(|table| table.get_key_value(name));
        entry.map_or(0, |(key, _)| key.span().start)
    };
    let mut headers: Vec<(String, String)> = wire.into_iter().collect();
    headers.sort_by_key(|(name, _)| place(name));
    for (name, value) in &headers {
        // A name with a dot has no path of its own.
        let path = if name.contains('.') {
            "publish.headers".to_owned()
        } else {
            format!("publish.headers.{name}")
        };
        let paths = [path.as_str()];
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != ':') {
            check.refuse(
                &paths,
                format!("`{}` is not the name of a header", name.escape_debug()),
                "write letters, digits and dashes, for example \"ce-type\"",
            );
        } else if is_ours(name) {
            check.refuse(
                &paths,
                format!("the header `{name}` is set by jsbench"),
                "take it out; see `message_id`, `ttl` and `mode` of [publish]",
            );
        }
        if value.contains(['\r', '\n']) {
            check.refuse(
                &paths,
                format!("the value of the header `{name}` has a line break"),
                "write it on one line",
            );
        }
    }
    headers
}

/// Headers that jsbench writes itself, whatever their case.
fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "nats-msg-id" | "nats-ttl") || name.starts_with("nats-batch-")
}

fn is_subject(subject: &str) -> bool {
    subject.len() < 256
        && subject.split('.').all(|token| {
            !token.is_empty() && !token.contains(['*', '>']) && !token.contains(char::is_whitespace)
        })
        && !subject.starts_with('$')
}
