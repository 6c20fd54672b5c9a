//! Batches of publishes that share an ack, without IO: what to send where, what an answer means,
//! and which messages it settles. Publishers in `load` stand on it; they bring the connection, the
//! clock and the ids, and decide when a silence has been too long.
//!
//! Two protocols (nats-architecture-and-design ADR-50), each held against a real server by
//! `tests/batch.rs`: [`fast::Fast`] streams messages and hears from the server every so many of
//! them, [`atomic::Atomic`] stores a batch as a whole or not at all. Servers that do not know them
//! store the messages one by one, so ask [`check_level`] first. Neither works on a stream with
//! `no_ack`, which answers nothing.

pub mod atomic;
pub mod fast;

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::ensure;
use serde::Deserialize;

use crate::error::environment;

/// How long a server keeps a batch that nothing is heard of, unless its `limits.batch.timeout`
/// says otherwise. It says nothing when it abandons one; a ping keeps a fast one alive.
pub const SERVER_IDLE_LIMIT: Duration = Duration::from_secs(10);

/// The largest batch id in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// The code that stands for the status of an answer from nobody.
const NO_RESPONDERS: u16 = 503;

/// The server has no batch of that id, or none any more.
const UNKNOWN_BATCH: u32 = 10_208;

/// What a batch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stored as a whole, committed by its last message.
    Atomic,
    /// The same, committed by an extra message that is not stored.
    AtomicEnd,
    /// Fast ingest.
    Fast,
}

/// The JetStream API level a server must have: 1 is 2.11, 2 is 2.12.0, 3 is late 2.12, 4 is 2.14.
pub fn required_level(kind: Kind) -> u32 {
    match kind {
        Kind::Atomic => 2,
        Kind::AtomicEnd | Kind::Fast => 4,
    }
}

/// Whether a server can do it, from its version and the `api.level` of `$JS.API.INFO` or `/jsz`
/// (absent before 2.11: 0). An older one takes the messages of a batch for ordinary publishes.
pub fn check_level(kind: Kind, version: &str, level: u64) -> anyhow::Result<()> {
    let required = required_level(kind);
    let (what, since) = match kind {
        Kind::Atomic => ("an atomic batch", "2.12"),
        Kind::AtomicEnd => (
            "an atomic batch that ends with a message of its own",
            "2.14",
        ),
        Kind::Fast => ("fast ingest", "2.14"),
    };
    ensure!(
        level >= u64::from(required),
        environment(format!(
            "{what} needs nats-server {since} or newer (API level {required}), this one is \
             {version} (API level {level})"
        ))
    );
    Ok(())
}

/// What the server says to a message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Fast ingest: everything up to `seq` is stored, and `every` messages later comes the next.
    Flow {
        /// Batch sequence; 0 for the first message, whose fate stays open.
        seq: u64,
        /// Messages until the next.
        every: u32,
    },
    /// Fast ingest: a message came out of turn, and the batch ends before it.
    Gap {
        /// Batch sequence that should have come.
        expected: u64,
        /// Batch sequence that came.
        got: u64,
    },
    /// The batch is over; what it holds is stored.
    Committed {
        /// Its id.
        batch: String,
        /// Its last sequence. Not a number of stored messages: duplicates count.
        count: u64,
        /// Where the last message is in the stream.
        stream_seq: u64,
        /// The stream knew the message id.
        duplicate: bool,
    },
    /// The ack of an ordinary publish: the server took the message for one, and stored it.
    Stored {
        /// Where it is in the stream.
        stream_seq: u64,
    },
    /// A message, or the batch, was refused.
    Refused {
        /// `err_code` of the server, or 503 for no responders.
        code: u32,
        /// In the server's words.
        text: String,
        /// Batch sequence, if the answer names one; else it is that of the reply subject.
        seq: Option<u64>,
    },
    /// Atomic: the message is staged.
    Opened,
    /// Nothing this version knows.
    Unreadable,
}

/// Every key of every answer.
#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: Option<String>,
    error: Option<WireError>,
    stream: Option<String>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    last_seq: u64,
    #[serde(default)]
    msgs: u32,
    batch: Option<String>,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

/// Reads an answer from its payload and the status in its headers.
pub fn read_answer(payload: &[u8], status: Option<u16>) -> Answer {
    match status {
        Some(NO_RESPONDERS) => {
            return Answer::Refused {
                code: u32::from(NO_RESPONDERS),
                text: "no responders".to_owned(),
                seq: None,
            };
        }
        Some(_) => return Answer::Unreadable,
        None if payload.is_empty() => return Answer::Opened,
        None => {}
    }
    let Ok(wire) = serde_json::from_slice::<Wire>(payload) else {
        return Answer::Unreadable;
    };
    match (wire.kind.as_deref(), wire.error) {
        (Some("ack"), None) => Answer::Flow {
            seq: wire.seq,
            every: wire.msgs,
        },
        (Some("gap"), None) => Answer::Gap {
            expected: wire.last_seq,
            got: wire.seq,
        },
        (Some("err"), Some(error)) => refused(error, Some(wire.seq)),
        (None, Some(error)) => refused(error, None),
        (None, None) if wire.stream.is_some() => match wire.batch {
            Some(batch) => Answer::Committed {
                batch,
                count: wire.count,
                stream_seq: wire.seq,
                duplicate: wire.duplicate,
            },
            None => Answer::Stored {
                stream_seq: wire.seq,
            },
        },
        _ => Answer::Unreadable,
    }
}

fn refused(error: WireError, seq: Option<u64>) -> Answer {
    Answer::Refused {
        code: if error.err_code == 0 {
            error.code
        } else {
            error.err_code
        },
        text: error.description,
        seq,
    }
}

/// A refusal as a user should read it: the server's code and words, and what can be done.
pub fn cause(code: u32, text: &str) -> String {
    let cure = match code {
        503 => return text.to_owned(),
        10_167 => "its ingest queue is full",
        10_174 => "the stream needs allow_atomic",
        10_176 => {
            "a message of the batch did not arrive, there are too many batches at once, or the \
             server abandoned this one after its idle time (limits.batch.timeout, 10 s unless set)"
        }
        10_177 => "Nats-Msg-Id in an atomic batch needs nats-server 2.12.1",
        10_179 | 10_207 => "a batch id has at most 64 characters",
        10_185 => "the server is too old",
        10_199 => "more messages than the server takes in one batch (limits.batch.max_msgs)",
        10_200 => "to end a batch without storing a message needs nats-server 2.14",
        10_201 => "a Nats-Msg-Id is twice in the batch, or in the stream already",
        10_205 => "the stream needs allow_batched",
        UNKNOWN_BATCH => {
            "the batch ended, or the server abandoned it after its idle time \
             (limits.batch.timeout, 10 s unless set)"
        }
        10_210 | 10_211 => {
            "more batches at once than the server takes (limits.batch.max_inflight_per_stream, \
             max_inflight_total)"
        }
        _ => return format!("{code} {text}"),
    };
    format!("{code} {text}: {cure}")
}

/// Messages whose fate is known now. Each message of a batch is in exactly one of these by the
/// time the batch is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Batch sequences, from 1.
    pub seqs: RangeInclusive<u64>,
    /// How they ended.
    pub how: How,
}

/// How messages ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// The server has them.
    Acked,
    /// The server does not have them, and why.
    Refused(String),
    /// Nobody can tell, and why.
    Unknown(String),
}

/// An id becomes a token of a subject and the value of a header.
fn check_id(id: &str) -> anyhow::Result<()> {
    let wrong = |c: char| matches!(c, '.' | '*' | '>') || c.is_whitespace() || c.is_control();
    ensure!(
        !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.contains(wrong),
        "`{}` is no batch id: 1 to {MAX_ID_BYTES} bytes without blanks and . * >",
        id.escape_debug()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Answer {
        read_answer(text.as_bytes(), None)
    }

    /// As nats-server 2.15.1 and older ones write them.
    #[test]
    fn every_answer_of_a_server_is_read() {
        let refused = |code, text: &str, seq| Answer::Refused {
            code,
            text: text.to_owned(),
            seq,
        };
        for (text, answer) in [
            (
                r#"{"type":"ack","seq":1000,"msgs":250}"#,
                Answer::Flow {
                    seq: 1000,
                    every: 250,
                },
            ),
            (
                r#"{"type":"gap","last_seq":25,"seq":26}"#,
                Answer::Gap {
                    expected: 25,
                    got: 26,
                },
            ),
            (
                r#"{"type":"err","seq":101,"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#,
                refused(10_077, "maximum messages exceeded", Some(101)),
            ),
            (
                r#"{"error":{"code":400,"err_code":10208,"description":"batch publish ID unknown"},"stream":"S","seq":0}"#,
                refused(UNKNOWN_BATCH, "batch publish ID unknown", None),
            ),
            (
                r#"{"error":{"code":500,"description":"no err_code"}}"#,
                refused(500, "no err_code", None),
            ),
            (
                r#"{"stream":"S","seq":2755,"batch":"first","count":2000}"#,
                Answer::Committed {
                    batch: "first".to_owned(),
                    count: 2000,
                    stream_seq: 2755,
                    duplicate: false,
                },
            ),
            (
                r#"{"stream":"S","domain":"hub","seq":3,"duplicate": true,"batch":"b","count":1}"#,
                Answer::Committed {
                    batch: "b".to_owned(),
                    count: 1,
                    stream_seq: 3,
                    duplicate: true,
                },
            ),
            (
                r#"{"stream":"S", "seq":1}"#,
                Answer::Stored { stream_seq: 1 },
            ),
            ("", Answer::Opened),
            (r#"{"type":"new","seq":1}"#, Answer::Unreadable),
            (r#"{"seq":1}"#, Answer::Unreadable),
            ("+OK", Answer::Unreadable),
            (r#"{"type":"ack","seq":-1}"#, Answer::Unreadable),
        ] {
            assert_eq!(read(text), answer, "{text}");
        }
        assert_eq!(
            read_answer(b"", Some(503)),
            refused(503, "no responders", None)
        );
        assert_eq!(read_answer(b"", Some(100)), Answer::Unreadable);
    }

    #[test]
    fn a_cause_has_code_words_and_cure() {
        assert_eq!(
            cause(10_205, "batch publish is disabled"),
            "10205 batch publish is disabled: the stream needs allow_batched"
        );
        assert_eq!(
            cause(10_077, "maximum bytes exceeded"),
            "10077 maximum bytes exceeded"
        );
        assert_eq!(cause(503, "no responders"), "no responders");
    }

    #[test]
    fn a_server_that_is_too_old_is_named_with_its_version() {
        let error = check_level(Kind::Fast, "2.12.15", 3).expect_err("too old");
        assert_eq!(
            error.to_string(),
            "fast ingest needs nats-server 2.14 or newer (API level 4), this one is 2.12.15 (API \
             level 3)"
        );
        for (kind, level, fits) in [
            (Kind::Atomic, 1, false),
            (Kind::Atomic, 2, true),
            (Kind::AtomicEnd, 3, false),
            (Kind::AtomicEnd, 4, true),
            (Kind::Fast, 4, true),
            (Kind::Fast, 0, false),
        ] {
            let checked = check_level(kind, "x", level);
            assert_eq!(checked.is_ok(), fits, "{kind:?} {level}");
        }
    }

    #[test]
    fn ids_are_tokens_of_at_most_64_bytes() {
        for id in ["", "a.b", "a b", "*", ">", "a\r\n", &"x".repeat(65)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        assert!(check_id(&"x".repeat(64)).is_ok());
    }
}
