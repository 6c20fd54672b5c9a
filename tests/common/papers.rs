//! What tests identify themselves with: JWTs of the NATS kind, and certificates.

use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};

/// A JWT of the NATS kind, signed by `issuer`.
pub fn jwt(issuer: &nkeys::KeyPair, subject: &str, nats: &Value) -> String {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({"jti": "x", "iat": 1_700_000_000, "iss": issuer.public_key(),
                        "name": "test", "sub": subject, "nats": nats});
    let body = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let signature = issuer.sign(body.as_bytes()).expect("a signature");
    format!("{body}.{}", encode(&signature))
}

/// Two authorities (`ca`, `other`), each with a certificate for a server and one for a client.
pub fn write_certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let write = |name: String, text: String| {
        std::fs::write(directory.join(name), text).expect("file");
    };
    for ca in ["ca", "other"] {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, ca);
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("certificate");
        write(format!("{ca}.pem"), issuer.pem());
        for leaf in ["server", "client"] {
            let names = vec!["localhost".to_owned()];
            let params = CertificateParams::new(names).expect("parameters");
            let key = KeyPair::generate().expect("key");
            let certificate = params.signed_by(&key, &issuer).expect("certificate");
            write(format!("{ca}-{leaf}.pem"), certificate.pem());
            write(format!("{ca}-{leaf}.key"), key.serialize_pem());
        }
    }
}
