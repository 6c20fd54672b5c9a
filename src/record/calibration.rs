//! What is known of the driver on one machine: `jsbench calibrate` measures it against a stub whose
//! answers are known, and runs on that machine rely on it. Its document, its verdicts, where it is
//! kept, and what follows for a scenario. Measures nothing: that is `engine`'s, for `cli`.

mod store;

use serde::{Deserialize, Serialize};

pub use self::store::stored_at;
use super::document::{Host, Outcome};

/// Schema of a calibration.
pub const CALIBRATION_SCHEMA: &str = "jsbench.calibration/v1";

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
    /// Highest rates against a stub that answers at once.
    pub ceilings: Vec<Ceiling>,
    /// Lag of constant rates.
    pub lags: Vec<LagAt>,
    /// Measured against known delays.
    pub delays: Vec<DelayCheck>,
    /// The stall that an open loop must see and a closed loop misses.
    pub stall: StallCheck,
    /// All checks.
    pub result: Outcome,
    /// Why it is not a pass, in words, and what had to be measured twice.
    pub reasons: Vec<String>,
}

/// The highest rate of a number of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Workers, which are threads with one publisher each.
    pub workers: u32,
    /// Acked messages per second.
    pub per_s: f64,
    /// The workers had CPU to spare: the stub was the limit, and they may reach more.
    pub at_least: bool,
    /// CPU time of the workers per message, ns.
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
    /// The most it may differ: 0.2 ms and 2 %.
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
    /// The p99 that follows: S (1 - 0.01 T / S).
    pub expected_p99_ns: u64,
    /// Response p99 of the open loop.
    pub response_p99_ns: Option<u64>,
    /// Service p99 of the closed loop beside it.
    pub closed_loop_p99_ns: Option<u64>,
    /// Whether the one is within 15 % and the other below a tenth of it.
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
        let rate = |c: &Ceiling| c.per_s.is_finite() && c.per_s > 0.0;
        if self.ceilings.is_empty() || !self.ceilings.iter().all(rate) {
            return Some("it has no ceiling, or one that is no rate".to_owned());
        }
        match self.result {
            Outcome::Pass => None,
            Outcome::Fail => Some("it missed a known answer".to_owned()),
            Outcome::Inconclusive => Some("it was inconclusive".to_owned()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
