//! What a connection has been through.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a connection has been through; written by its client, read by anyone.
#[derive(Debug, Default)]
pub struct Link {
    down: AtomicBool,
    cuts: AtomicU64,
    dropped: AtomicU64,
    lame_duck: AtomicBool,
    said: Mutex<Option<String>>,
}

impl Link {
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

    /// The server announced that it is about to go.
    pub fn is_lame_duck(&self) -> bool {
        self.lame_duck.load(Ordering::Relaxed)
    }

    /// The last thing that went wrong, in brackets behind another message; empty when nothing did.
    pub fn said(&self) -> String {
        match self.said.lock().ok().as_deref() {
            Some(Some(text)) => format!(" ({text})"),
            _ => String::new(),
        }
    }

    /// The connection is lost.
    pub(in crate::nats) fn cut(&self) {
        if !self.down.swap(true, Ordering::Relaxed) {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is there again.
    pub(in crate::nats) fn up(&self) {
        self.lame_duck.store(false, Ordering::Relaxed);
        self.down.store(false, Ordering::Relaxed);
    }

    /// The client dropped a message.
    pub(in crate::nats) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The server is about to go.
    pub(in crate::nats) fn announce_end(&self) {
        self.lame_duck.store(true, Ordering::Relaxed);
    }

    /// Something went wrong.
    pub(in crate::nats) fn say(&self, text: impl Into<String>) {
        if let Ok(mut said) = self.said.lock() {
            *said = Some(text.into());
        }
    }
}
