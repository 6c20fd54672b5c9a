//! Little's law in closed loop, N = X R: whether the driver kept in flight what it was to keep.
//! Where it did not, the rate is partly its own and not the target's. Called for each row of the
//! record.

use crate::record::document::{AckOf, Little, Status, TrialRecord};
use crate::record::event::{CellRef, TrialResult};

/// Below this share of its window in flight the rate is partly the driver's.
///
/// Between an ack that arrives and the message that takes its place the driver works, and that is
/// never nothing. Measured on two CPUs that servers, driver and other work shared (release build,
/// trials of 1 s to 3 s, file and memory, 128 B to 10 KiB, one and three servers): sync 0.984 to
/// 0.999; async with windows of 10 to 4,000 of 1 to 6 publishers 0.84 to 0.99, one in 60 trials
/// 0.77; by message count, with windows of 0.12 s and more, 0.77 to 0.996. A driver built without
/// optimisation keeps 0.94 to 0.998 in sync and 0.48 to 0.86 in async, and there it is what limits.
const LEAST: f64 = 0.7;
/// Above this one of the numbers is wrong: the publishers cannot have had more in flight. Measured
/// were up to 0.999; the messages at the ends of the window, which are in one number and not in
/// the other, may add the share of [`ENDS`].
const MOST: f64 = 1.1;
/// Where the mean service time is a larger share of the window, its ends decide.
const ENDS: f64 = 0.05;
/// Publishes without an ack, and repeated ones, take their place in the window too. Of more than this
/// share of them the law, which is told of acks, says nothing.
const UNACKED: f64 = 0.01;

/// N, X R and their ratio for the trial whose rates and latencies `record` holds. `None` in open
/// loop, without acks, and where the law says nothing: acks for groups, whose protocols hold messages
/// back, a mean service time above 5 % of the window, or more than 1 % of the publishes refused,
/// unknown or repeated.
pub fn little(cell: &CellRef, result: &TrialResult, record: &TrialRecord) -> Option<Little> {
    let groups = cell.ack == Some(AckOf::Group);
    if !cell.closed_loop || !cell.has_publishers || cell.core || groups {
        return None;
    }
    let in_flight = cell.in_flight.filter(|n| *n > 0)? as f64;
    let rate_per_s = record.publish.acked_per_s.filter(|rate| *rate > 0.0)?;
    let service_ns = record.latency.service.as_ref()?.mean_ns? as f64;
    let unacked = result.refused?.saturating_add(result.unknown?);
    let others = unacked.saturating_add(result.repeated.unwrap_or(0)) as f64;
    if service_ns > ENDS * result.window_ns as f64 || others > UNACKED * result.attempted as f64 {
        return None;
    }
    let rate_x_service = rate_per_s * service_ns / 1e9;
    Some(Little {
        in_flight,
        rate_x_service,
        ratio: rate_x_service / in_flight,
    })
}

/// Why the trial is not plainly valid, by Little's law.
pub fn judge(little: Little, reconnects: u64) -> Option<(Status, String)> {
    let percent = (little.ratio * 100.0).round();
    let text = if little.ratio < LEAST {
        let cause = if reconnects > 0 {
            format!("its connections broke {reconnects} times")
        } else {
            "its CPU was full, its socket took no bytes, or a connection was down".to_owned()
        };
        format!(
            "the driver kept {percent} % of its window in flight: the rate is partly its own ({cause})"
        )
    } else if little.ratio > MOST {
        format!(
            "more was in flight by Little's law than the window allows: {percent} % of {}; rate or \
             service time is wrong",
            little.in_flight
        )
    } else {
        return None;
    };
    Some((Status::Degraded, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::trial::trial_record;
    use crate::measure::histogram::{Metric, new_histogram, record};
    use crate::record::fixture;
    use crate::units::NS_PER_S;

    const MS: u64 = 1_000_000;

    /// A trial of 10 s with 1,000 acks a second, each after `service_ns`; 10 were in flight.
    fn row(service_ns: u64, cell: &CellRef, change: impl Fn(&mut TrialResult)) -> TrialRecord {
        let mut result = fixture::result(0, 10_000);
        result.window_ns = 10 * NS_PER_S;
        change(&mut result);
        let manifest = fixture::manifest(vec![cell.clone()], &[]);
        let mut run = fixture::run_of(manifest, vec![(0, "a", result)]);
        let mut histogram = new_histogram();
        record(&mut histogram, service_ns);
        run.trials[0].histograms.insert(Metric::Service, histogram);
        trial_record(&run.trials[0], cell, true)
    }

    fn closed() -> CellRef {
        CellRef {
            in_flight: Some(10),
            ..fixture::closed("a", &[])
        }
    }

    #[test]
    fn rate_times_service_is_what_was_in_flight() {
        let got = row(10 * MS, &closed(), |_| ());
        let little = got.little.expect("closed loop with acks");
        assert!((little.in_flight - 10.0).abs() < 1e-9);
        assert!((little.rate_x_service - 10.0).abs() < 0.01, "{little:?}");
        assert!((little.ratio - 1.0).abs() < 1e-3);
        assert_eq!((got.status, got.reasons.len()), (Status::Valid, 0));
    }

    #[test]
    fn acks_for_groups_and_repeats_leave_the_law_nothing_to_say() {
        let groups = CellRef {
            ack: Some(AckOf::Group),
            ..closed()
        };
        let got = row(5 * MS, &groups, |_| ());
        assert_eq!((got.little, got.status), (None, Status::Valid));
        assert_eq!(got.publish.ack, Some(AckOf::Group));
        let repeated = |count| row(5 * MS, &closed(), |r| r.repeated = Some(count));
        let got = repeated(201);
        assert_eq!((got.little, got.publish.repeated), (None, Some(201)));
        assert!(repeated(200).little.is_some(), "1 % of 20,000");
    }

    #[test]
    fn a_window_that_was_not_kept_full_degrades_with_what_may_be_the_cause() {
        let degraded = |service_ns, reconnects| {
            let got = row(service_ns, &closed(), |r| r.reconnects = reconnects);
            assert!(got.status.usable());
            assert_eq!(got.status == Status::Degraded, !got.reasons.is_empty());
            got.reasons.into_iter().find(|r| r.contains("window"))
        };
        assert_eq!(degraded(71 * MS / 10, 0), None);
        assert_eq!(
            degraded(63 * MS / 10, 0).as_deref(),
            Some(
                "the driver kept 63 % of its window in flight: the rate is partly its own \
                 (its CPU was full, its socket took no bytes, or a connection was down)"
            )
        );
        assert!(
            degraded(63 * MS / 10, 2)
                .is_some_and(|r| r.ends_with("(its connections broke 2 times)"))
        );
        assert_eq!(degraded(109 * MS / 10, 0), None);
        assert_eq!(
            degraded(12 * MS, 0).as_deref(),
            Some(
                "more was in flight by Little's law than the window allows: 120 % of 10; rate or \
                 service time is wrong"
            )
        );
    }

    #[test]
    fn where_the_law_says_nothing_there_is_none() {
        let open = fixture::open("a", &[], 1_000.0);
        let core = CellRef {
            core: true,
            in_flight: None,
            ..closed()
        };
        let drain = CellRef {
            has_publishers: false,
            ..closed()
        };
        let imported = CellRef {
            in_flight: None,
            ..closed()
        };
        for cell in [open, core, drain, imported] {
            assert_eq!(row(10 * MS, &cell, |_| ()).little, None, "{cell:?}");
        }
        // 10 s, of which half a second is 5 %.
        assert!(row(499 * MS, &closed(), |_| ()).little.is_some());
        assert_eq!(row(501 * MS, &closed(), |_| ()).little, None);
        assert_eq!(row(MS, &closed(), |r| r.window_acked = 0).little, None);
        // Of 20,000 publishes.
        let refused = |n| {
            let change = move |r: &mut TrialResult| {
                (r.acked, r.refused) = (r.acked.map(|a| a - n), Some(n));
            };
            row(10 * MS, &closed(), change).little.is_some()
        };
        assert_eq!((refused(200), refused(201)), (true, false));
    }
}
