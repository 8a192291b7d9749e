//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use jiff::Timestamp;

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// An answer that is being written. The samples of a family must follow its head directly.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

/// Labels, written once for many samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels(String);

impl Labels {
    pub(crate) fn new(labels: &[(&str, &str)]) -> Self {
        Self::default().and(labels)
    }

    /// These and more.
    pub(crate) fn and(&self, labels: &[(&str, &str)]) -> Self {
        let mut out = self.0.clone();
        for (name, value) in labels {
            if !out.is_empty() {
                out.push(',');
            }
            out.push_str(name);
            out.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    other => out.push(other),
                }
            }
            out.push('"');
        }
        Self(out)
    }
}

impl Text {
    /// The head of a family.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample, without a time: it is the scrape's.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.sample_at(name, &Labels::new(labels), value, None);
    }

    /// One sample, with the time at which it was measured.
    pub(crate) fn sample_at(&mut self, name: &str, labels: &Labels, value: f64, at: Option<Timestamp>) {
        self.0.push_str(name);
        if !labels.0.is_empty() {
            let _ = write!(self.0, "{{{}}}", labels.0);
        }
        let _ =
            if value.is_infinite() { write!(self.0, " {}Inf", if value > 0.0 { '+' } else { '-' }) } else { write!(self.0, " {value}") };
        if let Some(at) = at {
            let _ = write!(self.0, " {}", at.as_millisecond());
        }
        self.0.push('\n');
    }

    /// A family of one sample.
    pub(crate) fn single(&mut self, name: &str, kind: Kind, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.family(name, kind, help);
            self.sample(name, &[], value);
        }
    }

    /// A histogram; `buckets` are not cumulated, and may be fewer than `bounds`.
    pub(crate) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], bounds: &[f64], buckets: &[u64], count: u64, sum: f64) {
        let labels = Labels::new(labels);
        let mut cumulated = 0;
        let bucket = format!("{name}_bucket");
        #[allow(clippy::cast_precision_loss, reason = "a metric")]
        for (index, bound) in bounds.iter().enumerate() {
            cumulated += buckets.get(index).copied().unwrap_or(0);
            self.sample_at(&bucket, &labels.and(&[("le", &bound.to_string())]), cumulated as f64, None);
        }
        #[allow(clippy::cast_precision_loss, reason = "a metric")]
        let count = count as f64;
        self.sample_at(&bucket, &labels.and(&[("le", "+Inf")]), count, None);
        self.sample_at(&format!("{name}_sum"), &labels, sum, None);
        self.sample_at(&format!("{name}_count"), &labels, count, None);
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_heads() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "What a\nis\\.");
        text.sample("a_total", &[], 1.5e9);
        text.sample("a_total", &[("pod", "p\"\\\n"), ("x", "")], f64::INFINITY);
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        text.sample_at("a_total", &Labels::new(&[("b", "c")]).and(&[("d", "e")]), 0.25, Some(at));
        assert_eq!(
            text.into_string(),
            "# HELP a_total What a\\nis\\\\.\n# TYPE a_total counter\na_total 1500000000\n\
             a_total{pod=\"p\\\"\\\\\\n\",x=\"\"} +Inf\na_total{b=\"c\",d=\"e\"} 0.25 1700000000123\n"
        );
    }

    #[test]
    fn buckets_add_up() {
        let mut text = Text::default();
        text.histogram("h", &[("l", "v")], &[0.5, 1.0], &[2, 1], 4, 9.5);
        assert_eq!(
            text.into_string(),
            "h_bucket{l=\"v\",le=\"0.5\"} 2\nh_bucket{l=\"v\",le=\"1\"} 3\nh_bucket{l=\"v\",le=\"+Inf\"} 4\nh_sum{l=\"v\"} 9.5\nh_count{l=\"v\"} 4\n"
        );
    }
}
