//! `[consumer]`: its defaults depend on who subscribes and how messages are published.

use super::super::check::Check;
use super::super::model::{
    Ack, Consumer, ConsumerKind, Deliver, PublishMode, Share, StreamKind, Workload,
};
use super::super::overlay::DURABLE_KEYS;
use super::super::wire::{self, Choice, Text};

/// Whether the scenario says that nobody reads.
pub(super) fn is_none(wire: &wire::Consumer) -> bool {
    matches!(wire.kind, Some(Text(Choice::Now(ConsumerKind::None))))
}

pub(super) fn convert(
    check: &mut Check<'_, '_>,
    wire: &wire::Consumer,
    workload: &Workload,
    mode: PublishMode,
    stream: StreamKind,
) -> Consumer {
    let default = Consumer::default();
    let kind = match mode {
        _ if workload.subscribers == 0 => ConsumerKind::None,
        PublishMode::Core => ConsumerKind::Core,
        PublishMode::Request => ConsumerKind::Reply,
        _ => ConsumerKind::Pull,
    };
    let kind = check.choose("consumer.kind", wire.kind, kind);
    keys_of_other_kinds(check, kind);
    let ack = match kind {
        ConsumerKind::Pull | ConsumerKind::Push | ConsumerKind::PushQueue => Ack::Explicit,
        ConsumerKind::None
        | ConsumerKind::Ordered
        | ConsumerKind::Get
        | ConsumerKind::Reply
        | ConsumerKind::Core => Ack::None,
    };
    let share = match kind {
        ConsumerKind::PushQueue | ConsumerKind::Reply => Share::App,
        _ => default.share,
    };
    let deliver = match (kind, stream) {
        // What a watch of a bucket does.
        (ConsumerKind::Ordered, StreamKind::Kv) => Deliver::LastPerSubject,
        _ => default.deliver,
    };
    let batch = match kind {
        ConsumerKind::Get => 1,
        _ => default.batch,
    };
    for (path, zero) in [
        ("consumer.max_ack_pending", wire.max_ack_pending == Some(0)),
        ("consumer.max_deliver", wire.max_deliver == Some(0)),
        ("consumer.batch", wire.batch == Some(0)),
        ("consumer.replicas", wire.replicas == Some(0)),
    ] {
        check.not_zero(path, zero, "write 1 or more, or take the key out");
    }
    let ack_wait = wire.ack_wait.map_or(default.ack_wait, |w| w.0.0);
    check.not_zero(
        "consumer.ack_wait",
        ack_wait.is_zero(),
        "write for example `ack_wait = \"30s\"`",
    );
    Consumer {
        kind,
        ack: check.choose("consumer.ack", wire.ack, ack),
        max_ack_pending: wire.max_ack_pending.unwrap_or(default.max_ack_pending),
        ack_wait,
        max_deliver: wire.max_deliver,
        deliver: check.choose("consumer.deliver", wire.deliver, deliver),
        replicas: wire.replicas,
        memory: wire.memory.unwrap_or(default.memory),
        flow_control: wire.flow_control.unwrap_or(kind == ConsumerKind::Push),
        batch: wire.batch.unwrap_or(batch),
        pull: check.choose("consumer.pull", wire.pull, default.pull),
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
        ConsumerKind::Get => "get",
        ConsumerKind::Reply => "reply",
        ConsumerKind::Core => "core",
    };
    let durable = |more: &[&'static str]| [&DURABLE_KEYS[..], more].concat();
    let keys: Vec<&str> = match kind {
        ConsumerKind::None | ConsumerKind::Reply | ConsumerKind::Core => {
            durable(&["deliver", "flow_control", "batch", "pull"])
        }
        ConsumerKind::Get => durable(&["deliver", "flow_control", "pull"]),
        ConsumerKind::Ordered => durable(&["flow_control", "batch", "pull"]),
        ConsumerKind::Pull => vec!["flow_control"],
        ConsumerKind::Push => vec!["batch", "pull"],
        ConsumerKind::PushQueue => vec!["batch", "pull", "flow_control"],
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
