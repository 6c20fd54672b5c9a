//! The headers of a message, read where they lie.

/// How every block of headers begins.
const VERSION: &[u8] = b"NATS/1.0";

/// A block of headers: a line with the version and maybe a status, lines of `name: value`, a blank
/// line. Whatever in it is not of this form is passed over; a block that begins otherwise has
/// nothing in it. A value that goes on in the next line (no server writes one) ends with its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a>(pub &'a [u8]);

impl<'a> Headers<'a> {
    /// Status of a control message: 100, 404, 503, …
    pub fn status(&self) -> Option<u16> {
        let (status, _) = self.status_line()?;
        Some(status)
    }

    /// What the status says in words.
    pub fn description(&self) -> Option<&'a str> {
        let (_, description) = self.status_line()?;
        let text = str::from_utf8(description).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// The first value under a name, whose letters must be of the same case. `None` also for a
    /// value that is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.lines().find(|(n, _)| *n == name.as_bytes())?;
        str::from_utf8(value).ok()
    }

    /// Names and values in their order, those that are UTF-8.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.lines().filter_map(|(name, value)| {
            Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?))
        })
    }

    /// What follows the version in the first line, and the other lines.
    fn parts(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (first, rest) = split_line(self.0);
        let status = first.strip_prefix(VERSION)?;
        let apart = status.first().is_none_or(u8::is_ascii_whitespace);
        apart.then_some((status.trim_ascii(), rest))
    }

    fn status_line(&self) -> Option<(u16, &'a [u8])> {
        let (line, _) = self.parts()?;
        let (digits, rest) = line.split_at_checked(3)?;
        let three = digits.iter().all(u8::is_ascii_digit);
        let apart = rest.first().is_none_or(u8::is_ascii_whitespace);
        if !three || !apart {
            return None;
        }
        let status = digits
            .iter()
            .fold(0, |sum, d| sum * 10 + u16::from(d - b'0'));
        Some((status, rest.trim_ascii()))
    }

    /// Names and values up to the blank line.
    fn lines(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.parts().map_or(&b""[..], |(_, rest)| rest);
        let lines = std::iter::from_fn(move || {
            let (line, after) = split_line(rest);
            rest = after;
            (!line.is_empty()).then_some(line)
        });
        lines.filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let named = !name.is_empty() && !name[0].is_ascii_whitespace();
            named.then(|| (name, value.trim_ascii()))
        })
    }
}

/// The first line without its end, and what comes after.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = match memchr::memchr(b'\n', bytes) {
        Some(feed) => (&bytes[..feed], &bytes[feed + 1..]),
        None => (bytes, &b""[..]),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), rest)
}
