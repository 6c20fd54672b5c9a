//! From a tree to the wire structs, with every error instead of the first: what cannot be read is
//! reported, taken out, and the rest is read again.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{Deserializer, Error};

use super::diagnostic::Findings;
use super::tree::{self, Table};

/// Reads a tree; paths that could not be read are reported and put into `broken`.
pub(super) fn decode<T: DeserializeOwned + Default>(
    tree: &Table,
    findings: &mut Findings,
    broken: &mut BTreeSet<String>,
) -> T {
    let mut tree = tree.clone();
    loop {
        let attempt = Deserializer::from(Spanned::new(0..0, tree.clone()));
        let error = match T::deserialize(attempt) {
            Ok(value) => return value,
            Err(error) => error,
        };
        let span = error.span();
        let path = span.as_ref().and_then(|span| tree::find(&tree, span));
        let (message, help) = explain(&error, path.as_deref());
        findings.add(span, message, help);
        // Each round takes a value out, so this ends.
        match path.filter(|path| tree::remove(&mut tree, path).is_some()) {
            Some(path) => broken.insert(path),
            None => return T::default(),
        };
    }
}

/// Message and cure of what serde says.
fn explain(error: &Error, path: Option<&str>) -> (String, String) {
    let text = error.message();
    let path = path.unwrap_or("the file");
    let mut names = text.split('`').skip(1).step_by(2);
    if text.starts_with("unknown field") {
        let name = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        let path = if path.ends_with(name) { path } else { name };
        return (format!("unknown key `{path}`"), nearest(name, &known));
    }
    if let Some((wrong, cure)) = text.split_once('\n') {
        return (format!("{path}: {wrong}"), cure.to_owned());
    }
    let Some((found, expected)) = text.split_once(", expected ") else {
        return (format!("{path}: {text}"), String::new());
    };
    let found = found
        .trim_start_matches("invalid type: ")
        .trim_start_matches("invalid value: ");
    if found == "sequence" {
        return (
            format!("{path}: found a list, expected one value"),
            format!("a list is an axis: write `{path} = […]` under [matrix]"),
        );
    }
    let key = path.rsplit('.').next().unwrap_or(path);
    let (kind, example) = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => {
            ("a whole number that is not negative", format!("{key} = 3"))
        }
        "f64" => ("a number", format!("{key} = 1.5")),
        "a boolean" => ("true or false", format!("{key} = true")),
        "a string" => ("a string", format!("{key} = \"…\"")),
        "a map" => ("a table of strings", format!("{key} = {{ name = \"…\" }}")),
        "a sequence" => ("a list", format!("{key} = [\"…\"]")),
        e if e.starts_with("struct") => ("a table", format!("[{path}]")),
        other => (other, format!("{key} = \"…\"")),
    };
    (
        format!("{path}: found {found}, expected {kind}"),
        format!("write for example `{example}`"),
    )
}

/// `did you mean …?` where one is near, else what is known.
pub(super) fn nearest(name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), *k))
        .filter(|(distance, k)| *distance <= 1 + name.len().min(k.len()) / 3)
        .min();
    let list = known.join(", ");
    match near {
        Some((_, k)) => format!("did you mean `{k}`? known here: {list}"),
        None if known.is_empty() => "there are no keys here".to_owned(),
        None => format!("known here: {list}"),
    }
}
