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
use crate::load::flight::Acks;
use crate::load::pace::Pace;
use crate::load::payload::Pool;
use crate::load::publisher::{self, Outcome, Progress, Publisher};
use crate::load::recorder::Recorder;
use crate::load::subscriber::{self, Ledger, Received};
use crate::measure::alarm::Alarm;
use crate::measure::clock;
use crate::nats::conn::{Client, Conn};
use crate::nats::endpoint::Endpoint;
use crate::nats::feed::{Feed, Source};
use crate::nats::get::{Gets, Wanted};
use crate::record::event::Health;
use crate::scenario::assignment::{Assignment, FeedPlan, GetPlan, PublisherPlan, SubscriberPlan};
use crate::scenario::model::{ClientKind, Length, PublishMode, PullStyle, Rate};
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
            conns.push(Conn::connect(endpoint, client(assignment.client)).await?);
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
        for conn in &pod.conns {
            conn.round_trip(PROBE).await?;
            fits(&pod.assignment, conn.max_payload_bytes() as u64)?;
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
            let config = pod.config(&plan, acks(&pod.assignment));
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

    fn config(&self, plan: &PublisherPlan, acks: Acks) -> publisher::Config {
        publisher::Config {
            run: self.assignment.run,
            trial: self.assignment.trial,
            id: plan.id,
            subjects: plan.subjects.iter().map(|s| s.clone().into()).collect(),
            messages: plan.messages,
            acks,
            message_id: self.assignment.message_id,
            duplicate_ratio: self.assignment.duplicate_ratio,
            headers: self.assignment.headers.clone(),
            timeout: self.assignment.publish_timeout,
            pacing: self.assignment.pacing,
        }
    }

    /// Stores what the stream must hold before the barrier; it is counted and not measured.
    async fn prefill(&mut self, pool: &Rc<Pool>) -> anyhow::Result<()> {
        let Some(plan) = self.assignment.prefill.clone() else {
            return Ok(());
        };
        let acks = Acks::Each {
            window: PREFILL_WINDOW,
            any: false,
        };
        let config = publisher::Config {
            duplicate_ratio: 0.0,
            ..self.config(&plan, acks)
        };
        let publisher = Publisher::new(
            config,
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
            answers: assignment.mode == PublishMode::Request,
        };
        for (i, plan) in assignment.subscribers.iter().enumerate() {
            let ledger = Ledger::new(config, plan.group.clone(), plan.app, self.recorder.clone());
            let ledger = Rc::new(RefCell::new(ledger));
            let conn = self.conn(assignment.publishers.len() + i);
            self.subscribe(conn, plan, config, &ledger)
                .await
                .with_context(|| format!("subscriber {i} of worker {}", assignment.worker))?;
            self.ledgers.push(ledger);
        }
        Ok(())
    }

    /// Lets one subscriber read: a task for each feed, and one for all that it asks for by itself.
    async fn subscribe(
        &mut self,
        conn: Conn,
        plan: &SubscriberPlan,
        config: subscriber::Config,
        ledger: &Rc<RefCell<Ledger>>,
    ) -> anyhow::Result<()> {
        let api_prefix = &self.endpoint.js_api_prefix;
        let mut gets = Vec::new();
        for (number, feed) in plan.feeds.iter().enumerate() {
            match source(feed, api_prefix) {
                Reads::Fed(source) => {
                    let feed = Feed::attach(conn.clone(), source).await?;
                    let read = subscriber::read(number, feed, config, ledger.clone());
                    self.readers.spawn_local(read);
                }
                Reads::Asks { stream, wanted } => {
                    gets.push(Gets::attach(conn.clone(), api_prefix, &stream, wanted).await?);
                }
            }
        }
        if !gets.is_empty() {
            self.readers
                .spawn_local(subscriber::get(gets, ledger.clone()));
        }
        Ok(())
    }

    async fn go(&mut self, start_ns: u64, window_ns: Option<(u64, u64)>) -> anyhow::Result<()> {
        // The window of a drain is found out later; whatever is measured lies in it.
        let recorded = match window_ns {
            None if self.assignment.drain_only => Some((start_ns, u64::MAX)),
            window_ns => window_ns,
        };
        self.recorder.borrow_mut().start(start_ns, recorded);
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
        // Before they are closed, which is a cut to some clients.
        let (cuts, dropped) = self.conns.iter().map(Conn::link).fold((0, 0), |sum, link| {
            (sum.0 + link.cuts(), sum.1 + link.dropped())
        });
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
            cuts,
            dropped,
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

/// Whether atomic batches may end with a message that is not stored, which needs nats-server 2.14.
/// Where the last message is known beforehand it commits, and older servers will do.
pub fn batches_may_end(length: Length, rate: &Rate) -> bool {
    !matches!((length, rate), (Length::Messages(_), Rate::Max))
}

/// How the publishers of a pod are acked.
fn acks(assignment: &Assignment) -> Acks {
    let (window, batch) = (assignment.window, assignment.batch);
    match assignment.mode {
        PublishMode::Core => Acks::None,
        PublishMode::Sync | PublishMode::Async => Acks::Each { window, any: false },
        PublishMode::Request => Acks::Each { window, any: true },
        PublishMode::AtomicBatch => Acks::Atomic {
            window,
            batch,
            ends: batches_may_end(assignment.length, &assignment.rate),
        },
        PublishMode::FastIngest => Acks::Fast {
            window,
            flow: batch,
        },
    }
}

/// Which client carries the data plane.
pub fn client(kind: ClientKind) -> Client {
    match kind {
        ClientKind::Wire => Client::Wire,
        ClientKind::AsyncNats => Client::AsyncNats,
    }
}

/// How a subscriber comes to its messages.
enum Reads {
    /// They are sent to it.
    Fed(Source),
    /// It asks for each.
    Asks { stream: String, wanted: Wanted },
}

fn source(plan: &FeedPlan, api_prefix: &str) -> Reads {
    let api_prefix = api_prefix.to_owned();
    Reads::Fed(match plan.clone() {
        FeedPlan::Core { subject, group } => Source::Core { subject, group },
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
            style,
        } => Source::Pull {
            api_prefix,
            stream,
            consumer,
            batch,
            fetch: style == PullStyle::Fetch,
        },
        FeedPlan::Get { stream, what } => {
            let wanted = match what {
                GetPlan::Sequences { filter, batch } => Wanted::Sequences { filter, batch },
                GetPlan::Subjects(subjects) => Wanted::Subjects(subjects),
            };
            return Reads::Asks { stream, wanted };
        }
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
    })
}

/// Whether messages are not larger than the server takes, headers included.
fn fits(assignment: &Assignment, most: u64) -> anyhow::Result<()> {
    let payload_bytes = assignment.payload.size_bytes();
    let header_bytes = header_bytes(assignment);
    let with_headers = match header_bytes {
        0 => String::new(),
        n => format!(" and its headers up to {n}"),
    };
    anyhow::ensure!(
        payload_bytes + header_bytes <= most,
        "workload.payload is {payload_bytes} bytes{with_headers}, and the server takes at most \
         {most}; make it smaller or raise max_payload"
    );
    Ok(())
}

/// The longest block of headers that a message of this worker may have; 0 without any.
fn header_bytes(assignment: &Assignment) -> u64 {
    let digits = |n: u64| n.checked_ilog10().unwrap_or(0) as usize + 1;
    let publishers = assignment.publishers.iter().chain(&assignment.prefill);
    let longest_id = publishers
        .map(|p| digits(u64::from(p.id)) + digits(p.messages.unwrap_or(u64::MAX)))
        .max()
        .unwrap_or(0)
        + digits(u64::from(assignment.trial))
        + "0123456789abcdef---".len();
    let line = |name: &str, value_bytes: usize| name.len() + ": \r\n".len() + value_bytes;
    let headers = assignment.headers.iter();
    let mut bytes: usize = headers.map(|(name, value)| line(name, value.len())).sum();
    if assignment.message_id {
        bytes += line("Nats-Msg-Id", longest_id);
    }
    if assignment.mode == PublishMode::AtomicBatch && !assignment.publishers.is_empty() {
        let batch = digits(u64::from(assignment.batch));
        bytes += line("Nats-Batch-Id", longest_id);
        bytes += line("Nats-Batch-Sequence", batch) + line("Nats-Batch-Commit", 1);
    }
    match bytes {
        0 => 0,
        n => (n + "NATS/1.0\r\n\r\n".len()) as u64,
    }
}
