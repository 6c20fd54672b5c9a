//! Known answers and properties of the protocol: a reference that writes what a server says, an
//! independent reader of what a client says, and streams that are damaged on purpose.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// What a server says, with the parts copied out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Message {
        sid: u64,
        subject: Vec<u8>,
        reply: Option<Vec<u8>>,
        headers: Vec<u8>,
        payload: Vec<u8>,
    },
    Info(Vec<u8>),
    Ping,
    Pong,
    Ok,
    Err(Vec<u8>),
}

impl Said {
    fn of(op: Op, frame: &[u8]) -> Self {
        let copy = |span: Span| span.of(frame).to_vec();
        match op {
            Op::Message(m) => Self::Message {
                sid: m.sid,
                subject: copy(m.subject),
                reply: m.reply.map(copy),
                headers: copy(m.headers),
                payload: copy(m.payload),
            },
            Op::Info(json) => Self::Info(copy(json)),
            Op::Ping => Self::Ping,
            Op::Pong => Self::Pong,
            Op::Ok => Self::Ok,
            Op::Err(text) => Self::Err(copy(text)),
        }
    }
}

/// How the reference writes a line: all of these are allowed.
#[derive(Clone, Copy, Debug)]
struct Hand {
    lower: bool,
    gap: &'static str,
    trailing: &'static str,
    line_end: &'static str,
}

/// As a nats-server does.
const PLAIN: Hand = Hand {
    lower: false,
    gap: " ",
    trailing: "",
    line_end: "\r\n",
};

/// The reference: what a server would send.
fn written(said: &Said, hand: Hand) -> Vec<u8> {
    let verb = |name: &str| {
        if hand.lower {
            name.to_lowercase().into_bytes()
        } else {
            name.as_bytes().to_vec()
        }
    };
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut body = None;
    match said {
        Said::Message {
            sid,
            subject,
            reply,
            headers,
            payload,
        } => {
            words.push(verb(if headers.is_empty() { "MSG" } else { "HMSG" }));
            words.push(subject.clone());
            words.push(sid.to_string().into_bytes());
            words.extend(reply.clone());
            if !headers.is_empty() {
                words.push(headers.len().to_string().into_bytes());
            }
            words.push((headers.len() + payload.len()).to_string().into_bytes());
            body = Some([&headers[..], payload, b"\r\n"].concat());
        }
        Said::Info(json) => words.extend([verb("INFO"), json.clone()]),
        Said::Ping => words.push(verb("PING")),
        Said::Pong => words.push(verb("PONG")),
        Said::Ok => words.push(verb("+OK")),
        Said::Err(text) => words.extend([verb("-ERR"), [b"'", &text[..], b"'"].concat()]),
    }
    let mut out = words.join(hand.gap.as_bytes());
    out.extend_from_slice(hand.trailing.as_bytes());
    out.extend_from_slice(hand.line_end.as_bytes());
    out.extend(body.unwrap_or_default());
    out
}

/// Reads pieces as the owner of a socket would, up to the first violation.
fn read(pieces: &[&[u8]], limits: &Limits) -> (Vec<Said>, Option<Violation>) {
    let mut buffer = BytesMut::new();
    let mut said = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parse(&buffer, limits) {
                Ok(Some((op, used))) => {
                    assert!(
                        used > 0 && used <= buffer.len(),
                        "{used} of {}",
                        buffer.len()
                    );
                    let frame = buffer.split_to(used).freeze();
                    said.push(Said::of(op, &frame));
                }
                Ok(None) => break,
                Err(violation) => return (said, Some(violation)),
            }
        }
    }
    (said, None)
}

fn sound(bytes: &[u8]) -> Vec<Said> {
    let (said, violation) = read(&[bytes], &Limits::default());
    assert_eq!(violation, None);
    said
}

fn refused(bytes: &[u8]) -> Violation {
    let (said, violation) = read(&[bytes], &Limits::default());
    violation.unwrap_or_else(|| panic!("\"{}\" is read as {said:?}", bytes.escape_ascii()))
}

/// A byte that may be in a word.
fn word_byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => b'a'..=b'z', 1 => Just(b'.'), 1 => 0x21..=0xff_u8]
}

fn header_block() -> impl Strategy<Value = Vec<u8>> {
    let line = (vec(b'A'..=b'Z', 1..6), vec(b' '..=b'~', 0..12));
    vec(line, 0..4).prop_map(|lines| {
        let mut block = b"NATS/1.0\r\n".to_vec();
        for (name, value) in lines {
            block.extend([&name[..], b": ", &value, b"\r\n"].concat());
        }
        block.extend_from_slice(b"\r\n");
        block
    })
}

fn said() -> impl Strategy<Value = Said> {
    let text = || {
        vec(
            any::<u8>().prop_filter("no line end", |b| !b"\r\n".contains(b)),
            0..40,
        )
    };
    let message = (
        prop_oneof![0..100_u64, 0..u64::MAX],
        vec(word_byte(), 1..30),
        proptest::option::of(vec(word_byte(), 1..30)),
        prop_oneof![Just(Vec::new()), header_block()],
        prop_oneof![
            vec(any::<u8>(), 0..60),
            vec(select(&b"\r\nMSG 1"[..]), 0..20)
        ],
    );
    prop_oneof![
        6 => message.prop_map(|(sid, subject, reply, headers, payload)| Said::Message {
            sid, subject, reply, headers, payload,
        }),
        1 => text().prop_map(|inner| Said::Info([b"{", &inner[..], b"}"].concat())),
        1 => text().prop_map(Said::Err),
        1 => select(&[Said::Ping, Said::Pong, Said::Ok][..]),
    ]
}

fn hand() -> impl Strategy<Value = Hand> {
    (
        any::<bool>(),
        select(&[" ", "\t", "  ", " \t "][..]),
        select(&["", " ", "\t"][..]),
        select(&["\r\n", "\n"][..]),
    )
        .prop_map(|(lower, gap, trailing, line_end)| Hand {
            lower,
            gap,
            trailing,
            line_end,
        })
}

fn stream() -> impl Strategy<Value = (Vec<Said>, Vec<u8>)> {
    vec((said(), hand()), 1..8).prop_map(|all| {
        let bytes = all
            .iter()
            .flat_map(|(said, hand)| written(said, *hand))
            .collect();
        (all.into_iter().map(|(said, _)| said).collect(), bytes)
    })
}

/// What happens to a stream on its way.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Delete(Index, usize),
    Truncate(Index),
    Splice(Index, Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, mask) => {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
            Self::Insert(at, what) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, what.iter().copied());
            }
            Self::Delete(at, count) => {
                let at = at.index(bytes.len());
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Self::Splice(from, to) => {
                let tail = bytes[from.index(bytes.len())..].to_vec();
                bytes.truncate(to.index(bytes.len()));
                bytes.extend(tail);
            }
        }
    }
}

/// Pieces that operations are made of, and any bytes.
fn rubble() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"MSG",
        b"HMSG",
        b"INFO",
        b"PING",
        b"PONG",
        b"+OK",
        b"-ERR",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\r\n",
        b"'",
        b"-",
        b"0",
        b"1",
        b"12",
        b"99999999999999999999",
        b"1073741824",
        b"a.b",
        b"{}",
        b"NATS/1.0",
        b":",
    ];
    let piece = prop_oneof![
        5 => select(pieces).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 1..=255_u8).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        (any::<Index>(), rubble()).prop_map(|(at, what)| Damage::Insert(at, what)),
        (any::<Index>(), 1..9_usize).prop_map(|(at, count)| Damage::Delete(at, count)),
        any::<Index>().prop_map(Damage::Truncate),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Splice(from, to)),
    ]
}

/// Small enough that streams of a test get there.
const NARROW: Limits = Limits {
    line_bytes: 48,
    info_bytes: 24,
    payload_bytes: 40,
};

/// Whatever the bytes are: no panic, progress, the same answer however they are split, and
/// headers that can be looked at.
fn withstands(bytes: &[u8]) {
    for limits in [Limits::default(), NARROW] {
        let whole = read(&[bytes], &limits);
        for size in [1, 3, 16] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(read(&pieces, &limits), whole, "in pieces of {size}");
        }
        for said in &whole.0 {
            if let Said::Message { headers, .. } = said {
                look_at(headers);
            }
        }
        if let Some(violation) = &whole.1 {
            let text = violation.to_string();
            let printable = |c: char| c == '…' || c.is_ascii_graphic() || c == ' ';
            assert!(text.chars().all(printable) && text.len() < 300, "{text}");
        }
    }
}

/// Reads all that a block of headers has; what is told agrees with itself.
fn look_at(block: &[u8]) {
    let headers = Headers(block);
    assert!(headers.description().is_none() || headers.status().is_some());
    assert!(headers.status().is_none_or(|s| s < 1000));
    for (name, value) in headers.iter() {
        assert!(!name.contains(':') && !value.contains('\n'));
        assert!(headers.get(name).is_some() || std::str::from_utf8(block).is_err());
    }
}

proptest! {
    #[test]
    fn what_the_reference_writes_is_read_back((said, bytes) in stream()) {
        prop_assert_eq!(sound(&bytes), said);
    }

    #[test]
    fn a_stream_may_be_split_at_every_byte((said, bytes) in stream()) {
        for at in 0..=bytes.len() {
            let (a, b) = bytes.split_at(at);
            prop_assert_eq!(read(&[a, b], &Limits::default()), (said.clone(), None), "at {}", at);
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(read(&single, &Limits::default()), (said, None));
    }

    #[test]
    fn what_is_wanted_is_never_more_than_what_is_missing(said in said(), hand in hand()) {
        let bytes = written(&said, hand);
        let limits = Limits::default();
        let line = bytes.iter().position(|b| *b == b'\n').expect("a line") + 1;
        for have in 0..bytes.len() {
            let wanted = wanted(&bytes[..have], &limits);
            prop_assert!(parse(&bytes[..have], &limits).expect("sound").is_none());
            let exact = if have < line { 1 } else { bytes.len() - have };
            prop_assert_eq!(wanted, exact, "with {} of {}", have, bytes.len());
        }
        prop_assert_eq!(wanted(&bytes, &limits), 0);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop_oneof![rubble(), vec(any::<u8>(), 0..200)]) {
        withstands(&bytes);
    }

    #[test]
    fn a_damaged_stream_is_read_or_refused(
        (_, mut bytes) in stream(),
        damages in vec(damage(), 1..5),
    ) {
        for damage in &damages {
            damage.apply(&mut bytes);
        }
        withstands(&bytes);
    }

    #[test]
    fn any_block_of_headers_can_be_looked_at(block in header_block(), damages in vec(damage(), 0..5)) {
        let mut block = block;
        for damage in &damages {
            damage.apply(&mut block);
        }
        look_at(&block);
    }
}

#[test]
fn the_examples_of_the_documentation_are_read() {
    let bytes = b"INFO {\"server_id\":\"Z\",\"max_payload\":1048576}\r\n\
        MSG FOO.BAR 9 11\r\nHello World\r\nMSG FOO.BAR 9 INBOX.34 11\r\nHello World\r\n\
        HMSG FOO.BAR 9 34 45\r\nNATS/1.0\r\nFoodGroup: vegetable\r\n\r\nHello World\r\n\
        HMSG FOO.BAR 9 INBOX.69 34 45\r\nNATS/1.0\r\nFoodGroup: vegetable\r\n\r\nHello World\r\n\
        PING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\n";
    let message = |reply: Option<&[u8]>, headers: &[u8]| Said::Message {
        sid: 9,
        subject: b"FOO.BAR".to_vec(),
        reply: reply.map(<[u8]>::to_vec),
        headers: headers.to_vec(),
        payload: b"Hello World".to_vec(),
    };
    let headers = b"NATS/1.0\r\nFoodGroup: vegetable\r\n\r\n";
    assert_eq!(
        sound(bytes),
        [
            Said::Info(b"{\"server_id\":\"Z\",\"max_payload\":1048576}".to_vec()),
            message(None, b""),
            message(Some(b"INBOX.34"), b""),
            message(None, headers),
            message(Some(b"INBOX.69"), headers),
            Said::Ping,
            Said::Pong,
            Said::Ok,
            Said::Err(b"Stale Connection".to_vec()),
        ]
    );
}

#[test]
fn places_are_counted_from_the_first_byte_that_was_passed() {
    let bytes = b"HMSG a.b 7 r.s 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n";
    let span = |start, end| Span { start, end };
    let delivery = Delivery {
        sid: 7,
        subject: span(5, 8),
        reply: Some(span(11, 14)),
        headers: span(22, 34),
        payload: span(34, 36),
    };
    assert_eq!(
        parse(bytes, &Limits::default()),
        Ok(Some((Op::Message(delivery), 38)))
    );
    assert_eq!(
        (delivery.payload.len(), delivery.payload.is_empty()),
        (2, false)
    );
    assert!(Span::default().is_empty());
}

#[test]
fn quotes_around_an_error_are_not_part_of_it() {
    for (line, text) in [
        ("-ERR 'Slow Consumer'", "Slow Consumer"),
        ("-ERR Slow Consumer", "Slow Consumer"),
        ("-ERR 'no queue 'q' here'", "no queue 'q' here"),
        ("-ERR  ''", ""),
        ("-ERR '", "'"),
        ("-ERR", ""),
        ("-err\t'x' ", "x"),
    ] {
        let said = sound(format!("{line}\r\n").as_bytes());
        assert_eq!(said, [Said::Err(text.into())], "{line}");
    }
}

#[test]
fn what_no_server_may_say_is_refused_with_its_words() {
    for (said, message) in [
        (
            &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
            r#"the server sent "SSH-2.0-OpenSSH_9.6", which is no operation of the NATS protocol"#,
        ),
        (
            b"\x16\x03\x01\x02\0\n",
            r#"the server sent "\x16\x03\x01\x02\x00", which is no operation of the NATS protocol"#,
        ),
        (
            b"HTTP/1.1 400 Bad Request with many words after it\r\n",
            r#"the server sent "HTTP/1.1 400 Bad Request with many words…", which is no operation of the NATS protocol"#,
        ),
        (
            b"\r\n",
            r#"the server sent "", which is no operation of the NATS protocol"#,
        ),
        (
            b"MSGS a 1 0\r\n\r\n",
            r#"the server sent "MSGS a 1 0", which is no operation of the NATS protocol"#,
        ),
        (
            b"PING 1\r\n",
            r#"the server sent "PING 1": it takes no arguments"#,
        ),
        (
            b"INFO \r\n",
            r#"the server sent "INFO ": its JSON is missing"#,
        ),
        (
            b"MSG\r\n",
            r#"the server sent "MSG": it has too few arguments"#,
        ),
        (
            b"MSG a 1\r\n",
            r#"the server sent "MSG a 1": it has too few arguments"#,
        ),
        (
            b"MSG a 1 b c 0\r\n",
            r#"the server sent "MSG a 1 b c 0": it has too many arguments"#,
        ),
        (
            b"MSG a 1 b c d e f\r\n",
            r#"the server sent "MSG a 1 b c d e f": it has too many arguments"#,
        ),
        (
            b"HMSG a 1 12\r\n",
            r#"the server sent "HMSG a 1 12": it has too few arguments"#,
        ),
        (
            b"HMSG a 1 b c 12 12\r\n",
            r#"the server sent "HMSG a 1 b c 12 12": it has too many arguments"#,
        ),
        (
            b"MSG a b 0\r\n",
            r#"the server sent "MSG a b 0": its subscription is not a number"#,
        ),
        (
            b"MSG a 18446744073709551616 0\r\n",
            r#"the server sent "MSG a 18446744073709551616 0": its subscription is not a number"#,
        ),
    ] {
        assert_eq!(refused(said).to_string(), message);
    }
}

#[test]
fn lengths_that_cannot_be_are_refused_with_their_words() {
    for (said, message) in [
        (
            &b"MSG a 1 -1\r\n"[..],
            r#"the server sent "MSG a 1 -1": its length is not a number"#,
        ),
        (
            b"MSG a 1 +1\r\n",
            r#"the server sent "MSG a 1 +1": its length is not a number"#,
        ),
        (
            b"MSG a 1 1a\r\n",
            r#"the server sent "MSG a 1 1a": its length is not a number"#,
        ),
        (
            b"HMSG a 1 -2 9\r\n",
            r#"the server sent "HMSG a 1 -2 9": the length of its headers is not a number"#,
        ),
        (
            b"HMSG a 1 13 12\r\n",
            r#"the server sent "HMSG a 1 13 12": its headers are longer than all of it"#,
        ),
        (
            b"HMSG a 1 99999999999999999999 12\r\n",
            r#"the server sent "HMSG a 1 99999999999999999999 12": its headers are longer than all of it"#,
        ),
        (
            b"MSG a 1 1073741824\r\n",
            r#"the server announced a message of 1073741824 bytes, above the limit of 68157440 bytes: "MSG a 1 1073741824""#,
        ),
        (
            b"HMSG a 1 12 68157441\r\n",
            r#"the server announced a message of 68157441 bytes, above the limit of 68157440 bytes: "HMSG a 1 12 68157441""#,
        ),
        (
            b"MSG a 1 99999999999999999999\r\n",
            r#"the server announced a message of 99999999999999999999 bytes, above the limit of 68157440 bytes: "MSG a 1 99999999999999999999""#,
        ),
        (
            b"MSG a 1 2\r\nhello\r\n",
            r#"the server sent a payload that ends with "ll" instead of CRLF: "MSG a 1 2""#,
        ),
        (
            b"MSG a 1 2\r\nhi\n\n",
            r#"the server sent a payload that ends with "\n\n" instead of CRLF: "MSG a 1 2""#,
        ),
    ] {
        assert_eq!(refused(said).to_string(), message);
    }
}

#[test]
fn a_length_at_the_limit_is_awaited_and_one_above_it_is_not() {
    let limits = Limits::default();
    let most = limits.payload_bytes;
    let line = format!("MSG a 1 {most}\r\n");
    assert_eq!(parse(line.as_bytes(), &limits), Ok(None));
    assert_eq!(wanted(line.as_bytes(), &limits), most + 2);
    let line = format!("MSG a 1 {}\r\n", most + 1);
    assert!(matches!(
        parse(line.as_bytes(), &limits),
        Err(Violation::Payload { limit_bytes, .. }) if limit_bytes == most
    ));
    assert_eq!(wanted(line.as_bytes(), &limits), 0);
}

#[test]
fn no_limit_lets_a_message_grow_beyond_what_a_span_can_hold() {
    let limits = Limits {
        line_bytes: usize::MAX,
        info_bytes: usize::MAX,
        payload_bytes: usize::MAX,
    };
    let gibibyte = 1 << 30;
    assert_eq!(wanted(b"MSG a 1 1073741824\r\n", &limits), gibibyte + 2);
    assert!(matches!(
        parse(b"MSG a 1 1073741825\r\n", &limits),
        Err(Violation::Payload { limit_bytes, .. }) if limit_bytes == gibibyte
    ));
    assert_eq!(
        parse(b"INFO {}\r\n", &limits),
        Ok(Some((Op::Info(Span { start: 5, end: 7 }), 9)))
    );
}

#[test]
fn a_line_above_its_limit_is_refused_before_it_ends() {
    let limits = Limits::default();
    for (start, most) in [
        ("-ERR ", limits.line_bytes),
        ("INFO ", limits.info_bytes),
        ("info ", limits.info_bytes),
    ] {
        let mut line = format!("{start}{}", "x".repeat(most - start.len()));
        let end = "\r\n";
        assert!(
            parse(format!("{line}{end}").as_bytes(), &limits)
                .expect("fits")
                .is_some()
        );
        // A CR may be all that follows, so one byte more says nothing yet.
        line.push('x');
        assert_eq!(parse(line.as_bytes(), &limits), Ok(None));
        for rest in ["x", "\n", "\r\n"] {
            let refused = parse(format!("{line}{rest}").as_bytes(), &limits);
            let shown = format!("{start}{}…", "x".repeat(35));
            let expected = Violation::Line {
                said: shown,
                limit_bytes: most,
            };
            assert_eq!(refused, Err(expected), "{rest:?}");
        }
    }
    // Only INFO may be that long.
    let line = "x".repeat(limits.info_bytes);
    assert!(matches!(
        refused(line.as_bytes()),
        Violation::Line {
            limit_bytes: 16384,
            ..
        }
    ));
}

#[test]
fn headers_tell_status_and_values() {
    let block = |text: &str| format!("NATS/1.0{text}\r\n\r\n").into_bytes();
    for (text, status, description) in [
        ("", None, None),
        (" 503", Some(503), None),
        (" 503 ", Some(503), None),
        (" 100 Idle Heartbeat", Some(100), Some("Idle Heartbeat")),
        ("  404   No Messages ", Some(404), Some("No Messages")),
        (
            " 408 Request Timeout\r\nNats-Pending-Messages: 1",
            Some(408),
            Some("Request Timeout"),
        ),
        ("\r\nStatus: 503", None, None),
        (" 50", None, None),
        (" 5033", None, None),
        (" -03", None, None),
        (" abc def", None, None),
        ("503", None, None),
        ("0 503", None, None),
    ] {
        let block = block(text);
        let headers = Headers(&block);
        assert_eq!(
            (headers.status(), headers.description()),
            (status, description),
            "{text:?}"
        );
    }

    let block =
        block(" 408 Request Timeout\r\nNats-Pending-Messages: 1\r\nA:b\r\nA:  c d \r\na: e\r\nE:");
    let headers = Headers(&block);
    assert_eq!(
        headers.iter().collect::<Vec<_>>(),
        [
            ("Nats-Pending-Messages", "1"),
            ("A", "b"),
            ("A", "c d"),
            ("a", "e"),
            ("E", "")
        ]
    );
    assert_eq!(headers.get("Nats-Pending-Messages"), Some("1"));
    assert_eq!(headers.get("nats-pending-messages"), None);
    assert_eq!((headers.get("A"), headers.get("a")), (Some("b"), Some("e")));
    assert_eq!(
        (headers.get("E"), headers.get("F"), headers.get("")),
        (Some(""), None, None)
    );
}

#[test]
fn hostile_headers_are_passed_over() {
    let all = |block: &'static [u8]| Headers(block).iter().collect::<Vec<_>>();
    // No block at all, another version, no version.
    for block in [
        &b""[..],
        b"\r\n\r\n",
        b"NATS/2.0 503\r\nA: b\r\n\r\n",
        b"A: b\r\nC: d\r\n\r\n",
    ] {
        let headers = Headers(block);
        assert_eq!(
            (headers.status(), headers.get("C"), headers.iter().next()),
            (None, None, None)
        );
    }
    // Lines that are no headers, a value of several lines, bytes that are no text.
    let block =
        b"NATS/1.0 200 \xff\r\nnone\r\n: nameless\r\nA: b\r\n folded: c\r\nD: \xff\r\nE: f\r\n\r\n";
    assert_eq!(all(block), [("A", "b"), ("E", "f")]);
    let headers = Headers(block);
    assert_eq!((headers.status(), headers.description()), (Some(200), None));
    assert_eq!(
        (headers.get("D"), headers.get("E"), headers.get("")),
        (None, Some("f"), None)
    );
    // Nothing after the blank line counts, and nothing is needed at the end.
    assert_eq!(all(b"NATS/1.0\r\nA: b\r\n\r\nC: d\r\n"), [("A", "b")]);
    assert_eq!(all(b"NATS/1.0\nA: b"), [("A", "b")]);
    assert_eq!(all(b"NATS/1.0\r\n"), []);
}

/// What a client says, by an independent reader that takes it apart word by word.
#[derive(Debug, PartialEq, Eq)]
struct Publish {
    words: Vec<Vec<u8>>,
    headers: Vec<u8>,
    payload: Vec<u8>,
}

fn taken_apart(bytes: &[u8]) -> Publish {
    let end = bytes
        .windows(2)
        .position(|two| two == b"\r\n")
        .expect("a line");
    let words: Vec<Vec<u8>> = bytes[..end]
        .split(|b| *b == b' ')
        .map(<[u8]>::to_vec)
        .collect();
    let number = |word: &[u8]| -> usize {
        let text = String::from_utf8(word.to_vec()).expect("digits");
        text.parse().expect("a number")
    };
    let total = number(&words[words.len() - 1]);
    let head = match &words[0][..] {
        b"HPUB" => number(&words[words.len() - 2]),
        _ => 0,
    };
    let body = &bytes[end + 2..];
    assert_eq!(
        body.len(),
        total + 2,
        "the total is what follows, without the last CRLF"
    );
    assert_eq!(&body[total..], b"\r\n");
    Publish {
        words,
        headers: body[..head].to_vec(),
        payload: body[head..total].to_vec(),
    }
}

proptest! {
    #[test]
    fn a_publish_is_taken_apart_into_its_parts(
        subject in vec(word_byte(), 1..30),
        reply in proptest::option::of(vec(word_byte(), 1..30)),
        headers in vec((vec(b'a'..=b'z', 1..6), vec(b'!'..=b'~', 0..12)), 0..4),
        payload in vec(any::<u8>(), 0..300),
        before in vec(any::<u8>(), 0..9),
    ) {
        let headers: Vec<(String, String)> = headers.into_iter()
            .map(|(n, v)| (String::from_utf8(n).expect("ASCII"), String::from_utf8(v).expect("ASCII")))
            .collect();
        let pairs: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        let mut out = before.clone();
        let body = vec![0; payload.len()];
        publish(&mut out, &subject, reply.as_deref(), &pairs, &body, |room| {
            assert!(room.iter().all(|b| *b == 0));
            room.copy_from_slice(&payload);
        });
        prop_assert_eq!(&out[..before.len()], &before[..]);
        let parts = taken_apart(&out[before.len()..]);
        let lengths = if pairs.is_empty() { 1 } else { 2 };
        let mut words = vec![if pairs.is_empty() { b"PUB".to_vec() } else { b"HPUB".to_vec() }, subject];
        words.extend(reply);
        prop_assert_eq!(&parts.words[..parts.words.len() - lengths], &words[..]);
        prop_assert_eq!(parts.payload, payload);
        prop_assert_eq!(Headers(&parts.headers).iter().collect::<Vec<_>>(), pairs);
        prop_assert!(parts.headers.is_empty() || parts.headers.ends_with(b"\r\n\r\n"));
    }
}

/// What was written, as text.
fn client(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("text")
}

fn published(
    subject: &str,
    reply: Option<&str>,
    headers: &[(&str, &str)],
    payload: &str,
) -> String {
    client(|out| {
        let reply = reply.map(str::as_bytes);
        publish(
            out,
            subject.as_bytes(),
            reply,
            headers,
            payload.as_bytes(),
            |_| {},
        );
    })
}

#[test]
fn a_client_says_what_the_documentation_says() {
    assert_eq!(
        client(|out| connect(out, b"{\"verbose\":false,\"protocol\":1}")),
        "CONNECT {\"verbose\":false,\"protocol\":1}\r\n"
    );
    assert_eq!(client(ping), "PING\r\n");
    assert_eq!(client(pong), "PONG\r\n");
    assert_eq!(
        client(|out| subscribe(out, "FOO", None, 1)),
        "SUB FOO 1\r\n"
    );
    assert_eq!(
        client(|out| subscribe(out, "BAR", Some("G1"), 44)),
        "SUB BAR G1 44\r\n"
    );
    assert_eq!(client(|out| unsubscribe(out, 1, None)), "UNSUB 1\r\n");
    assert_eq!(client(|out| unsubscribe(out, 1, Some(5))), "UNSUB 1 5\r\n");

    assert_eq!(
        published("FOO", None, &[], "Hello NATS!"),
        "PUB FOO 11\r\nHello NATS!\r\n"
    );
    assert_eq!(
        published("FRONT.DOOR", Some("INBOX.22"), &[], "Knock Knock"),
        "PUB FRONT.DOOR INBOX.22 11\r\nKnock Knock\r\n"
    );
    assert_eq!(published("NOTIFY", None, &[], ""), "PUB NOTIFY 0\r\n\r\n");

    assert_eq!(
        published("FOO", None, &[("Bar", "Baz")], "Hello NATS!"),
        "HPUB FOO 22 33\r\nNATS/1.0\r\nBar: Baz\r\n\r\nHello NATS!\r\n"
    );
    let two = [("BREAKFAST", "donut"), ("LUNCH", "burger")];
    assert_eq!(
        published("FRONT.DOOR", Some("INBOX.22"), &two, "Knock Knock"),
        "HPUB FRONT.DOOR INBOX.22 45 56\r\nNATS/1.0\r\nBREAKFAST: donut\r\nLUNCH: burger\r\n\r\n\
         Knock Knock\r\n"
    );
    assert_eq!(
        published("NOTIFY", None, &[("Bar", "Baz")], ""),
        "HPUB NOTIFY 22 22\r\nNATS/1.0\r\nBar: Baz\r\n\r\n\r\n"
    );
    let twice = [("BREAKFAST", "donut"), ("BREAKFAST", "eggs")];
    assert_eq!(
        published("MORNING.MENU", None, &twice, "Yum!"),
        "HPUB MORNING.MENU 47 51\r\nNATS/1.0\r\nBREAKFAST: donut\r\nBREAKFAST: eggs\r\n\r\nYum!\r\n"
    );
}

#[test]
fn a_buffer_with_room_is_not_moved() {
    let mut out = Vec::with_capacity(4096);
    let place = out.as_ptr();
    subscribe(&mut out, "a.b", Some("q"), u64::MAX);
    unsubscribe(&mut out, u64::MAX, Some(u64::MAX));
    for _ in 0..10 {
        publish(
            &mut out,
            b"a.b",
            Some(b"r"),
            &[("N", "v")],
            &[0; 128],
            |room| {
                room.fill(b'x');
            },
        );
    }
    assert_eq!((out.as_ptr(), out.capacity()), (place, 4096));
    let taken = written(&Said::Ping, PLAIN);
    ping(&mut out);
    assert!(out.ends_with(&taken));
}
