//! Durations as Go writes and reads them (`10s`, `5m0s`, `1h0m0.5s`): what every Kubernetes configuration uses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Serialize, Serializer};

const UNITS: [(&str, f64); 7] = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Reads a duration; `None` when the text is none, or negative.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let value: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(value * scale).ok()?)?;
        rest = tail;
    }
    // Go counts nanoseconds in 63 bits.
    i64::try_from(total.as_nanos()).is_ok().then_some(total)
}

/// Writes a duration as Go's `Duration.String` does.
pub(super) fn format(value: Duration) -> String {
    let nanos = value.as_nanos();
    match nanos {
        0 => return "0s".into(),
        1..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => return format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => return format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {}
    }
    let (minutes, seconds) = (value.as_secs() / 60, nanos % 60_000_000_000);
    let mut text = String::new();
    if minutes >= 60 {
        let _ = write!(text, "{}h", minutes / 60);
    }
    if minutes > 0 {
        let _ = write!(text, "{}m", minutes % 60);
    }
    let _ = write!(text, "{}s", decimal(seconds, 1_000_000_000));
    text
}

fn decimal(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*value))
}

pub(super) fn serialize_map<K: Serialize, S: Serializer>(map: &BTreeMap<K, Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(key, value)| (key, format(*value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_go_does() {
        for (text, millis, canonical) in [
            ("10s", 10_000, "10s"),
            ("5m", 300_000, "5m0s"),
            ("1h0m0.5s", 3_600_500, "1h0m0.5s"),
            ("90s", 90_000, "1m30s"),
            ("250ms", 250, "250ms"),
            ("1.5s", 1500, "1.5s"),
            ("0", 0, "0s"),
        ] {
            let value = parse(text).unwrap();
            assert_eq!(value, Duration::from_millis(millis), "{text}");
            assert_eq!(format(value), canonical, "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in ["", "10", "s", "-5s", "5 s", "5d", "1.2.3s", "99999999999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
