//! Rates from a CSV file, `rate = "replay rates.csv"`: one row for each step of time. Knows the
//! file and its errors; what the rates mean is `program`'s.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::program::{Program, Segment};
use crate::units::thousands;

const TIME: &str = "t_s";
const RATE: &str = "rate_per_s";
/// Longer files are a mistake: eleven days in steps of a second.
const MAX_ROWS: usize = 1_000_000;
/// Share by which one step may differ from the first.
const TOLERANCE: f64 = 0.01;
/// Times are kept to a microsecond, which is what a Unix time in a double resolves.
const US_PER_S: f64 = 1e6;

/// The files beside a scenario, each read once for all cells.
pub(in crate::scenario) struct Beside<'a> {
    /// The directory of the scenario file.
    pub(super) base: &'a Path,
    replays: BTreeMap<String, Result<Arc<Program>, Wrong>>,
}

/// What is wrong with a file, and the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) cure: String,
}

impl<'a> Beside<'a> {
    pub(in crate::scenario) fn new(base: &'a Path) -> Self {
        Self {
            base,
            replays: BTreeMap::new(),
        }
    }

    /// The rates of a file, its path as the scenario writes it.
    pub(super) fn rates(&mut self, path: &str) -> Result<Arc<Program>, Wrong> {
        if let Some(read) = self.replays.get(path) {
            return read.clone();
        }
        let read = replay(&self.base.join(path), format!("replay {path}")).map(Arc::new);
        self.replays.insert(path.to_owned(), read.clone());
        read
    }
}

fn replay(path: &Path, text: String) -> Result<Program, Wrong> {
    let shown = path.display();
    // Only a file has an end.
    let file = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => File::open(path).map_err(|e| e.to_string()),
        Ok(_) => Err("not a file".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    let file = file.map_err(|why| Wrong {
        what: format!("the rate file `{shown}` cannot be read: {why}"),
        cure: "name a CSV file; the path is relative to the scenario file".to_owned(),
    })?;
    let named = |wrong: At| Wrong {
        what: match wrong.line {
            Some(line) => format!("the rate file `{shown}`, line {line}: {}", wrong.what),
            None => format!("the rate file `{shown}`: {}", wrong.what),
        },
        cure: wrong.cure,
    };
    let segments = rows(file, MAX_ROWS)
        .and_then(|rows| segments(&rows))
        .map_err(named)?;
    Program::new(segments, text).ok_or_else(|| {
        named(At {
            line: None,
            what: "all its rates are 0: nothing would be sent".to_owned(),
            cure: format!("write a rate above 0 into a row of `{RATE}`"),
        })
    })
}

/// What is wrong with a line of the file, or with all of it.
#[derive(Debug)]
struct At {
    line: Option<u64>,
    what: String,
    cure: String,
}

fn wrong<T>(line: u64, what: String, cure: impl Into<String>) -> Result<T, At> {
    Err(At {
        line: Some(line),
        what,
        cure: cure.into(),
    })
}

/// A row of the file.
#[derive(Debug, Clone, Copy)]
struct Row {
    line: u64,
    at_s: f64,
    per_s: f64,
}

fn rows(input: impl Read, most: usize) -> Result<Vec<Row>, At> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(OneLineEnd(input.chain(&b"\n"[..])));
    let header = reader.headers().map_err(|e| not_csv(&e, 1))?.clone();
    let column = |name: &str| {
        let at = header.iter().position(|field| field == name);
        at.ok_or_else(|| At {
            line: Some(1),
            what: format!("no column `{name}`"),
            cure: format!(
                "begin the file with a header that names `{TIME}` and `{RATE}`, with commas between"
            ),
        })
    };
    let (time, rate) = (column(TIME)?, column(RATE)?);
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let more = reader.read_record(&mut record);
        // A record's own position is that of the empty lines before it.
        let line = reader.position().line() - 1;
        if !more.map_err(|e| not_csv(&e, line))? {
            return Ok(rows);
        }
        if rows.len() == most {
            return wrong(
                line,
                format!("more than {} rows", thousands(most as u64)),
                "take longer steps, or cut the file",
            );
        }
        let number = |column: usize, name: &str| {
            let text = record.get(column).unwrap_or_default();
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number),
                Ok(_) => wrong(
                    line,
                    format!("`{name}` is `{text}`, which is not finite"),
                    "write a plain number",
                ),
                Err(_) => wrong(
                    line,
                    format!("`{name}` is `{text}`, which is not a number"),
                    "write plain numbers without units: seconds and messages per second",
                ),
            }
        };
        let (at_s, per_s) = (number(time, TIME)?, number(rate, RATE)?);
        if per_s < 0.0 {
            return wrong(
                line,
                format!("`{RATE}` is {per_s}, which is negative"),
                "write 0 where nothing was sent",
            );
        }
        rows.push(Row { line, at_s, per_s });
    }
}

/// Lines that end with a line feed alone, as `csv` counts them.
struct OneLineEnd<R>(R);

impl<R: Read> Read for OneLineEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.0.read(buffer)?;
            let mut kept = 0;
            for at in 0..read {
                if buffer[at] != b'\r' {
                    buffer[kept] = buffer[at];
                    kept += 1;
                }
            }
            // Nothing would mean the end.
            if kept > 0 || read == 0 {
                return Ok(kept);
            }
        }
    }
}

fn not_csv(error: &csv::Error, line: u64) -> At {
    let (what, cure) = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => ("it is not text (UTF-8)".to_owned(), "save it as CSV"),
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => (
            format!("it has {len} values, and the header names {expected_len}"),
            "write as many values as the header has names, with commas between",
        ),
        _ => (format!("it cannot be read: {error}"), "save it as CSV"),
    };
    At {
        line: Some(line),
        what,
        cure: cure.to_owned(),
    }
}

/// Each row's rate until the next row, the last for one more step.
fn segments(rows: &[Row]) -> Result<Vec<Segment>, At> {
    let [first, second, ..] = rows else {
        return Err(At {
            line: None,
            what: "fewer than two rows: how long a rate holds is the time to the next".to_owned(),
            cure: format!("write two rows or more, with `{TIME}` evenly spaced"),
        });
    };
    let step_s = second.at_s - first.at_s;
    let offset_us = |row: &Row| ((row.at_s - first.at_s) * US_PER_S).round() as u64;
    let mut segments = Vec::with_capacity(rows.len());
    for pair in rows.windows(2) {
        let [before, row] = pair else { continue };
        spaced(before, row, step_s)?;
        let length = Duration::from_micros(offset_us(row) - offset_us(before));
        if length.is_zero() {
            return wrong(
                row.line,
                format!("`{TIME}` is less than 1 us after the row before it"),
                "take longer steps",
            );
        }
        segments.push(segment(before, length));
    }
    if let Some(last) = rows.last() {
        segments.push(segment(last, Duration::from_micros(offset_us(second))));
    }
    Ok(segments)
}

fn segment(row: &Row, length: Duration) -> Segment {
    Segment {
        length,
        from_per_s: row.per_s,
        to_per_s: row.per_s,
    }
}

/// Whether a row comes one step after the row before it.
fn spaced(before: &Row, row: &Row, step_s: f64) -> Result<(), At> {
    let (at, passed) = (seconds(row.at_s), row.at_s - before.at_s);
    if passed <= 0.0 {
        let before = seconds(before.at_s);
        let how = if passed < 0.0 {
            format!("`{TIME}` goes back from {before} to {at}")
        } else {
            format!("`{TIME}` is {at} again")
        };
        return wrong(row.line, how, "sort the rows by time and keep one for each");
    }
    if passed > step_s * (1.0 + TOLERANCE) {
        let missing = seconds(before.at_s + step_s);
        return wrong(
            row.line,
            format!(
                "`{TIME}` is {at}, {} s after the row before it, and the first two rows are {} s \
                 apart: the row for {missing} is missing",
                seconds(passed),
                seconds(step_s)
            ),
            format!("write the missing rows, with `{RATE}` 0 where nothing was sent"),
        );
    }
    if passed < step_s * (1.0 - TOLERANCE) {
        return wrong(
            row.line,
            format!(
                "`{TIME}` is {at}, {} s after the row before it, and the first two rows are {} s \
                 apart",
                seconds(passed),
                seconds(step_s)
            ),
            format!("space the rows evenly, with `{RATE}` 0 where nothing was sent"),
        );
    }
    Ok(())
}

/// A time without the noise of a sum of doubles.
fn seconds(s: f64) -> String {
    let text = format!("{s:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<Segment>, At> {
        rows(text.as_bytes(), 5).and_then(|rows| segments(&rows))
    }

    fn steps(text: &str) -> Vec<(f64, f64)> {
        let segments = read(text).unwrap_or_else(|at| panic!("{at:?}"));
        segments
            .iter()
            .map(|s| (s.length.as_secs_f64(), s.from_per_s))
            .collect()
    }

    #[test]
    fn a_rate_holds_until_the_next_row_and_the_last_for_one_more_step() {
        assert_eq!(
            steps("t_s,rate_per_s\n0,100\n10,0\n20,2.5e3\n"),
            [(10.0, 100.0), (10.0, 0.0), (10.0, 2_500.0)]
        );
    }

    #[test]
    fn unix_times_other_columns_spaces_and_foreign_line_ends_are_taken() {
        assert_eq!(
            steps(
                "\u{feff}host,rate_per_s, t_s\r\na, 5,1700000000.1\r\n\r\nb, 6,1700000000.2\r\nc,7,1700000000.301\r\n"
            ),
            [(0.1, 5.0), (0.101, 6.0), (0.1, 7.0)]
        );
    }

    #[test]
    fn lines_are_counted_as_an_editor_does() {
        for (text, line) in [
            ("t_s,rate_per_s\n0,1\n1,x\n", 3),
            ("t_s,rate_per_s\r\n0,1\r\n1,x\r\n", 3),
            ("t_s,rate_per_s\n\n0,1\n\n\n1,x\n", 6),
            ("t_s,rate_per_s\n0,1\n1\n", 3),
            ("t_s,rate_per_s\r\n0,1\r\n1,2,3\r\n", 3),
        ] {
            let at = read(text).expect_err(text);
            assert_eq!(at.line, Some(line), "{text:?}: {at:?}");
        }
    }

    #[test]
    fn a_file_may_have_so_many_rows_and_no_more() {
        let mut text = "t_s,rate_per_s\n0,1\n1,1\n2,1\n3,1\n4,1\n".to_owned();
        assert_eq!(steps(&text).len(), 5);
        text.push_str("5,1\n");
        let at = read(&text).expect_err("too large");
        assert_eq!((at.line, at.what.as_str()), (Some(7), "more than 5 rows"));
    }

    proptest! {
        #[test]
        fn evenly_spaced_rows_are_as_long_as_their_steps(
            start in 0u32..2_000_000_000,
            step_ms in 1u64..100_000,
            rates in prop::collection::vec(0u32..1_000_000, 2..50),
        ) {
            let mut text = "rate_per_s,t_s\n".to_owned();
            for (i, rate) in rates.iter().enumerate() {
                let ms = i as u64 * step_ms;
                let (s, ms) = (u64::from(start) + ms / 1_000, ms % 1_000);
                let _ = writeln!(text, "{rate},{s}.{ms:03}");
            }
            let rows = rows(text.as_bytes(), 50).expect("numbers");
            let segments = segments(&rows).expect("even");
            let total: Duration = segments.iter().map(|s| s.length).sum();
            prop_assert_eq!(total, Duration::from_millis(step_ms * rates.len() as u64));
            let read: Vec<f64> = segments.iter().map(|s| s.to_per_s).collect();
            prop_assert_eq!(read, rates.iter().map(|r| f64::from(*r)).collect::<Vec<_>>());
        }

        #[test]
        fn any_text_is_read_or_refused_with_a_cure(text in "(t_s,rate_per_s\n)?([0-9a.,\"-]{0,6}\n?){0,6}") {
            if let Err(at) = read(&text) {
                prop_assert!(!at.what.is_empty() && !at.cure.is_empty());
            }
        }
    }
}
