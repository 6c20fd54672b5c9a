//! `jsbench calibrate` as a user sees it, and what `run` and `check` make of what it stored. No
//! absolute speed: a machine that is busy with other tests may miss answers, and then must say so.

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{SMALL, jsbench, json, run, scenario, signal, wait_for};
use jsbench::analysis::calibration::{judge, worst};
use jsbench::record::calibration::{Calibration, ClientCalibration, DelayCheck, StallCheck};
use jsbench::record::document::Outcome;

#[test]
fn a_calibration_is_judged_by_its_numbers_stored_and_used() {
    let dir = scenario(SMALL);
    let output = jsbench(dir.path())
        .args(["calibrate", "--json"])
        .output()
        .expect("it starts");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let measured: Calibration = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("one document: {e}\n{err}"));
    let stored = dir.path().join("data/jsbench/calibration.json");
    let of_file: Calibration = serde_json::from_value(json(&stored)).expect("the same document");
    assert_eq!(of_file, measured);
    assert_eq!(measured.schema, "jsbench.calibration/v2");
    assert_eq!(measured.optimised, !cfg!(debug_assertions));
    assert!(measured.id.len() == 16 && measured.payload_bytes == 1024);
    let clients: Vec<&str> = measured
        .clients
        .iter()
        .map(|of| of.client.as_str())
        .collect();
    assert_eq!(clients, ["wire", "async-nats"]);
    for of in &measured.clients {
        for part in [
            "ceiling of 1 thread",
            "a delay of 20ms",
            "lag at 1k/s, spin",
            "stall, open loop",
        ] {
            // Without a ceiling no rate is known to be below it, and who spins needs a CPU.
            let of_one = of.ceilings.iter().find(|c| c.threads == 1);
            let fits = of_one.is_some_and(|c| 0.7 * c.per_s >= 1_000.0) && measured.host.cpus > 1;
            let told = format!("{}: {part}", of.client);
            let skipped = part.starts_with("lag") && !fits;
            assert_eq!(err.lines().any(|l| l == told), !skipped, "{told}: {err}");
        }
        agree(of);
        relations(of);
    }
    assert_eq!(measured.result, worst(&measured.clients));
    let want = match measured.result {
        Outcome::Pass => 0,
        Outcome::Fail => 10,
        Outcome::Inconclusive => 13,
    };
    assert_eq!(output.status.code(), Some(want), "{err}");
    used(dir.path(), &stored, measured);
}

/// Results and reasons follow from the numbers.
fn agree(measured: &ClientCalibration) {
    for check in &measured.delays {
        let service_ns = [
            check.service_p50_ns,
            check.service_p90_ns,
            check.service_p99_ns,
        ];
        assert_eq!(*check, DelayCheck::of(check.delay_ns, service_ns));
    }
    let stall = &measured.stall;
    let again = StallCheck::of(
        stall.stall_ns,
        stall.every_ns,
        [stall.response_p90_ns, stall.response_p99_ns],
        stall.closed_loop_p99_ns,
    );
    assert_eq!(*stall, again);
    let (result, reasons) = judge(&measured.delays, stall);
    assert!(reasons.iter().all(|r| measured.reasons.contains(r)));
    let invalid = measured
        .reasons
        .iter()
        .any(|r| r.contains("invalid once more"));
    let want = match result {
        Outcome::Pass if invalid => Outcome::Inconclusive,
        result => result,
    };
    assert_eq!(measured.result, want, "{:?}", measured.reasons);
}

/// What holds however slow the machine is.
fn relations(measured: &ClientCalibration) {
    assert_eq!(measured.delays.len(), 4);
    for check in &measured.delays {
        // The first ack may be earlier by what the histogram rounds.
        let least_ns = check.delay_ns - check.delay_ns / 100;
        assert!(
            check.service_p50_ns.is_none_or(|ns| ns >= least_ns),
            "{check:?}"
        );
        assert!(
            check.service_p50_ns <= check.service_p90_ns || check.service_p90_ns.is_none(),
            "{check:?}"
        );
    }
    for ceiling in &measured.ceilings {
        assert!(ceiling.per_s > 100.0, "{ceiling:?}");
    }
    for lag in &measured.lags {
        // That at 1k/s is known from the delays, whatever the ceiling.
        let calm = lag.rate_per_s.total_cmp(&1_000.0).is_eq() && lag.pacing == "sleep";
        assert!(
            calm || lag.rate_per_s <= 0.7 * measured.ceilings[0].per_s,
            "{lag:?}"
        );
        assert!(lag.p50_ns <= lag.p99_ns || lag.p99_ns.is_none(), "{lag:?}");
    }
    let stall = &measured.stall;
    assert_eq!(stall.expected_p90_ns, 100_000_000);
    assert_eq!(stall.expected_p99_ns, 190_000_000);
    if let (Outcome::Pass, Some(open_ns)) = (stall.result, stall.response_p99_ns) {
        assert!((160_000_000..=220_000_000).contains(&open_ns), "{stall:?}");
        if let Some(closed_ns) = stall.closed_loop_p99_ns {
            assert!(closed_ns < open_ns / 10, "{stall:?}");
        }
    }
}

/// A calibration that passed is in the manifest and warns of rates above the ceiling of the cell's
/// client; another one is said to be not used.
fn used(dir: &Path, stored: &Path, mut calibration: Calibration) {
    let (_, err) = run(jsbench(dir).args(["check", "s.toml"]), 0);
    let unused = err.contains("is not used") && err.contains("jsbench calibrate");
    let none = calibration
        .clients
        .iter()
        .all(|of| of.unreliable().is_some());
    assert_eq!(unused, none, "{err}");
    // Both passed, and the wire client is twice as fast as the other one.
    let Some(wire) = calibration
        .clients
        .iter()
        .find(|of| !of.ceilings.is_empty())
    else {
        return;
    };
    let mut wire = wire.clone();
    wire.client = "wire".into();
    wire.result = Outcome::Pass;
    let mut other = wire.clone();
    other.client = "async-nats".into();
    for ceiling in &mut other.ceilings {
        ceiling.per_s /= 2.0;
    }
    calibration.clients = vec![wire, other];
    calibration.result = Outcome::Pass;
    calibration.store(stored).expect("writable");
    let first = calibration.clients[0].ceilings[0].clone();
    let ceiling_per_s = first.per_s;
    let between = format!("workload.rate={}/s", (0.5 * ceiling_per_s).round());
    for (client, warned) in [("wire", false), ("async-nats", true)] {
        let client = format!("workload.client={client}");
        let mut command = jsbench(dir);
        command.args(["check", "s.toml", "--set", &between, "--set", &client]);
        let (out, _) = run(&mut command, 0);
        assert_eq!(
            out.contains("ceiling of this driver"),
            warned,
            "{client}: {out}"
        );
    }
    let rate = format!(
        "workload.rate={}/s",
        (2.0 * ceiling_per_s).max(50_000.0).round()
    );
    let above = |what: &[&str]| {
        let mut command = jsbench(dir);
        command.args(what).args(["s.toml", "--set", &rate]);
        let (out, err) = run(&mut command, 0);
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        (words(&out), words(&err))
    };
    let (checked, _) = above(&["check"]);
    let (told, err) = above(&["run", "--out", "r", "--no-fail"]);
    let manifest = json(&dir.join("r/manifest.json"));
    assert_eq!(manifest["calibration"]["id"], calibration.id);
    // Threads with CPU to spare may reach more than they did.
    let means = if first.at_least {
        "more than was seen of this driver"
    } else {
        "this driver cannot send it"
    };
    for (text, prefix) in [
        (&checked, "Warning cell `base`: workload.rate"),
        (&err, "warning: cell `base`: workload.rate"),
        (&told, "note: cell `base`: workload.rate"),
    ] {
        assert!(text.contains(prefix), "{prefix}: {text}");
        assert!(text.contains(means), "{text}");
        assert!(text.contains("lower the rate"), "{text}");
    }
    let (_, err) = run(jsbench(dir).args(["check", "s.toml"]), 0);
    assert!(err.is_empty(), "a closed loop is not warned of: {err}");
}

#[test]
fn an_interrupted_calibration_stores_nothing() {
    let dir = scenario(SMALL);
    let told = dir.path().join("told");
    let child = jsbench(dir.path())
        .arg("calibrate")
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&told).expect("writable"))
        .spawn()
        .expect("it starts");
    wait_for("the first part", || {
        let text = std::fs::read_to_string(&told).ok()?;
        text.contains("wire: ceiling of 1 thread").then_some(())
    });
    signal(child.id(), "INT");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.is_empty());
    assert!(!dir.path().join("data").exists());
}

#[test]
fn a_damaged_calibration_is_a_warning_and_no_failure() {
    let dir = scenario(SMALL);
    let stored = dir.path().join("data/jsbench/calibration.json");
    std::fs::create_dir_all(stored.parent().expect("a folder")).expect("writable");
    std::fs::write(&stored, "not JSON").expect("writable");
    let (_, err) = run(jsbench(dir.path()).args(["check", "s.toml"]), 0);
    let shown = stored.display().to_string();
    assert!(
        err.contains(&shown) && err.contains("jsbench calibrate"),
        "{err}"
    );
}

#[test]
fn one_of_another_version_is_asked_to_be_made_anew() {
    let dir = scenario(SMALL);
    let stored = dir.path().join("data/jsbench/calibration.json");
    std::fs::create_dir_all(stored.parent().expect("a folder")).expect("writable");
    let old = r#"{"schema": "jsbench.calibration/v1", "ceilings": []}"#;
    std::fs::write(&stored, old).expect("writable");
    let (_, err) = run(jsbench(dir.path()).args(["check", "s.toml"]), 0);
    for part in [
        "calibration/v1",
        "calibration/v2",
        "run `jsbench calibrate`",
    ] {
        assert!(err.contains(part), "{err}");
    }
}

#[test]
fn a_client_that_does_not_exist_is_a_usage_error() {
    let dir = scenario(SMALL);
    let (_, err) = run(
        jsbench(dir.path()).args(["calibrate", "--client", "nats"]),
        2,
    );
    assert!(err.contains("wire") && err.contains("async-nats"), "{err}");
}
