//! Runs a scenario from its first event to its last: groups of cells by target, blocks of trials,
//! streams before each trial and none after it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

pub use super::conduct::Interrupts;
use super::conduct::{Conducted, Trouble, conduct};
use super::judge::{self, Case};
use super::order::{Group, Slot, order};
use super::sampler;
use super::scan::scan;
pub use super::site::Access;
use super::site::{Site, Start};
use super::stage::{self, Stage};
use super::trial::Setup;
use crate::load::subscriber;
use crate::measure::clock;
use crate::record::event::{Manifest, RunEvent};
use crate::scenario::assignment::{TrialPlan, plan, planned_window};
use crate::scenario::model::{Ack, CellSpec, Length, Rate, Scenario, Share, Target};
use crate::scenario::plan::{Room, store_limits};
use crate::target::Guard;
use crate::units::{NS_PER_S, as_ns};

/// What a run needs beyond its scenario.
pub struct Request {
    /// The scenario.
    pub scenario: Scenario,
    /// What is known before it begins.
    pub manifest: Manifest,
    /// Run id.
    pub run: u64,
    /// The nats-server, where a target is embedded.
    pub binary: Option<PathBuf>,
    /// The guard, where a target is embedded.
    pub guard: Option<Guard>,
    /// Where external targets are, by the target of the scenario.
    pub access: Vec<(Target, Access)>,
    /// Leave streams where they are (external targets).
    pub keep: bool,
    /// What this machine has left for embedded servers.
    pub room: Room,
}

/// A program that ends with rate 0 before its messages are sent never ends by itself.
const MAX_LOAD_NS: u64 = 7 * 86_400 * NS_PER_S;

type Emit<'a> = &'a mut dyn FnMut(RunEvent) -> anyhow::Result<()>;

/// Runs all trials. Everything it has to say goes to `emit`; an error of `emit` ends the run.
///
/// # Errors
/// The target cannot be started or reached, or the environment fails in a way that no further
/// trial could survive. Trials that fail are events, not errors.
pub async fn run(
    request: &Request,
    mut interrupts: watch::Receiver<Interrupts>,
    emit: Emit<'_>,
) -> anyhow::Result<()> {
    emit(RunEvent::RunStarted(Box::new(request.manifest.clone())))?;
    let groups = order(
        &request.scenario.cells,
        request.scenario.repeat,
        request.manifest.seed,
    );
    for group in &groups {
        let mut site = None;
        for slot in &group.slots {
            if interrupts.borrow().count > 0 {
                break;
            }
            let mut here = match site.take() {
                Some(site) => site,
                None => open(request, group, emit).await?,
            };
            let went = trial(request, &mut here, slot, &mut interrupts, emit).await;
            let died = here.died().is_some();
            if died {
                // The death is a trial's reason already.
                let _ = here.stop().await;
            } else {
                site = Some(here);
            }
            if let Err(error) = went {
                if let Some(site) = site {
                    let _ = site.stop().await;
                }
                return Err(error);
            }
        }
        if let Some(site) = site {
            site.stop().await?;
        }
    }
    let interrupts = *interrupts.borrow();
    if interrupts.count > 0 {
        emit(RunEvent::Interrupted {
            signal: interrupts.signal,
        })
    } else {
        emit(RunEvent::RunFinished {
            at_unix_ns: clock::now_ns(),
        })
    }
}

async fn open(request: &Request, group: &Group, emit: Emit<'_>) -> anyhow::Result<Site> {
    let site = match &group.target {
        Target::Embedded(spec) => {
            let cells = group.cells.iter().map(|c| &request.scenario.cells[*c].spec);
            let (file, memory) = store_limits(cells, spec.servers, &request.room);
            let start = Start {
                binary: request
                    .binary
                    .clone()
                    .context("an embedded target needs a nats-server")?,
                run_id: request.manifest.run_id.clone(),
                max_file_bytes: file,
                max_mem_bytes: memory,
                guard: request
                    .guard
                    .as_ref()
                    .context("an embedded target needs a guard")?,
            };
            Site::embedded(spec, start).await?
        }
        Target::Stub(spec) => Site::stub(*spec).await?,
        target @ Target::External(_) => {
            let access = request
                .access
                .iter()
                .find(|(t, _)| t == target)
                .map(|(_, a)| a.clone());
            Site::external(access.context("the target was not resolved")?).await?
        }
    };
    emit(RunEvent::ServersReady {
        servers: site.infos().to_vec(),
    })?;
    Ok(site)
}

/// One trial, from its streams to its result. An error ends the run.
async fn trial(
    request: &Request,
    site: &mut Site,
    slot: &Slot,
    interrupts: &mut watch::Receiver<Interrupts>,
    emit: Emit<'_>,
) -> anyhow::Result<()> {
    let cell = &request.scenario.cells[slot.cell];
    emit(RunEvent::TrialStarted {
        trial: slot.trial,
        block: slot.block,
        cell: cell.id.clone(),
        at_unix_ns: clock::now_ns(),
    })?;
    let plan = plan(&cell.spec, request.run, slot.trial, request.manifest.seed);
    let mut stage = Stage::default();
    let went = perform(
        request, site, slot, &cell.spec, &plan, &mut stage, interrupts, emit,
    )
    .await;
    // Embedded servers that died take their streams with them.
    if !request.keep && site.died().is_none() {
        let struck = tokio::time::timeout(
            Duration::from_secs(20),
            stage::strike(site.api(), &stage, &request.manifest.run_id),
        );
        if let Err(error) = struck
            .await
            .context("removing streams took too long")
            .and_then(|r| r)
        {
            emit(RunEvent::Note {
                text: format!("trial {}: {error:#}", slot.trial),
            })?;
        }
    }
    match went {
        Ok(()) => Ok(()),
        Err(Trouble::Failed(reason)) => emit(RunEvent::TrialFailed {
            trial: slot.trial,
            reason,
        }),
        Err(Trouble::Aborted) => emit(RunEvent::TrialFailed {
            trial: slot.trial,
            reason: "aborted".to_owned(),
        }),
        Err(Trouble::Fatal(error)) => Err(error),
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one trial, used once"
)]
async fn perform(
    request: &Request,
    site: &mut Site,
    slot: &Slot,
    spec: &CellSpec,
    plan: &TrialPlan,
    stage: &mut Stage,
    interrupts: &mut watch::Receiver<Interrupts>,
    emit: Emit<'_>,
) -> Result<(), Trouble> {
    if let Err(error) = stage::able(site.api(), spec).await {
        return Err(Trouble::Failed(match site.died() {
            Some(death) => death,
            None => format!("{error:#}"),
        }));
    }
    let set = stage::set(
        site.api(),
        spec,
        plan,
        &request.manifest.run_id,
        slot.trial,
        stage,
    );
    let set = tokio::select! {
        set = set => set,
        () = aborted(interrupts.clone()) => return Err(Trouble::Aborted),
    };
    if let Err(error) = set {
        return Err(Trouble::Failed(match site.died() {
            Some(death) => death,
            None => format!("its streams could not be made: {error:#}"),
        }));
    }
    emit(RunEvent::StreamsReady {
        trial: slot.trial,
        streams: stage.streams.clone(),
        config: stage.config.clone(),
        stream_leaders: stage.leaders.clone(),
    })?;
    let setup = setup(spec, plan, slot.trial);
    let Conducted { ended, samples } =
        conduct(site, plan, setup, &stage.streams, interrupts, emit).await?;
    let held = if stage.streams.is_empty() {
        None
    } else {
        sampler::stored(site.api(), &stage.streams).await
    };
    let stored_bytes = held.map(|s| s.0);
    let disk_bytes = site.disk_bytes();
    let received = ended.dumps.iter().flat_map(|d| &d.received);
    let facts = judge::Facts::of(spec, plan);
    let evidence = judge::evidence(&facts, &ended.outcomes, received);
    let stored = if judge::needs_scan(spec, &evidence, held.map(|s| s.1)) {
        let config = subscriber::Config {
            run: request.run,
            trial: slot.trial,
            publishers: 0,
            identities: plan.assignments.first().map_or(0, |a| a.identities),
            ack: Ack::None,
            ack_batch: 1,
            answers: false,
        };
        let name = format!("JSB_{}_t{}_scan", &request.manifest.run_id[..8], slot.trial);
        let read = tokio::select! {
            read = scan(site.api(), site.endpoint(), &stage.scans, &name, config) => read,
            () = aborted(interrupts.clone()) => return Err(Trouble::Aborted),
        };
        Some(read.map_err(|e| format!("{e:#}")))
    } else {
        None
    };
    if let Some(death) = site.died() {
        return Err(Trouble::Failed(death));
    }
    let result = judge::result(&Case {
        trial: slot.trial,
        spec,
        plan,
        ended: &ended,
        samples: &samples,
        stored,
        stored_bytes,
        disk_bytes,
        shared_host: request.manifest.shared_host || matches!(spec.target, Target::Stub(_)),
        interrupted: interrupts.borrow().count > 0,
    });
    emit(RunEvent::TrialFinished(Box::new(result)))?;
    Ok(())
}

/// Bounds and expectations of a trial's phases.
fn setup(spec: &CellSpec, plan: &TrialPlan, trial: u32) -> Setup {
    let drain_only = plan.publishers == 0;
    let window_ns = plan.assignments.first().and_then(planned_window);
    let load = &spec.workload;
    let load_ns = match (load.length, &load.rate) {
        (Length::Duration(_), _) => window_ns.map_or(0, |w| w.1),
        (Length::Messages(n), Rate::Open(program)) => {
            let last_ns = program.due_ns((n * u64::from(load.pods)) as f64);
            last_ns.saturating_mul(2).min(MAX_LOAD_NS)
        }
        // Slower than 20 messages a second is taken for a hang.
        (Length::Messages(n), Rate::Max) => n * u64::from(load.pods) * NS_PER_S / 20,
    };
    let drain = match load.length {
        Length::Duration(limit) if drain_only => limit,
        _ => load.drain,
    };
    Setup {
        trial,
        workers: plan.assignments.len() as u32,
        window_ns,
        load_ns: load_ns + 60 * NS_PER_S,
        drain_ns: as_ns(drain),
        publish_timeout_ns: as_ns(spec.publish.timeout),
        // Slower than a thousand messages a second and pod is taken for a hang.
        prefill_ns: load.prefill * 1_000_000,
        subscriptions: plan.subscriptions.clone(),
        facts: judge::Facts::of(spec, plan),
        shared: spec.consumer.share == Share::App,
        worker_apps: plan.assignments.iter().map(|a| a.pod % load.apps).collect(),
        drain_only,
    }
}

/// The user asked twice to stop: wants out at once.
async fn aborted(mut interrupts: watch::Receiver<Interrupts>) {
    // Without a signal handler nobody can ask.
    if interrupts.wait_for(|i| i.count >= 2).await.is_err() {
        std::future::pending::<()>().await;
    }
}
