//! What the tables of a cell say together: the rules of the NATS server, and our own, so that a
//! run does not begin what the server would refuse or what would measure nothing.

mod bucket;
mod modes;

use std::time::Duration;

use super::check::Check;
use super::model::{
    Absence, Ack, Arrivals, CellSpec, ConsumerKind, Deliver, Layout, Length, Pacing, PublishMode,
    Rate, Retention, Share, Storage, StreamKind, Target, Workload,
};
use super::plan::header_bytes;
use super::program::Program;
use crate::units::{as_ns, human_duration, short_rate, thousands};

/// `limits.default_max_consumers` of nats-server 2.15.
const MAX_CONSUMERS_PER_STREAM: u64 = 1_000;
/// `max_payload` of a server that is not told another.
const MAX_PAYLOAD_BYTES: u64 = 1024 * 1024;
/// More than any client can send; beyond it counting what is due would take the driver's time.
const MAX_PER_PUBLISHER_PER_S: f64 = 10e6;
/// A longer program is a slip of units.
const MAX_PROGRAM: Duration = Duration::from_hours(366 * 24);

/// Judges one cell.
pub(super) fn judge(check: &mut Check<'_, '_>, spec: &CellSpec) {
    // First: what the stub cannot do is not to be told again by other rules.
    stub(check, spec);
    pace(check, spec);
    replicas(check, spec);
    storage(check, spec);
    existing(check, spec);
    clients(check, spec);
    drain(check, spec);
    modes::judge(check, spec);
    bucket::judge(check, spec);
    consumer(check, spec);
    sharing(check, spec);
    retention(check, spec);
    consumers_per_stream(check, spec);
    payload(check, spec);
}

fn stub(check: &mut Check<'_, '_>, spec: &CellSpec) {
    if !matches!(spec.target, Target::Stub(_)) {
        return;
    }
    let (workload, kind) = (&spec.workload, check.written("consumer.kind", "none"));
    let mode = check.written("publish.mode", "async");
    let replicas = spec.stream.replicas;
    let cannot = [
        (
            "workload.publishers",
            workload.publishers == 0,
            "a stub takes publishes, and there are no publishers".to_owned(),
            "write `publishers = 1`",
        ),
        (
            "workload.subscribers",
            workload.subscribers > 0,
            format!(
                "a stub delivers nothing, and there are {} subscribers per pod",
                workload.subscribers
            ),
            "write `subscribers = 0`, or take the key out",
        ),
        (
            "consumer.kind",
            spec.consumer.kind != ConsumerKind::None && check.is_set("consumer.kind"),
            format!("a stub delivers nothing, and `consumer.kind` is {kind}"),
            "write `kind = \"none\"`, or take the key out",
        ),
        (
            "workload.prefill",
            workload.prefill > 0,
            "a stub stores nothing that could be filled in before".to_owned(),
            "take `prefill` out",
        ),
        (
            "stream.existing",
            spec.stream.existing.is_some(),
            "a stub stores nothing: there is no existing stream".to_owned(),
            "take `existing` out, or write another `target.kind`",
        ),
        (
            "stream.replicas",
            replicas > 1,
            format!("a stub stores nothing, and `stream.replicas` is {replicas}"),
            "write `replicas = 1`, or take the key out",
        ),
        (
            "stream.kind",
            spec.stream.kind == StreamKind::Kv,
            "a stub stores nothing: there is no bucket".to_owned(),
            "write `kind = \"stream\"` under [stream], or take the key out",
        ),
        (
            "publish.mode",
            spec.publish.mode.has_group_acks() || spec.publish.mode == PublishMode::Request,
            format!("a stub acks each publish alone, and `publish.mode` is {mode}"),
            "write `mode = \"async\"`, \"sync\" or \"core\"",
        ),
        (
            "publish.ttl",
            spec.publish.ttl.is_some(),
            "a stub stores nothing that could be gone after `ttl`".to_owned(),
            "take `ttl` out",
        ),
        (
            "publish.duplicate_ratio",
            spec.publish.duplicate_ratio > 0.0,
            "a stub remembers no message ids, so that it finds no duplicates".to_owned(),
            "take `duplicate_ratio` out",
        ),
    ];
    for (path, wrong, message, cure) in cannot {
        if wrong {
            check.refuse(&[path, "target.kind"], message, cure);
            check.broken.insert(path.to_owned());
        }
    }
}

fn pace(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let workload = &spec.workload;
    let Rate::Open(program) = &workload.rate else {
        if workload.arrivals == Arrivals::Poisson {
            let rate = check.written("workload.rate", "max");
            check.refuse(
                &["workload.arrivals", "workload.rate"],
                format!("Poisson arrivals need a rate, and `workload.rate` is {rate}"),
                "write for example `rate = \"5k/s\"`, or take `arrivals` out",
            );
        }
        if workload.pacing == Pacing::Spin {
            let rate = check.written("workload.rate", "max");
            check.refuse(
                &["workload.pacing", "workload.rate"],
                format!("a closed loop waits for no time, and `workload.rate` is {rate}"),
                "write for example `rate = \"5k/s\"`, or take `pacing` out",
            );
        }
        return;
    };
    if workload.publishers == 0 {
        return;
    }
    let publishers = f64::from(workload.pods) * f64::from(workload.publishers);
    if program.peak_per_s() > publishers * MAX_PER_PUBLISHER_PER_S {
        check.refuse(
            &["workload.rate", "workload.publishers"],
            format!(
                "a rate of {:.3e}/s for {publishers} publishers: none sends more than {}",
                program.peak_per_s(),
                short_rate(MAX_PER_PUBLISHER_PER_S)
            ),
            "write a lower rate, or more `publishers` or `pods`",
        );
        return;
    }
    if program.length() > MAX_PROGRAM {
        check.refuse(
            &["workload.rate"],
            format!(
                "the rate program lasts {} days",
                program.length().as_secs() / 86_400
            ),
            "write a program of a year at most",
        );
        return;
    }
    match workload.length {
        Length::Duration(window) if !window.is_zero() && program.count(as_ns(window)) < 1.0 => check.refuse(
            &["workload.rate", "workload.duration"],
            format!(
                "less than one message is due in the window of {}: nothing would be measured",
                human_duration(window)
            ),
            "write a higher rate or a longer `duration`; without it the window is as long as a program",
        ),
        Length::Messages(per_pod) if !program.is_constant() && never_ends(workload, per_pod, program) => check.refuse(
            &["workload.messages", "workload.rate"],
            format!(
                "the rate program ends with rate 0 after {} messages, so that `workload.messages` \
                 may never be reached",
                thousands(program.count(as_ns(program.length())) as u64)
            ),
            "write a last step with a rate above 0, or `duration` instead of `messages`",
        ),
        _ => {}
    }
}

/// Whether some publisher's last message may never be due, in a program that ends with rate 0.
fn never_ends(workload: &Workload, per_pod: u64, program: &Program) -> bool {
    if program.last_per_s() > 0.0 || workload.arrivals == Arrivals::Poisson {
        // How many arrive at random before the end is a matter of chance.
        return program.last_per_s() <= 0.0;
    }
    // Publishers take turns over the whole cell; in each pod the first ones send one more.
    let (pods, each) = (f64::from(workload.pods), u64::from(workload.publishers));
    let last_in_pod = (per_pod + each - 1) % each;
    let rounds = per_pod.saturating_sub(1) / each;
    let last = rounds as f64 * pods * each as f64 + (pods - 1.0) * each as f64 + last_in_pod as f64;
    program.due_ns(last) == u64::MAX
}

fn replicas(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let replicas = spec.stream.replicas;
    if let Target::Embedded(embedded) = &spec.target
        && replicas > embedded.servers
        && replicas <= 5
        && matches!(embedded.servers, 1 | 3)
    {
        let servers = embedded.servers;
        let cure = if replicas <= 3 {
            "write `servers = 3` under [target], or `replicas = 1` under [stream]"
        } else {
            "embedded servers are 1 or 3: write `replicas = 3`, or use an external target"
        };
        check.refuse(
            &["stream.replicas", "target.servers", "target.kind"],
            format!(
                "{replicas} replicas need {replicas} servers, and `target.servers` is {}",
                check.written("target.servers", &servers.to_string())
            ),
            cure,
        );
    }
    let Some(consumer) = spec.consumer.replicas else {
        return;
    };
    let paths = ["consumer.replicas", "stream.replicas"];
    if consumer > replicas {
        check.refuse(
            &paths,
            format!("a consumer with {consumer} replicas on a stream with {replicas}"),
            "write at most the stream's replicas, or take `consumer.replicas` out",
        );
    } else if consumer != replicas && spec.stream.retention != Retention::Limits {
        check.refuse(
            &["consumer.replicas", "stream.replicas", "stream.retention"],
            "a workqueue or interest stream wants consumers with its own number of replicas",
            "take `consumer.replicas` out",
        );
    }
}

fn storage(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let stream = &spec.stream;
    if stream.persist_async && (stream.storage != Storage::File || stream.replicas != 1) {
        check.refuse(
            &["stream.persist", "stream.storage", "stream.replicas"],
            "`persist = \"async\"` needs file storage and one replica",
            "write `storage = \"file\"` and `replicas = 1`, or take `persist` out",
        );
    }
    if stream.persist_async && spec.publish.mode == PublishMode::AtomicBatch {
        check.refuse(
            &["stream.persist", "publish.mode"],
            "the server takes no atomic batches on a stream with `persist = \"async\"` (error 10052)",
            "take `persist` out, or write `mode = \"fast-ingest\"`",
        );
    }
    if stream.compression && stream.storage != Storage::File {
        check.refuse(
            &["stream.compression", "stream.storage"],
            "only file storage is compressed, and `stream.storage` is memory",
            "write `storage = \"file\"`, or take `compression` out",
        );
    }
}

fn existing(check: &mut Check<'_, '_>, spec: &CellSpec) {
    if spec.stream.existing.is_none() {
        if spec.publish.subject.is_some() {
            check.refuse(
                &["publish.subject", "stream.existing"],
                "`publish.subject` is for an existing stream; other streams get subjects of their own",
                "name the stream with `stream.existing`, or take `publish.subject` out",
            );
        }
        return;
    }
    if spec.publish.subject.is_none() {
        check.refuse(
            &["publish.subject", "stream.existing"],
            "an existing stream, and no subject of it to publish to",
            "write `subject = \"…\"` under [publish]",
        );
    }
    if matches!(spec.target, Target::Embedded(_)) {
        check.refuse(
            &["stream.existing", "target.kind"],
            "embedded servers begin empty: there is no existing stream",
            "write `kind = \"external\"` and `urls` under [target], or give --server",
        );
    }
    let paths = [
        "workload.apps",
        "workload.types",
        "stream.layout",
        "stream.existing",
    ];
    let workload = &spec.workload;
    if workload.apps > 1 || workload.types > 1 || spec.stream.layout != Layout::Shared {
        check.refuse(
            &paths,
            "an existing stream is used through one subject: one app, one type, layout \"shared\"",
            "write `apps = 1` and `types = 1`, and take `layout` out",
        );
    }
}

fn clients(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let workload = &spec.workload;
    if workload.publishers == 0 && workload.subscribers == 0 {
        check.refuse(
            &["workload.publishers", "workload.subscribers"],
            "neither publishers nor subscribers: there is nothing to measure",
            "write `publishers = 1`, or `subscribers = 1` with `prefill`",
        );
    }
    if workload.apps > workload.pods {
        check.refuse(
            &["workload.apps", "workload.pods"],
            format!(
                "{} apps and {} pods: a pod serves one app, so some would have none",
                workload.apps, workload.pods
            ),
            "make `pods` at least `apps`",
        );
    }
    let clients = workload.publishers.saturating_add(workload.subscribers);
    if workload.connections.is_some_and(|n| n > clients) {
        check.refuse(
            &["workload.connections"],
            format!("more connections than the {clients} clients of a pod"),
            "write fewer, or take the key out for a connection per client",
        );
    }
    let threads = workload.threads;
    if clients > 0 && threads > clients {
        check.refuse(
            &[
                "workload.threads",
                "workload.publishers",
                "workload.subscribers",
            ],
            format!("{threads} event loops for the {clients} clients of a pod: some would be idle"),
            "write at most as many `threads` as a pod has publishers and subscribers",
        );
    } else if workload.connections.is_some_and(|n| n < threads) {
        check.refuse(
            &["workload.threads", "workload.connections"],
            format!(
                "{threads} event loops, and `workload.connections` is {}: each needs one of its own",
                check.written("workload.connections", "")
            ),
            "write at least as many `connections` as `threads`, or take the key out",
        );
    }
    let kind = spec.consumer.kind;
    if kind == ConsumerKind::None && workload.subscribers > 0 {
        check.refuse(
            &["workload.subscribers", "consumer.kind"],
            format!(
                "{} subscribers per pod, and `consumer.kind` is none",
                workload.subscribers
            ),
            "write `kind = \"pull\"` (or ordered, push, …) under [consumer], or `subscribers = 0`",
        );
    }
    if kind != ConsumerKind::None && workload.subscribers == 0 {
        check.refuse(
            &["workload.subscribers", "consumer.kind"],
            "a consumer, and no subscribers to use it",
            "write `subscribers = 1` under [workload], or `kind = \"none\"` under [consumer]",
        );
    }
}

fn drain(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let workload = &spec.workload;
    if workload.publishers > 0 {
        return;
    }
    if workload.prefill == 0 {
        check.refuse(
            &["workload.publishers", "workload.prefill"],
            "no publishers, and nothing filled in before: subscribers would wait for nothing",
            "write `prefill = 100_000` (messages per pod), or `publishers = 1`",
        );
    }
    if workload.rate != Rate::Max {
        check.refuse(
            &["workload.rate", "workload.publishers"],
            "a rate, and no publishers to keep it",
            "take `rate` out, or write `publishers = 1`",
        );
    }
    if matches!(workload.length, Length::Messages(_)) {
        check.refuse(
            &["workload.messages", "workload.publishers"],
            "a number of messages to publish, and no publishers",
            "the number to drain is `prefill`; write `duration` as its limit",
        );
    }
    if skips(spec) {
        check.refuse(
            &[
                "consumer.deliver",
                "workload.publishers",
                "workload.prefill",
            ],
            "a drain reads what was there before, and `consumer.deliver` skips it",
            "write `deliver = \"all\"`",
        );
    }
}

/// Whether subscribers do not see what was there before them. The last value of each key of a bucket is
/// all that it has.
fn skips(spec: &CellSpec) -> bool {
    match spec.consumer.deliver {
        Deliver::All => false,
        Deliver::LastPerSubject => spec.stream.kind != StreamKind::Kv,
        Deliver::New | Deliver::Last => true,
    }
}

fn consumer(check: &mut Check<'_, '_>, spec: &CellSpec) {
    if spec.workload.prefill > 0 && spec.workload.publishers > 0 && skips(spec) {
        check.refuse(
            &["consumer.deliver", "workload.prefill"],
            "consumers are made before the stream is filled, so `consumer.deliver` would not skip it",
            "write `deliver = \"all\"`, or take `prefill` out",
        );
    }
    let (kind, ack) = (spec.consumer.kind, spec.consumer.ack);
    let word = check.written("consumer.ack", "explicit");
    let acks = matches!(
        kind,
        ConsumerKind::Pull | ConsumerKind::Push | ConsumerKind::PushQueue
    );
    if !acks && ack != Ack::None {
        check.refuse(
            &["consumer.ack", "consumer.kind"],
            format!("`consumer.ack` is {word}: only pull, push and push-queue consumers ack"),
            "take `ack` out, or write `kind = \"pull\"`",
        );
    }
}

fn sharing(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let paths = ["consumer.share", "consumer.kind"];
    match (spec.consumer.kind, spec.consumer.share) {
        (ConsumerKind::Push, Share::App) => check.refuse(
            &paths,
            "a push consumer that subscribers share needs a queue",
            "write `kind = \"push-queue\"`, or `share = \"none\"`",
        ),
        (ConsumerKind::PushQueue, Share::None) => check.refuse(
            &paths,
            "a push-queue consumer is one that the subscribers of an app share",
            "write `share = \"app\"`, or `kind = \"push\"`",
        ),
        (ConsumerKind::Reply, Share::None) => check.refuse(
            &paths,
            "a request is answered by one of the app's subscribers, which share them",
            "write `share = \"app\"`, or take the key out",
        ),
        (
            ConsumerKind::Ordered | ConsumerKind::Get | ConsumerKind::Core | ConsumerKind::None,
            Share::App,
        ) => check.refuse(
            &paths,
            "only pull and push-queue consumers can be shared",
            "write `share = \"none\"`, or `kind = \"pull\"`",
        ),
        _ => {}
    }
}

/// Subscribers of the app that has most.
fn subscribers_of_an_app(spec: &CellSpec) -> u64 {
    let pods = spec.workload.pods.div_ceil(spec.workload.apps.max(1));
    u64::from(pods) * u64::from(spec.workload.subscribers)
}

fn retention(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let reads = spec.consumer.kind.is_jetstream();
    let paths = ["consumer.ack", "consumer.kind", "stream.retention"];
    match spec.stream.retention {
        Retention::WorkQueue if reads => {
            if !matches!(spec.consumer.ack, Ack::Explicit | Ack::Double) {
                check.refuse(
                    &paths,
                    "a workqueue stream wants every message acked",
                    "write `ack = \"explicit\"` and `kind = \"pull\"`, or `retention = \"limits\"`",
                );
            }
            let several = subscribers_of_an_app(spec);
            if spec.consumer.share == Share::None && several > 1 {
                check.refuse(
                    &[
                        "consumer.share",
                        "stream.retention",
                        "workload.subscribers",
                        "workload.pods",
                    ],
                    format!(
                        "{several} subscribers of one app with consumers of their own: a workqueue \
                         stream refuses consumers that overlap"
                    ),
                    "write `share = \"app\"` under [consumer], or `retention = \"limits\"`",
                );
            }
        }
        Retention::Interest
            if matches!(spec.consumer.kind, ConsumerKind::None | ConsumerKind::Get)
                && !matches!(spec.target, Target::Stub(_))
                && !spec.absences.contains(&Absence::NoInterest) =>
        {
            check.refuse(
                &["stream.retention", "consumer.kind"],
                "an interest stream without consumers drops every message",
                "add subscribers, or declare it: `absences = [\"no-interest\"]` under [expect]",
            );
        }
        _ => {}
    }
}

fn consumers_per_stream(check: &mut Check<'_, '_>, spec: &CellSpec) {
    if !spec.consumer.kind.is_jetstream() || !matches!(spec.target, Target::Embedded(_)) {
        return;
    }
    let apps = match spec.stream.layout {
        Layout::Shared => u64::from(spec.workload.apps),
        Layout::PerApp | Layout::PerType => 1,
    };
    let consumers = match (spec.consumer.share, spec.stream.layout) {
        (Share::App, _) => apps,
        (Share::None, Layout::Shared) => {
            u64::from(spec.workload.pods) * u64::from(spec.workload.subscribers)
        }
        (Share::None, _) => subscribers_of_an_app(spec),
    };
    if consumers > MAX_CONSUMERS_PER_STREAM {
        check.refuse(
            &["workload.subscribers", "workload.pods", "stream.layout", "consumer.share"],
            format!(
                "{consumers} consumers on one stream, and a server allows {MAX_CONSUMERS_PER_STREAM}"
            ),
            "write fewer subscribers, `share = \"app\"`, or `layout = \"per-app\"`",
        );
    }
}

fn payload(check: &mut Check<'_, '_>, spec: &CellSpec) {
    let (size, headers) = (
        spec.workload.payload.size_bytes(),
        header_bytes(&spec.publish),
    );
    if !matches!(spec.target, Target::Embedded(_)) || size + headers <= MAX_PAYLOAD_BYTES {
        return;
    }
    let (message, cure) = if headers == 0 {
        (
            format!("a payload of {size} bytes is more than the server takes, {MAX_PAYLOAD_BYTES}"),
            "write at most \"1MiB\"".to_owned(),
        )
    } else {
        (
            format!(
                "a payload of {size} bytes and {headers} of headers are more than the server takes, \
                 {MAX_PAYLOAD_BYTES}"
            ),
            format!(
                "write at most \"{}B\"",
                MAX_PAYLOAD_BYTES.saturating_sub(headers)
            ),
        )
    };
    check.refuse(&["workload.payload", "publish.headers"], message, cure);
}
