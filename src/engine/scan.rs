//! Reads streams back after the load: what is stored, for the ledger.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;

use super::stage::Stretch;
use crate::load::recorder::Recorder;
use crate::load::subscriber::{Config, Ledger, Received};
use crate::nats::api::Api;
use crate::nats::conn::{Client, Conn};
use crate::nats::endpoint::Endpoint;
use crate::nats::feed::{Feed, Source};

/// A scan that hears nothing for this long cannot be trusted to have read everything.
const SILENCE: Duration = Duration::from_secs(10);

/// Reads all of `stretches` with consumers whose names begin with `name`. Runs on a thread of its
/// own, since readers are not `Send`.
pub async fn scan(
    api: &Api,
    endpoint: &Endpoint,
    stretches: &[Stretch],
    name: &str,
    config: Config,
) -> anyhow::Result<Received> {
    let mut ends = Vec::new();
    for stretch in stretches {
        let state = api.stream(&stretch.stream).await?.state;
        if state.messages > 0 && state.last_seq >= stretch.from {
            ends.push((stretch.clone(), state.last_seq));
        }
    }
    let name = name.to_owned();
    let endpoint = endpoint.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("scan".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let result = match runtime {
                Ok(runtime) => tokio::task::LocalSet::new()
                    .block_on(&runtime, read_all(&endpoint, &ends, &name, config)),
                Err(e) => Err(e.into()),
            };
            // Nobody listens after an abort.
            let _ = tell.send(result);
        })?;
    told.await.context("the scan was ended")?
}

async fn read_all(
    endpoint: &Endpoint,
    ends: &[(Stretch, u64)],
    name: &str,
    config: Config,
) -> anyhow::Result<Received> {
    let conn = Conn::connect(endpoint, Client::Wire).await?;
    let recorder = Rc::new(RefCell::new(Recorder::new(false)));
    let mut ledger = Ledger::new(config, String::new(), 0, recorder);
    for (at, (stretch, last_seq)) in ends.iter().enumerate() {
        let stream = &stretch.stream;
        let source = Source::Ordered {
            api_prefix: endpoint.js_api_prefix.clone(),
            stream: stream.clone(),
            filter: stretch.filter.clone(),
            name: format!("{name}{at}"),
            deliver_policy: "all",
            from: stretch.from,
        };
        let mut feed = Feed::attach(conn.clone(), source).await?;
        loop {
            let delivery = tokio::time::timeout(SILENCE, feed.next())
                .await
                .with_context(|| format!("reading stream {stream} back: silence for {SILENCE:?}"))??
                .context("the connection closed while a stream was read back")?;
            ledger.note(at, &delivery);
            if delivery
                .meta
                .is_some_and(|m| m.stream_sequence >= *last_seq || m.pending == 0)
            {
                break;
            }
        }
    }
    conn.close().await;
    Ok(ledger.received())
}
