//! Known answers, met and missed, and rates near a ceiling.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::record::calibration::tests::passed;
use crate::scenario::model::{CellSpec, ClientKind};
use crate::scenario::program::{Program, Segment};
use crate::scenario::{self, Overrides, Source};

const MS: u64 = 1_000_000;

#[test]
fn a_delay_passes_within_a_fifth_of_a_millisecond_and_two_percent() {
    for (delay_ns, p50_ns, want) in [
        (0, Some(200_000), Outcome::Pass),
        (0, Some(200_001), Outcome::Fail),
        (20 * MS, Some(20 * MS + 600_000), Outcome::Pass),
        (20 * MS, Some(20 * MS + 600_001), Outcome::Fail),
        // Answered too early is a miss as well.
        (20 * MS, Some(19 * MS), Outcome::Fail),
        (20 * MS, None, Outcome::Inconclusive),
    ] {
        let check = DelayCheck::of(delay_ns, [p50_ns, None, Some(u64::MAX)]);
        assert_eq!(check.result, want, "{check:?}");
    }
}

#[test]
fn the_stall_must_be_seen_by_one_loop_and_missed_by_the_other() {
    let of = |open, closed| StallCheck::of(200 * MS, 1_000 * MS, open, closed);
    let expected = of([None, None], None);
    assert_eq!(expected.expected_p90_ns, 100 * MS);
    assert_eq!(expected.expected_p99_ns, 190 * MS);
    for (p90_ms, open_ms, closed_ms, want) in [
        (Some(100), Some(190), Some(1), Outcome::Pass),
        (Some(86), Some(162), Some(16), Outcome::Pass),
        (Some(114), Some(218), Some(1), Outcome::Pass),
        (Some(84), Some(190), Some(1), Outcome::Fail),
        (Some(116), Some(190), Some(1), Outcome::Fail),
        (Some(100), Some(161), Some(1), Outcome::Fail),
        (Some(100), Some(219), Some(1), Outcome::Fail),
        (Some(100), Some(190), Some(19), Outcome::Fail),
        (Some(100), Some(190), None, Outcome::Inconclusive),
        (Some(100), None, Some(1), Outcome::Inconclusive),
        (None, Some(190), Some(1), Outcome::Inconclusive),
        (Some(100), Some(90), None, Outcome::Fail),
    ] {
        let ns = |ms: Option<u64>| ms.map(|ms| ms * MS);
        let check = of([ns(p90_ms), ns(open_ms)], ns(closed_ms));
        assert_eq!(check.result, want, "{check:?}");
        let blind = check.in_words().contains("never saw");
        let small = open_ms.zip(closed_ms).is_some_and(|(o, c)| c * 10 < o);
        assert_eq!(blind, small, "{}", check.in_words());
    }
}

#[test]
fn a_miss_outweighs_what_could_not_be_measured() {
    let sound = StallCheck::of(
        200 * MS,
        1_000 * MS,
        [Some(101 * MS), Some(189 * MS)],
        Some(MS),
    );
    let delay = |p50_ns| DelayCheck::of(MS, [p50_ns; 3]);
    assert_eq!(judge(&[delay(Some(MS))], &sound), (Outcome::Pass, vec![]));
    let (result, reasons) = judge(&[delay(None)], &sound);
    assert_eq!((result, reasons.len()), (Outcome::Inconclusive, 1));
    let (result, reasons) = judge(&[delay(Some(9 * MS)), delay(None)], &sound);
    assert_eq!((result, reasons.len()), (Outcome::Fail, 2));
    assert!(
        reasons[0].contains("of 1ms was") && reasons[0].contains("9.00 ms"),
        "{reasons:?}"
    );
}

fn spec() -> CellSpec {
    let scenario = scenario::load(&Source::quickstart(), &Overrides::default());
    scenario.expect("the built-in one is sound").cells[0]
        .spec
        .clone()
}

fn cell(id: &str, pods: u32, rate: Option<f64>) -> Cell {
    let mut spec = spec();
    spec.workload.pods = pods;
    spec.publish.mode = PublishMode::Async;
    spec.workload.rate = match rate {
        Some(per_s) => Rate::Open(Arc::new(Program::constant(per_s))),
        None => Rate::Max,
    };
    Cell {
        id: id.into(),
        factors: BTreeMap::new(),
        spec,
    }
}

#[test]
fn rates_near_and_above_the_ceiling_are_warned_of_and_no_others() {
    let mut ramp = cell("ramp", 1, None);
    let segments = vec![Segment {
        length: Duration::from_secs(10),
        from_per_s: 1_000.0,
        to_per_s: 90_000.0,
    }];
    let program = Program::new(segments, "ramp".into()).expect("sound");
    ramp.spec.workload.rate = Rate::Open(Arc::new(program));
    let mut core = cell("core", 1, Some(500_000.0));
    core.spec.publish.mode = PublishMode::Core;
    let mut threads = cell("threads", 1, Some(71_000.0));
    threads.spec.workload.publishers = 2;
    threads.spec.workload.threads = 2;
    // Its second event loop has no publisher.
    let mut idle = cell("idle-thread", 1, Some(71_000.0));
    idle.spec.workload.subscribers = 1;
    idle.spec.workload.threads = 2;
    let mut both = cell("pods-and-threads", 2, Some(110_000.0));
    both.spec.workload.publishers = 2;
    both.spec.workload.threads = 2;
    let mut foreign = cell("foreign", 1, Some(50_000.0));
    foreign.spec.workload.client = ClientKind::AsyncNats;
    let cells = [
        threads,
        idle,
        both,
        foreign,
        cell("calm", 1, Some(70_000.0)),
        cell("near", 1, Some(71_000.0)),
        cell("spread", 2, Some(71_000.0)),
        cell("above", 3, Some(200_000.0)),
        cell("closed", 1, None),
        ramp,
        core,
    ];
    insta::assert_snapshot!(passed().warnings(&cells).join("\n"));
}

/// What is wrong with a calibration.
type Change = fn(&mut Calibration);

#[test]
fn a_cell_whose_client_cannot_be_relied_on_is_told_so_and_compared_with_nothing() {
    let mut foreign = cell("foreign", 1, Some(1_000_000.0));
    foreign.spec.workload.client = ClientKind::AsyncNats;
    let mut closed = cell("closed", 1, None);
    closed.spec.workload.client = ClientKind::AsyncNats;
    let cells = [cell("own", 1, Some(1_000.0)), foreign, closed];
    let changes: [(Change, &str); 3] = [
        (|c| c.clients.truncate(1), "another client"),
        (|c| c.clients[1].result = Outcome::Fail, "missed a known"),
        (|c| c.clients[1].ceilings.clear(), "no ceiling"),
    ];
    for (change, why) in changes {
        let mut calibration = passed();
        change(&mut calibration);
        let warnings = calibration.warnings(&cells);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(why), "{warnings:?}");
        assert!(warnings[0].starts_with("cell `foreign`"), "{warnings:?}");
        assert!(warnings[0].contains("jsbench calibrate"), "{warnings:?}");
    }
}

#[test]
fn a_calibration_is_as_good_as_its_worst_client() {
    let of = |results: &[Outcome]| {
        let mut clients = passed().clients;
        clients.truncate(results.len());
        for (client, result) in clients.iter_mut().zip(results) {
            client.result = *result;
        }
        worst(&clients)
    };
    let (pass, fail, unknown) = (Outcome::Pass, Outcome::Fail, Outcome::Inconclusive);
    assert_eq!(of(&[pass, pass]), pass);
    assert_eq!(of(&[pass, unknown]), unknown);
    assert_eq!(of(&[fail, unknown]), fail);
    assert_eq!(of(&[]), unknown);
}
