//! `[consumer]`: its defaults depend on who subscribes and how messages are published.

use std::time::Duration;

use super::super::check::Check;
use super::super::model::{Ack, Consumer, ConsumerKind, Deliver, PublishMode, Share, Workload};
use super::super::overlay::DURABLE_KEYS;
use super::super::wire::{self, Choice, Text};

const DEFAULT_MAX_ACK_PENDING: u32 = 1_000;
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
const DEFAULT_BATCH: u32 = 200;

/// Whether the scenario says that nobody reads.
pub(super) fn is_none(wire: &wire::Consumer) -> bool {
    matches!(wire.kind, Some(Text(Choice::Now(ConsumerKind::None))))
}

pub(super) fn convert(
    check: &mut Check<'_, '_>,
    wire: &wire::Consumer,
    workload: &Workload,
    mode: PublishMode,
) -> Consumer {
    let kind = match mode {
        _ if workload.subscribers == 0 => ConsumerKind::None,
        PublishMode::Core => ConsumerKind::Core,
        _ => ConsumerKind::Pull,
    };
    let kind = check.choose("consumer.kind", wire.kind, kind);
    keys_of_other_kinds(check, kind);
    let ack = match kind {
        ConsumerKind::Pull | ConsumerKind::Push | ConsumerKind::PushQueue => Ack::Explicit,
        ConsumerKind::None | ConsumerKind::Ordered | ConsumerKind::Core => Ack::None,
    };
    let share = if kind == ConsumerKind::PushQueue {
        Share::App
    } else {
        Share::None
    };
    for (path, zero) in [
        ("consumer.max_ack_pending", wire.max_ack_pending == Some(0)),
        ("consumer.max_deliver", wire.max_deliver == Some(0)),
        ("consumer.batch", wire.batch == Some(0)),
        ("consumer.replicas", wire.replicas == Some(0)),
    ] {
        check.not_zero(path, zero, "write 1 or more, or take the key out");
    }
    let ack_wait = wire.ack_wait.map_or(DEFAULT_ACK_WAIT, |w| w.0.0);
    check.not_zero(
        "consumer.ack_wait",
        ack_wait.is_zero(),
        "write for example `ack_wait = \"30s\"`",
    );
    Consumer {
        kind,
        ack: check.choose("consumer.ack", wire.ack, ack),
        max_ack_pending: wire.max_ack_pending.unwrap_or(DEFAULT_MAX_ACK_PENDING),
        ack_wait,
        max_deliver: wire.max_deliver,
        deliver: check.choose("consumer.deliver", wire.deliver, Deliver::All),
        replicas: wire.replicas,
        memory: wire.memory.unwrap_or(false),
        flow_control: wire.flow_control.unwrap_or(kind == ConsumerKind::Push),
        batch: wire.batch.unwrap_or(DEFAULT_BATCH),
        share: check.choose("consumer.share", wire.share, share),
    }
}

/// A key that the kind cannot have would be ignored by the server or by us: say so instead.
fn keys_of_other_kinds(check: &mut Check<'_, '_>, kind: ConsumerKind) {
    let word = match kind {
        ConsumerKind::None => "none",
        ConsumerKind::Ordered => "ordered",
        ConsumerKind::Pull => "pull",
        ConsumerKind::Push => "push",
        ConsumerKind::PushQueue => "push-queue",
        ConsumerKind::Core => "core",
    };
    let keys: Vec<&str> = match kind {
        ConsumerKind::None | ConsumerKind::Core => {
            [&DURABLE_KEYS[..], &["deliver", "flow_control"]].concat()
        }
        ConsumerKind::Ordered => [&DURABLE_KEYS[..], &["flow_control"]].concat(),
        ConsumerKind::Pull => vec!["flow_control"],
        ConsumerKind::Push => vec!["batch"],
        ConsumerKind::PushQueue => vec!["batch", "flow_control"],
    };
    for key in keys {
        let path = format!("consumer.{key}");
        // `flow_control = false` says what is the case anyway.
        if check.is_set(&path) && check.written(&path, "") != "false" {
            check.refuse(
                &[&path, "consumer.kind"],
                format!("`{path}` means nothing for a consumer of kind \"{word}\""),
                format!("take `{key}` out, or choose another `consumer.kind`"),
            );
        }
    }
}
