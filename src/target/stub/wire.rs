//! What a client of NATS says, read without IO: bytes in, operations out. Knows the part of the
//! protocol that the stub speaks.

use memchr::{memchr, memchr2, memchr2_iter, memrchr};

/// A line without its payload may have this many bytes, as with a nats-server.
pub const MAX_LINE_BYTES: usize = 4096;
/// A payload may have this many, headers included.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// What is asked of a socket at a time; grows up to one message of the largest size.
const READ_BYTES: usize = 128 << 10;
/// Holds one message of the largest size, and has room.
const LARGEST_BYTES: usize = MAX_LINE_BYTES + MAX_PAYLOAD_BYTES + READ_BYTES;

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Options as JSON.
    Connect(&'a [u8]),
    /// Asks for a PONG.
    Ping,
    /// Answers a PING.
    Pong,
    /// Subscribes.
    Subscribe {
        /// Subject, may hold wildcards.
        subject: &'a [u8],
        /// Queue group.
        queue: Option<&'a [u8]>,
        /// The client's number of it.
        sid: &'a [u8],
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The client's number of it.
        sid: &'a [u8],
        /// After this many messages in all; at once when `None`.
        max: Option<u64>,
    },
    /// Publishes.
    Publish {
        /// Subject.
        subject: &'a [u8],
        /// Where an answer goes.
        reply: Option<&'a [u8]>,
        /// How many bytes of `payload` are headers; `None` for a message without.
        header_bytes: Option<usize>,
        /// Headers and payload.
        payload: &'a [u8],
    },
}

/// What a client may not say; it is told and cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// No operation, or one whose arguments are wrong.
    Unknown,
    /// A line above [`MAX_LINE_BYTES`].
    Line,
    /// A payload above [`MAX_PAYLOAD_BYTES`].
    Payload,
}

impl Violation {
    /// As the protocol says it.
    pub fn line(self) -> &'static [u8] {
        match self {
            Self::Unknown => b"-ERR 'Unknown Protocol Operation'\r\n",
            Self::Line => b"-ERR 'Maximum Control Line Exceeded'\r\n",
            Self::Payload => b"-ERR 'Maximum Payload Violation'\r\n",
        }
    }
}

/// Bytes that arrived and are not read yet. Bounded by the largest message.
#[derive(Debug)]
pub struct Inlet {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inlet {
    /// Empty.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; READ_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// Where the next bytes go, never empty once [`Self::next`] has no more to give.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < READ_BYTES / 2 {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            if self.bytes.len() - self.end < READ_BYTES / 2 {
                let length = (self.bytes.len() * 2).min(LARGEST_BYTES);
                self.bytes.resize(length, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were put into [`Self::room`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The next whole operation, if there is one.
    pub fn next(&mut self) -> Result<Option<Op<'_>>, Violation> {
        let Some((op, used)) = parse(&self.bytes[self.start..self.end])? else {
            return Ok(None);
        };
        self.start += used;
        Ok(Some(op))
    }
}

/// The operation at the beginning of `bytes`, and how many of them it takes.
fn parse(bytes: &[u8]) -> Result<Option<(Op<'_>, usize)>, Violation> {
    let most = bytes.len().min(MAX_LINE_BYTES + 2);
    let Some(feed) = memchr(b'\n', &bytes[..most]) else {
        return if most == MAX_LINE_BYTES + 2 {
            Err(Violation::Line)
        } else {
            Ok(None)
        };
    };
    let line = bytes[..feed].strip_suffix(b"\r").unwrap_or(&bytes[..feed]);
    let verb_end = memchr2(b' ', b'\t', line).unwrap_or(line.len());
    let (verb, rest) = line.split_at(verb_end);
    let (words, count) = words(rest)?;
    let after = feed + 1;
    let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
    let op = if is(b"PUB") || is(b"HPUB") {
        return publish(bytes, after, &words[..count], is(b"HPUB"));
    } else if is(b"PING") {
        Op::Ping
    } else if is(b"PONG") {
        Op::Pong
    } else if is(b"CONNECT") {
        Op::Connect(rest.trim_ascii())
    } else if is(b"SUB") {
        match words[..count] {
            [subject, sid] => Op::Subscribe {
                subject,
                queue: None,
                sid,
            },
            [subject, queue, sid] => Op::Subscribe {
                subject,
                queue: Some(queue),
                sid,
            },
            _ => return Err(Violation::Unknown),
        }
    } else if is(b"UNSUB") {
        match words[..count] {
            [sid] => Op::Unsubscribe { sid, max: None },
            [sid, max] => Op::Unsubscribe {
                sid,
                max: Some(number(max)? as u64),
            },
            _ => return Err(Violation::Unknown),
        }
    } else {
        return Err(Violation::Unknown);
    };
    Ok(Some((op, after)))
}

fn publish<'a>(
    bytes: &'a [u8],
    after: usize,
    words: &[&'a [u8]],
    headers: bool,
) -> Result<Option<(Op<'a>, usize)>, Violation> {
    let (subject, reply, header_bytes, length) = match (headers, words) {
        (false, [subject, length]) => (subject, None, None, length),
        (false, [subject, reply, length]) => (subject, Some(*reply), None, length),
        (true, [subject, head, length]) => (subject, None, Some(number(head)?), length),
        (true, [subject, reply, head, length]) => {
            (subject, Some(*reply), Some(number(head)?), length)
        }
        _ => return Err(Violation::Unknown),
    };
    let length = number(length)?;
    if length > MAX_PAYLOAD_BYTES {
        return Err(Violation::Payload);
    }
    if header_bytes.is_some_and(|head| head > length) {
        return Err(Violation::Unknown);
    }
    let end = after + length;
    let Some(close) = bytes.get(end..end + 2) else {
        return Ok(None);
    };
    if close != b"\r\n" {
        return Err(Violation::Unknown);
    }
    let op = Op::Publish {
        subject,
        reply,
        header_bytes,
        payload: &bytes[after..end],
    };
    Ok(Some((op, end + 2)))
}

/// The words of a line and how many there are. No operation has more than four; of CONNECT, whose
/// JSON may have any number, nobody asks.
fn words(rest: &[u8]) -> Result<([&[u8]; 4], usize), Violation> {
    let mut words: [&[u8]; 4] = [b""; 4];
    let mut count = 0;
    let mut from = 0;
    for space in memchr2_iter(b' ', b'\t', rest).chain([rest.len()]) {
        let word = &rest[from..space];
        from = space + 1;
        if word.is_empty() {
            continue;
        }
        if count == 0 && word.starts_with(b"{") {
            break;
        }
        *words.get_mut(count).ok_or(Violation::Unknown)? = word;
        count += 1;
    }
    Ok((words, count))
}

fn number(digits: &[u8]) -> Result<usize, Violation> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Violation::Unknown);
    }
    if digits.len() > 9 {
        // Above every limit.
        return Err(Violation::Payload);
    }
    Ok(digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}

/// Whether a subscription's subject takes a message's.
pub fn matches(pattern: &[u8], subject: &[u8]) -> bool {
    // Replies differ from what takes them in their last tokens.
    let alike = pattern.iter().zip(subject).take_while(|(p, s)| p == s);
    let alike = &subject[..alike.count()];
    let from = memrchr(b'.', alike).map_or(0, |dot| dot + 1);
    let mut tokens = subject[from..].split(|b| *b == b'.');
    for want in pattern[from..].split(|b| *b == b'.') {
        let token = tokens.next();
        match (want, token) {
            (b">", token) => return token.is_some(),
            (b"*", Some(_)) => {}
            (want, Some(token)) if want == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds bytes in pieces as a socket would, and tells each operation in words.
    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, Violation> {
        let mut inlet = Inlet::new();
        let mut told = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let room = inlet.room();
                let count = room.len().min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                inlet.filled(count);
                rest = &rest[count..];
                while let Some(op) = inlet.next()? {
                    told.push(format!("{op:?}"));
                }
            }
        }
        Ok(told)
    }

    const TALK: &[u8] = b"CONNECT {\"verbose\": false, \"name\": \"a b c d e f\"}\r\nPING\r\n\
        SUB _INBOX.a.*.* 1\r\nsub jobs workers 22\r\nPUB jsb.x 5\r\nhello\r\n\
        PUB jsb.x _INBOX.a.0.0 4\r\n\r\n\r\n\r\nHPUB a.b r.s 12 14\r\nNATS/1.0\r\n\r\nhi\r\n\
        HPUB a.b 12 12\r\nNATS/1.0\r\n\r\n\r\nPUB\ta  0\r\n\r\nUNSUB 1 5\r\nUNSUB 1\r\nPONG\r\n";

    #[test]
    fn operations_are_the_same_however_the_bytes_are_split() {
        let whole = read(&[TALK]).expect("sound");
        assert_eq!(whole.len(), 12, "{whole:#?}");
        for at in 0..=TALK.len() {
            let (a, b) = TALK.split_at(at);
            assert_eq!(read(&[a, b]).expect("sound"), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = TALK.chunks(1).collect();
        assert_eq!(read(&bytes).expect("sound"), whole);
    }

    #[test]
    fn a_publish_has_its_parts() {
        let mut inlet = Inlet::new();
        let bytes = b"HPUB a.b r.s 12 14\r\nNATS/1.0\r\n\r\nhi\r\n";
        inlet.room()[..bytes.len()].copy_from_slice(bytes);
        inlet.filled(bytes.len());
        assert_eq!(
            inlet.next(),
            Ok(Some(Op::Publish {
                subject: b"a.b",
                reply: Some(b"r.s"),
                header_bytes: Some(12),
                payload: b"NATS/1.0\r\n\r\nhi"
            }))
        );
        assert_eq!(inlet.next(), Ok(None));
    }

    #[test]
    fn what_nobody_may_say_is_a_violation() {
        for (said, violation) in [
            (&b"GET / HTTP/1.1\r\n"[..], Violation::Unknown),
            (b"\r\n", Violation::Unknown),
            (b"PUB a\r\n", Violation::Unknown),
            (b"PUB a b c d 1\r\n", Violation::Unknown),
            (b"PUB a -1\r\n", Violation::Unknown),
            (b"PUB a 2\r\nhello\r\n", Violation::Unknown),
            (b"HPUB a 9 3\r\nabc\r\n", Violation::Unknown),
            (b"SUB a\r\n", Violation::Unknown),
            (b"PUB a 1048577\r\n", Violation::Payload),
            (b"PUB a 99999999999999999999\r\n", Violation::Payload),
            (&[b'x'; MAX_LINE_BYTES + 2], Violation::Line),
        ] {
            let shown = String::from_utf8_lossy(&said[..said.len().min(40)]);
            assert_eq!(read(&[said]), Err(violation), "{shown}");
        }
        // A line without an end is refused as soon as it is too long, not when memory is full.
        let endless = vec![b'x'; 1 << 20];
        assert_eq!(read(&[&endless]), Err(Violation::Line));
    }

    #[test]
    fn the_largest_message_fits_and_memory_stays_bounded() {
        let mut bytes = b"PUB a 1048576\r\n".to_vec();
        bytes.extend(vec![b'z'; MAX_PAYLOAD_BYTES]);
        bytes.extend(b"\r\n");
        let many: Vec<u8> = bytes.repeat(3);
        let mut inlet = Inlet::new();
        let (mut rest, mut seen) = (&many[..], 0);
        while !rest.is_empty() {
            let room = inlet.room();
            assert!(!room.is_empty());
            let count = room.len().min(rest.len()).min(50_000);
            room[..count].copy_from_slice(&rest[..count]);
            inlet.filled(count);
            rest = &rest[count..];
            while let Some(op) = inlet.next().expect("sound") {
                assert!(matches!(op, Op::Publish { payload, .. } if payload.len() == 1 << 20));
                seen += 1;
            }
        }
        assert_eq!(seen, 3);
        assert!(inlet.bytes.len() <= LARGEST_BYTES);
    }

    #[test]
    fn wildcards_match_tokens() {
        for (pattern, subject, is) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.b", "a.b.c", false),
            ("a.b.c", "a.b", false),
            ("_INBOX.x.*.*", "_INBOX.x.17.3", true),
            ("_INBOX.x.*.*", "_INBOX.x.17", false),
            ("_INBOX.x.*.*", "_INBOX.y.17.3", false),
            // A star is a wildcard only when it is all of a token.
            ("a.b*", "a.bc", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), subject.as_bytes()),
                is,
                "{pattern} {subject}"
            );
        }
    }

    /// Token by token.
    fn takes(pattern: &[&str], subject: &[&str]) -> bool {
        match (pattern, subject) {
            ([">"], subject) => !subject.is_empty(),
            ([want, pattern @ ..], [token, subject @ ..]) => {
                (*want == "*" || want == token) && takes(pattern, subject)
            }
            (pattern, subject) => pattern.is_empty() && subject.is_empty(),
        }
    }

    proptest! {
        #[test]
        fn a_subject_is_taken_token_by_token(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "ab", "b", "*"]), 1..5),
            rest in any::<bool>(),
            subject in prop::collection::vec(prop::sample::select(vec!["a", "ab", "b"]), 1..6),
        ) {
            let mut pattern = pattern;
            if rest {
                pattern.push(">");
            }
            prop_assert_eq!(
                matches(pattern.join(".").as_bytes(), subject.join(".").as_bytes()),
                takes(&pattern, &subject),
                "{:?} {:?}", pattern, subject
            );
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            bytes in prop::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'P'), Just(b'U'), Just(b'B'), Just(b'1'), any::<u8>()
            ], 0..200)
        ) {
            let whole = read(&[&bytes]);
            let split: Vec<&[u8]> = bytes.chunks(3).collect();
            prop_assert_eq!(read(&split), whole);
        }
    }
}
