//! What a client says, appended to a buffer that is the caller's. Nothing else is allocated.
//!
//! Subjects, queues, headers and JSON are written as they come: that they hold no line end, and
//! subjects and queues no space, is for the caller to see to.

/// Version and line end, and the blank line at the end of a block of headers.
const BARE_HEADER_BYTES: usize = b"NATS/1.0\r\n\r\n".len();
/// Verb, spaces, two lengths and line ends of a message, at most.
const FRAME_BYTES: usize = 64;

/// Introduces the client with options as JSON.
pub fn connect(out: &mut Vec<u8>, json: &[u8]) {
    out.extend_from_slice(b"CONNECT ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\r\n");
}

/// Asks for a PONG.
pub fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

/// Answers a PING.
pub fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

/// Subscribes to a subject, which may hold wildcards; with a queue, as one of those that share
/// its messages. What comes is marked with `sid`.
pub fn subscribe(out: &mut Vec<u8>, subject: &str, queue: Option<&str>, sid: u64) {
    out.extend_from_slice(b"SUB ");
    out.extend_from_slice(subject.as_bytes());
    out.push(b' ');
    if let Some(queue) = queue {
        out.extend_from_slice(queue.as_bytes());
        out.push(b' ');
    }
    number(out, sid);
    out.extend_from_slice(b"\r\n");
}

/// Ends a subscription: after `max` messages in all, counted from its beginning, or at once.
pub fn unsubscribe(out: &mut Vec<u8>, sid: u64, max: Option<u64>) {
    out.extend_from_slice(b"UNSUB ");
    number(out, sid);
    if let Some(max) = max {
        out.push(b' ');
        number(out, max);
    }
    out.extend_from_slice(b"\r\n");
}

/// Publishes a message with the payload `body`, which `touch` may change where it lies. Headers are
/// written in their order, a name may come more than once.
pub fn publish(
    out: &mut Vec<u8>,
    subject: &[u8],
    reply: Option<&[u8]>,
    headers: &[(&str, &str)],
    body: &[u8],
    touch: impl FnOnce(&mut [u8]),
) {
    let payload_bytes = body.len();
    let header_bytes = match headers {
        [] => 0,
        some => {
            BARE_HEADER_BYTES
                + some
                    .iter()
                    .map(|(n, v)| n.len() + v.len() + 4)
                    .sum::<usize>()
        }
    };
    let reply_bytes = reply.map_or(0, <[u8]>::len);
    out.reserve(FRAME_BYTES + subject.len() + reply_bytes + header_bytes + payload_bytes);
    out.extend_from_slice(if headers.is_empty() {
        b"PUB "
    } else {
        &b"HPUB "[..]
    });
    out.extend_from_slice(subject);
    out.push(b' ');
    if let Some(reply) = reply {
        out.extend_from_slice(reply);
        out.push(b' ');
    }
    if !headers.is_empty() {
        number(out, header_bytes as u64);
        out.push(b' ');
    }
    number(out, (header_bytes + payload_bytes) as u64);
    out.extend_from_slice(b"\r\n");
    if !headers.is_empty() {
        out.extend_from_slice(b"NATS/1.0\r\n");
        for (name, value) in headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
    let start = out.len();
    out.extend_from_slice(body);
    touch(&mut out[start..]);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}
