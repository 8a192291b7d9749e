//! CPU use right now: from what a counter was some seconds ago.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A shorter time says too little: a counter moves in steps of milliseconds.
const SHORTEST: Duration = Duration::from_secs(1);
/// From this on, the newer one of the two kept samples is old enough.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    cpu_nanos: u64,
}

/// The last two kept samples of every group.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: HashMap<String, [Option<Sample>; 2]>,
}

impl Rates {
    /// Keeps the counters of all groups as of now, and forgets groups that are not among them.
    pub(super) fn keep(&mut self, groups: Vec<(String, u64)>) {
        self.keep_at(groups, Instant::now());
    }

    fn keep_at(&mut self, groups: Vec<(String, u64)>, at: Instant) {
        let mut samples = HashMap::with_capacity(groups.len());
        for (group, cpu_nanos) in groups {
            let newest = self.samples.remove(&group).and_then(|[newest, _]| newest);
            samples.insert(group, [Some(Sample { at, cpu_nanos }), newest]);
        }
        self.samples = samples;
    }

    /// Nanoseconds of CPU time per second up to a counter just read; `None` where nothing older is known.
    pub(super) fn nano_cores(&self, group: &str, cpu_nanos: u64, at: Instant) -> Option<u64> {
        let kept = self.samples.get(group)?;
        let age = |sample: &Sample| at.saturating_duration_since(sample.at);
        let fitting = |least: Duration| kept.iter().flatten().find(|sample| age(sample) >= least);
        let sample = fitting(LONG_ENOUGH).or_else(|| fitting(SHORTEST))?;
        // A smaller counter is that of a new group of the same name.
        let used = cpu_nanos.checked_sub(sample.cpu_nanos)?;
        u64::try_from(u128::from(used) * 1_000_000_000 / age(sample).as_nanos()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_some_seconds_and_the_same_group() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut rates = Rates::default();
        assert_eq!(rates.nano_cores("a", 5, start), None);
        rates.keep_at(vec![("a".into(), 1_000_000_000), ("b".into(), 0)], start);
        assert_eq!(rates.nano_cores("a", 1_100_000_000, start + Duration::from_millis(500)), None, "too soon");
        assert_eq!(rates.nano_cores("a", 2_000_000_000, after(2)), Some(500_000_000));
        rates.keep_at(vec![("a".into(), 3_000_000_000)], after(10));
        // The newer sample is too young: the older one tells more.
        assert_eq!(rates.nano_cores("a", 3_200_000_000, after(11)), Some(200_000_000));
        assert_eq!(rates.nano_cores("a", 3_500_000_000, after(15)), Some(100_000_000));
        assert_eq!(rates.nano_cores("a", 10, after(15)), None, "made anew");
        assert_eq!(rates.nano_cores("b", 10, after(15)), None, "gone");
    }
}
