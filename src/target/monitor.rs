//! What servers say of themselves on their HTTP monitoring ports.
//!
//! Reads `/varz`, `/jsz` and `/healthz`; asks nothing of the data plane. `embedded` uses it for
//! readiness and for the recorded description; `engine` for external servers with monitoring URLs.

use anyhow::{Context as _, bail, ensure};
use hyper::StatusCode;
use serde::Deserialize;

use super::config::ROUTE_POOL;
use crate::nats::monitor::{get_json, get_json_with_status};
use crate::record::document::ServerInfo;
use crate::record::event::ServerSample;

/// The fields of `/varz` used here.
#[derive(Debug, Deserialize)]
struct Varz {
    server_name: String,
    version: String,
    git_commit: Option<String>,
    gomaxprocs: Option<u32>,
    gomemlimit: Option<u64>,
    mem: Option<u64>,
    #[serde(default)]
    routes: u32,
}

/// The fields of `/jsz?config=true` used here. Absent objects mean that JetStream is off.
#[derive(Debug, Deserialize)]
struct Jsz {
    config: Option<JszConfig>,
    meta_cluster: Option<MetaCluster>,
}

#[derive(Debug, Deserialize)]
struct JszConfig {
    sync_interval: Option<u64>,
    /// Left out by the server when false.
    #[serde(default)]
    sync_always: bool,
}

#[derive(Debug, Deserialize)]
struct MetaCluster {
    #[serde(default)]
    leader: String,
    #[serde(default)]
    cluster_size: u32,
    /// The other servers; only the leader's view of them is right.
    #[serde(default)]
    replicas: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    name: String,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
}

/// Describes each of `monitor_urls` (`http://host:8222`), in that order. One that does not answer
/// is an error that names it.
pub async fn external_infos(monitor_urls: &[String]) -> anyhow::Result<Vec<ServerInfo>> {
    let mut infos = Vec::with_capacity(monitor_urls.len());
    for url in monitor_urls {
        infos.push(info(url).await.with_context(|| {
            format!("no server description at {url}; --monitor and target.monitor name the HTTP monitoring ports of the servers")
        })?);
    }
    Ok(infos)
}

/// Memory of each of `monitor_urls`, all asked at once. One that does not answer is left out, as a
/// server may be down for a while; CPU time is `None`, as `/varz` knows a percentage only.
pub async fn external_sample(monitor_urls: &[String]) -> Vec<ServerSample> {
    let looks = monitor_urls.iter().map(|url| varz(url));
    futures_util::future::join_all(looks)
        .await
        .into_iter()
        .flatten()
        .map(|varz| ServerSample {
            name: varz.server_name,
            cpu_ns: None,
            rss_bytes: varz.mem,
        })
        .collect()
}

/// One server's description.
pub(super) async fn info(monitor_url: &str) -> anyhow::Result<ServerInfo> {
    let varz = varz(monitor_url).await?;
    let config = jsz(monitor_url).await?.config;
    Ok(ServerInfo {
        name: varz.server_name,
        version: varz.version,
        git_commit: varz.git_commit,
        sync_interval_ns: config.as_ref().and_then(|config| config.sync_interval),
        sync_always: config.as_ref().map(|config| config.sync_always),
        cpus: varz.gomaxprocs.map(f64::from),
        // Go's way of saying that there is no limit.
        memory: varz
            .gomemlimit
            .filter(|limit| (1..i64::MAX as u64).contains(limit)),
        applied: Vec::new(),
    })
}

/// Whether a server is ready: healthy, connected to the other `servers` - 1 by all its routes, and
/// in a cluster that has a leader, by which the leader means that all others follow it. Without the
/// routes a first request to JetStream may get lost. The error says what is missing yet.
pub(super) async fn ready(monitor_url: &str, servers: u8) -> anyhow::Result<()> {
    let (status, health) = get_json_with_status(&address(monitor_url, "/healthz")).await?;
    ensure!(
        status == StatusCode::OK,
        "{}",
        health["error"].as_str().unwrap_or("it is not healthy yet")
    );
    let servers = u32::from(servers);
    if servers > 1 {
        let varz = varz(monitor_url).await?;
        // The pool for all accounts, and one of its own for the system account.
        let routes = (servers - 1) * (ROUTE_POOL + 1);
        ensure!(
            varz.routes >= routes,
            "it has {} of {routes} routes",
            varz.routes
        );
        let meta = jsz(monitor_url).await?.meta_cluster;
        let meta = meta.context("it is in no cluster yet")?;
        meta.ready(&varz.server_name, servers)?;
    }
    Ok(())
}

impl MetaCluster {
    /// Whether the meta group is complete, as far as the server `name` can know.
    fn ready(&self, name: &str, servers: u32) -> anyhow::Result<()> {
        ensure!(!self.leader.is_empty(), "it knows no meta leader yet");
        ensure!(
            self.cluster_size == servers,
            "it knows {} of {servers} servers",
            self.cluster_size
        );
        let behind = self
            .replicas
            .iter()
            .find(|peer| !peer.current || peer.offline);
        match behind {
            Some(peer) if self.leader == name => bail!("{} does not follow yet", peer.name),
            _ => Ok(()),
        }
    }
}

async fn varz(monitor_url: &str) -> anyhow::Result<Varz> {
    let url = address(monitor_url, "/varz");
    let value = get_json(&url).await?;
    serde_json::from_value(value).with_context(|| format!("{url} is not a nats-server's"))
}

async fn jsz(monitor_url: &str) -> anyhow::Result<Jsz> {
    let url = address(monitor_url, "/jsz?config=true");
    let value = get_json(&url).await?;
    serde_json::from_value(value).with_context(|| format!("{url} is not a nats-server's"))
}

fn address(monitor_url: &str, path: &str) -> String {
    format!("{}{path}", monitor_url.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(json: &str) -> MetaCluster {
        serde_json::from_str(json).expect("as a server writes it")
    }

    #[test]
    fn only_the_leader_is_asked_whether_the_others_follow() {
        let meta = meta(
            r#"{"leader":"n2","cluster_size":3,
                "replicas":[{"name":"n1","current":true},{"name":"n3","current":false}]}"#,
        );
        assert!(meta.ready("n1", 3).is_ok());
        let why = meta.ready("n2", 3).expect_err("n3 is behind").to_string();
        assert!(why.contains("n3"), "{why}");
    }

    #[test]
    fn a_cluster_without_a_leader_or_with_too_few_is_not_ready() {
        for json in [
            r#"{"leader":"","cluster_size":3}"#,
            r#"{"leader":"n1","cluster_size":2}"#,
        ] {
            assert!(meta(json).ready("n1", 3).is_err(), "{json}");
        }
        assert!(
            meta(r#"{"leader":"n1","cluster_size":3}"#)
                .ready("n1", 3)
                .is_ok()
        );
    }
}
