//! async-nats behind the seam: what an application with the official Rust client sees.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use async_nats::message::OutboundMessage;
use async_nats::{Event, HeaderMap, Subject};
use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream};

use super::{Inbound, Left, Link, Outbound, Ticket, Writes};
use crate::nats::connect::connect_with_events;
use crate::nats::endpoint::Endpoint;

/// Block from which payloads are cut; one allocation for many small messages.
const BLOCK_BYTES: usize = 64 << 10;

/// A connection of async-nats.
#[derive(Clone)]
pub(super) struct Foreign {
    client: async_nats::Client,
    sent: Rc<RefCell<Sent>>,
}

/// What was handed over.
#[derive(Default)]
struct Sent {
    count: Ticket,
    writes: Writes,
    block: BytesMut,
}

impl Foreign {
    pub(super) async fn connect(endpoint: &Endpoint, link: Arc<Link>) -> anyhow::Result<Self> {
        let client = connect_with_events(endpoint, move |event| note(&link, &event)).await?;
        Ok(Self {
            client,
            sent: Rc::default(),
        })
    }

    pub(super) fn max_payload_bytes(&self) -> usize {
        self.client.max_payload()
    }

    pub(super) fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    pub(super) async fn subscribe(
        &self,
        subject: String,
        queue: Option<String>,
    ) -> anyhow::Result<ForeignInbox> {
        let subscriber = match queue {
            Some(queue) => self.client.queue_subscribe(subject.clone(), queue).await,
            None => self.client.subscribe(subject.clone()).await,
        }
        .with_context(|| format!("cannot subscribe to `{subject}`"))?;
        Ok(ForeignInbox { subscriber })
    }

    /// `Pending` while the client's queue is full: its socket takes no bytes, or its task had no
    /// turn on this thread. Never for the event loop's own reasons, which would look like a target
    /// that is full.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        let client = &mut self.client;
        let ready = tokio::task::unconstrained(poll_fn(|cx| Pin::new(&mut *client).poll_ready(cx)));
        std::pin::pin!(ready)
            .poll(cx)
            .map_err(|e| anyhow!("connection closed: {e}"))
    }

    pub(super) fn publish(
        &mut self,
        message: &Outbound<'_>,
        touch: impl FnOnce(&mut [u8]),
    ) -> anyhow::Result<Ticket> {
        let (payload, ticket) = {
            let mut sent = self.sent.borrow_mut();
            let size = message.body.len();
            if sent.block.capacity() < size {
                sent.block = BytesMut::with_capacity(BLOCK_BYTES.max(size));
            }
            sent.block.extend_from_slice(message.body);
            touch(&mut sent.block);
            let payload = sent.block.split().freeze();
            sent.count += 1;
            let ticket = sent.count;
            sent.writes.note(ticket, Instant::now(), Duration::ZERO);
            (payload, ticket)
        };
        let headers = (!message.headers.is_empty()).then(|| headers(message.headers));
        self.hand_over(
            message.subject.clone(),
            message.reply.map(Subject::from),
            headers,
            payload,
        )?;
        Ok(ticket)
    }

    pub(super) async fn answer(
        &mut self,
        to: &Inbound,
        reply: Option<&str>,
        body: &[u8],
    ) -> anyhow::Result<()> {
        match to.as_async_nats().and_then(|m| m.reply.clone()) {
            Some(subject) => {
                poll_fn(|cx| self.poll_ready(cx)).await?;
                self.hand_over(
                    subject,
                    reply.map(Subject::from),
                    None,
                    Bytes::copy_from_slice(body),
                )
            }
            None => Ok(()),
        }
    }

    fn hand_over(
        &mut self,
        subject: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> anyhow::Result<()> {
        Pin::new(&mut self.client)
            .start_send(OutboundMessage {
                subject,
                reply,
                payload,
                headers,
            })
            .map_err(|e| anyhow!("cannot publish: {e}"))
    }

    pub(super) fn left(&self, ticket: Ticket) -> Option<Left> {
        self.sent.borrow().writes.left(ticket)
    }

    pub(super) async fn flush(&self) -> anyhow::Result<()> {
        self.client
            .flush()
            .await
            .map_err(|e| anyhow!("cannot flush: {e}"))
    }

    pub(super) async fn close(self) {
        // Draining only begins here, and a runtime that ends would end it. A connection that is
        // already gone is closed enough.
        let _ = self.client.flush().await;
        let _ = self.client.drain().await;
    }
}

/// A subscription of async-nats.
pub(super) struct ForeignInbox {
    subscriber: async_nats::Subscriber,
}

impl ForeignInbox {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Inbound>> {
        Pin::new(&mut self.subscriber)
            .poll_next(cx)
            .map(|m| m.map(Inbound::of_async_nats))
    }
}

fn note(link: &Link, event: &Event) {
    match event {
        Event::Disconnected | Event::Closed => link.cut(),
        Event::Connected => link.up(),
        Event::SlowConsumer(_) => link.drop_one(),
        Event::LameDuckMode => link.announce_end(),
        Event::ServerError(error) => link.say(error.to_string()),
        Event::ClientError(error) => link.say(error.to_string()),
        Event::Draining => {}
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, *value);
    }
    headers
}
