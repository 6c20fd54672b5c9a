//! Embedded servers: one or three real nats-server processes on loopback, started for a group of
//! trials, sampled while it runs, ended after it.
//!
//! They listen on ports of their own, keep their streams in a directory of their own, and have
//! random passwords. Nothing of them outlives [`Servers`]: dropping it ends the processes and
//! removes directory and cgroups, and the guard does the same where jsbench was killed. The caller
//! is `engine`; connecting to them is the business of `nats`.

mod node;
mod probe;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::node::{Launch, Node};
use super::config::{self, Passwords};
use super::guard::{Guard, Message};
use super::ports::{self, Ports};
use super::{cgroup, monitor, process, store};
use crate::error::environment;
use crate::record::document::ServerInfo;
use crate::record::event::ServerSample;
use crate::scenario::model::Embedded;
use crate::secret::Secret;

/// From the start of the processes to a healthy cluster; a cluster of three takes about 3 s.
const READY_WAIT: Duration = Duration::from_secs(30);

/// How long a server may take to end, asked nicely or not.
const STOP_WAIT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(20);

/// First start and three more, with other ports each time.
const ATTEMPTS: usize = 4;

/// What [`start`] needs to know beyond the scenario.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The nats-server ([`super::find`]).
    pub binary: PathBuf,
    /// 16 hex digits.
    pub run_id: String,
    /// Limit of all file streams of a server.
    pub max_file_bytes: u64,
    /// Limit of all memory streams of a server.
    pub max_mem_bytes: u64,
    /// Told of all that is made, before it is made.
    pub guard: Guard,
}

/// Servers that run. Dropping it ends them at once and removes all they left.
#[derive(Debug)]
pub struct Servers {
    nodes: Vec<Node>,
    root: PathBuf,
    passwords: Passwords,
    infos: Vec<ServerInfo>,
    guard: Guard,
}

/// Why a start failed.
enum Trouble {
    /// Another process took a port meanwhile: worth another try with others.
    PortTaken(anyhow::Error),
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Starts the servers of `spec` and waits until they are ready to serve. An error names the server
/// and shows the last lines of its log; nothing is left of the attempt.
pub async fn start(spec: &Embedded, options: &StartOptions) -> anyhow::Result<Servers> {
    let mut attempt = 1;
    loop {
        let ports = match spec.port {
            Some(first) => ports::fixed(first, spec.servers)?,
            None => ports::free(spec.servers)?,
        };
        match launch(spec, options, &ports).await {
            Ok(servers) => return Ok(servers),
            Err(Trouble::Other(error)) => return Err(error),
            Err(Trouble::PortTaken(error)) => {
                if let Some(first) = spec.port {
                    let why = format!("{error:#}");
                    return Err(ports::taken(first, first, &why));
                }
                if attempt == ATTEMPTS {
                    return Err(
                        error.context(format!("no luck with free ports in {ATTEMPTS} attempts"))
                    );
                }
            }
        }
        attempt += 1;
    }
}

async fn launch(
    spec: &Embedded,
    options: &StartOptions,
    ports: &[Ports],
) -> Result<Servers, Trouble> {
    let id = options.run_id.get(..8).unwrap_or(&options.run_id);
    let group = format!("{id}-{:08x}", rand::random::<u32>());
    let root = make_root(spec, options, &group)?;
    // From here on dropping `servers` undoes whatever was done.
    let mut servers = Servers {
        nodes: Vec::new(),
        root,
        passwords: Passwords::random(),
        infos: Vec::new(),
        guard: options.guard.clone(),
    };
    for index in 0..ports.len() {
        let launch = Launch {
            spec,
            options,
            group: &group,
            root: &servers.root,
            ports,
            passwords: &servers.passwords,
        };
        let node = launch.spawn(index)?;
        let pid = node.child.id();
        servers.nodes.push(node);
        // `None`: it has ended already, which waiting for it will tell.
        if let Some(start_ticks) = process::start_ticks(pid) {
            options.guard.watch(&Message::Pid { pid, start_ticks })?;
        }
    }
    servers.wait_ready(id).await?;
    for node in &servers.nodes {
        let mut info = monitor::info(&node.monitor_url()).await?;
        if info.name != node.name {
            return Err(Trouble::PortTaken(environment(format!(
                "port {} is answered by the server {} instead of {}",
                node.ports.monitor, info.name, node.name
            ))));
        }
        info.cpus = spec.cpus.or(info.cpus);
        info.memory = spec.memory_bytes.or(info.memory);
        info.applied.clone_from(&node.applied);
        servers.infos.push(info);
    }
    Ok(servers)
}

/// Makes the directory of the group, told to the guard before it is there.
fn make_root(spec: &Embedded, options: &StartOptions, group: &str) -> anyhow::Result<PathBuf> {
    let parent = match &spec.store_dir {
        Some(dir) if !dir.is_dir() => {
            return Err(environment(format!(
                "target.store_dir {} is not a directory: make it, on the disk that is to be \
                 measured, or leave the key out to use {}",
                dir.display(),
                std::env::temp_dir().display()
            )));
        }
        Some(dir) => dir.clone(),
        None => std::env::temp_dir(),
    };
    let parent = std::path::absolute(&parent)?;
    if parent.to_str().is_none() {
        return Err(environment(format!(
            "target.store_dir {} is not UTF-8, which nats-server's configuration needs",
            parent.display()
        )));
    }
    let root = parent.join(format!("jsbench-{group}"));
    options.guard.watch(&Message::Dir(root.clone()))?;
    store::create(&root, &options.run_id).map_err(|error| {
        options.guard.forget(&Message::ForgetDir(root.clone()));
        environment(format!(
            "cannot make {} for the servers' streams: {error}; free space or choose another \
             target.store_dir",
            root.display()
        ))
    })?;
    Ok(root)
}

impl Servers {
    /// `nats://127.0.0.1:<port>` of each server, without credentials.
    pub fn urls(&self) -> Vec<String> {
        let url = |node: &Node| format!("nats://127.0.0.1:{}", node.ports.client);
        self.nodes.iter().map(url).collect()
    }

    /// `http://127.0.0.1:<port>` of each server's monitoring.
    pub fn monitor_urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::monitor_url).collect()
    }

    /// User and password of the account in which trials run.
    pub fn credentials(&self) -> (&'static str, &Secret) {
        (config::USER, &self.passwords.user)
    }

    /// User and password of the system account.
    pub fn system_credentials(&self) -> (&'static str, &Secret) {
        (config::SYSTEM_USER, &self.passwords.system)
    }

    /// What each server said of itself when it was ready, and which limits were applied.
    pub fn infos(&self) -> &[ServerInfo] {
        &self.infos
    }

    /// Server names: `<first 8 of the run id>-n1` and so on.
    pub fn names(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    /// Process ids, in the order of the names.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// The directory that holds everything of these servers.
    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// CPU time and memory of each server, now.
    pub fn sample(&self) -> Vec<ServerSample> {
        self.nodes
            .iter()
            .map(|node| {
                let usage = process::usage(node.child.id());
                ServerSample {
                    name: node.name.clone(),
                    cpu_ns: usage.map(|usage| usage.cpu_ns),
                    rss_bytes: usage.map(|usage| usage.rss_bytes),
                }
            })
            .collect()
    }

    /// Bytes that the file system has allocated for the store directories. Walks them, which
    /// blocks; where that hurts, [`super::allocated_bytes`] of [`Self::store_dirs`] on another
    /// thread says the same.
    pub fn disk_bytes(&self) -> u64 {
        let dirs = self.store_dirs();
        dirs.iter().map(|dir| store::allocated_bytes(dir)).sum()
    }

    /// Where each server keeps its streams.
    pub fn store_dirs(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(Node::store_dir).collect()
    }

    /// Which servers have ended though nobody asked them to, with the last lines of their logs.
    pub fn died(&mut self) -> Option<String> {
        let ends: Vec<String> = self.nodes.iter_mut().filter_map(Node::ended).collect();
        (!ends.is_empty()).then(|| ends.join("\n"))
    }

    /// Ends the servers, removes their directory and cgroups. They get no time to shut down
    /// unless `graceful`. An error names what could not be removed.
    pub async fn stop(mut self, graceful: bool) -> anyhow::Result<()> {
        if graceful {
            self.terminate().await;
        }
        // Removing gigabytes takes its time.
        tokio::task::spawn_blocking(move || self.end())
            .await
            .context("removing the servers' directory failed")?
    }

    async fn terminate(&mut self) {
        for node in &mut self.nodes {
            if node.running() {
                process::terminate(node.child.id());
            }
        }
        let deadline = Instant::now() + STOP_WAIT;
        while self.nodes.iter_mut().any(Node::running) && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_ready(&mut self, id: &str) -> Result<(), Trouble> {
        let deadline = Instant::now() + READY_WAIT;
        let servers = self.nodes.len() as u8;
        for index in 0..self.nodes.len() {
            loop {
                self.check_running()?;
                let node = &self.nodes[index];
                let Err(why) = monitor::ready(&node.monitor_url(), servers).await else {
                    break;
                };
                if Instant::now() >= deadline {
                    return Err(Trouble::Other(environment(format!(
                        "server {} was not ready within {} s: {why:#}; its log ends with:\n{}",
                        node.name,
                        READY_WAIT.as_secs(),
                        node.log_tail()
                    ))));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        let probed = if servers > 1 {
            let name = format!("JSB_{id}_probe");
            let url = &self.urls()[0];
            let replicas = usize::from(servers);
            probe::replicated_stream(url, self.credentials(), &name, replicas, deadline).await
        } else {
            Ok(())
        };
        // A server may have ended meanwhile, which then explains the rest.
        self.check_running()?;
        probed
            .context("the servers are healthy, but make no replicated stream")
            .map_err(Trouble::Other)
    }

    fn check_running(&mut self) -> Result<(), Trouble> {
        for node in &mut self.nodes {
            if let Some(end) = node.ended() {
                let taken = end.contains("address already in use");
                let error = environment(format!("while starting: {end}"));
                return Err(if taken {
                    Trouble::PortTaken(error)
                } else {
                    Trouble::Other(error)
                });
            }
        }
        Ok(())
    }

    /// Ends and removes everything, for the second time nothing. What could not be removed stays
    /// with the guard.
    fn end(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.kill();
        }
        let mut left = Vec::new();
        for mut node in std::mem::take(&mut self.nodes) {
            let pid = node.child.id();
            if !node.ends_within(STOP_WAIT) {
                left.push(format!("server {} (pid {pid}) does not end", node.name));
                continue;
            }
            self.guard.forget(&Message::ForgetPid(pid));
            for dir in node.cgroups {
                cgroup::remove(&dir);
                if dir.exists() {
                    left.push(format!("cgroup {} stays busy", dir.display()));
                } else {
                    self.guard.forget(&Message::ForgetCgroup(dir));
                }
            }
        }
        match store::remove(&self.root) {
            Ok(()) => self.guard.forget(&Message::ForgetDir(self.root.clone())),
            Err(error) => left.push(format!("cannot remove {}: {error}", self.root.display())),
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(environment(left.join("; ")))
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Whoever wants to know the outcome calls `stop`.
        let _ = self.end();
    }
}
