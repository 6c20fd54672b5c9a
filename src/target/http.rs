//! One GET of a small JSON document over plain HTTP: all that a monitoring port needs.
//!
//! No TLS, no redirects, no pooling. The caller is `monitor`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Far above what a server with thousands of streams answers to the questions asked here.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Status and body of `url`; a status other than 200 is no error, as `/healthz` uses 503.
pub(super) async fn get_json(url: &str) -> anyhow::Result<(StatusCode, serde_json::Value)> {
    tokio::time::timeout(TIMEOUT, exchange(url))
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs()))
        .and_then(|result| result)
        .with_context(|| format!("failed to read {url}"))
}

async fn exchange(url: &str) -> anyhow::Result<(StatusCode, serde_json::Value)> {
    let uri: Uri = url.parse().context("not a URL")?;
    if uri.scheme_str() != Some("http") {
        bail!("monitoring is read over http:// only");
    }
    let host = uri.host().context("the URL names no host")?;
    let port = uri.port_u16().unwrap_or(80);
    // An IPv6 address stands in brackets in a URL, and without them in a socket address.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", format!("{host}:{port}"))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let talk = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .to_bytes();
        let value = serde_json::from_slice(&body)
            .with_context(|| format!("the answer (status {status}) is not JSON"))?;
        anyhow::Ok((status, value))
    };
    // The connection must be driven, but it ends with the exchange and needs no task of its own.
    tokio::pin!(talk);
    tokio::select! {
        result = &mut talk => result,
        closed = connection => {
            closed?;
            // Closed by the server after its answer: what has arrived is buffered.
            talk.await
        }
    }
}
