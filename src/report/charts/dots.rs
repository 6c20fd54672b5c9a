//! The picture that answers: each cell a row, every trial a dot, the interval a thin bar, the
//! figures written beside it.

use super::canvas::{Axis, Canvas, Dot, Hang, Ink, document, ns_tick, rate_tick};
use super::{Chart, NARROW};
use crate::measure::histogram::Metric;
use crate::report::clean::shorten;
use crate::report::view::View;
use crate::report::view::cell::{CellView, TrialView};
use crate::report::view::figure::{GREY, GREY_SIGN};

/// What the dots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The cell's rate, from zero.
    Rate,
    /// p99 of response, on a log axis.
    ResponseP99,
}

/// Pixels of a row: on a narrow page the label stands above its dots.
const ROW: f64 = 40.0;
const ROW_NARROW: f64 = 54.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Widest label beside the dots, in characters.
const LABEL: usize = 30;
/// Pixels of a character of 12 px, generous: digits and small letters are narrower.
const CHARACTER: f64 = 6.8;
const BOLD_CHARACTER: f64 = 7.4;

struct Shape {
    measure: Measure,
    narrow: bool,
    width: f64,
    row: f64,
    axis: Axis,
}

/// The chart, or `None` where no trial has anything to show.
pub fn chart(view: &View, measure: Measure, width: u32) -> Option<Chart> {
    let narrow = width <= NARROW;
    let left = if narrow { 18.0 } else { label_width(view) };
    let labels = view.cells.iter().map(|cell| label(cell, measure));
    let longest = labels.map(|l| l.chars().count()).max().unwrap_or(0);
    let beside = if narrow {
        22.0
    } else {
        20.0 + CHARACTER * longest as f64
    };
    let right = f64::from(width) - beside;
    let axis = axis(view, measure, (left, right))?;
    let row = if narrow { ROW_NARROW } else { ROW };
    let rows: Vec<&CellView> = view.cells.iter().collect();
    let height = TOP + BOTTOM + row * rows.len() as f64;
    let (title, desc) = words(view, measure);
    let shape = Shape {
        measure,
        narrow,
        width: f64::from(width),
        row,
        axis,
    };
    let svg = document((width, height as u32), &title, &desc, |canvas| {
        grid(canvas, view, &shape, height - BOTTOM);
        for (at, cell) in rows.iter().enumerate() {
            draw_row(canvas, cell, &shape, TOP + row * at as f64);
        }
    });
    Some(Chart {
        name: match measure {
            Measure::Rate => "cells-rate".into(),
            Measure::ResponseP99 => "cells-response-p99".into(),
        },
        title,
        desc,
        size: (width, height as u32),
        svg,
    })
}

fn label_width(view: &View) -> f64 {
    let longest = view.cells.iter().map(|c| c.name.chars().count()).max();
    24.0 + BOLD_CHARACTER * longest.unwrap_or(0).min(LABEL) as f64
}

fn value(trial: &TrialView, measure: Measure) -> Option<f64> {
    match measure {
        Measure::Rate => trial.rate,
        Measure::ResponseP99 => trial.p99_ns.map(|ns| ns as f64),
    }
}

fn axis(view: &View, measure: Measure, pixels: (f64, f64)) -> Option<Axis> {
    let trials = view.cells.iter().flat_map(|c| &c.trials);
    let values: Vec<f64> = trials.filter_map(|t| value(t, measure)).collect();
    if values.is_empty() {
        return None;
    }
    match measure {
        Measure::Rate => {
            let ends = view.cells.iter().filter_map(|c| c.rate.hi);
            let largest = values.iter().copied().chain(ends).fold(0.0, f64::max);
            Some(Axis::from_zero(largest, pixels))
        }
        Measure::ResponseP99 => Axis::log(values.into_iter(), pixels),
    }
}

fn words(view: &View, measure: Measure) -> (String, String) {
    let title = match measure {
        Measure::Rate => format!("{} by cell, every trial a dot", view.rate_head),
        Measure::ResponseP99 => "p99 response by cell, every trial a dot".into(),
    };
    let cells: Vec<String> = view
        .cells
        .iter()
        .map(|cell| format!("{}: {}", cell.name, label(cell, measure)))
        .collect();
    (title, format!("{}.", cells.join("; ")))
}

/// What is written beside a row.
fn label(cell: &CellView, measure: Measure) -> String {
    let value = match measure {
        Measure::Rate => cell.rate_interval.clone(),
        Measure::ResponseP99 => cell.row.response_p99.text.clone(),
    };
    match (value.as_str(), measure) {
        ("-", Measure::ResponseP99) if cell.closed_loop => "none: closed loop".into(),
        ("-", _) => cell.row.state.to_owned(),
        _ if cell.closed_loop => format!("{value} c), n = {}", cell.n),
        _ => format!("{value}, n = {}", cell.n),
    }
}

/// What the signs and the pale marks of a chart mean; on a narrow page the text below it says it.
fn legend(view: &View, shape: &Shape) -> String {
    let closed = view.cells.iter().any(|c| c.closed_loop);
    let grey = |c: &CellView| c.row.response_p99.grey || c.trials.iter().any(|t| t.p99_grey);
    match shape.measure {
        Measure::Rate if closed => "; c) closed loop".into(),
        Measure::ResponseP99 if !shape.narrow && view.cells.iter().any(grey) => {
            format!("; pale, {GREY_SIGN}: {GREY}")
        }
        _ => String::new(),
    }
}

fn grid(canvas: &Canvas, view: &View, shape: &Shape, bottom: f64) {
    let axis = &shape.axis;
    for tick in axis.ticks(if shape.narrow { 4 } else { 6 }) {
        let x = axis.at(tick);
        if shape.narrow {
            // Labels stand above each row: the grid leaves them their room.
            let rows = (0..view.cells.len()).map(|at| TOP + shape.row * at as f64);
            for top in rows {
                canvas.line([(x, top + 22.0), (x, top + 50.0)], Ink::Grid, 1.0);
            }
        } else {
            canvas.line([(x, TOP), (x, bottom)], Ink::Grid, 1.0);
        }
        let text = match shape.measure {
            Measure::Rate => rate_tick(tick),
            Measure::ResponseP99 => ns_tick(tick),
        };
        canvas.text(&text, (x, bottom + 12.0), Hang::Middle, Ink::Muted, false);
    }
    let name = match shape.measure {
        Measure::Rate => format!("{}, bar: 95 % interval", view.rate_head),
        Measure::ResponseP99 => "p99 response, log scale, bar: all usable trials merged".into(),
    };
    let name = name + &legend(view, shape);
    let x = if shape.narrow {
        axis.pixels.0
    } else {
        axis.at(axis.values.0)
    };
    canvas.text(&name, (x, bottom + 30.0), Hang::Start, Ink::Muted, false);
}

fn draw_row(canvas: &Canvas, cell: &CellView, shape: &Shape, top: f64) {
    let label = label(cell, shape.measure);
    let middle = if shape.narrow {
        top + 36.0
    } else {
        top + shape.row / 2.0
    };
    if shape.narrow {
        let room = shape.width - shape.axis.pixels.0 - CHARACTER * label.chars().count() as f64;
        let name = shorten(
            &cell.name,
            ((room - 10.0) / BOLD_CHARACTER).max(2.0) as usize,
        );
        canvas.text(
            &name,
            (shape.axis.pixels.0, top + 12.0),
            Hang::Start,
            Ink::Main,
            true,
        );
        let end = (shape.width - 4.0, top + 12.0);
        canvas.text(&label, end, Hang::End, Ink::Muted, false);
    } else {
        let name = shorten(&cell.name, LABEL);
        canvas.text(
            &name,
            (shape.axis.pixels.0 - 14.0, middle),
            Hang::End,
            Ink::Main,
            true,
        );
        let start = (shape.axis.pixels.1 + 14.0, middle);
        canvas.text(&label, start, Hang::Start, Ink::Muted, false);
    }
    canvas.line(
        [(shape.axis.pixels.0, middle), (shape.axis.pixels.1, middle)],
        Ink::Grid,
        1.0,
    );
    aggregate(canvas, cell, shape, middle);
    for (i, trial) in cell.trials.iter().enumerate() {
        let Some(value) = value(trial, shape.measure) else {
            continue;
        };
        // Trials that measured the same would hide each other.
        let aside = [-6.0, 0.0, 6.0, -10.0, 10.0][i % 5];
        let dot = match trial.state {
            "valid" => Dot::Full,
            "degraded" => Dot::Open,
            _ => Dot::Cross,
        };
        let ink = if shape.measure == Measure::ResponseP99 && trial.p99_grey {
            Ink::FirstPale
        } else {
            Ink::First
        };
        canvas.dot((shape.axis.at(value), middle + aside), dot, ink);
    }
}

/// The interval as a bar with its mean, or the merged quantile as a stroke.
fn aggregate(canvas: &Canvas, cell: &CellView, shape: &Shape, middle: f64) {
    let stroke = |value: f64, half: f64| {
        let x = shape.axis.at(value);
        canvas.line([(x, middle - half), (x, middle + half)], Ink::Main, 2.0);
    };
    match shape.measure {
        Measure::Rate => {
            if let (Some(lo), Some(hi)) = (cell.rate.lo, cell.rate.hi) {
                let ends = [lo, hi].map(|v| (shape.axis.at(v.max(0.0)), middle));
                canvas.line(ends, Ink::Main, 1.5);
                stroke(lo.max(0.0), 4.0);
                stroke(hi, 4.0);
            }
            if let Some(mean) = cell.rate.mean {
                stroke(mean, 11.0);
            }
        }
        Measure::ResponseP99 => {
            let merged = cell
                .latency(Metric::Response)
                .and_then(|l| l.summary.p99_ns);
            if let Some(ns) = merged {
                stroke(ns as f64, 11.0);
            }
        }
    }
}
