//! Looks at driver and servers while a trial runs. The quick part is read at once, so that its
//! time is right; what must be asked for comes later and goes into the same sample.

use tokio::sync::mpsc;

use super::site::Site;
use crate::measure::clock;
use crate::nats::api::Api;
use crate::record::event::Sample;
use crate::target;

/// Stored bytes and messages of streams, by their leaders.
pub async fn stored(api: &Api, streams: &[String]) -> Option<(u64, u64)> {
    let mut sum = (0, 0);
    for stream in streams {
        let state = api.stream(stream).await.ok()?.state;
        sum = (sum.0 + state.bytes, sum.1 + state.messages);
    }
    Some(sum)
}

/// Takes a sample; it arrives on `out` once the slow part is there. More streams than this are not
/// asked for each second.
pub fn take(
    site: &Site,
    trial: u32,
    start_ns: u64,
    streams: &[String],
    out: &mpsc::UnboundedSender<Sample>,
) {
    const MANY_STREAMS: usize = 32;
    let servers = site.sample();
    let external = servers.is_none();
    let mut sample = Sample {
        trial,
        at_ns: clock::now_ns()
            .cast_signed()
            .saturating_sub(start_ns.cast_signed()),
        driver_cpu_ns: clock::process_cpu_ns(),
        driver_rss_bytes: target::process::usage(std::process::id()).map_or(0, |u| u.rss_bytes),
        servers: servers.unwrap_or_default(),
        stored_bytes: None,
        stored_msgs: None,
        disk_bytes: None,
        machine: target::machine::read(),
    };
    let (api, out, monitors) = (site.api().clone(), out.clone(), site.monitors().to_vec());
    let streams = if streams.len() <= MANY_STREAMS {
        streams.to_vec()
    } else {
        Vec::new()
    };
    let stores = site.store_dirs();
    tokio::spawn(async move {
        // Walking the stores takes its time, which is not the coordinator's to give.
        let walk = tokio::task::spawn_blocking(move || {
            stores.map(|dirs| dirs.iter().map(|d| target::allocated_bytes(d)).sum())
        });
        sample.disk_bytes = walk.await.unwrap_or_default();
        if external && !monitors.is_empty() {
            sample.servers = target::external_sample(&monitors).await;
        }
        if !streams.is_empty()
            && let Some((bytes, msgs)) = stored(&api, &streams).await
        {
            sample.stored_bytes = Some(bytes);
            sample.stored_msgs = Some(msgs);
        }
        // The trial may be over by now, and then nobody asks any more.
        let _ = out.send(sample);
    });
}
