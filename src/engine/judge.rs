//! From what a trial gave to its result: counts in the window, the ledger, resources. Pure but for
//! the evidence handed in.

use std::collections::BTreeMap;

use super::messages::Dump;
use super::trial::{Drained, Ended};
use crate::analysis::ledger::{Reading, judge};
use crate::load::publisher::Outcome;
use crate::load::recorder::Timelines;
use crate::load::subscriber::Received;
use crate::load::timeline::Timeline;
use crate::measure::histogram::Metric;
use crate::measure::ledger::{Evidence, Kept, Published, Subscription, balance};
use crate::measure::seqset::Ranges;
use crate::record::document::{Resources, Status};
use crate::record::event::{Counts, Sample, TrialResult};
use crate::scenario::assignment::TrialPlan;
use crate::scenario::model::{
    Absence, Ack, CellSpec, ConsumerKind, Length, PublishMode, Rate, Retention, Share, StreamKind,
    Target,
};

/// Everything a verdict rests on.
pub struct Case<'a> {
    /// Trial.
    pub trial: u32,
    /// What was to be done.
    pub spec: &'a CellSpec,
    /// By whom.
    pub plan: &'a TrialPlan,
    /// What came of it.
    pub ended: &'a Ended,
    /// Looks at driver and servers.
    pub samples: &'a [Sample],
    /// What the streams hold; `Err` says why it is not known.
    pub stored: Option<Result<Received, String>>,
    /// `state.bytes` of the streams after the load.
    pub stored_bytes: Option<u64>,
    /// Allocated bytes of the stores after the load.
    pub disk_bytes: Option<u64>,
    /// Load and servers share a host.
    pub shared_host: bool,
    /// The load was cut short.
    pub interrupted: bool,
}

/// What the ledger must know of a trial's plan.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Publisher -> app, prefill included.
    pub apps: BTreeMap<u32, u32>,
    /// Prefilling publisher -> messages. A trial only begins when all of them are acked.
    pub prefills: BTreeMap<u32, u64>,
    /// Core publishing: nothing is acked, what was attempted is what may arrive.
    pub core: bool,
    /// The oldest messages may legally be gone.
    pub oldest_may_go: bool,
    /// Published in atomic batches.
    pub atomic: bool,
    /// Publisher -> what the bucket keeps of its messages; empty without a bucket.
    pub kept: BTreeMap<u32, Kept>,
}

impl Facts {
    /// Of a trial.
    pub fn of(spec: &CellSpec, plan: &TrialPlan) -> Self {
        let prefills = || plan.assignments.iter().filter_map(|a| a.prefill.as_ref());
        let publishers = || {
            let own = plan.assignments.iter().flat_map(|a| &a.publishers);
            own.chain(prefills())
        };
        let is_bucket = spec.stream.kind == StreamKind::Kv;
        let history = spec.stream.max_msgs_per_subject.unwrap_or(1);
        Self {
            apps: publishers().map(|p| (p.id, p.app)).collect(),
            kept: publishers()
                .filter(|_| is_bucket)
                .map(|p| {
                    let keys = p.subjects.len() as u64;
                    (p.id, Kept { keys, history })
                })
                .collect(),
            prefills: prefills()
                .map(|p| (p.id, p.messages.unwrap_or_default()))
                .collect(),
            core: spec.publish.mode == PublishMode::Core,
            atomic: spec.publish.mode == PublishMode::AtomicBatch,
            oldest_may_go: [Absence::Limits, Absence::Ttl, Absence::Purge]
                .iter()
                .any(|absence| spec.absences.contains(absence)),
        }
    }
}

/// The evidence of the ledger, without what a scan adds.
pub fn evidence<'a>(
    facts: &Facts,
    outcomes: &[Outcome],
    received: impl IntoIterator<Item = &'a Received>,
) -> Evidence {
    let app = |id: &u32| facts.apps.get(id).copied().unwrap_or_default();
    let mut published: BTreeMap<u32, Published> = BTreeMap::new();
    for outcome in outcomes {
        let all = Ranges::of(0..outcome.attempted);
        published.insert(
            outcome.id,
            Published {
                app: app(&outcome.id),
                attempted: outcome.attempted,
                acked: if facts.core { all } else { outcome.acked() },
                unknown: outcome.unknown.clone(),
                refused: outcome.refused.clone(),
                kept: facts.kept.get(&outcome.id).copied(),
            },
        );
    }
    for (id, count) in &facts.prefills {
        published.insert(
            *id,
            Published {
                app: app(id),
                attempted: *count,
                acked: Ranges::of(0..*count),
                kept: facts.kept.get(id).copied(),
                ..Published::default()
            },
        );
    }
    let mut groups: BTreeMap<&str, Subscription> = BTreeMap::new();
    for received in received {
        match groups.get_mut(received.group.as_str()) {
            Some(group) => group.join(subscription(received)),
            None => {
                groups.insert(&received.group, subscription(received));
            }
        }
    }
    Evidence {
        published,
        subscriptions: groups.into_values().collect(),
        stored: None,
        oldest_may_go: facts.oldest_may_go,
        atomic: facts.atomic,
    }
}

fn subscription(received: &Received) -> Subscription {
    Subscription {
        app: received.app,
        sets: received.sets.clone(),
        duplicated: received.duplicated,
        redelivered: received.redelivered,
        reordered: received.reordered,
        corrupted: received.corrupted,
        foreign: received.foreign,
        overlap: 0,
    }
}

/// Why a stream cannot be read back, where it cannot.
fn unscannable(spec: &CellSpec) -> Option<&'static str> {
    match spec.stream.retention {
        _ if is_stub(spec) => Some("the stub stores nothing"),
        _ if spec.publish.mode.is_core() => Some("core messages are not stored"),
        _ if spec.stream.existing.is_some() => None,
        Retention::Limits => None,
        Retention::Interest => Some("an interest stream gives up what was acked"),
        Retention::WorkQueue => Some("a work queue cannot be read without taking from it"),
    }
}

fn is_stub(spec: &CellSpec) -> bool {
    matches!(spec.target, Target::Stub(_))
}

/// Whether the streams must be read back to say that nothing was lost, where it was, or what is
/// there too often. `held` is how many messages they hold.
pub fn needs_scan(spec: &CellSpec, evidence: &Evidence, held: Option<u64>) -> bool {
    if unscannable(spec).is_some() {
        return false;
    }
    let attempted: u64 = evidence.published.values().map(|p| p.attempted).sum();
    let surplus = spec.stream.existing.is_none() && held.is_some_and(|held| held > attempted);
    evidence.subscriptions.is_empty() || surplus || balance(evidence).lost_delivery > 0
}

/// Judges a trial.
pub fn result(case: &Case<'_>) -> TrialResult {
    let (spec, ended) = (case.spec, case.ended);
    let core = spec.publish.mode == PublishMode::Core;
    let received = ended.dumps.iter().flat_map(|d| &d.received);
    let mut evidence = evidence(&Facts::of(spec, case.plan), &ended.outcomes, received);
    let mut reading = reading(case);
    match &case.stored {
        Some(Ok(stored)) => {
            evidence.stored = Some(subscription(stored));
            reading.scanned = true;
        }
        Some(Err(why)) => reading.unread = Some(why.clone()),
        None => reading.unread = unscannable(spec).map(str::to_owned),
    }
    let balance = balance(&evidence);
    let mut ledger = judge(&reading, &balance);
    if is_stub(spec) {
        ledger.reasons.extend(unscannable(spec).map(str::to_owned));
    }
    let count = |f: fn(&Published) -> u64| -> u64 { evidence.published.values().map(f).sum() };
    let prefilled: u64 = ended.prefilled.values().sum();
    let attempted = count(|p| p.attempted) - prefilled;
    let acked = count(|p| p.acked.len()) - prefilled;
    let unknown = count(|p| p.unknown.len());
    let sum = |f: fn(&Outcome) -> u64| -> u64 { ended.outcomes.iter().map(f).sum() };
    let refused = sum(|o| o.refused.len());
    let repeats = spec.publish.duplicate_ratio > 0.0 && case.plan.publishers > 0;
    let consumers = !evidence.subscriptions.is_empty();
    let expected = consumers.then(|| {
        let of = |app: &u32| case.plan.subscriptions.get(app).copied().unwrap_or(0);
        evidence
            .published
            .values()
            .map(|p| p.acked.len() * of(&p.app))
            .sum()
    });
    let counts = window_counts(ended);
    let (start, end) = ended.window_ns.unwrap_or((0, 0));
    let (status, reasons) = status(case);
    let open_loop = spec.workload.rate != Rate::Max && case.plan.publishers > 0;
    TrialResult {
        trial: case.trial,
        status,
        reasons,
        shared_host: case.shared_host,
        window_start_ns: start,
        window_ns: end.saturating_sub(start),
        offered: open_loop.then(|| offered(case)),
        window_sent: counts[0],
        window_acked: counts[1],
        window_received: counts[2],
        blocked_ns: blocked(case),
        attempted,
        acked: (!core).then_some(acked),
        refused: (!core).then_some(refused),
        unknown: (!core).then_some(unknown),
        refused_causes: causes(ended),
        repeated: repeats.then(|| sum(|o| o.repeated)),
        deduplicated: (repeats && !spec.publish.mode.has_group_acks())
            .then(|| sum(|o| o.deduplicated)),
        expected: if core { None } else { expected },
        received: consumers.then(|| {
            ended
                .dumps
                .iter()
                .flat_map(|d| &d.received)
                .map(|r| r.deliveries)
                .sum()
        }),
        unique: consumers.then_some(balance.unique),
        payload_bytes: spec.workload.payload.size_bytes(),
        censored: sums(&ended.dumps, |d| &d.censored),
        clipped: sums(&ended.dumps, |d| &d.clipped),
        ledger,
        resources: resources(case, counts, case.plan.publishers == 0),
        reconnects: ended.dumps.iter().map(|d| d.cuts).sum(),
    }
}

fn reading(case: &Case<'_>) -> Reading {
    let (spec, ended) = (case.spec, case.ended);
    let consumer = &spec.consumer;
    let consumers = case.spec.workload.subscribers > 0;
    let shared = consumer.share == Share::App;
    let kept = match consumer.kind {
        _ if is_stub(spec) => false,
        _ if spec.publish.mode.is_core() => false,
        _ if !consumers => true,
        ConsumerKind::Ordered => true,
        ConsumerKind::Core => false,
        _ => match consumer.ack {
            Ack::Explicit | Ack::Double => true,
            Ack::All => !shared,
            Ack::None => false,
        },
    };
    let broken: Vec<String> = ended
        .dumps
        .iter()
        .flat_map(|d| &d.received)
        .filter_map(|r| r.broken.clone())
        .collect();
    Reading {
        promised: kept,
        ordered: consumer.kind == ConsumerKind::Ordered,
        foreign_expected: spec.stream.existing.is_some(),
        nothing_to_judge: ended.prefilled.is_empty()
            && ended.outcomes.iter().all(|o| o.acked().is_empty()),
        storage_only: !consumers,
        cut_short: match ended.drained {
            Drained::RanOut => Some("the drain ran out while deliveries still arrived".to_owned()),
            Drained::Interrupted => {
                Some("the run was interrupted before deliveries had caught up".to_owned())
            }
            Drained::CaughtUp | Drained::Stuck => None,
        },
        dropped_by_driver: ended.dumps.iter().map(|d| d.dropped).sum(),
        broken: broken.first().cloned(),
        unread: None,
        scanned: false,
        core: spec.publish.mode.is_core(),
        bucket: spec.stream.kind == StreamKind::Kv,
    }
}

fn status(case: &Case<'_>) -> (Status, Vec<String>) {
    let mut reasons = Vec::new();
    if case.interrupted {
        reasons.push("interrupted".to_owned());
    }
    if case.ended.window_ns.is_none() {
        reasons.push(match case.spec.workload.length {
            _ if case.plan.publishers == 0 => "nothing was received".to_owned(),
            Length::Messages(_) => {
                "no common window: a publisher was through before all had sent a tenth; use more messages".to_owned()
            }
            Length::Duration(_) => "the window never began".to_owned(),
        });
    }
    reasons.extend(conservation(case));
    reasons.extend(overrun(&case.ended.dumps));
    if reasons.is_empty() {
        (Status::Valid, reasons)
    } else {
        (Status::Invalid, reasons)
    }
}

/// What the client threw away because the driver did not take it in time was delivered late or
/// never, and no number of the target's.
fn overrun(dumps: &[Dump]) -> Option<String> {
    let dropped: u64 = dumps.iter().map(|d| d.dropped).sum();
    (dropped > 0).then(|| {
        format!(
            "driver overrun: its client dropped {dropped} messages that it did not take in time"
        )
    })
}

/// What was counted as it happened must be what the outcomes of all messages say.
fn conservation(case: &Case<'_>) -> Option<String> {
    let ended = case.ended;
    let counted = ended
        .dumps
        .iter()
        .fold(Counts::default(), |sum, d| sum.plus(d.totals));
    let of = |f: fn(&Outcome) -> u64| -> u64 { ended.outcomes.iter().map(f).sum() };
    let core = case.spec.publish.mode == PublishMode::Core;
    let acked = if core { 0 } else { of(|o| o.acked().len()) };
    [
        ("attempted", counted.attempted, of(|o| o.attempted)),
        ("acked", counted.acked, acked),
        ("refused", counted.refused, of(|o| o.refused.len())),
        ("unknown", counted.unknown, of(|o| o.unknown.len())),
    ]
    .into_iter()
    .find(|(_, counted, outcomes)| counted != outcomes)
    .map(|(what, counted, outcomes)| {
        format!("conservation broken: {counted} {what} by count and {outcomes} by outcome")
    })
}

/// Sent, acked and received inside the window.
fn window_counts(ended: &Ended) -> [u64; 3] {
    let Some((start, end)) = ended.window_ns else {
        return [0; 3];
    };
    let mut sums = [0.0; 3];
    for dump in &ended.dumps {
        if let Some(lines) = &dump.timelines {
            let parts: [fn(&Timelines) -> &Timeline; 3] =
                [|l| &l.sent, |l| &l.acked, |l| &l.received];
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum += part(lines).between(start, end);
            }
        } else {
            let window = dump.window;
            for (sum, count) in sums
                .iter_mut()
                .zip([window.sent, window.acked, window.received])
            {
                *sum += count as f64;
            }
        }
    }
    sums.map(|s| s.round() as u64)
}

/// Messages intended in the window. With message counts the window is known only now, so it is
/// counted from the times at which they were due.
fn offered(case: &Case<'_>) -> u64 {
    match (case.spec.workload.length, case.ended.window_ns) {
        (Length::Messages(_), Some((start, end))) => {
            let lines = case.ended.dumps.iter().filter_map(|d| d.timelines.as_ref());
            let due: f64 = lines.map(|l| l.intended.between(start, end)).sum();
            due.round() as u64
        }
        _ => case.ended.outcomes.iter().map(|o| o.offered).sum(),
    }
}

fn blocked(case: &Case<'_>) -> u64 {
    case.ended.outcomes.iter().map(|o| o.blocked_ns).sum()
}

fn causes(ended: &Ended) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (cause, count) in ended.outcomes.iter().flat_map(|o| &o.causes) {
        *all.entry(cause.clone()).or_default() += count;
    }
    all
}

fn sums(dumps: &[Dump], of: fn(&Dump) -> &BTreeMap<Metric, u64>) -> BTreeMap<Metric, u64> {
    let mut all = BTreeMap::new();
    for (metric, count) in dumps.iter().flat_map(of) {
        *all.entry(*metric).or_default() += count;
    }
    all
}

fn resources(case: &Case<'_>, counts: [u64; 3], drain: bool) -> Resources {
    let Some((start, end)) = case.ended.window_ns else {
        return Resources::default();
    };
    let core = case.spec.publish.mode == PublishMode::Core;
    let messages = if drain {
        counts[2]
    } else if core {
        counts[0]
    } else {
        counts[1]
    };
    let per_message =
        |cpu: Option<f64>| cpu.filter(|_| messages > 0).map(|ns| ns / messages as f64);
    let used = |of: &dyn Fn(&Sample) -> Option<u64>| -> Option<f64> {
        let line: Vec<(f64, f64)> = case
            .samples
            .iter()
            .filter_map(|s| Some((s.at_ns as f64, of(s)? as f64)))
            .collect();
        Some(at(&line, end as f64)? - at(&line, start as f64)?)
    };
    let servers = |s: &Sample| -> Option<u64> {
        (!s.servers.is_empty()).then(|| s.servers.iter().map(|v| v.cpu_ns).sum::<Option<u64>>())?
    };
    Resources {
        // The stub is a thread of the driver: their CPU time cannot be told apart here.
        driver_cpu_ns_per_msg: per_message(used(&|s| Some(s.driver_cpu_ns)))
            .filter(|_| !is_stub(case.spec)),
        server_cpu_ns_per_msg: per_message(used(&servers)),
        driver_rss_max_bytes: case
            .samples
            .iter()
            .map(|s| s.driver_rss_bytes)
            .filter(|bytes| *bytes > 0)
            .max(),
        server_rss_max_bytes: case
            .samples
            .iter()
            .filter_map(|s| {
                s.servers
                    .iter()
                    .map(|v| v.rss_bytes)
                    .sum::<Option<u64>>()
                    .filter(|b| *b > 0)
            })
            .max(),
        stored_bytes: case.stored_bytes,
        disk_bytes: case.disk_bytes,
    }
}

/// A value between the samples around a time; `None` where it lies outside of them.
fn at(line: &[(f64, f64)], time: f64) -> Option<f64> {
    let after = line.iter().position(|(t, _)| *t >= time)?;
    let (t1, v1) = line[after];
    if after == 0 {
        // The first sample is taken when the window begins, some microseconds late.
        return (t1 - time < 50e6).then_some(v1);
    }
    let (t0, v0) = line[after - 1];
    Some(if t1 > t0 {
        v0 + (v1 - v0) * (time - t0) / (t1 - t0)
    } else {
        v1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_dropped_is_the_drivers_failure() {
        let dump = |dropped| Dump {
            dropped,
            ..Dump::default()
        };
        assert_eq!(overrun(&[dump(0), dump(0)]), None);
        let why = overrun(&[dump(3), dump(4)]).expect("dropped");
        assert!(why.contains(" 7 messages"), "{why}");
    }

    #[test]
    fn cpu_is_read_between_samples_and_not_outside_of_them() {
        let line = [(0.0, 10.0), (1e9, 20.0)];
        assert_eq!(at(&line, 5e8), Some(15.0));
        assert_eq!(at(&line, 2e9), None);
        assert_eq!(at(&line, -1e6), Some(10.0));
        assert_eq!(at(&line, -1e9), None);
    }
}
