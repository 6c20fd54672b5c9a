//! Where scenario text comes from, and the one line of offsets on which the file and every
//! `--set` lie one after the other, so that a span alone says where a value was written.
//! Called by `load`; knows nothing of what the text means.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error;

/// The scenario that `jsbench run` takes without a file.
pub const QUICKSTART: &str = include_str!("../../scenarios/quickstart.toml");

/// The text of a scenario and the file it was read from.
#[derive(Debug, Clone)]
pub struct Source {
    /// As given by the user; `None` for the built-in quickstart.
    pub path: Option<PathBuf>,
    /// TOML.
    pub text: String,
}

impl Source {
    /// The built-in quickstart.
    pub fn quickstart() -> Self {
        Self {
            path: None,
            text: QUICKSTART.to_owned(),
        }
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// A usage failure when there is no such file or it is not UTF-8 text.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            error::usage(format!(
                "cannot read the scenario `{}`: {e}; name a TOML file, or no file for the \
                 built-in quickstart",
                path.display()
            ))
        })?;
        Ok(Self {
            path: Some(path.to_owned()),
            text,
        })
    }

    /// The name that diagnostics show.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or_else(
            || "built-in quickstart".to_owned(),
            |p| p.display().to_string(),
        )
    }
}

/// Byte range on the common line of offsets.
pub(super) type Span = Range<usize>;

/// All texts that contributed to a scenario, the file first.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts(Vec<Text>);

/// A flag of the command line that shaped the scenario.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag<'a> {
    /// `--set`
    pub(super) name: &'a str,
    /// What stands behind it.
    pub(super) value: &'a str,
    /// Offset of the value.
    pub(super) start: usize,
}

impl Flag<'_> {
    /// The span of its value.
    pub(super) fn span(&self) -> Span {
        self.start..self.start + self.value.len()
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) name: String,
    pub(super) body: String,
    start: usize,
}

impl Texts {
    /// Appends a text.
    fn add(&mut self, name: String, text: String) {
        // One byte between two texts keeps a span at the end of one out of the next.
        let start = self.0.last().map_or(0, |t| t.start + t.body.len() + 1);
        self.0.push(Text {
            name,
            body: text,
            start,
        });
    }

    /// The file first, then each flag with its value as a line of its own.
    pub(super) fn new(file: &Source, flags: &[(&'static str, String)]) -> Self {
        let mut texts = Self::default();
        texts.add(file.name(), file.text.clone());
        for (flag, value) in flags {
            texts.add("command line".to_owned(), format!("{flag} {value}"));
        }
        texts
    }

    /// The flags in the order given to [`Texts::new`].
    pub(super) fn flags(&self) -> impl Iterator<Item = Flag<'_>> {
        self.0.iter().skip(1).filter_map(|t| {
            let (name, value) = t.body.split_once(' ')?;
            let start = t.start + name.len() + 1;
            Some(Flag { name, value, start })
        })
    }

    /// The text a span lies in, and the span within it, cut to the text.
    pub(super) fn locate(&self, span: &Span) -> Option<(&Text, Span)> {
        let text = self.0.iter().rev().find(|t| t.start <= span.start)?;
        let end = text.body.len();
        let local = (span.start - text.start).min(end)..(span.end - text.start).min(end);
        Some((text, local))
    }

    /// The first text: the file.
    pub(super) fn file(&self) -> Option<&Text> {
        self.0.first()
    }
}
