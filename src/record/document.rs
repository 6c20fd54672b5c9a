//! `record.json` (`jsbench.record/v1`): the folded record with what analysis made of it. Plain
//! data; `docs/FORMAT.md` describes every field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::EffectiveConfig;
use crate::measure::histogram::LatencySummary;

/// Schema of a record.
pub const RECORD_SCHEMA: &str = "jsbench.record/v1";

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_SCHEMA`].
    pub schema: String,
    /// 16 hex digits.
    pub run_id: String,
    /// False for a run that was killed or interrupted.
    pub complete: bool,
    /// Cells in the order of the matrix.
    pub cells: Vec<CellRecord>,
    /// Claims with their evidence.
    pub findings: Vec<Finding>,
    /// Each expectation of each cell.
    pub expectations: Vec<ExpectationResult>,
    /// The verdict.
    pub verdict: Verdict,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    /// Id.
    pub id: String,
    /// Axis path to value as written.
    pub factors: BTreeMap<String, String>,
    /// Trials in the order they ran.
    pub trials: Vec<TrialRecord>,
    /// Over the usable trials.
    pub summary: Summary,
}

/// Whether a trial may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Used.
    Valid,
    /// Used and stamped.
    Degraded,
    /// The driver failed: shown and left out.
    Invalid,
    /// It did not finish: shown and left out.
    Failed,
}

impl Status {
    /// Counts in summaries and expectations.
    pub fn usable(self) -> bool {
        matches!(self, Self::Valid | Self::Degraded)
    }

    /// The word in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Degraded => "degraded",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// Unique in the run, from 0.
    pub trial: u32,
    /// Block.
    pub block: u32,
    /// Status.
    pub status: Status,
    /// Why it is not valid.
    pub reasons: Vec<String>,
    /// The target could not keep up; null in closed loop.
    pub saturated: Option<bool>,
    /// Load and servers share a host.
    pub shared_host: bool,
    /// Length of the window.
    pub window_ns: Option<u64>,
    /// Stream names.
    pub streams: Vec<String>,
    /// The cell this is a repeat of, for A/A pairs.
    pub aa_of: Option<String>,
    /// Configuration as read back.
    pub config: EffectiveConfig,
    /// Servers as read back.
    pub servers: Vec<ServerInfo>,
    /// Null in closed loop.
    pub offered_per_s: Option<f64>,
    /// Time in which publishers could not send, summed over publishers.
    pub blocked_ns: Option<u64>,
    /// Publishing.
    pub publish: PublishRecord,
    /// Deliveries.
    pub deliver: DeliverRecord,
    /// The four latencies; null where not measured.
    pub latency: LatencyRecord,
    /// Hops of the HTTP path.
    pub hops: Vec<Hop>,
    /// The ledger.
    pub ledger: Ledger,
    /// Resources.
    pub resources: Resources,
    /// Where leaders were.
    pub placement: Placement,
    /// Little's law in closed loop; null in open loop and where it says nothing.
    #[serde(default)]
    pub little: Option<Little>,
    /// Whether the trial was steady.
    #[serde(default)]
    pub steady: Steady,
    /// Faults.
    pub faults: Vec<serde_json::Value>,
}

/// Publishing of a trial; null is "not measured".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PublishRecord {
    /// Whole trial.
    pub attempted: Option<u64>,
    /// Whole trial.
    pub acked: Option<u64>,
    /// Whole trial.
    pub refused: Option<u64>,
    /// Whole trial.
    pub unknown: Option<u64>,
    /// In the window.
    pub sent_per_s: Option<f64>,
    /// In the window.
    pub acked_per_s: Option<f64>,
    /// In the window, of acked messages (of sent ones in core mode).
    pub payload_bytes_per_s: Option<f64>,
    /// What an ack stands for; null where nothing is acked.
    #[serde(default)]
    pub ack: Option<AckOf>,
    /// Messages sent once more on purpose, whole trial.
    #[serde(default)]
    pub repeated: Option<u64>,
    /// Of them those that the server answered as duplicates.
    #[serde(default)]
    pub deduplicated: Option<u64>,
}

/// What an ack stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckOf {
    /// One message.
    Message,
    /// All messages of a group: what is measured of each is ack-group latency.
    Group,
}

/// Deliveries of a trial.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeliverRecord {
    /// (acked + prefilled) x subscriptions.
    pub expected: Option<u64>,
    /// Deliveries, redeliveries too.
    pub received: Option<u64>,
    /// Distinct messages, summed over subscriptions.
    pub unique: Option<u64>,
    /// In the window.
    pub per_s: Option<f64>,
}

/// The four latencies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyRecord {
    /// Null in closed loop.
    pub lag: Option<LatencySummary>,
    /// Null without acks.
    pub service: Option<LatencySummary>,
    /// Null in closed loop and without acks.
    pub response: Option<LatencySummary>,
    /// Null without consumers.
    pub e2e: Option<LatencySummary>,
}

/// Little's law, N = X R: what was in flight against rate times service time. Far from 1, the driver
/// did not keep its window full, or one of the numbers is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Little {
    /// N: messages that the publishers keep in flight.
    pub in_flight: f64,
    /// X R: acked per second times mean service time in s.
    pub rate_x_service: f64,
    /// X R / N.
    pub ratio: f64,
}

/// The class of a trial's course.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SteadyClass {
    /// No trend.
    Flat,
    /// It got better while it ran: a longer warm-up is needed.
    Warming,
    /// It got worse while it ran.
    Degrading,
    /// It never settled.
    NoSteadyState,
    /// Too short to say, or its rate changes by design.
    #[default]
    NotAssessed,
}

/// Whether a trial was steady. Nothing is cut away: the class is told, the numbers are of the whole
/// window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    /// Class.
    pub class: SteadyClass,
    /// `acked_per_s`, `response`, …: what was looked at.
    pub metric: Option<String>,
    /// What MSER-5 would cut from the start of the window.
    pub cut_ns: Option<u64>,
    /// Change per minute after the cut, as a share of the median (Theil-Sen).
    pub slope_per_min: Option<f64>,
    /// Why it is not assessed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Known periods of which the window holds less than two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub periods: Vec<Period>,
}

/// Something that the servers do again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// `fsync`, `raft compaction`.
    pub name: String,
    /// How often.
    pub every_ns: u64,
}

/// One hop of the HTTP path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Name.
    pub name: String,
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// Largest.
    pub max_ns: Option<u64>,
}

/// What the ledger says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerVerdict {
    /// Every promise was kept.
    Pass,
    /// A promise was broken.
    Fail,
    /// It could not be judged.
    #[default]
    Inconclusive,
    /// Nothing was promised.
    NotPromised,
}

/// Counts of the delivery ledger; null is "could not be counted".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Verdict.
    pub verdict: LedgerVerdict,
    /// lost_storage + lost_delivery.
    pub lost: Option<u64>,
    /// Acked, and not in the stream.
    pub lost_storage: Option<u64>,
    /// In the stream, and not delivered.
    pub lost_delivery: Option<u64>,
    /// Stored more than once.
    pub duplicated: Option<u64>,
    /// Delivered again.
    pub redelivered: Option<u64>,
    /// Delivered out of the publisher's order.
    pub reordered: Option<u64>,
    /// Ours, and altered.
    pub corrupted: Option<u64>,
    /// Not ours, or never attempted.
    pub unexpected: Option<u64>,
    /// Unknown at publish, and there all the same.
    pub recovered: Option<u64>,
    /// Why it is not a plain pass, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Resources of a trial; CPU per acked message in the window (in a drain per received one).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Driver CPU.
    pub driver_cpu_ns_per_msg: Option<f64>,
    /// CPU of all servers.
    pub server_cpu_ns_per_msg: Option<f64>,
    /// Largest resident set of the driver.
    pub driver_rss_max_bytes: Option<u64>,
    /// Largest sum of the servers' resident sets.
    pub server_rss_max_bytes: Option<u64>,
    /// Sum of the leaders' `state.bytes` at the end of the load.
    pub stored_bytes: Option<u64>,
    /// Allocated bytes of the store directories; null if external.
    pub disk_bytes: Option<u64>,
}

/// Where leaders were when the load began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Stream to server name.
    pub stream_leaders: BTreeMap<String, String>,
}

/// A server as it describes itself, with what jsbench applied to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Server name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Git commit.
    pub git_commit: Option<String>,
    /// fsync interval.
    pub sync_interval_ns: Option<u64>,
    /// fsync before each ack.
    pub sync_always: Option<bool>,
    /// CPUs it may use.
    pub cpus: Option<f64>,
    /// Memory it may use, bytes.
    pub memory: Option<u64>,
    /// How limits were applied: `GOMAXPROCS=1`, `GOMEMLIMIT=1717986918`, `cgroup v1 cpu 1.0`.
    #[serde(default)]
    pub applied: Vec<String>,
}

/// The machine of the driver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// `Linux 6.1.0`.
    pub os: String,
    /// CPU architecture.
    pub arch: String,
    /// CPU model.
    pub cpu: Option<String>,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: Option<u64>,
}

/// Mean (geometric), interval and spread of one quantity over trials.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Geometric mean.
    pub mean: Option<f64>,
    /// Lower end of the 95 % interval; null for n < 2.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
    /// Coefficient of variation.
    pub cv: Option<f64>,
}

/// Stability over trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stability {
    /// CV <= 5 %.
    A,
    /// CV <= 10 %.
    B,
    /// CV <= 20 %.
    C,
    /// CV > 20 %.
    #[serde(rename = "unstable")]
    Unstable,
}

/// A cell over its usable trials.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Usable trials.
    pub n: u32,
    /// Acked publishes per second.
    pub acked_per_s: Estimate,
    /// Deliveries per second.
    pub deliver_per_s: Estimate,
    /// Response p99.
    pub response_p99_ns: Estimate,
    /// Null for n < 2.
    pub stability: Option<Stability>,
}

/// A claim with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `effect`, `null`, `contradiction`, …
    pub kind: String,
    /// Metric it is about.
    pub metric: String,
    /// Level or cell that is compared with.
    pub base: String,
    /// Level or cell that is compared.
    pub other: String,
    /// other / base.
    pub ratio: Option<f64>,
    /// Lower end of its 95 % interval.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
    /// Adjusted p value.
    pub q: Option<f64>,
    /// Blocks compared.
    pub n: u32,
    /// Smallest ratio - 1 that could have been seen.
    pub mde: Option<f64>,
    /// In words.
    pub text: String,
}

/// Result of an expectation or of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It cannot be said.
    Inconclusive,
}

/// One expectation of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectationResult {
    /// As the scenario wrote it.
    pub text: String,
    /// Cell.
    pub cell: String,
    /// Result.
    pub result: Outcome,
    /// What was measured; of the trial or the interval end that decided.
    pub value: Option<f64>,
    /// Limit in the same unit (ns, per second, count).
    pub limit: f64,
    /// Why it is inconclusive, or which trial decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The verdict of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Result.
    pub result: Outcome,
    /// Exit code, as `docs/FORMAT.md` lists them.
    pub exit_code: u8,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}
