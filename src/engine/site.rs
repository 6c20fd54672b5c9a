//! The target of a group of trials while it is in use: servers we started, ones that were there,
//! or a stub.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::nats::api::Api;
use crate::nats::connect::connect;
use crate::nats::endpoint::{Auth, Endpoint};
use crate::record::document::ServerInfo;
use crate::record::event::ServerSample;
use crate::scenario::model::{Embedded, Stub};
use crate::target::{self, Guard, Servers, StartOptions, StubServer};

/// Where external servers are, resolved by the caller.
#[derive(Debug, Clone)]
pub struct Access {
    /// Data plane and API.
    pub endpoint: Endpoint,
    /// Monitoring URLs, may be empty.
    pub monitors: Vec<String>,
}

/// A target in use.
pub struct Site {
    servers: Option<Servers>,
    /// Lives as long as its site.
    _stub: Option<StubServer>,
    access: Access,
    api: Api,
    infos: Vec<ServerInfo>,
}

/// What embedded servers are started with.
pub struct Start<'a> {
    /// The nats-server.
    pub binary: PathBuf,
    /// 16 hex digits.
    pub run_id: String,
    /// What the file streams of a server may hold.
    pub max_file_bytes: u64,
    /// What its memory streams may hold.
    pub max_mem_bytes: u64,
    /// Outlives us.
    pub guard: &'a Guard,
}

impl Site {
    /// Starts embedded servers.
    pub async fn embedded(spec: &Embedded, start: Start<'_>) -> anyhow::Result<Self> {
        let options = StartOptions {
            binary: start.binary,
            run_id: start.run_id,
            max_file_bytes: start.max_file_bytes,
            max_mem_bytes: start.max_mem_bytes,
            guard: start.guard.clone(),
        };
        let servers = target::start(spec, &options).await?;
        let (user, password) = servers.credentials();
        let mut endpoint = Endpoint::parse(&servers.urls().join(","))?;
        endpoint.auth = Auth::UserPassword {
            user: user.to_owned(),
            password: password.clone(),
        };
        endpoint.ignore_discovered_servers = true;
        let access = Access {
            endpoint,
            monitors: servers.monitor_urls(),
        };
        let infos = servers.infos().to_vec();
        let api = api(&access.endpoint).await?;
        Ok(Self {
            servers: Some(servers),
            _stub: None,
            access,
            api,
            infos,
        })
    }

    /// Uses servers that are there.
    pub async fn external(access: Access) -> anyhow::Result<Self> {
        let api = api(&access.endpoint).await?;
        let mut infos = if access.monitors.is_empty() {
            Vec::new()
        } else {
            target::external_infos(&access.monitors).await?
        };
        if infos.is_empty() {
            let info = api.client().server_info();
            infos.push(ServerInfo {
                name: info.server_name,
                version: info.version,
                ..ServerInfo::default()
            });
        }
        Ok(Self {
            servers: None,
            _stub: None,
            access,
            api,
            infos,
        })
    }

    /// Starts a stub in this process. Nobody answers its JetStream API.
    pub async fn stub(spec: Stub) -> anyhow::Result<Self> {
        let stub = StubServer::start(spec)?;
        let mut endpoint = Endpoint::parse(&stub.url())?;
        endpoint.ignore_discovered_servers = true;
        let api = api(&endpoint).await?;
        Ok(Self {
            servers: None,
            _stub: Some(stub),
            access: Access {
                endpoint,
                monitors: Vec::new(),
            },
            api,
            infos: vec![StubServer::info()],
        })
    }

    /// How to connect.
    pub fn endpoint(&self) -> &Endpoint {
        &self.access.endpoint
    }

    /// Monitoring URLs.
    pub fn monitors(&self) -> &[String] {
        &self.access.monitors
    }

    /// The JetStream API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The servers as they described themselves.
    pub fn infos(&self) -> &[ServerInfo] {
        &self.infos
    }

    /// CPU and memory of servers we started; of others see [`target::external_sample`].
    pub fn sample(&self) -> Option<Vec<ServerSample>> {
        self.servers.as_ref().map(Servers::sample)
    }

    /// Allocated bytes of the stores; `None` if external.
    pub fn disk_bytes(&self) -> Option<u64> {
        self.servers.as_ref().map(Servers::disk_bytes)
    }

    /// Directories of the stores; `None` if external.
    pub fn store_dirs(&self) -> Option<Vec<PathBuf>> {
        self.servers.as_ref().map(Servers::store_dirs)
    }

    /// Servers that ended unbidden.
    pub fn died(&mut self) -> Option<String> {
        self.servers.as_mut().and_then(Servers::died)
    }

    /// Ends servers we started, and what they left.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.servers {
            Some(servers) => servers.stop(false).await,
            None => Ok(()),
        }
    }
}

async fn api(endpoint: &Endpoint) -> anyhow::Result<Api> {
    let client = connect(endpoint).await.context("cannot reach the target")?;
    Ok(Api::new(client, endpoint.js_api_prefix.clone()))
}
