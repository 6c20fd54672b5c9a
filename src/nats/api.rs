//! The raw JetStream API over a connection: asks for exactly what is meant and keeps every key of
//! the answer, also those that no client library knows yet.
//!
//! Creates and never updates: a name that is taken is an error, and what has it stays as it is.
//! Called by `target` and `engine`.

use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::{Client, Subject};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::config::{ConsumerConfig, StreamConfig};

/// How long an API request may take.
pub const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages of a listing before it is given up as endless.
const MAX_PAGES: usize = 10_000;

/// An error as the API gives it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{description} (code {code}, err_code {err_code})")]
pub struct ApiError {
    /// Like a status of HTTP.
    pub code: u16,
    /// The exact kind.
    #[serde(default)]
    pub err_code: u32,
    /// In words.
    #[serde(default)]
    pub description: String,
}

/// Why an API request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiFailure {
    /// A stream or consumer of that name is there already; it was not touched.
    #[error("{what} is there already and was left as it is")]
    NameInUse {
        /// `stream S` or `consumer C of S`.
        what: String,
    },
    /// No such stream or consumer.
    #[error("{what}: {error}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The answer.
        error: ApiError,
    },
    /// Nobody answers the API.
    #[error(
        "no JetStream answers at {subject}: {why}; enable JetStream on the server and for the \
         account, or give the right JetStream domain"
    )]
    NoJetStream {
        /// Subject of the request.
        subject: String,
        /// The server's reason.
        why: String,
    },
    /// JetStream is there but not ready, as while it elects a leader: worth another try.
    #[error("{what}: {error}; JetStream is not ready, try again")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// The answer.
        error: ApiError,
    },
    /// The server said no.
    #[error("{what}: {error}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The answer.
        error: ApiError,
    },
    /// No answer in time; what was asked for may have happened all the same.
    #[error("{what}: no answer within {} s", .after.as_secs_f64())]
    Timeout {
        /// What was asked for.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The request could not be sent.
    #[error("{what}: {why}")]
    NotSent {
        /// What was asked for.
        what: String,
        /// Why.
        why: String,
    },
    /// The answer is not what the API promises.
    #[error("{what}: the answer cannot be read: {why}")]
    Unreadable {
        /// What was asked for.
        what: String,
        /// Why.
        why: String,
    },
}

type Result<T> = std::result::Result<T, ApiFailure>;

/// The API of one account.
#[derive(Debug, Clone)]
pub struct Api {
    client: Client,
    prefix: String,
    timeout: Duration,
}

/// `INFO`: the account and its limits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct AccountInfo {
    /// Streams of the account.
    #[serde(default)]
    pub streams: u64,
    /// Consumers of the account.
    #[serde(default)]
    pub consumers: u64,
    /// Domain.
    pub domain: Option<String>,
    /// The whole answer.
    #[serde(skip)]
    pub raw: Value,
}

impl AccountInfo {
    /// API level of the server: 1 is 2.11, 2 is 2.12, 4 is 2.14, 5 is 2.15; 0 is older.
    pub fn api_level(&self) -> u64 {
        self.raw["api"]["level"].as_u64().unwrap_or(0)
    }
}

/// A stream as its leader sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StreamInfo {
    /// Effective configuration, all keys.
    pub config: Value,
    /// What it holds.
    pub state: StreamState,
    /// Replication; may be absent on a server of its own.
    pub cluster: Option<Cluster>,
    /// The whole answer.
    #[serde(skip)]
    pub raw: Value,
}

impl StreamInfo {
    /// Server that leads; `None` while there is no leader, and in some answers of a server of its
    /// own.
    pub fn leader(&self) -> Option<&str> {
        leader(self.cluster.as_ref())
    }

    /// A value of the stream's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.config["metadata"][key].as_str()
    }
}

/// What a stream holds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StreamState {
    /// Messages.
    pub messages: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// First sequence.
    pub first_seq: u64,
    /// Last sequence.
    pub last_seq: u64,
    /// Consumers.
    pub consumer_count: u64,
    /// Deleted inside.
    pub num_deleted: u64,
    /// What the store says it lost.
    pub lost: Option<Value>,
}

/// A consumer as its leader sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ConsumerInfo {
    /// Stream.
    pub stream_name: String,
    /// Name.
    pub name: String,
    /// Effective configuration, all keys.
    pub config: Value,
    /// Messages that were not delivered yet.
    #[serde(default)]
    pub num_pending: u64,
    /// Delivered and not acked.
    #[serde(default)]
    pub num_ack_pending: u64,
    /// Delivered more than once and not acked.
    #[serde(default)]
    pub num_redelivered: u64,
    /// Pull requests that wait.
    #[serde(default)]
    pub num_waiting: u64,
    /// Replication; may be absent on a server of its own.
    pub cluster: Option<Cluster>,
    /// The whole answer.
    #[serde(skip)]
    pub raw: Value,
}

impl ConsumerInfo {
    /// Server that leads; `None` while there is no leader, and in some answers of a server of its
    /// own.
    pub fn leader(&self) -> Option<&str> {
        leader(self.cluster.as_ref())
    }
}

/// Replication of a stream or consumer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: String,
    /// Server that leads; empty while there is none.
    pub leader: String,
    /// The other replicas.
    pub replicas: Vec<Replica>,
}

/// A replica other than the leader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// Server.
    pub name: String,
    /// It has everything.
    pub current: bool,
    /// It cannot be reached.
    pub offline: bool,
    /// Operations it lacks.
    pub lag: u64,
}

fn leader(cluster: Option<&Cluster>) -> Option<&str> {
    cluster
        .map(|c| c.leader.as_str())
        .filter(|name| !name.is_empty())
}

/// The names of a page of a listing.
#[derive(Deserialize)]
struct NamesPage {
    #[serde(default)]
    total: usize,
    #[serde(alias = "consumers")]
    streams: Option<Vec<String>>,
}

impl Api {
    /// The API behind a connection, under the prefix of its endpoint.
    pub fn new(client: Client, prefix: impl Into<String>) -> Self {
        Self {
            client,
            prefix: prefix.into(),
            timeout: API_TIMEOUT,
        }
    }

    /// The same with another timeout.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The account, its use and the API level.
    pub async fn account(&self) -> Result<AccountInfo> {
        let raw = self.request("account info", "INFO", &Value::Null).await?;
        let mut info: AccountInfo = typed("account info", &raw)?;
        info.raw = raw;
        Ok(info)
    }

    /// Creates a stream. A stream of that name with another configuration gives
    /// [`ApiFailure::NameInUse`] and is left as it is. For one with the very same configuration,
    /// metadata included, the server answers with what is there: the run in the metadata is what
    /// keeps such a stream from being anybody else's.
    pub async fn create_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        let name = &config.name;
        let what = format!("stream {name}");
        check_name(&what, name)?;
        let body = super::config::to_value(config);
        let endpoint = format!("STREAM.CREATE.{name}");
        stream_info(&what, self.request(&what, &endpoint, &body).await?)
    }

    /// Configuration, state and leader of a stream.
    pub async fn stream(&self, name: &str) -> Result<StreamInfo> {
        let what = format!("stream {name}");
        check_name(&what, name)?;
        let raw = self
            .request(&what, &format!("STREAM.INFO.{name}"), &Value::Null)
            .await?;
        stream_info(&what, raw)
    }

    /// Deletes a stream, whosesoever it is: the caller looks at its metadata first.
    pub async fn delete_stream(&self, name: &str) -> Result<()> {
        let what = format!("stream {name}");
        check_name(&what, name)?;
        self.request(&what, &format!("STREAM.DELETE.{name}"), &Value::Null)
            .await?;
        Ok(())
    }

    /// Names of all streams of the account, sorted.
    pub async fn stream_names(&self) -> Result<Vec<String>> {
        self.names("stream names", "STREAM.NAMES").await
    }

    /// Names of all consumers of a stream, sorted.
    pub async fn consumer_names(&self, stream: &str) -> Result<Vec<String>> {
        let what = format!("consumer names of {stream}");
        check_name(&what, stream)?;
        self.names(&what, &format!("CONSUMER.NAMES.{stream}")).await
    }

    /// Creates a consumer. One of that name with another configuration gives
    /// [`ApiFailure::NameInUse`] and is left as it is.
    pub async fn create_consumer(
        &self,
        stream: &str,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        let name = &config.name;
        let what = format!("consumer {name} of {stream}");
        check_name(&what, stream)?;
        check_name(&what, name)?;
        let mut endpoint = format!("CONSUMER.CREATE.{stream}.{name}");
        // The filter in the subject lets accounts grant or deny it.
        if let Some(filter) = config.filter_subject.as_deref().filter(|f| !f.is_empty()) {
            check_subject(&what, filter)?;
            endpoint = format!("{endpoint}.{filter}");
        }
        let body = json!({
            "stream_name": stream,
            "config": super::config::to_value(config),
            "action": "create",
        });
        consumer_info(&what, self.request(&what, &endpoint, &body).await?)
    }

    /// Configuration and state of a consumer.
    pub async fn consumer(&self, stream: &str, name: &str) -> Result<ConsumerInfo> {
        let what = format!("consumer {name} of {stream}");
        check_name(&what, stream)?;
        check_name(&what, name)?;
        let raw = self
            .request(
                &what,
                &format!("CONSUMER.INFO.{stream}.{name}"),
                &Value::Null,
            )
            .await?;
        consumer_info(&what, raw)
    }

    /// Deletes a consumer.
    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<()> {
        let what = format!("consumer {name} of {stream}");
        check_name(&what, stream)?;
        check_name(&what, name)?;
        self.request(
            &what,
            &format!("CONSUMER.DELETE.{stream}.{name}"),
            &Value::Null,
        )
        .await?;
        Ok(())
    }

    async fn names(&self, what: &str, endpoint: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for _ in 0..MAX_PAGES {
            let body = json!({ "offset": names.len() });
            let page: NamesPage = typed(what, &self.request(what, endpoint, &body).await?)?;
            let found = page.streams.unwrap_or_default();
            let done = found.is_empty();
            names.extend(found);
            if done || names.len() >= page.total {
                break;
            }
        }
        // A stream that comes or goes between two pages shifts the rest.
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Sends one request and returns the answer, or the error in it. `Null` is an empty body.
    pub async fn request(&self, what: &str, endpoint: &str, body: &Value) -> Result<Value> {
        let subject = format!("{}.{endpoint}", self.prefix);
        let payload = match body {
            Value::Null => Bytes::new(),
            body => Bytes::from(body.to_string()),
        };
        let request = Request::new().payload(payload).timeout(Some(self.timeout));
        let answer = self
            .client
            .send_request(Subject::from(subject.as_str()), request)
            .await
            .map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => ApiFailure::NoJetStream {
                    subject: subject.clone(),
                    why: "nobody listens there".to_owned(),
                },
                RequestErrorKind::TimedOut => ApiFailure::Timeout {
                    what: what.to_owned(),
                    after: self.timeout,
                },
                _ => ApiFailure::NotSent {
                    what: what.to_owned(),
                    why: error.to_string(),
                },
            })?;
        let value: Value =
            serde_json::from_slice(&answer.payload).map_err(|error| ApiFailure::Unreadable {
                what: what.to_owned(),
                why: error.to_string(),
            })?;
        match value.get("error") {
            None => Ok(value),
            Some(error) => Err(classify(what, &subject, typed(what, error)?)),
        }
    }
}

/// Which failure an error of the API stands for.
fn classify(what: &str, subject: &str, error: ApiError) -> ApiFailure {
    let what = what.to_owned();
    match (error.code, error.err_code) {
        (_, 10_058 | 10_013 | 10_148) => ApiFailure::NameInUse { what },
        (_, 10_039 | 10_076) => ApiFailure::NoJetStream {
            subject: subject.to_owned(),
            why: error.description,
        },
        (503, 10_008 | 10_009 | 10_118) => ApiFailure::Unavailable { what, error },
        (404, _) => ApiFailure::NotFound { what, error },
        _ => ApiFailure::Refused { what, error },
    }
}

fn typed<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|error| ApiFailure::Unreadable {
        what: what.to_owned(),
        why: error.to_string(),
    })
}

fn stream_info(what: &str, raw: Value) -> Result<StreamInfo> {
    let mut info: StreamInfo = typed(what, &raw)?;
    info.raw = raw;
    Ok(info)
}

fn consumer_info(what: &str, raw: Value) -> Result<ConsumerInfo> {
    let mut info: ConsumerInfo = typed(what, &raw)?;
    info.raw = raw;
    Ok(info)
}

/// Names become tokens of a subject, and the client does not check subjects for us.
fn check_name(what: &str, name: &str) -> Result<()> {
    let wrong = name.is_empty()
        || name.len() > 255
        || name.contains(|c: char| {
            matches!(c, '.' | '*' | '>' | '/' | '\\') || c.is_whitespace() || c.is_control()
        });
    if wrong {
        return Err(ApiFailure::NotSent {
            what: what.escape_debug().to_string(),
            why: format!(
                "`{}` is no name of a stream or consumer: 1 to 255 characters without blanks \
                 and . * > / \\",
                name.escape_debug()
            ),
        });
    }
    Ok(())
}

fn check_subject(what: &str, subject: &str) -> Result<()> {
    let wrong = subject.split('.').any(str::is_empty)
        || subject.contains(|c: char| c.is_whitespace() || c.is_control());
    if wrong {
        return Err(ApiFailure::NotSent {
            what: what.to_owned(),
            why: format!(
                "`{}` is no subject: tokens without blanks, joined by dots",
                subject.escape_debug()
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16, err_code: u32) -> ApiFailure {
        let error = ApiError {
            code,
            err_code,
            description: "because".to_owned(),
        };
        classify("stream S", "$JS.API.X", error)
    }

    #[test]
    fn errors_are_told_apart_by_their_code() {
        assert!(matches!(failure(400, 10_058), ApiFailure::NameInUse { .. }));
        assert!(matches!(failure(400, 10_148), ApiFailure::NameInUse { .. }));
        assert!(matches!(
            failure(503, 10_039),
            ApiFailure::NoJetStream { .. }
        ));
        assert!(matches!(
            failure(503, 10_008),
            ApiFailure::Unavailable { .. }
        ));
        assert!(matches!(failure(404, 10_059), ApiFailure::NotFound { .. }));
        let refused = failure(500, 10_074);
        assert!(matches!(refused, ApiFailure::Refused { .. }));
        assert_eq!(
            refused.to_string(),
            "stream S: because (code 500, err_code 10074)"
        );
    }

    #[test]
    fn what_would_break_the_protocol_is_not_sent() {
        for name in [
            "",
            "a b",
            "a.b",
            "a*",
            ">",
            "a\r\nPUB x 0",
            "a/b",
            &"x".repeat(256),
        ] {
            assert!(check_name("stream", name).is_err(), "{name:?}");
        }
        assert!(check_name("stream", "JSB_1f2e_t0_app1").is_ok());
        for subject in ["a b", "a..b", "a\r\n", ""] {
            assert!(check_subject("consumer", subject).is_err(), "{subject:?}");
        }
        assert!(check_subject("consumer", "jsb.1.*.>").is_ok());
    }

    #[test]
    fn an_answer_keeps_the_keys_nobody_knows() {
        let raw = json!({"config": {"name": "S", "metadata": {"k": "v"}, "new_key": 1},
            "state": {"messages": 2, "bytes": 3, "lost": {"msgs": [1]}, "new_key": 1},
            "cluster": {"leader": "n1", "replicas": [{"name": "n2", "current": true}]},
            "ts": "now"});
        let info = stream_info("stream S", raw.clone()).expect("readable");
        assert_eq!(info.raw, raw);
        assert_eq!(info.leader(), Some("n1"));
        assert_eq!(info.metadata("k"), Some("v"));
        assert_eq!(info.state.messages, 2);
        assert!(info.state.lost.is_some());
    }
}
