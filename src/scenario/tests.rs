//! Scenarios from text to cells, good and bad, as `load` gives them.

mod modes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::model::{
    Absence, Ack, Arrivals, ConsumerKind, Length, Op, Pacing, Payload, Quantity, Rate, Scenario,
    Share, Stall, Stub, SyncInterval, Target,
};
use super::plan::{Room, plan};
use super::program::Program;
use super::{Diagnostics, ExternalTarget, Overrides, Source, load};

fn source(text: &str) -> Source {
    Source {
        path: Some(PathBuf::from("scenario.toml")),
        text: text.to_owned(),
    }
}

fn constant(per_s: f64) -> Rate {
    Rate::Open(Arc::new(Program::constant(per_s)))
}

fn sets(sets: &[&str]) -> Overrides {
    Overrides {
        set: sets.iter().map(|s| (*s).to_owned()).collect(),
        ..Overrides::default()
    }
}

fn good_with(text: &str, overrides: &Overrides) -> Scenario {
    load(&source(text), overrides).unwrap_or_else(|e| panic!("{e}"))
}

fn good(text: &str) -> Scenario {
    good_with(&format!("name = \"t\"\n{text}"), &Overrides::default())
}

fn bad_with(text: &str, overrides: &Overrides) -> Diagnostics {
    match load(&source(text), overrides) {
        Ok(scenario) => panic!("valid:\n{}", scenario.resolved_toml),
        Err(diagnostics) => diagnostics,
    }
}

fn bad(text: &str) -> Diagnostics {
    bad_with(text, &Overrides::default())
}

fn ids(scenario: &Scenario) -> Vec<&str> {
    scenario.cells.iter().map(|c| c.id.as_str()).collect()
}

const MATRIX: &str = r#"
name = "m"

[workload]
duration = "3s"

[matrix]
workload.pods = [3, 6]
stream.layout = ["shared", "per-app"]
workload.rate = ["max", "5k/s"]

[[exclude]]
stream.layout = "per-app"
workload.pods = 6

[profile.quick]
workload.duration = "1s"
trials.repeat = 1
matrix.workload.pods = [1]

[profile.counted]
workload.messages = 100
workload.rate = "1k/s"
"#;

#[test]
fn everything_has_a_default() {
    let scenario = good("");
    assert_eq!(ids(&scenario), ["base"]);
    assert_eq!(scenario.repeat, 5);
    let spec = &scenario.cells[0].spec;
    let Target::Embedded(embedded) = &spec.target else {
        panic!("{:?}", spec.target)
    };
    assert_eq!(embedded.servers, 1);
    assert_eq!(
        embedded.sync_interval,
        SyncInterval::Every(Duration::from_mins(2))
    );
    assert_eq!(spec.consumer.kind, ConsumerKind::Pull);
    assert_eq!(spec.consumer.ack, Ack::Explicit);
    assert_eq!(spec.publish.window, 1_000);
    assert_eq!(
        spec.workload.length,
        Length::Duration(Duration::from_secs(30))
    );
    assert_eq!(spec.workload.rate, Rate::Max);
}

#[test]
fn defaults_of_a_consumer_follow_its_kind() {
    let of = |text: &str| good(text).cells[0].spec.consumer.clone();
    assert_eq!(of("[consumer]\nkind = \"ordered\"\n").ack, Ack::None);
    assert_eq!(of("[consumer]\nkind = \"push-queue\"\n").share, Share::App);
    assert!(of("[consumer]\nkind = \"push\"\n").flow_control);
    assert_eq!(of("[workload]\nsubscribers = 0\n").kind, ConsumerKind::None);
    assert_eq!(of("[publish]\nmode = \"core\"\n").kind, ConsumerKind::Core);
    let nobody = good("[consumer]\nkind = \"none\"\n");
    assert_eq!(nobody.cells[0].spec.workload.subscribers, 0);
}

#[test]
fn the_first_axis_is_the_slowest_and_ids_follow_the_factors_alone() {
    let scenario = good_with(MATRIX, &Overrides::default());
    assert_eq!(
        ids(&scenario),
        [
            "shared-pods-3-max",
            "shared-pods-3-rate-5k-s",
            "per-app-pods-3-max",
            "per-app-pods-3-rate-5k-s",
            "shared-pods-6-max",
            "shared-pods-6-rate-5k-s",
        ]
    );
    let axes: Vec<&str> = scenario
        .axes
        .iter()
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(axes, ["workload.pods", "stream.layout", "workload.rate"]);
    let cell = &scenario.cells[5];
    assert_eq!(cell.factors["workload.rate"], "5k/s");
    assert_eq!(cell.spec.workload.pods, 6);
    assert_eq!(cell.spec.workload.apps, 6);
    assert_eq!(cell.spec.workload.rate, constant(5_000.0));
}

#[test]
fn values_that_are_not_words_are_named_in_the_id() {
    let scenario = good(
        "[matrix]\nworkload.payload = [\"10KiB\", { kind = \"random\", size = \"1KiB\", compressible = 0.5 }]\n\
         publish.message_id = [true]\npublish.window = [100]\n",
    );
    assert_eq!(
        ids(&scenario),
        [
            "message-id-true-window-100-payload-10kib",
            "message-id-true-window-100-payload-random-1kib-0-5",
        ]
    );
    assert_eq!(
        scenario.cells[1].factors["workload.payload"],
        "{ kind = \"random\", size = \"1KiB\", compressible = 0.5 }"
    );
    assert!(matches!(
        scenario.cells[1].spec.workload.payload,
        Payload::Random { size_bytes: 1_024, compressible } if (compressible - 0.5).abs() < 1e-9
    ));
}

#[test]
fn a_profile_is_laid_over_the_file_and_sets_over_both() {
    let quick = Overrides {
        profile: Some("quick".to_owned()),
        ..sets(&["workload.duration=2s", "stream.layout=shared"])
    };
    let scenario = good_with(MATRIX, &quick);
    // The profile has pods of its own, and setting the layout removes that axis.
    assert_eq!(ids(&scenario), ["pods-1-max", "pods-1-rate-5k-s"]);
    assert_eq!(scenario.repeat, 1);
    assert_eq!(
        scenario.cells[0].spec.workload.length,
        Length::Duration(Duration::from_secs(2))
    );
}

#[test]
fn one_of_duration_and_messages_displaces_the_other() {
    let counted = Overrides {
        profile: Some("counted".to_owned()),
        ..Overrides::default()
    };
    let scenario = good_with(MATRIX, &counted);
    assert_eq!(scenario.axes.len(), 2, "the axis of rates is removed");
    assert!(
        scenario
            .cells
            .iter()
            .all(|c| c.spec.workload.length == Length::Messages(100)
                && c.spec.workload.rate == constant(1_000.0))
    );
    let axis = good("[workload]\nmessages = 10\n[matrix]\nworkload.duration = [\"1s\", \"2s\"]\n");
    assert_eq!(
        axis.cells[1].spec.workload.length,
        Length::Duration(Duration::from_secs(2))
    );
    let search = "name = \"t\"\n[search]\n";
    assert!(load(&source(search), &sets(&["workload.rate=5k/s"])).is_ok());
}

#[test]
fn a_kind_displaces_the_keys_of_the_other_kind_below_it() {
    let text = "name = \"t\"\n[target]\nservers = 3\nsync_interval = \"always\"\n\
                [consumer]\nkind = \"pull\"\nack = \"explicit\"\nbatch = 10\n\
                [publish]\nwindow = 100\n[workload.payload]\nkind = \"random\"\nsize = \"1KiB\"\n";
    let scenario = good_with(
        text,
        &sets(&[
            "target.kind=external",
            "target.urls=[\"nats://127.0.0.1:4222\"]",
            "consumer.kind=ordered",
            "publish.mode=sync",
            "workload.payload=2KiB",
        ]),
    );
    let spec = &scenario.cells[0].spec;
    assert!(matches!(&spec.target, Target::External(e) if e.urls == ["nats://127.0.0.1:4222"]));
    assert_eq!(spec.consumer.ack, Ack::None);
    assert_eq!(spec.publish.window, 1);
    assert_eq!(spec.workload.payload.size_bytes(), 2_048);
    // In one layer the same is a contradiction.
    let text = "name = \"t\"\n[publish]\nmode = \"sync\"\nwindow = 100\n";
    assert_eq!(bad(text).len(), 1);
}

#[test]
fn lists_are_replaced_whole_and_an_axis_may_hold_lists() {
    let scenario = good_with(MATRIX, &sets(&["matrix.workload.pods=[9]", "exclude=[]"]));
    assert_eq!(scenario.cells.len(), 4);
    let text = "name = \"t\"\n[target]\nkind = \"external\"\n[matrix]\n\
                target.urls = [[\"nats://127.0.0.1:1\"], [\"nats://u:geheim@127.0.0.1:2\"]]\n";
    let scenario = good_with(text, &Overrides::default());
    assert_eq!(scenario.cells.len(), 2);
    let all = format!(
        "{:?}{}{:?}",
        scenario.cells, scenario.resolved_toml, scenario.axes
    );
    assert!(!all.contains("geheim"), "{all}");
}

#[test]
fn target_may_be_a_plain_word() {
    let scenario = good_with(
        "name = \"t\"\ntarget = \"embedded\"\n",
        &sets(&["target.servers=3"]),
    );
    assert!(matches!(&scenario.cells[0].spec.target, Target::Embedded(e) if e.servers == 3));
}

#[test]
fn a_filter_keeps_the_cells_it_names() {
    let only = |filter: &str| Overrides {
        filter: vec![filter.to_owned()],
        ..Overrides::default()
    };
    let scenario = good_with(MATRIX, &only("stream.layout=sh* pods=3"));
    assert_eq!(
        ids(&scenario),
        ["shared-pods-3-max", "shared-pods-3-rate-5k-s"]
    );
    let again = good_with(&scenario.resolved_toml, &Overrides::default());
    assert_eq!(ids(&again), ids(&scenario));
    let errors = bad_with(MATRIX, &only("layuot=shared pods"));
    assert_eq!(errors.len(), 2);
    insta::assert_snapshot!(
        "filter_without_a_cell",
        bad_with(MATRIX, &only("rate=9k/s")).render(false)
    );
}

#[test]
fn the_command_line_makes_the_target_external_and_checks_the_embedded_keys() {
    let overrides = Overrides {
        external: Some(ExternalTarget {
            urls: vec!["nats://me:geheim@localhost:4222".to_owned()],
            context: None,
        }),
        ..Overrides::default()
    };
    let text = "name = \"t\"\n[target]\nservers = 3\n[stream]\nreplicas = 3\n";
    let scenario = good_with(text, &overrides);
    let Target::External(external) = &scenario.cells[0].spec.target else {
        panic!("embedded")
    };
    assert_eq!(external.urls, ["nats://localhost:4222"]);
    assert_eq!(external.auth.user.as_deref(), Some("me"));
    assert!(!scenario.resolved_toml.contains("geheim"));
    let errors = bad_with(&text.replace("servers = 3", "servers = 2"), &overrides);
    assert_eq!(errors.len(), 1, "{errors}");
    let axis = format!("{text}[matrix]\ntarget.sync_interval = [\"2m\", \"always\"]\n");
    assert_eq!(bad_with(&axis, &overrides).len(), 1);
}

#[test]
fn an_existing_stream_is_used_through_one_subject() {
    let text = "name = \"t\"\n[target]\nkind = \"external\"\nurls = [\"nats://127.0.0.1:4222\"]\n\
                [stream]\nexisting = \"ORDERS\"\n[publish]\nsubject = \"orders.new\"\n[workload]\npods = 3\n";
    let scenario = good_with(text, &Overrides::default());
    let spec = &scenario.cells[0].spec;
    assert_eq!(spec.stream.existing.as_deref(), Some("ORDERS"));
    assert_eq!(spec.workload.apps, 1);
    let axis = format!("{text}[matrix]\nstream.storage = [\"file\", \"memory\"]\n");
    assert_eq!(bad_with(&axis, &Overrides::default()).len(), 1);
    assert_eq!(
        good_with(&axis, &sets(&["stream.storage=file"]))
            .cells
            .len(),
        1
    );
}

#[test]
fn expectations_are_read_with_their_units_in_the_order_written() {
    let scenario = good(
        "[expect]\nresponse.p99 = \"<= 50ms\"\nlost = \"== 0\"\nacked_per_s = \">= 5k/s\"\n\
         deliver.per_s = \"> 1_000\"\nabsences = [\"ttl\", \"limits\"]\n",
    );
    let spec = &scenario.cells[0].spec;
    let read: Vec<_> = spec
        .expect
        .iter()
        .map(|e| (e.text.as_str(), e.quantity, e.op, e.limit))
        .collect();
    assert_eq!(
        read,
        [
            ("response.p99 <= 50ms", Quantity::LatencyNs, Op::Le, 50e6),
            ("lost == 0", Quantity::Count, Op::Eq, 0.0),
            ("acked_per_s >= 5k/s", Quantity::RatePerS, Op::Ge, 5_000.0),
            ("deliver.per_s > 1_000", Quantity::RatePerS, Op::Gt, 1_000.0),
        ]
    );
    assert_eq!(spec.absences, [Absence::Limits, Absence::Ttl]);
}

#[test]
fn the_resolved_text_gives_the_same_cells_again() {
    let quick = Overrides {
        profile: Some("quick".to_owned()),
        trials: Some(7),
        ..sets(&["stream.max_bytes=1GiB", "expect.response.p99=<= 5ms"])
    };
    for (source, overrides) in [
        (source(MATRIX), quick),
        (source(MATRIX), Overrides::default()),
        (Source::quickstart(), Overrides::default()),
    ] {
        let first = load(&source, &overrides).unwrap_or_else(|e| panic!("{e}"));
        let text = Source {
            text: first.resolved_toml.clone(),
            ..source
        };
        let second = load(&text, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(format!("{:?}", first.cells), format!("{:?}", second.cells));
        assert_eq!(first.axes, second.axes);
        assert_eq!(first.repeat, second.repeat);
        assert_eq!(first.resolved_toml, second.resolved_toml);
    }
}

#[test]
fn secrets_do_not_reach_the_resolved_text() {
    let text = "name = \"t\"\n[target]\nkind = \"external\"\nurls = [\"nats://127.0.0.1:4222\"]\n\
                user = \"me\"\npassword = \"geheim\"\n[profile.p]\ntarget.token = \"geheim\"\n";
    let scenario = good_with(text, &Overrides::default());
    assert!(!scenario.resolved_toml.contains("geheim"));
    assert!(scenario.resolved_toml.contains("password = \"<redacted>\""));
    assert!(!format!("{:?}", scenario.cells).contains("geheim"));
}

#[test]
fn a_payload_file_is_found_beside_the_scenario() {
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::write(dir.path().join("sample.json"), [b'x'; 100]).expect("written");
    let mut from =
        source("name = \"t\"\n[workload]\npayload = { kind = \"file\", path = \"sample.json\" }\n");
    from.path = Some(dir.path().join("scenario.toml"));
    let scenario = load(&from, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
    let payload = &scenario.cells[0].spec.workload.payload;
    assert_eq!(payload.size_bytes(), 100);
    assert!(matches!(payload, Payload::File { path, .. } if path.is_file()));
}

/// A scenario file in a directory of its own, with `rates.csv` beside it.
fn beside(csv: &str, text: &str) -> (tempfile::TempDir, Source) {
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::write(dir.path().join("rates.csv"), csv).expect("written");
    let source = Source {
        path: Some(dir.path().join("scenario.toml")),
        text: text.to_owned(),
    };
    (dir, source)
}

fn program(scenario: &Scenario, cell: usize) -> &Program {
    match &scenario.cells[cell].spec.workload.rate {
        Rate::Open(program) => program,
        Rate::Max => panic!("closed loop"),
    }
}

#[test]
fn a_program_brings_its_length_unless_another_is_written() {
    let rate = "[workload]\nrate = \" 1k/s for 10s, ramp 1k/s to 5k/s over 20s \"\n";
    let scenario = good(rate);
    let (spec, program) = (&scenario.cells[0].spec, program(&scenario, 0));
    assert_eq!(
        spec.workload.length,
        Length::Duration(Duration::from_secs(30))
    );
    assert_eq!(program.text(), "1k/s for 10s, ramp 1k/s to 5k/s over 20s");
    assert!((program.count(30_000_000_000) - 70_000.0).abs() < 1e-6);
    for (more, length) in [
        (
            "duration = \"4s\"\n",
            Length::Duration(Duration::from_secs(4)),
        ),
        ("messages = 7\n", Length::Messages(7)),
    ] {
        let scenario = good(&format!("{rate}{more}"));
        assert_eq!(scenario.cells[0].spec.workload.length, length);
    }
    let pause = good("[workload]\nrate = \"0/s for 5s, 100/s for 5s\"\n");
    assert_eq!(
        pause.cells[0].spec.workload.length,
        Length::Duration(Duration::from_secs(10))
    );
}

#[test]
fn rates_are_replayed_from_a_file_beside_the_scenario() {
    let (_dir, source) = beside(
        "t_s,host,rate_per_s\n1700000000,a,100\n1700000010,a,0\n1700000020,a,300\n",
        "name = \"t\"\n[workload]\nrate = \"replay rates.csv\"\n",
    );
    let scenario = load(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
    let program = program(&scenario, 0);
    assert_eq!(program.text(), "replay rates.csv");
    assert_eq!(program.length(), Duration::from_secs(30));
    assert!((program.count(30_000_000_000) - 4_000.0).abs() < 1e-6);
    assert_eq!(
        scenario.cells[0].spec.workload.length,
        Length::Duration(Duration::from_secs(30))
    );
}

const RATES: &str = r#"
name = "r"

[matrix]
workload.rate = ["5k/s", "1k/s for 10s, 5k/s for 10s", "ramp 0/s to 20k/s over 1m", "replay rates.csv"]
workload.arrivals = ["uniform", "poisson"]
"#;

#[test]
fn programs_and_arrivals_are_axes() {
    let (_dir, source) = beside("t_s,rate_per_s\n0,1\n1,2\n", RATES);
    let scenario = load(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        ids(&scenario),
        [
            "uniform-rate-5k-s",
            "poisson-rate-5k-s",
            "uniform-rate-1k-s-for-10s-5k-s-for-10s",
            "poisson-rate-1k-s-for-10s-5k-s-for-10s",
            "uniform-rate-ramp-0-s-to-20k-s-over-1m",
            "poisson-rate-ramp-0-s-to-20k-s-over-1m",
            "uniform-rate-replay-rates-csv",
            "poisson-rate-replay-rates-csv",
        ]
    );
    let lengths: Vec<_> = scenario.cells[4..]
        .iter()
        .map(|c| c.spec.workload.length)
        .collect();
    let seconds = |s| Length::Duration(Duration::from_secs(s));
    assert_eq!(lengths, [seconds(60), seconds(60), seconds(2), seconds(2)]);
    assert_eq!(scenario.cells[3].spec.workload.arrivals, Arrivals::Poisson);
    let (Rate::Open(one), Rate::Open(other)) = (
        &scenario.cells[6].spec.workload.rate,
        &scenario.cells[7].spec.workload.rate,
    ) else {
        panic!("replays")
    };
    assert!(Arc::ptr_eq(one, other), "the file is read once");

    let filtered = Overrides {
        filter: vec!["rate=1k/s?for* arrivals=poisson".to_owned()],
        ..Overrides::default()
    };
    for overrides in [Overrides::default(), filtered] {
        let first = load(&source, &overrides).unwrap_or_else(|e| panic!("{e}"));
        let again = Source {
            text: first.resolved_toml.clone(),
            ..source.clone()
        };
        let second = load(&again, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(format!("{:?}", first.cells), format!("{:?}", second.cells));
        assert_eq!(first.resolved_toml, second.resolved_toml);
    }
}

#[test]
fn a_long_program_has_a_legal_id() {
    let steps: Vec<String> = (1..40).map(|n| format!("{n}k/s for {n}s")).collect();
    let scenario = good(&format!(
        "[matrix]\nworkload.rate = [\"{0}\", \"{0}, 1/s for 1s\"]\n",
        steps.join(", ")
    ));
    let ids = ids(&scenario);
    assert_eq!(ids.len(), 2);
    for id in ids {
        assert!(id.len() <= 64 && id.starts_with("rate-1k-s-for-1s-2k-s-for-2s-"));
        assert!(
            id.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        );
    }
}

#[test]
fn a_closed_loop_displaces_the_arrivals_below_it() {
    let text = "name = \"t\"\n[workload]\nrate = \"5k/s\"\narrivals = \"poisson\"\n";
    let closed = good_with(text, &sets(&["workload.rate=max"]));
    assert_eq!(closed.cells[0].spec.workload.arrivals, Arrivals::Uniform);
    let axis = good_with(text, &sets(&["matrix.workload.rate=[\"max\", \"1k/s\"]"]));
    let arrivals: Vec<_> = axis
        .cells
        .iter()
        .map(|c| c.spec.workload.arrivals)
        .collect();
    assert_eq!(arrivals, [Arrivals::Uniform, Arrivals::Poisson]);
    let both = sets(&["workload.rate=max", "workload.arrivals=poisson"]);
    assert_eq!(bad_with(text, &both).len(), 1);
}

#[test]
fn only_what_waits_can_spin() {
    let text = "name = \"t\"\n[workload]\nrate = \"5k/s\"\npacing = \"spin\"\n";
    let pacing = |set: &str| good_with(text, &sets(&[set])).cells[0].spec.workload.pacing;
    assert_eq!(pacing("trials.repeat=1"), Pacing::Spin);
    assert_eq!(pacing("workload.rate=max"), Pacing::Sleep);
    let both = sets(&["workload.rate=max", "workload.pacing=spin"]);
    assert_eq!(bad_with(text, &both).len(), 1);
    let room = Room {
        cpus: 2,
        memory_free_bytes: 1 << 34,
        disk_free_bytes: 1 << 40,
    };
    let warnings = |pods: &str| {
        let scenario = good_with(text, &sets(&["target=stub", pods]));
        plan(&scenario, &room).warnings
    };
    assert!(warnings("workload.pods=1").is_empty());
    assert!(warnings("workload.pods=2")[0].contains("2 of the 2 CPUs"));
    let loops = sets(&["target=stub", "workload.publishers=2", "workload.threads=2"]);
    assert_eq!(plan(&good_with(text, &loops), &room).warnings.len(), 1);
}

#[test]
fn a_program_of_messages_must_reach_them() {
    let of = |pods: u32, publishers: u32, messages: u64| {
        format!(
            "[workload]\nrate = \"9/s for 1s, 0/s for 1s\"\npods = {pods}\n\
             publishers = {publishers}\nmessages = {messages}\n"
        )
    };
    good(&of(1, 1, 9));
    good(&of(3, 3, 3));
    good(&of(1, 4, 9));
    // 8 messages in all: of two pods with turns 0 to 2 and 3 to 5, the last takes its second turn
    // as the tenth of the cell, which is never due.
    for (pods, publishers, messages) in [(1, 1, 10), (3, 3, 4), (2, 3, 4)] {
        let text = format!("name = \"t\"\n{}", of(pods, publishers, messages));
        let errors = bad(&text);
        assert!(
            errors.to_string().contains("may never be reached"),
            "{errors}"
        );
    }
    let chance = format!("name = \"t\"\n{}arrivals = \"poisson\"\n", of(1, 1, 2));
    assert_eq!(bad(&chance).len(), 1);
}

#[test]
fn a_stub_has_publishers_alone() {
    let scenario = good_with("name = \"t\"\ntarget = \"stub\"\n", &Overrides::default());
    let spec = &scenario.cells[0].spec;
    assert_eq!(spec.target, Target::Stub(Stub::default()));
    assert_eq!(
        (spec.workload.publishers, spec.workload.subscribers),
        (1, 0)
    );
    assert_eq!(spec.consumer.kind, ConsumerKind::None);
    let slow = good(
        "[target]\nkind = \"stub\"\ndelay = \"1ms\"\nstall = \"200ms\"\nstall_every = \"2s\"\n\
         [publish]\nmode = \"core\"\n[stream]\nretention = \"interest\"\n[consumer]\nkind = \"none\"\n",
    );
    assert_eq!(
        slow.cells[0].spec.target,
        Target::Stub(Stub {
            delay: Duration::from_millis(1),
            stall: Some(Stall {
                length: Duration::from_millis(200),
                every: Duration::from_secs(2),
            }),
        })
    );
    let delays = good("[target]\nkind = \"stub\"\n[matrix]\ntarget.delay = [\"0s\", \"1ms\"]\n");
    assert_eq!(ids(&delays), ["delay-0s", "delay-1ms"]);
}

#[test]
fn a_stub_displaces_and_is_displaced() {
    let embedded = "name = \"t\"\n[target]\nservers = 3\nencryption = \"aes\"\n";
    let scenario = good_with(embedded, &sets(&["target.kind=stub", "target.delay=2ms"]));
    assert!(matches!(&scenario.cells[0].spec.target, Target::Stub(s) if s.delay.as_millis() == 2));
    let stub = "name = \"t\"\n[target]\nkind = \"stub\"\ndelay = \"1ms\"\n";
    let scenario = good_with(stub, &sets(&["target.kind=embedded"]));
    assert!(matches!(scenario.cells[0].spec.target, Target::Embedded(_)));
    let server = Overrides {
        external: Some(ExternalTarget {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            context: None,
        }),
        ..Overrides::default()
    };
    let scenario = good_with(stub, &server);
    assert!(matches!(scenario.cells[0].spec.target, Target::External(_)));
    assert_eq!(scenario.cells[0].spec.workload.subscribers, 1);
    let broken = format!("{stub}stall = \"1s\"\n");
    assert_eq!(bad_with(&broken, &server).len(), 1, "checked all the same");
}

#[test]
fn a_rate_that_cannot_be_read_is_told_with_place_and_cure() {
    let text = r#"name = "t"

[matrix]
workload.rate = [
    "1k/s for 10s, 5k/s",
    "1k/s fro 10s",
    "1k/s for 10",
    "1k for 10s",
    "0/s for 10s, 0/s for 5s",
    "ramp 1k/s to 20k/s over 0s",
    "ramp 1k/s to 20k/s",
    "replay",
    "0/s",
]
"#;
    insta::assert_snapshot!("bad_rates", bad(text).render(false));
}

#[test]
fn a_rate_file_that_cannot_be_replayed_is_told_with_its_line_and_a_cure() {
    let files: [(&str, &[u8]); 13] = [
        ("binary.csv", b"t_s,rate_per_s\n0,1\n\xff\xfe,2\n"),
        ("empty.csv", b""),
        ("columns.csv", b"time;rate\n0;1\n"),
        ("ragged.csv", b"t_s,rate_per_s\n0,1\n1\n"),
        ("words.csv", b"t_s,rate_per_s\n0,1\n1,5k/s\n"),
        ("negative.csv", b"t_s,rate_per_s\n0,1\n1,-5\n"),
        ("endless.csv", b"t_s,rate_per_s\n0,1\n1,inf\n"),
        ("back.csv", b"t_s,rate_per_s\n0,1\n1,1\n0.5,1\n"),
        ("twice.csv", b"t_s,rate_per_s\n0,1\n0,1\n"),
        (
            "gap.csv",
            b"t_s,rate_per_s\n1700000000,1\n1700000010,1\n1700000050,1\n",
        ),
        ("uneven.csv", b"t_s,rate_per_s\n0,1\n10,1\n11,1\n"),
        ("silent.csv", b"t_s,rate_per_s\n0,0\n1,0\n"),
        ("short.csv", b"t_s,rate_per_s\n0,1\n"),
    ];
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = names
        .iter()
        .chain(&["nowhere.csv", "."])
        .map(|name| format!("    \"replay {name}\",\n"))
        .collect();
    let text = format!(
        "name = \"t\"\n\n[matrix]\nworkload.rate = [\n{}]\nworkload.pods = [1, 2]\n",
        values.concat()
    );
    let (dir, source) = beside("", &text);
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    let errors = load(&source, &Overrides::default()).expect_err("bad files");
    assert_eq!(
        errors.len(),
        15,
        "each once, whatever the other axes\n{errors}"
    );
    let shown = errors
        .render(false)
        .replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!("bad_rate_files", shown);
}

#[test]
fn several_errors_are_told_at_once_with_place_and_cure() {
    let text = r#"name = "broken"

[target]
servers = 1

[stream]
layuot = "shared"
storage = "flie"
replicas = 3

[workload]
rate = 5000
payload = "39B"
pods = "three"
duration = "30"

[expect]
response.p98 = "<= 50ms"
service.p99 = "50ms"
lost = 0
"#;
    insta::assert_snapshot!("several_errors", bad(text).render(false));
}

#[test]
fn syntax_errors_do_not_hide_the_others() {
    let text =
        "name = \"s\"\n[workload]\nrate = 5k/s\npods = 0\nduration = 5s\n[trials]\nrepaet = 3\n";
    insta::assert_snapshot!("syntax_and_others", bad(text).render(false));
    // What follows from a lost header is not told.
    let text = "name = \"s\"\n[target\nservers = 3\n[workload]\npods = \"x\"\n";
    assert_eq!(bad(text).len(), 2, "{}", bad(text));
}

#[test]
fn an_error_of_a_flag_points_at_the_flag() {
    let overrides = sets(&[
        "workload.rate=5000",
        "stream.replicas=3",
        "workload.pds=3",
        "consumer",
        "workload.payload={kind=",
        "profile.quick.trials.repeat=2",
    ]);
    insta::assert_snapshot!(
        "bad_sets",
        bad_with("name = \"t\"\n", &overrides).render(false)
    );
}

#[test]
fn an_unknown_profile_is_told_the_known_ones() {
    let overrides = Overrides {
        profile: Some("quik".to_owned()),
        ..Overrides::default()
    };
    insta::assert_snapshot!(
        "unknown_profile",
        bad_with(MATRIX, &overrides).render(false)
    );
}

#[test]
fn a_profile_is_checked_though_not_chosen() {
    let text = "name = \"t\"\n[profile.quick]\ntrials.repaet = 1\nmatrix.workload.pds = [1]\n";
    assert_eq!(bad(text).len(), 2, "{}", bad(text));
}

#[test]
fn contradictions_are_judged_per_cell_after_exclude_and_told_once() {
    let text = "name = \"t\"\n[matrix]\nstream.replicas = [1, 3]\ntarget.servers = [1, 3]\n\
                workload.pods = [1, 2]\n";
    let errors = bad(text);
    assert_eq!(errors.len(), 1, "{errors}");
    let excluded = format!("{text}[[exclude]]\nstream.replicas = 3\ntarget.servers = 1\n");
    assert_eq!(good_with(&excluded, &Overrides::default()).cells.len(), 6);
}

#[test]
fn colour_is_only_there_when_asked_for() {
    let errors = bad("name = 3\n");
    assert!(!errors.render(false).contains('\u{1b}'));
    assert!(errors.render(true).contains('\u{1b}'));
}

/// What must be refused, and words of the message; each is the only error.
const REFUSED: &[(&str, &str)] = &[
    ("[target]\nservers = 2\n", "2 embedded servers"),
    (
        "[target]\nservers = 3\n[stream]\nreplicas = 5\n",
        "5 replicas need 5 servers",
    ),
    ("[stream]\nreplicas = 6\n", "6 replicas"),
    (
        "[stream]\npersist = \"async\"\nstorage = \"memory\"\n",
        "needs file storage and one replica",
    ),
    (
        "[target]\nservers = 3\n[stream]\npersist = \"async\"\nreplicas = 3\n",
        "needs file storage and one replica",
    ),
    (
        "[stream]\ncompression = \"s2\"\nstorage = \"memory\"\n",
        "only file storage is compressed",
    ),
    (
        "[stream]\nmax_age = \"1m\"\nduplicate_window = \"2m\"\n",
        "duplicate window is longer",
    ),
    ("[stream]\nmax_bytes = \"0B\"\n", "`stream.max_bytes` is 0B"),
    (
        "[stream]\nretention = \"workqueue\"\n[workload]\nsubscribers = 2\n",
        "refuses consumers that overlap",
    ),
    (
        "[stream]\nretention = \"workqueue\"\n[consumer]\nack = \"all\"\n",
        "wants every message acked",
    ),
    (
        "[stream]\nretention = \"interest\"\n[workload]\nsubscribers = 0\n",
        "drops every message",
    ),
    (
        "[workload]\npods = 101\nsubscribers = 10\n",
        "1010 consumers on one stream",
    ),
    (
        "[consumer]\nkind = \"ordered\"\nack = \"explicit\"\n",
        "only pull, push and push-queue",
    ),
    (
        "[consumer]\nkind = \"ordered\"\nshare = \"app\"\n",
        "can be shared",
    ),
    (
        "[consumer]\nkind = \"push\"\nshare = \"app\"\n",
        "needs a queue",
    ),
    (
        "[consumer]\nkind = \"push-queue\"\nshare = \"none\"\n",
        "push-queue consumer is one",
    ),
    (
        "[consumer]\nkind = \"push-queue\"\nflow_control = true\n",
        "means nothing",
    ),
    ("[consumer]\nkind = \"push\"\nbatch = 10\n", "means nothing"),
    ("[consumer]\nreplicas = 3\n", "a consumer with 3 replicas"),
    (
        "[consumer]\nkind = \"core\"\n",
        "reads what is published with mode \"core\"",
    ),
    (
        "[consumer]\nkind = \"pull\"\n[publish]\nmode = \"core\"\n",
        "stores nothing that a JetStream consumer could read",
    ),
    (
        "[publish]\nmode = \"core\"\nmessage_id = true\n",
        "message ids are for JetStream",
    ),
    ("[publish]\nwindow = 0\n", "nothing could be in flight"),
    (
        "[publish]\nmode = \"sync\"\nwindow = 2\n",
        "one message in flight",
    ),
    (
        "[publish]\nsubject = \"a.b\"\n",
        "is for an existing stream",
    ),
    (
        "[stream]\nexisting = \"S\"\n[publish]\nsubject = \"a.b\"\n",
        "embedded servers begin empty",
    ),
    (
        "[workload]\npayload = \"39B\"\n",
        "no room for the identity",
    ),
    (
        "[workload]\npayload = \"2MiB\"\n",
        "more than the server takes",
    ),
    (
        "[workload]\npayload = { size = \"2KiB\" }\n",
        "without `kind`",
    ),
    (
        "[workload]\npayload = { kind = \"file\", path = \"nowhere.bin\" }\n",
        "cannot be read",
    ),
    ("[workload]\npublishers = 0\n", "nothing filled in before"),
    (
        "[workload]\npublishers = 0\nsubscribers = 0\nprefill = 10\n",
        "nothing to measure",
    ),
    (
        "[workload]\npublishers = 0\nprefill = 10\nrate = \"1k/s\"\n",
        "no publishers to keep it",
    ),
    (
        "[consumer]\nkind = \"none\"\n[workload]\nsubscribers = 2\n",
        "`consumer.kind` is none",
    ),
    (
        "[consumer]\nkind = \"pull\"\n[workload]\nsubscribers = 0\n",
        "no subscribers to use it",
    ),
    (
        "[workload]\nduration = \"1s\"\nmessages = 10\n",
        "both `workload.duration`",
    ),
    (
        "[workload]\nduration = \"0s\"\n",
        "`workload.duration` is 0s",
    ),
    (
        "[workload]\narrivals = \"poisson\"\n",
        "Poisson arrivals need a rate, and `workload.rate` is max by default",
    ),
    (
        "[workload]\nrate = \"max\"\narrivals = \"poisson\"\n",
        "Poisson arrivals need a rate",
    ),
    (
        "[workload]\nrate = \"1/h\"\nduration = \"5s\"\n",
        "less than one message is due in the window",
    ),
    (
        "[workload]\nrate = \"99999999999999999999/s\"\n",
        "none sends more than 10M/s",
    ),
    (
        "[workload]\nrate = \"1k/s for 999d\"\n",
        "the rate program lasts 999 days",
    ),
    (
        "[publish]\nwindow = 70000\n[workload]\nclient = \"async-nats\"\n",
        "`publish.window` is 70000: the client \"async-nats\" keeps at most 65536",
    ),
    (
        "[publish]\nwindow = 1_048_577\n",
        "the client \"wire\" keeps at most 1048576",
    ),
    (
        "[workload]\nrate = \"0/s for 5s, 1k/s for 5s\"\nduration = \"5s\"\n",
        "less than one message is due in the window",
    ),
    (
        "[workload]\nrate = \"1k/s for 5s\"\nduration = \"0s\"\n",
        "`workload.duration` is 0s",
    ),
    (
        "[workload]\npublishers = 0\nprefill = 10\nrate = \"1k/s for 5s\"\n",
        "no publishers to keep it",
    ),
    ("[workload]\nrate = \"0/s\"\n", "it is not above zero"),
    ("[workload]\narrivals = \"normal\"\n", "`normal` is not one"),
    (
        "[target]\ndelay = \"1ms\"\n",
        "belongs to a stub target, and this one is embedded",
    ),
    (
        "[target]\nkind = \"stub\"\nencryption = \"aes\"\n",
        "belongs to an embedded target, and this one is stub",
    ),
    (
        "[target]\nkind = \"stub\"\nurls = [\"nats://a\"]\n",
        "belongs to an external target",
    ),
    (
        "[target]\nkind = \"stub\"\nstall = \"1s\"\n",
        "says how long, and not how often",
    ),
    (
        "[target]\nkind = \"stub\"\nstall_every = \"1s\"\n",
        "says how often, and not how long",
    ),
    (
        "[target]\nkind = \"stub\"\nstall = \"1s\"\nstall_every = \"1s\"\n",
        "stands still for 1s of every 1s",
    ),
    (
        "[target]\nkind = \"stub\"\nstall = \"0s\"\nstall_every = \"1s\"\n",
        "`target.stall` is 0s",
    ),
    (
        "[target]\nkind = \"stub\"\nstall = \"1s\"\nstall_every = \"0s\"\n",
        "`target.stall_every` is 0s",
    ),
    (
        "[target]\nkind = \"stub\"\ndelay = \"1\"\n",
        "it has no unit",
    ),
    (
        "[target]\nkind = \"stub\"\n[consumer]\nkind = \"pull\"\n",
        "a stub delivers nothing, and `consumer.kind` is pull",
    ),
    (
        "[target]\nkind = \"stub\"\n[workload]\nsubscribers = 2\n",
        "there are 2 subscribers per pod",
    ),
    (
        "[target]\nkind = \"stub\"\n[consumer]\nkind = \"none\"\n[workload]\nsubscribers = 2\n",
        "there are 2 subscribers per pod",
    ),
    (
        "[target]\nkind = \"stub\"\n[workload]\nprefill = 2\n",
        "a stub stores nothing that could be filled in",
    ),
    (
        "[target]\nkind = \"stub\"\n[workload]\npublishers = 0\n",
        "there are no publishers",
    ),
    (
        "[target]\nkind = \"stub\"\n[stream]\nreplicas = 3\n",
        "`stream.replicas` is 3",
    ),
    (
        "[target]\nkind = \"stub\"\n[stream]\nexisting = \"S\"\n[publish]\nsubject = \"a.b\"\n",
        "there is no existing stream",
    ),
    (
        "[target]\nkind = \"stub\"\n[matrix]\nstream.storage = [\"file\", \"memory\"]\n",
        "cannot change a stub",
    ),
    ("[workload]\napps = 3\n", "3 apps and 1 pods"),
    (
        "[workload]\nconnections = 9\n",
        "more connections than the 2 clients",
    ),
    ("[trials]\nrepeat = 0\n", "each cell 0 times"),
    (
        "[target]\nurls = [\"nats://a\"]\n",
        "belongs to an external target",
    ),
    ("[target]\nkind = \"external\"\n", "without an address"),
    (
        "[target]\nkind = \"external\"\nurls = [\"nats://a\"]\nuser = \"a\"\ntoken = \"b\"\n",
        "several kinds of credentials",
    ),
    ("[matrix]\nstream.replicas = 3\n", "is not a list"),
    ("[matrix]\nstream.replicas = []\n", "has no values"),
    ("[matrix]\ntrials.repeat = [1, 2]\n", "cannot be an axis"),
    (
        "[matrix]\nworkload.pods = [1, 1]\n",
        "two cells have the id `pods-1`",
    ),
    (
        "[matrix]\nworkload.pods = [1]\n[[exclude]]\nworkload.pods = 1\n",
        "no cell is left",
    ),
    (
        "[matrix]\nstream.layuot = [\"shared\"]\n",
        "unknown key `stream.layuot`",
    ),
    (
        "[[exclude]]\nstream.layuot = \"shared\"\n",
        "unknown key `stream.layuot`",
    ),
    (
        "[expect]\nlatency.p99 = \"<= 1ms\"\n",
        "unknown key `expect.latency`",
    ),
    ("[expect]\nresponse.p99 = \"<= 50\"\n", "has no unit"),
    ("[expect]\nlost = \"== 1ms\"\n", "is not a whole number"),
];

/// What the format knows and this version does not run.
const NOT_YET: &[&str] = &[
    "[target]\nkind = \"kubernetes\"\n",
    "[target]\naccounts = 2\n",
    "[publish]\nretries = 1\n",
    "[workload]\npath = \"http\"\n",
    "[workload]\nworkers = \"process\"\n",
    "[workload]\nworkers = \"pod\"\n",
    "[http]\npreset = \"kyma\"\n",
    "[search]\n",
    "[[fault]]\nkind = \"kill\"\non = \"stream-leader\"\nat = \"10s\"\nfor = \"5s\"\n",
];

#[test]
fn what_cannot_work_is_refused_with_a_cure() {
    refused(REFUSED);
}

/// Each text has one error, with these words, a place and a cure.
fn refused(texts: &[(&str, &str)]) {
    for (text, words) in texts {
        let errors = bad(&format!("name = \"t\"\n{text}"));
        let shown = errors.render(false);
        assert_eq!(errors.len(), 1, "{text}\n{shown}");
        assert!(shown.contains(words), "{text}\n{shown}");
        assert!(shown.contains("help: "), "{text}\n{shown}");
        assert!(shown.contains("scenario.toml:"), "{text}\n{shown}");
    }
}

#[test]
fn what_this_version_does_not_run_is_said_and_not_ignored() {
    for text in NOT_YET {
        let errors = bad(&format!("name = \"t\"\n{text}"));
        let shown = errors.render(false);
        assert_eq!(errors.len(), 1, "{text}\n{shown}");
        assert!(
            shown.contains("is not available in this version yet"),
            "{text}\n{shown}"
        );
    }
}

#[test]
fn every_key_of_a_scenario_is_described() {
    let format = include_str!("../../docs/FORMAT.md");
    let scenario_part = format
        .split("\n## Result files")
        .next()
        .expect("text before the heading");
    let wire = [include_str!("wire.rs"), include_str!("wire/written.rs")].concat();
    let mut fields = 0;
    let (mut within_struct, mut name) = (false, String::new());
    for line in wire.lines() {
        if line.contains("deny_unknown_fields") {
            within_struct = true;
        } else if line == "}" {
            within_struct = false;
        }
        let Some((head, _)) = line.trim().split_once(": ") else {
            continue;
        };
        if !within_struct
            || head.starts_with("//")
            || head.contains('(') && !head.starts_with("pub(")
        {
            continue;
        }
        name.clear();
        name.push_str(
            head.rsplit(' ')
                .next()
                .unwrap_or(head)
                .trim_start_matches("r#"),
        );
        fields += 1;
        let described = [
            format!("`{name}`"),
            format!(".{name}`"),
            format!("[{name}]"),
        ];
        assert!(
            described.iter().any(|d| scenario_part.contains(d)),
            "docs/FORMAT.md does not describe `{name}`"
        );
    }
    assert!(
        fields > 100,
        "only {fields} keys were found in the wire structs"
    );
}

#[test]
fn a_file_that_is_not_there_is_a_usage_failure() {
    let error = Source::read(Path::new("no/such.toml")).expect_err("no such file");
    let failure = error.downcast_ref::<crate::error::Failure>();
    assert_eq!(failure.map(crate::error::Failure::exit_code), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(
        text in "(name = \"x\"\n)?(\\[(target|stream|workload|matrix|expect|profile)\\]\n)?[a-z.]{1,9} ?= ?(\"[a-z0-9/ ]{0,6}\"|[0-9]{1,3}|\\[[0-9, ]{0,5}\\]|\\{\\}|\\PC{0,8})\n?",
        set in "\\PC{0,16}",
        filter in "\\PC{0,10}",
    ) {
        let overrides = Overrides { set: vec![set], filter: vec![filter], ..Overrides::default() };
        for overrides in [Overrides::default(), overrides] {
            if let Err(errors) = load(&source(&text), &overrides) {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.render(false).contains("error: "));
            }
        }
    }

    #[test]
    fn the_order_of_the_axes_does_not_change_the_cells(swap in any::<bool>(), pods in 1u32..4, window in 1u32..9) {
        let mut axes = [
            format!("workload.pods = [{pods}, {}]", pods + 1),
            format!("publish.window = [{window}, {}]", window + 7),
        ];
        if swap {
            axes.reverse();
        }
        let scenario = good(&format!("[matrix]\n{}\n{}\n", axes[0], axes[1]));
        let mut ids = ids(&scenario);
        ids.sort_unstable();
        let mut expected: Vec<String> = [pods, pods + 1]
            .iter()
            .flat_map(|p| [window, window + 7].map(|w| format!("window-{w}-pods-{p}")))
            .collect();
        expected.sort_unstable();
        prop_assert_eq!(ids, expected);
    }
}
