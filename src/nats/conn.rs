//! The data plane's seam: bytes out, messages in, each with its time. Publishers, subscribers and
//! acks go through here and nowhere else. Two clients stand behind it and check each other: the
//! wire client (`super::wire`), and async-nats below its JetStream context.
//!
//! A connection and all handles on it belong to one thread, inside a `LocalSet`.

mod foreign;
mod inbound;
mod link;
mod writes;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use async_nats::Subject;

pub use inbound::Inbound;
pub use link::Link;
pub(super) use writes::Writes;

use super::endpoint::Endpoint;
use super::wire::client as wire;
use foreign::{Foreign, ForeignInbox};
use std::sync::Arc;

/// Which client carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Our own protocol core.
    Wire,
    /// The official Rust client.
    AsyncNats,
}

/// A message to send. Its payload is `body` after the sender's last touch.
#[derive(Debug, Clone, Copy)]
pub struct Outbound<'a> {
    /// Subject.
    pub subject: &'a Subject,
    /// Where an answer goes.
    pub reply: Option<&'a str>,
    /// Headers, in order.
    pub headers: &'a [(&'a str, &'a str)],
    /// Payload.
    pub body: &'a [u8],
}

/// The place of a message in what a connection sends; [`Conn::left`] says when it left.
pub type Ticket = u64;

/// When messages left a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// When their bytes were given to the socket (wire) or to the client (async-nats).
    pub at: Instant,
    /// For how long the socket had taken nothing until then, all in all.
    pub blocked: Duration,
    /// Everything up to this ticket left then, or before.
    pub up_to: Ticket,
}

/// One connection. Cloning gives another handle on the same connection.
#[derive(Clone)]
pub struct Conn {
    inner: Inner,
    link: Arc<Link>,
}

#[derive(Clone)]
enum Inner {
    Wire(wire::Handle),
    AsyncNats(Foreign),
}

impl Conn {
    /// Connects, within the endpoint's deadline. The wire client needs a `LocalSet` to live in.
    ///
    /// # Errors
    /// Which server, with which credentials, why not, and the cure.
    pub async fn connect(endpoint: &Endpoint, client: Client) -> anyhow::Result<Self> {
        let link = Arc::new(Link::default());
        let inner = match client {
            Client::Wire => Inner::Wire(wire::connect(endpoint, link.clone()).await?),
            Client::AsyncNats => Inner::AsyncNats(Foreign::connect(endpoint, link.clone()).await?),
        };
        Ok(Self { inner, link })
    }

    /// What the connection has been through.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The largest payload the server takes, headers included.
    pub fn max_payload_bytes(&self) -> usize {
        match &self.inner {
            Inner::Wire(wire) => wire.max_payload_bytes(),
            Inner::AsyncNats(foreign) => foreign.max_payload_bytes(),
        }
    }

    /// A new inbox prefix, for replies below it.
    pub fn new_inbox(&self) -> String {
        match &self.inner {
            Inner::Wire(wire) => wire.new_inbox(),
            Inner::AsyncNats(foreign) => foreign.new_inbox(),
        }
    }

    /// Subscribes; with `queue` as a member of that group.
    pub async fn subscribe(&self, subject: String, queue: Option<String>) -> anyhow::Result<Inbox> {
        Ok(Inbox {
            inner: match &self.inner {
                Inner::Wire(wire) => InboxInner::Wire(wire.subscribe(subject, queue)),
                Inner::AsyncNats(foreign) => {
                    InboxInner::AsyncNats(foreign.subscribe(subject, queue).await?)
                }
            },
        })
    }

    /// Whether the connection takes another message now; `Pending` while it is down, or has a full
    /// buffer before a socket that takes nothing.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        match &mut self.inner {
            Inner::Wire(wire) => wire.poll_ready(cx),
            Inner::AsyncNats(foreign) => foreign.poll_ready(cx),
        }
    }

    /// Hands over a message after [`Self::poll_ready`] said so. `touch` may change the payload, not
    /// its length.
    pub fn publish(
        &mut self,
        message: &Outbound<'_>,
        touch: impl FnOnce(&mut [u8]),
    ) -> anyhow::Result<Ticket> {
        match &mut self.inner {
            Inner::Wire(wire) => Ok(wire.publish(message, touch)),
            Inner::AsyncNats(foreign) => foreign.publish(message, touch),
        }
    }

    /// Sends to where a message wants its answer, such as the ack of a delivery, as soon as the
    /// connection takes it. Nothing is sent when it wants none.
    pub async fn answer(
        &mut self,
        to: &Inbound,
        reply: Option<&str>,
        body: &[u8],
    ) -> anyhow::Result<()> {
        match &mut self.inner {
            Inner::Wire(wire) => wire.answer(to, reply, body).await,
            Inner::AsyncNats(foreign) => foreign.answer(to, reply, body).await,
        }
    }

    /// When the message of a ticket left; `None` while it has not.
    pub fn left(&self, ticket: Ticket) -> Option<Left> {
        match &self.inner {
            Inner::Wire(wire) => wire.left(ticket),
            Inner::AsyncNats(foreign) => foreign.left(ticket),
        }
    }

    /// Since when the socket takes nothing; `None` while it does, or where that cannot be known.
    pub fn blocked_since(&self) -> Option<Instant> {
        match &self.inner {
            Inner::Wire(wire) => wire.blocked_since(),
            Inner::AsyncNats(_) => None,
        }
    }

    /// For how long the socket has taken nothing, all in all; zero where that cannot be known.
    pub fn blocked(&self) -> Duration {
        match &self.inner {
            Inner::Wire(wire) => wire.blocked(),
            Inner::AsyncNats(_) => Duration::ZERO,
        }
    }

    /// The client tells exactly when its socket took nothing.
    pub fn knows_its_socket(&self) -> bool {
        matches!(self.inner, Inner::Wire(_))
    }

    /// Sends one message as soon as the connection takes it.
    pub async fn send(&mut self, message: &Outbound<'_>) -> anyhow::Result<()> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        self.publish(message, |_| {}).map(|_| ())
    }

    /// A request with one answer, on an inbox of its own.
    ///
    /// # Errors
    /// Nobody took it, or no answer came in time.
    pub async fn request(
        &self,
        subject: &str,
        body: &[u8],
        timeout: Duration,
    ) -> anyhow::Result<Inbound> {
        let reply = self.new_inbox();
        let mut own = self.subscribe(reply.clone(), None).await?;
        let message = Outbound {
            subject: &subject.into(),
            reply: Some(&reply),
            headers: &[],
            body,
        };
        let mut conn = self.clone();
        let ask = async {
            conn.send(&message).await?;
            anyhow::Ok(own.next().await)
        };
        match tokio::time::timeout(timeout, ask).await {
            Ok(Ok(Some(answer))) if answer.status() == Some(503) => {
                bail!("request to `{subject}`: nobody answers there")
            }
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => bail!("request to `{subject}`: the connection closed"),
            Err(_) => bail!(
                "request to `{subject}`: no answer within {timeout:?}{}",
                self.link.said()
            ),
        }
    }

    /// A message to ourselves and back, through the server: proof that both directions work.
    pub async fn round_trip(&self, timeout: Duration) -> anyhow::Result<Duration> {
        let inbox = Subject::from(self.new_inbox());
        let mut own = self.subscribe(inbox.to_string(), None).await?;
        let begun = Instant::now();
        let probe = Outbound {
            subject: &inbox,
            reply: None,
            headers: &[],
            body: &[],
        };
        let mut conn = self.clone();
        let probed = async {
            conn.send(&probe).await?;
            anyhow::Ok(own.next().await)
        };
        match tokio::time::timeout(timeout, probed).await {
            Ok(Ok(Some(answer))) => Ok(answer.at - begun),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => Err(anyhow!("the connection closed during the probe")),
            Err(_) => Err(anyhow!(
                "no answer to a core round trip within {timeout:?}{}",
                self.link.said()
            )),
        }
    }

    /// Waits until everything handed over is in the socket.
    pub async fn flush(&self) -> anyhow::Result<()> {
        match &self.inner {
            Inner::Wire(wire) => wire.flush().await,
            Inner::AsyncNats(foreign) => foreign.flush().await,
        }
    }

    /// Closes the connection after what was handed over is sent.
    pub async fn close(self) {
        match self.inner {
            Inner::Wire(wire) => wire.close().await,
            Inner::AsyncNats(foreign) => foreign.close().await,
        }
    }
}

/// A subscription; ends when it is dropped.
pub struct Inbox {
    inner: InboxInner,
}

enum InboxInner {
    Wire(wire::Subscription),
    AsyncNats(ForeignInbox),
}

impl Inbox {
    /// The next message; `None` after the connection or the subscription ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Inbound>> {
        match &mut self.inner {
            InboxInner::Wire(wire) => wire.poll_next(cx),
            InboxInner::AsyncNats(foreign) => foreign.poll_next(cx),
        }
    }

    /// The next message; `None` after the connection or the subscription ended.
    pub async fn next(&mut self) -> Option<Inbound> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}
