//! What is counted, in Prometheus' text format.
//!
//! Statics, as in every Prometheus client: what is only ever added to needs no owner.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// Numbers of one name, by the values of their labels.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    values: Mutex<BTreeMap<Vec<String>, f64>>,
}

impl Family {
    /// One that only grows.
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: "counter", labels, values: Mutex::new(BTreeMap::new()) }
    }

    /// One that is set.
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: "gauge", labels, values: Mutex::new(BTreeMap::new()) }
    }

    fn with(&self, values: &[&str], change: impl FnOnce(&mut f64)) {
        let key = values.iter().map(|value| (*value).to_owned()).collect();
        change(self.values.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(0.0));
    }

    /// Adds one.
    pub fn increment(&self, values: &[&str]) {
        self.with(values, |value| *value += 1.0);
    }

    /// Sets it.
    pub fn set(&self, values: &[&str], to: f64) {
        self.with(values, |value| *value = to);
    }

    /// Forgets all numbers.
    pub fn clear(&self) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn write(&self, text: &mut String) {
        let Self { name, help, kind, labels, values } = self;
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (key, value) in values.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let pairs: Vec<_> = labels.iter().zip(key).map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let pairs = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
            let _ = writeln!(text, "{name}{pairs} {value}");
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// All of these, as text.
pub fn text(families: &[&Family]) -> String {
    let mut text = String::new();
    for family in families {
        family.write(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_their_labels() {
        static REFUSED: Family = Family::counter("refused_total", "Refused.", &["why"]);
        static LEADING: Family = Family::gauge("leading", "Leading.", &[]);
        REFUSED.increment(&["a \"b\""]);
        REFUSED.increment(&["a \"b\""]);
        LEADING.set(&[], 1.0);
        assert_eq!(
            text(&[&REFUSED, &LEADING]),
            "# HELP refused_total Refused.\n# TYPE refused_total counter\nrefused_total{why=\"a \\\"b\\\"\"} 2\n\
             # HELP leading Leading.\n# TYPE leading gauge\nleading 1\n"
        );
    }
}
