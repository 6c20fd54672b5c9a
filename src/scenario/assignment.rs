//! From a cell to who does what in a trial: streams, consumers and, for each pod, its publishers
//! and subscribers. Pure; names follow `docs/FORMAT.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{
    Ack, Arrivals, CellSpec, ConsumerKind, Deliver, Layout, Length, Pacing, Payload, PublishMode,
    Rate, Share,
};
use crate::units::as_ns;

/// All of a trial.
#[derive(Debug, Clone)]
pub struct TrialPlan {
    /// Streams to make; empty for an existing stream and for core.
    pub streams: Vec<StreamPlan>,
    /// Consumers to make before the barrier; ordered ones are made by their readers.
    pub consumers: Vec<ConsumerPlan>,
    /// One assignment per pod.
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

/// What one pod does.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Pod number, which is the worker's.
    pub worker: u32,
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
    /// Send Nats-Msg-Id.
    pub message_id: bool,
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
    /// Connections of the pod; one per client when `None`.
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
    /// Subjects, one per type, used in turn.
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

/// The word JetStream uses for where a consumer starts.
pub fn deliver_policy(deliver: Deliver) -> &'static str {
    match deliver {
        Deliver::All => "all",
        Deliver::New => "new",
        Deliver::Last => "last",
        Deliver::LastPerSubject => "last_per_subject",
    }
}

struct Names<'a> {
    spec: &'a CellSpec,
    /// `<id>_t<trial>`
    stem: String,
    /// `jsb.<id>.t<trial>`
    root: String,
}

impl Names<'_> {
    fn subject(&self, app: u32, kind: u32) -> String {
        match &self.spec.publish.subject {
            Some(subject) => subject.clone(),
            None => format!("{}.app{app}.type{kind}", self.root),
        }
    }

    fn stream(&self, app: u32, kind: u32) -> String {
        if let Some(existing) = &self.spec.stream.existing {
            return existing.clone();
        }
        match self.spec.stream.layout {
            Layout::Shared => format!("JSB_{}", self.stem),
            Layout::PerApp => format!("JSB_{}_app{app}", self.stem),
            Layout::PerType => format!("JSB_{}_app{app}_type{kind}", self.stem),
        }
    }

    /// The streams an app's messages are in, each with the filter that selects the app there.
    fn sources(&self, app: u32) -> Vec<(String, String)> {
        if self.spec.stream.existing.is_some() {
            return vec![(self.stream(app, 0), self.subject(app, 0))];
        }
        match self.spec.stream.layout {
            Layout::Shared | Layout::PerApp => {
                vec![(self.stream(app, 0), format!("{}.app{app}.>", self.root))]
            }
            Layout::PerType => (0..self.spec.workload.types)
                .map(|kind| (self.stream(app, kind), self.subject(app, kind)))
                .collect(),
        }
    }
}

/// Plans a trial of a cell. `run` is the run id, `seed` the run's seed.
pub fn plan(spec: &CellSpec, run: u64, trial: u32, seed: u64) -> TrialPlan {
    let id = format!("{run:016x}")[..8].to_owned();
    let names = Names {
        spec,
        stem: format!("{id}_t{trial}"),
        root: format!("jsb.{id}.t{trial}"),
    };
    let mut consumers = Vec::new();
    let mut subscriptions = BTreeMap::new();
    let load = &spec.workload;
    let publishers = load.pods * load.publishers;
    let assignments = (0..load.pods)
        .map(|pod| {
            let app = pod % load.apps;
            let subjects: Vec<_> = (0..load.types)
                .map(|kind| names.subject(app, kind))
                .collect();
            Assignment {
                worker: pod,
                run,
                trial,
                seed,
                publishers_total: publishers,
                identities: publishers + if load.prefill > 0 { load.pods } else { 0 },
                publishers: (0..load.publishers)
                    .map(|k| PublisherPlan {
                        id: pod * load.publishers + k,
                        app,
                        subjects: subjects.clone(),
                        messages: messages_of(load.length, load.publishers, k),
                    })
                    .collect(),
                subscribers: (0..load.subscribers)
                    .map(|k| subscriber(&names, pod, app, k, &mut consumers, &mut subscriptions))
                    .collect(),
                prefill: (load.prefill > 0).then(|| PublisherPlan {
                    id: publishers + pod,
                    app,
                    subjects: subjects.clone(),
                    messages: Some(load.prefill),
                }),
                mode: spec.publish.mode,
                window: spec.publish.window,
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
        assignments,
        subscriptions,
        publishers,
    }
}

/// The share of a publisher in its pod's messages; the first ones take the remainder.
fn messages_of(length: Length, publishers: u32, k: u32) -> Option<u64> {
    match length {
        Length::Duration(_) => None,
        Length::Messages(n) => {
            let (n, of, k) = (n, u64::from(publishers), u64::from(k));
            Some(n / of + u64::from(k < n % of))
        }
    }
}

fn streams(names: &Names<'_>) -> Vec<StreamPlan> {
    let spec = names.spec;
    if spec.stream.existing.is_some() || spec.publish.mode == PublishMode::Core {
        return Vec::new();
    }
    let mut out: Vec<StreamPlan> = Vec::new();
    for app in 0..spec.workload.apps {
        for kind in 0..spec.workload.types {
            let name = names.stream(app, kind);
            let subject = match spec.stream.layout {
                Layout::Shared => format!("{}.>", names.root),
                Layout::PerApp => format!("{}.app{app}.>", names.root),
                Layout::PerType => names.subject(app, kind),
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
    if spec.consumer.kind == ConsumerKind::Core {
        let subject = match &spec.publish.subject {
            Some(subject) => subject.clone(),
            None => format!("{}.app{app}.>", names.root),
        };
        return SubscriberPlan {
            app,
            group,
            feeds: vec![FeedPlan::Core { subject }],
        };
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
                ConsumerKind::Pull | ConsumerKind::None | ConsumerKind::Core => {
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
                    }
                }
            }
        })
        .collect();
    SubscriberPlan { app, group, feeds }
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_of_a_pod_add_up(messages in 0u64..10_000, publishers in 1u32..30) {
            let sum: u64 = (0..publishers).filter_map(|k| messages_of(Length::Messages(messages), publishers, k)).sum();
            prop_assert_eq!(sum, messages);
        }
    }
}
