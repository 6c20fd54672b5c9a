//! One subscriber: reads its feeds, acks as it is told, and keeps the exact set of what it
//! received of each publisher.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::recorder::Recorder;
use crate::measure::clock;
use crate::measure::histogram::Metric;
use crate::measure::identity::{Decoded, Identity};
use crate::measure::seqset::{Ranges, SeqSet};
use crate::nats::conn::Inbox;
use crate::nats::feed::{Delivery, Feed};
use crate::nats::get::Gets;
use crate::scenario::model::Ack;

/// What a subscriber is told.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Run of the messages that are ours.
    pub run: u64,
    /// Trial of the messages that are ours.
    pub trial: u32,
    /// Publishers of the cell; later numbers are prefill, whose latency means nothing.
    pub publishers: u32,
    /// Numbers that exist at all, prefill included.
    pub identities: u32,
    /// How to ack.
    pub ack: Ack,
    /// Ack-all acks after this many, double acks await at most this many confirmations.
    pub ack_batch: u32,
    /// Messages are requests: each is answered with its own payload.
    pub answers: bool,
}

/// What a subscriber received.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// What the ledger judges together: the durable they share, or this subscriber.
    pub group: String,
    /// App whose messages it receives.
    pub app: u32,
    /// Sequences by publisher.
    pub sets: BTreeMap<u32, Ranges>,
    /// Deliveries of our messages.
    pub deliveries: u64,
    /// Second stored copies of a message.
    pub duplicated: u64,
    /// Deliveries that were not the first of that stored message.
    pub redelivered: u64,
    /// First deliveries behind a later one of the same publisher.
    pub reordered: u64,
    /// Ours, and altered.
    pub corrupted: u64,
    /// Not ours.
    pub foreign: u64,
    /// Acks the server confirmed (double ack).
    pub confirmed: u64,
    /// Why reading ended early.
    pub broken: Option<String>,
}

/// What is known of one publisher's messages.
#[derive(Debug, Default)]
struct Track {
    set: SeqSet,
    /// Highest by feed: streams of their own promise no order between them.
    highest: BTreeMap<usize, u64>,
}

/// The state of a subscriber, shared by the tasks that read its feeds.
pub struct Ledger {
    config: Config,
    recorder: Rc<RefCell<Recorder>>,
    tracks: BTreeMap<u32, Track>,
    counts: Received,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(config: Config, group: String, app: u32, recorder: Rc<RefCell<Recorder>>) -> Self {
        let counts = Received {
            group,
            app,
            ..Received::default()
        };
        Self {
            config,
            recorder,
            tracks: BTreeMap::new(),
            counts,
        }
    }

    /// Takes note of a delivery by feed number `feed`.
    pub fn note(&mut self, feed: usize, delivery: &Delivery) {
        let identity = match Identity::decode(delivery.message.payload()) {
            Decoded::Ours(identity) if self.is_ours(&identity) => identity,
            Decoded::Ours(_) | Decoded::Foreign => {
                self.counts.foreign += 1;
                return;
            }
            Decoded::Corrupted => {
                self.counts.corrupted += 1;
                return;
            }
        };
        let at_ns = clock::ns_of(delivery.message.at);
        {
            let mut recorder = self.recorder.borrow_mut();
            recorder.received(at_ns);
            if identity.publisher < self.config.publishers {
                recorder.time(
                    Metric::E2e,
                    identity.intended_ns,
                    identity.intended_ns,
                    at_ns,
                );
            }
        }
        self.counts.deliveries += 1;
        let again = delivery.meta.is_some_and(|m| m.delivered > 1);
        let track = self.tracks.entry(identity.publisher).or_default();
        let new = track.set.insert(identity.sequence);
        if again {
            self.counts.redelivered += 1;
        } else if !new {
            self.counts.duplicated += 1;
        } else if track
            .highest
            .get(&feed)
            .is_some_and(|highest| identity.sequence < *highest)
        {
            self.counts.reordered += 1;
        }
        let highest = track.highest.entry(feed).or_default();
        *highest = (*highest).max(identity.sequence);
    }

    /// Takes note of a message that was asked for at `asked_ns`, ns since the Unix epoch.
    fn note_got(&mut self, feed: usize, delivery: &Delivery, asked_ns: u64) {
        let at_ns = clock::ns_of(delivery.message.at);
        self.recorder
            .borrow_mut()
            .time(Metric::Service, asked_ns, asked_ns, at_ns);
        self.note(feed, delivery);
    }

    fn is_ours(&self, identity: &Identity) -> bool {
        identity.run == self.config.run
            && identity.trial == self.config.trial
            && identity.publisher < self.config.identities
    }

    /// What was received so far.
    pub fn received(&self) -> Received {
        let sets = self
            .tracks
            .iter()
            .map(|(publisher, track)| (*publisher, track.set.ranges()))
            .collect();
        Received {
            sets,
            ..self.counts.clone()
        }
    }

    /// Distinct messages received so far.
    pub fn unique(&self) -> u64 {
        self.tracks.values().map(|t| t.set.len()).sum()
    }
}

/// Reads one feed until it ends or the task is ended from outside; what it learns is in `ledger`.
pub async fn read(number: usize, mut feed: Feed, config: Config, ledger: Rc<RefCell<Ledger>>) {
    let outcome = read_on(number, &mut feed, config, &ledger).await;
    if let Err(error) = outcome {
        ledger.borrow_mut().counts.broken = Some(format!("{error:#}"));
    }
}

/// Gets all that these sources hold, one after the other; what it learns is in `ledger`.
pub async fn get(sources: Vec<Gets>, ledger: Rc<RefCell<Ledger>>) {
    for (number, mut source) in sources.into_iter().enumerate() {
        if let Err(error) = get_all(number, &mut source, &ledger).await {
            ledger.borrow_mut().counts.broken = Some(format!("{error:#}"));
            return;
        }
    }
}

async fn get_all(
    number: usize,
    source: &mut Gets,
    ledger: &Rc<RefCell<Ledger>>,
) -> anyhow::Result<()> {
    while let Some(got) = source.next().await? {
        let asked_ns = clock::ns_of(got.asked);
        let delivery = Delivery {
            message: got.message,
            meta: None,
        };
        ledger.borrow_mut().note_got(number, &delivery, asked_ns);
    }
    Ok(())
}

async fn read_on(
    number: usize,
    feed: &mut Feed,
    config: Config,
    ledger: &Rc<RefCell<Ledger>>,
) -> anyhow::Result<()> {
    let mut acker = Acker::new(feed, config).await?;
    while let Some(delivery) = feed.next().await? {
        if config.answers {
            let message = &delivery.message;
            acker.conn.answer(message, None, message.payload()).await?;
        }
        ledger.borrow_mut().note(number, &delivery);
        let confirmed = acker.ack(&delivery).await?;
        ledger.borrow_mut().counts.confirmed += confirmed;
    }
    Ok(())
}

/// How long a double ack waits for its confirmation.
const CONFIRMATION: Duration = Duration::from_secs(5);
const ACK: &[u8] = b"+ACK";

/// Acks deliveries the way the scenario says.
struct Acker {
    config: Config,
    conn: crate::nats::conn::Conn,
    /// Deliveries since the last ack-all.
    since: u32,
    confirmations: Option<(String, Inbox)>,
    awaited: u32,
}

impl Acker {
    async fn new(feed: &Feed, config: Config) -> anyhow::Result<Self> {
        let conn = feed.conn().clone();
        let confirmations = if config.ack == Ack::Double {
            let inbox = conn.new_inbox();
            let subscription = conn.subscribe(inbox.clone(), None).await?;
            Some((inbox, subscription))
        } else {
            None
        };
        Ok(Self {
            config,
            conn,
            since: 0,
            confirmations,
            awaited: 0,
        })
    }

    /// Acks a delivery; returns how many confirmations came meanwhile.
    async fn ack(&mut self, delivery: &Delivery) -> anyhow::Result<u64> {
        let due = match self.config.ack {
            _ if delivery.meta.is_none() => false,
            Ack::None => false,
            Ack::Explicit | Ack::Double => true,
            Ack::All => {
                self.since += 1;
                self.since >= self.config.ack_batch || delivery.meta.is_some_and(|m| m.pending == 0)
            }
        };
        if !due {
            return Ok(0);
        }
        self.since = 0;
        let reply = self.confirmations.as_ref().map(|(inbox, _)| inbox.as_str());
        self.conn.answer(&delivery.message, reply, ACK).await?;
        let Some((_, inbox)) = &mut self.confirmations else {
            return Ok(0);
        };
        self.awaited += 1;
        let mut confirmed = 0;
        // A full batch of unconfirmed acks waits; below that they are only collected.
        while self.awaited >= self.config.ack_batch {
            // A confirmation that was lost with its connection must not end the reading.
            match tokio::time::timeout(CONFIRMATION, inbox.next()).await {
                Ok(Some(_)) => confirmed += 1,
                Ok(None) => anyhow::bail!("the connection closed while acks were being confirmed"),
                Err(_) => {}
            }
            self.awaited -= 1;
        }
        Ok(confirmed)
    }
}
