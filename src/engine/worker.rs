//! A worker: one pod of the scenario. It does what it is told over two channels and knows nothing
//! of the other workers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::heartbeat::Heartbeat;
use super::messages::{Dump, Frame, FromWorker, ToWorker};
use crate::load::pace::Pace;
use crate::load::payload::Pool;
use crate::load::publisher::{self, Outcome, Progress, Publisher};
use crate::load::recorder::Recorder;
use crate::load::subscriber::{self, Ledger, Received};
use crate::measure::alarm::Alarm;
use crate::measure::clock;
use crate::nats::conn::{Conn, Link};
use crate::nats::connect::connect_with_events;
use crate::nats::endpoint::Endpoint;
use crate::nats::feed::{Feed, Source};
use crate::record::event::Health;
use crate::scenario::assignment::{Assignment, FeedPlan, PublisherPlan};
use crate::scenario::model::{Length, PublishMode, Rate};
use crate::units::NS_PER_S;

/// Length of an interval.
const INTERVAL_NS: u64 = NS_PER_S;
const PROBE: Duration = Duration::from_secs(5);
const CLOSE: Duration = Duration::from_secs(1);
/// Window of the prefill, which is not measured.
const PREFILL_WINDOW: u32 = 1_000;
/// How often a worker says how far its subscribers have come while they catch up.
const CATCH_UP: Duration = Duration::from_millis(10);

/// Runs a worker until it is dumped, fails, or the coordinator is gone.
pub async fn run(orders: &mut mpsc::Receiver<ToWorker>, reports: mpsc::Sender<FromWorker>) {
    if let Err(error) = serve(orders, &reports).await {
        // Without a coordinator there is nobody left to tell.
        let _ = reports
            .send(FromWorker::Failed {
                reason: format!("{error:#}"),
            })
            .await;
    }
}

async fn serve(
    orders: &mut mpsc::Receiver<ToWorker>,
    reports: &mpsc::Sender<FromWorker>,
) -> anyhow::Result<()> {
    let Some(ToWorker::Prepare {
        assignment,
        endpoint,
    }) = orders.recv().await
    else {
        return Ok(());
    };
    let prepared = tokio::select! {
        prepared = Pod::prepare(*assignment, &endpoint) => prepared,
        () = closed(orders) => return Ok(()),
    };
    let mut pod = prepared?;
    reports
        .send(FromWorker::Ready {
            prefilled: pod.prefilled,
        })
        .await?;
    let (start_ns, window_ns) = loop {
        match orders.recv().await {
            Some(ToWorker::Go {
                start_ns,
                window_ns,
            }) => break (start_ns, window_ns),
            Some(ToWorker::Dump) => {
                let dump = pod.dump().await;
                reports.send(FromWorker::Dumped(Box::new(dump))).await?;
                return Ok(());
            }
            Some(_) => {}
            None => return Ok(()),
        }
    };
    tokio::select! {
        went = pod.go(start_ns, window_ns) => went?,
        () = closed(orders) => return Ok(()),
    }
    reports
        .send(FromWorker::Started {
            at_ns: clock::now_ns(),
        })
        .await?;
    pod.work(orders, reports, start_ns).await
}

/// The coordinator is gone, or done with this worker. What it says meanwhile is not for this phase.
async fn closed(orders: &mut mpsc::Receiver<ToWorker>) {
    while orders.recv().await.is_some() {}
}

/// The clients of one pod.
struct Pod {
    assignment: Assignment,
    conns: Vec<Conn>,
    recorder: Rc<RefCell<Recorder>>,
    stop_ns: Rc<Cell<u64>>,
    publishers: Vec<Publisher>,
    progress: Vec<Rc<Progress>>,
    bell: Rc<Notify>,
    endpoint: Endpoint,
    load: JoinSet<anyhow::Result<Outcome>>,
    readers: JoinSet<()>,
    ledgers: Vec<Rc<RefCell<Ledger>>>,
    prefilled: u64,
}

impl Pod {
    async fn prepare(assignment: Assignment, endpoint: &Endpoint) -> anyhow::Result<Self> {
        let clients = assignment.publishers.len() + assignment.subscribers.len();
        let wanted = assignment
            .connections
            .map_or(clients, |n| n as usize)
            .max(1);
        let mut conns = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            conns.push(connect(endpoint).await?);
        }
        let later = matches!(assignment.length, Length::Messages(_)) || assignment.drain_only;
        let mut pod = Self {
            conns,
            recorder: Rc::new(RefCell::new(Recorder::new(later))),
            stop_ns: Rc::new(Cell::new(u64::MAX)),
            publishers: Vec::new(),
            progress: Vec::new(),
            bell: Rc::new(Notify::new()),
            endpoint: endpoint.clone(),
            load: JoinSet::new(),
            readers: JoinSet::new(),
            ledgers: Vec::new(),
            prefilled: 0,
            assignment,
        };
        let payload_bytes = pod.assignment.payload.size_bytes();
        for conn in &pod.conns {
            conn.round_trip(PROBE).await?;
            let most = conn.max_payload_bytes() as u64;
            anyhow::ensure!(
                payload_bytes <= most,
                "workload.payload is {payload_bytes} bytes and the server takes at most {most}; \
                 make it smaller or raise max_payload"
            );
        }
        if !pod.assignment.drain_only {
            pod.attach().await?;
        }
        let pool = Rc::new(Pool::build(
            &pod.assignment.payload,
            pod.assignment.seed ^ u64::from(pod.assignment.worker),
        )?);
        pod.prefill(&pool).await?;
        for i in 0..pod.assignment.publishers.len() {
            let plan = pod.assignment.publishers[i].clone();
            let progress = Rc::new(Progress::new(pod.bell.clone()));
            let window = match pod.assignment.mode {
                PublishMode::Core => None,
                PublishMode::Sync => Some(1),
                PublishMode::Async => Some(pod.assignment.window),
            };
            let config = pod.config(&plan, window);
            let publisher = Publisher::new(
                config,
                pod.conn(i),
                pool.clone(),
                pod.recorder.clone(),
                progress.clone(),
                pod.stop_ns.clone(),
            )
            .await?;
            pod.publishers.push(publisher);
            pod.progress.push(progress);
        }
        Ok(pod)
    }

    /// The connection of client `i`: publishers first, then subscribers.
    fn conn(&self, i: usize) -> Conn {
        self.conns[i % self.conns.len()].clone()
    }

    fn config(&self, plan: &PublisherPlan, window: Option<u32>) -> publisher::Config {
        publisher::Config {
            run: self.assignment.run,
            trial: self.assignment.trial,
            id: plan.id,
            subjects: plan.subjects.iter().map(|s| s.clone().into()).collect(),
            messages: plan.messages,
            window,
            message_id: self.assignment.message_id,
            timeout: self.assignment.publish_timeout,
            pacing: self.assignment.pacing,
        }
    }

    /// Stores what the stream must hold before the barrier; it is counted and not measured.
    async fn prefill(&mut self, pool: &Rc<Pool>) -> anyhow::Result<()> {
        let Some(plan) = self.assignment.prefill.clone() else {
            return Ok(());
        };
        let publisher = Publisher::new(
            self.config(&plan, Some(PREFILL_WINDOW)),
            self.conn(0),
            pool.clone(),
            Rc::new(RefCell::new(Recorder::new(false))),
            Rc::new(Progress::new(Rc::default())),
            Rc::new(Cell::new(u64::MAX)),
        )
        .await?;
        let outcome = publisher.run(None, None).await.context("prefill")?;
        let (refused, unknown) = (outcome.refused.len(), outcome.unknown.len());
        anyhow::ensure!(
            refused + unknown == 0,
            "prefill: {refused} of {} messages were refused and {unknown} stayed without an ack {:?}",
            outcome.attempted,
            outcome.causes
        );
        self.prefilled = outcome.attempted;
        Ok(())
    }

    /// Attaches the subscribers and lets them read.
    async fn attach(&mut self) -> anyhow::Result<()> {
        let assignment = self.assignment.clone();
        let config = subscriber::Config {
            run: assignment.run,
            trial: assignment.trial,
            publishers: assignment.publishers_total,
            identities: assignment.identities,
            ack: assignment.ack,
            ack_batch: (assignment.max_ack_pending / 2).clamp(1, 100),
        };
        for (i, plan) in assignment.subscribers.iter().enumerate() {
            let ledger = Ledger::new(config, plan.group.clone(), plan.app, self.recorder.clone());
            let ledger = Rc::new(RefCell::new(ledger));
            for (number, feed) in plan.feeds.iter().enumerate() {
                let conn = self.conn(assignment.publishers.len() + i);
                let feed = Feed::attach(conn, source(feed, &self.endpoint))
                    .await
                    .with_context(|| format!("subscriber {i} of pod {}", assignment.worker))?;
                self.readers
                    .spawn_local(subscriber::read(number, feed, config, ledger.clone()));
            }
            self.ledgers.push(ledger);
        }
        Ok(())
    }

    async fn go(&mut self, start_ns: u64, window_ns: Option<(u64, u64)>) -> anyhow::Result<()> {
        self.recorder.borrow_mut().start(start_ns, window_ns);
        if let Some((_, end_ns)) = window_ns {
            self.stop_ns.set(end_ns);
        }
        let mut alarm = Alarm::new()?;
        poll_fn(|cx| alarm.poll_at(cx, start_ns)).await;
        if self.assignment.drain_only {
            self.attach().await?;
        }
        let pace = match &self.assignment.rate {
            Rate::Max => None,
            Rate::Open(program) => Some(Pace {
                program: Arc::new(program.after_warmup(self.assignment.warmup)),
                arrivals: self.assignment.arrivals,
                publishers: self.assignment.publishers_total,
                // Each trial has arrivals of its own.
                seed: self.assignment.seed ^ u64::from(self.assignment.trial) << 32,
            }),
        };
        for publisher in self.publishers.drain(..) {
            let pace = pace.clone().map(|pace| (pace, start_ns));
            self.load.spawn_local(publisher.run(pace, window_ns));
        }
        Ok(())
    }

    /// Works until it is told to dump.
    async fn work(
        &mut self,
        orders: &mut mpsc::Receiver<ToWorker>,
        reports: &mpsc::Sender<FromWorker>,
        start_ns: u64,
    ) -> anyhow::Result<()> {
        let mut frames = Frames::new(start_ns);
        let mut alarm = Alarm::new()?;
        let mut outcomes = Vec::new();
        let mut said = Said {
            tenth: self.progress.is_empty(),
            first: self.progress.is_empty(),
            unique: u64::MAX,
        };
        if self.load.is_empty() {
            reports
                .send(FromWorker::LoadDone {
                    outcomes: Vec::new(),
                })
                .await?;
        }
        loop {
            let catching_up = self.load.is_empty();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(ToWorker::Dump) => {
                        let last = frames.cut(&self.recorder, clock::now_ns());
                        reports.send(last).await?;
                        let dump = self.dump().await;
                        reports.send(FromWorker::Dumped(Box::new(dump))).await?;
                        return Ok(());
                    }
                    Some(ToWorker::Tell) => {
                        let received = self.received();
                        reports.send(FromWorker::Told { received }).await?;
                    }
                    Some(ToWorker::OpenWindow { at_ns }) => self.recorder.borrow_mut().open_window(at_ns),
                    Some(ToWorker::CloseWindow { at_ns }) => self.recorder.borrow_mut().close_window(at_ns),
                    Some(ToWorker::StopLoad) => self.stop_ns.set(clock::now_ns().min(self.stop_ns.get())),
                    Some(_) => {}
                    None => return Ok(()),
                },
                () = sleep_until(frames.due()) => {
                    let frame = frames.cut(&self.recorder, frames.begun_ns + INTERVAL_NS);
                    reports.send(frame).await?;
                }
                () = poll_fn(|cx| alarm.poll_at(cx, frames.heart.due_ns())) => {
                    frames.heart.beat(clock::now_ns());
                }
                () = self.bell.notified(), if !said.tenth || !said.first => {
                    self.say_progress(&mut said, reports).await?;
                }
                Some(outcome) = self.load.join_next() => {
                    outcomes.push(outcome.context("a publisher panicked")??);
                    if self.load.is_empty() {
                        frames.heart.end(clock::now_ns());
                        self.say_progress(&mut said, reports).await?;
                        let outcomes = std::mem::take(&mut outcomes);
                        reports.send(FromWorker::LoadDone { outcomes }).await?;
                    }
                }
                () = tokio::time::sleep(CATCH_UP), if catching_up => {
                    let unique = self.unique();
                    if unique != said.unique {
                        said.unique = unique;
                        reports.send(FromWorker::Unique { unique }).await?;
                    }
                }
            }
        }
    }

    /// With message counts: says when all have sent a tenth and when the first is through.
    async fn say_progress(
        &self,
        said: &mut Said,
        reports: &mpsc::Sender<FromWorker>,
    ) -> anyhow::Result<()> {
        if !matches!(self.assignment.length, Length::Messages(_)) {
            return Ok(());
        }
        let tenths: Option<Vec<u64>> = self.progress.iter().map(|p| p.tenth_ns.get()).collect();
        if let Some(at_ns) = tenths.and_then(|t| t.into_iter().max())
            && !said.tenth
        {
            said.tenth = true;
            reports.send(FromWorker::TenthSent { at_ns }).await?;
        }
        if let Some(at_ns) = self.progress.iter().filter_map(|p| p.done_ns.get()).min()
            && !said.first
        {
            said.first = true;
            reports.send(FromWorker::FirstDone { at_ns }).await?;
        }
        Ok(())
    }

    fn unique(&self) -> u64 {
        self.ledgers.iter().map(|l| l.borrow().unique()).sum()
    }

    fn received(&self) -> Vec<Received> {
        self.ledgers.iter().map(|l| l.borrow().received()).collect()
    }

    async fn dump(&mut self) -> Dump {
        self.load.shutdown().await;
        self.readers.shutdown().await;
        let links: Vec<Arc<Link>> = self.conns.iter().map(|c| c.link().clone()).collect();
        for conn in self.conns.drain(..) {
            // A connection that is down has nothing left to send.
            let _ = tokio::time::timeout(CLOSE, conn.close()).await;
        }
        let recorder = self.recorder.borrow();
        Dump {
            received: self.received(),
            totals: recorder.totals(),
            window: recorder.window_counts(),
            timelines: recorder.timelines().cloned(),
            receipts_ns: recorder.receipts(),
            censored: recorder.censored(),
            clipped: recorder.clipped(),
            cuts: links.iter().map(|l| l.cuts()).sum(),
            dropped: links.iter().map(|l| l.dropped()).sum(),
            unique: self.unique(),
        }
    }
}

/// What was said already.
struct Said {
    tenth: bool,
    first: bool,
    unique: u64,
}

/// Numbers the intervals and says how the worker fared in each.
struct Frames {
    number: u64,
    begun_ns: u64,
    heart: Heartbeat,
    /// CPU time of this thread when the interval began.
    cpu_ns: u64,
}

impl Frames {
    fn new(start_ns: u64) -> Self {
        Self {
            number: 0,
            begun_ns: start_ns,
            heart: Heartbeat::new(start_ns),
            cpu_ns: clock::thread_cpu_ns(),
        }
    }

    fn due(&self) -> Instant {
        Instant::from_std(clock::instant_at(self.begun_ns + INTERVAL_NS))
    }

    fn cut(&mut self, recorder: &Rc<RefCell<Recorder>>, end_ns: u64) -> FromWorker {
        let frame = Frame {
            number: self.number,
            end_ns,
            length_ns: end_ns.saturating_sub(self.begun_ns),
            cut: recorder.borrow_mut().cut(),
            health: self.health(end_ns),
        };
        self.number += 1;
        self.begun_ns = end_ns;
        FromWorker::Frame(Box::new(frame))
    }

    fn health(&mut self, end_ns: u64) -> Health {
        // A late cut is of an interval that ended before: what was used since belongs to the next.
        let length_ns = end_ns.saturating_sub(self.begun_ns);
        let used_ns = (clock::thread_cpu_ns().saturating_sub(self.cpu_ns)).min(length_ns);
        self.cpu_ns += used_ns;
        // A beat that is due may not have had its turn yet.
        self.heart.beat(clock::now_ns());
        let stalled = self.heart.cut(end_ns);
        Health {
            busiest_cpu_ns: used_ns,
            cpu_ns: used_ns,
            stalled_ns: stalled.ns,
            longest_stall_ns: stalled.longest_ns,
        }
    }
}

/// Connects once for the data plane.
pub async fn connect(endpoint: &Endpoint) -> anyhow::Result<Conn> {
    let link = Arc::new(Link::default());
    let events = link.clone();
    let client = connect_with_events(endpoint, move |event| events.on_event(&event)).await?;
    Ok(Conn::over_async_nats(client, link))
}

fn source(plan: &FeedPlan, endpoint: &Endpoint) -> Source {
    let api_prefix = endpoint.js_api_prefix.clone();
    match plan.clone() {
        FeedPlan::Core { subject } => Source::Core { subject },
        FeedPlan::Push {
            deliver_subject,
            group,
        } => Source::Push {
            deliver_subject,
            group,
        },
        FeedPlan::Pull {
            stream,
            consumer,
            batch,
        } => Source::Pull {
            api_prefix,
            stream,
            consumer,
            batch,
        },
        FeedPlan::Ordered {
            stream,
            filter,
            name,
            deliver_policy,
        } => Source::Ordered {
            api_prefix,
            stream,
            filter,
            name,
            deliver_policy,
            from: 1,
        },
    }
}
