//! One embedded server: its files, its process, its limits and its last words.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::StartOptions;
use crate::error::environment;
use crate::scenario::model::{Embedded, Encryption};
use crate::target::cgroup::{self, Limit};
use crate::target::config::{self, Passwords, ServerConfig};
use crate::target::guard::Message;
use crate::target::ports::Ports;
use crate::target::store;

/// What the servers of a group have in common.
pub(super) struct Launch<'a> {
    pub(super) spec: &'a Embedded,
    pub(super) options: &'a StartOptions,
    /// Unique on this machine: `<first 8 of the run id>-<8 hex digits>`.
    pub(super) group: &'a str,
    /// The directory of the group.
    pub(super) root: &'a Path,
    /// One for each server.
    pub(super) ports: &'a [Ports],
    pub(super) passwords: &'a Passwords,
}

/// One server. It does not end its process by itself when dropped: its owner does, in order.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) ports: Ports,
    pub(super) child: Child,
    /// cgroups that may have been made for it.
    pub(super) cgroups: Vec<PathBuf>,
    /// How its limits were applied, or why not.
    pub(super) applied: Vec<String>,
    dir: PathBuf,
}

impl Launch<'_> {
    /// Writes the files of server `index`, starts its process and limits it.
    pub(super) fn spawn(&self, index: usize) -> anyhow::Result<Node> {
        let short = format!("n{}", index + 1);
        let id = self.group.split('-').next().unwrap_or(self.group);
        let name = format!("{id}-{short}");
        let dir = self.root.join(&short);
        store::create_private(&dir)?;
        let config = self.config(&name, index, &dir);
        store::write_private(&dir.join("nats.conf"), config.as_bytes())?;
        let log = store::write_private(&dir.join("server.log"), b"")?;

        let plan = cgroup::Plan::new(&format!("{}-{short}", self.group), &self.limits());
        let cgroups = plan.dirs();
        for dir in &cgroups {
            self.options.guard.watch(&Message::Cgroup(dir.clone()))?;
        }
        let runtime = self.go_runtime();
        let child = self
            .command(&dir, &runtime)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| {
                let binary = self.options.binary.display();
                environment(format!("cannot start {binary}: {error}"))
            })?;
        let mut applied: Vec<String> = runtime
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        applied.extend(plan.apply(child.id()));
        Ok(Node {
            name,
            ports: self.ports[index],
            child,
            cgroups,
            applied,
            dir,
        })
    }

    fn config(&self, name: &str, index: usize, dir: &Path) -> String {
        ServerConfig {
            name,
            cluster: &format!("jsbench-{}", self.group),
            ports: self.ports[index],
            all_ports: self.ports,
            store_dir: &store_dir(dir),
            max_mem_bytes: self.options.max_mem_bytes,
            max_file_bytes: self.options.max_file_bytes,
            sync_interval: self.spec.sync_interval,
            encryption: self.spec.encryption,
            passwords: self.passwords,
        }
        .render()
    }

    fn command(&self, dir: &Path, runtime: &[(&str, String)]) -> Command {
        let mut command = Command::new(&self.options.binary);
        command
            // The guard knows a server by these two arguments.
            .arg("-c")
            .arg(dir.join("nats.conf"))
            // A GOGC or GODEBUG of the caller would silently change what is measured.
            .env_clear()
            .envs(runtime.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            // A Ctrl-C at the terminal is for jsbench, which then ends the servers in order.
            .process_group(0);
        if self.spec.encryption != Encryption::Off {
            command.env(config::KEY_VARIABLE, self.passwords.storage_key.expose());
        }
        command
    }

    /// The limits that Go's runtime keeps by itself.
    fn go_runtime(&self) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if let Some(cpus) = self.spec.cpus {
            let threads = cpus.ceil().max(1.0) as u64;
            variables.push(("GOMAXPROCS", threads.to_string()));
        }
        if let Some(bytes) = self.spec.memory_bytes {
            // The rest is for what Go does not count: page cache and stacks of the kernel.
            variables.push(("GOMEMLIMIT", (bytes / 5 * 4).to_string()));
        }
        variables
    }

    fn limits(&self) -> Vec<Limit> {
        let cpus = self.spec.cpus.map(Limit::Cpus);
        let memory = self.spec.memory_bytes.map(Limit::Memory);
        cpus.into_iter().chain(memory).collect()
    }
}

impl Node {
    pub(super) fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.monitor)
    }

    pub(super) fn store_dir(&self) -> PathBuf {
        store_dir(&self.dir)
    }

    pub(super) fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended, with its last words; `None` while it runs.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!(
            "server {} ended ({}); its log ends with:\n{}",
            self.name,
            describe(status),
            self.log_tail()
        ))
    }

    pub(super) fn log_tail(&self) -> String {
        tail(&self.dir.join("server.log"))
    }

    /// SIGKILL; nothing when it has ended already.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Blocks until it has ended, for `limit` at most; whether it has.
    pub(super) fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.running() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

fn store_dir(dir: &Path) -> PathBuf {
    dir.join("store")
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// The last lines of a log, fit for an error message.
fn tail(path: &Path) -> String {
    const LINES: usize = 6;
    const BYTES: u64 = 4096;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = match read() {
        Ok(text) => text,
        Err(error) => return format!("  (no log: {error})"),
    };
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("  {}", line.replace(char::is_control, " ")))
        .collect();
    if lines.is_empty() {
        return "  (it is empty)".to_owned();
    }
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_without_control_characters() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let log = dir.path().join("log");
        let text = "line\u{1b}[31m\n\n".repeat(2_000) + "last\n";
        std::fs::write(&log, text).expect("written");
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), 6);
        assert!(tail.ends_with("  line [31m\n  last"), "{tail}");
        assert!(super::tail(&dir.path().join("none")).contains("no log"));
    }
}
