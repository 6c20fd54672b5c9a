//! The layers of a scenario: file, profile, `--set`, and later the values of a cell. Says what a
//! layer displaces below it. Judges nothing about meaning.

use toml::Spanned;
use toml::de::DeValue;

use super::decode::nearest;
use super::diagnostic::Findings;
use super::source::{Flag, Span};
use super::tree::{self, Leaf, Table};

/// What the command line asks of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--profile NAME`.
    pub profile: Option<String>,
    /// `--set a.b=v`, in the order given; the later wins.
    pub set: Vec<String>,
    /// `--trials N`, short for `--set trials.repeat=N`.
    pub trials: Option<u32>,
    /// `--filter 'stream.layout=shared …'`; every term must hold.
    pub filter: Vec<String>,
    /// `--server` or `--context`: the target becomes external.
    pub external: Option<ExternalTarget>,
}

/// A target chosen on the command line.
#[derive(Debug, Clone, Default)]
pub struct ExternalTarget {
    /// `--server URL[,URL]`.
    pub urls: Vec<String>,
    /// `--context NAME`.
    pub context: Option<String>,
}

/// Parses the file; all syntax errors at once.
pub(super) fn parse_file<'i>(text: &'i str, findings: &mut Findings) -> Table<'i> {
    let (table, errors) = Table::parse_recoverable(text);
    for error in &errors {
        let message = error.message();
        let message = message.trim_end_matches(", expected literal string");
        let value = message.contains("value") || message.contains("number");
        let help = if value {
            "words and quantities are quoted: rate = \"5k/s\", layout = \"shared\""
        } else {
            "a line is `key = value`, a table begins with `[name]`"
        };
        findings.add(error.span(), format!("this is not TOML: {message}"), help);
    }
    normalised(table.into_inner())
}

/// `target = "embedded"` is the table form with `kind` alone.
fn normalised(mut layer: Table<'_>) -> Table<'_> {
    if let Some(value) = layer.get_mut("target")
        && let Some(kind) = value.get_ref().as_str()
    {
        let span = value.span();
        let mut table = Table::new();
        table.insert(
            tree::key("kind", span.clone()),
            tree::string(kind, span.clone()),
        );
        *value = Spanned::new(span, DeValue::Table(table));
    }
    layer
}

/// The layer of `--profile NAME`.
pub(super) fn profile_layer<'i>(
    profiles: &Table<'i>,
    flag: Flag<'_>,
    findings: &mut Findings,
) -> Option<Table<'i>> {
    let name = flag.value;
    if let Some(DeValue::Table(layer)) = profiles.get(name).map(Spanned::get_ref) {
        return Some(layer.clone());
    }
    let known: Vec<&str> = profiles.keys().map(|k| k.get_ref().as_ref()).collect();
    let help = if known.is_empty() {
        "this scenario has no profiles; leave --profile away".to_owned()
    } else {
        nearest(name, &known)
    };
    findings.add(Some(flag.span()), format!("unknown profile `{name}`"), help);
    None
}

/// Reads one `--set a.b=v`: a value that is not TOML is taken as a string.
pub(super) fn set_layer<'i>(flag: Flag<'i>, findings: &mut Findings) -> Option<Table<'i>> {
    let Some((path, value)) = flag.value.split_once('=') else {
        findings.add(
            Some(flag.span()),
            format!("`--set {}` has no `=`", flag.value),
            "write `--set path.to.key=value`, for example `--set workload.rate=5k/s`",
        );
        return None;
    };
    let path_span = flag.start..flag.start + path.len();
    let bare = |k: &str| {
        !k.is_empty()
            && k.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    if !path.split('.').all(bare) {
        findings.add(
            Some(path_span),
            format!("`{path}` is not a path of keys"),
            "write the table and the key with a dot between, for example `workload.rate`",
        );
        return None;
    }
    if path.split('.').next() == Some("profile") {
        findings.add(
            Some(path_span),
            "`--set` cannot change a profile",
            "set the key itself: `--set` comes after the profile",
        );
        return None;
    }
    let start = path_span.end + 1;
    match parse_value(value, start) {
        Ok(value) => Some(layer_of(path, flag.start, value)),
        Err((span, message)) => {
            findings.add(
                Some(span),
                format!("the value of `--set {}` is not TOML: {message}", flag.value),
                "write a word or quantity plainly, a list as `[1, 3]`, a table as `{kind=\"random\"}`",
            );
            None
        }
    }
}

/// A value of the command line; a bare word or quantity is a string.
fn parse_value(text: &str, start: usize) -> Result<tree::Value<'_>, (Span, String)> {
    let looks_structured = text.trim_start().starts_with(['[', '{', '"', '\'']);
    match DeValue::parse(text) {
        Ok(parsed) => Ok(tree::shift(parsed, start)),
        Err(error) if looks_structured => {
            let at = error.span().unwrap_or(0..text.len());
            let message = error.message().to_owned();
            Err((start + at.start..start + at.end, message))
        }
        Err(_) => Ok(tree::string(text.trim(), start..start + text.len())),
    }
}

/// The layer of `--server` and `--context`: an external target, whose embedded keys are displaced.
pub(super) fn external_layer<'i>(flags: &[Flag<'i>]) -> Option<Table<'i>> {
    let first = flags.first()?;
    let mut layer = layer_of(
        "target.kind",
        first.start,
        tree::string("external", first.span()),
    );
    for flag in flags {
        let (path, value) = if flag.name == "--context" {
            let value = tree::string(flag.value, flag.span());
            ("target.context", value)
        } else {
            let mut at = flag.start;
            let urls = flag.value.split(',').map(|url| {
                let value = tree::string(url.trim(), at..at + url.len());
                at += url.len() + 1;
                value
            });
            let urls = DeValue::Array(urls.collect());
            ("target.urls", Spanned::new(flag.span(), urls))
        };
        tree::merge(&mut layer, layer_of(path, flag.start, value));
    }
    Some(layer)
}

/// The layer of `--trials`.
pub(super) fn trials_layer(flag: Flag<'_>) -> Option<Table<'_>> {
    let value = parse_value(flag.value, flag.start).ok()?;
    Some(layer_of("trials.repeat", flag.start, value))
}

fn layer_of<'i>(path: &str, start: usize, value: tree::Value<'i>) -> Table<'i> {
    let mut at = start;
    let keys = path
        .split('.')
        .map(|name| {
            let span = at..at + name.len();
            at += name.len() + 1;
            tree::key(name, span)
        })
        .collect();
    normalised(Leaf { keys, value }.into_table())
}

/// Lays one layer over the tree, displacing what it contradicts below.
pub(super) fn lay<'i>(base: &mut Table<'i>, layer: Table<'i>) {
    let layer = normalised(layer);
    displace(base, &layer);
    drop_axes(base, &layer);
    for path in WHOLE {
        if tree::get(&layer, path).is_some() {
            tree::remove(base, path);
        }
    }
    tree::merge(base, layer);
}

/// Tables that are one value: a layer replaces them whole.
pub(super) const WHOLE: [&str; 1] = ["publish.headers"];

/// Pairs of which one is set at a time.
const EITHER: [(&str, &str); 2] = [
    ("workload.duration", "workload.messages"),
    ("workload.rate", "search"),
];

fn displace(base: &mut Table, layer: &Table) {
    let sets = |path: &str| {
        tree::get(layer, path).is_some() || tree::get(layer, &format!("matrix.{path}")).is_some()
    };
    for (one, other) in EITHER.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
        if sets(one) && !sets(other) {
            tree::remove(base, other);
            tree::remove(base, &format!("matrix.{other}"));
        }
    }
    if tree::text(layer, "workload.rate") == Some("max") {
        // Both need a rate.
        for path in ["workload.arrivals", "workload.pacing"] {
            if !sets(path) {
                tree::remove(base, path);
                tree::remove(base, &format!("matrix.{path}"));
            }
        }
    }
    for table in [
        "target",
        "stream",
        "workload.payload",
        "consumer",
        "publish",
    ] {
        let word = if table == "publish" { "mode" } else { "kind" };
        let Some(kind) = tree::text(layer, &format!("{table}.{word}")) else {
            continue;
        };
        for key in displaced_by(table, kind) {
            tree::remove(base, &format!("{table}.{key}"));
            tree::remove(base, &format!("matrix.{table}.{key}"));
        }
    }
}

/// Keys of `[target]` that only embedded servers have.
const EMBEDDED_KEYS: [&str; 7] = [
    "servers",
    "cpus",
    "memory",
    "sync_interval",
    "store_dir",
    "encryption",
    "port",
];
/// Keys of `[target]` that only servers have which are there already.
const EXTERNAL_KEYS: [&str; 10] = [
    "urls",
    "context",
    "creds",
    "user",
    "password",
    "token",
    "nkey",
    "tls",
    "monitor",
    "allow_faults",
];
/// Keys of `[target]` that only the stub has.
const STUB_KEYS: [&str; 3] = ["delay", "stall", "stall_every"];
/// The kinds of a target, each with the keys that no other has.
pub(super) const TARGET_KEYS: [(&str, &[&str]); 3] = [
    ("embedded", &EMBEDDED_KEYS),
    ("external", &EXTERNAL_KEYS),
    ("stub", &STUB_KEYS),
];
/// Keys of `[consumer]` that need a durable on the server.
pub(super) const DURABLE_KEYS: [&str; 5] = [
    "max_ack_pending",
    "ack_wait",
    "max_deliver",
    "replicas",
    "memory",
];
/// Keys of `[publish]` that need a stream.
const STORED_KEYS: [&str; 4] = ["message_id", "retries", "duplicate_ratio", "ttl"];

/// Keys set in a lower layer that mean nothing once `kind` (for publish: `mode`) is this.
fn displaced_by(table: &str, kind: &str) -> Vec<&'static str> {
    let durable = |more: &[&'static str]| [&DURABLE_KEYS[..], more].concat();
    let stored = |more: &[&'static str]| [&STORED_KEYS[..], more].concat();
    match (table, kind) {
        ("target", kind) => TARGET_KEYS
            .iter()
            .filter(|(other, _)| *other != kind)
            .flat_map(|(_, keys)| keys.iter().copied())
            .collect(),
        ("workload.payload", "random") => vec!["path"],
        ("workload.payload", "file") => vec!["size", "compressible"],
        ("stream", "kv") => vec!["retention", "discard", "existing"],
        ("consumer", "none" | "core" | "reply") => {
            durable(&["ack", "deliver", "flow_control", "share", "batch", "pull"])
        }
        ("consumer", "get") => durable(&["ack", "deliver", "flow_control", "share", "pull"]),
        ("consumer", "ordered") => durable(&["ack", "flow_control", "share", "batch", "pull"]),
        ("consumer", "pull") => vec!["flow_control"],
        ("consumer", "push") => vec!["batch", "pull", "share"],
        ("consumer", "push-queue") => vec!["batch", "pull", "share", "flow_control"],
        ("publish", "sync") => vec!["window", "batch"],
        ("publish", "async") => vec!["batch"],
        ("publish", "request") => stored(&["batch"]),
        ("publish", "core") => stored(&["window", "batch"]),
        _ => Vec::new(),
    }
}

/// Setting an axis's path, or a part of it, removes that axis.
fn drop_axes(base: &mut Table, layer: &Table) {
    let set: Vec<String> = tree::leaves_whole(layer, &WHOLE)
        .iter()
        .map(Leaf::path)
        .filter(|path| !path.starts_with("matrix."))
        .collect();
    let Some(DeValue::Table(matrix)) = base.get_mut("matrix").map(Spanned::get_mut) else {
        return;
    };
    for axis in tree::leaves(matrix).iter().map(Leaf::path) {
        let under = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('.'));
        if set
            .iter()
            .any(|path| *path == axis || under(path, &axis) || under(&axis, path))
        {
            tree::remove(matrix, &axis);
        }
    }
    if tree::leaves(matrix).is_empty() {
        base.remove("matrix");
    }
}
