//! The streams and consumers of a trial: made with our names and metadata, read back, compared
//! with what was asked for, removed again. Nothing without our metadata is ever changed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::worker::batches_may_end;
use crate::error::environment;
use crate::nats::api::{Api, ApiFailure, StreamInfo};
use crate::nats::batch::{self, Kind};
use crate::nats::config::{
    AckPolicy, Compression, ConsumerConfig, DeliverPolicy, Discard, PersistMode,
    Retention as ApiRetention, Storage as ApiStorage, StreamConfig, to_value, verify,
};
use crate::nats::feed::HEARTBEAT;
use crate::record::event::EffectiveConfig;
use crate::scenario::assignment::{ConsumerPlan, StreamPlan, TrialPlan};
use crate::scenario::model::{
    Ack, CellSpec, Consumer, ConsumerKind, Deliver, PublishMode, Retention, Storage, StreamKind,
    Target,
};
use crate::units::as_ns;

/// How long a bucket remembers message ids, or as long as its values live where that is less
/// (nats-architecture-and-design ADR-8).
const BUCKET_DUPLICATE_WINDOW: Duration = Duration::from_mins(2);
/// API level of nats-server 2.11.
const LEVEL_2_11: u64 = 1;

/// Metadata that marks what is ours.
pub const RUN_KEY: &str = "jsbench.run";
const TRIAL_KEY: &str = "jsbench.trial";

/// What was made for a trial.
#[derive(Debug, Default)]
pub struct Stage {
    /// Streams we made, which we remove.
    pub made: Vec<String>,
    /// A stream that was there, and how the names of our consumers on it begin.
    guest: Option<(String, String)>,
    /// What a scan reads to see all that this trial stored.
    pub scans: Vec<Stretch>,
    /// All streams of the trial.
    pub streams: Vec<String>,
    /// As read back.
    pub config: EffectiveConfig,
    /// Stream to leader.
    pub leaders: BTreeMap<String, String>,
}

/// A part of a stream.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// Stream.
    pub stream: String,
    /// Subject filter.
    pub filter: String,
    /// First sequence.
    pub from: u64,
}

/// Whether the servers can do what a cell asks of them. An older one would take some of it for
/// something else and answer all the same.
///
/// # Errors
/// What it needs, and which server there is; or the API does not answer.
pub async fn able(api: &Api, spec: &CellSpec) -> anyhow::Result<()> {
    let kind = batches(spec);
    let newer = newer(spec);
    if matches!(spec.target, Target::Stub(_)) || kind.is_none() && newer.is_empty() {
        return Ok(());
    }
    let level = api.account().await?.api_level();
    let version = api.client().server_info().version;
    if let Some(kind) = kind {
        batch::check_level(kind, &version, level)?;
    }
    if let Some(what) = newer.first().filter(|_| level < LEVEL_2_11) {
        bail!(environment(format!(
            "`{what}` needs nats-server 2.11 or newer (API level {LEVEL_2_11}), this one is \
             {version} (API level {level})"
        )));
    }
    Ok(())
}

/// The kind of batches that a cell publishes.
fn batches(spec: &CellSpec) -> Option<Kind> {
    let load = &spec.workload;
    match spec.publish.mode {
        _ if load.publishers == 0 => None,
        PublishMode::FastIngest => Some(Kind::Fast),
        PublishMode::AtomicBatch if batches_may_end(load.length, &load.rate) => {
            Some(Kind::AtomicEnd)
        }
        PublishMode::AtomicBatch => Some(Kind::Atomic),
        PublishMode::Sync | PublishMode::Async | PublishMode::Request | PublishMode::Core => None,
    }
}

/// Keys of a cell that need nats-server 2.11.
fn newer(spec: &CellSpec) -> Vec<&'static str> {
    let (publish, consumer) = (&spec.publish, &spec.consumer);
    let many = consumer.kind == ConsumerKind::Get && consumer.batch > 1;
    [
        publish.ttl.map(|_| "publish.ttl"),
        many.then_some("consumer.batch"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether a stream that is there allows what a cell does with it.
fn allows(spec: &CellSpec, config: &Value) -> anyhow::Result<()> {
    let publishes = spec.workload.publishers > 0;
    let needs = [
        (
            publishes && spec.publish.mode == PublishMode::AtomicBatch,
            "allow_atomic",
            "publish.mode",
        ),
        (
            publishes && spec.publish.mode == PublishMode::FastIngest,
            "allow_batched",
            "publish.mode",
        ),
        (
            spec.consumer.kind == ConsumerKind::Get,
            "allow_direct",
            "consumer.kind",
        ),
    ];
    for (needed, key, path) in needs {
        ensure!(
            !needed || config[key] == Value::Bool(true),
            environment(format!(
                "the stream does not have `{key}`, which `{path}` needs; set it on the stream, or \
                 choose another `{path}`"
            ))
        );
    }
    Ok(())
}

/// Makes the streams and consumers of a trial; none on a stub, which acks without. What was made
/// before an error is in `stage`.
pub async fn set(
    api: &Api,
    spec: &CellSpec,
    plan: &TrialPlan,
    run_id: &str,
    trial: u32,
    stage: &mut Stage,
) -> anyhow::Result<()> {
    if matches!(spec.target, Target::Stub(_)) {
        return Ok(());
    }
    if let Some(existing) = &spec.stream.existing {
        let info = api
            .stream(existing)
            .await
            .with_context(|| format!("stream.existing = \"{existing}\""))?;
        allows(spec, &info.config).with_context(|| format!("stream.existing = \"{existing}\""))?;
        stage.leaders.insert(
            existing.clone(),
            info.leader().unwrap_or_default().to_owned(),
        );
        stage.guest = Some((existing.clone(), format!("JSB_{}_t{trial}_", &run_id[..8])));
        stage.scans.push(Stretch {
            stream: existing.clone(),
            filter: spec
                .publish
                .subject
                .clone()
                .unwrap_or_else(|| ">".to_owned()),
            from: info.state.last_seq + 1,
        });
        stage.config.streams.push(info.config);
        stage.streams.push(existing.clone());
    }
    for stream in &plan.streams {
        let config = stream_config(spec, stream, run_id, trial);
        // Before it is made: the answer may be lost, and what carries our mark is ours all the same.
        stage.made.push(stream.name.clone());
        let info = create(api, &config).await?;
        stage.scans.push(Stretch {
            stream: stream.name.clone(),
            filter: ">".to_owned(),
            from: 1,
        });
        stage.streams.push(stream.name.clone());
        check(
            &format!("stream {}", stream.name),
            &to_value(&config),
            &info.config,
        )?;
        let leader = leader(api, &stream.name).await?;
        stage.leaders.insert(stream.name.clone(), leader);
        stage.config.streams.push(info.config);
    }
    for consumer in &plan.consumers {
        let config = consumer_config(&spec.consumer, consumer, run_id, trial);
        let info = api.create_consumer(&consumer.stream, &config).await?;
        check(
            &format!("consumer {}", consumer.name),
            &to_value(&config),
            &info.config,
        )?;
        stage.config.consumers.push(info.config);
    }
    Ok(())
}

/// Makes a stream. A cluster learns late that a deleted stream has given its room back, and elects
/// leaders meanwhile: both are waited for.
async fn create(api: &Api, config: &StreamConfig) -> anyhow::Result<StreamInfo> {
    const NO_SUITABLE_PEERS: u32 = 10_005;
    const PATIENCE: Duration = Duration::from_secs(15);
    let begun = Instant::now();
    loop {
        match api.create_stream(config).await {
            Err(ApiFailure::Refused { error, .. } | ApiFailure::Unavailable { error, .. })
                if begun.elapsed() < PATIENCE
                    && (error.err_code == NO_SUITABLE_PEERS || error.code == 503) =>
            {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            made => return Ok(made?),
        }
    }
}

/// Removes what [`set`] made; what could not be removed is in the error.
pub async fn strike(api: &Api, stage: &Stage, run_id: &str) -> anyhow::Result<()> {
    let mut left = Vec::new();
    if let Some((stream, prefix)) = &stage.guest {
        // Ordered consumers, which readers make themselves, among them.
        for consumer in api.consumer_names(stream).await.unwrap_or_default() {
            if consumer.starts_with(prefix)
                && let Err(e) = api.delete_consumer(stream, &consumer).await
            {
                left.push(format!("{e:#}"));
            }
        }
    }
    for name in &stage.made {
        // Whatever happened meanwhile: a stream that does not carry our mark is not ours.
        let ours = api
            .stream(name)
            .await
            .map(|info| info.metadata(RUN_KEY) == Some(run_id));
        let result = match ours {
            Ok(true) => api.delete_stream(name).await.map_err(anyhow::Error::from),
            Ok(false) | Err(ApiFailure::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        };
        if let Err(e) = result {
            left.push(format!("{e:#}"));
        }
    }
    if left.is_empty() {
        Ok(())
    } else {
        bail!("not removed: {}", left.join("; "))
    }
}

/// The server that leads a stream, once there is one.
async fn leader(api: &Api, stream: &str) -> anyhow::Result<String> {
    for _ in 0..100 {
        let info = api.stream(stream).await?;
        match (&info.cluster, info.leader()) {
            (None, _) => return Ok(String::new()),
            (Some(_), Some(leader)) => return Ok(leader.to_owned()),
            (Some(_), None) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    bail!("stream {stream} has no leader after 5 s")
}

fn check(what: &str, requested: &Value, effective: &Value) -> anyhow::Result<()> {
    let differences = verify(requested, effective);
    anyhow::ensure!(
        differences.is_empty(),
        "{what} is not what was asked for, so the trial would measure something else: {}",
        differences.join("; ")
    );
    Ok(())
}

fn metadata(run_id: &str, trial: u32) -> BTreeMap<String, String> {
    BTreeMap::from([
        (RUN_KEY.to_owned(), run_id.to_owned()),
        (TRIAL_KEY.to_owned(), trial.to_string()),
    ])
}

fn signed(limit: Option<u64>) -> Option<i64> {
    limit.map(|v| i64::try_from(v).unwrap_or(i64::MAX))
}

/// What is asked of the server for a stream. Of a bucket, what the clients of NATS ask for theirs
/// (nats-architecture-and-design ADR-8).
fn stream_config(cell: &CellSpec, plan: &StreamPlan, run_id: &str, trial: u32) -> StreamConfig {
    let (spec, publish) = (&cell.stream, &cell.publish);
    let is_bucket = spec.kind == StreamKind::Kv;
    let is_got = cell.consumer.kind == ConsumerKind::Get;
    let bucket_window = || {
        let longest = BUCKET_DUPLICATE_WINDOW;
        is_bucket.then(|| spec.max_age.map_or(longest, |age| age.min(longest)))
    };
    StreamConfig {
        name: plan.name.clone(),
        subjects: plan.subjects.clone(),
        retention: Some(match spec.retention {
            Retention::Limits => ApiRetention::Limits,
            Retention::Interest => ApiRetention::Interest,
            Retention::WorkQueue => ApiRetention::WorkQueue,
        }),
        discard: Some(if spec.discard_new {
            Discard::New
        } else {
            Discard::Old
        }),
        max_msgs: signed(spec.max_msgs),
        max_bytes: signed(spec.max_bytes),
        max_age_ns: spec.max_age.map(as_ns),
        max_msgs_per_subject: signed(spec.max_msgs_per_subject),
        storage: Some(match spec.storage {
            Storage::File => ApiStorage::File,
            Storage::Memory => ApiStorage::Memory,
        }),
        num_replicas: Some(spec.replicas),
        duplicate_window_ns: spec.duplicate_window.or_else(bucket_window).map(as_ns),
        compression: spec.compression.then_some(Compression::S2),
        persist_mode: spec.persist_async.then_some(PersistMode::Async),
        allow_direct: (is_bucket || is_got).then_some(true),
        allow_rollup_hdrs: is_bucket.then_some(true),
        deny_delete: is_bucket.then_some(true),
        allow_msg_ttl: publish.ttl.map(|_| true),
        allow_atomic: (publish.mode == PublishMode::AtomicBatch).then_some(true),
        allow_batched: (publish.mode == PublishMode::FastIngest).then_some(true),
        metadata: metadata(run_id, trial),
        ..StreamConfig::default()
    }
}

fn consumer_config(
    spec: &Consumer,
    plan: &ConsumerPlan,
    run_id: &str,
    trial: u32,
) -> ConsumerConfig {
    let acks = spec.ack != Ack::None;
    // Queue members cannot tell whose turn a flow control message is.
    let flow_control =
        spec.flow_control && plan.deliver_subject.is_some() && plan.deliver_group.is_none();
    ConsumerConfig {
        name: plan.name.clone(),
        durable_name: Some(plan.name.clone()),
        deliver_policy: Some(match spec.deliver {
            Deliver::All => DeliverPolicy::All,
            Deliver::New => DeliverPolicy::New,
            Deliver::Last => DeliverPolicy::Last,
            Deliver::LastPerSubject => DeliverPolicy::LastPerSubject,
        }),
        ack_policy: Some(match spec.ack {
            Ack::None => AckPolicy::None,
            Ack::All => AckPolicy::All,
            Ack::Explicit | Ack::Double => AckPolicy::Explicit,
        }),
        ack_wait_ns: acks.then(|| as_ns(spec.ack_wait)),
        max_deliver: spec.max_deliver.map(i64::from),
        max_ack_pending: acks.then(|| i64::from(spec.max_ack_pending)),
        filter_subject: Some(plan.filter.clone()),
        deliver_subject: plan.deliver_subject.clone(),
        deliver_group: plan.deliver_group.clone(),
        flow_control: flow_control.then_some(true),
        idle_heartbeat_ns: flow_control.then(|| as_ns(HEARTBEAT)),
        num_replicas: spec.replicas,
        mem_storage: spec.memory.then_some(true),
        metadata: metadata(run_id, trial),
        ..ConsumerConfig::default()
    }
}
