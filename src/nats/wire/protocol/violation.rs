//! What a server may not say, in words that show what it said.

/// How much of what a server said is shown of it, in printed characters.
const EXCERPT_CHARS: usize = 40;

/// What a server may not say. The connection is of no use after it: where the next operation
/// begins is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not an operation of a server.
    #[error("the server sent \"{said}\", which is no operation of the NATS protocol")]
    Unknown {
        /// How the line begins.
        said: String,
    },
    /// An operation with wrong arguments.
    #[error("the server sent \"{said}\": {wrong}")]
    Arguments {
        /// How the line begins.
        said: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// A line above [`super::Limits::line_bytes`], or of INFO above [`super::Limits::info_bytes`].
    #[error("the server sent a line of more than {limit_bytes} bytes: \"{said}\"")]
    Line {
        /// How the line begins.
        said: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// A message above [`super::Limits::payload_bytes`].
    #[error(
        "the server announced a message of {announced} bytes, above the limit of {limit_bytes} \
         bytes: \"{said}\""
    )]
    Payload {
        /// How the line begins.
        said: String,
        /// The length as it was written.
        announced: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// A payload that goes on, or ends, where its length does not say.
    #[error("the server sent a payload that ends with \"{found}\" instead of CRLF: \"{said}\"")]
    End {
        /// How the line begins.
        said: String,
        /// The two bytes in the place of CRLF.
        found: String,
    },
}

/// How something begins, printable.
#[cold]
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for byte in bytes {
        let escaped = byte.escape_ascii().to_string();
        if shown.len() + escaped.len() > EXCERPT_CHARS {
            shown.push('…');
            break;
        }
        shown.push_str(&escaped);
    }
    shown
}
