//! Calibrations as they are kept and used.

use super::*;
use crate::record::event::Manifest;
use crate::record::fixture;

const MS: u64 = 1_000_000;

/// One that passed, of the machine [`here`].
pub(crate) fn passed() -> Calibration {
    Calibration {
        schema: CALIBRATION_SCHEMA.into(),
        id: "00000000c0ffee00".into(),
        measured_at: "2026-11-22T08:00:00Z".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        optimised: OPTIMISED,
        host: here(),
        payload_bytes: 1_024,
        clients: vec![
            client("wire", 100_000.0, 150_000.0),
            client("async-nats", 60_000.0, 90_000.0),
        ],
        result: Outcome::Pass,
    }
}

/// A client with these ceilings of one thread and of two.
fn client(name: &str, one_per_s: f64, two_per_s: f64) -> ClientCalibration {
    ClientCalibration {
        client: name.into(),
        ceilings: [(1, one_per_s), (2, two_per_s)]
            .map(|(threads, per_s)| Ceiling {
                threads,
                per_s,
                at_least: false,
                cpu_ns_per_msg: None,
            })
            .to_vec(),
        lags: Vec::new(),
        delays: vec![DelayCheck::of(5 * MS, [Some(5 * MS); 3])],
        stall: StallCheck::of(
            200 * MS,
            1_000 * MS,
            [Some(100 * MS), Some(189 * MS)],
            Some(MS),
        ),
        result: Outcome::Pass,
        reasons: Vec::new(),
    }
}

fn here() -> Host {
    Host {
        os: "Linux 6.1.0".into(),
        arch: "x86_64".into(),
        cpu: Some("a".into()),
        cpus: 2,
        memory: None,
    }
}

#[test]
fn only_a_pass_of_this_machine_and_program_is_relied_on() {
    let good = passed();
    let ask = |c: &Calibration| c.unreliable(&here(), &good.version, OPTIMISED);
    assert_eq!(ask(&good), None);
    let changes: [fn(&mut Calibration); 9] = [
        |c| c.host.cpu = Some("b".into()),
        |c| c.host.cpus = 4,
        |c| c.host.os = "Linux 6.2.0".into(),
        |c| c.version = "0.0.1".into(),
        |c| c.optimised = !OPTIMISED,
        |c| {
            for of in &mut c.clients {
                of.result = Outcome::Fail;
            }
        },
        |c| {
            for of in &mut c.clients {
                of.result = Outcome::Inconclusive;
            }
        },
        |c| c.clients.iter_mut().for_each(|of| of.ceilings.clear()),
        |c| c.clients.clear(),
    ];
    for change in changes {
        let mut other = good.clone();
        change(&mut other);
        assert!(ask(&other).is_some_and(|why| why.len() > 10), "{other:?}");
    }
    let mut one = good.clone();
    one.clients[1].result = Outcome::Fail;
    one.result = Outcome::Fail;
    assert_eq!(ask(&one), None, "the other one passed");
}

#[test]
fn a_manifest_with_a_calibration_of_another_version_can_be_read() {
    let mut manifest = fixture::manifest(Vec::new(), &[]);
    manifest.calibration = Some(passed());
    let written = serde_json::to_value(&manifest).expect("JSON");
    let read = |v| serde_json::from_value::<Manifest>(v);
    assert_eq!(read(written.clone()).expect("it was written"), manifest);
    let mut old = written.clone();
    old["calibration"] = serde_json::json!({"schema": "jsbench.calibration/v1", "ceilings": []});
    assert_eq!(read(old).expect("readable").calibration, None);
    let mut damaged = written;
    damaged["calibration"]["clients"] = serde_json::json!("none");
    assert!(read(damaged).is_err());
}

#[test]
fn a_stored_one_is_read_again_and_what_is_none_is_a_warning_with_the_cure() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("share/jsbench/calibration.json");
    assert_eq!(Calibration::relied_on(&path, &here()), (None, None));
    let mut stored = passed();
    stored.store(&path).expect("written");
    assert_eq!(
        Calibration::relied_on(&path, &here()),
        (Some(stored.clone()), None)
    );
    for of in &mut stored.clients {
        of.result = Outcome::Fail;
    }
    stored.store(&path).expect("written over");
    let (none, why) = Calibration::relied_on(&path, &here());
    assert!(none.is_none() && why.is_some_and(|w| w.contains("missed a known answer")));
    let entries = std::fs::read_dir(path.parent().expect("a folder")).expect("readable");
    assert_eq!(entries.count(), 1, "nothing is left beside it");

    let foreign = serde_json::to_string(&stored).expect("JSON");
    for text in [
        String::new(),
        "{\"schema\":\"else\"}".to_owned(),
        foreign.replace("calibration/v2", "calibration/v9"),
        "{\"schema\":\"jsbench.calibration/v1\",\"ceilings\":[]}".to_owned(),
    ] {
        std::fs::write(&path, &text).expect("writable");
        let (none, why) = Calibration::relied_on(&path, &here());
        let why = why.expect("a warning");
        assert!(none.is_none());
        let shown = path.display().to_string();
        assert!(
            why.contains(&shown) && why.contains("jsbench calibrate"),
            "{why}"
        );
        // One of another version is written over, what is none stands in the way.
        let version = text.contains("jsbench.calibration/");
        assert_eq!(why.contains("make it anew"), version, "{why}");
        assert_eq!(why.contains("remove it"), !version, "{why}");
    }
    std::fs::remove_file(&path).expect("it is there");
    std::fs::create_dir(&path).expect("free again");
    let (none, why) = Calibration::relied_on(&path, &here());
    assert!(none.is_none() && why.is_some_and(|w| w.contains("cannot be read")));
}
