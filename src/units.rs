//! Quantities with their units: sizes, durations and rates, as a scenario writes them and as a
//! report prints them. Parsing is exact and rejects a number without a unit.

use std::time::Duration;

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// Why a quantity could not be read; the text names the value and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(pub String);

/// Splits `"10.5KiB"` into the number and the unit behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    number.is_finite().then(|| (number, text[end..].trim()))
}

/// Parses a size in bytes: `"512B"`, `"10KiB"`, `"1.5MB"`, `"4GiB"`.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!(
            "`{text}` is not a size: {why}; write for example \"512B\", \"10KiB\" or \"4GiB\""
        ))
    };
    let (number, unit) = split(text).ok_or_else(|| wrong("it does not start with a number"))?;
    let factor = match unit {
        "" => return Err(wrong("it has no unit")),
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => {
            return Err(wrong(
                "its unit is not one of B, kB, KiB, MB, MiB, GB, GiB, TB, TiB",
            ));
        }
    };
    let bytes = number * factor;
    if bytes > 9e18 {
        return Err(wrong("it is larger than any disk"));
    }
    Ok(bytes.round() as u64)
}

/// Parses a span of time: `"250us"`, `"500ms"`, `"5s"`, `"2m"`, `"12h"`, `"7d"`, `"1m30s"`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!(
            "`{text}` is not a duration: {why}; write for example \"500ms\", \"30s\" or \"2m\""
        ))
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong("it is empty"));
    }
    let mut total_ns = 0.0;
    while !rest.is_empty() {
        let (number, tail) = split(rest).ok_or_else(|| wrong("it does not start with a number"))?;
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_len);
        total_ns += number
            * match unit.trim() {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3_600e9,
                "d" => 86_400e9,
                "" => return Err(wrong("it has no unit")),
                _ => return Err(wrong("its unit is not one of ns, us, ms, s, m, h, d")),
            };
        rest = next;
    }
    if total_ns > 1e18 {
        return Err(wrong("it is longer than 30 years"));
    }
    Ok(Duration::from_nanos(total_ns.round() as u64))
}

/// Parses a rate in messages per second: `"5k/s"`, `"0.2/s"`, `"1.5M/s"`, `"60/m"`.
pub fn parse_rate(text: &str) -> Result<f64, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!(
            "`{text}` is not a rate: {why}; write for example \"5k/s\", \"200/s\" or \"max\""
        ))
    };
    let (number, unit) = split(text).ok_or_else(|| wrong("it does not start with a number"))?;
    let (prefix, per) = unit
        .split_once('/')
        .ok_or_else(|| wrong("it has no unit of time"))?;
    let factor = match prefix.trim() {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        _ => return Err(wrong("its prefix is not k or M")),
    };
    let per_s = match per.trim() {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong("it is not per s, m or h")),
    };
    let rate = number * factor / per_s;
    if rate <= 0.0 {
        return Err(wrong("it is not above zero"));
    }
    Ok(rate)
}

/// A duration in nanoseconds, as recorded.
pub fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `1234567` -> `"1,234,567"`.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Nanoseconds with three significant digits and a unit: `"5.81 ms"`.
pub fn human_ns(ns: f64) -> String {
    let (value, unit) = if ns < 1e3 {
        return format!("{ns:.0} ns");
    } else if ns < 1e6 {
        (ns / 1e3, "us")
    } else if ns < 1e9 {
        (ns / 1e6, "ms")
    } else {
        (ns / 1e9, "s")
    };
    format!("{} {unit}", three_digits(value))
}

/// A rate as a table shows it: `"94.2"`, `"1,027"`, `"4,998"`.
pub fn human_rate(per_s: f64) -> String {
    if per_s < 100.0 {
        three_digits(per_s)
    } else {
        thousands(per_s.round() as u64)
    }
}

/// A rate as a scenario writes it: `"5k/s"`, `"200/s"`.
pub fn short_rate(per_s: f64) -> String {
    let trim = |v: f64| {
        let text = format!("{v:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if per_s >= 1e6 {
        format!("{}M/s", trim(per_s / 1e6))
    } else if per_s >= 1e3 {
        format!("{}k/s", trim(per_s / 1e3))
    } else {
        format!("{}/s", trim(per_s))
    }
}

/// Bytes in IEC units with three significant digits: `"10 KiB"`, `"1.21 GiB"`.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value.fract() == 0.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{} {}", three_digits(value), units[unit])
    }
}

/// A duration in the shortest exact form: `"30s"`, `"2m"`, `"1.5s"`, `"500ms"`.
pub fn human_duration(duration: Duration) -> String {
    let ns = as_ns(duration);
    if ns == 0 {
        return "0s".to_owned();
    }
    for (unit_ns, unit) in [
        (86_400 * NS_PER_S, "d"),
        (3_600 * NS_PER_S, "h"),
        (60 * NS_PER_S, "m"),
        (NS_PER_S, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ] {
        if ns.is_multiple_of(unit_ns) {
            return format!("{}{unit}", ns / unit_ns);
        }
        if ns > 10 * unit_ns && (1_000_000..=NS_PER_S).contains(&unit_ns) {
            return format!("{:.1}{unit}", ns as f64 / unit_ns as f64);
        }
    }
    format!("{ns}ns")
}

fn three_digits(value: f64) -> String {
    if value >= 100.0 {
        thousands(value.round() as u64)
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_durations_and_rates_are_read_with_their_units() {
        assert_eq!(parse_bytes("10KiB"), Ok(10_240));
        assert_eq!(parse_bytes("1.5MB"), Ok(1_500_000));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_rate("5k/s"), Ok(5_000.0));
        assert_eq!(parse_rate("60/m"), Ok(1.0));
    }

    #[test]
    fn a_number_without_a_unit_is_refused_with_the_cure() {
        for error in [
            parse_bytes("512").expect_err("no unit"),
            parse_duration("30").expect_err("no unit"),
            parse_rate("5000").expect_err("no unit"),
            parse_rate("0/s").expect_err("no unit"),
        ] {
            assert!(error.0.contains("write for example"), "{error}");
        }
    }

    #[test]
    fn numbers_are_shown_with_three_digits_and_separators() {
        assert_eq!(human_ns(5_812_000.0), "5.81 ms");
        assert_eq!(human_rate(1_027.4), "1,027");
        assert_eq!(human_bytes(10_240), "10 KiB");
        assert_eq!(short_rate(12_500.0), "12.5k/s");
        assert_eq!(human_duration(Duration::from_mins(2)), "2m");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,12}") {
            let _ = (parse_bytes(&text), parse_duration(&text), parse_rate(&text));
        }

        #[test]
        fn whole_bytes_survive(bytes in 0u64..1 << 40) {
            prop_assert_eq!(parse_bytes(&format!("{bytes}B")), Ok(bytes));
        }
    }
}
