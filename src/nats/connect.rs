//! Connecting with async-nats: one set of options for every connection of jsbench, a deadline for
//! the first attempt, and errors that say which server, which credentials and what to do.
//!
//! Reconnecting later is the client's business; its events can be listened to. Called by whoever
//! needs a connection.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, Once};
use std::time::Duration;

use anyhow::Result;
pub use async_nats::Event;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};

use super::dial_error::{AUTHORIZATION_VIOLATION, DialError};
use super::endpoint::{Auth, Endpoint, Tls};
use crate::error::{environment, usage};
use crate::secret::Secret;

/// Messages a subscription may hold before the client drops; the largest window fits.
pub const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Makes ring the cryptography of TLS for this process; more than one call does no harm.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    // An error only says that a provider was there first.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// The options that stand for an endpoint. Reads the files it names.
pub fn connect_options(endpoint: &Endpoint) -> Result<ConnectOptions> {
    install_crypto();
    let mut options = ConnectOptions::new()
        .name(&endpoint.name)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        // Our subjects are made by us and checked where they are made.
        .skip_subject_validation(true)
        .connection_timeout(attempt_timeout(endpoint));
    if endpoint.ignore_discovered_servers {
        options = options.ignore_discovered_servers();
    }
    if let Some(every) = endpoint.ping_every {
        options = options.ping_interval(every);
    }
    if let Some(prefix) = &endpoint.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    with_tls(with_auth(options, &endpoint.auth)?, &endpoint.tls)
}

/// Connects, within the endpoint's deadline.
pub async fn connect(endpoint: &Endpoint) -> Result<Client> {
    connect_with_events(endpoint, |_| {}).await
}

/// Connects and calls `on_event` for everything that happens to the connection, from its own task.
pub async fn connect_with_events(
    endpoint: &Endpoint,
    on_event: impl FnMut(Event) + Send + 'static,
) -> Result<Client> {
    let on_event = Mutex::new(on_event);
    let options = connect_options(endpoint)?.event_callback(move |event| {
        if let Ok(mut on_event) = on_event.lock() {
            on_event(event);
        }
        std::future::ready(())
    });
    let addresses = addresses(endpoint)?;
    let explained = |cause: DialError| environment(cause.explain(&endpoint.redacted(), endpoint));
    match tokio::time::timeout(overall_timeout(endpoint), options.connect(addresses)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(explained(cause(&error))),
        Err(_) => Err(explained(DialError::Timeout)),
    }
}

/// The servers of an endpoint, at least one.
pub(super) fn addresses(endpoint: &Endpoint) -> Result<Vec<ServerAddr>> {
    let addresses: Vec<ServerAddr> = endpoint
        .urls
        .iter()
        .map(|url| url.parse())
        .collect::<io::Result<_>>()
        .map_err(|_| {
            usage(format!(
                "{} is not a list of NATS URLs",
                endpoint.redacted()
            ))
        })?;
    if addresses.is_empty() {
        return Err(usage(
            "there is no server to connect to: give at least one URL",
        ));
    }
    Ok(addresses)
}

/// How long the first connection may take, every server tried once.
pub(super) fn overall_timeout(endpoint: &Endpoint) -> Duration {
    let servers = u32::try_from(endpoint.urls.len()).unwrap_or(u32::MAX);
    endpoint
        .deadline
        .max(attempt_timeout(endpoint).saturating_mul(servers))
}

/// One server's share of the deadline, so that a dead one in the list does not use up all of it.
pub(super) fn attempt_timeout(endpoint: &Endpoint) -> Duration {
    let servers = u32::try_from(endpoint.urls.len().max(1)).unwrap_or(u32::MAX);
    (endpoint.deadline / servers).max(Duration::from_secs(1).min(endpoint.deadline))
}

fn with_auth(options: ConnectOptions, auth: &Auth) -> Result<ConnectOptions> {
    if let Some(text) = creds_text(auth)? {
        return options
            .credentials(text.expose())
            .map_err(|_| unusable_creds(auth));
    }
    Ok(match auth {
        Auth::UserPassword { user, password } => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
        Auth::Token(token) => options.token(token.expose().to_owned()),
        Auth::NKey(seed) => options.nkey(seed.expose().to_owned()),
        // A bearer JWT: the server does not look at the signature.
        Auth::UserJwt { jwt, seed: None } => {
            options.jwt(jwt.expose().to_owned(), |_| async { Ok(Vec::new()) })
        }
        _ => options,
    })
}

/// Credentials that are a JWT with a seed, as the text of a `.creds` file; `None` of other kinds.
pub(super) fn creds_text(auth: &Auth) -> Result<Option<Secret>> {
    Ok(match auth {
        Auth::CredsFile(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| usage(format!("credentials file {}: {error}", path.display())))?;
            Some(Secret::new(text))
        }
        Auth::CredsText(text) => Some(text.clone()),
        Auth::UserJwt {
            jwt,
            seed: Some(seed),
        } => Some(decorated(jwt, seed)),
        _ => None,
    })
}

/// The text of a `.creds` file is not one.
pub(super) fn unusable_creds(auth: &Auth) -> anyhow::Error {
    usage(format!(
        "{} cannot be used: they need a JWT and a seed between their BEGIN and END lines, as \
         `nsc generate creds` writes them",
        auth.describe()
    ))
}

/// A JWT and its seed in the form of a `.creds` file.
fn decorated(jwt: &Secret, seed: &Secret) -> Secret {
    Secret::new(format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt.expose().trim(),
        seed.expose().trim()
    ))
}

fn with_tls(mut options: ConnectOptions, tls: &Tls) -> Result<ConnectOptions> {
    if let Some(ca) = &tls.ca {
        read_pem("CA", ca, "CERTIFICATE-----")?;
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = client_pair(tls)? {
        options = options.add_client_certificate(cert.path.clone(), key.path.clone());
    }
    if tls.first {
        options = options.tls_first();
    }
    Ok(options.require_tls(tls.must()))
}

/// A PEM file that was read.
pub(super) struct Pem<'a> {
    pub(super) path: &'a PathBuf,
    pub(super) bytes: Vec<u8>,
}

/// The client's certificate and its key, where there are any.
pub(super) fn client_pair(tls: &Tls) -> Result<Option<(Pem<'_>, Pem<'_>)>> {
    match (&tls.cert, &tls.key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some((
            read_pem("client certificate", cert, "CERTIFICATE-----")?,
            read_pem("client key", key, "PRIVATE KEY-----")?,
        ))),
        _ => Err(usage(
            "TLS client authentication needs both a certificate and its key; one is missing",
        )),
    }
}

/// The client libraries take a file without any certificate for an empty list.
pub(super) fn read_pem<'a>(what: &str, path: &'a PathBuf, label: &str) -> Result<Pem<'a>> {
    let bytes = std::fs::read(path)
        .map_err(|error| usage(format!("TLS {what} {}: {error}", path.display())))?;
    if String::from_utf8_lossy(&bytes).contains(label) {
        Ok(Pem { path, bytes })
    } else {
        Err(usage(format!(
            "TLS {what} {} holds no PEM block `-----BEGIN … {label}`",
            path.display()
        )))
    }
}

/// The cause behind an error of async-nats, whose kinds are coarser than its sources.
fn cause(error: &ConnectError) -> DialError {
    let source = error.source();
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    let tls = io
        .and_then(io::Error::get_ref)
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (error.kind(), tls) {
        (ConnectErrorKind::AuthorizationViolation, _) => {
            DialError::Unauthorized(AUTHORIZATION_VIOLATION.to_owned())
        }
        (ConnectErrorKind::Authentication, _) => DialError::Signing,
        (ConnectErrorKind::TimedOut, _) => DialError::Timeout,
        (ConnectErrorKind::Dns, _) => DialError::Dns,
        (ConnectErrorKind::Tls, _) => DialError::TlsSetup(
            source.map_or_else(|| "no reason given".to_owned(), ToString::to_string),
        ),
        (_, Some(tls)) => DialError::Tls(tls.clone()),
        _ if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) => {
            DialError::Refused
        }
        _ => DialError::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named_before_anything_is_sent() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("junk.pem");
        std::fs::write(&path, "hunter2").expect("file");
        let tls = |ca: Option<&Path>, cert: Option<&Path>| Endpoint {
            tls: Tls {
                ca: ca.map(Into::into),
                cert: cert.map(Into::into),
                ..Tls::default()
            },
            ..Endpoint::default()
        };
        let auth = |auth| Endpoint {
            auth,
            ..Endpoint::default()
        };
        for (endpoint, says) in [
            (
                tls(Some(Path::new("/nowhere/ca.pem")), None),
                "/nowhere/ca.pem",
            ),
            (tls(Some(&path), None), "junk.pem holds no PEM block"),
            (tls(None, Some(&path)), "one is missing"),
            (
                auth(Auth::CredsFile("/nowhere/a.creds".into())),
                "/nowhere/a.creds",
            ),
            (auth(Auth::CredsFile(path.clone())), "need a JWT and a seed"),
            (
                auth(Auth::CredsText(Secret::new("hunter2"))),
                "inline credentials cannot be used",
            ),
        ] {
            let error = connect_options(&endpoint)
                .map(|_| ())
                .expect_err(says)
                .to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_dead_server_in_the_list_leaves_time_for_the_others() {
        let endpoint = |urls: usize, deadline| Endpoint {
            urls: vec!["nats://h:1".to_owned(); urls],
            deadline,
            ..Endpoint::default()
        };
        let s = Duration::from_secs;
        assert_eq!(attempt_timeout(&endpoint(1, s(5))), s(5));
        assert_eq!(
            attempt_timeout(&endpoint(2, s(5))),
            Duration::from_millis(2_500)
        );
        assert_eq!(attempt_timeout(&endpoint(20, s(5))), s(1));
        let short = Duration::from_millis(300);
        assert_eq!(attempt_timeout(&endpoint(3, short)), short);
    }
}
