//! The client's side of the NATS protocol without IO: [`parse`] turns the bytes of a server into
//! operations, the functions of [`encode`] write what a client says.
//!
//! Whoever moves the bytes keeps them: a parsed operation holds [`Span`]s relative to the first
//! byte that was passed to [`parse`], so that it stays valid for the frame that is split off.
//! Nothing is allocated, copied or checked for UTF-8 on the way of a message. JSON is the caller's.

pub mod encode;
mod headers;
#[cfg(test)]
mod tests;
mod violation;

pub use encode::{connect, ping, pong, publish, subscribe, unsubscribe};
pub use headers::Headers;
pub use violation::Violation;

use violation::excerpt;

/// Above this no limit goes, so that a [`Span`] can hold every place of a frame.
const HIGHEST_LIMIT_BYTES: usize = 1 << 30;
/// Subject, sid, reply, bytes of headers, bytes in all.
const MAX_WORDS: usize = 5;
/// A number of so many decimal digits may be above 64 bits.
const MAX_DIGITS: usize = 20;

/// A stretch of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub start: u32,
    /// The byte after its last one.
    pub end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes, of the frame that began with the first byte passed to [`parse`].
    ///
    /// # Panics
    /// On a frame that is shorter than what was parsed.
    pub fn of(self, frame: &[u8]) -> &[u8] {
        &frame[self.start as usize..self.end as usize]
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Its length in bytes.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// A message of the server: where its parts lie in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The subscription, by the number that it was given in [`subscribe`].
    pub sid: u64,
    /// Subject it was published to.
    pub subject: Span,
    /// Where an answer goes.
    pub reply: Option<Span>,
    /// The whole block of [`Headers`], from its version to its blank line; empty for a message
    /// without.
    pub headers: Span,
    /// Payload, without the CRLF behind it.
    pub payload: Span,
}

/// One operation of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `MSG` and `HMSG`.
    Message(Delivery),
    /// What the server says about itself, as JSON.
    Info(Span),
    /// Asks for a PONG.
    Ping,
    /// Answers a PING.
    Pong,
    /// Accepts an operation of a verbose client.
    Ok,
    /// Refuses something, in words; the quotes around them are not part of it.
    Err(Span),
}

/// How much a server may say at a time; what is above ends the connection before memory is taken
/// for it. No limit is above 1 GiB, whatever is written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A line without its end; four times the 4 KiB that a nats-server takes by default.
    pub line_bytes: usize,
    /// A line of INFO, which lists the servers of a cluster.
    pub info_bytes: usize,
    /// Headers and payload of one message.
    pub payload_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 16 << 10,
            info_bytes: 1 << 20,
            // No nats-server takes more than 64 MiB; headers that it adds itself come on top.
            payload_bytes: 65 << 20,
        }
    }
}

/// The operation at the beginning of `bytes`, and how many of them it takes with its last CRLF.
/// `None` when it is not whole yet.
///
/// # Errors
/// As soon as the bytes cannot become an operation within the limits: of a length that is too
/// large when its line is there, of a line that is too long when its limit is reached.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<(Op, usize)>, Violation> {
    Ok(match step(bytes, limits)? {
        Step::Whole(op, used) => Some((op, used)),
        Step::Wants(_) => None,
    })
}

/// How many more bytes there must be, at least, before [`parse`] has an operation or a refusal;
/// 0 when it has one. For a message whose line is there this is exact, else it is 1.
pub fn wanted(bytes: &[u8], limits: &Limits) -> usize {
    match step(bytes, limits) {
        Ok(Step::Wants(count)) => count,
        Ok(Step::Whole(..)) | Err(_) => 0,
    }
}

enum Step {
    Whole(Op, usize),
    Wants(usize),
}

fn step(bytes: &[u8], limits: &Limits) -> Result<Step, Violation> {
    // The first byte decides, so that the answer does not depend on how much has arrived.
    let limit_bytes = match bytes.first() {
        Some(b'I' | b'i') => limits.info_bytes,
        _ => limits.line_bytes,
    }
    .min(HIGHEST_LIMIT_BYTES);
    let with_end = limit_bytes + 2;
    let Some(feed) = memchr::memchr(b'\n', &bytes[..bytes.len().min(with_end)]) else {
        if bytes.len() < with_end {
            return Ok(Step::Wants(1));
        }
        return Err(line_violation(bytes, limit_bytes));
    };
    let line = bytes[..feed].strip_suffix(b"\r").unwrap_or(&bytes[..feed]);
    if line.len() > limit_bytes {
        return Err(line_violation(bytes, limit_bytes));
    }
    let after = feed + 1;
    // Messages first: they are nearly all of what a server says.
    if is(line, b"MSG") {
        return message(bytes, line, 3, after, limits);
    }
    if is(line, b"HMSG") {
        return message(bytes, line, 4, after, limits);
    }
    Ok(Step::Whole(other(line)?, after))
}

/// An operation that is nothing but a line.
fn other(line: &[u8]) -> Result<Op, Violation> {
    for (verb, op) in [
        (&b"PING"[..], Op::Ping),
        (b"PONG", Op::Pong),
        (b"+OK", Op::Ok),
    ] {
        if !is(line, verb) {
            continue;
        }
        if trimmed(line, verb.len()).is_empty() {
            return Ok(op);
        }
        return Err(arguments(line, "it takes no arguments"));
    }
    if is(line, b"-ERR") {
        return Ok(Op::Err(unquoted(line, trimmed(line, 4))));
    }
    if is(line, b"INFO") {
        let json = trimmed(line, 4);
        if json.is_empty() {
            return Err(arguments(line, "its JSON is missing"));
        }
        return Ok(Op::Info(json));
    }
    Err(Violation::Unknown {
        said: excerpt(line),
    })
}

/// `MSG subject sid [reply] bytes` or `HMSG subject sid [reply] header-bytes bytes`, and what
/// follows the line.
fn message(
    bytes: &[u8],
    line: &[u8],
    verb_bytes: usize,
    after: usize,
    limits: &Limits,
) -> Result<Step, Violation> {
    let Some((words, count)) = words(line, verb_bytes) else {
        return Err(arguments(line, "it has too many arguments"));
    };
    let (reply, header_bytes, length) = match (verb_bytes, count) {
        (3, 3) => (None, None, words[2]),
        (3, 4) => (Some(words[2]), None, words[3]),
        (4, 4) => (None, Some(words[2]), words[3]),
        (4, 5) => (Some(words[2]), Some(words[3]), words[4]),
        (_, ..4) => return Err(arguments(line, "it has too few arguments")),
        _ => return Err(arguments(line, "it has too many arguments")),
    };
    // Above 64 bits it comes back as the largest number, which no subscription of ours has.
    let sid = match number(words[1].of(line)) {
        Some(sid) if sid < u64::MAX => sid,
        _ => return Err(arguments(line, "its subscription is not a number")),
    };
    let Some(total) = number(length.of(line)) else {
        return Err(arguments(line, "its length is not a number"));
    };
    let limit_bytes = limits.payload_bytes.min(HIGHEST_LIMIT_BYTES);
    if total > limit_bytes as u64 {
        return Err(Violation::Payload {
            said: excerpt(line),
            announced: excerpt(length.of(line)),
            limit_bytes,
        });
    }
    let head = match header_bytes {
        None => 0,
        Some(word) => match number(word.of(line)) {
            Some(head) if head <= total => head as usize,
            Some(_) => return Err(arguments(line, "its headers are longer than all of it")),
            None => return Err(arguments(line, "the length of its headers is not a number")),
        },
    };
    let end = after + total as usize;
    let used = end + 2;
    if bytes.len() < used {
        return Ok(Step::Wants(used - bytes.len()));
    }
    if &bytes[end..used] != b"\r\n" {
        return Err(Violation::End {
            said: excerpt(line),
            found: excerpt(&bytes[end..used]),
        });
    }
    let delivery = Delivery {
        sid,
        subject: words[0],
        reply,
        headers: Span::new(after, after + head),
        payload: Span::new(after + head, end),
    };
    Ok(Step::Whole(Op::Message(delivery), used))
}

/// Whether a line has this verb, in letters of either case.
fn is(line: &[u8], verb: &[u8]) -> bool {
    line.len() >= verb.len()
        && line[..verb.len()].eq_ignore_ascii_case(verb)
        && line.get(verb.len()).is_none_or(|b| is_space(*b))
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// A line from a place on, without the spaces around it.
fn trimmed(line: &[u8], from: usize) -> Span {
    let rest = &line[from..];
    let Some(first) = rest.iter().position(|b| !is_space(*b)) else {
        return Span::new(from, from);
    };
    let last = rest.iter().rposition(|b| !is_space(*b)).unwrap_or(first);
    Span::new(from + first, from + last + 1)
}

/// A stretch of a line without the single quotes around it, if it has a pair.
fn unquoted(line: &[u8], span: Span) -> Span {
    let text = span.of(line);
    if text.len() >= 2 && text.starts_with(b"'") && text.ends_with(b"'") {
        return Span {
            start: span.start + 1,
            end: span.end - 1,
        };
    }
    span
}

/// The words of a line from a place on and how many there are; `None` above [`MAX_WORDS`].
fn words(line: &[u8], from: usize) -> Option<([Span; MAX_WORDS], usize)> {
    let mut words = [Span::default(); MAX_WORDS];
    let mut count = 0;
    let mut at = from;
    loop {
        while at < line.len() && is_space(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return Some((words, count));
        }
        let start = at;
        let gap = memchr::memchr2(b' ', b'\t', &line[start..]);
        at = gap.map_or(line.len(), |gap| start + gap);
        *words.get_mut(count)? = Span::new(start, at);
        count += 1;
    }
}

/// A number in decimal digits, the largest one when it is above 64 bits; `None` for anything else.
fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |d: &u8| u64::from(d - b'0');
    Some(if digits.len() < MAX_DIGITS {
        digits.iter().fold(0, |sum, d| sum * 10 + digit(d))
    } else {
        let next = |sum: u64, d| sum.saturating_mul(10).saturating_add(digit(d));
        digits.iter().fold(0, next)
    })
}

#[cold]
fn arguments(line: &[u8], wrong: &'static str) -> Violation {
    Violation::Arguments {
        said: excerpt(line),
        wrong,
    }
}

/// Of bytes that are at least as many as the limit, and show no more of them: the rest is there
/// or not, as it happens to arrive.
#[cold]
fn line_violation(bytes: &[u8], limit_bytes: usize) -> Violation {
    Violation::Line {
        said: excerpt(&bytes[..limit_bytes]),
        limit_bytes,
    }
}
