//! Live progress: one more consumer of run events. [`Progress`] is a pure fold from events to a
//! line; [`Live`] draws it as a bar on a terminal, and off a terminal hands out one plain line
//! every 10 s. It judges nothing and keeps nothing; `cli` owns it and stderr.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::clean;
use super::view::figure::{Figure, P99};
use crate::measure::histogram::Metric;
use crate::record::document::AckOf;
use crate::record::event::{CellRef, Interval, RunEvent};
use crate::units::{NS_PER_S, human_rate, thousands};

/// Time between two plain lines.
const LINE_EVERY_NS: u64 = 10 * NS_PER_S;

/// A run as far as a waiting person wants to know it.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    planned: u32,
    kinds: BTreeMap<String, Kind>,
    done: u32,
    failed: u32,
    first_unix_ns: Option<u64>,
    now: Now,
}

/// What the latencies of a cell are worth, and how they are called.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    closed_loop: bool,
    /// An ack stands for a group.
    ack_groups: bool,
}

/// What happens at the moment.
#[derive(Debug, Clone, Default)]
enum Now {
    #[default]
    Starting,
    Preparing {
        cell: String,
        kind: Kind,
    },
    Loading {
        cell: String,
        kind: Kind,
        end_ns: Option<u64>,
        last: Option<Box<Interval>>,
    },
    Between,
    Interrupted,
    Finished,
}

impl Progress {
    /// Takes one event.
    pub fn apply(&mut self, event: &RunEvent) {
        match event {
            RunEvent::RunStarted(manifest) => {
                self.planned = manifest.planned_trials;
                let kind = |cell: &CellRef| Kind {
                    closed_loop: cell.closed_loop && cell.has_publishers,
                    ack_groups: cell.ack == Some(AckOf::Group),
                };
                let cells = manifest.cells.iter();
                self.kinds = cells.map(|cell| (cell.id.clone(), kind(cell))).collect();
            }
            RunEvent::TrialStarted {
                cell, at_unix_ns, ..
            } => {
                self.first_unix_ns.get_or_insert(*at_unix_ns);
                self.now = Now::Preparing {
                    cell: clean::shorten(&clean::line(cell), 24),
                    kind: self.kinds.get(cell).copied().unwrap_or_default(),
                };
            }
            RunEvent::LoadStarted { window_end_ns, .. } => {
                if let Now::Preparing { cell, kind } = &mut self.now {
                    self.now = Now::Loading {
                        cell: std::mem::take(cell),
                        kind: *kind,
                        end_ns: *window_end_ns,
                        last: None,
                    };
                }
            }
            RunEvent::Interval(interval) => {
                if let Now::Loading { last, .. } = &mut self.now {
                    *last = Some(interval.clone());
                }
            }
            RunEvent::TrialFinished(_) => self.ended(),
            RunEvent::TrialFailed { .. } => {
                self.failed += 1;
                self.ended();
            }
            RunEvent::Interrupted { .. } => self.now = Now::Interrupted,
            RunEvent::RunFinished { .. } => self.now = Now::Finished,
            RunEvent::ServersReady { .. }
            | RunEvent::StreamsReady { .. }
            | RunEvent::Sample(_)
            | RunEvent::Note { .. } => {}
        }
    }

    fn ended(&mut self) {
        self.done += 1;
        if !matches!(self.now, Now::Interrupted) {
            self.now = Now::Between;
        }
    }

    /// Trials that ended.
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Trials planned.
    pub fn planned(&self) -> u32 {
        self.planned
    }

    /// One line, at most 80 columns, at `now_unix_ns` (for the time that is left).
    pub fn line(&self, now_unix_ns: u64) -> String {
        let at = (self.done + 1).min(self.planned.max(1));
        let of = format!("{at}/{}", self.planned);
        let mut parts = match &self.now {
            Now::Starting => vec!["starting servers".to_owned()],
            Now::Preparing { cell, kind } => {
                vec![of, name(cell, kind.closed_loop), "preparing".into()]
            }
            Now::Loading {
                cell,
                kind,
                end_ns,
                last,
            } => {
                let mut parts = vec![of, name(cell, kind.closed_loop)];
                match last {
                    Some(last) => parts.extend(loading(last, *end_ns, kind.ack_groups)),
                    None => parts.push("load begins".into()),
                }
                parts
            }
            Now::Interrupted => vec!["interrupted: draining, then a partial report".into()],
            Now::Between | Now::Finished => {
                vec![format!("{} of {} trials done", self.done, self.planned)]
            }
        };
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.extend(self.left(now_unix_ns));
        clean::shorten(&parts.join("  "), clean::COLUMNS)
    }

    /// `3m left`, from the mean of the trials that ended.
    fn left(&self, now_unix_ns: u64) -> Option<String> {
        let first = self.first_unix_ns?;
        let open = self.planned.checked_sub(self.done).filter(|n| *n > 0)?;
        if self.done == 0 || matches!(self.now, Now::Interrupted | Now::Finished) {
            return None;
        }
        let each = now_unix_ns.saturating_sub(first) / u64::from(self.done);
        let left_s = each.saturating_mul(u64::from(open)) / NS_PER_S;
        Some(if left_s < 100 {
            format!("{left_s}s left")
        } else {
            format!("{}m left", left_s.div_ceil(60))
        })
    }
}

/// A cell's name, as long as the line has room for it, and what its latencies are worth.
fn name(cell: &str, closed_loop: bool) -> String {
    if closed_loop {
        format!("{} (closed loop)", clean::shorten(cell, 14))
    } else {
        clean::shorten(cell, 18)
    }
}

/// Second, rates, p99 and what went wrong of one interval.
fn loading(last: &Interval, end_ns: Option<u64>, ack_groups: bool) -> Vec<String> {
    let seconds = |ns: u64| ns / NS_PER_S;
    let counts = &last.counts;
    let per_s = |count: u64| {
        let length_s = last.length_ns.max(1) as f64 / 1e9;
        format!("{}/s", human_rate(count as f64 / length_s))
    };
    let mut parts = vec![match end_ns {
        Some(end) => format!("{}s/{}s", seconds(last.end_ns), seconds(end)),
        None => format!("{}s", seconds(last.end_ns)),
    }];
    if counts.acked > 0 {
        parts.push(format!("acked {}", per_s(counts.acked)));
    } else if counts.attempted > 0 {
        parts.push(format!("sent {}", per_s(counts.attempted)));
    } else {
        parts.push(format!("received {}", per_s(counts.received)));
    }
    let p99 = [Metric::Response, Metric::Service, Metric::E2e]
        .into_iter()
        .map(|metric| (metric, last.latency.get(&metric)))
        .find(|(_, summary)| summary.is_some_and(|s| s.p99_ns.is_some()));
    if let Some((metric, summary)) = p99 {
        let figure = Figure::quantile(summary, P99).text.replace(' ', "");
        let name = match metric {
            Metric::Service | Metric::Response if ack_groups => "ack-group",
            metric => metric.name(),
        };
        parts.push(format!("{name} p99 {figure}"));
    }
    let errors = counts.refused + counts.unknown;
    if errors > 0 {
        parts.push(format!("errors {}", thousands(errors)));
    }
    parts
}

/// Draws progress, or hands out lines.
pub struct Live {
    progress: Progress,
    bar: Option<ProgressBar>,
    next_line_ns: u64,
}

impl Live {
    /// A bar on stderr where stderr is a terminal, else lines.
    pub fn new(on_terminal: bool) -> Self {
        let bar = on_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            // The template is a constant; without it indicatif's own look serves.
            if let Ok(style) = ProgressStyle::with_template("[{bar:40}]\n{wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            progress: Progress::default(),
            bar,
            next_line_ns: 0,
        }
    }

    /// Takes one event at `now_unix_ns`; the line to print on stderr, if one is due.
    pub fn on_event(&mut self, event: &RunEvent, now_unix_ns: u64) -> Option<String> {
        self.progress.apply(event);
        self.tick(now_unix_ns)
    }

    /// Time goes on without events (preparing, draining); the line to print, if one is due.
    pub fn tick(&mut self, now_unix_ns: u64) -> Option<String> {
        if let Some(bar) = &self.bar {
            bar.set_length(u64::from(self.progress.planned()));
            bar.set_position(u64::from(self.progress.done()));
            bar.set_message(self.progress.line(now_unix_ns));
            return None;
        }
        if now_unix_ns < self.next_line_ns {
            return None;
        }
        self.next_line_ns = now_unix_ns + LINE_EVERY_NS;
        Some(self.progress.line(now_unix_ns))
    }

    /// Removes the bar, so that the result stands alone.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::histogram::LatencySummary;
    use crate::record::event::Counts;
    use crate::report::fixture;

    fn started(trial: u32) -> RunEvent {
        RunEvent::TrialStarted {
            trial,
            block: 0,
            cell: "shared-5k-s".into(),
            at_unix_ns: 0,
        }
    }

    fn events() -> Vec<RunEvent> {
        vec![
            RunEvent::RunStarted(Box::new(fixture::sample().0.manifest)),
            started(0),
            RunEvent::TrialFailed {
                trial: 0,
                reason: "a server died".into(),
            },
            started(1),
            RunEvent::LoadStarted {
                trial: 1,
                start_unix_ns: 0,
                skew_ns: 0,
                window_start_ns: Some(5 * NS_PER_S),
                window_end_ns: Some(35 * NS_PER_S),
            },
            RunEvent::Interval(Box::new(Interval {
                trial: 1,
                end_ns: 12 * NS_PER_S,
                length_ns: 2 * NS_PER_S,
                counts: Counts {
                    acked: 9_996,
                    unknown: 3,
                    ..Counts::default()
                },
                health: crate::record::event::Health::default(),
                histograms: BTreeMap::new(),
                latency: BTreeMap::from([(
                    Metric::Response,
                    LatencySummary {
                        p99_ns: Some(7_410_000),
                        ..LatencySummary::default()
                    },
                )]),
            })),
        ]
    }

    #[test]
    fn a_line_says_where_the_run_is_and_how_it_goes() {
        let mut progress = Progress::default();
        assert_eq!(progress.line(0), "starting servers");
        let mut lines = Vec::new();
        for event in &events() {
            progress.apply(event);
            lines.push(progress.line(40 * NS_PER_S));
        }
        assert_eq!(lines[1], "1/12  shared-5k-s  preparing");
        assert_eq!(lines[2], "1 of 12 trials done  1 failed  8m left");
        let wide =
            "2/12  shared-5k-s  12s/35s  acked 4,998/s  response p99 ~7.41ms  errors 3  1 failed";
        assert_eq!(lines[5], clean::shorten(wide, 80));
        progress.apply(&RunEvent::Interrupted { signal: 2 });
        assert!(progress.line(0).starts_with("interrupted"));
    }

    #[test]
    fn a_closed_loop_is_called_one_and_a_well_supported_p99_is_plain() {
        let mut all = events();
        for event in &mut all {
            match event {
                RunEvent::TrialStarted { cell, .. } => "shared-max".clone_into(cell),
                RunEvent::Interval(interval) => {
                    let mut summary = interval.latency.remove(&Metric::Response);
                    summary.as_mut().expect("has one").count = 10_000;
                    interval.latency = summary.map(|s| (Metric::Service, s)).into_iter().collect();
                }
                _ => (),
            }
        }
        let line = |all: &[RunEvent]| {
            let mut progress = Progress::default();
            for event in all {
                progress.apply(event);
            }
            progress.line(40 * NS_PER_S)
        };
        let start = "2/12  shared-max (closed loop)  12s/35s  acked 4,998/s  ";
        let shown = line(&all);
        assert!(
            shown.starts_with(&format!("{start}service p99 7.41ms")),
            "{shown}"
        );
        if let RunEvent::RunStarted(manifest) = &mut all[0] {
            for cell in &mut manifest.cells {
                cell.ack = Some(AckOf::Group);
            }
        }
        let shown = line(&all);
        assert!(
            shown.starts_with(&format!("{start}ack-group p99 7.41ms")),
            "{shown}"
        );
    }

    #[test]
    fn off_a_terminal_a_line_comes_every_ten_seconds() {
        let mut live = Live::new(false);
        let all = events();
        assert!(live.on_event(&all[0], NS_PER_S).is_some());
        assert!(live.on_event(&all[1], 2 * NS_PER_S).is_none());
        assert!(live.tick(10 * NS_PER_S).is_none());
        assert!(live.tick(11 * NS_PER_S).is_some());
        assert!(live.tick(12 * NS_PER_S).is_none());
    }
}
