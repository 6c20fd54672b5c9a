//! Conducts one trial: the IO around the phase machine.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::messages::{FromWorker, ToWorker};
use super::sampler;
use super::site::Site;
use super::trial::{Ended, Input, Machine, Output, Setup};
use super::worker;
use crate::measure::clock;
use crate::record::event::{RunEvent, Sample};
use crate::scenario::assignment::TrialPlan;
use crate::scenario::model::Pacing;
use crate::units::NS_PER_S;

/// How often deadlines and servers are looked at.
const TICK: Duration = Duration::from_millis(50);
const CHANNEL: usize = 256;

/// How often the user asked to stop, and with which signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// 0, 1 (drain) or more (abort).
    pub count: u32,
    /// The first signal.
    pub signal: i32,
}

/// What a conducted trial gave.
pub struct Conducted {
    /// For judging.
    pub ended: Ended,
    /// Samples in the order they were taken.
    pub samples: Vec<Sample>,
}

/// How a trial could not be conducted.
pub enum Trouble {
    /// The trial failed; the run goes on.
    Failed(String),
    /// The user wants out at once.
    Aborted,
    /// A defect or an environment that ends the run.
    Fatal(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// Runs the workers of `plan` through all phases.
pub async fn conduct(
    site: &mut Site,
    plan: &TrialPlan,
    setup: Setup,
    streams: &[String],
    interrupts: &mut watch::Receiver<Interrupts>,
    emit: &mut dyn FnMut(RunEvent) -> anyhow::Result<()>,
) -> Result<Conducted, Trouble> {
    let trial = setup.trial;
    let (inbox, mut heard) = mpsc::channel::<(u32, Option<FromWorker>)>(CHANNEL);
    let workers = hire(plan, site, &inbox).await?;
    let mut machine = Machine::new(setup, clock::now_ns());
    let (sampled, mut samples_in) = mpsc::unbounded_channel::<Sample>();
    let mut samples: Vec<Sample> = Vec::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seen = 0;
    let mut next_sample_ns = u64::MAX;
    loop {
        let sample_at = Instant::from_std(clock::instant_at(
            next_sample_ns.min(clock::now_ns() + 60 * NS_PER_S),
        ));
        let input = tokio::select! {
            Some((worker, message)) = heard.recv() => match message {
                Some(message) => Input::From(worker, message),
                None => Input::Lost(worker),
            },
            Some(sample) = samples_in.recv() => {
                samples.push(sample.clone());
                emit(RunEvent::Sample(Box::new(sample)))?;
                continue;
            }
            () = sleep_until(sample_at), if next_sample_ns != u64::MAX => {
                if let Some((start_ns, _)) = machine.timing()
                    && clock::now_ns() >= next_sample_ns
                {
                    sampler::take(site, trial, start_ns, streams, &sampled);
                    next_sample_ns += NS_PER_S;
                }
                continue;
            }
            changed = interrupts.changed() => {
                changed.context("the signal handler is gone")?;
                let now = *interrupts.borrow_and_update();
                if now.count >= 2 {
                    return Err(Trouble::Aborted);
                }
                if now.count == seen {
                    continue;
                }
                seen = now.count;
                Input::Interrupt
            }
            _ = tick.tick() => match site.died() {
                Some(reason) => Input::ServerDied(reason),
                None => Input::Tick,
            },
        };
        let before = machine.timing();
        let outputs = machine.step(clock::now_ns(), input);
        if before.is_none()
            && let Some((start_ns, window)) = machine.timing()
        {
            // On whole seconds around the window, so that its ends are sampled exactly.
            next_sample_ns = start_ns + window.map_or(0, |w| w.0 % NS_PER_S);
        }
        for output in outputs {
            match output {
                Output::To(worker, order) => {
                    // A worker that does not listen any more shows as lost.
                    let _ = workers[worker as usize].send(order).await;
                }
                Output::Event(event) => emit(event)?,
                Output::Sample => {
                    if let Some((start_ns, _)) = machine.timing() {
                        sampler::take(site, trial, start_ns, streams, &sampled);
                    }
                }
                Output::Failed(reason) => return Err(Trouble::Failed(reason)),
                Output::Done(ended) => {
                    drop(sampled);
                    while let Ok(Some(sample)) =
                        tokio::time::timeout(Duration::from_secs(5), samples_in.recv()).await
                    {
                        samples.push(sample.clone());
                        emit(RunEvent::Sample(Box::new(sample)))?;
                    }
                    samples.sort_by_key(|s| s.at_ns);
                    return Ok(Conducted {
                        ended: *ended,
                        samples,
                    });
                }
            }
        }
    }
}

/// Starts a worker for each pod, each a thread with an event loop of its own. A worker ends by
/// itself when its orders are closed; nobody waits for it.
async fn hire(
    plan: &TrialPlan,
    site: &Site,
    inbox: &mpsc::Sender<(u32, Option<FromWorker>)>,
) -> anyhow::Result<Vec<mpsc::Sender<ToWorker>>> {
    let mut workers = Vec::with_capacity(plan.assignments.len());
    for assignment in &plan.assignments {
        let (orders, mut ordered) = mpsc::channel(CHANNEL);
        let (reports, mut reported) = mpsc::channel(CHANNEL);
        let number = assignment.worker;
        // Sockets and timers are looked at after this many polls: with a socket and a task or two a
        // larger number only adds latency; a task that spins is polled all the time.
        let polls = match assignment.pacing {
            Pacing::Sleep => 16,
            Pacing::Spin => 1,
        };
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .event_interval(polls)
                    .build()
                    .expect("an event loop can be made where one runs already");
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, worker::run(&mut ordered, reports));
            })
            .context("cannot start a worker thread")?;
        let inbox = inbox.clone();
        tokio::spawn(async move {
            while let Some(report) = reported.recv().await {
                if inbox.send((number, Some(report))).await.is_err() {
                    return;
                }
            }
            let _ = inbox.send((number, None)).await;
        });
        let prepare = ToWorker::Prepare {
            assignment: Box::new(assignment.clone()),
            endpoint: Box::new(site.endpoint().clone()),
        };
        orders
            .send(prepare)
            .await
            .ok()
            .context("a worker ended before it began")?;
        workers.push(orders);
    }
    Ok(workers)
}
