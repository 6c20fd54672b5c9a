//! `trials.csv` and `series.csv`: tidy tables, a number a row, for spreadsheets and data frames.
//! What was not measured has no row. Called by the run directory and by the CSV rendering.

use std::io::Write;

use super::document::{LatencyRecord, Record, TrialRecord};
use super::event::{CellRef, Sample};
use super::fold::{Run, SeriesRow, TrialLog};
use crate::measure::histogram::LatencySummary;
use crate::units::NS_PER_S;

/// Writes `cell,trial,metric,value`: every number of every trial in the record. `cells` say which
/// trials ran in closed loop.
///
/// # Errors
/// `out` cannot be written.
pub fn write_trials(record: &Record, cells: &[CellRef], out: impl Write) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(["cell", "trial", "metric", "value"])?;
    for cell in &record.cells {
        let known = cells.iter().find(|known| known.id == cell.id);
        let closed_loop = known.map(|known| known.closed_loop && known.has_publishers);
        for trial in &cell.trials {
            let number = trial.trial.to_string();
            for (metric, value) in trial_numbers(trial, closed_loop) {
                csv.write_record([&no_formula(&cell.id), &number, &metric, &value])?;
            }
        }
    }
    csv.flush()?;
    Ok(())
}

/// Writes `t_s,cell,trial,metric,value`; `t_s` counts from the common start of the trial.
///
/// # Errors
/// `out` cannot be written.
pub fn write_series(run: &Run, out: impl Write) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(["t_s", "cell", "trial", "metric", "value"])?;
    for log in &run.trials {
        let Some(cell) = run.manifest.cells.iter().find(|c| c.id == log.cell) else {
            continue;
        };
        let number = log.trial.to_string();
        for (at_ns, metric, value) in series_numbers(log, cell) {
            let t_s = (at_ns as f64 / NS_PER_S as f64).to_string();
            csv.write_record([&t_s, &no_formula(&cell.id), &number, &metric, &value])?;
        }
    }
    csv.flush()?;
    Ok(())
}

/// A cell id that no spreadsheet takes for a formula; ours never are, a stranger's might be.
fn no_formula(id: &str) -> String {
    let risky = id.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if risky {
        format!("'{id}")
    } else {
        id.to_owned()
    }
}

/// Rows of a trial: the names of the record without its grouping, `deliver.` and the latencies
/// excepted.
fn trial_numbers(trial: &TrialRecord, closed_loop: Option<bool>) -> Vec<(String, String)> {
    let mut rows = Rows::default();
    rows.put("usable", Some(u8::from(trial.status.usable())));
    rows.put("shared_host", Some(u8::from(trial.shared_host)));
    rows.put("closed_loop", closed_loop.map(u8::from));
    rows.put("saturated", trial.saturated.map(u8::from));
    rows.put("window_ns", trial.window_ns);
    rows.put("offered_per_s", trial.offered_per_s);
    rows.put("blocked_ns", trial.blocked_ns);
    let publish = &trial.publish;
    rows.put("attempted", publish.attempted);
    rows.put("acked", publish.acked);
    rows.put("refused", publish.refused);
    rows.put("unknown", publish.unknown);
    rows.put("repeated", publish.repeated);
    rows.put("deduplicated", publish.deduplicated);
    rows.put("sent_per_s", publish.sent_per_s);
    rows.put("acked_per_s", publish.acked_per_s);
    rows.put("payload_bytes_per_s", publish.payload_bytes_per_s);
    let deliver = &trial.deliver;
    rows.put("deliver.expected", deliver.expected);
    rows.put("deliver.received", deliver.received);
    rows.put("deliver.unique", deliver.unique);
    rows.put("deliver.per_s", deliver.per_s);
    for (name, summary) in latencies(&trial.latency) {
        rows.put_latency(name, summary);
    }
    let ledger = &trial.ledger;
    rows.put("lost", ledger.lost);
    rows.put("lost_storage", ledger.lost_storage);
    rows.put("lost_delivery", ledger.lost_delivery);
    rows.put("duplicated", ledger.duplicated);
    rows.put("redelivered", ledger.redelivered);
    rows.put("reordered", ledger.reordered);
    rows.put("corrupted", ledger.corrupted);
    rows.put("unexpected", ledger.unexpected);
    rows.put("recovered", ledger.recovered);
    let resources = &trial.resources;
    rows.put("driver_cpu_ns_per_msg", resources.driver_cpu_ns_per_msg);
    rows.put("server_cpu_ns_per_msg", resources.server_cpu_ns_per_msg);
    rows.put("driver_rss_max_bytes", resources.driver_rss_max_bytes);
    rows.put("server_rss_max_bytes", resources.server_rss_max_bytes);
    rows.put("stored_bytes", resources.stored_bytes);
    rows.put("disk_bytes", resources.disk_bytes);
    if let Some(little) = &trial.little {
        rows.put("little.in_flight", Some(little.in_flight));
        rows.put("little.rate_x_service", Some(little.rate_x_service));
        rows.put("little.ratio", Some(little.ratio));
    }
    rows.put("steady.cut_ns", trial.steady.cut_ns);
    rows.put("steady.slope_per_min", trial.steady.slope_per_min);
    rows.0
}

fn latencies(latency: &LatencyRecord) -> impl Iterator<Item = (&'static str, &LatencySummary)> {
    [
        ("lag", &latency.lag),
        ("service", &latency.service),
        ("response", &latency.response),
        ("e2e", &latency.e2e),
    ]
    .into_iter()
    .filter_map(|(name, summary)| Some((name, summary.as_ref()?)))
}

/// Rows of a trial over time, in the order of time.
fn series_numbers(log: &TrialLog, cell: &CellRef) -> Vec<(i64, String, String)> {
    let mut rows = Vec::new();
    for row in &log.series {
        let at_ns = i64::try_from(row.end_ns).unwrap_or(i64::MAX);
        let numbers = interval_numbers(row, cell);
        rows.extend(numbers.into_iter().map(|(m, v)| (at_ns, m, v)));
    }
    for sample in &log.samples {
        let numbers = sample_numbers(sample);
        rows.extend(numbers.into_iter().map(|(m, v)| (sample.at_ns, m, v)));
    }
    rows.sort_by_key(|(at_ns, _, _)| *at_ns);
    rows
}

fn interval_numbers(row: &SeriesRow, cell: &CellRef) -> Vec<(String, String)> {
    let per_s = |count: u64| {
        (row.length_ns > 0).then(|| count as f64 * NS_PER_S as f64 / row.length_ns as f64)
    };
    let counts = &row.counts;
    let mut rows = Rows::default();
    if cell.has_publishers {
        if !cell.closed_loop {
            rows.put("offered_per_s", per_s(counts.intended));
        }
        rows.put("sent_per_s", per_s(counts.attempted));
        if !cell.core {
            rows.put("acked_per_s", per_s(counts.acked));
            rows.put("refused_per_s", per_s(counts.refused));
            rows.put("unknown_per_s", per_s(counts.unknown));
            rows.put("in_flight", Some(counts.in_flight));
        }
        rows.put("blocked_ns", Some(counts.blocked_ns));
    }
    if cell.has_consumers {
        rows.put("deliver.per_s", per_s(counts.received));
    }
    for (metric, summary) in &row.latency {
        rows.put_latency(metric.name(), summary);
    }
    // A thread that ran has used CPU: without any, health was not recorded.
    let health = (row.health.busiest_cpu_ns > 0).then_some(row.health);
    rows.put("stalled_ns", health.map(|h| h.stalled_ns));
    rows.put("longest_stall_ns", health.map(|h| h.longest_stall_ns));
    rows.put("busiest_worker_cpu_ns", health.map(|h| h.busiest_cpu_ns));
    rows.put("workers_cpu_ns", health.map(|h| h.cpu_ns));
    rows.0
}

fn sample_numbers(sample: &Sample) -> Vec<(String, String)> {
    let mut rows = Rows::default();
    rows.put("driver_cpu_ns", Some(sample.driver_cpu_ns));
    rows.put("driver_rss_bytes", Some(sample.driver_rss_bytes));
    for server in &sample.servers {
        rows.put(&format!("server.{}.cpu_ns", server.name), server.cpu_ns);
        rows.put(
            &format!("server.{}.rss_bytes", server.name),
            server.rss_bytes,
        );
    }
    rows.put("stored_bytes", sample.stored_bytes);
    rows.put("stored_msgs", sample.stored_msgs);
    rows.put("disk_bytes", sample.disk_bytes);
    let machine = &sample.machine;
    rows.put("driver_cpus", machine.cpus);
    rows.put("throttled_periods", machine.throttled_periods);
    rows.put("throttled_ns", machine.throttled_ns);
    rows.put("steal_ns", machine.steal_ns);
    rows.put("all_cpu_ns", machine.all_cpu_ns);
    rows.put("cpu_pressure_ns", machine.cpu_pressure_ns);
    rows.put("clock_offset_ns", machine.clock_offset_ns);
    rows.0
}

/// Metrics with a value.
#[derive(Default)]
struct Rows(Vec<(String, String)>);

impl Rows {
    fn put(&mut self, metric: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.push((metric.to_owned(), value.to_string()));
        }
    }

    fn put_latency(&mut self, name: &str, summary: &LatencySummary) {
        self.put(&format!("{name}.count"), Some(summary.count));
        self.put(&format!("{name}.censored"), Some(summary.censored));
        self.put(&format!("{name}.clipped"), Some(summary.clipped));
        for (statistic, value) in [
            ("min_ns", summary.min_ns),
            ("mean_ns", summary.mean_ns),
            ("p50_ns", summary.p50_ns),
            ("p90_ns", summary.p90_ns),
            ("p99_ns", summary.p99_ns),
            ("p999_ns", summary.p999_ns),
            ("max_ns", summary.max_ns),
        ] {
            self.put(&format!("{name}.{statistic}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Health, Machine};
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_series_is_tidy_and_in_the_order_of_time() {
        let run = fixture::fold(&fixture::small_run()).expect("it began");
        let mut bytes = Vec::new();
        write_series(&run, &mut bytes).expect("memory");
        let text = String::from_utf8(bytes).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "t_s,cell,trial,metric,value");
        assert_eq!(lines[1], "-0.000000005,shared,0,driver_cpu_ns,9");
        for want in [
            "-0.000000005,shared,0,server.n1.cpu_ns,3",
            "2,shared,0,offered_per_s,40",
            "2,shared,1,acked_per_s,40",
            "2,shared,1,response.count,40",
            "3,shared,1,e2e.count,7",
        ] {
            assert!(lines.contains(&want), "{want} in {text}");
        }
        let unmeasured = [",disk_bytes,", "server.n1.rss_bytes", "response.p99_ns"];
        assert!(!unmeasured.iter().any(|name| text.contains(name)), "{text}");
    }

    #[test]
    fn health_has_rows_where_it_was_recorded() {
        let mut run = fixture::fold(&fixture::small_run()).expect("it began");
        let table = |run: &Run| {
            let mut bytes = Vec::new();
            write_series(run, &mut bytes).expect("memory");
            String::from_utf8(bytes).expect("text")
        };
        let before = table(&run);
        assert!(
            !["stall", "steal", "pressure", "throttled", "worker"]
                .iter()
                .any(|name| before.contains(name)),
            "{before}"
        );
        run.trials[0].series[1].health = Health {
            busiest_cpu_ns: 4,
            cpu_ns: 5,
            stalled_ns: 0,
            longest_stall_ns: 0,
        };
        run.trials[0].samples[0].machine = Machine {
            cpus: Some(1.5),
            steal_ns: Some(0),
            clock_offset_ns: Some(-3),
            ..Machine::default()
        };
        let text = table(&run);
        let lines: Vec<&str> = text.lines().collect();
        for want in [
            "2,shared,0,stalled_ns,0",
            "2,shared,0,busiest_worker_cpu_ns,4",
            "2,shared,0,workers_cpu_ns,5",
            "-0.000000005,shared,0,driver_cpus,1.5",
            "-0.000000005,shared,0,steal_ns,0",
            "-0.000000005,shared,0,clock_offset_ns,-3",
        ] {
            assert!(lines.contains(&want), "{want} in {text}");
        }
        assert!(!text.contains("throttled") && !text.contains("pressure"));
    }

    #[test]
    fn a_closed_loop_without_readers_has_no_offers_and_no_deliveries() {
        let mut run = fixture::fold(&fixture::small_run()).expect("it began");
        run.manifest.cells[0].closed_loop = true;
        run.manifest.cells[0].has_consumers = false;
        let mut bytes = Vec::new();
        write_series(&run, &mut bytes).expect("memory");
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains("acked_per_s"));
        assert!(!text.contains("offered_per_s") && !text.contains("deliver.per_s"));
    }
}
