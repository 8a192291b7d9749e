//! Answers with their times. Pure: the time is given in.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use lru::LruCache;

use crate::message::Key;
use crate::moment::Moment;

/// RFC 8767, 5: how long an upstream that failed is not asked again for a name that there is an old answer of.
const RECHECK: Duration = Duration::from_secs(30);
/// How long a failure is told for a name that nothing is known of (RFC 9520: at least a second, at most five minutes).
const FAILURE: Duration = Duration::from_secs(5);
/// Longer answers are passed on, not kept.
const MAX_MESSAGE: usize = 16 * 1024;
/// What an entry takes beside its bytes: the list's and the map's places.
const ENTRY: usize = 160;
/// Failures that are remembered: apart, because names that do not work must not push out names that do.
const MAX_FAILURES: usize = 4096;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Answers; the least recently asked for go first.
    pub entries: NonZeroUsize,
    /// Bytes of all answers.
    pub bytes: usize,
    /// How long after its time an answer may still be told when no newer one can be had.
    pub max_stale: Duration,
}

/// What could not be learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What clients are told.
    pub(crate) code: ResponseCode,
    /// No upstream has said anything.
    pub(crate) unreachable: bool,
}

/// What is known of a question.
#[derive(Debug)]
pub(crate) enum Found {
    Fresh {
        kept: Arc<[u8]>,
        /// Seconds since it was learnt.
        age: u32,
        /// How often it has been told, this time included.
        told: usize,
        /// Much asked for, and about to end.
        refresh: bool,
    },
    Stale {
        kept: Arc<[u8]>,
        told: usize,
        /// Whether it is time to ask again.
        recheck: bool,
    },
    /// It did not work just now.
    Failed(Failure),
    Nothing,
}

/// An answer as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kept: Arc<[u8]>,
    pub(crate) learnt: Moment,
    /// Seconds for which it holds.
    pub(crate) ttl: u32,
    told: usize,
}

#[derive(Debug)]
pub(crate) struct Cache {
    limits: Limits,
    entries: LruCache<Key, Entry>,
    bytes: usize,
    failures: LruCache<Key, (Moment, Failure)>,
}

impl Cache {
    pub(crate) fn new(limits: Limits) -> Self {
        let failures = NonZeroUsize::new(MAX_FAILURES).map_or(limits.entries, |most| most.min(limits.entries));
        // Not made at their full size: most nodes need a part of it.
        Self { limits, entries: LruCache::unbounded(), bytes: 0, failures: LruCache::sparse(failures) }
    }

    pub(crate) fn get(&mut self, key: &Key, now: Moment) -> Found {
        let failed = self.failures.get(key).map(|(at, failure)| (now.since(*at), *failure));
        let Some(entry) = self.entries.get_mut(key) else {
            return failed.filter(|(age, _)| *age < FAILURE).map_or(Found::Nothing, |(_, failure)| Found::Failed(failure));
        };
        let (age, holds) = (now.since(entry.learnt), Duration::from_secs(entry.ttl.into()));
        if age >= holds.saturating_add(self.limits.max_stale) {
            self.remove(key);
            return Found::Nothing;
        }
        entry.told = entry.told.saturating_add(1);
        let (kept, told) = (entry.kept.clone(), entry.told);
        if age < holds {
            let refresh = told > 2 && holds - age <= (holds / 10).max(Duration::from_secs(1));
            return Found::Fresh { kept, age: u32::try_from(age.as_secs()).unwrap_or(u32::MAX), told, refresh };
        }
        Found::Stale { kept, told, recheck: failed.is_none_or(|(age, _)| age >= RECHECK) }
    }

    /// Keeps an answer; whether it does.
    pub(crate) fn put(&mut self, key: Key, kept: Arc<[u8]>, ttl: u32, learnt: Moment) -> bool {
        self.failures.pop(&key);
        if ttl == 0 || kept.len() > MAX_MESSAGE {
            // What was known before is not what holds now.
            self.remove(&key);
            return false;
        }
        self.bytes += size(&key, &kept);
        if let Some((key, old)) = self.entries.push(key, Entry { kept, learnt, ttl, told: 0 }) {
            self.bytes = self.bytes.saturating_sub(size(&key, &old.kept));
        }
        while self.entries.len() > self.limits.entries.get() || self.bytes > self.limits.bytes {
            let Some((key, old)) = self.entries.pop_lru() else { break };
            self.bytes = self.bytes.saturating_sub(size(&key, &old.kept));
        }
        true
    }

    /// It did not work: what is known stays.
    pub(crate) fn fail(&mut self, key: Key, failure: Failure, now: Moment) {
        self.failures.put(key, (now, failure));
    }

    /// The answers, those that were asked for last at the end.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().rev()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, key: &Key) {
        if let Some((key, old)) = self.entries.pop_entry(key) {
            self.bytes = self.bytes.saturating_sub(size(&key, &old.kept));
        }
    }
}

fn size(key: &Key, kept: &[u8]) -> usize {
    key.bytes().len() + kept.len() + ENTRY
}

#[cfg(test)]
mod tests;
