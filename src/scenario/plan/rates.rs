//! How many messages per second to plan with: what a fast machine could reach, and an ordinary one.

use super::super::model::{CellSpec, PublishMode, Target};
use super::{deliveries, payload, publishers};

/// Requests per second of a publisher for each that it has in flight, and of a server.
const REQUESTS_PER_S: f64 = 15_000.0;
const MOST_REQUESTS_PER_S: f64 = 100_000.0;
/// Direct gets per second of a subscriber that asks for one message after the other, and the most
/// messages it gets per second by asking for many at once.
const GETS_PER_S: f64 = 8_000.0;
const MOST_GETS_PER_S: f64 = 150_000.0;

/// An upper bound of what is published per second in closed loop: what has been seen of one
/// server on fast hardware, 250 k small messages/s or 1.5 GB/s, a third of it with replicas, eight
/// times as much where nothing is stored.
pub(super) fn fast(spec: &CellSpec) -> f64 {
    let bound = (1.5e9 / (payload(spec) + 100) as f64).min(250_000.0);
    let bound = if spec.stream.replicas > 1 {
        bound / 3.0
    } else {
        bound
    };
    let stub = matches!(spec.target, Target::Stub(_));
    let unstored = if stub || spec.publish.mode.is_core() {
        8.0
    } else {
        1.0
    };
    let bound = match spec.publish.mode {
        PublishMode::Sync => bound.min(20_000.0 * publishers(spec)),
        mode => bound * of_async(mode),
    };
    (bound * unstored)
        .min(acked_by_stub(spec))
        .min(answered(spec))
        * distinct(spec)
}

/// What an ordinary machine with driver and servers on it publishes per second: for the time of
/// trials that end after a number of messages.
pub(super) fn steady(spec: &CellSpec) -> f64 {
    let replicated = spec.stream.replicas > 1;
    let (per_s, bytes_per_s, sync_per_s) = if replicated {
        (10_000.0, 40e6, 300.0)
    } else {
        (50_000.0, 150e6, 5_000.0)
    };
    let fan_out = deliveries(spec, 1_000) as f64 / 1_000.0;
    let delivered = (200_000.0_f64).min(400e6 / (payload(spec) + 100) as f64) / fan_out.max(0.01);
    let bound = (bytes_per_s / (payload(spec) + 100) as f64)
        .min(per_s)
        .min(delivered)
        .min(acked_by_stub(spec))
        .min(answered(spec));
    let bound = match spec.publish.mode {
        PublishMode::Sync => bound.min(sync_per_s * publishers(spec)),
        mode => bound * of_async(mode),
    };
    bound * distinct(spec)
}

/// Messages per second that all subscribers get by asking for them.
pub(super) fn gets(spec: &CellSpec) -> f64 {
    let each = (GETS_PER_S * f64::from(spec.consumer.batch)).min(MOST_GETS_PER_S);
    let subscribers = f64::from(spec.workload.pods) * f64::from(spec.workload.subscribers);
    (each * subscribers).min(MOST_GETS_PER_S)
}

/// What a mode with acks for many messages reaches of mode async.
fn of_async(mode: PublishMode) -> f64 {
    match mode {
        PublishMode::AtomicBatch => 0.5,
        PublishMode::FastIngest => 1.5,
        _ => 1.0,
    }
}

/// The share of messages that are not sent once more.
fn distinct(spec: &CellSpec) -> f64 {
    1.0 / (1.0 + spec.publish.duplicate_ratio)
}

/// What a stub that takes its time can ack per second: as much as may be in flight in each delay.
fn acked_by_stub(spec: &CellSpec) -> f64 {
    match &spec.target {
        Target::Stub(stub) if !stub.delay.is_zero() && spec.publish.mode != PublishMode::Core => {
            publishers(spec) * f64::from(spec.publish.window) / stub.delay.as_secs_f64()
        }
        _ => f64::INFINITY,
    }
}

/// Requests that responders answer per second.
fn answered(spec: &CellSpec) -> f64 {
    match spec.publish.mode {
        PublishMode::Request => {
            (REQUESTS_PER_S * publishers(spec) * f64::from(spec.publish.window))
                .min(MOST_REQUESTS_PER_S)
        }
        _ => f64::INFINITY,
    }
}
