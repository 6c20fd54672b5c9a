//! HTTP monitoring of nats-server: what a server says of itself and of the streams it leads.
//!
//! Plain HTTP, one request per connection, with a deadline and a limit on the answer. Only what a
//! stream's leader says of it is right, so the rest is left out. Called by `target`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::error::usage;

/// How long one look may take.
pub const MONITOR_DEADLINE: Duration = Duration::from_secs(5);

/// The largest answer: `/jsz` of some ten thousand streams.
pub const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// `/varz`: a server about itself. What it does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Varz {
    /// Name, as in the leaders of streams.
    pub server_name: String,
    /// Version.
    pub version: String,
    /// Git commit.
    pub git_commit: Option<String>,
    /// Resident memory.
    pub mem_bytes: Option<u64>,
    /// CPU in percent of one core, as the server samples it.
    pub cpu_percent: Option<f64>,
    /// Cores of its machine.
    pub cores: Option<u32>,
    /// GOMAXPROCS.
    pub gomaxprocs: Option<u32>,
    /// GOMEMLIMIT, if one is set.
    pub gomemlimit_bytes: Option<u64>,
    /// Background fsync interval; `None` without JetStream.
    pub sync_interval_ns: Option<u64>,
    /// fsync before each ack; `None` without JetStream.
    pub sync_always: Option<bool>,
    /// The whole answer.
    pub raw: Value,
}

/// A stream as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLook {
    /// Account.
    pub account: String,
    /// Stream.
    pub stream: String,
    /// Server that leads it.
    pub leader: String,
    /// Messages.
    pub messages: u64,
    /// Stored bytes.
    pub bytes: u64,
}

/// Checks the base URL of a server's monitoring (`http://host:8222`) and drops a trailing slash.
pub fn parse_base(url: &str) -> Result<String> {
    // What may hold a secret is not repeated.
    if url.contains('@') {
        return Err(usage(
            "a monitoring URL with credentials is not supported; give http://host:8222",
        ));
    }
    let wrong = |why: &str| {
        usage(format!(
            "`{url}` is not a monitoring URL: {why}; write for example http://127.0.0.1:8222"
        ))
    };
    let uri: Uri = url.trim().parse().map_err(|_| wrong("it cannot be read"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong("https is not supported, give the plain port")),
        _ => return Err(wrong("it does not begin with http://")),
    }
    if uri.query().is_some() {
        return Err(wrong("it has a query"));
    }
    Ok(uri.to_string().trim_end_matches('/').to_owned())
}

/// Fetches a JSON document over plain HTTP. A status other than 200 is an error.
pub async fn get_json(url: &str) -> Result<Value> {
    let (status, body) = fetch(url).await?;
    if status != StatusCode::OK {
        bail!("monitoring at {url}: HTTP status {status}");
    }
    document(url, &body)
}

/// Fetches a JSON document whatever its status, as `/healthz` answers 503 with a reason.
pub async fn get_json_with_status(url: &str) -> Result<(StatusCode, Value)> {
    let (status, body) = fetch(url).await?;
    Ok((status, document(url, &body)?))
}

fn document(url: &str, body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body).with_context(|| {
        format!("monitoring at {url}: the answer is not JSON; is this a nats-server?")
    })
}

/// What a server says of itself.
pub async fn varz(base: &str) -> Result<Varz> {
    let url = format!("{base}/varz");
    read_varz(get_json(&url).await?).with_context(|| format!("monitoring at {url}"))
}

/// The streams that the server of this name leads.
pub async fn led_streams(base: &str, server_name: &str) -> Result<Vec<StreamLook>> {
    let url = format!("{base}/jsz?accounts=true&streams=true&stream-leader-only=true");
    let document = get_json(&url).await?;
    read_jsz(&document, server_name).with_context(|| format!("monitoring at {url}"))
}

/// Status and body of one GET, within the deadline.
async fn fetch(url: &str) -> Result<(StatusCode, Bytes)> {
    match tokio::time::timeout(MONITOR_DEADLINE, exchange(url)).await {
        Ok(answer) => answer.with_context(|| format!("monitoring at {url}")),
        Err(_) => bail!(
            "monitoring at {url}: no answer within {} s",
            MONITOR_DEADLINE.as_secs()
        ),
    }
}

async fn exchange(url: &str) -> Result<(StatusCode, Bytes)> {
    let uri: Uri = url.parse().context("not a URL")?;
    let authority = uri.authority().context("it has no host")?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))
        .await
        .context("cannot connect; is the address right and monitoring (http) enabled?")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
            .collect()
            .await
            .map_err(|error| anyhow!("reading the answer: {error}"))?
            .to_bytes();
        Ok((status, body))
    };
    // Dropping the connection when the exchange is over ends it.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        closed = &mut connection => {
            closed?;
            // All bytes are in; what is left is to take them.
            exchange.await
        }
    }
}

#[derive(Deserialize)]
struct VarzWire {
    server_name: String,
    version: String,
    git_commit: Option<String>,
    mem: Option<u64>,
    cpu: Option<f64>,
    cores: Option<u32>,
    gomaxprocs: Option<u32>,
    gomemlimit: Option<u64>,
    jetstream: Option<JetStreamWire>,
}

#[derive(Deserialize)]
struct JetStreamWire {
    config: Option<JetStreamConfigWire>,
}

#[derive(Deserialize)]
struct JetStreamConfigWire {
    sync_interval: Option<u64>,
    #[serde(default)]
    sync_always: bool,
}

fn read_varz(raw: Value) -> Result<Varz> {
    let wire = VarzWire::deserialize(&raw).context("this is not /varz of a nats-server")?;
    let jetstream = wire.jetstream.and_then(|jetstream| jetstream.config);
    Ok(Varz {
        server_name: wire.server_name,
        version: wire.version,
        git_commit: wire.git_commit.filter(|commit| !commit.is_empty()),
        mem_bytes: wire.mem,
        cpu_percent: wire.cpu,
        cores: wire.cores,
        gomaxprocs: wire.gomaxprocs,
        gomemlimit_bytes: wire.gomemlimit.filter(|limit| *limit > 0),
        sync_interval_ns: jetstream.as_ref().and_then(|config| config.sync_interval),
        sync_always: jetstream.map(|config| config.sync_always),
        raw,
    })
}

#[derive(Deserialize)]
struct JszWire {
    #[serde(default)]
    account_details: Vec<AccountWire>,
}

#[derive(Deserialize)]
struct AccountWire {
    name: String,
    #[serde(default)]
    stream_detail: Vec<StreamWire>,
}

#[derive(Deserialize)]
struct StreamWire {
    name: String,
    #[serde(default)]
    cluster: BTreeMap<String, Value>,
    state: StateWire,
}

#[derive(Deserialize)]
struct StateWire {
    messages: u64,
    bytes: u64,
}

/// Older servers ignore `stream-leader-only`, so leadership is looked at here.
fn read_jsz(document: &Value, server_name: &str) -> Result<Vec<StreamLook>> {
    let wire = JszWire::deserialize(document).context("this is not /jsz of a nats-server")?;
    let mut led = Vec::new();
    for account in wire.account_details {
        for stream in account.stream_detail {
            // Without a cluster there is nobody else to lead.
            let leader = match stream.cluster.get("leader") {
                Some(name) => name.as_str().unwrap_or_default(),
                None if stream.cluster.contains_key("name") => "",
                None => server_name,
            };
            if leader == server_name {
                led.push(StreamLook {
                    account: account.name.clone(),
                    stream: stream.name,
                    leader: leader.to_owned(),
                    messages: stream.state.messages,
                    bytes: stream.state.bytes,
                });
            }
        }
    }
    Ok(led)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn a_base_url_is_plain_http() {
        assert_eq!(
            parse_base("http://h:8222/").expect("valid"),
            "http://h:8222"
        );
        assert_eq!(
            parse_base(" http://[::1]:8222 ").expect("valid"),
            "http://[::1]:8222"
        );
        for (url, says) in [
            ("https://h:8222", "https is not supported"),
            ("h:8222", "http://"),
            ("nats://h", "does not begin with http://"),
            ("http://h/?a=b", "query"),
            ("http://u:hunter2@h", "with credentials"),
            ("", "cannot be read"),
        ] {
            let error = parse_base(url).expect_err(url).to_string();
            assert!(
                error.contains(says) && !error.contains("hunter2"),
                "{url}: {error}"
            );
        }
    }

    #[test]
    fn only_what_a_leader_says_is_taken() {
        let stream = |name: &str, cluster: Option<Value>| {
            let mut stream = json!({"name": name, "state": {"messages": 1, "bytes": 2}});
            if let Some(cluster) = cluster {
                stream["cluster"] = cluster;
            }
            stream
        };
        let document = json!({"account_details": [{"name": "A", "stream_detail": [
            stream("MINE", Some(json!({"name": "c", "leader": "n1"}))),
            stream("THEIRS", Some(json!({"name": "c", "leader": "n2"}))),
            stream("NOBODYS", Some(json!({"name": "c"}))),
            stream("ALONE", None),
        ]}]});
        let names: Vec<String> = read_jsz(&document, "n1")
            .expect("readable")
            .into_iter()
            .map(|look| look.stream)
            .collect();
        assert_eq!(names, ["MINE", "ALONE"]);
        assert!(read_jsz(&json!({}), "n1").expect("readable").is_empty());
    }

    #[test]
    fn what_a_server_does_not_say_is_none() {
        let varz = read_varz(json!({"server_name": "n1", "version": "2.9.0"})).expect("readable");
        assert_eq!((varz.sync_always, varz.gomemlimit_bytes), (None, None));
        assert!(read_varz(json!({"hello": 1})).is_err());
    }

    /// Answers one request with these bytes and closes.
    async fn serve(answer: &'static [u8]) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("port");
        let url = format!("http://{}/varz", listener.local_addr().expect("address"));
        tokio::spawn(async move {
            if let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            }
        });
        url
    }

    #[tokio::test]
    async fn answers_that_are_no_json_are_errors_that_name_the_url() {
        let url = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
        assert_eq!(get_json(&url).await.expect("readable"), json!({"a": 1}));
        for (answer, says) in [
            (
                &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nping"[..],
                "not JSON",
            ),
            (
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
                "404",
            ),
            (b"INFO {}\r\n", ""),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", ""),
        ] {
            let url = serve(answer).await;
            let error = format!("{:#}", get_json(&url).await.expect_err("unusable"));
            assert!(error.contains(&url) && error.contains(says), "{error}");
        }
    }
}
