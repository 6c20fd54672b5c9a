//! A message that arrived, from either client.

use std::time::Instant;

use bytes::Bytes;

use crate::nats::wire::protocol::{Delivery, Headers};

/// A message that arrived.
#[derive(Debug)]
pub struct Inbound {
    body: Body,
    /// When it was read from the socket (wire) or taken from the client (async-nats).
    pub at: Instant,
}

#[derive(Debug)]
enum Body {
    Wire(Bytes, Delivery),
    AsyncNats(Box<async_nats::Message>),
}

impl Inbound {
    pub(in crate::nats) fn of_wire(frame: Bytes, parts: Delivery, at: Instant) -> Self {
        Self {
            body: Body::Wire(frame, parts),
            at,
        }
    }

    pub(super) fn of_async_nats(message: async_nats::Message) -> Self {
        Self {
            body: Body::AsyncNats(Box::new(message)),
            at: Instant::now(),
        }
    }

    pub(super) fn as_async_nats(&self) -> Option<&async_nats::Message> {
        match &self.body {
            Body::AsyncNats(message) => Some(message),
            Body::Wire(..) => None,
        }
    }

    /// Bytes it takes in memory, about.
    pub(in crate::nats) fn size_bytes(&self) -> usize {
        let own = match &self.body {
            Body::Wire(frame, _) => frame.len(),
            Body::AsyncNats(message) => message.length,
        };
        own + size_of::<Self>()
    }

    /// Subject.
    pub fn subject(&self) -> &[u8] {
        match &self.body {
            Body::Wire(frame, parts) => parts.subject.of(frame),
            Body::AsyncNats(message) => message.subject.as_str().as_bytes(),
        }
    }

    /// Where an answer goes; of a JetStream delivery, where its ack goes.
    pub fn reply(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Wire(frame, parts) => parts.reply.map(|reply| reply.of(frame)),
            Body::AsyncNats(message) => message
                .reply
                .as_ref()
                .map(|reply| reply.as_str().as_bytes()),
        }
    }

    /// Payload.
    pub fn payload(&self) -> &[u8] {
        match &self.body {
            Body::Wire(frame, parts) => parts.payload.of(frame),
            Body::AsyncNats(message) => &message.payload,
        }
    }

    /// Status of a control message: 100, 404, 503, …
    pub fn status(&self) -> Option<u16> {
        match &self.body {
            Body::Wire(_, parts) if parts.headers.is_empty() => None,
            Body::Wire(frame, parts) => Headers(parts.headers.of(frame)).status(),
            Body::AsyncNats(message) => message.status.map(|status| status.as_u16()),
        }
    }

    /// What a control message says in words; empty when nothing.
    pub fn description(&self) -> &str {
        match &self.body {
            Body::Wire(frame, parts) => Headers(parts.headers.of(frame)).description(),
            Body::AsyncNats(message) => message.description.as_deref(),
        }
        .unwrap_or_default()
    }

    /// The value of a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        match &self.body {
            Body::Wire(frame, parts) => Headers(parts.headers.of(frame)).get(name),
            Body::AsyncNats(message) => message
                .headers
                .as_ref()?
                .get(name)
                .map(async_nats::HeaderValue::as_str),
        }
    }
}
