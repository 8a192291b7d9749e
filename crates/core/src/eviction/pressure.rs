//! Which limits the node is below, for how long, and until how much is there again: what the Node's conditions of pressure and
//! evictions follow from (the kubelet's `managerImpl.synchronize`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Shortage, Signal, Threshold};

/// What there is of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// How much is left: bytes, inodes, processes.
    pub available: u64,
    /// How much there is in all. Nothing where it is not limited: btrfs has no fixed number of inodes, and tells 0 of 0.
    pub capacity: u64,
}

/// What was measured; what could not be is missing.
pub type Levels = BTreeMap<Signal, Level>;

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Of what.
    pub signal: Signal,
    /// How much has to be left.
    pub threshold: Threshold,
    /// How long less than that is put up with. Zero: a hard limit.
    pub grace: Duration,
    /// How much more has to be there again once pods had to go for it (`evictionMinimumReclaim`).
    pub reclaim: Option<Threshold>,
}

impl Limit {
    /// What is missing; `reclaiming`: until it is above the limit by what has to be reclaimed.
    fn shortage(&self, levels: &Levels, reclaiming: bool) -> Option<Shortage> {
        let Self { signal, threshold, grace, reclaim } = *self;
        let Level { available, capacity } = levels.get(&signal).copied().filter(|level| level.capacity > 0)?;
        let limit = threshold.of(capacity);
        let more = reclaim.filter(|_| reclaiming).map_or(0, |more| more.of(capacity));
        (available < limit.saturating_add(more)).then_some(Shortage { signal, limit, available, grace })
    }
}

/// What one look came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The conditions of pressure that hold.
    pub conditions: BTreeSet<&'static str>,
    /// What pods have to go for, the most urgent first.
    pub shortages: Vec<Shortage>,
    /// No limit is met, nor is anything missing of what has to be reclaimed above it.
    pub enough: bool,
}

/// What was seen before. Moments are of a clock that only runs forward, from any origin.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    limits: Vec<Limit>,
    transition: Duration,
    /// By the limit's place.
    met_since: BTreeMap<usize, Duration>,
    /// Limits that pods have to go for.
    acting: BTreeSet<usize>,
    last_seen: BTreeMap<&'static str, Duration>,
}

impl Pressure {
    /// Nothing was seen yet. `transition`: how long a condition holds after its cause has ended.
    #[must_use]
    pub fn new(limits: Vec<Limit>, transition: Duration) -> Self {
        Self { limits, transition, ..Self::default() }
    }

    /// Takes a measurement in.
    pub fn look(&mut self, levels: &Levels, now: Duration) -> Look {
        let Self { limits, transition, met_since, acting, last_seen } = self;
        let met: BTreeMap<usize, Shortage> = limits
            .iter()
            .enumerate()
            .filter_map(|(place, limit)| Some((place, limit.shortage(levels, acting.contains(&place))?)))
            .collect();
        met_since.retain(|place, _| met.contains_key(place));
        for (place, shortage) in &met {
            met_since.entry(*place).or_insert(now);
            last_seen.insert(shortage.signal.condition(), now);
        }
        last_seen.retain(|_, seen| *seen == now || now.saturating_sub(*seen) < *transition);
        let lasts = |place: &usize, grace| met_since.get(place).is_some_and(|since| now.saturating_sub(*since) >= grace);
        let due: BTreeMap<usize, Shortage> = met.into_iter().filter(|(place, shortage)| lasts(place, shortage.grace)).collect();
        *acting = due.keys().copied().collect();
        let mut shortages: Vec<Shortage> = due.into_values().collect();
        shortages.sort_by_key(|shortage| (shortage.resource(), shortage.grace));
        Look {
            conditions: last_seen.keys().copied().collect(),
            shortages,
            enough: limits.iter().all(|limit| limit.shortage(levels, true).is_none()),
        }
    }
}
