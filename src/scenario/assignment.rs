//! From a cell to who does what in a trial: streams, consumers and, for each event loop of a pod, its
//! publishers and subscribers. Pure; names follow `docs/FORMAT.md`.

mod names;
mod threads;

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{
    Ack, Arrivals, CellSpec, ClientKind, ConsumerKind, Deliver, Layout, Length, Pacing, Payload,
    Publish, PublishMode, PullStyle, Rate, Share, StreamKind,
};
use crate::units::as_ns;
use names::Names;

/// All of a trial.
#[derive(Debug, Clone)]
pub struct TrialPlan {
    /// Streams to make; empty for an existing stream and for core.
    pub streams: Vec<StreamPlan>,
    /// Consumers to make before the barrier; ordered ones are made by their readers.
    pub consumers: Vec<ConsumerPlan>,
    /// One assignment per event loop, those of a pod one after the other.
    pub assignments: Vec<Assignment>,
    /// App -> how many subscriptions receive each of its messages.
    pub subscriptions: BTreeMap<u32, u64>,
    /// Publishers of the cell, prefill not counted.
    pub publishers: u32,
}

/// A stream and the subjects it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlan {
    /// Name.
    pub name: String,
    /// Subjects.
    pub subjects: Vec<String>,
}

/// A consumer to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerPlan {
    /// Stream.
    pub stream: String,
    /// Durable name.
    pub name: String,
    /// Subject filter.
    pub filter: String,
    /// Of a push consumer.
    pub deliver_subject: Option<String>,
    /// Of a push-queue consumer.
    pub deliver_group: Option<String>,
}

/// What one event loop does, all of a pod or a part of it.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Number of the worker, which is the place in [`TrialPlan::assignments`]; that of the pod where
    /// each has one event loop.
    pub worker: u32,
    /// Pod.
    pub pod: u32,
    /// Run.
    pub run: u64,
    /// Trial.
    pub trial: u32,
    /// Seed of payloads.
    pub seed: u64,
    /// Publishers of the whole cell; identities from here on are prefill.
    pub publishers_total: u32,
    /// Numbers of publishers that exist, prefill included.
    pub identities: u32,
    /// Its publishers.
    pub publishers: Vec<PublisherPlan>,
    /// Its subscribers.
    pub subscribers: Vec<SubscriberPlan>,
    /// Messages to store before the barrier.
    pub prefill: Option<PublisherPlan>,
    /// How they publish.
    pub mode: PublishMode,
    /// In flight per publisher.
    pub window: u32,
    /// Messages per ack in modes whose acks stand for many.
    pub batch: u32,
    /// Send Nats-Msg-Id.
    pub message_id: bool,
    /// Share of messages that are sent once more with the same id.
    pub duplicate_ratio: f64,
    /// Headers of each message, `Nats-TTL` among them.
    pub headers: Vec<(String, String)>,
    /// Client library.
    pub client: ClientKind,
    /// Without an answer for this long a publish is unknown.
    pub publish_timeout: Duration,
    /// What messages carry.
    pub payload: Payload,
    /// Pace of the cell.
    pub rate: Rate,
    /// How messages are spread in open loop.
    pub arrivals: Arrivals,
    /// How to wait for what is due.
    pub pacing: Pacing,
    /// Warm-up before the window; zero with message counts.
    pub warmup: Duration,
    /// How long.
    pub length: Length,
    /// How deliveries are acked.
    pub ack: Ack,
    /// Bound of unconfirmed double acks per subscriber.
    pub max_ack_pending: u32,
    /// Its connections; one per client when `None`.
    pub connections: Option<u32>,
    /// No publisher in the cell: the trial is a drain.
    pub drain_only: bool,
}

/// One publisher.
#[derive(Debug, Clone)]
pub struct PublisherPlan {
    /// Number in the cell, from 0: the identity's publisher and the place in the interleaving.
    pub id: u32,
    /// App.
    pub app: u32,
    /// Subjects, used in turn: one per type, and with keys one per type for each key.
    pub subjects: Vec<String>,
    /// Messages to publish; as many as the time allows when `None`.
    pub messages: Option<u64>,
}

/// One subscriber.
#[derive(Debug, Clone)]
pub struct SubscriberPlan {
    /// App.
    pub app: u32,
    /// Subscriptions that share deliveries have one group; it names what the ledger judges
    /// together.
    pub group: String,
    /// What it reads from.
    pub feeds: Vec<FeedPlan>,
}

/// What a subscriber reads from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedPlan {
    /// A core subscription.
    Core {
        /// Subject.
        subject: String,
        /// Queue group.
        group: Option<String>,
    },
    /// A push consumer.
    Push {
        /// Deliver subject.
        deliver_subject: String,
        /// Deliver group.
        group: Option<String>,
    },
    /// A pull consumer.
    Pull {
        /// Stream.
        stream: String,
        /// Consumer.
        consumer: String,
        /// Messages per request.
        batch: u32,
        /// When to ask for more.
        style: PullStyle,
    },
    /// Direct gets of all that a stream holds for an app.
    Get {
        /// Stream.
        stream: String,
        /// Which messages.
        what: GetPlan,
    },
    /// An ordered consumer.
    Ordered {
        /// Stream.
        stream: String,
        /// Filter.
        filter: String,
        /// Prefix of its name.
        name: String,
        /// Where to start.
        deliver_policy: &'static str,
    },
}

/// Which messages a subscriber gets, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetPlan {
    /// By sequence, those of a subject, so many by each request.
    Sequences {
        /// Subject filter.
        filter: String,
        /// Messages per request.
        batch: u32,
    },
    /// The last message of each of these subjects.
    Subjects(Vec<String>),
}

/// The word JetStream uses for where a consumer starts.
pub fn deliver_policy(deliver: Deliver) -> &'static str {
    match deliver {
        Deliver::All => "all",
        Deliver::New => "new",
        Deliver::Last => "last",
        Deliver::LastPerSubject => "last_per_subject",
    }
}

/// Plans a trial of a cell. `run` is the run id, `seed` the run's seed.
pub fn plan(spec: &CellSpec, run: u64, trial: u32, seed: u64) -> TrialPlan {
    let names = Names::new(spec, run, trial);
    let mut consumers = Vec::new();
    let mut subscriptions = BTreeMap::new();
    let load = &spec.workload;
    let publishers = load.pods * load.publishers;
    let pods = (0..load.pods)
        .map(|pod| {
            let app = pod % load.apps;
            Assignment {
                worker: pod,
                pod,
                run,
                trial,
                seed,
                publishers_total: publishers,
                identities: publishers + if load.prefill > 0 { load.pods } else { 0 },
                publishers: (0..load.publishers)
                    .map(|k| {
                        let id = pod * load.publishers + k;
                        PublisherPlan {
                            id,
                            app,
                            subjects: names.subjects(app, id),
                            messages: messages_of(load.length, load.publishers, k),
                        }
                    })
                    .collect(),
                subscribers: (0..load.subscribers)
                    .map(|k| subscriber(&names, pod, app, k, &mut consumers, &mut subscriptions))
                    .collect(),
                prefill: (load.prefill > 0).then(|| PublisherPlan {
                    id: publishers + pod,
                    app,
                    subjects: names.subjects(app, publishers + pod),
                    messages: Some(load.prefill),
                }),
                mode: spec.publish.mode,
                window: spec.publish.window,
                batch: spec.publish.batch,
                duplicate_ratio: spec.publish.duplicate_ratio,
                headers: headers(&spec.publish),
                client: load.client,
                message_id: spec.publish.message_id,
                publish_timeout: spec.publish.timeout,
                payload: load.payload.clone(),
                rate: load.rate.clone(),
                arrivals: load.arrivals,
                pacing: load.pacing,
                warmup: match load.length {
                    Length::Duration(_) => spec.warmup,
                    Length::Messages(_) => Duration::ZERO,
                },
                length: load.length,
                ack: spec.consumer.ack,
                max_ack_pending: spec.consumer.max_ack_pending,
                connections: load.connections,
                drain_only: publishers == 0,
            }
        })
        .collect();
    TrialPlan {
        streams: streams(&names),
        consumers,
        assignments: threads::spread(pods, load.threads),
        subscriptions,
        publishers,
    }
}

/// The share of a publisher in its pod's messages; the first ones take the remainder.
fn messages_of(length: Length, publishers: u32, k: u32) -> Option<u64> {
    match length {
        Length::Duration(_) => None,
        Length::Messages(n) => Some(share(n, u64::from(publishers), u64::from(k))),
    }
}

/// The k-th of so many even shares of `n`; the first ones take the remainder.
fn share(n: u64, shares: u64, k: u64) -> u64 {
    n / shares + u64::from(k < n % shares)
}

fn streams(names: &Names<'_>) -> Vec<StreamPlan> {
    let spec = names.spec;
    if spec.stream.existing.is_some() || spec.publish.mode.is_core() {
        return Vec::new();
    }
    let mut out: Vec<StreamPlan> = Vec::new();
    for app in 0..spec.workload.apps {
        for kind in 0..spec.workload.types {
            let name = names.stream(app, kind);
            let root = names.root(app, kind);
            let subject = match (spec.stream.kind, spec.stream.layout) {
                (StreamKind::Kv, _) | (_, Layout::Shared) => format!("{root}.>"),
                (_, Layout::PerApp) => format!("{root}.app{app}.>"),
                (_, Layout::PerType) => names.of_type(app, kind),
            };
            if !out.iter().any(|s| s.name == name) {
                out.push(StreamPlan {
                    name,
                    subjects: vec![subject],
                });
            }
        }
    }
    out
}

fn subscriber(
    names: &Names<'_>,
    pod: u32,
    app: u32,
    k: u32,
    consumers: &mut Vec<ConsumerPlan>,
    subscriptions: &mut BTreeMap<u32, u64>,
) -> SubscriberPlan {
    let spec = names.spec;
    let shared = spec.consumer.share == Share::App || spec.consumer.kind == ConsumerKind::PushQueue;
    let tag = if shared {
        format!("app{app}")
    } else {
        format!("p{pod}_s{k}")
    };
    let group = format!("JSB_{}_{tag}", names.stem);
    if shared {
        subscriptions.insert(app, 1);
    } else {
        *subscriptions.entry(app).or_default() += 1;
    }
    if spec.publish.mode.is_core() {
        let subject = match &spec.publish.subject {
            Some(subject) => subject.clone(),
            None => names.of_app(app),
        };
        return SubscriberPlan {
            app,
            feeds: vec![FeedPlan::Core {
                subject,
                group: shared.then(|| group.clone()),
            }],
            group,
        };
    }
    if spec.consumer.kind == ConsumerKind::Get {
        let feeds = gets(names, app);
        return SubscriberPlan { app, group, feeds };
    }
    let sources = names.sources(app);
    let many = sources.len() > 1;
    let feeds = sources
        .into_iter()
        .enumerate()
        .map(|(i, (stream, filter))| {
            let name = if many {
                format!("{group}_{i}")
            } else {
                group.clone()
            };
            let deliver_subject = format!("jsbd.{}", name.to_lowercase());
            let deliver_group =
                (spec.consumer.kind == ConsumerKind::PushQueue).then(|| name.clone());
            match spec.consumer.kind {
                ConsumerKind::Ordered => FeedPlan::Ordered {
                    stream,
                    filter,
                    name,
                    deliver_policy: deliver_policy(spec.consumer.deliver),
                },
                ConsumerKind::Push | ConsumerKind::PushQueue => {
                    add(
                        consumers,
                        ConsumerPlan {
                            stream,
                            name,
                            filter,
                            deliver_subject: Some(deliver_subject.clone()),
                            deliver_group: deliver_group.clone(),
                        },
                    );
                    FeedPlan::Push {
                        deliver_subject,
                        group: deliver_group,
                    }
                }
                // A subscriber without a consumer is refused when the scenario is read.
                _ => {
                    let plan = ConsumerPlan {
                        stream: stream.clone(),
                        name: name.clone(),
                        filter,
                        deliver_subject: None,
                        deliver_group: None,
                    };
                    add(consumers, plan);
                    FeedPlan::Pull {
                        stream,
                        consumer: name,
                        batch: spec.consumer.batch,
                        style: spec.consumer.pull,
                    }
                }
            }
        })
        .collect();
    SubscriberPlan { app, group, feeds }
}

/// What is asked for to get each message of an app once.
fn gets(names: &Names<'_>, app: u32) -> Vec<FeedPlan> {
    let spec = names.spec;
    let sources = names.sources(app).into_iter().zip(0..);
    sources
        .map(|((stream, filter), kind)| {
            let what = match spec.stream.kind {
                StreamKind::Stream => GetPlan::Sequences {
                    filter,
                    batch: spec.consumer.batch,
                },
                StreamKind::Kv => GetPlan::Subjects(names.filled(app, kind)),
            };
            FeedPlan::Get { stream, what }
        })
        .collect()
}

/// The headers of each message: the scenario's, and its time to live.
fn headers(publish: &Publish) -> Vec<(String, String)> {
    let ttl = publish.ttl.map(|ttl| {
        // Whole seconds are the server's finest step.
        let seconds = ttl.as_secs().max(1);
        ("Nats-TTL".to_owned(), format!("{seconds}s"))
    });
    publish.headers.iter().cloned().chain(ttl).collect()
}

/// Subscribers that share a durable share its plan.
fn add(consumers: &mut Vec<ConsumerPlan>, plan: ConsumerPlan) {
    if !consumers.contains(&plan) {
        consumers.push(plan);
    }
}

/// The window of a trial with a duration, after the start: (start, end) in ns.
pub fn planned_window(assignment: &Assignment) -> Option<(u64, u64)> {
    match assignment.length {
        Length::Duration(window) if !assignment.drain_only => {
            let start = as_ns(assignment.warmup);
            Some((start, start + as_ns(window)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
