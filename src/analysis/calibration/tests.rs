//! Known answers, met and missed, and rates near a ceiling.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::record::calibration::tests::passed;
use crate::scenario::model::CellSpec;
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
        let check = DelayCheck::of(delay_ns, p50_ns);
        assert_eq!(check.result, want, "{check:?}");
    }
}

#[test]
fn the_stall_must_be_seen_by_one_loop_and_missed_by_the_other() {
    let of = |open, closed| StallCheck::of(200 * MS, 5_000 * MS, open, closed);
    assert_eq!(of(None, None).expected_p99_ns, 150 * MS);
    for (open_ms, closed_ms, want) in [
        (Some(150), Some(1), Outcome::Pass),
        (Some(128), Some(12), Outcome::Pass),
        (Some(127), Some(1), Outcome::Fail),
        (Some(173), Some(1), Outcome::Fail),
        (Some(150), Some(15), Outcome::Fail),
        (Some(150), None, Outcome::Inconclusive),
        (None, Some(1), Outcome::Inconclusive),
        (Some(90), None, Outcome::Fail),
    ] {
        let check = of(
            open_ms.map(|ms: u64| ms * MS),
            closed_ms.map(|ms: u64| ms * MS),
        );
        assert_eq!(check.result, want, "{check:?}");
        let blind = check.in_words().contains("never saw");
        let small = open_ms.zip(closed_ms).is_some_and(|(o, c)| c * 10 < o);
        assert_eq!(blind, small, "{}", check.in_words());
    }
}

#[test]
fn a_miss_outweighs_what_could_not_be_measured() {
    let sound = StallCheck::of(200 * MS, 5_000 * MS, Some(149 * MS), Some(MS));
    let delay = |p50_ns| DelayCheck::of(MS, p50_ns);
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
    let cells = [
        cell("calm", 1, Some(70_000.0)),
        cell("near", 1, Some(71_000.0)),
        cell("spread", 2, Some(71_000.0)),
        cell("above", 3, Some(200_000.0)),
        cell("closed", 1, None),
        ramp,
        core,
    ];
    insta::assert_snapshot!(passed().warnings(&cells).join("\n"));
    let mut unknown = passed();
    unknown.ceilings.clear();
    assert!(unknown.warnings(&cells).is_empty(), "no ceiling, no claim");
}
