//! The page: one self-contained file without script. The template escapes every value; only the
//! charts, which escape their own texts, go in as they are. The style is allowed by its hash and
//! nothing else may load.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use sha2::{Digest as _, Sha256};

use super::charts::{self, Chart, NARROW, WIDE};
use super::view::figure::{AT_LEAST, GREY};
use super::view::{SHARED_HOST, View};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// Bytes of charts on a page; beyond, a cell's charts are named and stand in `charts/` alone, so
/// that a page stays below 2 MB.
const CHART_BUDGET: usize = 1_200_000;

pub fn write(view: &View) -> Vec<u8> {
    page(view, CHART_BUDGET).into_bytes()
}

fn page(view: &View, budget: usize) -> String {
    let mut environment = Environment::new();
    let page = environment
        .add_template("page.html", TEMPLATE)
        .and_then(|()| environment.get_template("page.html"))
        .and_then(|template| template.render(values(view, budget)));
    // The template is a constant and is rendered by tests; what is wrong with it must be seen.
    page.unwrap_or_else(|error| format!("the page could not be rendered: {error:#}"))
}

fn values(view: &View, budget: usize) -> Value {
    let style = style(view);
    let hash = BASE64_STANDARD.encode(Sha256::digest(style.as_bytes()));
    let wide = charts::pictures(view, WIDE);
    let narrow = charts::pictures(view, NARROW);
    let mut left = budget;
    let mut shown = |chart: &Chart| {
        let svg = chart.inline();
        let fits = svg.len() <= left;
        if fits {
            left -= svg.len();
        }
        context! {
            title => chart.title.as_str(),
            name => chart.name.as_str(),
            svg => if fits { svg } else { String::new() },
        }
    };
    let pictures: Vec<Value> = wide
        .iter()
        .zip(&narrow)
        .map(|(wide, narrow)| context! { wide => shown(wide), narrow => shown(narrow) })
        .collect();
    let cell_charts: Vec<Vec<Value>> = view
        .cells
        .iter()
        .enumerate()
        .map(|(at, cell)| charts::of_cell(cell, at).iter().map(&mut shown).collect())
        .collect();
    context! {
        view => Value::from(Serde(view)),
        grey => GREY,
        at_least => AT_LEAST,
        reading => Value::from(Serde(view.reading())),
        shared_host => SHARED_HOST,
        style, hash, pictures, cell_charts,
    }
}

/// The style with the run's id for the margin of a printed page. Only hex digits go in: it is no
/// place for text from elsewhere.
fn style(view: &View) -> String {
    let id: String = view
        .head
        .run_id
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    STYLE.replace("RUN_ID", &id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn the_page_loads_nothing_and_runs_nothing() {
        let (run, record, answer) = fixture::sample();
        let page = page(&View::new(&run, &record, &answer), CHART_BUDGET);
        for absent in [
            "<script",
            "<link",
            "<img",
            "<iframe",
            " src=",
            "url(",
            "@import",
            " style=\"",
            " onload",
            " onclick",
        ] {
            assert!(!page.contains(absent), "{absent}");
        }
        let style = page
            .split("<style>")
            .nth(1)
            .and_then(|s| s.split("</style>").next());
        let hash = BASE64_STANDARD.encode(Sha256::digest(style.expect("has a style")));
        assert!(page.contains(&format!("style-src 'sha256-{hash}'")));
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
    }

    #[test]
    fn headings_are_in_order_and_every_chart_is_named() {
        let (run, record, answer) = fixture::sample();
        let page = page(&View::new(&run, &record, &answer), CHART_BUDGET);
        let levels: Vec<u32> = page
            .match_indices("<h")
            .filter_map(|(at, _)| page[at + 2..].chars().next()?.to_digit(10))
            .collect();
        assert_eq!(levels.iter().filter(|l| **l == 1).count(), 1);
        assert!(levels.windows(2).all(|w| w[1] <= w[0] + 1), "{levels:?}");
        let svgs = page.matches("<svg ").count();
        // Two pictures in two widths, and three charts for each of four cells.
        assert_eq!(svgs, 2 * 2 + 3 * 4);
        assert_eq!(page.matches("<desc>").count(), svgs);
        assert!(
            !page.contains("\"#0072B2\""),
            "a chart kept the colours of a file"
        );
    }

    #[test]
    fn charts_beyond_the_budget_are_named_instead() {
        let (run, record, answer) = fixture::sample();
        let view = View::new(&run, &record, &answer);
        let page = page(&view, 20_000);
        assert!(page.contains("see charts/per-app-5k-s-p99.svg"));
        assert!(page.matches("<svg ").count() < 16);
        assert!(page.contains("<svg "));
    }
}
