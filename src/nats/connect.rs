//! Connecting with async-nats: one set of options for every connection of jsbench, a deadline for
//! the first attempt, and errors that say which server, which credentials and what to do.
//!
//! Reconnecting later is the client's business; its events can be listened to. Called by whoever
//! needs a connection.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::{Mutex, Once};
use std::time::Duration;

use anyhow::Result;
pub use async_nats::Event;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};

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
    let overall = endpoint
        .deadline
        .max(attempt_timeout(endpoint) * addresses.len() as u32);
    match tokio::time::timeout(overall, options.connect(addresses)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(environment(explain(&error, endpoint))),
        Err(_) => Err(environment(explain(
            &ConnectError::new(ConnectErrorKind::TimedOut),
            endpoint,
        ))),
    }
}

/// One server's share of the deadline, so that a dead one in the list does not use up all of it.
fn attempt_timeout(endpoint: &Endpoint) -> Duration {
    let servers = u32::try_from(endpoint.urls.len().max(1)).unwrap_or(u32::MAX);
    (endpoint.deadline / servers).max(Duration::from_secs(1).min(endpoint.deadline))
}

fn with_auth(options: ConnectOptions, auth: &Auth) -> Result<ConnectOptions> {
    let from_text = |options: ConnectOptions, text: &str| {
        options.credentials(text).map_err(|_| {
            usage(format!(
                "{} cannot be used: they need a JWT and a seed between their BEGIN and END \
                 lines, as `nsc generate creds` writes them",
                auth.describe()
            ))
        })
    };
    Ok(match auth {
        Auth::None => options,
        Auth::UserPassword { user, password } => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
        Auth::Token(token) => options.token(token.expose().to_owned()),
        Auth::NKey(seed) => options.nkey(seed.expose().to_owned()),
        Auth::CredsFile(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| usage(format!("credentials file {}: {error}", path.display())))?;
            from_text(options, &text)?
        }
        Auth::CredsText(text) => from_text(options, text.expose())?,
        Auth::UserJwt {
            jwt,
            seed: Some(seed),
        } => from_text(options, decorated(jwt, seed).expose())?,
        // A bearer JWT: the server does not look at the signature.
        Auth::UserJwt { jwt, seed: None } => {
            options.jwt(jwt.expose().to_owned(), |_| async { Ok(Vec::new()) })
        }
    })
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
        check_pem("CA", ca, "CERTIFICATE-----")?;
        options = options.add_root_certificates(ca.clone());
    }
    match (&tls.cert, &tls.key) {
        (None, None) => {}
        (Some(cert), Some(key)) => {
            check_pem("client certificate", cert, "CERTIFICATE-----")?;
            check_pem("client key", key, "PRIVATE KEY-----")?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        _ => {
            return Err(usage(
                "TLS client authentication needs both a certificate and its key; one is missing",
            ));
        }
    }
    if tls.first {
        options = options.tls_first();
    }
    Ok(options.require_tls(tls.must()))
}

/// The client library takes a file without any certificate for an empty list.
fn check_pem(what: &str, path: &Path, label: &str) -> Result<()> {
    let text = std::fs::read(path)
        .map_err(|error| usage(format!("TLS {what} {}: {error}", path.display())))?;
    if String::from_utf8_lossy(&text).contains(label) {
        Ok(())
    } else {
        Err(usage(format!(
            "TLS {what} {} holds no PEM block `-----BEGIN … {label}`",
            path.display()
        )))
    }
}

/// Why a connection could not be made, and the cure, without a secret.
fn explain(error: &ConnectError, endpoint: &Endpoint) -> String {
    let servers = endpoint.redacted();
    let source = error.source();
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    let tls = io
        .and_then(io::Error::get_ref)
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => match &endpoint.auth {
            Auth::None => format!(
                "{servers} wants credentials and none were given; give --creds, --user with \
                 --password, --token, --nkey or --context"
            ),
            auth => format!(
                "{servers} does not let in {}; check the credentials and the account",
                auth.describe()
            ),
        },
        ConnectErrorKind::Authentication => format!(
            "{servers}: {} cannot sign the server's challenge; check the seed",
            endpoint.auth.describe()
        ),
        ConnectErrorKind::TimedOut => format!(
            "{servers} did not answer within {}; check host, port and firewall{}",
            crate::units::human_duration(endpoint.deadline),
            if endpoint.tls.first {
                ""
            } else {
                " (a server with handshake_first needs tls.first)"
            }
        ),
        ConnectErrorKind::Dns => format!("{servers}: the host name cannot be resolved; check it"),
        ConnectErrorKind::Tls => format!(
            "{servers}: TLS cannot be set up: {}",
            source.map_or_else(|| "no reason given".to_owned(), ToString::to_string)
        ),
        _ if tls.is_some() => format!(
            "{servers}: TLS failed: {}",
            tls.map_or_else(String::new, |tls| explain_tls(tls, endpoint))
        ),
        _ if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) => format!(
            "nothing listens at {servers} (connection refused); start the server or correct the \
             address"
        ),
        _ => format!("{servers} cannot be connected to: {error}"),
    }
}

fn explain_tls(error: &rustls::Error, endpoint: &Endpoint) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => match &endpoint.tls.ca {
            Some(ca) => format!(
                "the server's certificate was not issued by {}; give the right --tlsca",
                ca.display()
            ),
            None => "the server's certificate was not issued by an authority this machine \
                     trusts; give its CA with --tlsca"
                .to_owned(),
        },
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the server's certificate is not made out for this host; use a name that is in it \
             ({error})"
        ),
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::HandshakeFailure,
        ) => format!(
            "the server does not accept {}; give --tlscert and --tlskey of a certificate it \
             trusts",
            match &endpoint.tls.cert {
                Some(cert) => format!("the client certificate {}", cert.display()),
                None => "a client without a certificate".to_owned(),
            }
        ),
        Error::InvalidMessage(_) => format!(
            "the server does not speak TLS {}",
            if endpoint.tls.first {
                "before its greeting; leave out tls.first"
            } else {
                "on this port; use nats:// without TLS keys, or the right port"
            }
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
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
