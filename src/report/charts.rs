//! The charts of a report as SVG: the picture that answers the question, and percentiles, rate
//! and p99 over time for each cell. Every aggregate is drawn with the trials it is made of;
//! colour is never the only mark; what is missing stays a gap.
//!
//! Files keep real colours; [`Chart::inline`] maps them once to the variables of the page.

mod canvas;
mod dots;
mod over_time;
mod percentiles;

use super::view::cell::CellView;
use super::view::{SHARED_HOST, View};
pub use dots::Measure;

/// Width of the picture on a page and on a phone.
pub const WIDE: u32 = 860;
/// The same on a phone.
pub const NARROW: u32 = 340;

/// One chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// File name without ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// What can be read from it, for those who cannot see it.
    pub desc: String,
    /// Width and height, px.
    pub size: (u32, u32),
    /// A whole SVG document with real colours.
    pub svg: String,
}

impl Chart {
    /// The SVG for a page: colours are the page's variables, so that dark and print follow.
    pub fn inline(&self) -> String {
        canvas::inline(&self.svg)
    }
}

/// The pictures over all cells, the one that answers first: latency where every cell was offered
/// a rate and kept it, the rate otherwise.
pub fn pictures(view: &View, width: u32) -> Vec<Chart> {
    let kept = view.cells.iter().all(|cell| {
        !cell.closed_loop
            && cell
                .latency(crate::measure::histogram::Metric::Response)
                .is_some()
    });
    let order = if kept && !view.cells.is_empty() {
        [Measure::ResponseP99, Measure::Rate]
    } else {
        [Measure::Rate, Measure::ResponseP99]
    };
    order
        .into_iter()
        .filter_map(|measure| dots::chart(view, measure, width))
        .collect()
}

/// The charts of one cell that have something to show.
pub fn of_cell(cell: &CellView, at: usize) -> Vec<Chart> {
    let stem = file_stem(&cell.id, at);
    [
        percentiles::chart(cell, &stem),
        over_time::rate(cell, &stem),
        over_time::p99(cell, &stem),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Every chart of a run, as `charts/*.svg` holds them: stamped, for they go without the page.
pub fn all(view: &View) -> Vec<Chart> {
    let mut charts = pictures(view, WIDE);
    for (at, cell) in view.cells.iter().enumerate() {
        charts.extend(of_cell(cell, at));
    }
    if view.head.shared_host {
        for chart in &mut charts {
            chart.svg = canvas::with_foot(&chart.svg, chart.size, SHARED_HOST);
        }
    }
    charts
}

/// A cell id as part of a file name. Ids are `[a-z0-9-]+` by contract; in a record from elsewhere
/// they may be anything, and then the number of the cell keeps them apart.
fn file_stem(id: &str, at: usize) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !id.is_empty() && id.len() <= 120 && id.chars().all(plain) {
        id.to_owned()
    } else {
        format!("cell-{at}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_stays_within_its_directory() {
        assert_eq!(file_stem("shared-5k", 0), "shared-5k");
        assert_eq!(file_stem("../../etc/passwd", 3), "cell-3");
        assert_eq!(file_stem("", 4), "cell-4");
    }
}
