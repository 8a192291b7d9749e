//! One metric with all its series.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::stats::text::{Kind, Text};

/// A metric: counters or histograms, by the values of its labels.
pub struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    shape: Shape,
    series: Mutex<BTreeMap<Vec<String>, Series>>,
}

enum Shape {
    Counter,
    /// With these upper bounds, in seconds.
    Histogram(&'static [f64]),
    /// A moment, shown as the seconds until then.
    Moment,
    /// The last value.
    Gauge,
}

#[derive(Clone, Default)]
struct Series {
    /// What is counted, or the moment.
    value: f64,
    count: u64,
    /// Not cumulated, one for each bound.
    buckets: Vec<u64>,
}

impl Family {
    /// Something that only grows.
    pub(super) const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, shape: Shape::Counter, series: Mutex::new(BTreeMap::new()) }
    }

    /// Durations. `bounds` are in seconds and rise.
    pub(super) const fn histogram(name: &'static str, help: &'static str, labels: &'static [&'static str], bounds: &'static [f64]) -> Self {
        Self { name, help, labels, shape: Shape::Histogram(bounds), series: Mutex::new(BTreeMap::new()) }
    }

    /// The time until a moment; infinite as long as there is none.
    pub(super) const fn moment(name: &'static str, help: &'static str) -> Self {
        Self { name, help, labels: &[], shape: Shape::Moment, series: Mutex::new(BTreeMap::new()) }
    }

    /// Something that goes up and down.
    pub(super) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, labels: &[], shape: Shape::Gauge, series: Mutex::new(BTreeMap::new()) }
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    fn series(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, values: &[&str], change: impl FnOnce(&mut Series)) {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let mut series = self.series();
        // `Vec<String>` has no borrowed form that a map could be asked with; a few short allocations a second do not matter.
        change(series.entry(values.iter().map(|value| (*value).to_owned()).collect()).or_default());
    }

    /// Counts one. `values` are those of the labels, in their order.
    pub fn add(&self, values: &[&str]) {
        self.change(values, |series| series.value += 1.0);
    }

    /// Counts a duration.
    pub fn observe(&self, values: &[&str], took: Duration) {
        let Shape::Histogram(bounds) = self.shape else { return };
        let seconds = took.as_secs_f64();
        self.change(values, |series| {
            series.buckets.resize(bounds.len(), 0);
            series.count += 1;
            series.value += seconds;
            if let Some(bucket) = bounds.iter().position(|bound| seconds <= *bound).and_then(|index| series.buckets.get_mut(index)) {
                *bucket += 1;
            }
        });
    }

    /// Sets the value of a gauge.
    pub fn set(&self, value: f64) {
        self.change(&[], |series| series.value = value);
    }

    /// Sets the moment.
    pub fn ends_at(&self, moment: Timestamp) {
        #[allow(clippy::cast_precision_loss, reason = "seconds of the Unix time")]
        self.change(&[], |series| series.value = moment.as_second() as f64);
    }

    /// Drops the series for which `wanted` is false. It is given the values of the labels by name; an unknown one is empty.
    pub fn keep(&self, wanted: impl Fn(&dyn Fn(&str) -> String) -> bool) {
        self.series().retain(|values, _| {
            let value = |name: &str| self.labels.iter().position(|label| *label == name).and_then(|at| values.get(at).cloned());
            wanted(&|name| value(name).unwrap_or_default())
        });
    }

    pub(crate) fn write(&self, text: &mut Text) {
        let mut series = self.series().clone();
        // Without labels there is something to say before anything has happened.
        if self.labels.is_empty() && series.is_empty() {
            let value = if matches!(self.shape, Shape::Moment) { f64::INFINITY } else { 0.0 };
            series.insert(Vec::new(), Series { value, ..Series::default() });
        }
        if series.is_empty() {
            return;
        }
        let kind = match self.shape {
            Shape::Counter => Kind::Counter,
            Shape::Histogram(_) => Kind::Histogram,
            Shape::Moment | Shape::Gauge => Kind::Gauge,
        };
        text.family(self.name, kind, self.help);
        for (values, series) in &series {
            let labels: Vec<(&str, &str)> = self.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            match self.shape {
                Shape::Counter | Shape::Gauge => text.sample(self.name, &labels, series.value),
                #[allow(clippy::cast_precision_loss, reason = "seconds of the Unix time")]
                Shape::Moment => text.sample(self.name, &labels, series.value - Timestamp::now().as_second() as f64),
                Shape::Histogram(bounds) => text.histogram(self.name, &labels, bounds, &series.buckets, series.count, series.value),
            }
        }
    }
}
