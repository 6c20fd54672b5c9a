//! Who we are to a server: credentials and TLS, read from files once, so that reconnecting reads
//! none.

use std::sync::{Arc, OnceLock};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;

use crate::error::usage;
use crate::nats::connect::{
    Pem, client_pair, creds_text, install_crypto, read_pem, unusable_creds,
};
use crate::nats::dial_error::DialError;
use crate::nats::endpoint::{Auth, Endpoint, Tls};
use crate::secret::Secret;

/// Credentials and TLS material of an endpoint. Its `Debug` shows no secret.
#[derive(Debug)]
pub struct Identity {
    login: Login,
    /// Made when first needed if it stands on the system's roots alone: reading them takes a
    /// while, and a connection in the clear does without.
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
}

#[derive(Debug)]
enum Login {
    None,
    UserPassword { user: String, password: Secret },
    Token(Secret),
    NKey(KeyPair),
    Jwt { jwt: Secret, key: Option<KeyPair> },
}

impl Identity {
    /// Reads what an endpoint names. Files that cannot be used are usage errors.
    pub fn load(endpoint: &Endpoint) -> Result<Self> {
        install_crypto();
        let identity = Self {
            login: login(&endpoint.auth)?,
            tls: OnceLock::new(),
        };
        if let Some(config) = own_tls(&endpoint.tls)? {
            // It is empty, so this is its value.
            let _ = identity.tls.set(Ok(Arc::new(config)));
        }
        Ok(identity)
    }

    /// What a handshake begins with.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, DialError> {
        let config = self.tls.get_or_init(|| {
            let roots = system_roots()?;
            let builder = ClientConfig::builder().with_root_certificates(roots);
            Ok(Arc::new(builder.with_no_client_auth()))
        });
        config.clone().map_err(DialError::TlsSetup)
    }

    /// The CONNECT line, with the end of the line. `name` is the connection's, `nonce` what the
    /// server wants signed.
    pub(super) fn connect_line(
        &self,
        name: &str,
        tls: bool,
        nonce: &str,
    ) -> Result<String, DialError> {
        let sign = |key: &KeyPair| -> Result<String, DialError> {
            let signature = key.sign(nonce.as_bytes()).map_err(|_| DialError::Signing)?;
            Ok(URL_SAFE_NO_PAD.encode(signature))
        };
        let mut connect = Connect::new(name, tls);
        match &self.login {
            Login::None => {}
            Login::UserPassword { user, password } => {
                connect.user = Some(user);
                connect.pass = Some(password.expose());
            }
            Login::Token(token) => connect.auth_token = Some(token.expose()),
            Login::NKey(key) => {
                connect.nkey = Some(key.public_key());
                connect.sig = Some(sign(key)?);
            }
            Login::Jwt { jwt, key } => {
                connect.jwt = Some(jwt.expose());
                // Of a bearer JWT the server does not look at the signature.
                connect.sig = Some(key.as_ref().map(sign).transpose()?.unwrap_or_default());
            }
        }
        let json = serde_json::to_string(&connect)
            .map_err(|error| DialError::Other(format!("CONNECT cannot be written: {error}")))?;
        Ok(format!("CONNECT {json}\r\n"))
    }
}

/// The client's half of the greeting, by the names of the protocol.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the protocol")]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'static str,
    version: &'static str,
    protocol: u8,
    echo: bool,
    headers: bool,
    no_responders: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

impl<'a> Connect<'a> {
    fn new(name: &'a str, tls_required: bool) -> Self {
        Self {
            verbose: false,
            pedantic: false,
            tls_required,
            name,
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1,
            echo: true,
            headers: true,
            no_responders: true,
            user: None,
            pass: None,
            auth_token: None,
            jwt: None,
            nkey: None,
            sig: None,
        }
    }
}

fn login(auth: &Auth) -> Result<Login> {
    if let Some(text) = creds_text(auth)? {
        let blocks = armoured(text.expose());
        let [jwt, seed, ..] = blocks[..] else {
            return Err(unusable_creds(auth));
        };
        let key = KeyPair::from_seed(seed).map_err(|_| unusable_creds(auth))?;
        return Ok(Login::Jwt {
            jwt: Secret::new(jwt),
            key: Some(key),
        });
    }
    Ok(match auth {
        Auth::UserPassword { user, password } => Login::UserPassword {
            user: user.clone(),
            password: password.clone(),
        },
        Auth::Token(token) => Login::Token(token.clone()),
        Auth::NKey(seed) => Login::NKey(
            KeyPair::from_seed(seed.expose().trim())
                .map_err(|_| usage(format!("{} has no valid seed (SU…)", auth.describe())))?,
        ),
        Auth::UserJwt { jwt, seed: None } => Login::Jwt {
            jwt: Secret::new(jwt.expose().trim()),
            key: None,
        },
        _ => Login::None,
    })
}

/// What stands alone between two lines of dashes, in the order of a `.creds` file.
fn armoured(text: &str) -> Vec<&str> {
    let is_frame = |line: &str| line.starts_with("---") && line.ends_with("---");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let framed = lines
        .windows(3)
        .filter(|w| is_frame(w[0]) && is_frame(w[2]));
    framed
        .map(|w| w[1])
        .filter(|body| !body.is_empty() && !body.contains(char::is_whitespace))
        .collect()
}

/// TLS with roots or a client certificate of the endpoint's own.
fn own_tls(tls: &Tls) -> Result<Option<ClientConfig>> {
    let pair = client_pair(tls)?;
    let roots = match &tls.ca {
        Some(ca) => certificate_roots(&read_pem("CA", ca, "CERTIFICATE-----")?)?,
        None if pair.is_none() => return Ok(None),
        None => system_roots().map_err(|why| usage(format!("{why}; give a CA with --tlsca")))?,
    };
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((cert, key)) = pair else {
        return Ok(Some(builder.with_no_client_auth()));
    };
    let unusable = |what: &str, pem: &Pem<'_>, error: &dyn std::fmt::Display| {
        let path = pem.path.display();
        usage(format!("TLS {what} {path} cannot be used: {error}"))
    };
    let chain = certificates(&cert).map_err(|e| unusable("client certificate", &cert, &e))?;
    let secret = PrivateKeyDer::from_pem_slice(&key.bytes)
        .map_err(|error| unusable("client key", &key, &error))?;
    let config = builder
        .with_client_auth_cert(chain, secret)
        .map_err(|error| unusable("client key", &key, &error))?;
    Ok(Some(config))
}

fn certificates(
    pem: &Pem<'_>,
) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(&pem.bytes).collect()
}

fn certificate_roots(pem: &Pem<'_>) -> Result<RootCertStore> {
    let path = pem.path.display();
    let unusable =
        |error: &dyn std::fmt::Display| usage(format!("TLS CA {path} cannot be used: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(|error| unusable(&error))? {
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    Ok(roots)
}

/// The authorities that this machine trusts. One that cannot be read does not spoil the others.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match found.errors.first() {
        Some(error) if added == 0 => Err(format!(
            "the certificates this machine trusts cannot be read: {error}"
        )),
        _ => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::{Value, json};

    use super::*;

    fn identity(auth: Auth) -> Result<Identity> {
        Identity::load(&Endpoint {
            auth,
            ..Endpoint::default()
        })
    }

    /// The JSON of the CONNECT line for the nonce `n0nce`.
    fn connect(auth: Auth) -> Value {
        let line = identity(auth)
            .expect("usable")
            .connect_line("worker \"1\"\r\n", false, "n0nce")
            .expect("signed");
        let json = line.strip_prefix("CONNECT ").expect("CONNECT");
        let json = json.strip_suffix("\r\n").expect("an end");
        assert!(!json.contains(['\r', '\n']), "{json}");
        serde_json::from_str(json).expect("JSON")
    }

    /// What every CONNECT says, and `more`.
    fn base(more: Value) -> Value {
        let mut expected = json!({
            "verbose": false, "pedantic": false, "tls_required": false, "protocol": 1,
            "name": "worker \"1\"\r\n", "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
            "echo": true, "headers": true, "no_responders": true,
        });
        if let (Value::Object(expected), Value::Object(more)) = (&mut expected, more) {
            expected.extend(more);
        }
        expected
    }

    /// The signature is taken out, after it was held against the key.
    fn signed_by(key: &KeyPair, mut connect: Value) -> Value {
        let signature = connect["sig"].take();
        let signature = URL_SAFE_NO_PAD.decode(signature.as_str().expect("a signature"));
        KeyPair::from_public_key(&key.public_key())
            .expect("a public key")
            .verify(b"n0nce", &signature.expect("base64url"))
            .expect("a signature of the nonce");
        connect
    }

    #[test]
    fn connect_carries_the_credentials_of_one_kind() {
        assert_eq!(connect(Auth::None), base(json!({})));
        let user = Auth::UserPassword {
            user: "b\u{f6}b".to_owned(),
            password: Secret::new("p\"\\w\n"),
        };
        let expected = json!({"user": "b\u{f6}b", "pass": "p\"\\w\n"});
        assert_eq!(connect(user), base(expected));
        let nobody = Auth::UserPassword {
            user: "bob".to_owned(),
            password: Secret::new(""),
        };
        assert_eq!(connect(nobody), base(json!({"user": "bob", "pass": ""})));
        let token = Auth::Token(Secret::new("s3cret"));
        assert_eq!(connect(token), base(json!({"auth_token": "s3cret"})));
        let bearer = Auth::UserJwt {
            jwt: Secret::new(" a.b.c\n"),
            seed: None,
        };
        assert_eq!(connect(bearer), base(json!({"jwt": "a.b.c", "sig": ""})));
        let line = identity(Auth::None).expect("usable");
        let line = line.connect_line("n", true, "").expect("nothing to sign");
        assert!(line.contains("\"tls_required\":true"), "{line}");
    }

    #[test]
    fn the_nonce_is_signed_by_the_seed() {
        let key = KeyPair::new_user();
        let seed = key.seed().expect("a seed");
        let nkey = connect(Auth::NKey(Secret::new(format!("{seed}\n"))));
        assert_eq!(
            signed_by(&key, nkey),
            base(json!({"nkey": key.public_key(), "sig": null}))
        );
        let creds = |end: &str| {
            format!(
                "-----BEGIN NATS USER JWT-----{end}a.b-_.c{end}------END NATS USER JWT------{end}\
                 {end}*** IMPORTANT ***{end}NKEY Seed printed below{end}{end}\
                 -----BEGIN USER NKEY SEED-----{end}{seed}{end}------END USER NKEY SEED------"
            )
        };
        for auth in [
            Auth::CredsText(Secret::new(creds("\n"))),
            Auth::CredsText(Secret::new(creds("\r\n"))),
            Auth::UserJwt {
                jwt: Secret::new("a.b-_.c\n"),
                seed: Some(Secret::new(&seed)),
            },
        ] {
            assert_eq!(
                signed_by(&key, connect(auth)),
                base(json!({"jwt": "a.b-_.c", "sig": null}))
            );
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_when_it_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let junk = file("junk.pem", "hunter2");
        let hollow = |label: &str| {
            let text = format!("-----BEGIN {label}-----\naHVudGVyMg==\n-----END {label}-----\n");
            file(&format!("{label}.pem"), &text)
        };
        let (cert, key) = (hollow("CERTIFICATE"), hollow("PRIVATE KEY"));
        let tls = |ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>| Endpoint {
            tls: Tls {
                ca: ca.map(Into::into),
                cert: cert.map(Into::into),
                key: key.map(Into::into),
                ..Tls::default()
            },
            ..Endpoint::default()
        };
        let auth = |auth| Endpoint {
            auth,
            ..Endpoint::default()
        };
        let own = rcgen::generate_simple_self_signed(vec!["h".to_owned()]).expect("certificate");
        let ca = file("ca.pem", &own.cert.pem());
        let stranger = rcgen::KeyPair::generate().expect("key").serialize_pem();
        let stranger = file("stranger.key", &stranger);
        let hidden = Secret::new("hunter2");
        for (endpoint, says) in [
            (
                tls(Some(Path::new("/nowhere/ca.pem")), None, None),
                "TLS CA /nowhere/ca.pem",
            ),
            (tls(Some(&junk), None, None), "junk.pem holds no PEM block"),
            (
                tls(Some(&cert), None, None),
                "CERTIFICATE.pem cannot be used",
            ),
            (tls(Some(&ca), Some(&ca), None), "one is missing"),
            (tls(Some(&ca), Some(&ca), Some(&junk)), "TLS client key"),
            (
                tls(Some(&ca), Some(&ca), Some(&key)),
                "PRIVATE KEY.pem cannot be used",
            ),
            (
                tls(Some(&ca), Some(&ca), Some(&stranger)),
                "stranger.key cannot be used",
            ),
            (
                auth(Auth::CredsFile("/nowhere/a.creds".into())),
                "/nowhere/a.creds",
            ),
            (auth(Auth::CredsFile(junk.clone())), "need a JWT and a seed"),
            (
                auth(Auth::CredsText(hidden.clone())),
                "inline credentials cannot be used",
            ),
            (
                auth(Auth::UserJwt {
                    jwt: hidden.clone(),
                    seed: Some(hidden.clone()),
                }),
                "a user JWT cannot be used",
            ),
            (auth(Auth::NKey(hidden)), "an nkey has no valid seed"),
        ] {
            let error = Identity::load(&endpoint).expect_err(says);
            let failure = error.downcast_ref::<crate::error::Failure>();
            assert_eq!(
                failure.map(crate::error::Failure::exit_code),
                Some(2),
                "{error}"
            );
            let text = format!("{error:#}");
            assert!(text.contains(says) && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn debug_hides_secrets() {
        let key = KeyPair::new_user();
        let seed = key.seed().expect("a seed");
        for auth in [
            Auth::UserPassword {
                user: "bob".to_owned(),
                password: Secret::new(&seed),
            },
            Auth::Token(Secret::new(&seed)),
            Auth::NKey(Secret::new(&seed)),
            Auth::UserJwt {
                jwt: Secret::new("hunter2"),
                seed: Some(Secret::new(&seed)),
            },
        ] {
            let shown = format!("{:?}", identity(auth).expect("usable"));
            assert!(
                !shown.contains(&seed) && !shown.contains("hunter2"),
                "{shown}"
            );
        }
    }
}
