//! Why a connection could not be made, and the cure, in words: one list of causes for every way
//! of connecting, so that the same mistake reads the same. Never shows a secret.

use std::io;

use super::endpoint::{Auth, Endpoint};

/// Why one attempt to connect failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not done in time.
    #[error("no answer in time")]
    Timeout,
    /// The host name cannot be resolved.
    #[error("the host name cannot be resolved")]
    Dns,
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// The network failed otherwise.
    #[error(transparent)]
    Io(io::Error),
    /// The handshake failed, or TLS did later.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// There is nothing to begin a handshake with: no usable roots, or a name TLS does not take.
    #[error("TLS cannot be set up: {0}")]
    TlsSetup(String),
    /// TLS is a must and the server offers none.
    #[error("the server offers no TLS")]
    NotTls,
    /// The server does not let these credentials in; its words.
    #[error("the server refuses the credentials: {0}")]
    Unauthorized(String),
    /// The seed cannot sign what the server wants signed.
    #[error("the server's challenge cannot be signed")]
    Signing,
    /// The server refuses for another reason; its words.
    #[error("the server says `{0}`")]
    Server(String),
    /// What came is not the NATS protocol; in what way.
    #[error("not the NATS protocol: {0}")]
    Protocol(String),
    /// The server closed the connection before it was one.
    #[error("closed by the server")]
    Closed,
    /// What a client library says and no other cause stands for.
    #[error("{0}")]
    Other(String),
}

impl DialError {
    /// The same credentials would be refused again, by this server and the others.
    pub fn is_about_credentials(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Signing)
    }

    /// The cause and the cure; `servers` says who, as a message may show it.
    pub fn explain(&self, servers: &str, endpoint: &Endpoint) -> String {
        match self {
            Self::Unauthorized(said) => match &endpoint.auth {
                Auth::None => format!(
                    "{servers} wants credentials and none were given; give --creds, --user with \
                     --password, --token, --nkey or --context"
                ),
                auth => format!(
                    "{servers} does not let in {}{}; check the credentials and the account",
                    auth.describe(),
                    // The usual refusal says nothing more than that it is one.
                    if said.eq_ignore_ascii_case(AUTHORIZATION_VIOLATION) {
                        String::new()
                    } else {
                        format!(" (it says `{said}`)")
                    }
                ),
            },
            Self::Signing => format!(
                "{servers}: {} cannot sign the server's challenge; check the seed",
                endpoint.auth.describe()
            ),
            Self::Timeout => format!(
                "{servers} did not answer within {}; check host, port and firewall{}",
                crate::units::human_duration(endpoint.deadline),
                tls_first_hint(endpoint)
            ),
            Self::Closed => format!(
                "{servers} closed the connection before it was made; check host and port{}",
                tls_first_hint(endpoint)
            ),
            Self::Dns => format!("{servers}: the host name cannot be resolved; check it"),
            Self::TlsSetup(_) => format!("{servers}: {self}"),
            Self::Tls(error) => {
                format!("{servers}: TLS failed: {}", explain_tls(error, endpoint))
            }
            Self::NotTls => format!("{servers}: TLS failed: {}", no_tls(endpoint)),
            Self::Refused => format!(
                "nothing listens at {servers} (connection refused); start the server or correct \
                 the address"
            ),
            Self::Protocol(what) => format!(
                "{servers} does not speak NATS: {what}; give the address of a NATS server's \
                 client port"
            ),
            Self::Server(_) | Self::Io(_) | Self::Other(_) => {
                format!("{servers} cannot be connected to: {self}")
            }
        }
    }
}

/// What a server says to wrong credentials.
pub(super) const AUTHORIZATION_VIOLATION: &str = "Authorization Violation";

/// A server that waits for a TLS handshake says nothing to a client that waits for its greeting.
fn tls_first_hint(endpoint: &Endpoint) -> &'static str {
    if endpoint.tls.first {
        ""
    } else {
        " (a server with handshake_first needs tls.first)"
    }
}

fn no_tls(endpoint: &Endpoint) -> String {
    format!(
        "the server does not speak TLS {}",
        if endpoint.tls.first {
            "before its greeting; leave out tls.first"
        } else {
            "on this port; use nats:// without TLS keys, or the right port"
        }
    )
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
        Error::InvalidMessage(_) => no_tls(endpoint),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

    use super::super::endpoint::Tls;
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn every_cause_comes_with_its_cure() {
        let plain = Endpoint::default();
        let endpoint = Endpoint {
            auth: Auth::UserPassword {
                user: "bob".to_owned(),
                password: Secret::new("hunter2"),
            },
            tls: Tls {
                ca: Some("/etc/ca.pem".into()),
                cert: Some("/etc/me.pem".into()),
                first: true,
                ..Tls::default()
            },
            ..Endpoint::default()
        };
        let violation = || DialError::Unauthorized(AUTHORIZATION_VIOLATION.to_owned());
        let tls = |error: Error| DialError::Tls(error);
        let issuer = || tls(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        let alert = || tls(Error::AlertReceived(AlertDescription::CertificateRequired));
        let not_tls = || tls(Error::InvalidMessage(InvalidMessage::InvalidContentType));
        let causes = [
            (&plain, DialError::Timeout),
            (&endpoint, DialError::Timeout),
            (&plain, DialError::Dns),
            (&plain, DialError::Refused),
            (&plain, DialError::Io(io::ErrorKind::HostUnreachable.into())),
            (&plain, DialError::Closed),
            (&plain, issuer()),
            (&endpoint, issuer()),
            (
                &plain,
                tls(Error::InvalidCertificate(CertificateError::NotValidForName)),
            ),
            (&plain, alert()),
            (&endpoint, alert()),
            (&plain, not_tls()),
            (&endpoint, not_tls()),
            (&plain, DialError::NotTls),
            (&plain, DialError::TlsSetup("no roots".to_owned())),
            (&plain, violation()),
            (&endpoint, violation()),
            (
                &endpoint,
                DialError::Unauthorized("User Authentication Expired".to_owned()),
            ),
            (&endpoint, DialError::Signing),
            (
                &plain,
                DialError::Server("maximum connections exceeded".to_owned()),
            ),
            (&plain, DialError::Protocol("it says `SSH-2.0`".to_owned())),
            (&plain, DialError::Other("IO error: x".to_owned())),
        ];
        let explained: Vec<String> = causes
            .iter()
            .map(|(endpoint, cause)| cause.explain("nats://h:1", endpoint))
            .collect();
        let explained = explained.join("\n");
        assert!(!explained.contains("hunter2"), "{explained}");
        insta::assert_snapshot!(explained);
    }
}
