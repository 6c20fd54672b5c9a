//! Rate and p99 over time, a line for each trial. What lies outside the window is shaded; a
//! missing second is a gap.

use super::Chart;
use super::canvas::{Axis, Canvas, Hang, Ink, document, ns_tick, rate_tick};
use crate::report::view::cell::CellView;
use crate::report::view::series::{Point, TrialSeries};

const SIZE: (u32, u32) = (430, 196);
const PLOT: (f64, f64, f64, f64) = (62.0, 28.0, 414.0, 150.0);

/// Rate over time, from zero.
pub fn rate(cell: &CellView, stem: &str) -> Option<Chart> {
    let (_, top, _, bottom) = PLOT;
    let offered = !cell.closed_loop && points(cell).any(|p| p.offered > 0.0);
    let rates = points(cell).map(|p| {
        if offered {
            p.rate.max(p.offered)
        } else {
            p.rate
        }
    });
    let largest = rates.fold(None, |max: Option<f64>, v| {
        Some(max.map_or(v, |max| max.max(v)))
    })?;
    let plot = Plot {
        y: Axis::from_zero(largest, (bottom, top)),
        value: |point| Some(point.rate),
        pale: |_| false,
        tick: rate_tick,
        head: match (offered, cell.closed_loop) {
            (true, _) => format!("{}, grey line: offered", cell.rate_kind.head()),
            (_, true) => format!("{}, closed loop", cell.rate_kind.head()),
            _ => cell.rate_kind.head().to_owned(),
        },
        offered,
    };
    let desc = format!(
        "{}{} intervals of {} trials, largest {}.",
        if offered {
            "With what was offered. "
        } else {
            ""
        },
        points(cell).count(),
        cell.series.len(),
        crate::units::human_rate(largest)
    );
    Some(plot.draw(cell, "rate", stem, &desc))
}

/// p99 of each interval, on a log axis.
pub fn p99(cell: &CellView, stem: &str) -> Option<Chart> {
    let (_, top, _, bottom) = PLOT;
    let values = points(cell).filter_map(|p| p.p99_ns).map(|ns| ns as f64);
    let plot = Plot {
        y: Axis::log(values.clone(), (bottom, top))?,
        value: |point| point.p99_ns.map(|ns| ns as f64),
        pale: |point| point.p99_grey,
        tick: ns_tick,
        head: {
            let what = match (cell.closed_loop, cell.ack_groups) {
                (true, false) => "p99 service, log scale, closed loop",
                (true, true) => "p99 ack-group latency, log scale, closed loop",
                (false, false) => "p99 of each interval, log scale",
                (false, true) => "p99 ack-group response, log scale",
            };
            if points(cell).any(|p| p.p99_grey) {
                format!("{what}; pale: few samples above it")
            } else {
                what.into()
            }
        },
        offered: false,
    };
    let desc = format!(
        "{} intervals of {} trials, largest {}.",
        values.clone().count(),
        cell.series.len(),
        crate::units::human_ns(values.fold(0.0, f64::max))
    );
    Some(plot.draw(cell, "p99", stem, &desc))
}

fn points(cell: &CellView) -> impl Iterator<Item = &Point> + Clone {
    cell.series.iter().flat_map(|s| &s.points)
}

struct Plot {
    y: Axis,
    value: fn(&Point) -> Option<f64>,
    /// Too few samples stand behind a point.
    pale: fn(&Point) -> bool,
    tick: fn(f64) -> String,
    head: String,
    /// What was due is drawn beside what was done.
    offered: bool,
}

impl Plot {
    fn draw(&self, cell: &CellView, what: &str, stem: &str, desc: &str) -> Chart {
        let (left, _, right, bottom) = PLOT;
        let end = points(cell).map(|p| p.to_s).fold(0.0, f64::max);
        let x = Axis {
            values: (0.0, if end > 0.0 { end } else { 1.0 }),
            pixels: (left, right),
            log: false,
        };
        let closed = if cell.closed_loop {
            ", closed loop"
        } else {
            ""
        };
        let title = format!("{}: {what} over time{closed}", cell.name);
        let svg = document(SIZE, &title, desc, |canvas| {
            shade(canvas, cell, &x, end);
            for tick in self.y.ticks(5) {
                let at = self.y.at(tick);
                canvas.line([(left, at), (right, at)], Ink::Grid, 1.0);
                canvas.text(
                    &(self.tick)(tick),
                    (left - 8.0, at),
                    Hang::End,
                    Ink::Muted,
                    false,
                );
            }
            for tick in x.ticks(6) {
                let at = x.at(tick);
                canvas.line([(at, bottom), (at, bottom + 4.0)], Ink::Muted, 1.0);
                let text = format!("{}", (tick * 1e3).round() / 1e3);
                canvas.text(&text, (at, bottom + 14.0), Hang::Middle, Ink::Muted, false);
            }
            canvas.line([(left, bottom), (right, bottom)], Ink::Muted, 1.0);
            canvas.text(
                &self.head,
                (left - 54.0, 12.0),
                Hang::Start,
                Ink::Muted,
                false,
            );
            let middle = (f64::midpoint(left, right), bottom + 34.0);
            let name = "s after the start, grey: outside the window";
            canvas.text(name, middle, Hang::Middle, Ink::Muted, false);
            if self.offered {
                self.offered(canvas, cell, &x);
            }
            for series in &cell.series {
                self.series(canvas, series, &x);
            }
        });
        Chart {
            name: format!("{stem}-{what}"),
            title,
            desc: desc.to_owned(),
            size: SIZE,
            svg,
        }
    }

    /// One trial; a line of its own after each gap, a stroke for a lone point. Trials that are
    /// left out are dashed, points with few samples behind them are pale.
    fn series(&self, canvas: &Canvas, series: &TrialSeries, x: &Axis) {
        let (ink, px) = if series.usable {
            (Ink::First, 1.5)
        } else {
            (Ink::Second, 1.0)
        };
        let mut run: Vec<(f64, f64)> = Vec::new();
        let mut last_end = None;
        let mut pale = false;
        let flush = |run: &mut Vec<(f64, f64)>, pale: bool| {
            if let [(at, y)] = run[..] {
                run.push((at + 3.0, y));
            }
            let ink = if pale { ink.pale() } else { ink };
            canvas.line(run.drain(..), ink, px);
        };
        for point in &series.points {
            let value = (self.value)(point);
            let gap = is_gap(last_end, point);
            if gap || value.is_none() {
                flush(&mut run, pale);
            }
            if pale != (self.pale)(point) {
                // The line goes on from its last point in the other colour.
                let last = run.last().copied().filter(|_| run.len() > 1);
                if last.is_some() {
                    flush(&mut run, pale);
                }
                run.extend(last);
                pale = !pale;
            }
            if let Some(value) = value {
                run.push((
                    x.at(f64::midpoint(point.from_s, point.to_s)),
                    self.y.at(value),
                ));
            }
            last_end = Some(point.to_s);
        }
        flush(&mut run, pale);
    }

    /// What was due in each interval of the first trial; chance apart it is the same in all.
    fn offered(&self, canvas: &Canvas, cell: &CellView, x: &Axis) {
        let mut usable = cell.series.iter().filter(|s| s.usable);
        let Some(series) = usable.next().or_else(|| cell.series.first()) else {
            return;
        };
        let mut steps: Vec<(f64, f64)> = Vec::new();
        let mut last_end = None;
        for point in &series.points {
            if is_gap(last_end, point) {
                canvas.line(steps.drain(..), Ink::Muted, 1.0);
            }
            let y = self.y.at(point.offered);
            steps.extend([(x.at(point.from_s), y), (x.at(point.to_s), y)]);
            last_end = Some(point.to_s);
        }
        canvas.line(steps, Ink::Muted, 1.0);
    }
}

/// An interval is missing before `point`.
fn is_gap(last_end_s: Option<f64>, point: &Point) -> bool {
    last_end_s.is_some_and(|end| point.from_s > end + 1e-3 + (point.to_s - point.from_s) / 2.0)
}

/// Greys what lies before and after the window of the first usable trial.
fn shade(canvas: &Canvas, cell: &CellView, x: &Axis, end: f64) {
    let (_, top, _, bottom) = PLOT;
    let usable = cell.series.iter().filter(|s| s.usable);
    let Some((from, to)) = usable.chain(&cell.series).find_map(|s| s.window_s) else {
        return;
    };
    let grey = |a: f64, b: f64| {
        if b > a {
            canvas.fill((x.at(a), top), (x.at(b), bottom), Ink::Shade);
        }
    };
    grey(0.0, from.min(end));
    grey(to, end);
}
