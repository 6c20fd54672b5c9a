//! Dialling real nats-server processes, and services that are none, on loopback.

mod common;
#[path = "common/papers.rs"]
mod papers;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::Server;
use jsbench::error::Failure;
use jsbench::nats::endpoint::{Auth, Endpoint, Tls};
use jsbench::nats::wire::dial::{
    Address, DialError, Dialled, Identity, Info, Pool, Transport, dial, first,
};
use jsbench::secret::Secret;
use papers::{jwt, write_certificates};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn port(server: &Server) -> &str {
    server.url.rsplit_once(':').expect("a port").1
}

fn at(server: &Server, auth: Auth) -> Endpoint {
    let url = format!("127.0.0.1:{}", port(server));
    Endpoint {
        auth,
        ..Endpoint::parse(&url).expect("a URL")
    }
}

async fn connect(endpoint: &Endpoint) -> anyhow::Result<Dialled> {
    let identity = Identity::load(endpoint)?;
    first(endpoint, &identity, &mut Pool::new(endpoint)?).await
}

/// A connection that carries a message there and back.
async fn works(endpoint: &Endpoint) -> Dialled {
    let dialled = connect(endpoint).await.expect("connection");
    carries(dialled).await
}

async fn carries(mut dialled: Dialled) -> Dialled {
    let stream = &mut dialled.transport;
    let said = b"SUB echo 1\r\nPUB echo 2\r\nhi\r\n";
    stream.write_all(said).await.expect("written");
    stream.flush().await.expect("flushed");
    let mut heard = dialled.rest.to_vec();
    let message = b"MSG echo 1 2\r\nhi\r\n";
    let read = async {
        while !heard.windows(message.len()).any(|part| part == message) {
            let n = stream.read_buf(&mut heard).await.expect("readable");
            assert_ne!(n, 0, "closed after {:?}", String::from_utf8_lossy(&heard));
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .expect("the message comes back");
    dialled
}

/// The connection is refused with a text that says this and shows no secret.
async fn refused(endpoint: &Endpoint, says: &str) {
    let error = connect(endpoint).await.expect_err(says);
    let text = format!("{error:#}");
    assert!(text.contains(says), "{says}: {text}");
    assert!(!text.contains("hunter2"), "{text}");
    let failure = error.downcast_ref::<Failure>();
    assert_eq!(failure.map(Failure::exit_code), Some(1), "{text}");
}

#[tokio::test]
async fn a_server_without_credentials_lets_us_in() {
    let server = Server::start("server_name: s1");
    let dialled = works(&at(&server, Auth::None)).await;
    let info = &dialled.info;
    assert_eq!(info.server_name, "s1");
    assert!(info.jetstream && info.headers && !info.ldm && !info.auth_required);
    assert_eq!((info.max_payload, info.proto), (1 << 20, 1));
    assert!(!info.server_id.is_empty() && !info.version.is_empty() && info.client_id > 0);
    assert_eq!(dialled.server, format!("127.0.0.1:{}", port(&server)));
    let Transport::Tcp(stream) = &dialled.transport else {
        panic!("TLS was not asked for");
    };
    assert!(stream.nodelay().expect("a TCP socket"));

    // The server knows us by the name and the way of speaking of CONNECT.
    let url = format!("{}/connz", server.monitor);
    let connz = jsbench::nats::monitor::get_json(&url).await.expect("connz");
    let ours = &connz["connections"][0];
    assert_eq!(ours["cid"], json!(info.client_id));
    assert_eq!(ours["name"], json!("jsbench"));
    assert_eq!(ours["lang"], json!("rust"));
    assert_eq!(ours["version"], json!(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn user_and_password_of_a_url_are_used() {
    let server = Server::start("authorization { user: bob, password: \"p@ss/word\" }");
    let of = |user: &str| {
        let url = format!("{user}@127.0.0.1:{}", port(&server));
        Endpoint::parse(&url).expect("a URL")
    };
    works(&of("bob:p%40ss%2Fword")).await;
    refused(
        &of("bob:hunter2"),
        "does not let in user `bob` with a password",
    )
    .await;
    refused(&of("hunter2"), "does not let in a token").await;
    let nobody = at(&server, Auth::None);
    refused(&nobody, "wants credentials and none were given").await;
    refused(
        &nobody,
        &format!("nats://127.0.0.1:{} wants", port(&server)),
    )
    .await;
}

#[tokio::test]
async fn token_and_nkey_are_used() {
    let server = Server::start("authorization { token: s3cret }");
    let token = |text: &str| at(&server, Auth::Token(Secret::new(text)));
    works(&token("s3cret")).await;
    refused(&token("hunter2"), "does not let in a token").await;

    let (user, other) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let users = format!("users: [ {{ nkey: {} }} ]", user.public_key());
    let server = Server::start(&format!("authorization {{ {users} }}"));
    let nkey = |pair: &nkeys::KeyPair| {
        let seed = Secret::new(pair.seed().expect("a seed"));
        at(&server, Auth::NKey(seed))
    };
    works(&nkey(&user)).await;
    refused(&nkey(&other), "does not let in an nkey").await;
}

/// An operator's server, with the account that its users are of.
struct OperatorServer {
    server: Server,
    account: nkeys::KeyPair,
}

impl OperatorServer {
    fn start() -> Self {
        let operator = nkeys::KeyPair::new_operator();
        let (account, system) = (nkeys::KeyPair::new_account(), nkeys::KeyPair::new_account());
        let limits = json!({"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1,
                            "data": -1, "payload": -1, "wildcards": true});
        let signed = |subject: &nkeys::KeyPair, kind: &str| {
            let claims = json!({"type": kind, "version": 2, "limits": limits});
            jwt(&operator, &subject.public_key(), &claims)
        };
        let server = Server::start(&format!(
            "operator: {}\nresolver: MEMORY\nsystem_account: {}\n\
             resolver_preload: {{ {}: {}, {}: {} }}",
            signed(&operator, "operator"),
            system.public_key(),
            account.public_key(),
            signed(&account, "account"),
            system.public_key(),
            signed(&system, "account"),
        ));
        Self { server, account }
    }

    fn user(&self, user: &nkeys::KeyPair, more: &Value) -> String {
        let mut claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1,
                                "payload": -1});
        let (Value::Object(claims_map), Value::Object(more)) = (&mut claims, more) else {
            panic!("claims are an object");
        };
        claims_map.extend(more.clone());
        jwt(&self.account, &user.public_key(), &claims)
    }

    fn with_jwt(&self, jwt: &str, seed: Option<&str>) -> Endpoint {
        let (jwt, seed) = (Secret::new(jwt), seed.map(Secret::new));
        at(&self.server, Auth::UserJwt { jwt, seed })
    }
}

#[tokio::test]
async fn credentials_files_and_jwts_are_used() {
    let operator = OperatorServer::start();
    let user = nkeys::KeyPair::new_user();
    let seed = user.seed().expect("a seed");
    let user_jwt = operator.user(&user, &json!({}));
    works(&operator.with_jwt(&user_jwt, Some(&seed))).await;
    let bearer = operator.user(&user, &json!({"bearer_token": true}));
    works(&operator.with_jwt(&bearer, None)).await;
    let unsigned = operator.with_jwt(&user_jwt, None);
    refused(&unsigned, "does not let in a user JWT").await;

    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("user.creds");
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&path, &creds).expect("file");
    works(&at(&operator.server, Auth::CredsFile(path.clone()))).await;
    works(&at(&operator.server, Auth::CredsText(Secret::new(&creds)))).await;
    let stranger = nkeys::KeyPair::new_user().seed().expect("a seed");
    std::fs::write(&path, creds.replace(&seed, &stranger)).expect("file");
    let wrong = at(&operator.server, Auth::CredsFile(path.clone()));
    refused(&wrong, &format!("the credentials file {}", path.display())).await;
}

/// A server with a certificate for `localhost`, and the files that go with it.
struct TlsServer {
    server: Server,
    directory: TempDir,
}

impl TlsServer {
    fn start(extra: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        write_certificates(directory.path());
        let dir = directory.path().display();
        let server = Server::start(&format!(
            "tls {{ cert_file: \"{dir}/ca-server.pem\", key_file: \"{dir}/ca-server.key\"\n\
             ca_file: \"{dir}/ca.pem\"\n{extra} }}"
        ));
        Self { server, directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn ca(&self, name: &str) -> Tls {
        Tls {
            ca: Some(self.file(name)),
            ..Tls::default()
        }
    }

    fn at(&self, host: &str, tls: Tls) -> Endpoint {
        Endpoint {
            tls,
            ..Endpoint::parse(&format!("{host}:{}", port(&self.server))).expect("a URL")
        }
    }
}

#[tokio::test]
async fn tls_wants_the_right_ca_and_name() {
    let tls = TlsServer::start("");
    let right = tls.ca("ca.pem");
    let dialled = works(&tls.at("localhost", right.clone())).await;
    assert!(matches!(dialled.transport, Transport::Tls(_)));
    let dialled = works(&tls.at("tls://localhost", right.clone())).await;
    assert!(matches!(dialled.transport, Transport::Tls(_)));
    let wrong = tls.at("localhost", tls.ca("other.pem"));
    refused(&wrong, "was not issued by").await;
    // The server asks for TLS, and this machine does not know its authority.
    let unasked = tls.at("localhost", Tls::default());
    refused(&unasked, "give its CA with --tlsca").await;
    let by_number = tls.at("127.0.0.1", right.clone());
    refused(&by_number, "not made out for this host").await;
    let first = Tls {
        first: true,
        ..right.clone()
    };
    refused(&tls.at("localhost", first.clone()), "leave out tls.first").await;

    let plain = Server::start("");
    let endpoint = |tls| Endpoint {
        tls,
        ..at(&plain, Auth::None)
    };
    refused(&endpoint(right), "does not speak TLS on this port").await;
    refused(&endpoint(first), "leave out tls.first").await;
}

#[tokio::test]
async fn mutual_tls_wants_the_right_client_certificate() {
    let tls = TlsServer::start("verify: true");
    let client = |name: &str| {
        let of_client = Tls {
            cert: Some(tls.file(&format!("{name}.pem"))),
            key: Some(tls.file(&format!("{name}.key"))),
            ..tls.ca("ca.pem")
        };
        tls.at("localhost", of_client)
    };
    works(&client("ca-client")).await;
    refused(&client("other-client"), "the client certificate").await;
    let nobody = tls.at("localhost", tls.ca("ca.pem"));
    refused(&nobody, "a client without a certificate").await;
}

#[tokio::test]
async fn tls_first_shakes_hands_before_the_greeting() {
    let tls = TlsServer::start("handshake_first: true");
    let mut endpoint = tls.at("localhost", tls.ca("ca.pem"));
    endpoint.deadline = Duration::from_millis(200);
    refused(&endpoint, "tls.first").await;
    endpoint.tls.first = true;
    endpoint.deadline = Duration::from_secs(5);
    works(&endpoint).await;
}

#[tokio::test]
async fn reconnecting_reads_no_file() {
    let tls = TlsServer::start("verify: true");
    let endpoint = tls.at(
        "localhost",
        Tls {
            cert: Some(tls.file("ca-client.pem")),
            key: Some(tls.file("ca-client.key")),
            ..tls.ca("ca.pem")
        },
    );
    let identity = Identity::load(&endpoint).expect("usable");
    for name in ["ca.pem", "ca-client.pem", "ca-client.key"] {
        std::fs::remove_file(tls.file(name)).expect("it was there");
    }
    let mut pool = Pool::new(&endpoint).expect("servers");
    for _ in 0..2 {
        let dialled = first(&endpoint, &identity, &mut pool).await;
        carries(dialled.expect("connection")).await;
    }
}

#[tokio::test]
async fn a_server_that_is_full_says_so() {
    let server = Server::start("max_connections: 1");
    let _only = works(&at(&server, Auth::None)).await;
    refused(&at(&server, Auth::None), "maximum connections exceeded").await;
}

/// An address where nothing listens.
fn nowhere() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    free.local_addr().expect("address").to_string()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_the_next_one_taken() {
    let gone = nowhere();
    let dead = Endpoint::parse(&gone).expect("a URL");
    refused(&dead, &format!("nothing listens at nats://{gone}")).await;

    // Whichever of them is tried first.
    let server = Server::start("");
    let both = Endpoint::parse(&format!("{gone},{}", server.url)).expect("URLs");
    for _ in 0..8 {
        works(&both).await;
    }

    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let mute = mute.local_addr().map(|address| (mute, address));
    let (_mute, address) = mute.expect("an address");
    let mut silent = Endpoint::parse(&address.to_string()).expect("URL");
    silent.deadline = Duration::from_millis(100);
    refused(&silent, "did not answer within 100ms").await;

    // Two that fail each in its own way are named each with its cure.
    let mut both = Endpoint::parse(&format!("{address},{gone}")).expect("URLs");
    both.deadline = Duration::from_millis(200);
    refused(&both, &format!("nothing listens at nats://{gone} ")).await;
    refused(&both, &format!("nats://{address} did not answer")).await;
    let two = format!("{gone},{}", nowhere());
    let endpoint = Endpoint::parse(&two).expect("URLs");
    let error = connect(&endpoint).await.expect_err("nobody is there");
    assert_eq!(error.to_string().matches("nothing listens").count(), 1);

    // A label of a name has 63 letters at most, so nobody need be asked.
    let unknown = Endpoint::parse(&"a".repeat(64)).expect("a URL");
    refused(&unknown, "the host name cannot be resolved").await;
}

/// A service on loopback that treats every connection as `serve` does.
async fn service<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A service that says this and then listens until the client goes; what it heard is told.
async fn saying(said: &'static [u8]) -> (String, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let address = service(move |mut stream| {
        let tell = tell.clone();
        async move {
            let _ = stream.write_all(said).await;
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            let _ = tell.send(heard);
        }
    });
    (address.await, told)
}

/// One attempt at an address, which must end long before this time is over.
async fn attempt(endpoint: &Endpoint, timeout: Duration) -> Result<Dialled, DialError> {
    let identity = Identity::load(endpoint).expect("usable");
    let (server, _): (Address, _) = Pool::new(endpoint).expect("a server").next();
    dial(&server, endpoint, &identity, timeout).await
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn services_that_are_no_nats_server_are_told_at_once() {
    for (said, says) in [
        (&b"HTTP/1.1 408 Request Timeout\r\n\r\n"[..], "HTTP/1.1 408"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-OpenSSH_9.6"),
        (b"\x00\x01\x02\x03\xff\xfe", "it says"),
        (b"INFO {not json\r\n", "its INFO cannot be read"),
        (b"INFO {}\r\n", "its INFO cannot be read"),
    ] {
        let (address, mut told) = saying(said).await;
        let endpoint = Endpoint::parse(&format!("bob:hunter2@{address}")).expect("a URL");
        let begun = Instant::now();
        let error = attempt(&endpoint, LONG).await.expect_err(says);
        assert!(begun.elapsed() < LONG / 2, "{says} was waited for");
        assert!(matches!(error, DialError::Protocol(_)), "{error}");
        refused(&endpoint, says).await;
        refused(&endpoint, "client port").await;
        let heard = told.recv().await.expect("the client went");
        assert_eq!(heard, b"", "credentials are for NATS servers");
    }
}

#[tokio::test]
async fn a_service_that_closes_or_stops_half_way_is_told() {
    let closes = service(|_| async {}).await;
    let endpoint = Endpoint::parse(&closes).expect("a URL");
    let error = attempt(&endpoint, LONG).await.expect_err("closed");
    assert!(matches!(error, DialError::Closed), "{error}");
    refused(&endpoint, "closed the connection").await;

    for half in [&b""[..], b"IN", b"INFO {\"max_payload\":1", b"-ERR 'Auth"] {
        let (address, _told) = saying(half).await;
        let endpoint = Endpoint::parse(&address).expect("a URL");
        let short = Duration::from_millis(50);
        let error = attempt(&endpoint, short).await.expect_err("half a line");
        assert!(matches!(error, DialError::Timeout), "{error}");
    }
    let (address, _told) = saying(b"INFO {\"max_payload\":1}\r\n").await;
    let endpoint = Endpoint::parse(&address).expect("a URL");
    let error = attempt(&endpoint, Duration::from_millis(50)).await;
    assert!(matches!(error, Err(DialError::Timeout)), "no PONG comes");
}

#[tokio::test]
async fn a_line_without_an_end_is_not_read_to_its_end() {
    for begin in [&b"INFO "[..], b"PONG", b"aaaa"] {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let address = service(move |mut stream| {
            let tell = tell.clone();
            async move {
                let mut written = 0_usize;
                let mut next = begin.to_vec();
                while written < 1 << 30 {
                    match stream.write(&next).await {
                        Ok(n) => written += n,
                        Err(_) => break,
                    }
                    next = vec![b' '; 64 << 10];
                }
                let _ = tell.send(written);
            }
        });
        let endpoint = Endpoint::parse(&address.await).expect("a URL");
        let error = attempt(&endpoint, LONG).await.expect_err("no end");
        assert!(matches!(error, DialError::Protocol(_)), "{error}");
        let written = told.recv().await.expect("the client went");
        // What the two sockets hold is a few MiB at most.
        assert!(written < 64 << 20, "{written} bytes were taken");
    }
}

#[tokio::test]
async fn where_tls_is_a_must_nothing_is_sent_in_the_clear() {
    let papers = tempfile::tempdir().expect("temporary directory");
    write_certificates(papers.path());
    let must = [
        Tls {
            ca: Some(papers.path().join("ca.pem")),
            ..Tls::default()
        },
        Tls {
            required: true,
            ..Tls::default()
        },
    ];
    let plain_info = b"INFO {\"max_payload\":1}\r\n";
    for tls in must {
        let (address, mut told) = saying(plain_info).await;
        let url = format!("bob:hunter2@{address}");
        let endpoint = Endpoint {
            tls,
            ..Endpoint::parse(&url).expect("a URL")
        };
        let error = attempt(&endpoint, LONG).await.expect_err("no TLS");
        assert!(matches!(error, DialError::NotTls), "{error}");
        assert_eq!(told.recv().await.expect("the client went"), b"");
    }
    let (address, mut told) = saying(plain_info).await;
    let endpoint = Endpoint::parse(&format!("tls://bob:hunter2@{address}")).expect("a URL");
    refused(&endpoint, "does not speak TLS on this port").await;
    assert_eq!(told.recv().await.expect("the client went"), b"");

    // Words that come in the clear behind INFO are not taken for the server's behind TLS.
    let (address, mut told) =
        saying(b"INFO {\"max_payload\":1,\"tls_required\":true}\r\nPONG\r\n").await;
    let endpoint = Endpoint::parse(&format!("bob:hunter2@{address}")).expect("a URL");
    let error = attempt(&endpoint, LONG).await.expect_err("goes on");
    assert!(matches!(error, DialError::Protocol(_)), "{error}");
    assert_eq!(told.recv().await.expect("the client went"), b"");
}

#[tokio::test]
async fn servers_of_the_cluster_are_learnt_and_reached() {
    let server = Server::start("server_name: s2");
    // A member of the cluster that says where another one is, and lets us in.
    let info = format!(
        "INFO {{\"max_payload\":1,\"connect_urls\":[\"127.0.0.1:{}\"]}}\r\nPONG\r\n",
        port(&server)
    );
    let seed = service(move |mut stream| {
        let info = info.clone();
        async move {
            let _ = stream.write_all(info.as_bytes()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let mut endpoint = Endpoint::parse(&seed).expect("a URL");
    let identity = Identity::load(&endpoint).expect("usable");
    let mut pool = Pool::new(&endpoint).expect("servers");
    let begun = first(&endpoint, &identity, &mut pool).await;
    assert_eq!(begun.expect("connection").server, seed);
    let next = first(&endpoint, &identity, &mut pool).await;
    let next: Info = carries(next.expect("connection")).await.info;
    assert_eq!(next.server_name, "s2");

    endpoint.ignore_discovered_servers = true;
    let mut pool = Pool::new(&endpoint).expect("servers");
    for _ in 0..2 {
        let begun = first(&endpoint, &identity, &mut pool).await;
        assert_eq!(begun.expect("connection").server, seed);
    }
}
