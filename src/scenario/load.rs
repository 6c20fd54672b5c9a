//! The way from text to [`Scenario`], step by step: parse, lay the layers, expand the matrix,
//! convert and judge each cell. Collects every error on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::check::Check;
use super::convert;
use super::decode::decode;
use super::diagnostic::{Diagnostics, Findings};
use super::matrix::{self, Axis, Draft};
use super::model::{Cell, Scenario};
use super::overlay::{self, Overrides};
use super::source::{Flag, Source, Texts};
use super::tree::{self, Table};
use super::wire;

const LONGEST_NAME: usize = 64;
const MOST_REPEATS: u32 = 10_000;

/// Reads a scenario and resolves its cells.
///
/// # Errors
/// Everything that is wrong with it, in one value.
pub fn load(source: &Source, overrides: &Overrides) -> Result<Scenario, Diagnostics> {
    let texts = Texts::new(source, &flags(overrides));
    let mut syntax = Findings::default();
    let tree = overlay::parse_file(&source.text, &mut syntax);
    let bad = BadLines::of(&source.text, &syntax);
    let mut findings = Findings::default();
    let scenario = if bad.recovered(&tree) {
        resolve(source, tree, &texts, &mut findings)
    } else {
        decode::<wire::Scenario>(&tree, &mut findings, &mut BTreeSet::new());
        None
    };
    findings.retain(|f| f.span.as_ref().is_none_or(|s| !bad.cover(s.start)));
    syntax.append(findings);
    match scenario {
        Some(scenario) if syntax.is_empty() => Ok(scenario),
        _ => Err(syntax.into_diagnostics(texts)),
    }
}

/// The lines that are not TOML: they are told once, and what follows from them is not told.
struct BadLines<'a> {
    text: &'a str,
    lines: BTreeSet<usize>,
}

impl<'a> BadLines<'a> {
    fn of(text: &'a str, syntax: &Findings) -> Self {
        let mut bad = Self {
            text,
            lines: BTreeSet::new(),
        };
        let spans = syntax.iter().filter_map(|f| f.span.as_ref());
        let spans: Vec<usize> = spans.map(|s| bad.line(s.start)).collect();
        bad.lines.extend(spans);
        let mut lost_header = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with('[') {
                lost_header = bad.lines.contains(&number);
            } else if lost_header {
                // The keys below it landed in another table.
                bad.lines.insert(number);
            }
        }
        bad
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.matches('\n').count()
    }

    fn cover(&self, at: usize) -> bool {
        at <= self.text.len() && self.lines.contains(&self.line(at))
    }

    /// Whether each of them left a value behind, so that nothing is missed elsewhere.
    fn recovered(&self, tree: &Table<'_>) -> bool {
        let leaves = tree::leaves(tree);
        let values: BTreeSet<usize> = leaves
            .iter()
            .map(|leaf| self.line(leaf.value.span().start))
            .collect();
        self.lines.is_subset(&values)
    }
}

/// The overrides as the flags they came from, in the order in which they are laid.
fn flags(overrides: &Overrides) -> Vec<(&'static str, String)> {
    let mut flags = Vec::new();
    flags.extend(overrides.profile.iter().map(|p| ("--profile", p.clone())));
    flags.extend(overrides.set.iter().map(|s| ("--set", s.clone())));
    flags.extend(overrides.trials.iter().map(|n| ("--trials", n.to_string())));
    if let Some(external) = &overrides.external {
        if !external.urls.is_empty() {
            flags.push(("--server", external.urls.join(",")));
        }
        flags.extend(external.context.iter().map(|c| ("--context", c.clone())));
    }
    flags.extend(overrides.filter.iter().map(|f| ("--filter", f.clone())));
    flags
}

fn resolve<'i>(
    source: &'i Source,
    mut tree: Table<'i>,
    texts: &'i Texts,
    findings: &mut Findings,
) -> Option<Scenario> {
    let profiles = take_profiles(&mut tree, findings);
    let laid = lay_flags(&mut tree, &profiles, texts, findings);
    let axes = matrix::axes(&tree, findings);
    if tree::get(&tree, "stream.existing").is_some() {
        fixed_axes(&axes, "stream", "a stream that is there", findings);
    }
    if tree::text(&tree, "target.kind") == Some("stub") {
        fixed_axes(&axes, "stream", "a stub, which has no streams", findings);
    }
    let excludes = matrix::excludes(&tree, findings);
    for exclude in &excludes {
        decode::<wire::Scenario>(exclude, findings, &mut BTreeSet::new());
    }
    let mut base = tree.clone();
    base.remove("matrix");
    base.remove("exclude");
    let mut broken = BTreeSet::new();
    let head: wire::Scenario = decode(&base, findings, &mut broken);
    let (name, repeat) = judge_head(&base, &head, findings, broken);
    if !laid {
        // Without a layer that was asked for, cells would be judged that nobody meant.
        return None;
    }
    let drafts = matrix::expand(&base, &axes, &excludes, findings);
    let cells = cells(source, &drafts, findings);
    let keep = filter(&cells, &axes, texts, findings);
    let resolved_toml = resolved(tree, &drafts, &keep);
    let mut keep = keep.into_iter();
    Some(Scenario {
        name,
        question: head.question,
        hypothesis: head.hypothesis,
        axes: axes.iter().map(written).collect(),
        repeat,
        cells: cells
            .into_iter()
            .filter(|_| keep.next().unwrap_or(true))
            .collect(),
        path: source.path.clone(),
        file_sha256: matrix::sha256(&source.text),
        resolved_toml,
    })
}

/// Takes the profiles out, each checked for what can be said of an overlay alone.
fn take_profiles<'i>(tree: &mut Table<'i>, findings: &mut Findings) -> Table<'i> {
    let span = tree::place(tree, "profile");
    let profiles = match tree.remove("profile").map(Spanned::into_inner) {
        None => Table::new(),
        Some(DeValue::Table(profiles)) => profiles,
        Some(_) => {
            findings.add(
                span,
                "`profile` is not a table",
                "write `[profile.quick]` and below it the keys it changes",
            );
            Table::new()
        }
    };
    for (name, profile) in &profiles {
        let DeValue::Table(layer) = profile.get_ref() else {
            findings.add(
                Some(profile.span()),
                format!("the profile `{}` is not a table", name.get_ref()),
                format!("write `[profile.{}]`", name.get_ref()),
            );
            continue;
        };
        if let Some(place) = tree::place(layer, "profile") {
            findings.add(
                Some(place),
                "a profile within a profile",
                "write it beside the other: `[profile.NAME]`",
            );
        }
        decode::<wire::Scenario>(layer, findings, &mut BTreeSet::new());
        for value in matrix::axes(layer, findings)
            .iter()
            .flat_map(Axis::each_alone)
        {
            decode::<wire::Scenario>(&value, findings, &mut BTreeSet::new());
        }
        matrix::excludes(layer, findings);
    }
    profiles
}

/// Lays profile and flags over the file; whether all of them could be laid.
fn lay_flags<'i>(
    tree: &mut Table<'i>,
    profiles: &Table<'i>,
    texts: &'i Texts,
    findings: &mut Findings,
) -> bool {
    let mut laid = true;
    let mut external = Vec::new();
    for flag in texts.flags() {
        let layer = match flag.name {
            "--profile" => overlay::profile_layer(profiles, flag, findings),
            "--set" => overlay::set_layer(flag, findings),
            "--trials" => overlay::trials_layer(flag),
            "--server" | "--context" => {
                external.push(flag);
                continue;
            }
            _ => continue,
        };
        match layer {
            Some(layer) => overlay::lay(tree, layer),
            None => laid = false,
        }
    }
    let Some(layer) = overlay::external_layer(&external) else {
        return laid;
    };
    // What the scenario says of another target is checked, though not applied. External ones are
    // checked with the address that the command line gives them.
    let axes = matrix::axes(tree, &mut Findings::default());
    let chosen = "a target that the command line chose";
    fixed_axes(&axes, "target", chosen, findings);
    let kind = tree::get(tree, "target.kind").and_then(|v| v.get_ref().as_str());
    if kind != Some("external") {
        convert::target_alone(tree, findings);
    }
    overlay::lay(tree, layer);
    laid
}

/// Refuses axes over what is given from outside: their cells would differ in name only.
fn fixed_axes(axes: &[Axis<'_>], table: &str, what: &str, findings: &mut Findings) {
    for axis in axes {
        let path = &axis.path;
        if path.split('.').next() == Some(table) {
            findings.add(
                axis.span(),
                format!("the axis `{path}` cannot change {what}"),
                format!("set it, which removes the axis: `--set {path}=…`"),
            );
        }
    }
}

fn judge_head(
    base: &Table<'_>,
    head: &wire::Scenario,
    findings: &mut Findings,
    broken: BTreeSet<String>,
) -> (String, u32) {
    let mut check = Check {
        tree: base,
        findings,
        broken,
    };
    let name = head.name.clone().unwrap_or_default();
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= LONGEST_NAME
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if head.name.is_none() {
        check.refuse(
            &["name"],
            "the scenario has no name",
            "begin it with `name = \"my-scenario\"`",
        );
    } else if !fits {
        check.refuse(
            &["name"],
            format!("`{name}` cannot name a directory"),
            "write letters, digits and dashes, at most 64, for example \"stream-layout\"",
        );
    }
    let repeat = head.trials.repeat.unwrap_or(convert::DEFAULT_REPEAT);
    if !(1..=MOST_REPEATS).contains(&repeat) {
        check.refuse(
            &["trials.repeat"],
            format!("each cell {repeat} times"),
            format!("write `repeat = 5`, or another number from 1 to {MOST_REPEATS}"),
        );
    }
    (name, repeat)
}

fn cells(source: &Source, drafts: &[Draft<'_>], findings: &mut Findings) -> Vec<Cell> {
    let base = source.path.as_deref().and_then(Path::parent);
    let mut beside = convert::Beside::new(base.unwrap_or(Path::new("")));
    let mut cells = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let mut broken = BTreeSet::new();
        let wire = decode(&draft.tree, findings, &mut broken);
        let mut check = Check {
            tree: &draft.tree,
            findings: &mut *findings,
            broken,
        };
        let spec = convert::cell(&mut check, wire, &mut beside);
        cells.push(Cell {
            id: draft.id.clone(),
            factors: draft.factors.clone(),
            spec,
        });
    }
    cells
}

fn filter(cells: &[Cell], axes: &[Axis<'_>], texts: &Texts, findings: &mut Findings) -> Vec<bool> {
    let filters: Vec<Flag<'_>> = texts.flags().filter(|f| f.name == "--filter").collect();
    let factors: Vec<&BTreeMap<String, String>> = cells.iter().map(|c| &c.factors).collect();
    matrix::filter(&factors, axes, &filters, findings)
}

/// The tree as text that gives the same cells again, filtered-out ones excluded by name.
fn resolved<'i>(mut tree: Table<'i>, drafts: &[Draft<'i>], keep: &[bool]) -> String {
    for (draft, keep) in drafts.iter().zip(keep) {
        if !keep {
            matrix::exclude(&mut tree, draft);
        }
    }
    for path in matrix::SECRETS {
        if let Some(value) = tree::get_mut(&mut tree, path) {
            *value.get_mut() = DeValue::String("<redacted>".into());
        }
    }
    matrix::redacted(&tree::to_toml(&tree, &["matrix"]))
}

fn written(axis: &Axis<'_>) -> (String, Vec<String>) {
    let values = axis.values.iter();
    let values = values.map(|v| matrix::redacted(&tree::as_written(v.get_ref())));
    (axis.path.clone(), values.collect())
}
