//! From a tree with `[matrix]` and `[[exclude]]` to one tree per cell, each with its id and its
//! factors. Knows which paths may be axes, and nothing of what the values mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::Findings;
use super::overlay::{WHOLE, lay};
use super::source::{Flag, Span};
use super::tree::{self, Key, Leaf, Table, Value};

/// More cells than this are a mistake in the matrix.
const MAX_CELLS: usize = 10_000;
/// The longest id of a cell.
const MAX_ID: usize = 64;

/// One axis of the matrix.
#[derive(Debug, Clone)]
pub(super) struct Axis<'i> {
    pub(super) path: String,
    keys: Vec<Key<'i>>,
    pub(super) values: Vec<Value<'i>>,
}

impl<'i> Axis<'i> {
    /// Where it was written.
    pub(super) fn span(&self) -> Option<Span> {
        self.keys.last().map(Spanned::span)
    }

    /// A tree for each of its values, with nothing else.
    pub(super) fn each_alone(&self) -> impl Iterator<Item = Table<'i>> {
        self.values.iter().map(|value| {
            Leaf {
                keys: self.keys.clone(),
                value: value.clone(),
            }
            .into_table()
        })
    }
}

/// A cell before its tree has a meaning.
#[derive(Debug, Clone)]
pub(super) struct Draft<'i> {
    pub(super) id: String,
    pub(super) factors: BTreeMap<String, String>,
    pub(super) tree: Table<'i>,
    /// The values that the axes gave it.
    pub(super) choices: Vec<Leaf<'i>>,
}

/// Heads of paths that cannot be an axis.
const NO_AXIS: [&str; 8] = [
    "name",
    "question",
    "hypothesis",
    "trials",
    "expect",
    "profile",
    "matrix",
    "exclude",
];
/// Secrets would end in factors and ids.
pub(super) const SECRETS: [&str; 3] = ["target.password", "target.token", "target.nkey"];

/// The axes in the order they were written.
pub(super) fn axes<'i>(tree: &Table<'i>, findings: &mut Findings) -> Vec<Axis<'i>> {
    let matrix = match tree.get("matrix").map(Spanned::get_ref) {
        None => return Vec::new(),
        Some(DeValue::Table(matrix)) => matrix,
        Some(_) => {
            findings.add(
                tree::place(tree, "matrix"),
                "`matrix` is not a table",
                "write `[matrix]` and below it `stream.replicas = [1, 3]`",
            );
            return Vec::new();
        }
    };
    tree::leaves(matrix)
        .into_iter()
        .filter_map(|leaf| axis(leaf, findings))
        .collect()
}

fn axis<'i>(leaf: Leaf<'i>, findings: &mut Findings) -> Option<Axis<'i>> {
    let path = leaf.path();
    let span = leaf.key_span();
    let head = path.split('.').next().unwrap_or_default();
    if NO_AXIS.contains(&head) || SECRETS.contains(&path.as_str()) {
        findings.add(
            Some(span),
            format!("`{path}` cannot be an axis"),
            "an axis is a path of [target], [stream], [consumer], [publish] or [workload]",
        );
        return None;
    }
    let whole = WHOLE.into_iter().find(|whole| {
        let below = path.strip_prefix(whole);
        below.is_some_and(|rest| rest.starts_with('.'))
    });
    if let Some(whole) = whole {
        findings.add(
            Some(span),
            format!("`{path}` cannot be an axis: `{whole}` is one value"),
            format!("write the whole table: `{whole} = [{{ … }}, {{ … }}]`"),
        );
        return None;
    }
    let at = leaf.value.span();
    match leaf.value.into_inner() {
        DeValue::Array(values) if !values.is_empty() => Some(Axis {
            path,
            keys: leaf.keys,
            values: values.into_iter().collect(),
        }),
        DeValue::Array(_) => {
            findings.add(
                Some(at),
                format!("the axis `{path}` has no values"),
                "list at least one value, or take the axis out",
            );
            None
        }
        other => {
            let one = tree::inline(&other);
            findings.add(
                Some(at),
                format!("the axis `{path}` is not a list"),
                format!("write `{path} = [{one}, …]`, or set it outside [matrix]"),
            );
            None
        }
    }
}

/// The cells: every combination of the axes' values, the first axis slowest, without the excluded.
pub(super) fn expand<'i>(
    base: &Table<'i>,
    axes: &[Axis<'i>],
    excludes: &[Table<'i>],
    findings: &mut Findings,
) -> Vec<Draft<'i>> {
    let count = axes
        .iter()
        .try_fold(1_usize, |n, axis| n.checked_mul(axis.values.len()))
        .filter(|n| *n <= MAX_CELLS);
    let Some(count) = count else {
        findings.add(
            axes.last().and_then(Axis::span),
            format!("the matrix has more than {MAX_CELLS} cells"),
            "shorten its axes, or write several scenarios",
        );
        return Vec::new();
    };
    let mut drafts: Vec<Draft<'i>> = Vec::with_capacity(count);
    for number in 0..count {
        let choices = combination(axes, number);
        let mut tree = base.clone();
        let mut layer = Table::new();
        for choice in &choices {
            tree::merge(&mut layer, choice.clone().into_table());
        }
        lay(&mut tree, layer);
        if excludes.iter().any(|entry| matches(&tree, entry)) {
            continue;
        }
        let factors: BTreeMap<String, String> = choices
            .iter()
            .map(|c| (c.path(), redacted(&tree::as_written(c.value.get_ref()))))
            .collect();
        let id = id(&choices);
        if let Some(twin) = drafts.iter().find(|d| d.id == id) {
            findings.add(
                twin_span(&choices, twin),
                format!("two cells have the id `{id}`"),
                "take the repeated value out of its axis, or make the values differ in letters and digits",
            );
            continue;
        }
        drafts.push(Draft {
            id,
            factors,
            tree,
            choices,
        });
    }
    if drafts.is_empty() && findings.is_empty() {
        let last = excludes.last().map(tree::leaves);
        findings.add(
            last.and_then(|leaves| leaves.last().map(Leaf::key_span)),
            "no cell is left: [[exclude]] takes all of them out",
            "remove an entry of [[exclude]], or a key of one",
        );
    }
    drafts
}

/// The values of the n-th combination.
fn combination<'i>(axes: &[Axis<'i>], number: usize) -> Vec<Leaf<'i>> {
    let mut rest = number;
    let mut choices: Vec<Leaf<'i>> = axes
        .iter()
        .rev()
        .map(|axis| {
            let value = axis.values[rest % axis.values.len()].clone();
            rest /= axis.values.len();
            Leaf {
                keys: axis.keys.clone(),
                value,
            }
        })
        .collect();
    choices.reverse();
    choices
}

/// Whether every value of an exclude entry is the cell's.
fn matches(tree: &Table<'_>, entry: &Table<'_>) -> bool {
    tree::leaves_whole(entry, &WHOLE).iter().all(|leaf| {
        tree::get(tree, &leaf.path())
            .is_some_and(|v| tree::inline(v.get_ref()) == tree::inline(leaf.value.get_ref()))
    })
}

/// The value in which a cell repeats its twin, to point at.
fn twin_span(choices: &[Leaf<'_>], twin: &Draft<'_>) -> Option<Span> {
    choices
        .iter()
        .zip(&twin.choices)
        .find(|(a, b)| a.value.span() != b.value.span())
        .map(|(a, _)| a.value.span())
}

/// The entries of `[[exclude]]`.
pub(super) fn excludes<'i>(tree: &Table<'i>, findings: &mut Findings) -> Vec<Table<'i>> {
    let Some(value) = tree.get("exclude") else {
        return Vec::new();
    };
    let entries = value.get_ref().as_array();
    let mut out = Vec::new();
    for entry in entries.into_iter().flatten() {
        match entry.get_ref() {
            DeValue::Table(table) if !table.is_empty() => out.push(table.clone()),
            _ => findings.add(
                Some(entry.span()),
                "an entry of [[exclude]] names no value",
                "write `[[exclude]]` and below it `stream.layout = \"per-app\"`, or take it out",
            ),
        }
    }
    if entries.is_none() {
        findings.add(
            tree::place(tree, "exclude"),
            "`exclude` is not a list of tables",
            "write it with two brackets: `[[exclude]]`",
        );
    }
    out
}

/// Adds an entry to `[[exclude]]` that takes this one cell out.
pub(super) fn exclude<'i>(tree: &mut Table<'i>, draft: &Draft<'i>) {
    let mut entry = Table::new();
    for choice in &draft.choices {
        tree::merge(&mut entry, choice.clone().into_table());
    }
    let entry = Spanned::new(0..0, DeValue::Table(entry));
    if let Some(DeValue::Array(entries)) = tree.get_mut("exclude").map(Spanned::get_mut) {
        entries.push(entry);
        return;
    }
    let entries = DeValue::Array([entry].into_iter().collect());
    // Behind the matrix in the text.
    tree.insert(
        tree::key("exclude", usize::MAX..usize::MAX),
        Spanned::new(usize::MAX..usize::MAX, entries),
    );
}

/// `[a-z0-9-]+`, from the factors in the order of their paths, so that the order of the axes in
/// the file does not matter.
fn id(choices: &[Leaf<'_>]) -> String {
    let mut parts: Vec<(String, String)> = choices
        .iter()
        .map(|choice| {
            let path = choice.path();
            let last = path.rsplit('.').next().unwrap_or_default();
            let part = match choice.value.get_ref() {
                DeValue::String(text) if is_word(text) => slug(text),
                DeValue::Table(table) => {
                    let values = tree::leaves(table);
                    let values = values.iter().map(|l| tree::as_written(l.value.get_ref()));
                    slug(&format!("{last}-{}", values.collect::<Vec<_>>().join("-")))
                }
                other => slug(&format!("{last}-{}", redacted(&tree::as_written(other)))),
            };
            (path, part)
        })
        .collect();
    if parts.is_empty() {
        return "base".to_owned();
    }
    parts.sort();
    let parts: Vec<String> = parts.into_iter().map(|(_, part)| part).collect();
    let id = parts.join("-");
    if id.len() <= MAX_ID {
        return id;
    }
    let head = id[..MAX_ID - 9].trim_end_matches('-');
    format!("{head}-{}", &sha256(&id)[..8])
}

/// SHA-256 of a text in lower-case hex.
pub(super) fn sha256(text: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn slug(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// The text with credentials in URLs taken out.
pub(super) fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail
            .find(|c: char| c == '/' || c == '"' || c == ',' || c.is_whitespace())
            .unwrap_or(tail.len());
        match tail[..end].rfind('@') {
            Some(sign) => {
                out.push_str("<redacted>");
                rest = &tail[sign..];
            }
            None => rest = tail,
        }
    }
    out.push_str(rest);
    out
}

/// Whether each cell passes `--filter`; a term that names no axis is an error.
pub(super) fn filter(
    cells: &[&BTreeMap<String, String>],
    axes: &[Axis<'_>],
    flags: &[Flag<'_>],
    findings: &mut Findings,
) -> Vec<bool> {
    let mut keep = vec![true; cells.len()];
    for flag in flags {
        for (term, span) in terms(*flag) {
            match term_axis(term, axes) {
                Ok((path, pattern)) => {
                    for (keep, factors) in keep.iter_mut().zip(cells) {
                        *keep &= factors.get(path).is_some_and(|v| glob(pattern, v));
                    }
                }
                Err((message, help)) => findings.add(Some(span), message, help),
            }
        }
    }
    if !cells.is_empty() && findings.is_empty() && !keep.contains(&true) {
        let axes: Vec<String> = axes
            .iter()
            .map(|axis| {
                let values: Vec<String> = axis
                    .values
                    .iter()
                    .map(|v| tree::as_written(v.get_ref()))
                    .collect();
                format!("{} = {}", axis.path, values.join(", "))
            })
            .collect();
        findings.add(
            flags.first().map(Flag::span),
            "no cell passes the filter",
            format!("the axes are: {}", redacted(&axes.join("; "))),
        );
    }
    keep
}

fn terms(flag: Flag<'_>) -> impl Iterator<Item = (&str, Span)> {
    let base = flag.value.as_ptr() as usize;
    flag.value.split_whitespace().map(move |term| {
        let at = flag.start + (term.as_ptr() as usize - base);
        (term, at..at + term.len())
    })
}

fn term_axis<'a>(
    term: &'a str,
    axes: &'a [Axis<'_>],
) -> Result<(&'a str, &'a str), (String, String)> {
    let Some((name, pattern)) = term.split_once('=') else {
        return Err((
            format!("`{term}` of the filter has no `=`"),
            "write `--filter 'stream.layout=shared pods=3*'`".to_owned(),
        ));
    };
    let known: Vec<&str> = axes.iter().map(|a| a.path.as_str()).collect();
    let named: Vec<&str> = known
        .iter()
        .copied()
        .filter(|path| *path == name || path.rsplit('.').next() == Some(name))
        .collect();
    match named.as_slice() {
        [path] => Ok((path, pattern)),
        [] if known.is_empty() => Err((
            format!("`{name}` is not an axis: this scenario has no matrix"),
            "leave --filter away".to_owned(),
        )),
        [] => Err((
            format!("`{name}` is not an axis of the matrix"),
            format!("the axes are: {}", known.join(", ")),
        )),
        several => Err((
            format!("`{name}` stands for several axes"),
            format!("write one of: {}", several.join(", ")),
        )),
    }
}

/// `*` stands for any text, `?` for one character.
fn glob(pattern: &str, text: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = pattern_chars.as_str();
            glob(rest, text)
                || text
                    .char_indices()
                    .any(|(at, c)| glob(rest, &text[at + c.len_utf8()..]))
        }
        Some(want) => {
            let mut text_chars = text.chars();
            text_chars.next().is_some_and(|c| {
                (want == '?' || want == c) && glob(pattern_chars.as_str(), text_chars.as_str())
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_glob_matches_the_whole_value() {
        assert!(glob("sh*", "shared"));
        assert!(glob("?k/s", "5k/s"));
        assert!(glob("*", ""));
        assert!(!glob("sh", "shared"));
        assert!(!glob("?", ""));
    }

    #[test]
    fn credentials_in_urls_are_taken_out() {
        assert_eq!(
            redacted("[\"nats://me:pa@ss@host:4222\", \"tls://b\"]"),
            "[\"nats://<redacted>@host:4222\", \"tls://b\"]"
        );
    }

    proptest! {
        #[test]
        fn a_slug_has_only_lower_case_letters_digits_and_single_dashes(text in "\\PC{0,20}") {
            let slug = slug(&text);
            prop_assert!(slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            prop_assert!(!slug.contains("--") && !slug.starts_with('-') && !slug.ends_with('-'));
        }
    }
}
