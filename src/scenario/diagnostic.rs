//! Everything that is wrong with a scenario, each with its place, the value and the cure, shown
//! the way rustc shows errors. Collects and renders; decides nothing.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::source::{Span, Texts};

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// What is wrong; names the value.
    pub(super) message: String,
    /// Where; `None` when nothing that was written is at fault but something is missing.
    pub(super) span: Option<Span>,
    /// The cure.
    pub(super) help: String,
}

/// Errors in the order they were found, each once.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Adds an error unless the same was found at the same place, in another cell for example.
    pub(super) fn add(
        &mut self,
        span: Option<Span>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let finding = Finding {
            message: message.into(),
            span,
            help: help.into(),
        };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// Leaves out findings of which `keep` says no.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Finding) -> bool) {
        self.0.retain(keep);
    }

    /// Moves the findings of `other` behind these.
    pub(super) fn append(&mut self, other: Self) {
        for finding in other.0 {
            self.add(finding.span, finding.message, finding.help);
        }
    }

    /// Ready to be shown, in the order of the text; those without a place come last.
    pub(super) fn into_diagnostics(mut self, texts: Texts) -> Diagnostics {
        self.0
            .sort_by_key(|f| f.span.as_ref().map_or(usize::MAX, |s| s.start));
        Diagnostics {
            texts,
            findings: self.0,
        }
    }
}

/// All errors of a scenario; at least one.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    texts: Texts,
    findings: Vec<Finding>,
}

impl Diagnostics {
    /// How many errors there are.
    pub fn len(&self) -> usize {
        self.findings.len()
    }

    /// Whether there are none, which `load` never returns.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// The errors as text: file:line:column, the line with the value marked, and the cure.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for finding in &self.findings {
            out.push_str(&renderer.render(&[self.group(finding)]));
            out.push_str("\n\n");
        }
        let (n, plural) = (self.len(), if self.len() == 1 { "" } else { "s" });
        let _ = writeln!(out, "{n} error{plural} in the scenario");
        out
    }

    fn group<'a>(&'a self, finding: &'a Finding) -> Group<'a> {
        let title = Level::ERROR.primary_title(&finding.message);
        let place = finding.span.as_ref().and_then(|s| self.texts.locate(s));
        let group = match place {
            Some((text, span)) => title.element(
                Snippet::source(&text.body)
                    .path(&text.name)
                    .annotation(AnnotationKind::Primary.span(span)),
            ),
            None => match self.texts.file() {
                Some(file) => title.element(Origin::path(&file.name)),
                None => Group::with_title(title),
            },
        };
        if finding.help.is_empty() {
            group
        } else {
            group.element(Level::HELP.message(&finding.help))
        }
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}
