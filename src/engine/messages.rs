//! All that coordinator and workers say to each other: one enum each way.
//!
//! A worker lives for one trial. `Prepare` is answered by `Ready`; `Go` names the common start;
//! from then on a `Frame` comes each second. `LoadDone` says that every message of this worker's
//! publishers has its outcome, `Unique` how far its subscribers have come, `Tell` is answered by
//! `Told`. `Dump` ends it and is answered by `Dumped`. `Failed` may come at any time and ends it too.
//!
//! Times are nanoseconds since the Unix epoch.

use std::collections::BTreeMap;

use crate::load::publisher::Outcome;
use crate::load::recorder::{Cut, Timelines, WindowCounts};
use crate::load::subscriber::Received;
use crate::measure::histogram::Metric;
use crate::nats::endpoint::Endpoint;
use crate::record::event::{Counts, Health};
use crate::scenario::assignment::Assignment;

/// Coordinator to worker.
#[derive(Debug)]
pub enum ToWorker {
    /// Connect, subscribe, build payloads, store the prefill, prove the connection.
    Prepare {
        /// What to do.
        assignment: Box<Assignment>,
        /// Where.
        endpoint: Box<Endpoint>,
    },
    /// Begin at `start_ns`.
    Go {
        /// Common start.
        start_ns: u64,
        /// The window, when it is known (start, end).
        window_ns: Option<(u64, u64)>,
    },
    /// With message counts: the window began.
    OpenWindow {
        /// When.
        at_ns: u64,
    },
    /// With message counts: the window ended.
    CloseWindow {
        /// When.
        at_ns: u64,
    },
    /// Send no new messages.
    StopLoad,
    /// Say what arrived so far.
    Tell,
    /// Stop reading and report.
    Dump,
}

/// Worker to coordinator.
#[derive(Debug)]
pub enum FromWorker {
    /// Connected, subscribed, proven.
    Ready {
        /// Messages stored before the barrier.
        prefilled: u64,
    },
    /// Load began.
    Started {
        /// When.
        at_ns: u64,
    },
    /// What happened in an interval.
    Frame(Box<Frame>),
    /// With message counts: all publishers have sent a tenth.
    TenthSent {
        /// When the last of them had.
        at_ns: u64,
    },
    /// With message counts: the first publisher is through.
    FirstDone {
        /// When.
        at_ns: u64,
    },
    /// Every message of the publishers has its outcome.
    LoadDone {
        /// One per publisher.
        outcomes: Vec<Outcome>,
    },
    /// Distinct messages received so far, summed over subscriptions.
    Unique {
        /// How many.
        unique: u64,
    },
    /// What arrived so far.
    Told {
        /// One per subscriber.
        received: Vec<Received>,
    },
    /// The last word.
    Dumped(Box<Dump>),
    /// This worker cannot go on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What happened in an interval.
#[derive(Debug)]
pub struct Frame {
    /// Number, from 0; the last one may be short.
    pub number: u64,
    /// End.
    pub end_ns: u64,
    /// Length.
    pub length_ns: u64,
    /// What was recorded.
    pub cut: Cut,
    /// How the worker fared.
    pub health: Health,
}

/// What a worker knows at the end.
#[derive(Debug, Default)]
pub struct Dump {
    /// One per subscriber.
    pub received: Vec<Received>,
    /// Counts inside the window, when it was known from the start.
    pub window: WindowCounts,
    /// Counts over time, when it was not.
    pub timelines: Option<Timelines>,
    /// First and last receipt.
    pub receipts_ns: Option<(u64, u64)>,
    /// Samples that stand for a longer time.
    pub censored: BTreeMap<Metric, u64>,
    /// Negative times.
    pub clipped: BTreeMap<Metric, u64>,
    /// Everything counted as it happened, for the balance with the outcomes.
    pub totals: Counts,
    /// How often connections were cut.
    pub cuts: u64,
    /// Messages the client itself dropped.
    pub dropped: u64,
    /// Distinct messages received, summed over subscriptions.
    pub unique: u64,
}
