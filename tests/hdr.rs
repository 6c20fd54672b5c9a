//! Histograms of a run, read by an implementation that shares no code with ours: PyPI
//! `hdrhistogram`, which `scripts/test` installs below `target/`.

mod common;

use std::path::Path;
use std::process::Command;

use common::{SMALL, check, jsbench, json, run, scenario, u};
use serde_json::Value;

#[test]
fn the_interval_log_read_by_an_independent_reader_has_the_quantiles_of_the_record() {
    let dir = scenario(SMALL);
    run(
        jsbench(dir.path()).args([
            "run",
            "s.toml",
            "--out",
            "r",
            "--no-fail",
            "--set",
            "workload.rate=3k/s",
            "--set",
            "workload.duration=3s",
            "--trials",
            "2",
        ]),
        0,
    );
    let packages = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../python");
    assert!(
        packages.join("hdrh").is_dir(),
        "the test needs PyPI hdrhistogram in target/python: run scripts/test, which installs it"
    );
    let output = Command::new("python3")
        .env("PYTHONPATH", packages)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_hlog.py"))
        .arg(dir.path().join("r/histograms.hlog"))
        .output()
        .expect("python3 starts");
    let read: Value = serde_json::from_str(&check(&output, 0).0).expect("JSON");
    let record = json(&dir.path().join("r/record.json"));
    let mut compared = 0;
    for cell in record["cells"].as_array().expect("cells") {
        for trial in cell["trials"].as_array().expect("trials") {
            for metric in ["lag", "service", "response", "e2e"] {
                let tag = format!(
                    "{}/{}/{metric}",
                    cell["id"].as_str().expect("an id"),
                    trial["trial"]
                );
                let ours = &trial["latency"][metric];
                // All that was due in 3 s at 3k/s. Ranks of other counts are rounded differently.
                assert_eq!(u(&ours["count"]), 9_000, "{tag}");
                for key in ["count", "p50_ns", "p90_ns", "p99_ns"] {
                    assert_eq!(u(&ours[key]), u(&read[&tag][key]), "{tag} {key}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 2 * 4 * 4);
    assert_eq!(
        read.as_object().map(serde_json::Map::len),
        Some(8),
        "no other tags"
    );
}
