//! What is known of the driver on one machine: `jsbench calibrate` measures it against a stub whose
//! answers are known, and runs on that machine rely on it. Its document, its verdicts, where it is
//! kept, and what follows for a scenario. Measures nothing: that is `engine`'s, for `cli`.

mod store;

use serde::{Deserialize, Deserializer, Serialize, de};

pub use self::store::stored_at;
use super::document::{Host, Outcome};
use crate::scenario::model::ClientKind;

/// Schema of a calibration.
pub const CALIBRATION_SCHEMA: &str = "jsbench.calibration/v2";

/// Whether this program was built with optimisation.
pub const OPTIMISED: bool = !cfg!(debug_assertions);

/// A calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// [`CALIBRATION_SCHEMA`].
    pub schema: String,
    /// 16 hex digits: the run that measured it.
    pub id: String,
    /// RFC 3339, UTC.
    pub measured_at: String,
    /// Version of jsbench.
    pub version: String,
    /// Built with optimisation.
    pub optimised: bool,
    /// The machine.
    pub host: Host,
    /// Payload of its messages.
    pub payload_bytes: u64,
    /// What each client did, one or more.
    pub clients: Vec<ClientCalibration>,
    /// The worst of the clients' results.
    pub result: Outcome,
}

/// What the driver does with one of its clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientCalibration {
    /// The client, as `workload.client` names it.
    pub client: String,
    /// Highest rates against a stub that answers at once.
    pub ceilings: Vec<Ceiling>,
    /// Lag of constant rates.
    pub lags: Vec<LagAt>,
    /// Measured against known delays.
    pub delays: Vec<DelayCheck>,
    /// The stall that an open loop must see and a closed loop misses.
    pub stall: StallCheck,
    /// All checks of this client.
    pub result: Outcome,
    /// Why it is not a pass, in words, and what had to be measured twice.
    pub reasons: Vec<String>,
}

/// The highest rate of a number of threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Event loops, each a thread with one publisher and its connection.
    pub threads: u32,
    /// Acked messages per second.
    pub per_s: f64,
    /// The threads had CPU to spare: the stub was the limit, or other work, and they may reach more.
    pub at_least: bool,
    /// CPU time of the threads per message, ns.
    pub cpu_ns_per_msg: Option<f64>,
}

/// Lag of the driver at a constant rate of one publisher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LagAt {
    /// How the driver waited: `sleep` or `spin`.
    pub pacing: String,
    /// Messages per second.
    pub rate_per_s: f64,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
}

/// A known delay and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelayCheck {
    /// What the stub waits.
    pub delay_ns: u64,
    /// Median service time.
    pub service_p50_ns: Option<u64>,
    /// Its 90th percentile; told and not judged, since what other work on the machine costs is in
    /// it.
    pub service_p90_ns: Option<u64>,
    /// Its 99th percentile, likewise.
    pub service_p99_ns: Option<u64>,
    /// The most the median may differ: 0.2 ms and 2 %.
    pub tolerance_ns: u64,
    /// Whether it does not.
    pub result: Outcome,
}

/// A periodic stall and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StallCheck {
    /// How long the stub stands still.
    pub stall_ns: u64,
    /// How often.
    pub every_ns: u64,
    /// The p90 that follows: S (1 - 0.1 T / S).
    pub expected_p90_ns: u64,
    /// Response p90 of the open loop.
    pub response_p90_ns: Option<u64>,
    /// The p99 that follows: S (1 - 0.01 T / S).
    pub expected_p99_ns: u64,
    /// Response p99 of the open loop.
    pub response_p99_ns: Option<u64>,
    /// Service p99 of the closed loop beside it.
    pub closed_loop_p99_ns: Option<u64>,
    /// Whether the open loop's are within 15 % and the closed loop's is below a tenth of its p99.
    pub result: Outcome,
}

impl Calibration {
    /// What a run on `host` with this program must not rely on, and why; `None` where it may.
    pub fn unreliable(&self, host: &Host, version: &str, optimised: bool) -> Option<String> {
        let built = |optimised| if optimised { "optimised" } else { "debug" };
        let here = (&host.cpu, host.cpus, &host.os);
        if (&self.host.cpu, self.host.cpus, &self.host.os) != here {
            return Some("it is of another machine".to_owned());
        }
        if self.version != version || self.optimised != optimised {
            return Some(format!(
                "it is of jsbench {} ({} build) and this is {version} ({} build)",
                self.version,
                built(self.optimised),
                built(optimised)
            ));
        }
        // One client that passed is enough for those who use it.
        let mut missed = Vec::new();
        for of in &self.clients {
            missed.push(format!("with client {} {}", of.client, of.unreliable()?));
        }
        if missed.is_empty() {
            return Some("it has no client".to_owned());
        }
        Some(missed.join(", "))
    }

    /// What is known of this client; `None` where it was not measured.
    pub fn of(&self, client: ClientKind) -> Option<&ClientCalibration> {
        self.clients.iter().find(|of| of.client == client.word())
    }
}

impl ClientCalibration {
    /// Why no run may rely on what is said of this client; `None` where it may.
    pub fn unreliable(&self) -> Option<&'static str> {
        let rate = |c: &Ceiling| c.per_s.is_finite() && c.per_s > 0.0;
        match self.result {
            Outcome::Fail => Some("it missed a known answer"),
            Outcome::Inconclusive => Some("it was inconclusive"),
            Outcome::Pass if self.ceilings.is_empty() || !self.ceilings.iter().all(rate) => {
                Some("it has no ceiling, or one that is no rate")
            }
            Outcome::Pass => None,
        }
    }
}

/// The calibration in a manifest; `None` as well for one of another schema, which was of no use to
/// this version.
///
/// # Errors
/// It is of this schema and damaged.
pub(super) fn of_manifest<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Calibration>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(from)?;
    let value = value.filter(|v| v["schema"] == CALIBRATION_SCHEMA);
    value
        .map(|v| serde_json::from_value(v).map_err(de::Error::custom))
        .transpose()
}

#[cfg(test)]
pub(crate) mod tests;
