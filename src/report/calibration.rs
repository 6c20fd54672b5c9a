//! What `jsbench calibrate` ends with: its conditions, the figures, the stall in words, the verdict.
//! At most 80 columns.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::clean::{self, hanging};
use super::text::Style;
use crate::record::calibration::{Calibration, ClientCalibration};
use crate::record::document::Outcome;
use crate::units::{human_bytes, human_duration, human_ns, human_rate, short_rate};

/// Beside ceilings that are not the driver's.
const AT_LEAST: &str =
    ">= the threads had CPU to spare: the limit was the stub (or other work here)";

/// The calibration as text; `stored` is where it is kept.
pub fn text(calibration: &Calibration, stored: Option<&str>, color: bool) -> String {
    let style = Style(color);
    let mut lines = head(calibration, &style);
    let mut section = |title: &str, rows: Vec<Vec<String>>, note: Option<&str>| {
        lines.push(String::new());
        lines.extend(hanging("", title, ""));
        if rows.len() == 1 {
            lines.push("  not measured".to_owned());
            return;
        }
        let mut rows = table(rows).into_iter();
        lines.extend(rows.next().map(|head| style.dim(&head)));
        lines.extend(rows);
        lines.extend(note.into_iter().flat_map(|note| hanging("  ", note, "")));
    };
    let payload = human_bytes(calibration.payload_bytes);
    section(
        &format!("Ceiling: closed loop of {payload} messages that are acked at once"),
        ceilings(calibration),
        of_each(calibration, |of| &of.ceilings)
            .any(|(_, c)| c.at_least)
            .then_some(AT_LEAST),
    );
    section(
        "Lag of one publisher at a constant rate (above 70 % of the ceiling left out)",
        lags(calibration),
        None,
    );
    section(
        "Known delays: by how much the service time was off",
        delays(calibration),
        None,
    );
    lines.push(String::new());
    lines.extend(stalls(calibration));
    lines.extend(verdicts(calibration, &style));
    if let Some(path) = stored {
        lines.extend(hanging("Stored   ", &clean::line(path), ""));
    }
    let mut out = lines.join("\n");
    out.push('\n');
    out
}

fn head(calibration: &Calibration, style: &Style) -> Vec<String> {
    let host = super::view::method::host(&calibration.host);
    let tool = format!(
        "jsbench {}, {}",
        clean::line(&calibration.version),
        clean::line(&calibration.measured_at)
    );
    let mut lines = hanging("calibration   ", &host, "");
    lines.extend(hanging("              ", &tool, ""));
    if !calibration.optimised {
        let warning = "built without optimisation: these figures are of a debug build";
        lines.push(style.strong("33", warning));
    }
    lines
}

fn ceilings(calibration: &Calibration) -> Vec<Vec<String>> {
    let mut rows = vec![row(["client", "threads", "acked/s", "CPU per message"])];
    rows.extend(of_each(calibration, |of| &of.ceilings).map(|(client, c)| {
        let cpu = c.cpu_ns_per_msg.map_or_else(dash, human_ns);
        let sign = if c.at_least { ">= " } else { "" };
        vec![
            client,
            c.threads.to_string(),
            format!("{sign}{}", human_rate(c.per_s)),
            cpu,
        ]
    }));
    rows
}

fn lags(calibration: &Calibration) -> Vec<Vec<String>> {
    let mut rows = vec![row(["client", "pacing", "rate", "p50", "p99", "p99.9"])];
    rows.extend(of_each(calibration, |of| &of.lags).map(|(client, lag)| {
        let mut row = vec![client, clean::line(&lag.pacing), short_rate(lag.rate_per_s)];
        row.extend([lag.p50_ns, lag.p99_ns, lag.p999_ns].map(time));
        row
    }));
    rows
}

fn delays(calibration: &Calibration) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "client",
        "delay",
        "p50",
        "p90",
        "p99",
        "p50 allowed",
        "result",
    ])];
    rows.extend(
        of_each(calibration, |of| &of.delays).map(|(client, check)| {
            let off = |ns: Option<u64>| ns.map_or_else(dash, |ns| error(ns, check.delay_ns));
            vec![
                client,
                human_duration(Duration::from_nanos(check.delay_ns)),
                off(check.service_p50_ns),
                off(check.service_p90_ns),
                off(check.service_p99_ns),
                format!("+-{}", human_ns(check.tolerance_ns as f64)),
                word(check.result).to_owned(),
            ]
        }),
    );
    rows
}

/// Of each client what `list` takes from it, with the client's name.
fn of_each<'a, T: 'a>(
    calibration: &'a Calibration,
    list: impl Fn(&'a ClientCalibration) -> &'a Vec<T>,
) -> impl Iterator<Item = (String, &'a T)> {
    let of = move |of: &'a ClientCalibration| {
        let client = clean::line(&of.client);
        list(of).iter().map(move |item| (client.clone(), item))
    };
    calibration.clients.iter().flat_map(of)
}

/// How far a measured time is from the true one.
fn error(measured_ns: u64, true_ns: u64) -> String {
    let sign = if measured_ns < true_ns { "-" } else { "+" };
    format!("{sign}{}", human_ns(measured_ns.abs_diff(true_ns) as f64))
}

/// What each client saw of the stall; clients with equal conditions share them.
fn stalls(calibration: &Calibration) -> Vec<String> {
    let mut lines = Vec::new();
    let mut before = "Stall    ";
    for of in &calibration.clients {
        let words = format!(
            "{}, {} every {}: {}",
            clean::line(&of.client),
            human_duration(Duration::from_nanos(of.stall.stall_ns)),
            human_duration(Duration::from_nanos(of.stall.every_ns)),
            of.stall.in_words()
        );
        lines.extend(hanging(before, &words, ""));
        before = "         ";
    }
    lines
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(dash, |ns| human_ns(ns as f64))
}

fn dash() -> String {
    "-".to_owned()
}

fn table(rows: Vec<Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((2, 0));
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|l| l.trim_end().to_owned()).collect()
}

fn word(result: Outcome) -> &'static str {
    match result {
        Outcome::Pass => "pass",
        Outcome::Fail => "FAIL",
        Outcome::Inconclusive => "inconclusive",
    }
}

/// A verdict for each client.
fn verdicts(calibration: &Calibration, style: &Style) -> Vec<String> {
    let mut lines = Vec::new();
    let mut before = "Verdict  ";
    for of in &calibration.clients {
        lines.extend(verdict(before, of, style));
        before = "         ";
    }
    lines
}

fn verdict(before: &str, of: &ClientCalibration, style: &Style) -> Vec<String> {
    let (word, text, color) = match of.result {
        Outcome::Pass => ("PASS", "runs on this machine rely on it", "32"),
        Outcome::Fail => (
            "FAIL",
            "a known answer was missed; no run relies on it",
            "31",
        ),
        Outcome::Inconclusive => (
            "INCONCLUSIVE",
            "not all could be measured; no run relies on it",
            "33",
        ),
    };
    let client = clean::line(&of.client);
    let mut lines = hanging(before, &format!("{client} {word}: {text}"), "");
    if let Some(first) = lines.first_mut() {
        let word = format!("{word}:");
        *first = first.replacen(&word, &style.strong(color, &word), 1);
    }
    for reason in &of.reasons {
        lines.extend(hanging("           ", &clean::line(reason), ""));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::calibration::{judge, worst};
    use crate::record::calibration::{DelayCheck, StallCheck};
    use crate::record::document::Host;
    use crate::report::fixture;

    /// Both clients.
    fn sample() -> Calibration {
        let mut sample = fixture::sample()
            .0
            .manifest
            .calibration
            .expect("it has one");
        sample.host = Host {
            os: "Linux 6.1.0".into(),
            arch: "x86_64".into(),
            cpu: Some("A CPU with a rather long model name @ 2.20GHz".into()),
            cpus: 2,
            memory: Some(8 << 30),
        };
        let mut other = sample.clients[0].clone();
        other.client = "async-nats".into();
        other.ceilings[0].per_s = 140_000.0;
        other.ceilings[0].cpu_ns_per_msg = Some(3_300.0);
        sample.clients.push(other);
        sample
    }

    const PATH: &str = "/home/a/.local/share/jsbench/calibration.json";

    #[test]
    fn a_calibration_is_a_page_of_text() {
        insta::assert_snapshot!(text(&sample(), Some(PATH), false));
    }

    #[test]
    fn one_that_missed_answers_says_which() {
        let mut missed = sample();
        missed.optimised = false;
        let of = &mut missed.clients[1];
        of.ceilings[1].cpu_ns_per_msg = None;
        of.lags.clear();
        of.delays = [
            (0, Some(350_000)),
            (1_000_000, Some(980_000)),
            (5_000_000, None),
        ]
        .map(|(delay_ns, p50_ns)| DelayCheck::of(delay_ns, [p50_ns, p50_ns, None]))
        .to_vec();
        of.stall = StallCheck::of(
            200_000_000,
            1_000_000_000,
            [None, Some(90_000_000)],
            Some(20_000_000),
        );
        (of.result, of.reasons) = judge(&of.delays, &of.stall);
        of.reasons.push(
            "a delay of 20ms: measured again, since its trial was invalid: driver late: lag p99 9.1 ms"
                .into(),
        );
        missed.result = worst(&missed.clients);
        insta::assert_snapshot!(text(&missed, None, false));
    }

    #[test]
    fn no_line_is_too_long_and_color_adds_codes_and_nothing_else() {
        let plain = text(&sample(), Some(PATH), false);
        assert!(
            plain.lines().all(|l| clean::width(l) <= clean::COLUMNS),
            "{plain}"
        );
        let mut colored = text(&sample(), Some(PATH), true);
        assert!(colored.contains("\u{1b}[1;32mPASS:"), "{colored}");
        for code in ["\u{1b}[1;32m", "\u{1b}[2m", "\u{1b}[0m"] {
            colored = colored.replace(code, "");
        }
        assert_eq!(colored, plain);
    }
}
