//! Embedded servers and the guard, with real nats-servers and real processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jsbench::scenario::model::{Embedded, Encryption, SyncInterval};
use jsbench::target::guard::Message;
use jsbench::target::{Guard, Search, StartOptions, process};

const JSBENCH: &str = env!("CARGO_BIN_EXE_jsbench");

/// Far above what anything here takes; a test that needs it has failed.
const LONG: Duration = Duration::from_mins(1);

/// The nats-server of these tests. Without one they fail, with the cure in the message.
fn nats_server() -> PathBuf {
    let explicit = std::env::var_os("JSBENCH_NATS_SERVER").map(PathBuf::from);
    let found = jsbench::target::find(&Search::from_environment(explicit));
    found.unwrap_or_else(|error| panic!("{error}")).path
}

fn spec(servers: u8, store: &Path) -> Embedded {
    Embedded {
        servers,
        cpus: None,
        memory_bytes: None,
        sync_interval: SyncInterval::Every(Duration::from_mins(2)),
        store_dir: Some(store.to_owned()),
        encryption: Encryption::Off,
        port: None,
    }
}

fn options(binary: PathBuf) -> StartOptions {
    StartOptions {
        binary,
        run_id: "3fa91c02d4e5f607".to_owned(),
        max_file_bytes: 1 << 30,
        max_mem_bytes: 256 << 20,
        guard: Guard::spawn(Path::new(JSBENCH)).expect("the guard starts"),
    }
}

fn store() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .collect()
}

/// Waits until `condition` holds; the deadline is a failure, with `what` in it.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program that stands for nats-server. A shell writes it: a descriptor that is open for writing
/// here could be inherited by a process that another test starts, and then it could not be run.
fn fake_server(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("fake-server");
    let status = Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .arg(format!("#!/bin/sh\n{script}\n"))
        .status()
        .expect("sh runs");
    assert!(status.success());
    path
}

#[tokio::test]
async fn one_server_starts_tells_of_itself_and_leaves_nothing() {
    let store = store();
    let mut servers = jsbench::target::start(&spec(1, store.path()), &options(nats_server()))
        .await
        .expect("it starts");
    assert_eq!(servers.names(), ["3fa91c02-n1"]);
    assert!(servers.urls()[0].starts_with("nats://127.0.0.1:"));

    let info = &servers.infos()[0];
    assert_eq!(info.name, "3fa91c02-n1");
    assert!(info.git_commit.is_some());
    assert_eq!(info.sync_interval_ns, Some(120_000_000_000));
    assert_eq!(info.sync_always, Some(false));
    assert!(
        info.applied.is_empty(),
        "no limits were asked for: {:?}",
        info.applied
    );
    let infos = jsbench::target::external_infos(&servers.monitor_urls()).await;
    assert_eq!(infos.expect("it answers")[0].version, info.version);

    let sample = servers.sample();
    assert!(
        sample[0].rss_bytes.is_some_and(|bytes| bytes > 1 << 20),
        "{sample:?}"
    );
    assert!(sample[0].cpu_ns.is_some(), "{sample:?}");
    let external = jsbench::target::external_sample(&servers.monitor_urls()).await;
    assert_eq!(external[0].name, sample[0].name);
    assert!(
        external[0].rss_bytes.is_some_and(|bytes| bytes > 1 << 20),
        "{external:?}"
    );
    assert_eq!(servers.died(), None);

    let (pids, dir) = (servers.pids(), servers.dir().to_owned());
    assert!(dir.starts_with(store.path()));
    servers.stop(false).await.expect("it ends");
    assert_eq!(process::start_ticks(pids[0]), None);
    assert_eq!(entries(store.path()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn three_servers_make_a_cluster_and_end_in_order() {
    let store = store();
    let servers = jsbench::target::start(&spec(3, store.path()), &options(nats_server()))
        .await
        .expect("they start");
    assert_eq!(
        servers.names(),
        ["3fa91c02-n1", "3fa91c02-n2", "3fa91c02-n3"]
    );
    assert_eq!(servers.infos().len(), 3);

    // JetStream of the account serves R3 streams, and the system account is another one.
    let (user, password) = servers.credentials();
    let client = async_nats::ConnectOptions::new()
        .user_and_password(user.to_owned(), password.expose().to_owned())
        .connect(servers.urls())
        .await
        .expect("it lets us in");
    let stream = async_nats::jetstream::new(client)
        .create_stream(async_nats::jetstream::stream::Config {
            name: "R3".to_owned(),
            num_replicas: 3,
            ..Default::default()
        })
        .await
        .expect("a replicated stream");
    let peers = stream
        .cached_info()
        .cluster
        .as_ref()
        .map(|cluster| cluster.replicas.len());
    assert_eq!(peers, Some(2));
    let (system_user, system_password) = servers.system_credentials();
    async_nats::ConnectOptions::new()
        .user_and_password(system_user.to_owned(), system_password.expose().to_owned())
        .connect(servers.urls())
        .await
        .expect("it lets the system account in");
    assert!(servers.disk_bytes() > 0);

    let pids = servers.pids();
    servers.stop(true).await.expect("they end");
    assert!(pids.iter().all(|pid| process::start_ticks(*pid).is_none()));
    assert_eq!(entries(store.path()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn nobody_gets_in_without_a_password() {
    let store = store();
    let servers = jsbench::target::start(&spec(1, store.path()), &options(nats_server()))
        .await
        .expect("it starts");
    assert!(async_nats::connect(servers.urls()).await.is_err());
}

#[tokio::test]
async fn dropped_servers_are_gone_with_all_they_left() {
    let store = store();
    let servers = jsbench::target::start(&spec(1, store.path()), &options(nats_server()))
        .await
        .expect("it starts");
    let pids = servers.pids();
    drop(servers);
    assert_eq!(process::start_ticks(pids[0]), None);
    assert_eq!(entries(store.path()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn limits_and_policies_are_applied_and_recorded() {
    let store = store();
    let mut spec = spec(1, store.path());
    spec.cpus = Some(0.5);
    spec.memory_bytes = Some(500 << 20);
    spec.sync_interval = SyncInterval::Always;
    spec.encryption = Encryption::Aes;
    let servers = jsbench::target::start(&spec, &options(nats_server()))
        .await
        .expect("it starts");
    let info = &servers.infos()[0];
    assert_eq!(info.sync_always, Some(true));
    assert_eq!((info.cpus, info.memory), (Some(0.5), Some(500 << 20)));
    let applied = &info.applied;
    assert_eq!(applied[..2], ["GOMAXPROCS=1", "GOMEMLIMIT=419430400"]);
    // A cgroup where one may be made, else the reason: never silence.
    for (line, controller) in applied[2..].iter().zip(["cpu", "memory"]) {
        let says = line.contains(&format!(" {controller}"));
        assert!(says && line.contains("cgroup"), "{applied:?}");
    }
    assert_eq!(applied.len(), 4, "{applied:?}");

    // Where it says that there is a cgroup, the process is in it, and it goes with the server.
    let pid = servers.pids()[0];
    let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let limited = applied
        .iter()
        .filter(|line| line.starts_with("cgroup "))
        .count();
    assert_eq!(
        membership.matches("jsbench-3fa91c02-").count(),
        limited,
        "{membership}"
    );
    // Nothing that is printed shows a password, and none is readable by others.
    let (_, password) = servers.credentials();
    assert!(!format!("{servers:?}").contains(password.expose()));
    for entry in entries(&servers.dir().join("n1")) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = entry.metadata().expect("it is there").permissions().mode();
        assert!(
            entry.is_dir() || mode.trailing_zeros() >= 6,
            "{} {mode:o}",
            entry.display()
        );
    }
    servers
        .stop(false)
        .await
        .expect("it ends, and its cgroups can be removed");
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_cure() {
    let store = store();
    // The three ports from a free one on; the second is taken by us.
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = held.local_addr().expect("address").port();
    let mut spec = spec(1, store.path());
    spec.port = Some(taken - 1);
    let error = jsbench::target::start(&spec, &options(nats_server()))
        .await
        .expect_err("taken")
        .to_string();
    assert!(
        error.contains("target.port") && error.contains("leave the key out"),
        "{error}"
    );
    assert_eq!(entries(store.path()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_server_that_dies_while_it_starts_shows_its_last_words() {
    let store = store();
    let script = "echo 'first words'; echo 'fatal: no such luck' >&2; exit 3";
    let binary = fake_server(store.path(), script);
    let servers = store.path().join("servers");
    std::fs::create_dir(&servers).expect("made");
    let error = jsbench::target::start(&spec(3, &servers), &options(binary))
        .await
        .expect_err("it dies")
        .to_string();
    assert!(error.contains("exit code 3"), "{error}");
    assert!(
        error.contains("first words") && error.contains("no such luck"),
        "{error}"
    );
    assert_eq!(entries(&servers), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_port_lost_to_another_process_is_tried_again_a_few_times() {
    let store = store();
    let count = store.path().join("count");
    let script = format!(
        "echo x >> {}; echo 'bind: address already in use' >&2; exit 1",
        count.display()
    );
    let binary = fake_server(store.path(), &script);
    let error = jsbench::target::start(&spec(1, store.path()), &options(binary))
        .await
        .expect_err("it never gets its port");
    assert!(
        format!("{error:#}").contains("address already in use"),
        "{error:#}"
    );
    let starts = std::fs::read_to_string(&count).expect("it was started");
    assert_eq!(starts.lines().count(), 4);
}

#[tokio::test]
async fn other_ports_are_chosen_after_one_was_lost() {
    let store = store();
    let script = format!(
        "if [ -e {0} ]; then exec {1} \"$@\"; fi; : > {0}; echo address already in use; exit 1",
        store.path().join("lost").display(),
        nats_server().display()
    );
    let binary = fake_server(store.path(), &script);
    let servers = jsbench::target::start(&spec(1, store.path()), &options(binary)).await;
    assert_eq!(servers.expect("the second attempt").infos().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_started_or_stored_is_named() {
    let store = store();
    let absent = options("/nowhere/nats-server".into());
    let error = jsbench::target::start(&spec(1, store.path()), &absent)
        .await
        .expect_err("no binary")
        .to_string();
    assert!(error.contains("/nowhere/nats-server"), "{error}");
    assert_eq!(entries(store.path()), [] as [PathBuf; 0]);

    let error = jsbench::target::start(&spec(1, Path::new("/nowhere")), &absent)
        .await
        .expect_err("no directory")
        .to_string();
    assert!(error.contains("target.store_dir /nowhere"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_killed_is_reported_by_name() {
    let store = store();
    let mut servers = jsbench::target::start(&spec(1, store.path()), &options(nats_server()))
        .await
        .expect("it starts");
    process::kill(servers.pids()[0]);
    let mut death = None;
    wait_for("the death is seen", || {
        death = servers.died();
        death.is_some()
    });
    let death = death.expect("seen");
    assert!(
        death.contains("3fa91c02-n1") && death.contains("signal 9"),
        "{death}"
    );
    assert!(death.contains("Server is ready"), "its last words: {death}");
    servers.stop(true).await.expect("what is left of it goes");
    assert_eq!(entries(store.path()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_monitoring_port_where_nothing_listens_is_named() {
    let urls = ["http://127.0.0.1:1".to_owned()];
    let error = jsbench::target::external_infos(&urls)
        .await
        .expect_err("nothing there");
    assert!(
        format!("{error:#}").contains("http://127.0.0.1:1"),
        "{error:#}"
    );
    assert!(jsbench::target::external_sample(&urls).await.is_empty());
}

/// Not a test of its own: the process that [`a_killed_run_leaves_nothing`] kills. It starts
/// servers, says which, and waits for its end.
#[tokio::test]
#[ignore = "the process that another test kills"]
async fn victim() {
    let Some(store) = std::env::var_os("JSBENCH_TEST_VICTIM_STORE") else {
        return;
    };
    let store = PathBuf::from(store);
    let mut spec = spec(1, &store);
    spec.cpus = Some(1.0);
    let servers = jsbench::target::start(&spec, &options(nats_server()))
        .await
        .expect("it starts");
    let said = store.join("said");
    std::fs::write(said.with_extension("part"), servers.pids()[0].to_string()).expect("written");
    std::fs::rename(said.with_extension("part"), said).expect("renamed");
    tokio::time::sleep(LONG * 2).await;
}

#[test]
fn a_killed_run_leaves_nothing() {
    let store = store();
    let mut victim = Command::new(std::env::current_exe().expect("this test"))
        .args(["victim", "--exact", "--ignored"])
        .env("JSBENCH_TEST_VICTIM_STORE", store.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let said = store.path().join("said");
    wait_for("the servers of the victim", || {
        assert_eq!(
            victim.try_wait().expect("waited"),
            None,
            "the victim ended early"
        );
        said.exists()
    });
    let pid: u32 = std::fs::read_to_string(&said)
        .expect("readable")
        .parse()
        .expect("a pid");
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    assert!(process::start_ticks(pid).is_some(), "its server runs");
    assert_eq!(
        entries(store.path()).len(),
        2,
        "its directory, and what it said"
    );

    victim.kill().expect("killed");
    victim.wait().expect("waited");
    wait_for("the server is gone", || process::start_ticks(pid).is_none());
    wait_for("its directory is gone", || {
        entries(store.path()) == [said.clone()]
    });
    for line in cgroups.lines().filter(|line| line.contains("jsbench-")) {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controller, path) = (fields.next().expect("v1"), fields.next().expect("v1"));
        let dir = Path::new("/sys/fs/cgroup")
            .join(controller)
            .join(&path[1..]);
        wait_for("its cgroup is gone", || !dir.exists());
    }
}

/// A guard that the test talks to over its pipe, as a run does.
fn raw_guard() -> Child {
    Command::new(JSBENCH)
        .arg("__guard")
        .stdin(Stdio::piped())
        .spawn()
        .expect("it starts")
}

fn tell(guard: &mut Child, message: &Message) {
    use std::io::Write as _;
    let line = serde_json::to_string(message).expect("plain data");
    let pipe = guard.stdin.as_mut().expect("it is open");
    writeln!(pipe, "{line}").expect("the guard reads");
}

#[test]
fn the_guard_spares_what_is_not_ours_and_outlives_signals() {
    let dir = store();
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("data"), "x").expect("written");
    let mut stranger = Command::new("sleep").arg("120").spawn().expect("it starts");
    let mut ours = Command::new("sleep").arg("120").spawn().expect("it starts");
    let ticks = |child: &Child| process::start_ticks(child.id()).expect("it runs");

    let mut guard = raw_guard();
    let pid = ours.id();
    let start_ticks = ticks(&ours);
    tell(&mut guard, &Message::Pid { pid, start_ticks });
    let pid = stranger.id();
    let start_ticks = ticks(&stranger) + 1;
    tell(&mut guard, &Message::Pid { pid, start_ticks });
    tell(&mut guard, &Message::Dir(foreign.clone()));
    // It takes a moment from its start until it catches the signal.
    wait_for("the guard catches SIGTERM", || catches_term(guard.id()));
    process::terminate(guard.id());

    drop(guard.stdin.take());
    assert!(
        guard.wait().expect("waited").success(),
        "it ends by itself, not by the signal"
    );
    assert!(!ours.wait().expect("waited").success());
    assert_eq!(stranger.try_wait().expect("waited"), None);
    assert!(foreign.join("data").exists());
    stranger.kill().expect("killed");
    stranger.wait().expect("waited");
}

#[test]
fn a_server_whose_pid_was_never_announced_goes_with_its_directory() {
    let dir = store();
    let root = dir.path().join("jsbench-x");
    std::fs::create_dir(&root).expect("made");
    std::fs::write(root.join(".jsbench-servers"), "x").expect("written");
    let config = root.join("nats.conf");
    std::fs::write(&config, "listen: \"127.0.0.1:-1\"\n").expect("written");
    let mut guard = raw_guard();
    tell(&mut guard, &Message::Dir(root.clone()));
    let mut server = Command::new(nats_server())
        .arg("-c")
        .arg(&config)
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    drop(guard.stdin.take());
    assert!(guard.wait().expect("waited").success());
    assert!(!server.wait().expect("waited").success());
    assert!(!root.exists());
}

/// Whether a process catches SIGTERM (15), by the mask in `/proc/<pid>/status`.
fn catches_term(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << 14) != 0)
}

#[test]
fn a_guard_ends_at_once_when_it_has_nothing_to_clear() {
    let guard = Guard::spawn(Path::new(JSBENCH)).expect("it starts");
    guard
        .watch(&Message::Dir("/nowhere/jsbench-x".into()))
        .expect("it reads");
    guard.forget(&Message::ForgetDir("/nowhere/jsbench-x".into()));
    let begin = Instant::now();
    drop(guard);
    assert!(begin.elapsed() < LONG);
}
