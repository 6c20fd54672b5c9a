//! Where NATS is and who we are to it: URLs without credentials, credentials without a URL.
//!
//! Reads URLs as people write them and takes the credentials out, because the client library
//! ignores them there and because a URL is shown while a secret is not. Opens no connection.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use async_nats::ServerAddr;

use crate::error::usage;
use crate::secret::Secret;

/// Where NATS listens unless a URL says otherwise.
pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// How long a first connection may take.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// Prefix of the JetStream API without a domain.
pub const DEFAULT_API_PREFIX: &str = "$JS.API";

/// Everything that a connection needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `nats://host:port` or `tls://host:port`, never with credentials.
    pub urls: Vec<String>,
    /// Credentials, the same for every URL.
    pub auth: Auth,
    /// TLS.
    pub tls: Tls,
    /// Prefix of inboxes; `_INBOX` when `None`.
    pub inbox_prefix: Option<String>,
    /// Prefix of the JetStream API; [`api_prefix`] makes it from a domain.
    pub js_api_prefix: String,
    /// Name of the connection, as server-side monitoring shows it.
    pub name: String,
    /// Stay with `urls` and do not learn further servers from the cluster.
    pub ignore_discovered_servers: bool,
    /// How long the first connection may take, all URLs together.
    pub deadline: Duration,
    /// How often the server is asked whether it is there; the client's own when `None`.
    pub ping_every: Option<Duration>,
}

/// Credentials of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// None.
    #[default]
    None,
    /// User and password; the password may be empty.
    UserPassword {
        /// User.
        user: String,
        /// Password.
        password: Secret,
    },
    /// Token.
    Token(Secret),
    /// An nkey seed (`SU…`).
    NKey(Secret),
    /// Path of a `.creds` file.
    CredsFile(PathBuf),
    /// Content of a `.creds` file.
    CredsText(Secret),
    /// A user JWT with the seed that signs for it; a bearer JWT needs none.
    UserJwt {
        /// The JWT.
        jwt: Secret,
        /// The seed.
        seed: Option<Secret>,
    },
}

impl Auth {
    /// What a message may say of them: the kind and the user, never the secret.
    pub fn describe(&self) -> String {
        match self {
            Self::None => "no credentials".to_owned(),
            Self::UserPassword { user, password } if password.expose().is_empty() => {
                format!("user `{user}` with an empty password")
            }
            Self::UserPassword { user, .. } => format!("user `{user}` with a password"),
            Self::Token(_) => "a token".to_owned(),
            Self::NKey(_) => "an nkey".to_owned(),
            Self::CredsFile(path) => format!("the credentials file {}", path.display()),
            Self::CredsText(_) => "inline credentials".to_owned(),
            Self::UserJwt { .. } => "a user JWT".to_owned(),
        }
    }
}

/// TLS material. Any of it makes TLS a must, so that nothing is sent in the clear by accident.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// CA certificates (PEM); the system's when `None`.
    pub ca: Option<PathBuf>,
    /// Client certificate (PEM).
    pub cert: Option<PathBuf>,
    /// Client key (PEM).
    pub key: Option<PathBuf>,
    /// Handshake before the server's INFO.
    pub first: bool,
    /// TLS even where neither the URL nor the server asks for it.
    pub required: bool,
}

impl Tls {
    /// TLS is a must.
    pub fn must(&self) -> bool {
        self.required || self.first || self.ca.is_some() || self.cert.is_some()
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            urls: vec![DEFAULT_URL.to_owned()],
            auth: Auth::None,
            tls: Tls::default(),
            inbox_prefix: None,
            js_api_prefix: DEFAULT_API_PREFIX.to_owned(),
            name: "jsbench".to_owned(),
            ignore_discovered_servers: false,
            deadline: DEFAULT_DEADLINE,
            ping_every: None,
        }
    }
}

impl Endpoint {
    /// An endpoint of a comma list of URLs, credentials in them included.
    pub fn parse(text: &str) -> Result<Self> {
        let (urls, auth) = parse_urls(text)?;
        Ok(Self {
            urls,
            auth,
            ..Self::default()
        })
    }

    /// The URLs as a message may show them.
    pub fn redacted(&self) -> String {
        let shown: Vec<String> = self.urls.iter().map(|url| redact(url)).collect();
        shown.join(",")
    }

    /// Every server is on this machine: 127.0.0.0/8, `::1` or `localhost`.
    pub fn is_loopback(&self) -> bool {
        !self.urls.is_empty()
            && self.urls.iter().all(|url| {
                url.parse::<ServerAddr>()
                    .is_ok_and(|address| host_is_loopback(address.host()))
            })
    }
}

/// The API prefix of a JetStream domain: `D` -> `$JS.D.API`.
pub fn api_prefix(domain: &str) -> String {
    format!("$JS.{domain}.API")
}

/// Reads a comma list of URLs. Returns them as `scheme://host:port`, and the credentials that one
/// or more of them carried: `user:password@` or `token@`, percent-encoded where need be.
pub fn parse_urls(text: &str) -> Result<(Vec<String>, Auth)> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let mut urls = Vec::with_capacity(parts.len());
    let mut auth = Auth::None;
    for (i, part) in parts.iter().enumerate() {
        let (url, found) = parse_url(part).map_err(|why| {
            // A password with a raw comma ends in another part: what has no @ may be half of one.
            let shown = if part.contains('@') || !text.contains('@') {
                format!("`{}`", redact(part))
            } else {
                format!("URL {} of {}", i + 1, parts.len())
            };
            usage(format!(
                "{shown} is not a NATS URL: {why}; write for example {DEFAULT_URL}, and \
                 percent-encode special characters in a user, password or token"
            ))
        })?;
        if found != Auth::None && auth != Auth::None && found != auth {
            return Err(usage(format!(
                "the URLs carry different credentials ({} and {}); one set must do for all of them",
                auth.describe(),
                found.describe()
            )));
        }
        if found != Auth::None {
            auth = found;
        }
        urls.push(url);
    }
    Ok((urls, auth))
}

/// A URL without what stands before its last `@`; it need not be a valid one.
pub fn redact(url: &str) -> String {
    match url.rsplit_once('@') {
        None => url.to_owned(),
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            if scheme.is_empty() {
                format!("<redacted>@{after}")
            } else {
                format!("{scheme}://<redacted>@{after}")
            }
        }
    }
}

fn parse_url(part: &str) -> Result<(String, Auth), String> {
    if part.is_empty() {
        return Err("it is empty".to_owned());
    }
    match part.split_once("://").map(|(scheme, _)| scheme) {
        None | Some("nats" | "tls") => {}
        Some("ws" | "wss") => {
            return Err("jsbench speaks NATS over TCP, not over WebSocket; \
                        give the server's client port with nats:// or tls://"
                .to_owned());
        }
        Some(_) => return Err("its scheme is neither nats nor tls".to_owned()),
    }
    let address: ServerAddr = part
        .parse()
        .map_err(|_| "host or port cannot be read".to_owned())?;
    let (scheme, port) = (address.scheme().to_owned(), address.port());
    let host = match address.host() {
        "" => return Err("it has no host".to_owned()),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    if port == 0 {
        return Err("port 0 cannot be connected to".to_owned());
    }
    let url = address.into_inner();
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("nothing may follow the port".to_owned());
    }
    let user = percent_decode(url.username())?;
    let auth = match (user.as_str(), url.password()) {
        ("", None) => Auth::None,
        ("", Some(_)) => return Err("it has a password without a user".to_owned()),
        (_, None) => Auth::Token(Secret::new(user)),
        (_, Some(password)) => Auth::UserPassword {
            password: Secret::new(percent_decode(password)?),
            user,
        },
    };
    Ok((format!("{scheme}://{host}:{port}"), auth))
}

fn percent_decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| "its credentials are not UTF-8".to_owned())
}

fn host_is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user_password(user: &str, password: &str) -> Auth {
        Auth::UserPassword {
            user: user.to_owned(),
            password: Secret::new(password),
        }
    }

    #[test]
    fn urls_are_completed_and_credentials_taken_out() {
        for (text, urls, auth) in [
            ("localhost", vec!["nats://localhost:4222"], Auth::None),
            (
                "a, tls://b:443/ ,nats://[::1]:5222",
                vec!["nats://a:4222", "tls://b:443", "nats://[::1]:5222"],
                Auth::None,
            ),
            (
                "nats://bob:s3cret@h:1",
                vec!["nats://h:1"],
                user_password("bob", "s3cret"),
            ),
            (
                "t0ken@h",
                vec!["nats://h:4222"],
                Auth::Token(Secret::new("t0ken")),
            ),
            (
                "nats://b%40b:p%2Fa%3Ass%25@a,nats://b",
                vec!["nats://a:4222", "nats://b:4222"],
                user_password("b@b", "p/a:ss%"),
            ),
        ] {
            let (got, found) = parse_urls(text).expect(text);
            assert_eq!(
                (got, found),
                (urls.iter().map(|u| (*u).to_owned()).collect(), auth)
            );
        }
    }

    #[test]
    fn what_is_no_nats_url_is_refused_without_showing_a_secret() {
        for (text, says) in [
            ("", "is empty"),
            ("a,,b", "is empty"),
            ("ws://h:80", "WebSocket"),
            ("wss://hunter2@h", "WebSocket"),
            ("http://u:hunter2@h", "neither nats nor tls"),
            ("nats://u:hunter2/x@h", "percent-encode"),
            ("nats://u:12/hunter2@h", "nothing may follow the port"),
            ("nats://u:hunter2,x@h", "URL 1 of 2"),
            ("nats://:hunter2@h", "without a user"),
            ("nats://u:hunter2@", "cannot be read"),
            ("nats://h:0", "port 0"),
            ("nats://h:99999", "cannot be read"),
            (
                "nats://u:hunter2@a,nats://v:hunter2@b",
                "different credentials",
            ),
        ] {
            let error = parse_urls(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn debug_and_display_hide_secrets() {
        let endpoint = Endpoint::parse("nats://bob:hunter2@h").expect("valid");
        let shown = format!(
            "{endpoint:?} {} {}",
            endpoint.redacted(),
            endpoint.auth.describe()
        );
        assert!(
            !shown.contains("hunter2") && shown.contains("bob"),
            "{shown}"
        );
        assert_eq!(redact("tls://a:b@c:1"), "tls://<redacted>@c:1");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, expected) in [
            ("localhost,127.0.0.1:1,127.8.8.8,[::1]:4", true),
            ("LOCALHOST", true),
            ("[::ffff:127.0.0.1]:4222", true),
            ("localhost,10.0.0.1", false),
            ("127.0.0.1.example.com", false),
            ("localhost.example.com", false),
            ("127.1", false),
            ("0.0.0.0", false),
            ("localhost@evil.example", false),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!(endpoint.is_loopback(), expected, "{text}");
        }
        let nowhere = Endpoint {
            urls: Vec::new(),
            ..Endpoint::default()
        };
        assert!(!nowhere.is_loopback());
    }

    proptest! {
        #[test]
        fn encoded_credentials_come_back_and_leave_the_url(
            user in "[!-~äß]{1,12}", password in "[!-~äß]{0,12}",
        ) {
            let encode = |text: &str| {
                let bytes: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
                bytes.concat()
            };
            let text = format!("nats://{}:{}@h:1", encode(&user), encode(&password));
            let (urls, auth) = parse_urls(&text).expect("valid");
            prop_assert_eq!(urls, vec!["nats://h:1".to_owned()]);
            // An empty password behind a colon is no password to the URL standard.
            let expected = if password.is_empty() {
                Auth::Token(Secret::new(user))
            } else {
                user_password(&user, &password)
            };
            prop_assert_eq!(auth, expected);
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,40}") {
            if let Ok((urls, _)) = parse_urls(&text) {
                prop_assert!(urls.iter().all(|url| !url.contains('@')));
            }
        }
    }
}
