//! Latency by percentile: response against service in open loop, service alone in closed loop,
//! end to end where there is nothing else. The distance between the two is waiting.

use super::Chart;
use super::canvas::{Axis, Hang, Ink, document, ns_tick};
use crate::measure::histogram::Metric;
use crate::report::view::cell::CellView;
use crate::report::view::figure::GREY;
use crate::report::view::merged::LatencyView;

const SIZE: (u32, u32) = (430, 424);
const PLOT: (f64, f64, f64, f64) = (62.0, 28.0, 356.0, 378.0);

/// The chart, or `None` without a histogram.
pub fn chart(cell: &CellView, stem: &str) -> Option<Chart> {
    let curve = |metric| cell.latency(metric).filter(|l| l.curve.len() > 1);
    let mut curves: Vec<(&LatencyView, Ink)> = Vec::new();
    if let Some(response) = curve(Metric::Response) {
        curves.push((response, Ink::First));
    }
    if let Some(service) = curve(Metric::Service) {
        curves.push((service, Ink::Second));
    }
    if curves.is_empty() {
        curves.extend(curve(Metric::E2e).map(|l| (l, Ink::First)));
    }
    let (left, top, right, bottom) = PLOT;
    let points = || curves.iter().flat_map(|(l, _)| &l.curve);
    let y = Axis::log(points().map(|p| p.1), (bottom, top))?;
    let last = points().map(|p| p.0).fold(10.0, f64::max);
    let x = Axis {
        values: (1.0, last),
        pixels: (left, right),
        log: true,
    };
    let names: Vec<&str> = curves.iter().map(|(l, _)| l.name).collect();
    let closed = if cell.closed_loop {
        ", closed loop"
    } else {
        ""
    };
    let title = format!(
        "{}: {} by percentile{closed}",
        cell.name,
        names.join(" and ")
    );
    let pale = curves.iter().any(|(l, _)| l.plain_points() < l.curve.len());
    let desc = curves
        .iter()
        .map(|(l, _)| {
            let [_, p50, p90, p99, p999, max] = &l.figures;
            format!(
                "{}: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}.",
                l.name
            )
        })
        .collect::<Vec<_>>()
        .join(" ");
    let svg = document(SIZE, &title, &desc, |canvas| {
        for tick in y.ticks(7) {
            let at = y.at(tick);
            canvas.line([(left, at), (right, at)], Ink::Grid, 1.0);
            canvas.text(
                &ns_tick(tick),
                (left - 8.0, at),
                Hang::End,
                Ink::Muted,
                false,
            );
        }
        for (value, name) in quantiles(last) {
            let at = x.at(value);
            canvas.line([(at, top), (at, bottom)], Ink::Grid, 1.0);
            canvas.text(name, (at, bottom + 14.0), Hang::Middle, Ink::Muted, false);
        }
        canvas.text(
            &format!("latency, log scale{closed}"),
            (left - 54.0, 12.0),
            Hang::Start,
            Ink::Muted,
            false,
        );
        let middle = (f64::midpoint(left, right), bottom + 36.0);
        let scale = if pale {
            format!("scale log 1/(1-q); pale: {GREY}")
        } else {
            "percentile, scale log 1/(1-q)".into()
        };
        canvas.text(&scale, middle, Hang::Middle, Ink::Muted, false);
        let mut ends = Vec::new();
        for (latency, ink) in &curves {
            let line = |points: &[(f64, f64)], ink, px| {
                let points = points.iter().map(|(q, ns)| (x.at(*q), y.at(*ns)));
                canvas.line(points, ink, px);
            };
            let plain = latency.plain_points();
            line(&latency.curve[..plain], *ink, 2.0);
            line(&latency.curve[plain.saturating_sub(1)..], ink.pale(), 1.5);
            if let Some((q, ns)) = latency.curve.last() {
                ends.push((latency.name, *ink, x.at(*q), y.at(*ns)));
            }
        }
        for (name, ink, at, height) in apart(ends) {
            canvas.text(name, (at + 6.0, height), Hang::Start, ink, true);
        }
    });
    Some(Chart {
        name: format!("{stem}-percentiles"),
        title,
        desc,
        size: SIZE,
        svg,
    })
}

/// Ticks of 1/(1-q) up to the last that was measured.
fn quantiles(last: f64) -> impl Iterator<Item = (f64, &'static str)> {
    [
        (2.0, "50 %"),
        (10.0, "90 %"),
        (100.0, "99 %"),
        (1e3, "99.9 %"),
        (1e4, "99.99 %"),
        (1e5, "99.999 %"),
    ]
    .into_iter()
    .filter(move |(value, _)| *value <= last * 1.000_001)
}

/// Labels of curves that end near each other, moved apart.
fn apart(mut ends: Vec<(&str, Ink, f64, f64)>) -> Vec<(&str, Ink, f64, f64)> {
    ends.sort_by(|a, b| a.3.total_cmp(&b.3));
    for i in 1..ends.len() {
        ends[i].3 = ends[i].3.max(ends[i - 1].3 + 14.0);
    }
    ends
}
