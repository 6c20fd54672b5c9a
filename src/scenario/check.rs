//! What the conversion of a cell reports to: the cell's tree for places, the errors found, and
//! which values are known to be wrong already, so that one mistake is told once.

use std::collections::BTreeSet;

use super::diagnostic::Findings;
use super::tree::{self, Table};
use super::wire::{Choice, Text, Words};

/// One cell under examination.
pub(super) struct Check<'a, 'i> {
    pub(super) tree: &'a Table<'i>,
    pub(super) findings: &'a mut Findings,
    pub(super) broken: BTreeSet<String>,
}

impl Check<'_, '_> {
    /// Whether the scenario says anything at this path.
    pub(super) fn is_set(&self, path: &str) -> bool {
        tree::get(self.tree, path).is_some()
    }

    /// The value at a path as it was written, or the default in force.
    pub(super) fn written(&self, path: &str, default: &str) -> String {
        tree::get(self.tree, path).map_or_else(
            || format!("{default} by default"),
            |v| tree::as_written(v.get_ref()),
        )
    }

    /// Reports an error about these paths. It points at the one written last, since a flag comes
    /// after the file and is what the user just did; where none is written, at the table of the
    /// first. Says nothing when one of them could not even be read.
    pub(super) fn refuse(
        &mut self,
        paths: &[&str],
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if paths.iter().any(|path| self.is_broken(path)) {
            return;
        }
        let written = paths.iter().filter_map(|p| tree::place(self.tree, p));
        let place = written.max_by_key(|span| span.start).or_else(|| {
            let table = paths.first()?.split('.').next()?;
            tree::place(self.tree, table)
        });
        self.findings.add(place, message, help);
    }

    /// Reports a value that the format knows and this version does not run.
    pub(super) fn later(&mut self, path: &str, what: &str, help: impl Into<String>) {
        self.refuse(
            &[path],
            format!("{what} is not available in this version yet"),
            help,
        );
        self.broken.insert(path.to_owned());
    }

    /// The word chosen at a path, or its default.
    pub(super) fn choose<T: Words>(
        &mut self,
        path: &str,
        value: Option<Text<Choice<T>>>,
        default: T,
    ) -> T {
        match value {
            None => default,
            Some(Text(Choice::Now(value))) => value,
            Some(Text(Choice::Later(word))) => {
                let now: Vec<&str> = T::NOW.iter().map(|(word, _)| *word).collect();
                self.later(
                    path,
                    &format!("`{path} = \"{word}\"`"),
                    format!("available now: {}", now.join(", ")),
                );
                default
            }
        }
    }

    /// Refuses a zero where it can only be a mistake.
    pub(super) fn not_zero(&mut self, path: &str, zero: bool, help: &str) {
        if zero && self.is_set(path) {
            let written = self.written(path, "0");
            self.refuse(&[path], format!("`{path}` is {written}"), help);
        }
    }

    fn is_broken(&self, path: &str) -> bool {
        self.broken.iter().any(|b| {
            b == path
                || path
                    .strip_prefix(b.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
                || b.strip_prefix(path)
                    .is_some_and(|rest| rest.starts_with('.'))
        })
    }
}
