//! Configuration of streams and consumers as the JetStream API takes it, and the check that the
//! server did what it was asked.
//!
//! Only what is set is sent: a server in strict mode refuses a key that it does not know, so an
//! older one is only asked for what a scenario really needs. Called by `api`'s callers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Configuration of a stream; `None` and empty are left to the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // The keys are the server's.
pub struct StreamConfig {
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<Discard>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_consumers: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_msgs: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<i64>,
    #[serde(rename = "max_age", skip_serializing_if = "Option::is_none")]
    pub max_age_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_msgs_per_subject: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_replicas: Option<u8>,
    #[serde(rename = "duplicate_window", skip_serializing_if = "Option::is_none")]
    pub duplicate_window_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_direct: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_rollup_hdrs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_msg_ttl: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_atomic: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_batched: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist_mode: Option<PersistMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_delete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_purge: Option<bool>,
}

/// Configuration of a consumer; `None` and empty are left to the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // The keys are the server's.
pub struct ConsumerConfig {
    /// Needed: every consumer of jsbench has a name, ephemeral ones too.
    pub name: String,
    /// The same as `name` for a durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_policy: Option<DeliverPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_policy: Option<AckPolicy>,
    #[serde(rename = "ack_wait", skip_serializing_if = "Option::is_none")]
    pub ack_wait_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_subject: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter_subjects: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ack_pending: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_waiting: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_control: Option<bool>,
    #[serde(rename = "idle_heartbeat", skip_serializing_if = "Option::is_none")]
    pub idle_heartbeat_ns: Option<u64>,
    #[serde(rename = "inactive_threshold", skip_serializing_if = "Option::is_none")]
    pub inactive_threshold_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_replicas: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_storage: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Retention of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Retention {
    Limits,
    Interest,
    WorkQueue,
}

/// What a stream does at a limit: refuse the new, or drop the old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Discard {
    Old,
    New,
}

/// Storage of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Storage {
    File,
    Memory,
}

/// Compression of a file store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Compression {
    None,
    S2,
}

/// Persistence of an R1 file stream (servers from 2.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum PersistMode {
    Default,
    Async,
}

/// Where a consumer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum DeliverPolicy {
    All,
    Last,
    New,
    ByStartSequence,
    LastPerSubject,
}

/// How deliveries are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum AckPolicy {
    None,
    All,
    Explicit,
}

/// A configuration as JSON, the form in which [`verify`] compares.
pub fn to_value(config: &impl Serialize) -> Value {
    serde_json::to_value(config).expect("a configuration has text keys and finite numbers only")
}

/// Compares what was asked for with what the server says it has, and lists every difference as
/// `key: asked for X, the server has Y`. Keys that were not asked for are the server's choice.
pub fn verify(requested: &Value, effective: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    compare("", requested, effective, &mut differences);
    differences
}

fn compare(path: &str, requested: &Value, effective: &Value, differences: &mut Vec<String>) {
    if let (Value::Object(wanted), Value::Object(_) | Value::Null) = (requested, effective) {
        for (key, value) in wanted {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let has = effective.get(key).unwrap_or(&Value::Null);
            compare(&path, value, has, differences);
        }
    } else if !same(path, requested, effective) {
        let has = match effective {
            Value::Null => "nothing".to_owned(),
            value => value.to_string(),
        };
        differences.push(format!(
            "{path}: asked for {requested}, the server has {has}"
        ));
    }
}

fn same(path: &str, requested: &Value, effective: &Value) -> bool {
    match (requested, effective) {
        // The server leaves out what is empty or the default.
        (wanted, Value::Null) => is_empty(path, wanted),
        // Subjects are a set.
        (Value::Array(wanted), Value::Array(has)) => {
            wanted.len() == has.len()
                && wanted.iter().all(|w| has.contains(w))
                && has.iter().all(|h| wanted.contains(h))
        }
        // Unlimited is asked for as 0 or -1, and shown as either.
        (Value::Number(wanted), Value::Number(has)) if path.starts_with("max_") => {
            let unlimited = |n: &serde_json::Number| n.as_i64().is_some_and(|n| n == 0 || n == -1);
            wanted == has || (unlimited(wanted) && unlimited(has))
        }
        (wanted, has) => wanted == has,
    }
}

fn is_empty(path: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => {
            n.as_i64() == Some(0) || (path.starts_with("max_") && n.as_i64() == Some(-1))
        }
        Value::String(text) => {
            text.is_empty()
                || matches!(
                    (path, text.as_str()),
                    ("persist_mode", "default") | ("compression", "none")
                )
        }
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_set_is_sent() {
        let minimal = StreamConfig {
            name: "S".to_owned(),
            ..StreamConfig::default()
        };
        assert_eq!(to_value(&minimal), json!({"name": "S"}));
        let consumer = ConsumerConfig {
            name: "C".to_owned(),
            deliver_policy: Some(DeliverPolicy::ByStartSequence),
            opt_start_seq: Some(7),
            ack_wait_ns: Some(1_000),
            ..ConsumerConfig::default()
        };
        assert_eq!(
            to_value(&consumer),
            json!({"name": "C", "deliver_policy": "by_start_sequence", "opt_start_seq": 7,
                   "ack_wait": 1000})
        );
        let stream = StreamConfig {
            name: "S".to_owned(),
            retention: Some(Retention::WorkQueue),
            persist_mode: Some(PersistMode::Async),
            max_age_ns: Some(5),
            ..StreamConfig::default()
        };
        assert_eq!(
            to_value(&stream),
            json!({"name": "S", "retention": "workqueue", "persist_mode": "async", "max_age": 5})
        );
    }

    #[test]
    fn every_difference_is_listed_and_no_more() {
        let requested = json!({
            "name": "S", "subjects": ["b", "a"], "max_bytes": 0, "max_msgs": 10, "storage": "file",
            "persist_mode": "async", "deny_delete": false, "num_replicas": 3,
            "metadata": {"jsbench.run": "1", "jsbench.trial": "2"},
        });
        let effective = json!({
            "name": "S", "subjects": ["a", "b"], "max_bytes": -1, "max_msgs": 10, "storage": "memory",
            "num_replicas": 1, "allow_direct": true,
            "metadata": {"jsbench.run": "1", "jsbench.trial": "3", "_nats.ver": "2.15.1"},
        });
        assert_eq!(
            verify(&requested, &effective),
            [
                "metadata.jsbench.trial: asked for \"2\", the server has \"3\"",
                "num_replicas: asked for 3, the server has 1",
                "persist_mode: asked for \"async\", the server has nothing",
                "storage: asked for \"file\", the server has \"memory\"",
            ]
        );
    }

    #[test]
    fn a_limit_is_never_taken_for_unlimited() {
        assert_eq!(
            verify(&json!({"max_msgs": 1}), &json!({"max_msgs": -1})).len(),
            1
        );
        assert_eq!(
            verify(&json!({"max_msgs": -1}), &json!({"max_msgs": 1})).len(),
            1
        );
        assert_eq!(
            verify(&json!({"opt_start_seq": 0}), &json!({"opt_start_seq": -1})).len(),
            1
        );
        assert_eq!(
            verify(
                &json!({"subjects": ["a", "a"]}),
                &json!({"subjects": ["a", "b"]})
            )
            .len(),
            1
        );
        assert_eq!(
            verify(&json!({"metadata": {"a": "b"}}), &json!({})).len(),
            1
        );
        assert!(verify(&json!({"metadata": {}}), &json!({})).is_empty());
        assert!(verify(&json!({"persist_mode": "default"}), &json!({})).is_empty());
    }
}
