//! The shape of a scenario file: serde structs of optional values, so that a value that cannot be
//! read takes nothing else with it. Defaults and meaning belong to `convert`.

mod rates;
mod written;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

pub(super) use rates::RateText;
pub(super) use written::{
    Bytes, Choice, Compression, CountLimit, Discard, LatencyLimit, Limit, Path, Payload,
    PayloadKind, PayloadTable, Persist, RateLimit, Span, TargetKind, Text, Words, Workers,
};

use super::model::{
    Absence, Ack, Arrivals, ClientKind, ConsumerKind, Deliver, Encryption, Layout, Pacing,
    PublishMode, PullStyle, Retention, Share, Storage, StreamKind, SyncInterval,
};

/// The whole file, and any overlay of it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scenario {
    pub(super) name: Option<String>,
    pub(super) question: Option<String>,
    pub(super) hypothesis: Option<String>,
    pub(super) target: Target,
    pub(super) stream: Stream,
    pub(super) consumer: Consumer,
    pub(super) publish: Publish,
    pub(super) workload: Workload,
    pub(super) trials: Trials,
    pub(super) expect: Expect,
    pub(super) http: Option<Http>,
    pub(super) search: Option<IgnoredAny>,
    pub(super) fault: Vec<Fault>,
    // Overlays are taken apart before; named here so that a misspelt one is told its name.
    matrix: Option<IgnoredAny>,
    exclude: Option<IgnoredAny>,
    profile: Option<IgnoredAny>,
}

/// `[target]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Target {
    pub(super) kind: Option<Text<Choice<TargetKind>>>,
    pub(super) servers: Option<u8>,
    pub(super) cpus: Option<f64>,
    pub(super) memory: Option<Text<Bytes>>,
    pub(super) sync_interval: Option<Text<SyncInterval>>,
    pub(super) store_dir: Option<String>,
    pub(super) encryption: Option<Text<Choice<Encryption>>>,
    pub(super) port: Option<u16>,
    pub(super) accounts: Option<u32>,
    pub(super) urls: Option<Vec<String>>,
    pub(super) context: Option<String>,
    pub(super) creds: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) token: Option<String>,
    pub(super) nkey: Option<String>,
    pub(super) tls: Option<Tls>,
    pub(super) monitor: Option<Vec<String>>,
    pub(super) allow_faults: Option<bool>,
    pub(super) delay: Option<Text<Span>>,
    pub(super) stall: Option<Text<Span>>,
    pub(super) stall_every: Option<Text<Span>>,
}

/// `[target.tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) ca: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) first: Option<bool>,
}

/// `[stream]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Stream {
    pub(super) kind: Option<Text<Choice<StreamKind>>>,
    pub(super) layout: Option<Text<Choice<Layout>>>,
    pub(super) storage: Option<Text<Choice<Storage>>>,
    pub(super) replicas: Option<u8>,
    pub(super) retention: Option<Text<Choice<Retention>>>,
    pub(super) discard: Option<Text<Choice<Discard>>>,
    pub(super) max_bytes: Option<Text<Bytes>>,
    pub(super) max_msgs: Option<u64>,
    pub(super) max_msgs_per_subject: Option<u64>,
    pub(super) max_age: Option<Text<Span>>,
    pub(super) duplicate_window: Option<Text<Span>>,
    pub(super) compression: Option<Text<Choice<Compression>>>,
    pub(super) persist: Option<Text<Choice<Persist>>>,
    pub(super) existing: Option<String>,
}

/// `[consumer]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Consumer {
    pub(super) kind: Option<Text<Choice<ConsumerKind>>>,
    pub(super) ack: Option<Text<Choice<Ack>>>,
    pub(super) max_ack_pending: Option<u32>,
    pub(super) ack_wait: Option<Text<Span>>,
    pub(super) max_deliver: Option<u32>,
    pub(super) deliver: Option<Text<Choice<Deliver>>>,
    pub(super) replicas: Option<u8>,
    pub(super) memory: Option<bool>,
    pub(super) flow_control: Option<bool>,
    pub(super) batch: Option<u32>,
    pub(super) pull: Option<Text<Choice<PullStyle>>>,
    pub(super) share: Option<Text<Choice<Share>>>,
}

/// `[publish]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Publish {
    pub(super) mode: Option<Text<Choice<PublishMode>>>,
    pub(super) window: Option<u32>,
    pub(super) batch: Option<u32>,
    pub(super) message_id: Option<bool>,
    pub(super) ttl: Option<Text<Span>>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) timeout: Option<Text<Span>>,
    pub(super) subject: Option<String>,
    pub(super) retries: Option<u32>,
    pub(super) duplicate_ratio: Option<f64>,
}

/// `[workload]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Workload {
    pub(super) path: Option<Text<Choice<Path>>>,
    pub(super) workers: Option<Text<Choice<Workers>>>,
    pub(super) pods: Option<u32>,
    pub(super) apps: Option<u32>,
    pub(super) types: Option<u32>,
    pub(super) publishers: Option<u32>,
    pub(super) subscribers: Option<u32>,
    pub(super) payload: Option<Payload>,
    pub(super) rate: Option<Text<RateText>>,
    pub(super) arrivals: Option<Text<Choice<Arrivals>>>,
    pub(super) pacing: Option<Text<Choice<Pacing>>>,
    pub(super) duration: Option<Text<Span>>,
    pub(super) messages: Option<u64>,
    pub(super) client: Option<Text<Choice<ClientKind>>>,
    pub(super) connections: Option<u32>,
    pub(super) threads: Option<u32>,
    pub(super) keys: Option<u32>,
    pub(super) prefill: Option<u64>,
    pub(super) drain: Option<Text<Span>>,
}

/// `[trials]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Trials {
    pub(super) repeat: Option<u32>,
    pub(super) warmup: Option<Text<Span>>,
}

/// `[expect]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Expect {
    pub(super) lag: Latency,
    pub(super) service: Latency,
    pub(super) response: Latency,
    pub(super) e2e: Latency,
    pub(super) sent_per_s: Option<Text<RateLimit>>,
    pub(super) acked_per_s: Option<Text<RateLimit>>,
    pub(super) deliver: DeliverExpect,
    pub(super) lost: Option<Text<CountLimit>>,
    pub(super) lost_storage: Option<Text<CountLimit>>,
    pub(super) lost_delivery: Option<Text<CountLimit>>,
    pub(super) duplicated: Option<Text<CountLimit>>,
    pub(super) redelivered: Option<Text<CountLimit>>,
    pub(super) reordered: Option<Text<CountLimit>>,
    pub(super) corrupted: Option<Text<CountLimit>>,
    pub(super) unexpected: Option<Text<CountLimit>>,
    pub(super) recovered: Option<Text<CountLimit>>,
    pub(super) refused: Option<Text<CountLimit>>,
    pub(super) unknown: Option<Text<CountLimit>>,
    pub(super) absences: Vec<Text<Choice<Absence>>>,
}

/// `response.p99` and its like.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Latency {
    pub(super) min: Option<Text<LatencyLimit>>,
    pub(super) p50: Option<Text<LatencyLimit>>,
    pub(super) p90: Option<Text<LatencyLimit>>,
    pub(super) p99: Option<Text<LatencyLimit>>,
    pub(super) p999: Option<Text<LatencyLimit>>,
    pub(super) max: Option<Text<LatencyLimit>>,
    pub(super) mean: Option<Text<LatencyLimit>>,
}

/// `deliver.per_s`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DeliverExpect {
    pub(super) per_s: Option<Text<RateLimit>>,
}

/// `[http]`: known, not run by this version.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    dead_code,
    reason = "the keys are known so that a typing error in them is found"
)]
pub(super) struct Http {
    preset: Option<String>,
    proxy: Option<IgnoredAny>,
    dispatcher: Option<IgnoredAny>,
    sink: Option<IgnoredAny>,
}

/// `[[fault]]`: known, not run by this version.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    dead_code,
    reason = "the keys are known so that a typing error in them is found"
)]
pub(super) struct Fault {
    kind: Option<String>,
    on: Option<String>,
    at: Option<Text<Span>>,
    r#for: Option<Text<Span>>,
}
