//! What a scenario means once it is valid: plain domain values without serde, the only form that
//! the rooms above `scenario` ever see.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::program::Program;
use crate::secret::Secret;

/// A scenario after profile, `--set` and matrix were applied: a head and its cells.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// `name`: `[a-z0-9-]+`-like, used in directories.
    pub name: String,
    /// The question in prose, printed in the report.
    pub question: Option<String>,
    /// What the author expects to see.
    pub hypothesis: Option<String>,
    /// Matrix axes in the order of the file: path and the values as written.
    pub axes: Vec<(String, Vec<String>)>,
    /// How often each cell is repeated.
    pub repeat: u32,
    /// The cells, in matrix order (first axis slowest), excluded ones left out.
    pub cells: Vec<Cell>,
    /// Path of the file as given, `None` for the built-in quickstart.
    pub path: Option<PathBuf>,
    /// SHA-256 of the file's bytes, lower-case hex.
    pub file_sha256: String,
    /// The resolved scenario (profile and `--set` applied) as TOML, secrets redacted. Running it
    /// again gives the same cells.
    pub resolved_toml: String,
}

/// One combination of factors, fully resolved.
#[derive(Debug, Clone)]
pub struct Cell {
    /// `[a-z0-9-]+`, a function of the factors only; `"base"` without a matrix.
    pub id: String,
    /// Axis path to the value as written, e.g. `"stream.layout" -> "shared"`.
    pub factors: BTreeMap<String, String>,
    /// What this cell runs.
    pub spec: CellSpec,
}

/// Everything that a trial of a cell needs to know.
#[derive(Debug, Clone)]
pub struct CellSpec {
    /// Where NATS lives.
    pub target: Target,
    /// Streams.
    pub stream: Stream,
    /// Consumers.
    pub consumer: Consumer,
    /// How messages are published.
    pub publish: Publish,
    /// Who does how much, how fast and for how long.
    pub workload: Workload,
    /// Warm-up before the window; with [`Length::Messages`] it is not used.
    pub warmup: Duration,
    /// What must hold.
    pub expect: Vec<Expectation>,
    /// Absences that the scenario declares legal.
    pub absences: Vec<Absence>,
}

/// Where the servers are.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// jsbench starts and ends them.
    Embedded(Embedded),
    /// They are there already.
    External(External),
    /// No server: a stub in this process whose answers are known, to calibrate the driver.
    Stub(Stub),
}

/// A stub that acks each publish after a known time and stores nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stub {
    /// From the arrival of a publish to its ack.
    pub delay: Duration,
    /// When it stands still.
    pub stall: Option<Stall>,
}

/// A stub stands still for the first `length` of each `every`, counted from the Unix epoch: it acks
/// nothing then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// How long.
    pub length: Duration,
    /// How often; longer than `length`.
    pub every: Duration,
}

/// Servers that jsbench starts on loopback.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// 1 or 3.
    pub servers: u8,
    /// CPU per server: GOMAXPROCS (rounded up), and a cgroup quota where one may be made.
    pub cpus: Option<f64>,
    /// Memory per server: GOMEMLIMIT at 80 %, and a cgroup limit where one may be made.
    pub memory_bytes: Option<u64>,
    /// fsync policy of the file store.
    pub sync_interval: SyncInterval,
    /// Parent of the servers' store directories; a temporary directory when `None`.
    pub store_dir: Option<PathBuf>,
    /// Encryption at rest.
    pub encryption: Encryption,
    /// First of the ports (client, monitoring, routes); free ones when `None`.
    pub port: Option<u16>,
}

/// fsync policy of the file store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncInterval {
    /// fsync before each ack.
    Always,
    /// In the background at this interval.
    Every(Duration),
}

/// Encryption at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Plain files.
    Off,
    /// AES-GCM.
    Aes,
    /// ChaCha20-Poly1305.
    ChaCha,
}

/// Servers that jsbench did not start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct External {
    /// `nats://`, `tls://` URLs, credentials already taken out of them into `auth`.
    pub urls: Vec<String>,
    /// Name of a natscli context that fills what is not set here.
    pub context: Option<String>,
    /// Credentials.
    pub auth: Auth,
    /// TLS material.
    pub tls: Tls,
    /// HTTP monitoring URLs, for resources and healthz.
    pub monitor: Vec<String>,
    /// Faults may strike servers that jsbench did not start (needs the flag as well).
    pub allow_faults: bool,
}

/// Credentials of an external target. At most one kind is set, user and password being one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// Path of a `.creds` file.
    pub creds: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Token.
    pub token: Option<Secret>,
    /// An nkey seed, or the path of a file that holds one.
    pub nkey: Option<Secret>,
}

/// TLS material of an external target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// CA certificates (PEM).
    pub ca: Option<PathBuf>,
    /// Client certificate (PEM).
    pub cert: Option<PathBuf>,
    /// Client key (PEM).
    pub key: Option<PathBuf>,
    /// TLS handshake before INFO.
    pub first: bool,
}

/// Which subjects share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One stream for all apps.
    Shared,
    /// A stream for each app.
    PerApp,
    /// A stream for each type of each app.
    PerType,
}

/// Storage of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory.
    Memory,
}

/// Retention of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Until a limit is reached.
    Limits,
    /// While a consumer has interest.
    Interest,
    /// Until one consumer has acked.
    WorkQueue,
}

/// What a stream is to those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A stream.
    Stream,
    /// A key-value bucket: a message is a put, and the last of each key stays.
    Kv,
}

/// The streams of a cell. Unset limits are `None`, which the server reads as unlimited.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// A stream or a bucket.
    pub kind: StreamKind,
    /// Which subjects share a stream.
    pub layout: Layout,
    /// File or memory.
    pub storage: Storage,
    /// 1 to 5.
    pub replicas: u8,
    /// When messages leave.
    pub retention: Retention,
    /// `true`: new messages are refused at a limit; `false`: the oldest are dropped.
    pub discard_new: bool,
    /// Limit in bytes.
    pub max_bytes: Option<u64>,
    /// Limit in messages.
    pub max_msgs: Option<u64>,
    /// Limit in messages per subject.
    pub max_msgs_per_subject: Option<u64>,
    /// Limit in age.
    pub max_age: Option<Duration>,
    /// Window of Nats-Msg-Id deduplication; the server's default (2 min) when `None`.
    pub duplicate_window: Option<Duration>,
    /// S2 compression.
    pub compression: bool,
    /// Asynchronous persistence (file, R1 only).
    pub persist_async: bool,
    /// A stream that is there already; nothing about it is changed.
    pub existing: Option<String>,
}

/// What a scenario that says nothing of it means.
impl Default for Stream {
    fn default() -> Self {
        Self {
            kind: StreamKind::Stream,
            layout: Layout::Shared,
            storage: Storage::File,
            replicas: 1,
            retention: Retention::Limits,
            discard_new: false,
            max_bytes: None,
            max_msgs: None,
            max_msgs_per_subject: None,
            max_age: None,
            duplicate_window: None,
            compression: false,
            persist_async: false,
            existing: None,
        }
    }
}

/// How a subscriber reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerKind {
    /// Nobody reads.
    None,
    /// Client-side ordered: push, ack none, recreated on a gap.
    Ordered,
    /// Durable pull.
    Pull,
    /// Durable push.
    Push,
    /// Durable push with a deliver group.
    PushQueue,
    /// No consumer: each message of the prefill is asked for, by its sequence or, in a bucket, by its
    /// key (direct get).
    Get,
    /// A core subscription that answers each request.
    Reply,
    /// A plain core subscription.
    Core,
}

/// How a pull consumer is asked for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStyle {
    /// Again when half of a batch is used up: the flow never stops.
    Consume,
    /// Again when a batch is used up.
    Fetch,
}

/// How a delivery is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Not at all.
    None,
    /// One ack confirms all before it.
    All,
    /// Each message.
    Explicit,
    /// Each message, and the server confirms the ack.
    Double,
}

/// Where a consumer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deliver {
    /// From the first message.
    All,
    /// From now on.
    New,
    /// From the last message.
    Last,
    /// From the last message of each subject.
    LastPerSubject,
}

impl ConsumerKind {
    /// The server keeps a consumer for it, or the client makes one.
    pub fn is_jetstream(self) -> bool {
        matches!(
            self,
            Self::Ordered | Self::Pull | Self::Push | Self::PushQueue
        )
    }
}

/// Who shares a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Each subscriber is a subscription of its own (fan-out).
    None,
    /// The subscribers of an app share one durable.
    App,
}

/// The consumers of a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Consumer {
    /// How subscribers read.
    pub kind: ConsumerKind,
    /// How they ack.
    pub ack: Ack,
    /// Deliveries without an ack that the server allows.
    pub max_ack_pending: u32,
    /// Redelivery after this time without an ack.
    pub ack_wait: Duration,
    /// Deliveries per message; unlimited when `None`.
    pub max_deliver: Option<u32>,
    /// Where to start.
    pub deliver: Deliver,
    /// Replicas of the consumer's state; as the stream when `None`.
    pub replicas: Option<u8>,
    /// Consumer state in memory.
    pub memory: bool,
    /// Flow control and heartbeats of a push consumer.
    pub flow_control: bool,
    /// Messages per pull request, or per get.
    pub batch: u32,
    /// When a pull consumer is asked for more.
    pub pull: PullStyle,
    /// Who shares a consumer.
    pub share: Share,
}

/// What a scenario that says nothing of it means.
impl Default for Consumer {
    fn default() -> Self {
        Self {
            kind: ConsumerKind::None,
            ack: Ack::None,
            max_ack_pending: 1_000,
            ack_wait: Duration::from_secs(30),
            max_deliver: None,
            deliver: Deliver::All,
            replicas: None,
            memory: false,
            flow_control: false,
            batch: 200,
            pull: PullStyle::Consume,
            share: Share::None,
        }
    }
}

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishMode {
    /// One in flight.
    Sync,
    /// A sliding window in flight.
    Async,
    /// Batches that are stored whole or not at all, one ack each (ADR-50).
    AtomicBatch,
    /// A stream of messages with an ack for every so many of them (ADR-50).
    FastIngest,
    /// Core requests, each with an answer of a subscriber.
    Request,
    /// Core NATS, no acks.
    Core,
}

impl PublishMode {
    /// An ack stands for many messages: what is measured is ack-group latency.
    pub fn has_group_acks(self) -> bool {
        matches!(self, Self::AtomicBatch | Self::FastIngest)
    }

    /// Nothing is stored.
    pub fn is_core(self) -> bool {
        matches!(self, Self::Request | Self::Core)
    }
}

/// Publishing.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// Mode.
    pub mode: PublishMode,
    /// Messages in flight per publisher; 1 in sync mode.
    pub window: u32,
    /// Messages per ack in modes whose acks stand for many; not above `window`.
    pub batch: u32,
    /// Send `Nats-Msg-Id`.
    pub message_id: bool,
    /// Share of messages that are sent once more with the same `Nats-Msg-Id`.
    pub duplicate_ratio: f64,
    /// `Nats-TTL`: messages leave the stream after this time.
    pub ttl: Option<Duration>,
    /// Headers of each message, in the order of the file.
    pub headers: Vec<(String, String)>,
    /// Without an answer for this long a publish is unknown.
    pub timeout: Duration,
    /// Subject for an existing stream.
    pub subject: Option<String>,
}

/// What a scenario that says nothing of it means.
impl Default for Publish {
    fn default() -> Self {
        Self {
            mode: PublishMode::Async,
            window: 1_000,
            batch: 500,
            message_id: false,
            duplicate_ratio: 0.0,
            ttl: None,
            headers: Vec::new(),
            timeout: Duration::from_secs(5),
            subject: None,
        }
    }
}

/// What a message carries behind its identity.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Seeded bytes of which `compressible` (0 to 1) is zeroes.
    Random {
        /// Whole payload, identity included, at least 40.
        size_bytes: u64,
        /// Share that compresses away.
        compressible: f64,
    },
    /// The bytes of a file, the first 40 replaced by the identity.
    File {
        /// Path as the scenario wrote it, joined to the directory of its file.
        path: PathBuf,
        /// Its size when the scenario was read.
        size_bytes: u64,
    },
}

impl Payload {
    /// Bytes of one message's payload.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Random { size_bytes, .. } | Self::File { size_bytes, .. } => *size_bytes,
        }
    }
}

/// How fast messages become due.
#[derive(Debug, Clone, PartialEq)]
pub enum Rate {
    /// As fast as acks come back: closed loop.
    Max,
    /// At times of their own, total of the cell: open loop. Begins with the window.
    Open(Arc<Program>),
}

/// How the messages of an open loop are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Uniform,
    /// As a Poisson process: independent of each other.
    Poisson,
}

/// How the driver waits for the next message of an open loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// By a timer: late by what it takes to be woken.
    Sleep,
    /// By looking at the clock again and again: hardly late, for a whole CPU per worker.
    Spin,
}

/// How long load runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// The window; warm-up comes before it.
    Duration(Duration),
    /// Messages per pod, split over its publishers.
    Messages(u64),
}

/// Which client library drives the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// Our own protocol core.
    Wire,
    /// The official Rust client.
    AsyncNats,
}

impl ClientKind {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Wire, Self::AsyncNats];

    /// As a scenario names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::AsyncNats => "async-nats",
        }
    }
}

/// Who does how much.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Groups of clients.
    pub pods: u32,
    /// Apps; pod p belongs to app p mod apps.
    pub apps: u32,
    /// Event types per app.
    pub types: u32,
    /// Per pod.
    pub publishers: u32,
    /// Per pod.
    pub subscribers: u32,
    /// What messages carry.
    pub payload: Payload,
    /// How fast, total of the cell.
    pub rate: Rate,
    /// How messages are spread in open loop.
    pub arrivals: Arrivals,
    /// How the driver waits for what is due in open loop.
    pub pacing: Pacing,
    /// How long.
    pub length: Length,
    /// Client library.
    pub client: ClientKind,
    /// Connections per pod; one per client when `None`.
    pub connections: Option<u32>,
    /// Event loops per pod, each a thread, over which its clients and connections are spread.
    pub threads: u32,
    /// Subjects below each type that a publisher uses in turn, its own ones; none when `None`. In a
    /// bucket they are the keys.
    pub keys: Option<u32>,
    /// Messages per pod stored before the barrier.
    pub prefill: u64,
    /// How long deliveries may take to catch up after the load ended.
    pub drain: Duration,
}

/// What a scenario that says nothing of it means.
impl Default for Workload {
    fn default() -> Self {
        Self {
            pods: 1,
            apps: 1,
            types: 1,
            publishers: 1,
            subscribers: 0,
            payload: Payload::Random {
                size_bytes: 1_024,
                compressible: 0.0,
            },
            rate: Rate::Max,
            arrivals: Arrivals::Uniform,
            pacing: Pacing::Sleep,
            length: Length::Duration(Duration::from_secs(30)),
            client: ClientKind::Wire,
            connections: None,
            threads: 1,
            keys: None,
            prefill: 0,
            drain: Duration::from_secs(30),
        }
    }
}

/// An absence from the stream that a scenario may declare legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absence {
    /// max_bytes, max_msgs, max_age, max_msgs_per_subject.
    Limits,
    /// Per-message TTL.
    Ttl,
    /// A purge.
    Purge,
    /// MaxDeliver reached.
    MaxDeliver,
    /// An interest stream without a consumer.
    NoInterest,
}

/// What kind of number an expectation is about; decides the unit of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Nanoseconds.
    LatencyNs,
    /// Per second.
    RatePerS,
    /// A count.
    Count,
}

/// Comparison of an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `==`
    Eq,
    /// `>=`
    Ge,
    /// `>`
    Gt,
}

/// `response.p99 <= 50ms`.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// Dotted name: `response.p99`, `acked_per_s`, `deliver.per_s`, `lost`.
    pub name: String,
    /// What its limit counts.
    pub quantity: Quantity,
    /// Comparison.
    pub op: Op,
    /// In the unit of `quantity`.
    pub limit: f64,
    /// As the scenario wrote it: `response.p99 <= 50ms`.
    pub text: String,
}
