//! One trial's row of the record: what the engine counted, made into rates and latencies, and
//! judged by the driver's own lateness. What was not measured stays null.

use std::collections::BTreeMap;

use super::{little, steady, validity};
use crate::measure::histogram::{LatencySummary, Metric};
use crate::record::document::{
    DeliverRecord, LatencyRecord, Ledger, Placement, PublishRecord, Resources, Status, Steady,
    TrialRecord,
};
use crate::record::event::{CellRef, TrialResult};
use crate::record::fold::{TrialEnd, TrialLog};
use crate::units::NS_PER_S;

/// Below this share of the offered messages the target could not keep up.
const SUSTAINED: f64 = 0.99;

/// The row of `log`, a trial of `cell`.
pub fn trial_record(log: &TrialLog, cell: &CellRef, shared_host: bool) -> TrialRecord {
    match &log.end {
        TrialEnd::Finished(result) => finished(log, cell, result),
        TrialEnd::Failed(reason) => unfinished(log, shared_host, reason),
        TrialEnd::Open => unfinished(log, shared_host, "the run ended before this trial did"),
    }
}

fn unfinished(log: &TrialLog, shared_host: bool, reason: &str) -> TrialRecord {
    TrialRecord {
        trial: log.trial,
        block: log.block,
        status: Status::Failed,
        reasons: vec![reason.to_owned()],
        saturated: None,
        shared_host,
        window_ns: None,
        streams: log.streams.clone(),
        aa_of: None,
        config: log.config.clone(),
        servers: log.servers.clone(),
        offered_per_s: None,
        blocked_ns: None,
        publish: PublishRecord::default(),
        deliver: DeliverRecord::default(),
        latency: LatencyRecord::default(),
        hops: Vec::new(),
        ledger: Ledger::default(),
        resources: Resources::default(),
        placement: Placement {
            stream_leaders: log.stream_leaders.clone(),
        },
        little: None,
        steady: Steady::default(),
        faults: Vec::new(),
    }
}

fn finished(log: &TrialLog, cell: &CellRef, result: &TrialResult) -> TrialRecord {
    let acks = cell.has_publishers && !cell.core;
    let open_loop = cell.has_publishers && !cell.closed_loop;
    let offered = result.offered.filter(|_| open_loop);
    let mut record = TrialRecord {
        status: result.status,
        reasons: result.reasons.clone(),
        shared_host: result.shared_host,
        window_ns: Some(result.window_ns),
        saturated: offered.filter(|_| acks).map(|offered| {
            let due = offered as f64 - in_flight_more(log, cell);
            (result.window_acked as f64) < SUSTAINED * due
        }),
        offered_per_s: offered.and_then(|n| per_s(n, result.window_ns)),
        blocked_ns: cell.has_publishers.then_some(result.blocked_ns),
        publish: publish_record(cell, result),
        deliver: deliver_record(cell, result),
        latency: latency_record(log, cell, result),
        ledger: result.ledger.clone(),
        resources: result.resources.clone(),
        ..unfinished(log, result.shared_host, "")
    };
    record.steady = steady::steady(log, cell, record.saturated == Some(true));
    record.little = little::little(cell, result, &record);
    let in_flight = record
        .little
        .and_then(|l| little::judge(l, result.reconnects));
    // No fault strikes yet; once one does, what it cut is not the driver's failure.
    let fault_on = !record.faults.is_empty();
    let saturated = record.saturated == Some(true);
    let reasons = validity::judge(log, cell, result, saturated, fault_on);
    for (status, reason) in reasons.into_iter().chain(in_flight) {
        record.status = record.status.max(status);
        record.reasons.push(reason);
    }
    record
}

/// Messages that are in flight at the end of the window and were not at its start because the rate
/// rose meanwhile (Little's law): their acks come later however well the target keeps up.
fn in_flight_more(log: &TrialLog, cell: &CellRef) -> f64 {
    let service = log.histograms.get(&Metric::Service);
    let mean_s = service.map_or(0.0, |h| h.mean() / NS_PER_S as f64);
    (cell.rate_change_per_s * mean_s).max(0.0)
}

/// Events per second of a window; `None` for an empty window.
fn per_s(count: u64, window_ns: u64) -> Option<f64> {
    (window_ns > 0).then(|| count as f64 * NS_PER_S as f64 / window_ns as f64)
}

fn publish_record(cell: &CellRef, result: &TrialResult) -> PublishRecord {
    if !cell.has_publishers {
        // Nobody publishes: the counts are known to be zero, and there is no rate.
        return PublishRecord {
            attempted: Some(result.attempted),
            acked: result.acked,
            refused: result.refused,
            unknown: result.unknown,
            ..PublishRecord::default()
        };
    }
    let sent_per_s = per_s(result.window_sent, result.window_ns);
    if cell.core {
        return PublishRecord {
            attempted: Some(result.attempted),
            sent_per_s,
            ..PublishRecord::default()
        };
    }
    let acked_per_s = per_s(result.window_acked, result.window_ns);
    PublishRecord {
        attempted: Some(result.attempted),
        acked: result.acked,
        refused: result.refused,
        unknown: result.unknown,
        sent_per_s,
        acked_per_s,
        payload_bytes_per_s: acked_per_s.map(|rate| rate * result.payload_bytes as f64),
        ack: cell.ack,
        repeated: result.repeated,
        deduplicated: result.deduplicated,
    }
}

fn deliver_record(cell: &CellRef, result: &TrialResult) -> DeliverRecord {
    if !cell.has_consumers {
        return DeliverRecord::default();
    }
    DeliverRecord {
        expected: result.expected,
        received: result.received,
        unique: result.unique,
        per_s: per_s(result.window_received, result.window_ns),
    }
}

fn latency_record(log: &TrialLog, cell: &CellRef, result: &TrialResult) -> LatencyRecord {
    let count = |of: &BTreeMap<Metric, u64>, metric| of.get(&metric).copied().unwrap_or(0);
    let summary = |metric, measured: bool| {
        let (censored, clipped) = (
            count(&result.censored, metric),
            count(&result.clipped, metric),
        );
        measured.then(|| match log.histograms.get(&metric) {
            Some(histogram) => LatencySummary::of(histogram, censored, clipped),
            None => LatencySummary {
                censored,
                clipped,
                ..LatencySummary::default()
            },
        })
    };
    let open_loop = cell.has_publishers && !cell.closed_loop;
    let acks = cell.has_publishers && !cell.core;
    // In a drain: what is not on record was not to be measured.
    let drained = |metric| !cell.has_publishers && log.histograms.contains_key(&metric);
    LatencyRecord {
        lag: summary(Metric::Lag, open_loop),
        service: summary(Metric::Service, acks || drained(Metric::Service)),
        response: summary(Metric::Response, open_loop && acks),
        e2e: summary(
            Metric::E2e,
            cell.has_consumers && (cell.has_publishers || drained(Metric::E2e)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::histogram::{new_histogram, record};
    use crate::record::document::ServerInfo;
    use crate::record::event::RunEvent;
    use crate::record::fixture;

    /// A trial of 2,000 messages in open loop that all had this lag and this response time.
    fn late(lag_ns: u64, response_ns: u64, change: impl Fn(&mut TrialResult)) -> TrialRecord {
        let cell = fixture::open("a", &[], 2_000.0);
        row(&cell, lag_ns, response_ns, |result| {
            result.offered = Some(2_000);
            change(result);
        })
    }

    fn row(
        cell: &CellRef,
        lag_ns: u64,
        response_ns: u64,
        change: impl Fn(&mut TrialResult),
    ) -> TrialRecord {
        let manifest = fixture::manifest(vec![cell.clone()], &[]);
        let mut result = fixture::result(0, 2_000);
        change(&mut result);
        let mut run = fixture::run_of(manifest, vec![(0, &cell.id, result)]);
        for metric in Metric::ALL {
            let mut histogram = new_histogram();
            let ns = if metric == Metric::Lag {
                lag_ns
            } else {
                response_ns
            };
            (0..2_000).for_each(|_| record(&mut histogram, ns));
            run.trials[0].histograms.insert(metric, histogram);
        }
        trial_record(&run.trials[0], cell, true)
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn the_worse_status_stays() {
        let got = late(2 * MS, 4 * MS, |r| {
            r.status = Status::Invalid;
            r.reasons = vec!["a worker was lost".to_owned()];
        });
        assert_eq!(got.status, Status::Invalid);
        assert_eq!(got.reasons.len(), 2);
    }

    #[test]
    fn open_loop_has_all_rates_and_times() {
        let got = late(5_000, MS, |r| {
            r.window_ns = 2 * NS_PER_S;
            r.censored.insert(Metric::Response, 4);
            r.clipped.insert(Metric::E2e, 5);
        });
        assert_eq!(got.offered_per_s, Some(1_000.0));
        assert_eq!(got.saturated, Some(false));
        assert_eq!(got.publish.acked_per_s, Some(1_000.0));
        assert_eq!(got.publish.payload_bytes_per_s, Some(100_000.0));
        assert_eq!(got.deliver.per_s, Some(1_000.0));
        assert_eq!(got.latency.response.as_ref().map(|r| r.censored), Some(4));
        assert_eq!(got.latency.e2e.as_ref().map(|e| e.clipped), Some(5));
        let short = |acked| late(5_000, MS, |r| r.window_acked = acked).saturated;
        assert_eq!((short(1_980), short(1_979)), (Some(false), Some(true)));
    }

    #[test]
    fn closed_loop_has_no_schedule_to_be_late_for() {
        // 2,000 acks a second of 1 ms each.
        let cell = CellRef {
            in_flight: Some(2),
            ..fixture::closed("a", &[])
        };
        let got = row(&cell, 60 * MS, MS, |r| {
            r.offered = Some(1);
        });
        assert_eq!((got.status, &got.reasons[..]), (Status::Valid, &[][..]));
        assert_eq!((got.offered_per_s, got.saturated), (None, None));
        assert!(got.latency.lag.is_none() && got.latency.response.is_none());
        assert!(got.latency.service.is_some() && got.latency.e2e.is_some());
    }

    #[test]
    fn core_publishing_has_no_acks_and_a_drain_no_publishes() {
        let core = CellRef {
            core: true,
            has_consumers: false,
            ..fixture::open("a", &[], 2_000.0)
        };
        let got = row(&core, 1_000, MS, |r| {
            (r.acked, r.refused, r.unknown) = (None, None, None);
            r.offered = Some(2_000);
        });
        assert_eq!(
            got.publish,
            PublishRecord {
                attempted: Some(4_000),
                sent_per_s: Some(2_000.0),
                ..PublishRecord::default()
            }
        );
        assert_eq!(got.deliver, DeliverRecord::default());
        assert_eq!((got.offered_per_s, got.saturated), (Some(2_000.0), None));
        let times = &got.latency;
        assert!(times.service.is_none() && times.response.is_none() && times.e2e.is_none());
        assert!(times.lag.is_some());

        let drain = CellRef {
            has_publishers: false,
            ..fixture::closed("a", &[])
        };
        let got = row(&drain, 1_000, MS, |_| ());
        assert_eq!(
            (got.publish.sent_per_s, got.publish.acked_per_s),
            (None, None)
        );
        assert!(got.publish.attempted.is_some());
        assert_eq!((got.blocked_ns, got.deliver.per_s), (None, Some(2_000.0)));
    }

    #[test]
    fn a_trial_without_an_end_has_no_numbers() {
        let mut events = fixture::small_run();
        events.truncate(events.len() - 3);
        let run = fixture::fold(&events).expect("it began");
        let cell = &run.manifest.cells[0];
        let got = trial_record(&run.trials[1], cell, true);
        assert_eq!(got.status, Status::Failed);
        assert_eq!(got.reasons, ["the run ended before this trial did"]);
        assert_eq!(got.latency, LatencyRecord::default());
        assert_eq!(got.publish, PublishRecord::default());
        assert_eq!(got.servers[0], run.manifest.servers[0]);
        assert_ne!(got.servers[0], ServerInfo::default());

        events.push(RunEvent::TrialFailed {
            trial: 1,
            reason: "server n1 died".to_owned(),
        });
        let run = fixture::fold(&events).expect("it began");
        let got = trial_record(&run.trials[1], cell, true);
        assert_eq!(got.reasons, ["server n1 died"]);
    }
}
