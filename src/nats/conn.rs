//! The data plane's seam: bytes out, messages in, each with its time. Publishers, subscribers and
//! acks go through here and nowhere else, so that a second protocol implementation can stand
//! behind it. Today async-nats does, below its JetStream context.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::{Sink, Stream};

/// A message to send.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// Subject.
    pub subject: Subject,
    /// Where an answer goes.
    pub reply: Option<Subject>,
    /// Headers.
    pub headers: Option<HeaderMap>,
    /// Payload.
    pub payload: Bytes,
}

/// A message that arrived.
#[derive(Debug)]
pub struct Inbound {
    /// Subject.
    pub subject: Subject,
    /// Where an answer goes; of a JetStream delivery, where its ack goes.
    pub reply: Option<Subject>,
    /// Status of a control message: 100, 404, 503, …
    pub status: Option<u16>,
    /// What a control message says in words.
    pub description: Option<String>,
    /// Headers.
    pub headers: Option<HeaderMap>,
    /// Payload.
    pub payload: Bytes,
    /// When it was taken from the connection.
    pub at: Instant,
}

impl Inbound {
    /// The value of a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .as_ref()?
            .get(name)
            .map(async_nats::HeaderValue::as_str)
    }
}

/// What a connection has been through; fed by the event callback of the client.
#[derive(Debug, Default)]
pub struct Link {
    down: AtomicBool,
    cuts: AtomicU64,
    dropped: AtomicU64,
}

impl Link {
    /// Notes an event of async-nats.
    pub fn on_event(&self, event: &async_nats::Event) {
        match event {
            async_nats::Event::Disconnected | async_nats::Event::Closed
                if !self.down.swap(true, Ordering::Relaxed) =>
            {
                self.cuts.fetch_add(1, Ordering::Relaxed);
            }
            async_nats::Event::Connected => self.down.store(false, Ordering::Relaxed),
            async_nats::Event::SlowConsumer(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// The connection is up.
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// How often it was cut. What was in flight at a cut is unknown.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Messages that the client itself dropped because nobody took them in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One connection. Cloning gives another handle on the same connection.
#[derive(Clone)]
pub struct Conn {
    client: async_nats::Client,
    link: Arc<Link>,
}

impl Conn {
    /// A connection over async-nats whose events are fed to `link`.
    pub fn over_async_nats(client: async_nats::Client, link: Arc<Link>) -> Self {
        Self { client, link }
    }

    /// What the connection has been through.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The largest payload the server takes.
    pub fn max_payload_bytes(&self) -> usize {
        self.client.max_payload()
    }

    /// A new inbox prefix, for replies below it.
    pub fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Subscribes; with `queue` as a member of that group.
    pub async fn subscribe(&self, subject: String, queue: Option<String>) -> anyhow::Result<Inbox> {
        let subscriber = match queue {
            Some(queue) => self.client.queue_subscribe(subject.clone(), queue).await,
            None => self.client.subscribe(subject.clone()).await,
        }
        .with_context(|| format!("cannot subscribe to `{subject}`"))?;
        Ok(Inbox { subscriber })
    }

    /// Sends one message as soon as the connection takes it.
    pub async fn send(&mut self, message: Outbound) -> anyhow::Result<()> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        self.start_send(message)
    }

    /// Whether the connection takes another message now; `Pending` while its queue is full: its
    /// socket takes no bytes, or its task had no turn on this thread. Never for the event loop's own
    /// reasons, which would look like a target that is full.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        let client = &mut self.client;
        let ready = tokio::task::unconstrained(poll_fn(|cx| Pin::new(&mut *client).poll_ready(cx)));
        std::pin::pin!(ready)
            .poll(cx)
            .map_err(|e| anyhow!("connection closed: {e}"))
    }

    /// Hands over a message after [`Self::poll_ready`] said so.
    pub fn start_send(&mut self, message: Outbound) -> anyhow::Result<()> {
        Pin::new(&mut self.client)
            .start_send(OutboundMessage {
                subject: message.subject,
                reply: message.reply,
                payload: message.payload,
                headers: message.headers,
            })
            .map_err(|e| anyhow!("cannot publish: {e}"))
    }

    /// A request with one answer, on an inbox of its own.
    pub async fn request(
        &self,
        subject: String,
        payload: Bytes,
        timeout: Duration,
    ) -> anyhow::Result<Inbound> {
        let request = async_nats::Request::new()
            .payload(payload)
            .timeout(Some(timeout));
        let answer = self
            .client
            .send_request(subject.clone(), request)
            .await
            .with_context(|| format!("request to `{subject}`"))?;
        Ok(inbound(answer))
    }

    /// A message to ourselves and back, through the server: proof that both directions work.
    pub async fn round_trip(&self, timeout: Duration) -> anyhow::Result<Duration> {
        let inbox = self.new_inbox();
        let mut own = self.subscribe(inbox.clone(), None).await?;
        let begun = Instant::now();
        let probe = Outbound {
            subject: inbox.into(),
            reply: None,
            headers: None,
            payload: Bytes::new(),
        };
        self.clone().send(probe).await?;
        let answer = tokio::time::timeout(timeout, own.next()).await;
        match answer {
            Ok(Some(answer)) => Ok(answer.at - begun),
            Ok(None) => Err(anyhow!("the connection closed during the probe")),
            Err(_) => Err(anyhow!("no answer to a core round trip within {timeout:?}")),
        }
    }

    /// Waits until everything handed over is in the socket.
    pub async fn flush(&self) -> anyhow::Result<()> {
        self.client
            .flush()
            .await
            .map_err(|e| anyhow!("cannot flush: {e}"))
    }

    /// Closes the connection after what was handed over is sent.
    pub async fn close(self) {
        // A connection that is already gone is closed enough.
        let _ = self.client.drain().await;
    }
}

/// A subscription.
pub struct Inbox {
    subscriber: async_nats::Subscriber,
}

impl Inbox {
    /// The next message; `None` after the connection or the subscription ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Inbound>> {
        Pin::new(&mut self.subscriber)
            .poll_next(cx)
            .map(|m| m.map(inbound))
    }

    /// The next message; `None` after the connection or the subscription ended.
    pub async fn next(&mut self) -> Option<Inbound> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

fn inbound(message: async_nats::Message) -> Inbound {
    Inbound {
        subject: message.subject,
        reply: message.reply,
        status: message.status.map(|s| s.as_u16()),
        description: message.description,
        headers: message.headers,
        payload: message.payload,
        at: Instant::now(),
    }
}
