//! What the tests of the command line share: the program, scenarios of a few seconds, servers of
//! their own, and a look at what is left behind.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program, away from the user's contexts, variables and calibration.
pub fn jsbench(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jsbench"));
    for (key, _) in std::env::vars() {
        if key.starts_with("NATS_") || key.starts_with("JSBENCH_") {
            command.env_remove(key);
        }
    }
    command
        .current_dir(dir)
        .env("JSBENCH_NATS_SERVER", nats_server())
        .env("XDG_DATA_HOME", dir.join("data"))
        .stdin(Stdio::null());
    command
}

/// The nats-server that tests run.
pub fn nats_server() -> PathBuf {
    let found = jsbench::target::find(&jsbench::target::Search::from_environment(
        std::env::var_os("JSBENCH_NATS_SERVER").map(PathBuf::from),
    ));
    found
        .expect("the tests need a nats-server: run `cargo run -- server install`")
        .path
}

/// How long the building of an older server may take.
const BUILD_LIMIT: Duration = Duration::from_mins(5);

/// A nats-server of this version (`2.12.0`), built by Go and kept below `target/`; `None`, with a
/// line on stderr that says why, where that cannot be done.
pub fn older_server(version: &str) -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../older-servers");
    build_server(&cache, version)
        .inspect_err(|why| {
            let line = format!("SKIPPED, NOT TESTED: no nats-server {version}: {why}\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
        })
        .ok()
}

fn build_server(cache: &Path, version: &str) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(cache)?;
    // Another test may build the same one; the lock goes with whoever holds it.
    let lock = std::fs::File::create(cache.join(format!("{version}.lock")))?;
    lock.lock()?;
    let done = cache.join(version);
    if done.is_dir() {
        return Ok(done.join("nats-server"));
    }
    let bin = TempDir::new_in(cache)?;
    let log = bin.path().join("log");
    let mut go = Command::new("go")
        .arg("install")
        .arg(format!("github.com/nats-io/nats-server/v2@v{version}"))
        .env("GOBIN", bin.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .process_group(0)
        .spawn()
        .map_err(|e| std::io::Error::other(format!("cannot run `go`: {e}")))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = go.try_wait()? {
            break status;
        }
        if begun.elapsed() > BUILD_LIMIT {
            // Its compilers are in its group.
            let _ = Command::new("kill")
                .args(["-KILL", "--", &format!("-{}", go.id())])
                .status();
            let _ = go.wait();
            return Err(std::io::Error::other("`go install` took too long"));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        let said = std::fs::read_to_string(&log)?;
        return Err(std::io::Error::other(format!("`go install`: {said}")));
    }
    std::fs::rename(bin.keep(), &done)?;
    Ok(done.join("nats-server"))
}

/// A directory with a scenario in it.
pub fn scenario(text: &str) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory");
    std::fs::write(dir.path().join("s.toml"), text).expect("a writable directory");
    dir
}

/// One small closed-loop cell with a consumer on one embedded server. Closed, because a driver that
/// shares two cores with other tests is late in open loop, and says so.
pub const SMALL: &str = r#"
name = "small"
question = "Does it work?"

[target]
kind = "embedded"
servers = 1

[stream]
storage = "file"
replicas = 1
max_bytes = "256MiB"

[consumer]
kind = "pull"
ack = "explicit"

[publish]
mode = "async"
window = 100

[workload]
publishers = 1
subscribers = 1
pods = 1
payload = "128B"
rate = "max"
duration = "1s"
drain = "10s"

[trials]
repeat = 1
warmup = "200ms"

[expect]
lost = "== 0"
"#;

/// Runs to the end and shows what was said when the code is another one.
pub fn run(command: &mut Command, code: i32) -> (String, String) {
    let output = command.output().expect("the program starts");
    check(&output, code)
}

/// Runs to the end and gives the first trial, for its counts: those of a trial that other work of the
/// machine made invalid are as exact as any.
pub fn run_for_counts(command: &mut Command, dir: &Path, code: i32) -> Value {
    if code == 0 {
        command.arg("--no-fail");
    }
    let (out, _) = run(command, code);
    let trial = first_trial(dir);
    let verdict = &json(&dir.join("record.json"))["verdict"]["exit_code"];
    let disturbed = *verdict == 13 && trial["status"] == "invalid";
    assert!(code != 0 || *verdict == 0 || disturbed, "{out}");
    trial
}

/// stdout and stderr of a finished program.
pub fn check(output: &Output, code: i32) -> (String, String) {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout:\n{out}\nstderr:\n{err}"
    );
    (out, err)
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// Waits until `done` says so, looking every 20 ms; fails after a minute.
pub fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "waited a minute for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose command line holds `needle`.
pub fn processes(needle: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("a Linux host");
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| {
                String::from_utf8_lossy(&c)
                    .replace('\0', " ")
                    .contains(needle)
            })
        })
        .collect()
}

/// nats-servers whose parent is `pid`.
pub fn servers_of(pid: u32) -> Vec<u32> {
    processes("nats-server")
        .into_iter()
        .filter(|child| {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit(')')
                .next()
                .and_then(|s| s.split_whitespace().nth(1))
                .and_then(|s| s.parse().ok());
            parent == Some(pid)
        })
        .collect()
}

/// Sends a signal by number.
pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
    assert!(status.is_ok_and(|s| s.success()), "kill -{signal} {pid}");
}

/// Whether a process is there and not a zombie.
pub fn alive(pid: u32) -> bool {
    jsbench::target::process::start_ticks(pid).is_some()
}

/// A nats-server of the test's own, with JetStream and monitoring; ended when dropped.
pub struct Server {
    child: Child,
    /// `nats://127.0.0.1:port`
    pub url: String,
    /// `http://127.0.0.1:port`
    pub monitor: String,
    /// `nats://127.0.0.1:port` for routes, where it is of a cluster.
    pub routes: Option<String>,
    dir: TempDir,
}

impl Server {
    /// Starts one; `extra` goes into its configuration.
    pub fn start(extra: &str) -> Self {
        Self::start_as(&nats_server(), "", extra)
    }

    /// Starts one from this program; `jetstream` goes into that block of its configuration.
    pub fn start_as(program: &Path, jetstream: &str, extra: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let path = dir.path().display();
        let config = format!(
            "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\nports_file_dir: \"{path}\"\n\
             jetstream {{ store_dir: \"{path}/js\", max_mem: 256MB, max_file: 4GB\n{jetstream}\n}}\n\
             {extra}\n"
        );
        std::fs::write(dir.path().join("server.conf"), config).expect("a writable directory");
        let log = std::fs::File::create(dir.path().join("log")).expect("a writable directory");
        let child = Command::new(program)
            .arg("-c")
            .arg(dir.path().join("server.conf"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        let ports = dir.path().join(format!("nats-server_{}.ports", child.id()));
        let ports: Value = wait_for("the ports file", || {
            serde_json::from_str(&std::fs::read_to_string(&ports).ok()?).ok()
        });
        let one = |key: &str| ports[key][0].as_str().expect("a port").to_owned();
        Self {
            child,
            url: one("nats"),
            monitor: one("monitoring"),
            routes: ports["cluster"][0].as_str().map(str::to_owned),
            dir,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Messages and bytes of all streams of an account, as monitoring says.
    pub fn jsz(&self) -> Value {
        let url = format!(
            "{}/jsz?accounts=true&streams=true&config=true",
            self.monitor
        );
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime
            .block_on(jsbench::nats::monitor::get_json(&url))
            .expect("monitoring answers")
    }
}

/// A TCP proxy on loopback that passes bytes on in both directions after half of `delay` each.
/// Ends with the test's process.
pub fn delaying_proxy(url: &str, delay: Duration) -> String {
    use std::net::{TcpListener, TcpStream};
    let upstream = url.trim_start_matches("nats://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let here = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let server = TcpStream::connect(&upstream).expect("the server is there");
            for (from, to) in [(&client, &server), (&server, &client)] {
                let copy = |s: &TcpStream| s.try_clone().expect("a second handle");
                pass_on(copy(from), copy(to), delay / 2);
            }
        }
    });
    format!("nats://{here}")
}

/// Passes bytes on, each this long after it came, until one side closes.
fn pass_on(mut from: std::net::TcpStream, mut to: std::net::TcpStream, delay: Duration) {
    use std::io::Read as _;
    let (late, ready) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
    to.set_nodelay(true).expect("a TCP socket");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if late.send((Instant::now(), buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (came, bytes) in ready {
            std::thread::sleep((came + delay).saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first trial of the first cell of the run in `dir`.
pub fn first_trial(dir: &Path) -> Value {
    json(&dir.join("record.json"))["cells"][0]["trials"][0].clone()
}

/// A count of a record.
pub fn u(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is not a count"))
}

/// A stream that is not ours, with one message in it at `subject`.
pub fn foreign_stream(url: &str, name: &str, subjects: &str, subject: &str, max_messages: i64) {
    let config = async_nats::jetstream::stream::Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        max_messages,
        ..Default::default()
    };
    let make = async {
        let client = async_nats::connect(url).await.expect("connects");
        async_nats::jetstream::new(client)
            .create_stream(config)
            .await
            .expect("a stream");
    };
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(make);
    publish(url, subject);
}

/// Stores a message of nobody's.
pub fn publish(url: &str, subject: &str) {
    let send = async {
        let client = async_nats::connect(url).await.expect("connects");
        let js = async_nats::jetstream::new(client);
        js.publish(subject.to_owned(), "not ours".into())
            .await
            .expect("sent")
            .await
            .expect("stored");
    };
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(send);
}
