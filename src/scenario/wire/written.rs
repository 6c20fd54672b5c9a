//! Values that a scenario writes as one word or quantity: how their text is read and what is said
//! when it cannot be. A message is `what is wrong`, a line break, `the cure`.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::super::model::{
    Absence, Ack, Arrivals, ClientKind, ConsumerKind, Deliver, Encryption, Layout, Op, Pacing,
    PublishMode, PullStyle, Retention, Share, Storage, StreamKind, SyncInterval,
};
use crate::units::{UnitError, as_ns, parse_bytes, parse_duration, parse_rate};

/// Read from the text of one TOML value; numbers come as their digits, so that a number without
/// its unit is told apart from nonsense.
pub(in crate::scenario) trait Written: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

/// A value that is [`Written`].
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Text<T>(pub(in crate::scenario) T);

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);
        impl<T: Written> Visitor<'_> for TextVisitor<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                T::read(text).map_err(E::custom)
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_bool<E: Error>(self, flag: bool) -> Result<T, E> {
                self.visit_str(if flag { "true" } else { "false" })
            }
        }
        deserializer
            .deserialize_any(TextVisitor(PhantomData))
            .map(Self)
    }
}

/// A closed set of words.
pub(in crate::scenario) trait Words: Copy + 'static {
    /// What this version runs.
    const NOW: &'static [(&'static str, Self)];
    /// What the format knows and this version does not run.
    const LATER: &'static [&'static str] = &[];
}

/// A word of a set, or one that is only known.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) enum Choice<T> {
    Now(T),
    Later(&'static str),
}

impl<T: Words> Written for Choice<T> {
    fn read(text: &str) -> Result<Self, String> {
        if let Some((_, value)) = T::NOW.iter().find(|(word, _)| *word == text) {
            return Ok(Self::Now(*value));
        }
        if let Some(word) = T::LATER.iter().find(|word| **word == text) {
            return Ok(Self::Later(word));
        }
        let known: Vec<&str> = T::NOW
            .iter()
            .map(|(word, _)| *word)
            .chain(T::LATER.iter().copied())
            .collect();
        Err(format!(
            "`{text}` is not one of the words known here\n{}",
            super::super::decode::nearest(text, &known)
        ))
    }
}

macro_rules! words {
    ($type:ty, $($word:literal => $value:expr),+ $(; later $($later:literal),+)?) => {
        impl Words for $type {
            const NOW: &'static [(&'static str, Self)] = &[$(($word, $value)),+];
            $(const LATER: &'static [&'static str] = &[$($later),+];)?
        }
    };
}

/// Where NATS lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::scenario) enum TargetKind {
    Embedded,
    External,
    Stub,
}

/// `workload.path`, of which this version runs one.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Path;
/// `workload.workers`, of which this version runs one.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Workers;
/// `stream.discard`: whether the new one goes.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Discard(pub(in crate::scenario) bool);
/// `stream.compression`: whether it is on.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Compression(pub(in crate::scenario) bool);
/// `stream.persist`: whether it is asynchronous.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Persist(pub(in crate::scenario) bool);

words!(TargetKind,
    "embedded" => Self::Embedded, "external" => Self::External, "stub" => Self::Stub;
    later "kubernetes");
words!(Path, "nats" => Self; later "http");
words!(Workers, "task" => Self; later "process", "pod");
words!(Pacing, "sleep" => Self::Sleep, "spin" => Self::Spin);
words!(Arrivals, "uniform" => Self::Uniform, "poisson" => Self::Poisson);
words!(Discard, "old" => Self(false), "new" => Self(true));
words!(Compression, "none" => Self(false), "s2" => Self(true));
words!(Persist, "default" => Self(false), "async" => Self(true));
words!(Encryption, "off" => Self::Off, "aes" => Self::Aes, "chacha" => Self::ChaCha);
words!(StreamKind, "stream" => Self::Stream, "kv" => Self::Kv);
words!(Layout, "shared" => Self::Shared, "per-app" => Self::PerApp, "per-type" => Self::PerType);
words!(Storage, "file" => Self::File, "memory" => Self::Memory);
words!(Retention,
    "limits" => Self::Limits, "interest" => Self::Interest, "workqueue" => Self::WorkQueue);
words!(ConsumerKind,
    "none" => Self::None, "ordered" => Self::Ordered, "pull" => Self::Pull, "push" => Self::Push,
    "push-queue" => Self::PushQueue, "get" => Self::Get, "reply" => Self::Reply,
    "core" => Self::Core);
words!(PullStyle, "consume" => Self::Consume, "fetch" => Self::Fetch);
words!(Ack,
    "none" => Self::None, "all" => Self::All, "explicit" => Self::Explicit,
    "double" => Self::Double);
words!(Deliver,
    "all" => Self::All, "new" => Self::New, "last" => Self::Last,
    "last-per-subject" => Self::LastPerSubject);
words!(Share, "none" => Self::None, "app" => Self::App);
words!(PublishMode,
    "sync" => Self::Sync, "async" => Self::Async, "atomic-batch" => Self::AtomicBatch,
    "fast-ingest" => Self::FastIngest, "request" => Self::Request, "core" => Self::Core);
words!(ClientKind, "wire" => Self::Wire, "async-nats" => Self::AsyncNats);
words!(Absence,
    "limits" => Self::Limits, "ttl" => Self::Ttl, "purge" => Self::Purge,
    "max-deliver" => Self::MaxDeliver, "no-interest" => Self::NoInterest);

/// Turns `…; write for example …` of a unit error into message and cure.
pub(super) fn with_cure(error: &UnitError) -> String {
    error.0.replacen("; write", "\nwrite", 1)
}

/// A size.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Bytes(pub(in crate::scenario) u64);

impl Written for Bytes {
    fn read(text: &str) -> Result<Self, String> {
        parse_bytes(text).map(Self).map_err(|e| with_cure(&e))
    }
}

/// A span of time.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario) struct Span(pub(in crate::scenario) Duration);

impl Written for Span {
    fn read(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self).map_err(|e| with_cure(&e))
    }
}

impl Written for SyncInterval {
    fn read(text: &str) -> Result<Self, String> {
        if text == "always" {
            return Ok(Self::Always);
        }
        parse_duration(text).map(Self::Every).map_err(|e| {
            with_cure(&UnitError(e.0.replace(
                "is not a duration",
                "is neither a duration nor \"always\"",
            )))
        })
    }
}

/// `workload.payload`: a size, or a table with `kind`.
#[derive(Debug, Clone)]
pub(in crate::scenario) enum Payload {
    Size(u64),
    Table(PayloadTable),
}

/// The table form of a payload.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::scenario) struct PayloadTable {
    pub(in crate::scenario) kind: Option<Text<Choice<PayloadKind>>>,
    pub(in crate::scenario) size: Option<Text<Bytes>>,
    pub(in crate::scenario) compressible: Option<f64>,
    pub(in crate::scenario) path: Option<String>,
}

/// What a payload is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::scenario) enum PayloadKind {
    Random,
    File,
}

words!(PayloadKind, "random" => Self::Random, "file" => Self::File);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PayloadVisitor;
        impl<'de> Visitor<'de> for PayloadVisitor {
            type Value = Payload;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size or a table with `kind`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Payload, E> {
                let Bytes(size) = Bytes::read(text).map_err(E::custom)?;
                Ok(Payload::Size(size))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Payload, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Payload, A::Error> {
                PayloadTable::deserialize(MapAccessDeserializer::new(map)).map(Payload::Table)
            }
        }
        deserializer.deserialize_any(PayloadVisitor)
    }
}

/// `<= 50ms`: comparison, limit in the base unit, and the text.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::scenario) struct Limit {
    pub(in crate::scenario) op: Op,
    pub(in crate::scenario) value: f64,
    pub(in crate::scenario) text: String,
}

fn read_limit(
    text: &str,
    example: &str,
    value: impl Fn(&str) -> Result<f64, String>,
) -> Result<Limit, String> {
    let trimmed = text.trim();
    // The longer ones first: `<=` begins with `<`.
    let ops = [
        ("<=", Op::Le),
        (">=", Op::Ge),
        ("==", Op::Eq),
        ("<", Op::Lt),
        (">", Op::Gt),
    ];
    let Some((sign, op)) = ops.iter().find(|(sign, _)| trimmed.starts_with(sign)) else {
        return Err(format!(
            "`{text}` does not begin with a comparison\nwrite <, <=, ==, >= or >, for example \"{example}\""
        ));
    };
    let rest = trimmed[sign.len()..].trim();
    Ok(Limit {
        op: *op,
        value: value(rest)?,
        text: format!("{sign} {rest}"),
    })
}

/// A limit of a latency, in ns.
#[derive(Debug, Clone)]
pub(in crate::scenario) struct LatencyLimit(pub(in crate::scenario) Limit);
/// A limit of a rate, per second.
#[derive(Debug, Clone)]
pub(in crate::scenario) struct RateLimit(pub(in crate::scenario) Limit);
/// A limit of a count.
#[derive(Debug, Clone)]
pub(in crate::scenario) struct CountLimit(pub(in crate::scenario) Limit);

impl Written for LatencyLimit {
    fn read(text: &str) -> Result<Self, String> {
        read_limit(text, "<= 50ms", |rest| {
            parse_duration(rest)
                .map(|d| as_ns(d) as f64)
                .map_err(|e| with_cure(&e))
        })
        .map(Self)
    }
}

impl Written for RateLimit {
    fn read(text: &str) -> Result<Self, String> {
        // The name of a rate ends in per_s, so a plain number has its unit already.
        read_limit(text, ">= 5k/s", |rest| match plain_number(rest) {
            Some(number) => Ok(number),
            None => parse_rate(rest).map_err(|e| with_cure(&e)),
        })
        .map(Self)
    }
}

impl Written for CountLimit {
    fn read(text: &str) -> Result<Self, String> {
        read_limit(text, "== 0", |rest| {
            plain_number(rest)
                .filter(|n| n.fract() == 0.0)
                .ok_or_else(|| {
                    format!(
                        "`{rest}` is not a whole number of messages\nwrite for example \"== 0\" or \"<= 1_000\""
                    )
                })
        })
        .map(Self)
    }
}

fn plain_number(text: &str) -> Option<f64> {
    let digits = text.replace(['_', ','], "");
    let shaped = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    shaped.then(|| digits.parse().ok()).flatten()
}
