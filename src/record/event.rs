//! Everything that a run says while it goes on. The engine emits these into one sink and returns
//! nothing else; the journal keeps them, live progress shows them, the record is a fold over them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::calibration::{self, Calibration};
use super::document::{AckOf, Host, Ledger, Resources, ServerInfo, Status};
use crate::measure::histogram::{LatencySummary, Metric};

/// Schema of a manifest.
pub const MANIFEST_SCHEMA: &str = "jsbench.manifest/v1";

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum RunEvent {
    /// First event of every run.
    RunStarted(Box<Manifest>),
    /// The servers of a group of trials are ready; read back from them.
    ServersReady {
        /// What they say of themselves.
        servers: Vec<ServerInfo>,
    },
    /// A trial begins.
    TrialStarted {
        /// Unique in the run.
        trial: u32,
        /// Block of randomised order.
        block: u32,
        /// Cell id.
        cell: String,
        /// When, ns since the Unix epoch.
        at_unix_ns: u64,
    },
    /// Its streams and consumers are there; read back from the server.
    StreamsReady {
        /// Trial.
        trial: u32,
        /// Names of the streams.
        streams: Vec<String>,
        /// Effective configuration as the server says it.
        config: EffectiveConfig,
        /// Stream name to the server that leads it.
        stream_leaders: BTreeMap<String, String>,
    },
    /// The barrier fell.
    LoadStarted {
        /// Trial.
        trial: u32,
        /// Common start, ns since the Unix epoch.
        start_unix_ns: u64,
        /// Latest less earliest actual start of a worker.
        skew_ns: u64,
        /// Where the window begins, after the start; `None` until it is known (message counts).
        window_start_ns: Option<u64>,
        /// Where it ends, after the start.
        window_end_ns: Option<u64>,
    },
    /// What happened in one interval, all workers together.
    Interval(Box<Interval>),
    /// A look at servers and driver.
    Sample(Box<Sample>),
    /// A trial ended and could be judged.
    TrialFinished(Box<TrialResult>),
    /// A trial could not be finished.
    TrialFailed {
        /// Trial.
        trial: u32,
        /// Why.
        reason: String,
    },
    /// Something worth a line in the report.
    Note {
        /// The text.
        text: String,
    },
    /// SIGINT or SIGTERM arrived.
    Interrupted {
        /// 2 or 15.
        signal: i32,
    },
    /// Last event of a run that reached its end.
    RunFinished {
        /// When, ns since the Unix epoch.
        at_unix_ns: u64,
    },
}

/// What a run was asked to do and where it ran: `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// 16 hex digits.
    pub run_id: String,
    /// The scenario.
    pub scenario: ScenarioRef,
    /// Seed of trial order, payloads and arrivals.
    pub seed: u64,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// The tool.
    pub tool: Tool,
    /// The machine of the driver.
    pub host: Host,
    /// Servers, as first read back; empty until they are ready.
    pub servers: Vec<ServerInfo>,
    /// The calibration this run relied on.
    #[serde(default, deserialize_with = "calibration::of_manifest")]
    pub calibration: Option<Calibration>,
    /// The command that repeats this run.
    pub command: String,
    /// `"3 embedded servers"`, `"external nats://…"`: for the head of a rendering, without secrets.
    pub target: String,
    /// Load and servers share a host.
    pub shared_host: bool,
    /// Planned trials.
    pub planned_trials: u32,
    /// Cells in the order of the matrix.
    pub cells: Vec<CellRef>,
}

/// The scenario of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioRef {
    /// Name.
    pub name: String,
    /// Path as given; `None` for the built-in one.
    pub path: Option<String>,
    /// SHA-256 of the file.
    pub file_sha256: String,
    /// Fully resolved text, secrets redacted.
    pub resolved: String,
    /// Question in prose.
    pub question: Option<String>,
    /// Hypothesis in prose.
    pub hypothesis: Option<String>,
    /// Matrix axes in the order of the file, with the values as written.
    pub axes: Vec<(String, Vec<String>)>,
}

/// The tool of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Version of jsbench.
    pub version: String,
    /// Git revision it was built from, if known.
    pub git: Option<String>,
}

/// What the judge needs to know of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
// Four independent facts of a cell, each a key of the file.
#[allow(clippy::struct_excessive_bools)]
pub struct CellRef {
    /// Id.
    pub id: String,
    /// Axis path to value as written.
    pub factors: BTreeMap<String, String>,
    /// Closed loop: no latency verdicts.
    pub closed_loop: bool,
    /// Offered rate of an open loop, total of the cell.
    pub rate_per_s: Option<f64>,
    /// Payload size.
    pub payload_bytes: u64,
    /// Subscriptions that receive each message.
    pub has_consumers: bool,
    /// There are publishers (else the trial is a drain).
    pub has_publishers: bool,
    /// Core publishing: no acks.
    pub core: bool,
    /// What an ack stands for; `None` without acks, and in an older journal.
    #[serde(default)]
    pub ack: Option<AckOf>,
    /// Which client library, over what; `None` in an older journal.
    #[serde(default)]
    pub client: Option<ClientRef>,
    /// Messages that all publishers together keep in flight at most; `None` in core mode.
    #[serde(default)]
    pub in_flight: Option<u64>,
    /// The rate program as written, where the rate changes in the window.
    #[serde(default)]
    pub program: Option<String>,
    /// The driver waits by spinning: its CPU says nothing about its load.
    #[serde(default)]
    pub spin: bool,
    /// By how much the rate at the window's end is above the one before its start: that many more
    /// messages are in flight then, times what one takes.
    #[serde(default)]
    pub rate_change_per_s: f64,
    /// Messages arrive at random times.
    #[serde(default)]
    pub poisson: bool,
    /// Streams are kept in files.
    #[serde(default)]
    pub file: bool,
    /// Replicas of the streams; 0 in core mode.
    #[serde(default)]
    pub replicas: u8,
    /// What must hold.
    pub expectations: Vec<ExpectationRef>,
}

/// How the clients of a cell reach NATS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRef {
    /// `wire`, `async-nats`.
    pub name: String,
    /// Connections of the cell.
    pub connections: u64,
    /// Event loops of the cell, a thread each.
    pub threads: u64,
}

/// An expectation of a cell, in base units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectationRef {
    /// As the scenario wrote it: `response.p99 <= 50ms`.
    pub text: String,
    /// Dotted name.
    pub name: String,
    /// `<`, `<=`, `==`, `>=`, `>`.
    pub op: String,
    /// ns, per second or a count.
    pub limit: f64,
}

/// Configuration as read back from the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EffectiveConfig {
    /// Stream configurations.
    pub streams: Vec<serde_json::Value>,
    /// Consumer configurations.
    pub consumers: Vec<serde_json::Value>,
}

/// Counters of one interval; all are deltas but `in_flight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages that became due (open loop only).
    pub intended: u64,
    /// Publishes begun.
    pub attempted: u64,
    /// Acked.
    pub acked: u64,
    /// Refused.
    pub refused: u64,
    /// Unknown.
    pub unknown: u64,
    /// Deliveries of our messages, redeliveries too.
    pub received: u64,
    /// Publishes without an answer at the end of the interval.
    pub in_flight: u64,
    /// Time in which publishers could not send, summed over publishers.
    pub blocked_ns: u64,
}

impl Counts {
    /// Both intervals together; of two workers in one interval, or of one worker in two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            intended: self.intended + other.intended,
            attempted: self.attempted + other.attempted,
            acked: self.acked + other.acked,
            refused: self.refused + other.refused,
            unknown: self.unknown + other.unknown,
            received: self.received + other.received,
            in_flight: self.in_flight + other.in_flight,
            blocked_ns: self.blocked_ns + other.blocked_ns,
        }
    }
}

/// What happened in one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Trial.
    pub trial: u32,
    /// End of the interval after the common start.
    pub end_ns: u64,
    /// Length.
    pub length_ns: u64,
    /// Counters.
    pub counts: Counts,
    /// Histograms of window messages (base64 of HdrHistogram V2 with deflate); absent where empty.
    pub histograms: BTreeMap<Metric, String>,
    /// Summaries over all messages of the interval, warm-up too, for the series.
    pub latency: BTreeMap<Metric, LatencySummary>,
    /// How the workers fared.
    #[serde(default)]
    pub health: Health,
}

/// How the event loops of the workers fared in an interval, the worst of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// CPU time of the busiest worker's thread.
    pub busiest_cpu_ns: u64,
    /// CPU time of all workers' threads.
    pub cpu_ns: u64,
    /// Time in which a worker stood still: by how much its heartbeats were late, where that is more
    /// than any timer is.
    pub stalled_ns: u64,
    /// The longest of them.
    pub longest_stall_ns: u64,
}

impl Health {
    /// With another worker in the same interval.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self {
            busiest_cpu_ns: self.busiest_cpu_ns.max(other.busiest_cpu_ns),
            cpu_ns: self.cpu_ns + other.cpu_ns,
            stalled_ns: self.stalled_ns.max(other.stalled_ns),
            longest_stall_ns: self.longest_stall_ns.max(other.longest_stall_ns),
        }
    }
}

/// A look at servers and driver. Times are after the common start and may be negative.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Trial.
    pub trial: u32,
    /// When.
    pub at_ns: i64,
    /// CPU used by the driver since it started.
    pub driver_cpu_ns: u64,
    /// Resident memory of the driver.
    pub driver_rss_bytes: u64,
    /// Each server.
    pub servers: Vec<ServerSample>,
    /// Sum of the leaders' `state.bytes`; `None` where it could not be read.
    pub stored_bytes: Option<u64>,
    /// Sum of the leaders' `state.messages`.
    pub stored_msgs: Option<u64>,
    /// Allocated bytes of the store directories.
    pub disk_bytes: Option<u64>,
    /// The driver's machine.
    #[serde(default)]
    pub machine: Machine,
}

/// What the driver's machine says of itself. All but `cpus` and `clock_offset_ns` are counters
/// since some start of their own, of which differences count; `None` where the system cannot say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// CPUs that the driver may use: its quota, or all of the machine.
    pub cpus: Option<f64>,
    /// Periods in which the driver's cgroup was throttled.
    pub throttled_periods: Option<u64>,
    /// Time in which it was.
    pub throttled_ns: Option<u64>,
    /// CPU time that the hypervisor gave to others, summed over CPUs.
    pub steal_ns: Option<u64>,
    /// CPU time of any kind, idle too, summed over CPUs.
    pub all_cpu_ns: Option<u64>,
    /// Time in which some task waited for a CPU (PSI).
    pub cpu_pressure_ns: Option<u64>,
    /// Wall clock less the clock of the run, which is monotonic.
    pub clock_offset_ns: Option<i64>,
}

/// A look at one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerSample {
    /// Server name.
    pub name: String,
    /// CPU used since it started; `None` where only a percentage can be had.
    pub cpu_ns: Option<u64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
}

/// A trial as the coordinator judged it: all of its row in the record but what stands in other
/// events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialResult {
    /// Trial.
    pub trial: u32,
    /// Status as far as the engine knows it (lag rules are applied by analysis).
    pub status: Status,
    /// Why it is not valid.
    pub reasons: Vec<String>,
    /// Load and servers share a host.
    pub shared_host: bool,
    /// Window, after the common start.
    pub window_start_ns: u64,
    /// Length of the window.
    pub window_ns: u64,
    /// Messages intended in the window (open loop).
    pub offered: Option<u64>,
    /// Publishes begun in the window.
    pub window_sent: u64,
    /// Acks that arrived in the window.
    pub window_acked: u64,
    /// Deliveries that arrived in the window.
    pub window_received: u64,
    /// Time in which publishers could not send, summed over publishers.
    pub blocked_ns: u64,
    /// Whole trial.
    pub attempted: u64,
    /// Whole trial; `None` in core mode.
    pub acked: Option<u64>,
    /// Whole trial.
    pub refused: Option<u64>,
    /// Whole trial.
    pub unknown: Option<u64>,
    /// Refusals by cause.
    pub refused_causes: BTreeMap<String, u64>,
    /// Messages sent once more on purpose; `None` where none were to be.
    #[serde(default)]
    pub repeated: Option<u64>,
    /// Of them those that the server knew; `None` where it cannot tell.
    #[serde(default)]
    pub deduplicated: Option<u64>,
    /// (acked + prefilled) x subscriptions; `None` without consumers.
    pub expected: Option<u64>,
    /// Deliveries of our messages, redeliveries too.
    pub received: Option<u64>,
    /// Distinct messages, summed over subscriptions.
    pub unique: Option<u64>,
    /// Payload bytes per message.
    pub payload_bytes: u64,
    /// Censored samples by metric.
    pub censored: BTreeMap<Metric, u64>,
    /// Clipped samples by metric.
    pub clipped: BTreeMap<Metric, u64>,
    /// The ledger.
    pub ledger: Ledger,
    /// Resources.
    pub resources: Resources,
    /// Reconnects of the driver's connections.
    pub reconnects: u64,
}
