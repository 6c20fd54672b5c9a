//! Connecting: TCP, TLS, credentials, and the list of servers to try.
//!
//! One attempt is [`dial`], the first connection of an endpoint is [`first`]; whoever reconnects
//! asks the [`Pool`] for a server and dials it. Reads the greeting line by line and stops behind
//! the PONG that says the server let us in: what follows is the protocol's. Called by the
//! connection's task.

mod greeting;
mod identity;
mod pool;
mod transport;

use std::io;
use std::time::Duration;

use anyhow::Result;
use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;

pub use self::greeting::Info;
use self::greeting::Lines;
pub use self::identity::Identity;
pub use self::pool::{Address, Pool};
pub use self::transport::Transport;
use crate::error::environment;
use crate::nats::connect::{attempt_timeout, overall_timeout};
pub use crate::nats::dial_error::DialError;
use crate::nats::endpoint::Endpoint;

/// A connection that the server let in.
#[derive(Debug)]
pub struct Dialled {
    /// The stream, with nothing unread of the greeting.
    pub transport: Transport,
    /// What the server said of itself last.
    pub info: Info,
    /// Bytes that came behind the PONG.
    pub rest: BytesMut,
    /// `host:port` of the server.
    pub server: String,
}

/// One attempt at one server within `timeout`: TCP, INFO, TLS, CONNECT and PING, until PONG.
pub async fn dial(
    server: &Address,
    endpoint: &Endpoint,
    identity: &Identity,
    timeout: Duration,
) -> Result<Dialled, DialError> {
    let deadline = Instant::now() + timeout;
    timeout_at(deadline, attempt(server, endpoint, identity, deadline))
        .await
        .unwrap_or(Err(DialError::Timeout))
}

/// The first connection: every server of the pool once, within the endpoint's deadline. The error
/// names the servers, the credentials by kind, and the cure.
pub async fn first(endpoint: &Endpoint, identity: &Identity, pool: &mut Pool) -> Result<Dialled> {
    let deadline = Instant::now() + overall_timeout(endpoint);
    let mut causes: Vec<(String, DialError)> = Vec::new();
    for _ in 0..pool.len() {
        let (server, wait) = pool.next();
        sleep(wait.min(deadline.saturating_duration_since(Instant::now()))).await;
        let left = deadline.saturating_duration_since(Instant::now());
        match dial(
            &server,
            endpoint,
            identity,
            attempt_timeout(endpoint).min(left),
        )
        .await
        {
            Ok(dialled) => {
                pool.succeeded();
                pool.learn(&dialled.info);
                return Ok(dialled);
            }
            Err(cause) => {
                pool.failed();
                if cause.is_about_credentials() {
                    return Err(environment(cause.explain(&server.url(), endpoint)));
                }
                causes.push((server.url(), cause));
            }
        }
    }
    Err(environment(explain_all(&causes, endpoint)))
}

/// Servers that fail for the same reason are named together.
fn explain_all(causes: &[(String, DialError)], endpoint: &Endpoint) -> String {
    let mut said: Vec<(String, Vec<&str>, &DialError)> = Vec::new();
    for (server, cause) in causes {
        let words = cause.explain("", endpoint);
        match said.iter_mut().find(|(known, ..)| *known == words) {
            Some((_, servers, _)) => servers.push(server),
            None => said.push((words, vec![server], cause)),
        }
    }
    let explained: Vec<String> = said
        .iter()
        .map(|(_, servers, cause)| cause.explain(&servers.join(","), endpoint))
        .collect();
    explained.join("\n")
}

async fn attempt(
    server: &Address,
    endpoint: &Endpoint,
    identity: &Identity,
    deadline: Instant,
) -> Result<Dialled, DialError> {
    let tcp = connect_tcp(server, deadline).await?;
    tcp.set_nodelay(true).map_err(greeting::failed)?;
    let mut lines = Lines::default();
    let (mut transport, info) = if endpoint.tls.first {
        let mut transport = handshake(tcp, server, identity).await?;
        let info = lines.greeting(&mut transport).await?;
        (transport, info)
    } else {
        let mut tcp = tcp;
        let info = lines.greeting(&mut tcp).await?;
        let transport = if server.tls() || endpoint.tls.must() || info.tls_required {
            if !(info.tls_required || info.tls_available) {
                return Err(DialError::NotTls);
            }
            // What came in the clear must not pass for what comes behind the handshake.
            lines.must_be_empty()?;
            handshake(tcp, server, identity).await?
        } else {
            Transport::Tcp(tcp)
        };
        (transport, info)
    };
    let tls = matches!(transport, Transport::Tls(_));
    let connect = identity.connect_line(&endpoint.name, tls, &info.nonce)?;
    let info = lines
        .introduce(&mut transport, connect.as_bytes(), info)
        .await?;
    Ok(Dialled {
        transport,
        info,
        rest: lines.into_rest(),
        server: server.to_string(),
    })
}

/// The first address of the host that takes a connection; each gets an equal share of the time.
async fn connect_tcp(server: &Address, deadline: Instant) -> Result<TcpStream, DialError> {
    let found = tokio::net::lookup_host((server.host(), server.port())).await;
    let addresses: Vec<_> = found.map_err(|_| DialError::Dns)?.collect();
    let mut last = DialError::Dns;
    for (i, address) in addresses.iter().enumerate() {
        let share =
            deadline.saturating_duration_since(Instant::now()) / (addresses.len() - i) as u32;
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                DialError::Refused
            }
            Ok(Err(error)) => DialError::Io(error),
            Err(_) => DialError::Timeout,
        };
    }
    Err(last)
}

async fn handshake(
    tcp: TcpStream,
    server: &Address,
    identity: &Identity,
) -> Result<Transport, DialError> {
    let name = ServerName::try_from(server.tls_name().to_owned())
        .map_err(|error| DialError::TlsSetup(error.to_string()))?;
    let stream = TlsConnector::from(identity.tls()?)
        .connect(name, tcp)
        .await
        .map_err(greeting::failed)?;
    Ok(Transport::Tls(Box::new(stream)))
}
