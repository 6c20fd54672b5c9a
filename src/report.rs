//! Reports: bytes from a pure function of the [`View`]. Formats are rows of one table; the same
//! record gives the same bytes, without clock and without chance.
//!
//! It judges nothing (that is analysis) and touches neither disk nor terminal; only [`progress`]
//! has a thin part that draws on stderr. `cli` calls it.

pub mod calibration;
pub mod charts;
mod clean;
#[cfg(test)]
mod fixture;
mod html;
mod junit;
mod markdown;
pub mod progress;
mod text;
pub mod view;

pub use view::View;

/// A format of `jsbench report --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The table a run ends with.
    Text,
    /// For pull requests.
    Markdown,
    /// One self-contained page.
    Html,
    /// Tidy trials: `cell,trial,metric,value`.
    Csv,
    /// The record.
    Json,
    /// For CI.
    Junit,
}

/// One row: what a format is called and who writes it.
struct Row {
    format: Format,
    name: &'static str,
    write: fn(&View) -> Vec<u8>,
}

const TABLE: [Row; 6] = [
    Row {
        format: Format::Text,
        name: "text",
        write: text::write,
    },
    Row {
        format: Format::Markdown,
        name: "md",
        write: markdown::write,
    },
    Row {
        format: Format::Html,
        name: "html",
        write: html::write,
    },
    Row {
        format: Format::Csv,
        name: "csv",
        write: csv,
    },
    Row {
        format: Format::Json,
        name: "json",
        write: json,
    },
    Row {
        format: Format::Junit,
        name: "junit",
        write: junit::write,
    },
];

impl Format {
    /// Names for the command line, in the order of the table.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|row| row.name)
    }

    /// The format of that name.
    pub fn parse(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|row| row.name == name)
            .map(|row| row.format)
    }
}

/// The View in a format.
pub fn render(format: Format, view: &View) -> Vec<u8> {
    TABLE
        .iter()
        .find(|row| row.format == format)
        .map_or_else(Vec::new, |row| (row.write)(view))
}

/// The renderings of a run directory: path within it and bytes. Tables, histograms and the record
/// are data and written by `record`.
pub fn files(view: &View) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("report.md".to_owned(), render(Format::Markdown, view)),
        ("report.html".to_owned(), render(Format::Html, view)),
        ("junit.xml".to_owned(), render(Format::Junit, view)),
    ];
    files.extend(
        charts::all(view)
            .into_iter()
            .map(|chart| (format!("charts/{}.svg", chart.name), chart.svg.into_bytes())),
    );
    files
}

fn json(view: &View) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(view.record).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Tidy trials, the same bytes as `trials.csv`.
fn csv(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let cells = &view.run.manifest.cells;
    let _ = crate::record::tables::write_trials(view.record, cells, &mut out);
    out
}

#[cfg(test)]
mod tests;
