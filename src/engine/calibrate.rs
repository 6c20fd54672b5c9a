//! A known-answer test of the driver on this machine: built-in scenarios against a stub whose delays
//! and stalls are known, through the same engine as every other run, without a run directory.
//!
//! What is measured and how long is here; what it means is in `analysis::calibration`. Called by
//! `jsbench calibrate`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

use super::run::{Interrupts, Request, run};
use crate::analysis::analyse;
use crate::analysis::calibration::{RELIABLE_SHARE, judge, worst};
use crate::record::calibration::{
    CALIBRATION_SCHEMA, Calibration, Ceiling, ClientCalibration, DelayCheck, LagAt, OPTIMISED,
    StallCheck,
};
use crate::record::document::{Outcome, TrialRecord};
use crate::record::event::Manifest;
use crate::record::fold::{Fold, TrialLog};
use crate::scenario::model::{
    Cell, CellSpec, ClientKind, Consumer, Length, Pacing, Payload, Publish, PublishMode, Rate,
    Scenario, Stall, Storage, Stream, Stub, Target, Workload,
};
use crate::scenario::plan::Room;
use crate::scenario::program::Program;
use crate::units::{as_ns, human_duration, human_ns, short_rate};

/// Load before a window in which the CPU of whole seconds counts.
const CEILING_WARMUP: Duration = Duration::from_millis(500);
/// So that a whole second after the load began lies in it.
const CEILING_WINDOW: Duration = Duration::from_millis(1_500);
/// Load before each other window.
const WARMUP: Duration = Duration::from_millis(200);
/// Windows; with two clients and all that lies between them about 40 s. A p99 needs a thousand
/// messages.
const CALM_WINDOW: Duration = Duration::from_secs(1);
/// Two periods of the stall: then the share of messages that it hits is known, whenever it begins.
const STALL_WINDOW: Duration = Duration::from_secs(2);
/// A closed loop sends thousands of messages in one period.
const CLOSED_WINDOW: Duration = Duration::from_secs(1);

/// A thread that uses this share of a CPU gave all it has.
const FULL: f64 = 0.9;
const PAYLOAD_BYTES: u64 = 1024;
const WINDOW: u32 = 1000;
/// Rate at which times are compared with known ones.
const CALM_PER_S: f64 = 1_000.0;
const LAG_RATES_PER_S: [f64; 3] = [1_000.0, 10_000.0, 100_000.0];
const DELAYS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
];
const STALL: Stall = Stall {
    length: Duration::from_millis(200),
    every: Duration::from_secs(1),
};

/// What a calibration needs from its caller.
pub struct Calibrate<'a> {
    /// Run id.
    pub run: u64,
    /// Logical CPUs: the most threads that are tried.
    pub cpus: u32,
    /// The clients to measure, one or more.
    pub clients: &'a [ClientKind],
    /// The manifest of a run of a scenario; always with the same run id.
    pub manifest: &'a dyn Fn(&Scenario) -> Manifest,
}

/// Measures the driver; `None` where it was interrupted. Each part is told before it begins.
///
/// # Errors
/// The stub cannot be started or the environment fails.
pub async fn calibrate(
    this: &Calibrate<'_>,
    interrupts: watch::Receiver<Interrupts>,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Option<Calibration>> {
    let mut bench = Bench {
        this,
        interrupts,
        tell,
        client: ClientKind::Wire,
        reasons: Vec::new(),
        unusable: false,
    };
    let mut clients = Vec::new();
    for client in this.clients {
        bench.client = *client;
        clients.push(bench.client().await?);
    }
    if bench.interrupts.borrow().count > 0 {
        return Ok(None);
    }
    let manifest = (this.manifest)(&scenario(ceiling(1)));
    Ok(Some(Calibration {
        schema: CALIBRATION_SCHEMA.to_owned(),
        id: manifest.run_id,
        measured_at: manifest.started_at,
        version: manifest.tool.version,
        optimised: OPTIMISED,
        host: manifest.host,
        payload_bytes: PAYLOAD_BYTES,
        result: worst(&clients),
        clients,
    }))
}

/// The lag of a trial at a constant rate.
fn lag_at(pacing: &str, rate_per_s: f64, trial: Option<TrialRecord>) -> LagAt {
    let lag = trial.and_then(|t| t.latency.lag).unwrap_or_default();
    LagAt {
        pacing: pacing.to_owned(),
        rate_per_s,
        p50_ns: lag.p50_ns,
        p99_ns: lag.p99_ns,
        p999_ns: lag.p999_ns,
    }
}

/// A lag that would stamp a trial in which messages take less than ten times as long.
fn late(lag: &LagAt) -> Option<String> {
    let p99_ns = lag.p99_ns.filter(|ns| *ns > 1_000_000)?;
    Some(format!(
        "lag p99 at {} with pacing {} is {}: trials at such rates are degraded unless response p99 is \
         ten times that",
        short_rate(lag.rate_per_s),
        lag.pacing,
        human_ns(p99_ns as f64)
    ))
}

fn plural(count: u32, noun: &str) -> String {
    format!("{noun}{}", if count == 1 { "" } else { "s" })
}

/// Runs one built-in scenario after the other.
struct Bench<'a, 'b> {
    this: &'a Calibrate<'a>,
    interrupts: watch::Receiver<Interrupts>,
    tell: &'b mut dyn FnMut(&str),
    /// The client that is measured.
    client: ClientKind,
    /// What must be said of it.
    reasons: Vec<String>,
    /// A part was invalid twice.
    unusable: bool,
}

/// What came of one.
#[derive(Debug, Default)]
struct Measured {
    trial: Option<TrialRecord>,
    cpu_ns_per_msg: Option<f64>,
    /// CPU of the busiest thread, of the window.
    busy: Option<f64>,
}

impl Measured {
    fn usable(&self) -> Option<&TrialRecord> {
        self.trial.as_ref().filter(|t| t.status.usable())
    }

    fn why_not(&self) -> String {
        match &self.trial {
            Some(trial) => trial.reasons.join("; "),
            None => "there was no trial".to_owned(),
        }
    }
}

impl Bench<'_, '_> {
    /// All of one client.
    async fn client(&mut self) -> anyhow::Result<ClientCalibration> {
        let ceilings = self.ceilings().await?;
        let mut calm = None;
        let mut delays = Vec::new();
        for wait in DELAYS {
            let name = format!("a delay of {}", human_duration(wait));
            let measured = self.measure(&name, delay(wait)).await?;
            let service = measured.usable().and_then(|t| t.latency.service.as_ref());
            let service_ns = service.map_or([None; 3], |s| [s.p50_ns, s.p90_ns, s.p99_ns]);
            delays.push(DelayCheck::of(as_ns(wait), service_ns));
            if wait.is_zero() {
                calm = Some(lag_at("sleep", CALM_PER_S, measured.trial));
            }
        }
        let of_one = ceilings.iter().find(|c| c.threads == 1);
        let most_per_s = of_one.map_or(0.0, |c| RELIABLE_SHARE * c.per_s);
        let lags = self.lags(most_per_s, calm).await?;
        let open = self.measure("stall, open loop", stall_open()).await?;
        let closed = self.measure("stall, closed loop", stall_closed()).await?;
        let response = open.usable().and_then(|t| t.latency.response.as_ref());
        let service = closed.usable().and_then(|t| t.latency.service.as_ref());
        let stall = StallCheck::of(
            as_ns(STALL.length),
            as_ns(STALL.every),
            response.map_or([None; 2], |l| [l.p90_ns, l.p99_ns]),
            service.and_then(|l| l.p99_ns),
        );
        let (result, mut reasons) = judge(&delays, &stall);
        let result = match result {
            Outcome::Pass if std::mem::take(&mut self.unusable) => Outcome::Inconclusive,
            result => result,
        };
        self.unusable = false;
        reasons.append(&mut self.reasons);
        reasons.extend(lags.iter().filter_map(late));
        Ok(ClientCalibration {
            client: self.client.word().to_owned(),
            ceilings,
            lags,
            delays,
            stall,
            result,
            reasons,
        })
    }

    /// The highest rates of one thread and of one for each CPU.
    async fn ceilings(&mut self) -> anyhow::Result<Vec<Ceiling>> {
        let mut ceilings = Vec::new();
        for threads in [1, self.this.cpus] {
            if ceilings.iter().any(|c: &Ceiling| c.threads == threads) {
                continue;
            }
            let name = format!("ceiling of {threads} {}", plural(threads, "thread"));
            let measured = self.measure(&name, ceiling(threads)).await?;
            if let Some(per_s) = measured.usable().and_then(|t| t.publish.acked_per_s) {
                ceilings.push(Ceiling {
                    threads,
                    per_s,
                    at_least: measured.busy.is_none_or(|share| share < FULL),
                    cpu_ns_per_msg: measured.cpu_ns_per_msg,
                });
            }
        }
        Ok(ceilings)
    }

    /// Lags at rates up to `most_per_s`; `calm` is what the delays have measured already.
    async fn lags(&mut self, most_per_s: f64, calm: Option<LagAt>) -> anyhow::Result<Vec<LagAt>> {
        let mut lags: Vec<LagAt> = calm.into_iter().collect();
        // Who spins needs a CPU, and the stub another.
        let spin = (self.this.cpus > 1).then_some((Pacing::Spin, "spin"));
        for (pacing, word) in std::iter::once((Pacing::Sleep, "sleep")).chain(spin) {
            for rate_per_s in LAG_RATES_PER_S.into_iter().filter(|r| *r <= most_per_s) {
                let known =
                    |l: &LagAt| l.pacing == word && l.rate_per_s.total_cmp(&rate_per_s).is_eq();
                if lags.iter().any(known) {
                    continue;
                }
                let name = format!("lag at {}, {word}", short_rate(rate_per_s));
                // Once: a trial that is invalid because of its lag has measured it all the same.
                let measured = self.try_once(&name, lag(rate_per_s, pacing)).await?;
                lags.push(lag_at(word, rate_per_s, measured.trial));
            }
        }
        Ok(lags)
    }

    /// One trial, and another where the first is not usable: this machine may have had others to
    /// serve. After an interrupt nothing is measured any more.
    async fn measure(&mut self, name: &str, spec: CellSpec) -> anyhow::Result<Measured> {
        let mut measured = Measured::default();
        for attempt in 0..2 {
            let again = if attempt == 0 { "" } else { ", again" };
            measured = self
                .try_once(&format!("{name}{again}"), spec.clone())
                .await?;
            if measured.usable().is_some() {
                break;
            }
            let times = if attempt == 0 {
                "measured again, since its trial was invalid"
            } else {
                "invalid once more"
            };
            self.reasons
                .push(format!("{name}: {times}: {}", measured.why_not()));
        }
        self.unusable |= measured.usable().is_none();
        Ok(measured)
    }

    /// One trial, told before it begins; none after an interrupt.
    async fn try_once(&mut self, name: &str, mut spec: CellSpec) -> anyhow::Result<Measured> {
        if self.interrupts.borrow().count > 0 {
            return Ok(Measured::default());
        }
        let name = &format!("{}: {name}", self.client.word());
        spec.workload.client = self.client;
        (self.tell)(name);
        self.once(spec)
            .await
            .with_context(|| format!("calibration: {name}"))
    }

    async fn once(&self, spec: CellSpec) -> anyhow::Result<Measured> {
        let scenario = scenario(spec);
        let request = Request {
            manifest: (self.this.manifest)(&scenario),
            scenario,
            run: self.this.run,
            binary: None,
            guard: None,
            access: Vec::new(),
            keep: false,
            room: Room {
                disk_free_bytes: 0,
                memory_free_bytes: 0,
                cpus: self.this.cpus,
            },
        };
        let mut fold = Fold::new();
        let mut emit = |event| {
            fold.apply(&event);
            Ok(())
        };
        Box::pin(run(&request, self.interrupts.clone(), &mut emit)).await?;
        let Some(run) = fold.into_run() else {
            return Ok(Measured::default());
        };
        let used = run.trials.last().map(Used::within_window);
        let used = used.unwrap_or_default();
        let trials = analyse(&run).cells.into_iter().flat_map(|c| c.trials);
        Ok(Measured {
            trial: trials.last(),
            cpu_ns_per_msg: used.cpu_ns_per_msg(),
            busy: used.busy(),
        })
    }
}

/// What the workers used over the intervals within the window.
#[derive(Debug, Default)]
struct Used {
    cpu_ns: u64,
    busiest_cpu_ns: u64,
    length_ns: u64,
    acked: u64,
}

impl Used {
    fn within_window(log: &TrialLog) -> Self {
        let mut used = Self::default();
        let Some(window) = log.window else {
            return used;
        };
        for row in log.series.iter().filter(|row| row.lies_in(window)) {
            used.cpu_ns += row.health.cpu_ns;
            used.busiest_cpu_ns += row.health.busiest_cpu_ns;
            used.length_ns += row.length_ns;
            used.acked += row.counts.acked;
        }
        used
    }

    /// CPU time of the workers' threads per acked message.
    fn cpu_ns_per_msg(&self) -> Option<f64> {
        (self.cpu_ns > 0 && self.acked > 0).then(|| self.cpu_ns as f64 / self.acked as f64)
    }

    /// CPU time of the busiest worker's thread as a share of the time.
    fn busy(&self) -> Option<f64> {
        (self.busiest_cpu_ns > 0 && self.length_ns > 0)
            .then(|| self.busiest_cpu_ns as f64 / self.length_ns as f64)
    }
}

/// As fast as a stub that answers at once allows, from a publisher on each of so many event loops.
fn ceiling(threads: u32) -> CellSpec {
    let mut spec = spec(Stub::default(), Rate::Max, CEILING_WINDOW);
    spec.workload.publishers = threads;
    spec.workload.threads = threads;
    spec.warmup = CEILING_WARMUP;
    spec
}

/// A constant rate against a stub that answers at once.
fn lag(rate_per_s: f64, pacing: Pacing) -> CellSpec {
    let mut spec = spec(Stub::default(), constant(rate_per_s), CALM_WINDOW);
    spec.workload.pacing = pacing;
    spec
}

/// A calm rate against a known delay.
fn delay(delay: Duration) -> CellSpec {
    let stub = Stub { delay, stall: None };
    spec(stub, constant(CALM_PER_S), CALM_WINDOW)
}

fn stalling() -> Stub {
    Stub {
        delay: Duration::ZERO,
        stall: Some(STALL),
    }
}

/// A calm rate against a periodic stall: it must be seen.
fn stall_open() -> CellSpec {
    spec(stalling(), constant(CALM_PER_S), STALL_WINDOW)
}

/// One message after the other against the same stall: it hits one message of thousands.
fn stall_closed() -> CellSpec {
    let mut spec = spec(stalling(), Rate::Max, CLOSED_WINDOW);
    spec.publish.mode = PublishMode::Sync;
    spec.publish.window = 1;
    spec
}

fn constant(rate_per_s: f64) -> Rate {
    Rate::Open(Arc::new(Program::constant(rate_per_s)))
}

fn scenario(spec: CellSpec) -> Scenario {
    Scenario {
        name: "calibration".to_owned(),
        question: None,
        hypothesis: None,
        axes: Vec::new(),
        repeat: 1,
        cells: vec![Cell {
            id: "base".to_owned(),
            factors: BTreeMap::new(),
            spec,
        }],
        path: None,
        file_sha256: String::new(),
        resolved_toml: String::new(),
    }
}

/// One publisher with a sliding window, and nobody who reads.
fn spec(stub: Stub, rate: Rate, window: Duration) -> CellSpec {
    CellSpec {
        target: Target::Stub(stub),
        stream: Stream {
            storage: Storage::Memory,
            ..Stream::default()
        },
        consumer: Consumer::default(),
        publish: Publish {
            window: WINDOW,
            ..Publish::default()
        },
        workload: Workload {
            payload: Payload::Random {
                size_bytes: PAYLOAD_BYTES,
                compressible: 0.0,
            },
            rate,
            length: Length::Duration(window),
            drain: Duration::from_secs(5),
            ..Workload::default()
        },
        warmup: WARMUP,
        expect: Vec::new(),
        absences: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::document::LedgerVerdict;
    use crate::record::fixture;
    use crate::scenario::model::ConsumerKind;

    async fn once(spec: CellSpec, interrupted: bool) -> Measured {
        let make = |scenario: &Scenario| {
            let Rate::Open(program) = &scenario.cells[0].spec.workload.rate else {
                panic!("an open loop");
            };
            let cell = fixture::open("base", &[], program.peak_per_s());
            let has_consumers = scenario.cells[0].spec.workload.subscribers > 0;
            let core = scenario.cells[0].spec.publish.mode == PublishMode::Core;
            let cell = crate::record::event::CellRef {
                has_consumers,
                core,
                ..cell
            };
            fixture::manifest(vec![cell], &[])
        };
        let this = Calibrate {
            run: 7,
            cpus: 1,
            clients: &[],
            manifest: &make,
        };
        let (tell, interrupts) = watch::channel(Interrupts::default());
        if interrupted {
            tell.send_modify(|i| i.count = 1);
        }
        let mut bench = Bench {
            this: &this,
            interrupts,
            tell: &mut |_| {},
            client: ClientKind::Wire,
            reasons: Vec::new(),
            unusable: false,
        };
        if interrupted {
            return bench.measure("a", spec).await.expect("nothing to fail");
        }
        bench.once(spec).await.expect("a stub needs nothing")
    }

    fn short(stub: Stub) -> CellSpec {
        CellSpec {
            warmup: Duration::from_millis(100),
            ..spec(stub, constant(500.0), Duration::from_millis(400))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stub_acks_all_in_its_time_and_promises_nothing() {
        let delay = Duration::from_millis(30);
        let measured = once(short(Stub { delay, stall: None }), false).await;
        let trial = measured.trial.expect("it ran");
        assert_eq!(trial.publish.attempted, Some(250), "500/s for 0.5 s");
        assert_eq!(trial.publish.acked, Some(250));
        let least = trial.latency.service.expect("acked").min_ns;
        assert!(least.is_some_and(|ns| ns >= 29_900_000), "{least:?}");
        assert_eq!(trial.ledger.verdict, LedgerVerdict::NotPromised);
        assert_eq!(trial.ledger.reasons, ["the stub stores nothing"]);
        assert_eq!((trial.ledger.lost, trial.ledger.lost_storage), (None, None));
        assert_eq!(trial.servers[0].name, "stub");
        assert!(trial.shared_host && trial.streams.is_empty());
        assert_eq!(
            trial.resources.driver_cpu_ns_per_msg, None,
            "the stub's is in it"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn core_subscribers_read_from_a_stub() {
        let mut spec = short(Stub::default());
        spec.publish.mode = PublishMode::Core;
        spec.consumer.kind = ConsumerKind::Core;
        spec.workload.subscribers = 2;
        let trial = once(spec, false).await.trial.expect("it ran");
        assert_eq!(trial.publish.attempted, Some(250));
        assert_eq!(trial.deliver.unique, Some(500));
        assert_eq!(trial.ledger.lost_delivery, Some(0));
    }

    #[tokio::test]
    async fn after_an_interrupt_nothing_is_measured() {
        let measured = once(short(Stub::default()), true).await;
        assert!(measured.trial.is_none());
    }

    #[test]
    fn cpu_per_message_counts_whole_intervals_of_the_window_and_is_null_where_not_measured() {
        let mut run = fixture::fold(&fixture::small_run()).expect("it began");
        let log = &mut run.trials[0];
        assert_eq!(
            Used::within_window(log).cpu_ns_per_msg(),
            None,
            "the fixture has no CPU times"
        );
        let (start_ns, end_ns) = log.window.expect("it has a window");
        let mut expected = (0, 0);
        for (i, row) in log.series.iter_mut().enumerate() {
            row.health.cpu_ns = 1_000 * (i as u64 + 1);
            if row.end_ns <= end_ns && row.end_ns - row.length_ns >= start_ns {
                expected = (
                    expected.0 + row.health.cpu_ns,
                    expected.1 + row.counts.acked,
                );
            }
        }
        assert!(expected.1 > 0 && log.series.len() > 1);
        let want = expected.0 as f64 / expected.1 as f64;
        assert_eq!(Used::within_window(log).cpu_ns_per_msg(), Some(want));
    }
}
