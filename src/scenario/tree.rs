//! The TOML tree before it has a meaning: paths, layers laid over one another, and the way back to
//! text. Every key and value keeps the span where it was written. Knows no key of a scenario.

use std::borrow::Cow;
use std::fmt::Write as _;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Span;

pub(super) type Table<'i> = DeTable<'i>;
pub(super) type Value<'i> = Spanned<DeValue<'i>>;
pub(super) type Key<'i> = Spanned<Cow<'i, str>>;

/// A value with the keys that lead to it.
#[derive(Debug, Clone)]
pub(super) struct Leaf<'i> {
    pub(super) keys: Vec<Key<'i>>,
    pub(super) value: Value<'i>,
}

impl<'i> Leaf<'i> {
    /// The dotted path.
    pub(super) fn path(&self) -> String {
        let keys: Vec<&str> = self.keys.iter().map(|k| k.get_ref().as_ref()).collect();
        keys.join(".")
    }

    /// Where its last key was written.
    pub(super) fn key_span(&self) -> Span {
        self.keys.last().map_or(0..0, Spanned::span)
    }

    /// A tree with this value alone.
    pub(super) fn into_table(self) -> Table<'i> {
        let mut table = Table::new();
        let mut keys = self.keys.into_iter().rev();
        if let Some(last) = keys.next() {
            table.insert(last, self.value);
        }
        for key in keys {
            let inside = Spanned::new(key.span(), DeValue::Table(table));
            table = Table::new();
            table.insert(key, inside);
        }
        table
    }
}

/// Makes a key.
pub(super) fn key(name: &str, span: Span) -> Key<'static> {
    Spanned::new(span, Cow::Owned(name.to_owned()))
}

/// Makes a string value.
pub(super) fn string(text: &str, span: Span) -> Value<'static> {
    Spanned::new(span, DeValue::String(Cow::Owned(text.to_owned())))
}

/// The value at a dotted path.
pub(super) fn get<'a, 'i>(table: &'a Table<'i>, path: &str) -> Option<&'a Value<'i>> {
    match path.split_once('.') {
        None => table.get(path),
        Some((head, rest)) => get(table.get(head)?.get_ref().as_table()?, rest),
    }
}

/// The value at a dotted path, to change it.
pub(super) fn get_mut<'a, 'i>(table: &'a mut Table<'i>, path: &str) -> Option<&'a mut Value<'i>> {
    match path.split_once('.') {
        None => table.get_mut(path),
        Some((head, rest)) => match table.get_mut(head)?.get_mut() {
            DeValue::Table(inner) => get_mut(inner, rest),
            _ => None,
        },
    }
}

/// The text at a dotted path, when it is a string.
pub(super) fn text<'a>(table: &'a Table<'_>, path: &str) -> Option<&'a str> {
    get(table, path)?.get_ref().as_str()
}

/// Where a path was written: its value, for a table its key; `None` when it is not there.
pub(super) fn place(table: &Table, path: &str) -> Option<Span> {
    let (parent, last) = match path.rsplit_once('.') {
        Some((parent, last)) => (get(table, parent)?.get_ref().as_table()?, last),
        None => (table, path),
    };
    let (key, value) = parent.get_key_value(last)?;
    Some(if value.get_ref().is_table() {
        key.span()
    } else {
        value.span()
    })
}

/// Takes the value at a dotted path out of the tree.
pub(super) fn remove<'i>(table: &mut Table<'i>, path: &str) -> Option<Value<'i>> {
    match path.split_once('.') {
        None => table.remove(path),
        Some((head, rest)) => match table.get_mut(head)?.get_mut() {
            DeValue::Table(inner) => remove(inner, rest),
            _ => None,
        },
    }
}

/// Every value that is not a table, in the order of the text.
pub(super) fn leaves<'i>(table: &Table<'i>) -> Vec<Leaf<'i>> {
    leaves_with(table, |_, _| false)
}

/// The leaves, with the tables at these paths as values of their own.
pub(super) fn leaves_whole<'i>(table: &Table<'i>, whole: &[&str]) -> Vec<Leaf<'i>> {
    leaves_with(table, |path, _| whole.contains(&path))
}

fn leaves_with<'i>(table: &Table<'i>, is_leaf: impl Fn(&str, &Table<'i>) -> bool) -> Vec<Leaf<'i>> {
    let mut out = Vec::new();
    collect(table, &is_leaf, &mut Vec::new(), &mut out);
    out.sort_by_key(|leaf| leaf.key_span().start);
    out
}

fn collect<'i>(
    table: &Table<'i>,
    is_leaf: &impl Fn(&str, &Table<'i>) -> bool,
    above: &mut Vec<Key<'i>>,
    out: &mut Vec<Leaf<'i>>,
) {
    for (key, value) in table {
        above.push(key.clone());
        let leaf = Leaf {
            keys: above.clone(),
            value: value.clone(),
        };
        match value.get_ref() {
            DeValue::Table(inner) if !is_leaf(&leaf.path(), inner) => {
                collect(inner, is_leaf, above, out);
            }
            _ => out.push(leaf),
        }
        above.pop();
    }
}

/// Lays `layer` over `base`: tables are merged, everything else is replaced whole.
pub(super) fn merge<'i>(base: &mut Table<'i>, layer: Table<'i>) {
    for (key, value) in layer {
        let name = key.get_ref().to_string();
        match (base.get_mut(name.as_str()).map(Spanned::get_mut), value) {
            (Some(DeValue::Table(below)), value) if value.get_ref().is_table() => {
                if let DeValue::Table(above) = value.into_inner() {
                    merge(below, above);
                }
            }
            (_, value) => {
                // Removed first: an insert alone would keep the span of the old key.
                base.remove(name.as_str());
                base.insert(key, value);
            }
        }
    }
}

/// The path of the value that an error's span belongs to: the deepest whose key or value it is.
pub(super) fn find(table: &Table, span: &Span) -> Option<String> {
    for (key, value) in table {
        let name = key.get_ref();
        if let DeValue::Table(inner) = value.get_ref()
            && let Some(below) = find(inner, span)
        {
            return Some(format!("{name}.{below}"));
        }
        let at = value.span();
        let inside = at.start <= span.start && span.end <= at.end;
        if key.span() == *span || at == *span || (inside && !value.get_ref().is_table()) {
            return Some(name.to_string());
        }
    }
    None
}

/// Moves all spans of a value by `by` bytes: from its own text to the common line of offsets.
pub(super) fn shift(value: Value<'_>, by: usize) -> Value<'_> {
    let span = value.span();
    let moved = match value.into_inner() {
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|item| shift(item, by)).collect())
        }
        DeValue::Table(table) => DeValue::Table(shift_table(table, by)),
        scalar => scalar,
    };
    Spanned::new(span.start + by..span.end + by, moved)
}

fn shift_table(table: Table<'_>, by: usize) -> Table<'_> {
    table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            let key = Spanned::new(span.start + by..span.end + by, key.into_inner());
            (key, shift(value, by))
        })
        .collect()
}

/// A value as its author wrote it: words and quantities without quotes, the rest as TOML.
pub(super) fn as_written(value: &DeValue<'_>) -> String {
    value.as_str().map_or_else(|| inline(value), str::to_owned)
}

/// A value as TOML on one line.
pub(super) fn inline(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|v| inline(v.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) if table.is_empty() => "{}".to_owned(),
        DeValue::Table(table) => {
            let entries: Vec<String> = in_order(table)
                .into_iter()
                .map(|(k, v)| format!("{} = {}", bare(k), inline(v.get_ref())))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// The tree as TOML text, tables under their headers and keys in the order they were written;
/// the tables named in `dotted` as dotted keys, because the order of their leaves matters.
pub(super) fn to_toml(table: &Table, dotted: &[&str]) -> String {
    let mut out = String::new();
    write_table(&mut out, table, "", dotted);
    out
}

fn write_table(out: &mut String, table: &Table, above: &str, dotted: &[&str]) {
    let mut tables = Vec::new();
    for (name, value) in in_order(table) {
        let path = format!("{above}{}", bare(name));
        match value.get_ref() {
            DeValue::Table(inner) => tables.push((path, inner)),
            DeValue::Array(items)
                if !items.is_empty() && items.iter().all(|i| i.get_ref().is_table()) =>
            {
                tables.extend(items.iter().filter_map(|item| {
                    let inner = item.get_ref().as_table()?;
                    Some((format!("[{path}]"), inner))
                }));
            }
            other => line(out, &bare(name), other),
        }
    }
    for (path, inner) in tables {
        let array = path.starts_with('[');
        if array || dotted.contains(&path.as_str()) {
            line_break(out);
            let _ = writeln!(out, "[{path}]");
            // An empty table within an entry is a value: left out, the entry would mean more cells.
            for leaf in leaves_with(inner, |_, table| array && table.is_empty()) {
                let keys: Vec<String> = leaf.keys.iter().map(|k| bare(k.get_ref())).collect();
                line(out, &keys.join("."), leaf.value.get_ref());
            }
        } else {
            if inner.values().any(|v| !v.get_ref().is_table()) || inner.is_empty() {
                line_break(out);
                let _ = writeln!(out, "[{path}]");
            }
            write_table(out, inner, &format!("{path}."), dotted);
        }
    }
}

fn line(out: &mut String, key: &str, value: &DeValue<'_>) {
    let _ = writeln!(out, "{key} = {}", inline(value));
}

fn line_break(out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
}

fn in_order<'a, 'i>(table: &'a Table<'i>) -> Vec<(&'a str, &'a Value<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
        .into_iter()
        .map(|(key, value)| (key.get_ref().as_ref(), value))
        .collect()
}

fn bare(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(plain) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
