//! What a server says before it lets us in: INFO, then PONG or a refusal. Read line by line with
//! limits, because whoever listens on a port need not be a NATS server.

use std::io;

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BytesMut};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::nats::dial_error::{AUTHORIZATION_VIOLATION, DialError};

/// The longest INFO that is read.
const MAX_INFO_BYTES: usize = 1 << 20;

/// The longest other line that is read.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Lines that a server may send before its PONG; a few are usual.
const MAX_LINES: usize = 100;

/// What a server says of itself. It may say it again at any time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the protocol")]
pub struct Info {
    /// Id of the server process.
    #[serde(default)]
    pub server_id: String,
    /// Name of the server.
    #[serde(default)]
    pub server_name: String,
    /// Version of the server.
    #[serde(default)]
    pub version: String,
    /// The largest payload it takes, in bytes.
    pub max_payload: usize,
    /// Version of the protocol; from 1 on it says INFO again when something changes.
    #[serde(default)]
    pub proto: i64,
    /// It takes headers.
    #[serde(default)]
    pub headers: bool,
    /// It speaks TLS only.
    #[serde(default)]
    pub tls_required: bool,
    /// It speaks TLS if asked to.
    #[serde(default)]
    pub tls_available: bool,
    /// It wants credentials.
    #[serde(default)]
    pub auth_required: bool,
    /// What an nkey signs; empty where the server wants no signature.
    #[serde(default)]
    pub nonce: String,
    /// `host:port` of every server of the cluster.
    #[serde(default)]
    pub connect_urls: Vec<String>,
    /// It is about to shut down (lame duck).
    #[serde(default)]
    pub ldm: bool,
    /// JetStream is on.
    #[serde(default)]
    pub jetstream: bool,
    /// Number of the connection at the server.
    #[serde(default)]
    pub client_id: u64,
}

impl Info {
    /// Reads the JSON of an INFO line; keys that are not known are ignored.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let info: Self = serde_json::from_slice(json).context("its INFO cannot be read")?;
        ensure!(
            info.max_payload > 0,
            "its INFO says that it takes no payload"
        );
        Ok(info)
    }
}

/// What an error of the stream means. TLS wraps its own errors, also those that come later.
pub(super) fn failed(error: io::Error) -> DialError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(tls), _) => DialError::Tls(tls.clone()),
        (
            None,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe,
        ) => DialError::Closed,
        (None, _) => DialError::Io(error),
    }
}

/// The lines of a greeting, and what has been read beyond them.
#[derive(Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// Our credentials are out: a strange server might send them back, so its words are not shown.
    introduced: bool,
}

impl Lines {
    /// The INFO that a server begins with.
    pub(super) async fn greeting(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Info, DialError> {
        match self.next(stream).await? {
            Line::Info(info) => Ok(info),
            Line::Err(said) => Err(refusal(said)),
            Line::Ok | Line::Ping | Line::Pong => Err(DialError::Protocol(
                "it does not begin with INFO".to_owned(),
            )),
        }
    }

    /// Sends the CONNECT line and waits for the PONG behind it. Returns what the server then says
    /// of itself, which may be more than it told a stranger.
    pub(super) async fn introduce(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        connect: &[u8],
        mut info: Info,
    ) -> Result<Info, DialError> {
        self.introduced = true;
        let sent = send(stream, &[connect, b"PING\r\n"].concat()).await;
        for _ in 0..MAX_LINES {
            match self.next(stream).await {
                Ok(Line::Pong) => return Ok(info),
                Ok(Line::Info(newer)) => info = newer,
                Ok(Line::Ok) => {}
                Ok(Line::Ping) => send(stream, b"PONG\r\n").await.map_err(failed)?,
                Ok(Line::Err(said)) => return Err(refusal(said)),
                // A server that closes has often said why, so reading comes before this.
                Err(DialError::Closed | DialError::Io(_)) if sent.is_err() => break,
                Err(error) => return Err(error),
            }
        }
        Err(sent.err().map_or_else(
            || DialError::Protocol(format!("no PONG in {MAX_LINES} lines")),
            failed,
        ))
    }

    /// Nothing may have come behind the last line.
    pub(super) fn must_be_empty(&self) -> Result<(), DialError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let what = "it goes on in the clear where TLS must begin";
        Err(DialError::Protocol(what.to_owned()))
    }

    /// What has been read behind the last line.
    pub(super) fn into_rest(self) -> BytesMut {
        self.buffer
    }

    async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Line, DialError> {
        let mut looked_at = 0;
        loop {
            if !could_be_a_line(&self.buffer) {
                return Err(DialError::Protocol(self.strange()));
            }
            let end = memchr::memchr(b'\n', &self.buffer[looked_at..]).map(|at| looked_at + at);
            let limit = if self.buffer.starts_with(b"INFO") {
                MAX_INFO_BYTES
            } else {
                MAX_LINE_BYTES
            };
            if end.unwrap_or(self.buffer.len()) > limit {
                return Err(DialError::Protocol(format!(
                    "a line of more than {limit} bytes"
                )));
            }
            if let Some(end) = end {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return read_line(line.trim_ascii_end());
            }
            looked_at = self.buffer.len();
            self.buffer.reserve(4096);
            if stream.read_buf(&mut self.buffer).await.map_err(failed)? == 0 {
                return Err(DialError::Closed);
            }
        }
    }

    fn strange(&self) -> String {
        if self.introduced {
            "it answers CONNECT with something else than the protocol".to_owned()
        } else {
            let end = memchr::memchr(b'\n', &self.buffer).unwrap_or(self.buffer.len());
            format!("it says `{}`", shown(&self.buffer[..end]))
        }
    }
}

enum Line {
    Info(Info),
    Err(String),
    Ok,
    Ping,
    Pong,
}

/// Every line that a server may send now, as it begins.
const WORDS: [&[u8]; 5] = [b"INFO", b"-ERR", b"+OK", b"PING", b"PONG"];

/// Whether this is the beginning of a line of the protocol. Another service is told by its first
/// bytes, without waiting for the end of a line that may never come.
fn could_be_a_line(bytes: &[u8]) -> bool {
    WORDS.iter().any(|word| {
        let n = word.len().min(bytes.len());
        bytes[..n] == word[..n]
    })
}

fn read_line(line: &[u8]) -> Result<Line, DialError> {
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    match word {
        b"INFO" => Info::parse(rest)
            .map(Line::Info)
            .map_err(|error| DialError::Protocol(shown(format!("{error:#}").as_bytes()))),
        b"-ERR" => Ok(Line::Err(shown(
            rest.trim_ascii()
                .strip_prefix(b"'")
                .and_then(|rest| rest.strip_suffix(b"'"))
                .unwrap_or(rest.trim_ascii()),
        ))),
        b"+OK" => Ok(Line::Ok),
        b"PING" => Ok(Line::Ping),
        b"PONG" => Ok(Line::Pong),
        _ => Err(DialError::Protocol("an unknown line".to_owned())),
    }
}

/// What `-ERR` means.
fn refusal(said: String) -> DialError {
    const OF_CREDENTIALS: [&str; 4] = [
        AUTHORIZATION_VIOLATION,
        "User Authentication Expired",
        "User Authentication Revoked",
        "Account Authentication Expired",
    ];
    if OF_CREDENTIALS
        .iter()
        .any(|text| said.eq_ignore_ascii_case(text))
    {
        DialError::Unauthorized(said)
    } else {
        DialError::Server(said)
    }
}

/// A server's words as a message may show them: short, and without control characters.
fn shown(bytes: &[u8]) -> String {
    const MAX_CHARS: usize = 100;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_CHARS)]);
    let text = text.trim_end();
    let mut out: String = text.chars().take(MAX_CHARS).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out.replace(|c: char| c.is_control() || c == '\u{fffd}', "·")
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    const INFO: &[u8] = b"INFO {\"max_payload\":1024}\r\n";

    fn info(max_payload: usize) -> Info {
        Info::parse(format!("{{\"max_payload\":{max_payload}}}").as_bytes()).expect("readable")
    }

    /// Lets a server say `said` in pieces and close. Returns what our side made of it and has not
    /// read of it, and what it sent.
    async fn meet_in_pieces(
        said: &[u8],
        piece_bytes: usize,
    ) -> (Result<(Info, BytesMut), DialError>, Vec<u8>) {
        let (ours, theirs) = duplex(piece_bytes);
        let (mut hears, mut says) = tokio::io::split(theirs);
        let client = async move {
            let (mut ours, mut lines) = (ours, Lines::default());
            let info = lines.greeting(&mut ours).await?;
            let info = lines.introduce(&mut ours, b"CONNECT {}\r\n", info).await?;
            Ok((info, lines.into_rest()))
        };
        let says = async {
            // Our side may have heard enough.
            let _ = says.write_all(said).await;
            let _ = says.shutdown().await;
        };
        let hears = async {
            let mut sent = Vec::new();
            hears.read_to_end(&mut sent).await.expect("readable");
            sent
        };
        let (outcome, (), sent) = tokio::join!(client, says, hears);
        (outcome, sent)
    }

    async fn meet(said: &[u8]) -> (Result<(Info, BytesMut), DialError>, Vec<u8>) {
        meet_in_pieces(said, 4 << 20).await
    }

    async fn meet_all(parts: &[&[u8]]) -> (Result<(Info, BytesMut), DialError>, Vec<u8>) {
        meet(&parts.concat()).await
    }

    #[test]
    fn info_is_read_whatever_else_is_in_it() {
        let info = Info::parse(
            br#"{"server_id":"NA","server_name":"n1","version":"2.15.1","proto":1,"go":"go1.26",
                 "headers":true,"tls_required":true,"tls_available":true,"auth_required":true,
                 "max_payload":1048576,"client_id":18446744073709551615,"nonce":"abc","xkey":null,
                 "connect_urls":["10.0.0.1:4222","[::1]:4222"],"ldm":true,"jetstream":true}"#,
        );
        let expected = Info {
            server_id: "NA".to_owned(),
            server_name: "n1".to_owned(),
            version: "2.15.1".to_owned(),
            max_payload: 1 << 20,
            proto: 1,
            headers: true,
            tls_required: true,
            tls_available: true,
            auth_required: true,
            nonce: "abc".to_owned(),
            connect_urls: vec!["10.0.0.1:4222".to_owned(), "[::1]:4222".to_owned()],
            ldm: true,
            jetstream: true,
            client_id: u64::MAX,
        };
        assert_eq!(info.expect("readable"), expected);
        for json in [
            "{}",
            "[]",
            "",
            "{\"max_payload\":0}",
            "{\"max_payload\":-1}",
        ] {
            Info::parse(json.as_bytes()).expect_err(json);
        }
    }

    #[tokio::test]
    async fn behind_the_pong_begins_what_is_not_ours() {
        let (outcome, sent) = meet_all(&[INFO, b"PONG\r\nMSG a 1 2\r\nhi\r\n"]).await;
        let (info, rest) = outcome.expect("let in");
        assert_eq!(info.max_payload, 1024);
        assert_eq!(rest, &b"MSG a 1 2\r\nhi\r\n"[..]);
        assert_eq!(sent, b"CONNECT {}\r\nPING\r\n");
    }

    #[tokio::test]
    async fn other_lines_may_stand_before_the_pong() {
        let newer = b"INFO\t{\"max_payload\":2048} \r\n";
        let (outcome, sent) = meet_all(&[INFO, b"+OK\r\nPING\r\n", newer, b"PONG\n"]).await;
        assert_eq!(outcome.expect("let in"), (info(2048), BytesMut::new()));
        assert_eq!(sent, b"CONNECT {}\r\nPING\r\nPONG\r\n");
    }

    #[tokio::test]
    async fn refusals_are_told_apart_by_their_words() {
        for (line, about_credentials, words) in [
            ("-ERR 'Authorization Violation'\r\n", true, "Authorization"),
            ("-ERR 'authorization violation'\r\n", true, "authorization"),
            ("-ERR 'User Authentication Expired'\r\n", true, "Expired"),
            ("-ERR 'maximum connections exceeded'\r\n", false, "maximum"),
            ("-ERR it is\x1b[31m odd\r\n", false, "it is·[31m odd"),
            ("-ERR\r\n", false, ""),
        ] {
            for before in [&b""[..], INFO] {
                let error = meet_all(&[before, line.as_bytes()]).await.0;
                let error = error.expect_err(line);
                assert_eq!(error.is_about_credentials(), about_credentials, "{error}");
                let (DialError::Unauthorized(said) | DialError::Server(said)) = error else {
                    panic!("{line}: {error}");
                };
                assert!(said.contains(words) && !said.contains('\''), "{said}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_greeting_is_called_by_its_name() {
        let long_info = [b"INFO {\"", &vec![b'a'; 2 << 20][..]].concat();
        let long_line = [b"PING", &vec![b' '; 1 << 20][..]].concat();
        let (says_nothing, half) = ("", "INFO {\"max_payl");
        for (said, says) in [
            (
                &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
                "it says `SSH-2.0-OpenSSH_9.6`",
            ),
            (
                b"HTTP/1.1 400 Bad Request\r\nx: y\r\n\r\n",
                "it says `HTTP/1.1 400 Bad Request`",
            ),
            (b"\x15\x03\x01\x00\x02\x02\x46", "it says `····"),
            (b"\xff\xfe\x00\x01", "it says `"),
            (b"\r\n", "it says ``"),
            (b"INFOX {}\r\n", "an unknown line"),
            (b"INFO {not json\r\n", "its INFO cannot be read"),
            (
                b"INFO {\"max_payload\":\"\xf0\x28\"}\r\n",
                "its INFO cannot be read",
            ),
            (
                b"INFO {}\r\n",
                "its INFO cannot be read: missing field `max_payload`",
            ),
            (b"PONG\r\n", "does not begin with INFO"),
            (&long_info, "a line of more than 1048576 bytes"),
            (&long_line, "a line of more than 16384 bytes"),
            (says_nothing.as_bytes(), "closed by the server"),
            (half.as_bytes(), "closed by the server"),
        ] {
            let (outcome, sent) = meet(said).await;
            let error = outcome.expect_err(says).to_string();
            assert!(error.contains(says), "{says}: {error}");
            assert!(error.len() < 300, "{error}");
            assert_eq!(sent, b"", "nothing is told to a stranger: {says}");
        }
    }

    #[tokio::test]
    async fn a_long_info_of_a_large_cluster_is_read() {
        let urls: Vec<String> = (0..40_000).map(|i| format!("\"10.0.0.1:{i}\"")).collect();
        let line = format!(
            "INFO {{\"max_payload\":1,\"connect_urls\":[{}]}}\r\nPONG\r\n",
            urls.join(",")
        );
        let info = meet(line.as_bytes()).await.0.expect("let in").0;
        assert_eq!(info.connect_urls.len(), 40_000);
    }

    #[tokio::test]
    async fn an_echo_of_our_credentials_is_not_shown() {
        let echo = b"CONNECT {\"pass\":\"hunter2\"}\r\n";
        let error = meet_all(&[INFO, echo]).await.0.expect_err("an echo");
        assert!(matches!(&error, DialError::Protocol(_)), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_never_comes_to_the_point_is_left() {
        let chatter = b"+OK\r\n".repeat(MAX_LINES + 1);
        let error = meet_all(&[INFO, &chatter]).await.0.expect_err("no PONG");
        assert!(error.to_string().contains("no PONG"), "{error}");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_nothing_panics(
            begin in prop::sample::select(vec![
                &b""[..], b"INFO ", INFO, b"INFO {\"max_payload\":9}\r\nPON",
                b"INFO {\"max_payload\":9}\r\nPONG\r\n", b"-ERR '",
            ]),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            piece_bytes in 1_usize..50,
        ) {
            let said = [begin, &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let (whole, pieces) = runtime.expect("a runtime").block_on(async {
                (meet(&said).await.0, meet_in_pieces(&said, piece_bytes).await.0)
            });
            match (whole, pieces) {
                (Ok((whole, rest)), Ok((pieces, begun))) => {
                    prop_assert_eq!(whole, pieces);
                    prop_assert!(rest.starts_with(&begun));
                }
                (Err(whole), Err(pieces)) => {
                    prop_assert_eq!(discriminant(&whole), discriminant(&pieces));
                }
                (whole, pieces) => prop_assert!(false, "{:?} or {:?}", whole, pieces),
            }
        }
    }
}
