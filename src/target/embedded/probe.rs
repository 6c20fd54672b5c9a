//! The last step of readiness of a cluster: whether it makes a replicated stream.
//!
//! Healthy servers that know their leader may still refuse one for some seconds: the leader places
//! replicas only on servers whose first statistics have reached it, and no monitoring port tells.
//! This is the one place in `target` that speaks NATS.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};

use crate::secret::Secret;

/// For one request; the caller's deadline is for all of them.
const REQUEST: Duration = Duration::from_secs(2);

const POLL: Duration = Duration::from_millis(50);

/// Makes and deletes a stream with `replicas` replicas, again and again until it works. An error
/// says what was missing at the deadline.
pub(super) async fn replicated_stream(
    url: &str,
    (user, password): (&str, &Secret),
    name: &str,
    replicas: usize,
    deadline: Instant,
) -> anyhow::Result<()> {
    let client = async_nats::ConnectOptions::new()
        .user_and_password(user.to_owned(), password.expose().to_owned())
        .connection_timeout(REQUEST)
        .connect(url)
        .await?;
    let mut context = jetstream::new(client);
    context.set_timeout(REQUEST);
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec![name.to_owned()],
        num_replicas: replicas,
        storage: stream::StorageType::Memory,
        ..stream::Config::default()
    };
    loop {
        let attempt = make_and_delete(&context, &config).await;
        if attempt.is_ok() || Instant::now() >= deadline {
            return attempt;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn make_and_delete(
    context: &jetstream::Context,
    config: &stream::Config,
) -> anyhow::Result<()> {
    // Made again with the same configuration it is the same stream, so an answer that was lost
    // does no harm.
    context.create_stream(config.clone()).await?;
    context.delete_stream(&config.name).await?;
    Ok(())
}
