//! Planned messages, bytes and refusals of small scenarios.

use super::super::model::PublishMode;
use super::super::{Overrides, Source, load};
use super::bytes::record_bytes;
use super::*;

const ROOMY: Room = Room {
    disk_free_bytes: 1 << 42,
    memory_free_bytes: 1 << 40,
    cpus: 8,
};

fn scenario(body: &str) -> Scenario {
    let source = Source {
        path: None,
        text: format!("name = \"t\"\n{body}"),
    };
    load(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn shipped(file: &str, profile: Option<&str>) -> Scenario {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let overrides = Overrides {
        profile: profile.map(str::to_owned),
        ..Overrides::default()
    };
    let source = Source::read(&path).expect("shipped file");
    load(&source, &overrides).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_count_of_messages_is_planned_exactly() {
    let scenario = scenario(
        "[target]\nservers = 3\n[stream]\nreplicas = 3\n[consumer]\nkind = \"ordered\"\n\
         [workload]\npods = 4\napps = 3\nmessages = 100\nsubscribers = 2\nprefill = 50\npayload = \"512B\"\n",
    );
    let plan = plan(&scenario, &ROOMY);
    let cell = &plan.cells[0];
    assert_eq!(
        (cell.messages, cell.prefilled, cell.at_most),
        (400, 200, false)
    );
    // Apps have 2, 1 and 1 pods: (2*2 + 1 + 1) / 4 pods x 2 subscribers = 3 copies.
    assert_eq!(cell.deliveries, 1_800);
    let record = 30 + 28 + 512;
    let log = 512 + 51 + 110;
    assert_eq!(cell.disk_bytes, Some(3 * 600 * (record + log)));
}

#[test]
fn a_record_in_a_file_is_as_long_as_the_server_says() {
    // Measured on 2.15.1: 512 B payload, 3-byte subject, 545 B in state.bytes.
    let mut spec = scenario("[workload]\npayload = \"512B\"\n").cells[0]
        .spec
        .clone();
    spec.publish.subject = Some("a.b".to_owned());
    assert_eq!(record_bytes(&spec), 545);
}

#[test]
fn what_cannot_fit_is_refused_and_what_might_not_is_warned_of() {
    let small = Room {
        disk_free_bytes: 1 << 30,
        ..ROOMY
    };
    let constant =
        scenario("[workload]\nrate = \"10k/s\"\nduration = \"1h\"\npayload = \"1KiB\"\n");
    assert_eq!(plan(&constant, &small).refusals.len(), 1);
    assert!(plan(&constant, &ROOMY).refusals.is_empty());

    let closed = scenario("[workload]\nduration = \"10s\"\npayload = \"1KiB\"\n");
    let tight = plan(&closed, &small);
    assert!(tight.refusals.is_empty(), "{:?}", tight.refusals);
    assert_eq!(tight.warnings.len(), 1);

    let bounded = scenario(
        "[stream]\nmax_bytes = \"100MiB\"\n[workload]\nrate = \"10k/s\"\nduration = \"1h\"\npayload = \"1KiB\"\n",
    );
    assert!(plan(&bounded, &small).refusals.is_empty());

    let memory = scenario(
        "[stream]\nstorage = \"memory\"\n[workload]\nprefill = 10_000_000\npayload = \"1KiB\"\n",
    );
    let room = Room {
        memory_free_bytes: 1 << 30,
        ..ROOMY
    };
    assert_eq!(plan(&memory, &room).refusals.len(), 1);
}

#[test]
fn a_reservation_holds_every_stream_of_the_cell() {
    let scenario = scenario(
        "[stream]\nlayout = \"per-type\"\nmax_bytes = \"1GiB\"\n[workload]\npods = 2\ntypes = 3\n",
    );
    let (file, memory) = reserve_bytes(&scenario.cells[0].spec);
    assert!(file >= 6 << 30 && memory >= MIB, "{file} {memory}");
}

#[test]
fn the_quickstart_takes_less_than_a_minute() {
    let scenario = load(&Source::quickstart(), &Overrides::default()).expect("built in");
    let plan = plan(&scenario, &ROOMY);
    assert_eq!(plan.cells.len() * plan.repeat as usize, 18);
    assert!(plan.total < Duration::from_mins(1), "{:?}", plan.total);
    let open_loop = scenario.cells.iter().filter(|cell| {
        cell.spec.publish.mode == PublishMode::Async
            && matches!(&cell.spec.workload.rate, Rate::Open(p) if p.peak_per_s() >= 10_000.0)
    });
    assert_eq!(open_loop.count(), 2);
}

#[test]
fn stream_layout_has_a_profile_for_three_minutes() {
    let quick = plan(
        &shipped("scenarios/stream-layout.toml", Some("quick")),
        &ROOMY,
    );
    assert!(quick.total < Duration::from_mins(3), "{:?}", quick.total);
    let full = plan(&shipped("scenarios/stream-layout.toml", None), &ROOMY);
    assert!(
        full.cells
            .iter()
            .all(|c| c.messages == 30_000 && c.deliveries == 300_000)
    );
}

#[test]
fn a_program_is_planned_with_its_warmup_and_its_misfit_is_told() {
    let text = "[workload]\nrate = \"1k/s for 10s, ramp 1k/s to 3k/s over 10s\"\n";
    let fits = plan(&scenario(text), &ROOMY);
    // 5 s of warm-up at the first rate, 10,000 and 20,000.
    assert_eq!(fits.cells[0].messages, 35_000);
    assert!(fits.warnings.is_empty(), "{:?}", fits.warnings);
    for (window, messages, words) in [
        ("15s", 5_000 + 10_000 + 7_500, "its end is cut off"),
        ("22s", 35_000 + 6_000, "its last rate, 3k/s, goes on"),
    ] {
        let text = format!("{text}duration = \"{window}\"\n[matrix]\nworkload.pods = [1, 2, 3]\n");
        let misfit = plan(&scenario(&text), &ROOMY);
        assert_eq!(misfit.cells[0].messages, messages);
        assert_eq!(misfit.warnings.len(), 1, "{:?}", misfit.warnings);
        assert!(misfit.warnings[0].contains(words), "{:?}", misfit.warnings);
    }
}

#[test]
fn a_program_that_ends_at_rest_ends() {
    let text = "[workload]\nrate = \"1k/s for 10s, 0/s for 5s\"\nmessages = 10_000\n";
    let plan = plan(&scenario(text), &ROOMY);
    assert!(plan.total < Duration::from_mins(2), "{:?}", plan.total);
}

#[test]
fn a_stub_stores_nothing_and_acks_what_its_delay_allows() {
    let text = "[target]\nkind = \"stub\"\ndelay = \"10ms\"\n[publish]\nwindow = 10\n\
                [workload]\nduration = \"5s\"\n";
    let plan = plan(&scenario(text), &ROOMY);
    let cell = &plan.cells[0];
    assert_eq!((cell.messages, cell.disk_bytes), (10_000, Some(0)));
    assert!(cell.at_most && cell.deliveries == 0);
}

#[test]
fn the_text_of_check_for_rates_that_change() {
    let scenario = scenario(
        "[workload]\nduration = \"25s\"\n[matrix]\n\
         workload.rate = [\"max\", \"5k/s\", \"1k/s for 10s, 5k/s for 10s\", \"ramp 0/s to 20k/s over 25s\"]\n",
    );
    insta::assert_snapshot!("check_programs", plan(&scenario, &ROOMY).render());
    let source = Source {
        path: None,
        text: "name = \"random\"\ntarget = \"stub\"\n[workload]\nrate = \"2k/s\"\narrivals = \"poisson\"\n"
            .to_owned(),
    };
    let scenario = load(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
    insta::assert_snapshot!("check_poisson_stub", plan(&scenario, &ROOMY).render());
}

#[test]
fn the_text_of_check() {
    let scenario = shipped("scenarios/stream-layout.toml", None);
    insta::assert_snapshot!("check_stream_layout", plan(&scenario, &ROOMY).render());
    let scenario = load(&Source::quickstart(), &Overrides::default()).expect("built in");
    let small = Room {
        disk_free_bytes: 200 << 20,
        memory_free_bytes: 4 << 30,
        cpus: 2,
    };
    let text = plan(&scenario, &small).render();
    insta::assert_snapshot!("check_quickstart_little_room", text);
    assert!(text.lines().all(|line| line.chars().count() <= 80));
}

fn one(body: &str) -> CellPlan {
    plan(&scenario(body), &ROOMY).cells.remove(0)
}

#[test]
fn modes_are_planned_at_their_own_speeds() {
    let messages = |mode: &str| {
        one(&format!(
            "[publish]\nmode = \"{mode}\"\n[workload]\nduration = \"5s\"\npayload = \"128B\"\n"
        ))
        .messages
    };
    // Warm-up and window: 10 s.
    assert_eq!(messages("async"), 2_500_000);
    assert_eq!(messages("atomic-batch"), 1_250_000);
    assert_eq!(messages("fast-ingest"), 3_750_000);
    assert_eq!(messages("request"), 150_000);
    let many = one("[publish]\nmode = \"request\"\nwindow = 100\n[workload]\nduration = \"5s\"\n");
    assert_eq!((many.messages, many.deliveries), (1_000_000, 1_000_000));
    assert_eq!(many.disk_bytes, Some(0));
}

#[test]
fn duplicates_are_stored_once_and_headers_with_each() {
    let of = |publish: &str| {
        one(&format!(
            "[publish]\nmessage_id = true\n{publish}[workload]\nmessages = 1_000\npayload = \"512B\"\n"
        ))
    };
    let plain = of("");
    let twice = of("duplicate_ratio = 1.0\n");
    assert_eq!(twice.messages, 1_000);
    assert_eq!(twice.disk_bytes, plain.disk_bytes);
    assert_eq!(twice.deliveries, plain.deliveries);
    assert!(twice.trial > plain.trial, "they are sent all the same");
    let headers = of("headers = { ab = \"cde\" }\n");
    let more = headers.disk_bytes.zip(plain.disk_bytes).map(|(a, b)| a - b);
    assert_eq!(more, Some(1_000 * "ab: cde\r\n".len() as u64));
}

#[test]
fn a_bucket_holds_as_much_as_its_keys() {
    let bucket = |more: &str| {
        let text =
            format!("[stream]\nkind = \"kv\"\n{more}[workload]\npods = 2\nkeys = 50\ntypes = 3\n");
        let scenario = scenario(&text);
        let record = record_bytes(&scenario.cells[0].spec);
        (plan(&scenario, &ROOMY).cells[0].disk_bytes, record)
    };
    let (bytes, record) = bucket("");
    assert_eq!(bytes, Some(2 * 3 * 50 * record));
    let (bytes, record) = bucket("max_msgs_per_subject = 4\n");
    assert_eq!(bytes, Some(4 * 2 * 3 * 50 * record));
}

#[test]
fn keys_take_memory_of_the_driver() {
    let of = |keys: u32| one(&format!("[workload]\nkeys = {keys}\n")).memory_bytes;
    let each = (of(1_000_000) - of(100_000)) / 900_000;
    assert!((150..600).contains(&each), "{each} bytes of a key");
}

#[test]
fn gets_take_their_time() {
    let drain = |more: &str| {
        let text = format!(
            "[consumer]\nkind = \"get\"\n{more}[workload]\npublishers = 0\nprefill = 80_000\nduration = \"1m\"\n"
        );
        one(&text).trial
    };
    let (slow, batched) = (drain(""), drain("batch = 100\n"));
    assert!(
        slow > batched + Duration::from_secs(9),
        "{slow:?} {batched:?}"
    );
}
