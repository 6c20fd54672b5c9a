//! Ways to publish and to read: what of a cell fits to which.

use super::super::check::Check;
use super::super::model::{
    Absence, CellSpec, ClientKind, ConsumerKind, Layout, PublishMode, Target,
};
use super::super::plan::lifetime;
use crate::units::human_duration;

/// Acks that async-nats holds for a publisher that is busy; it drops what is more.
const MAX_WINDOW_ASYNC_NATS: u32 = 65_536;
/// Our own client keeps as many.
const MAX_WINDOW_WIRE: u32 = 1_048_576;
/// `limits.batch.max_msgs` of a server that is not told another.
const MAX_ATOMIC_BATCH: u32 = 1_000;
/// Messages for each of which a server acks a fast batch, at most.
const MAX_FAST_BATCH: u32 = 500;
/// `limits.batch.max_inflight_per_stream` of a server that is not told another.
const MAX_ATOMIC_BATCHES: u64 = 50;

pub(super) fn judge(check: &mut Check<'_, '_>, spec: &CellSpec) {
    window(check, spec);
    batch(check, spec);
    if spec.publish.mode == PublishMode::AtomicBatch {
        batches_in_flight(check, spec);
    }
    core_readers(check, spec);
    if spec.publish.mode.is_core() {
        core(check, spec);
    }
    ttl(check, spec);
    keys(check, spec);
    get(check, spec);
}

fn window(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let (client, most) = match spec.workload.client {
        ClientKind::Wire => ("wire", MAX_WINDOW_WIRE),
        ClientKind::AsyncNats => ("async-nats", MAX_WINDOW_ASYNC_NATS),
    };
    let window = spec.publish.window;
    if window > most {
        check.refuse(
            &["publish.window", "workload.client"],
            format!(
                "`publish.window` is {window}: the client \"{client}\" keeps at most {most} acks waiting"
            ),
            format!("write {most} or less, and spread more over several publishers"),
        );
    }
}

fn batch(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let publish = &spec.publish;
    if !publish.mode.has_group_acks() {
        return;
    }
    if matches!(spec.target, Target::Embedded(_)) {
        let (most, what) = match publish.mode {
            PublishMode::AtomicBatch => (MAX_ATOMIC_BATCH, "takes atomic batches of"),
            _ => (MAX_FAST_BATCH, "acks a fast batch after"),
        };
        if publish.batch > most {
            check.refuse(
                &["publish.batch", "publish.mode", "target.kind"],
                format!(
                    "`publish.batch` is {}, and the server {what} at most {most} messages",
                    publish.batch
                ),
                format!("write `batch = {most}` or less"),
            );
        }
    }
    if spec.stream.layout == Layout::PerType && spec.workload.types > 1 {
        check.refuse(
            &["stream.layout", "publish.mode", "workload.types"],
            "a batch goes to one stream, and each publisher has several with `layout = \"per-type\"`",
            "write `layout = \"per-app\"` or `types = 1`",
        );
    }
}

fn batches_in_flight(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let (publish, load) = (&spec.publish, &spec.workload);
    let pods = match spec.stream.layout {
        Layout::Shared => load.pods,
        Layout::PerApp | Layout::PerType => load.pods.div_ceil(load.apps.max(1)),
    };
    let publishers = u64::from(pods) * u64::from(load.publishers);
    let each = u64::from(publish.window.div_ceil(publish.batch.max(1)));
    let in_flight = publishers.saturating_mul(each);
    if matches!(spec.target, Target::Embedded(_)) && in_flight > MAX_ATOMIC_BATCHES {
        check.refuse(
            &[
                "publish.window",
                "publish.batch",
                "workload.publishers",
                "workload.pods",
                "stream.layout",
            ],
            format!(
                "{in_flight} atomic batches in flight on one stream, {each} of each publisher: the \
                 server takes {MAX_ATOMIC_BATCHES} at a time"
            ),
            "write a smaller `window`, a larger `batch`, or fewer `publishers`",
        );
    }
}

/// Who reads what is published without a stream.
fn core_readers(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let paths = ["publish.mode", "consumer.kind"];
    let (mode, kind) = (spec.publish.mode, spec.consumer.kind);
    let word = check.written("publish.mode", "async");
    match (mode, kind) {
        (PublishMode::Request, ConsumerKind::Reply)
        | (PublishMode::Core, ConsumerKind::Core | ConsumerKind::None) => {}
        (PublishMode::Request, _) => {
            let kind = check.written("consumer.kind", "none");
            check.refuse(
                &paths,
                format!("a request without a responder: `consumer.kind` is {kind}"),
                "write `kind = \"reply\"` under [consumer] and `subscribers = 1`, or another `publish.mode`",
            );
        }
        (_, ConsumerKind::Reply) => check.refuse(
            &paths,
            format!("kind \"reply\" answers requests, and `publish.mode` is {word}"),
            "write `mode = \"request\"` under [publish], or another `consumer.kind`",
        ),
        (PublishMode::Core, _) => check.refuse(
            &paths,
            "mode \"core\" stores nothing that a JetStream consumer could read",
            "write `kind = \"core\"` (or \"none\") under [consumer], or another `publish.mode`",
        ),
        (_, ConsumerKind::Core) => check.refuse(
            &paths,
            "a core subscription reads what is published with mode \"core\"",
            "write `mode = \"core\"` under [publish], or another `consumer.kind`",
        ),
        _ => {}
    }
}

/// What needs a stream, where there is none.
fn core(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let word = check.written("publish.mode", "async");
    if spec.publish.message_id {
        check.refuse(
            &["publish.message_id", "publish.mode"],
            format!("message ids are for JetStream, and `publish.mode` is {word}"),
            "take `message_id` out, or write `mode = \"async\"`",
        );
    }
    if spec.workload.prefill > 0 {
        check.refuse(
            &["workload.prefill", "publish.mode"],
            format!("nothing can be filled in before: mode \"{word}\" stores nothing"),
            "take `prefill` out, or write another `publish.mode`",
        );
    }
    if spec.stream.existing.is_some() {
        check.refuse(
            &["stream.existing", "publish.mode"],
            format!("mode \"{word}\" uses no stream"),
            "take `existing` out, or write another `publish.mode`",
        );
    }
    if spec.workload.keys.is_some() && check.is_set("workload.keys") {
        check.refuse(
            &["workload.keys", "publish.mode"],
            format!("keys are subjects that a stream keeps apart, and `publish.mode` is {word}"),
            "take `keys` out, or write another `publish.mode`",
        );
    }
}

fn ttl(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let Some(ttl) = spec.publish.ttl else { return };
    if spec.stream.existing.is_some() {
        check.refuse(
            &["publish.ttl", "stream.existing"],
            "`ttl` needs a stream that allows it, and nothing of an existing one is changed",
            "take `ttl` out, or take `existing` out",
        );
        return;
    }
    let lasts = lifetime(spec);
    if ttl < lasts && !spec.absences.contains(&Absence::Ttl) {
        check.refuse(
            &["publish.ttl", "expect.absences"],
            format!(
                "messages live for {}, and the trial may last {}: those that are gone by then would be \
                 called lost",
                human_duration(ttl),
                human_duration(lasts)
            ),
            "declare it: `absences = [\"ttl\"]` under [expect], or write a longer `ttl`",
        );
    }
}

fn keys(check: &mut Check<'_, '_>, spec: &CellSpec) {
    if check.is_set("workload.keys")
        && (spec.stream.existing.is_some() || spec.publish.subject.is_some())
    {
        check.refuse(
            &["workload.keys", "stream.existing", "publish.subject"],
            "keys are subjects of our own, and an existing stream is used through one subject",
            "take `keys` out",
        );
    }
}

fn get(check: &mut Check<'_, '_>, spec: &CellSpec) {
    if spec.consumer.kind == ConsumerKind::Get
        && !spec.publish.mode.is_core()
        && spec.workload.publishers > 0
    {
        check.refuse(
            &["workload.publishers", "consumer.kind"],
            "kind \"get\" asks for messages that are there, and there are publishers beside it",
            "write `publishers = 0` and for example `prefill = 100_000` under [workload]",
        );
    }
}
