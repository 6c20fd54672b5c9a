//! Connecting, the JetStream API and monitoring against real nats-server processes on loopback.

#[path = "common/papers.rs"]
mod papers;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jsbench::nats::api::{Api, ApiFailure};
use jsbench::nats::config::{
    AckPolicy, ConsumerConfig, DeliverPolicy, Retention, Storage, StreamConfig, to_value, verify,
};
use jsbench::nats::connect::{Event, connect, connect_with_events};
use jsbench::nats::endpoint::{Auth, Endpoint, Tls};
use jsbench::nats::{context, monitor};
use jsbench::secret::Secret;
use papers::{jwt, write_certificates};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A nats-server of this test's own: ends with it, together with its directory.
struct Server {
    child: Child,
    url: String,
    monitor: String,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> PathBuf {
    let cached = || {
        let home = std::env::var_os("HOME").map(PathBuf::from)?;
        Some(home.join(".cache/jsbench/bin/2.15.1/nats-server"))
    };
    let path = std::env::var_os("JSBENCH_NATS_SERVER")
        .map(PathBuf::from)
        .or_else(cached)
        .unwrap_or_default();
    assert!(
        path.is_file(),
        "these tests need nats-server 2.15.1: run `jsbench server install`, or set \
         JSBENCH_NATS_SERVER to one"
    );
    path
}

impl Server {
    /// Starts a server on ports of its own choice; `{dir}` in the configuration is its directory.
    fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("temporary directory"), config)
    }

    fn start_in(directory: TempDir, config: &str) -> Self {
        let dir = directory.path().display().to_string();
        let text = format!(
            "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\nserver_name: s1\n\
             ports_file_dir: \"{dir}\"\n{}",
            config.replace("{dir}", &dir)
        );
        let path = directory.path().join("server.conf");
        std::fs::write(&path, text).expect("configuration");
        let log = std::fs::File::create(directory.path().join("log")).expect("log");
        let mut child = Command::new(binary())
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server starts");
        let ports = Self::ports(&mut child, directory.path());
        let port = |what: &str| {
            let url = ports[what][0].as_str().expect("a URL of the ports file");
            url.rsplit_once(':').expect("a port").1.to_owned()
        };
        Self {
            url: format!("nats://127.0.0.1:{}", port("nats")),
            monitor: format!("http://127.0.0.1:{}", port("monitoring")),
            child,
            directory,
        }
    }

    /// The server writes its ports once it listens.
    fn ports(child: &mut Child, directory: &Path) -> Value {
        let path = directory.join(format!("nats-server_{}.ports", child.id()));
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = std::fs::read(&path).unwrap_or_default();
            if let Ok(ports) = serde_json::from_slice(&text) {
                return ports;
            }
            let ended = child.try_wait().expect("the child can be asked");
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
                let _ = child.kill();
                let _ = child.wait();
                panic!("nats-server did not start ({ended:?}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn port(&self) -> &str {
        self.url.rsplit_once(':').expect("a port").1
    }

    fn endpoint(&self, auth: Auth, tls: Tls) -> Endpoint {
        Endpoint {
            auth,
            tls,
            ..Endpoint::parse(&self.url).expect("a URL")
        }
    }

    async fn api(&self) -> Api {
        let endpoint = Endpoint::parse(&self.url).expect("a URL");
        let client = connect(&endpoint).await.expect("connection");
        Api::new(client, endpoint.js_api_prefix)
    }
}

const JETSTREAM: &str = "jetstream { store_dir: \"{dir}/js\", max_mem: 64MB, max_file: 256MB }";

/// A connection that carries a message there and back.
async fn works(endpoint: &Endpoint) {
    let client = connect(endpoint).await.expect("connection");
    let mut inbox = client.subscribe("echo").await.expect("subscription");
    client.publish("echo", "hi".into()).await.expect("publish");
    let next = futures_util::StreamExt::next(&mut inbox);
    let message = tokio::time::timeout(Duration::from_secs(5), next).await;
    assert_eq!(message.expect("in time").expect("message").payload, "hi");
}

/// The connection is refused with a text that says this and shows no secret.
async fn refused(endpoint: &Endpoint, says: &str) {
    let error = connect(endpoint).await.expect_err(says);
    let text = format!("{error:#}");
    assert!(text.contains(says), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(error.downcast_ref::<jsbench::error::Failure>().is_some());
}

#[tokio::test]
async fn user_and_password_of_a_url_are_used() {
    let server = Server::start("authorization { user: bob, password: \"p@ss/word\" }");
    let at = |user: &str| Endpoint::parse(&format!("{user}@127.0.0.1:{}", server.port()));
    works(&at("bob:p%40ss%2Fword").expect("a URL")).await;
    refused(
        &at("bob:hunter2").expect("a URL"),
        "does not let in user `bob`",
    )
    .await;
    refused(&at("hunter2").expect("a URL"), "does not let in a token").await;
    let nobody = server.endpoint(Auth::None, Tls::default());
    refused(&nobody, "wants credentials and none were given").await;
}

#[tokio::test]
async fn token_and_nkey_are_used() {
    let server = Server::start("authorization { token: s3cret }");
    let token = |text: &str| server.endpoint(Auth::Token(Secret::new(text)), Tls::default());
    works(&token("s3cret")).await;
    refused(&token("hunter2"), "does not let in a token").await;

    let (user, other) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let config = format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    );
    let server = Server::start(&config);
    let nkey = |pair: &nkeys::KeyPair| {
        let seed = Secret::new(pair.seed().expect("a seed"));
        server.endpoint(Auth::NKey(seed), Tls::default())
    };
    works(&nkey(&user)).await;
    refused(&nkey(&other), "does not let in an nkey").await;
}

#[tokio::test]
async fn credentials_files_and_jwts_are_used() {
    let (operator, account, user) = (
        nkeys::KeyPair::new_operator(),
        nkeys::KeyPair::new_account(),
        nkeys::KeyPair::new_user(),
    );
    let limits = json!({"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1,
                        "data": -1, "payload": -1, "wildcards": true});
    let kind = |kind: &str| json!({"type": kind, "version": 2, "limits": limits});
    let user_claims = |bearer: bool| {
        json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
               "bearer_token": bearer})
    };
    let account_key = account.public_key();
    let server = Server::start(&format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {account_key}: {} }}",
        jwt(&operator, &operator.public_key(), &kind("operator")),
        jwt(&operator, &account_key, &kind("account")),
    ));

    let user_jwt = jwt(&account, &user.public_key(), &user_claims(false));
    let seed = user.seed().expect("a seed");
    let of_jwt = |jwt: &str, seed: Option<&str>| {
        let (jwt, seed) = (Secret::new(jwt), seed.map(Secret::new));
        server.endpoint(Auth::UserJwt { jwt, seed }, Tls::default())
    };
    works(&of_jwt(&user_jwt, Some(&seed))).await;
    let bearer = jwt(&account, &user.public_key(), &user_claims(true));
    works(&of_jwt(&bearer, None)).await;
    refused(&of_jwt(&user_jwt, None), "does not let in a user JWT").await;

    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("user.creds");
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&path, &creds).expect("file");
    works(&server.endpoint(Auth::CredsFile(path.clone()), Tls::default())).await;
    works(&server.endpoint(Auth::CredsText(Secret::new(&creds)), Tls::default())).await;
    let stranger = nkeys::KeyPair::new_user().seed().expect("a seed");
    std::fs::write(&path, creds.replace(&seed, &stranger)).expect("file");
    let wrong = server.endpoint(Auth::CredsFile(path.clone()), Tls::default());
    refused(&wrong, &format!("the credentials file {}", path.display())).await;
}

/// A server with a certificate for `localhost`.
struct TlsServer(Server);

impl TlsServer {
    fn start(extra: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        write_certificates(directory.path());
        let config = format!(
            "tls {{ cert_file: \"{{dir}}/ca-server.pem\", key_file: \"{{dir}}/ca-server.key\"\n\
             ca_file: \"{{dir}}/ca.pem\"\n{extra} }}"
        );
        Self(Server::start_in(directory, &config))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.directory.path().join(name)
    }

    fn ca(&self, name: &str) -> Tls {
        Tls {
            ca: Some(self.file(name)),
            ..Tls::default()
        }
    }

    fn at_localhost(&self, tls: Tls) -> Endpoint {
        Endpoint {
            tls,
            ..Endpoint::parse(&format!("localhost:{}", self.0.port())).expect("a URL")
        }
    }
}

#[tokio::test]
async fn tls_wants_the_right_ca_and_name() {
    let server = TlsServer::start("");
    let right = server.ca("ca.pem");
    works(&server.at_localhost(right.clone())).await;
    let wrong = server.at_localhost(server.ca("other.pem"));
    refused(&wrong, "was not issued by").await;
    refused(&server.at_localhost(Tls::default()), "--tlsca").await;
    let by_number = server.0.endpoint(Auth::None, right.clone());
    refused(&by_number, "not made out for this host").await;
    let first = Tls {
        first: true,
        ..right.clone()
    };
    refused(&server.at_localhost(first), "leave out tls.first").await;

    let plain = Server::start("");
    refused(
        &plain.endpoint(Auth::None, right),
        "does not speak TLS on this port",
    )
    .await;
}

#[tokio::test]
async fn mutual_tls_wants_the_right_client_certificate() {
    let server = TlsServer::start("verify: true");
    let client = |name: &str| {
        server.at_localhost(Tls {
            cert: Some(server.file(&format!("{name}.pem"))),
            key: Some(server.file(&format!("{name}.key"))),
            ..server.ca("ca.pem")
        })
    };
    works(&client("ca-client")).await;
    refused(&client("other-client"), "the client certificate").await;
    let nobody = server.at_localhost(server.ca("ca.pem"));
    refused(&nobody, "a client without a certificate").await;
}

#[tokio::test]
async fn tls_first_shakes_hands_before_the_greeting() {
    let server = TlsServer::start("handshake_first: true");
    let mut endpoint = server.at_localhost(server.ca("ca.pem"));
    endpoint.deadline = Duration::from_millis(200);
    refused(&endpoint, "tls.first").await;
    endpoint.tls.first = true;
    endpoint.deadline = Duration::from_secs(5);
    works(&endpoint).await;
}

#[tokio::test]
async fn a_context_is_found_by_its_name() {
    let server = Server::start("authorization { user: bob, password: s3cret }");
    let home = tempfile::tempdir().expect("temporary directory");
    let directory = home.path().join("nats/context");
    std::fs::create_dir_all(&directory).expect("directory");
    let text = json!({"url": server.url, "user": "bob", "password": "env://PASS"}).to_string();
    std::fs::write(directory.join("bench.json"), text).expect("file");
    let path = home.path().display().to_string();
    let endpoint = context::load("bench", &|name| match name {
        "XDG_CONFIG_HOME" => Some(path.clone()),
        "PASS" => Some("s3cret".to_owned()),
        _ => None,
    });
    works(&endpoint.expect("context")).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_the_next_one_taken() {
    let server = Server::start("");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let gone = free.local_addr().expect("address");
    drop(free);
    let dead = Endpoint::parse(&gone.to_string()).expect("a URL");
    refused(&dead, &format!("nothing listens at nats://{gone}")).await;
    works(&Endpoint::parse(&format!("{gone},{}", server.url)).expect("URLs")).await;

    // A listener that never speaks: the deadline ends the wait.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let mut silent =
        Endpoint::parse(&mute.local_addr().expect("address").to_string()).expect("URL");
    silent.deadline = Duration::from_millis(100);
    refused(&silent, "did not answer within 100ms").await;
}

#[tokio::test]
async fn events_of_a_connection_are_heard() {
    let mut server = Server::start("");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = Endpoint::parse(&server.url).expect("a URL");
    let _client = connect_with_events(&endpoint, move |event| drop(tell.send(event)))
        .await
        .expect("connection");
    server.child.kill().expect("kill");
    let heard = tokio::time::timeout(Duration::from_secs(5), async {
        while told.recv().await != Some(Event::Disconnected) {}
    });
    heard.await.expect("the loss of the connection is told");
}

fn stream(name: &str, owner: &str) -> StreamConfig {
    StreamConfig {
        name: name.to_owned(),
        subjects: vec![format!("{name}.b.>"), format!("{name}.a.*")],
        retention: Some(Retention::Limits),
        storage: Some(Storage::Memory),
        num_replicas: Some(1),
        max_bytes: Some(1 << 20),
        max_msgs: Some(-1),
        max_age_ns: Some(600_000_000_000),
        duplicate_window_ns: Some(1_000_000_000),
        metadata: [("jsbench.run".to_owned(), owner.to_owned())].into(),
        ..StreamConfig::default()
    }
}

#[tokio::test]
async fn a_stream_is_created_read_back_and_never_overwritten() {
    let server = Server::start(JETSTREAM);
    let api = server.api().await;
    let account = api.account().await.expect("account");
    assert_eq!((account.streams, account.api_level() >= 5), (0, true));

    let ours = stream("S1", "1");
    let created = api.create_stream(&ours).await.expect("created");
    assert_eq!(
        verify(&to_value(&ours), &created.config),
        Vec::<String>::new()
    );
    let larger = StreamConfig {
        max_bytes: Some(2 << 20),
        ..ours.clone()
    };
    let differences = verify(&to_value(&larger), &created.config);
    assert_eq!(
        differences,
        ["max_bytes: asked for 2097152, the server has 1048576"]
    );

    // Another run's stream of that name, or of those subjects, does not get in its place.
    let taken = api.create_stream(&stream("S1", "2")).await;
    let taken = taken.expect_err("the name is taken");
    assert!(matches!(taken, ApiFailure::NameInUse { .. }), "{taken}");
    let overlap = StreamConfig {
        name: "S2".to_owned(),
        ..ours.clone()
    };
    let overlap = api.create_stream(&overlap).await.expect_err("subjects");
    assert!(matches!(&overlap, ApiFailure::Refused { error, .. } if error.err_code == 10_065));
    // Asking again for the same, as after a lost answer, changes nothing.
    let again = api.create_stream(&ours).await.expect("the same");
    assert_eq!(again.raw["created"], created.raw["created"]);
    let ack = api.client().request("S1.a.x", "hello".into()).await;
    assert!(ack.expect("ack").payload.starts_with(b"{\"stream\""));
    let info = api.stream("S1").await.expect("info");
    assert_eq!(info.config, created.config);
    assert_eq!(info.metadata("jsbench.run"), Some("1"));
    assert_eq!((info.state.messages, info.leader()), (1, Some("s1")));

    api.delete_stream("S1").await.expect("deleted");
    let gone = api.stream("S1").await.expect_err("deleted");
    assert!(matches!(gone, ApiFailure::NotFound { .. }), "{gone}");
    let too_many = StreamConfig {
        num_replicas: Some(3),
        ..ours
    };
    let refused = api.create_stream(&too_many).await.expect_err("one server");
    assert!(matches!(&refused, ApiFailure::Refused { error, .. } if error.err_code == 10_074));
    let broken = api.stream("a b").await.expect_err("no name");
    assert!(matches!(broken, ApiFailure::NotSent { .. }), "{broken}");
}

#[tokio::test]
async fn consumers_are_created_read_back_and_never_overwritten() {
    let server = Server::start(JETSTREAM);
    let api = server.api().await;
    api.create_stream(&stream("S1", "1")).await.expect("stream");
    let pull = ConsumerConfig {
        name: "C1".to_owned(),
        durable_name: Some("C1".to_owned()),
        deliver_policy: Some(DeliverPolicy::All),
        ack_policy: Some(AckPolicy::Explicit),
        ack_wait_ns: Some(5_000_000_000),
        max_ack_pending: Some(77),
        max_deliver: Some(-1),
        filter_subject: Some("S1.b.>".to_owned()),
        num_replicas: Some(1),
        mem_storage: Some(true),
        metadata: [("jsbench.run".to_owned(), "1".to_owned())].into(),
        ..ConsumerConfig::default()
    };
    let push = ConsumerConfig {
        name: "C2".to_owned(),
        ack_policy: Some(AckPolicy::None),
        deliver_policy: Some(DeliverPolicy::ByStartSequence),
        opt_start_seq: Some(3),
        deliver_subject: Some("_INBOX.x.y".to_owned()),
        deliver_group: Some("g".to_owned()),
        flow_control: Some(true),
        idle_heartbeat_ns: Some(1_000_000_000),
        inactive_threshold_ns: Some(60_000_000_000),
        filter_subjects: vec!["S1.b.x".to_owned(), "S1.a.*".to_owned()],
        ..ConsumerConfig::default()
    };
    for config in [&pull, &push] {
        let created = api.create_consumer("S1", config).await.expect("created");
        assert_eq!(created.name, config.name);
        assert_eq!(
            verify(&to_value(config), &created.config),
            Vec::<String>::new()
        );
    }
    let other = ConsumerConfig {
        max_ack_pending: Some(78),
        ..pull.clone()
    };
    let taken = api.create_consumer("S1", &other).await.expect_err("taken");
    assert!(matches!(taken, ApiFailure::NameInUse { .. }), "{taken}");
    let info = api.consumer("S1", "C1").await.expect("info");
    assert_eq!(info.config["max_ack_pending"], 77);
    assert_eq!(api.consumer_names("S1").await.expect("names"), ["C1", "C2"]);
    api.delete_consumer("S1", "C1").await.expect("deleted");
    let gone = api.consumer("S1", "C1").await.expect_err("deleted");
    assert!(matches!(gone, ApiFailure::NotFound { .. }), "{gone}");
}

#[tokio::test]
async fn listings_longer_than_a_page_are_complete() {
    let server = Server::start(JETSTREAM);
    let api = server.api().await;
    assert!(api.stream_names().await.expect("names").is_empty());
    // A page of STREAM.NAMES holds 1024.
    let names: Vec<String> = (0..1_030).map(|i| format!("S{i:04}")).collect();
    let small = |name: &String| StreamConfig {
        name: name.clone(),
        subjects: vec![format!("{name}.x")],
        storage: Some(Storage::Memory),
        ..StreamConfig::default()
    };
    let configs: Vec<StreamConfig> = names.iter().map(small).collect();
    for some in configs.chunks(64) {
        let created = some.iter().map(|config| api.create_stream(config));
        let created = futures_util::future::try_join_all(created);
        created.await.expect("streams");
    }
    assert_eq!(api.stream_names().await.expect("names"), names);
}

#[tokio::test]
async fn a_server_without_jetstream_says_so() {
    let server = Server::start("");
    let api = server.api().await.with_timeout(Duration::from_secs(2));
    let none = api.account().await.expect_err("no JetStream");
    assert!(matches!(none, ApiFailure::NoJetStream { .. }), "{none}");
    assert!(none.to_string().contains("enable JetStream"), "{none}");

    let server = Server::start(&format!(
        "{JETSTREAM}\naccounts {{ A {{ users: [ {{ user: a, password: a }} ] }} }}\nno_auth_user: a"
    ));
    let none = server.api().await.account().await.expect_err("not for A");
    assert!(matches!(none, ApiFailure::NoJetStream { .. }), "{none}");

    // A responder that never answers is a timeout, which says nothing of what happened.
    let api = Api::new(server.api().await.client().clone(), "$MUTE.API");
    let _mute = api
        .client()
        .subscribe("$MUTE.API.>")
        .await
        .expect("subscription");
    let api = api.with_timeout(Duration::from_millis(50));
    let late = api.stream("S").await.expect_err("no answer");
    assert!(matches!(late, ApiFailure::Timeout { .. }), "{late}");
}

#[tokio::test]
async fn monitoring_tells_of_the_server_and_its_streams() {
    let jetstream = |sync| {
        format!(
            "jetstream {{ store_dir: \"{{dir}}/js\", max_file: 64MB, sync_interval: \"{sync}\" }}"
        )
    };
    let server = Server::start(&jetstream("30s"));
    let varz = monitor::varz(&server.monitor).await.expect("varz");
    assert_eq!(varz.server_name, "s1");
    assert_eq!(varz.sync_interval_ns, Some(30_000_000_000));
    assert_eq!(varz.sync_always, Some(false));
    assert!(varz.mem_bytes > Some(0) && varz.gomaxprocs > Some(0));
    assert!(!varz.version.is_empty());

    let api = server.api().await;
    api.create_stream(&stream("S1", "1")).await.expect("stream");
    let ack = api.client().request("S1.a.x", "hello".into()).await;
    assert!(ack.expect("ack").payload.starts_with(b"{\"stream\""));
    let state = api.stream("S1").await.expect("info").state;
    let looks = monitor::led_streams(&server.monitor, "s1")
        .await
        .expect("jsz");
    assert_eq!(looks.len(), 1);
    assert_eq!(
        (looks[0].account.as_str(), looks[0].stream.as_str()),
        ("$G", "S1")
    );
    assert_eq!((looks[0].messages, looks[0].bytes), (1, state.bytes));

    let always = Server::start(&jetstream("always"));
    let varz = monitor::varz(&always.monitor).await.expect("varz");
    assert_eq!(varz.sync_always, Some(true));

    // A NATS port is no monitoring port.
    let wrong = server.url.replace("nats://", "http://");
    let error = format!("{:#}", monitor::varz(&wrong).await.expect_err("not HTTP"));
    assert!(error.contains(&wrong), "{error}");
}
