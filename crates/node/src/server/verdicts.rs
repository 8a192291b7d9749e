//! Remembers the API server's answers for a while. Bounded: whoever sends many different tokens costs time, not memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// The hash of what was asked; what was asked (a token) is not kept.
pub(super) type Key = [u8; 32];

/// A key from the parts of a question.
pub(super) fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Answers with their end of life.
pub(super) struct Verdicts<V> {
    entries: Mutex<HashMap<Key, (V, Instant)>>,
    capacity: usize,
}

impl<V: Clone> Verdicts<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: Mutex::new(HashMap::new()), capacity }
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, end) = entries.get(key)?;
        (now < *end).then(|| value.clone())
    }

    pub(super) fn put(&self, key: Key, value: V, now: Instant, life: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.capacity {
            entries.retain(|_, (_, end)| now < *end);
            if entries.len() >= self.capacity {
                entries.clear();
            }
        }
        entries.insert(key, (value, now + life));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_and_stay_bounded() {
        let verdicts = Verdicts::new(2);
        let now = Instant::now();
        verdicts.put([1; 32], true, now, Duration::from_secs(10));
        verdicts.put([2; 32], false, now, Duration::from_secs(30));
        assert_eq!(verdicts.get(&[1; 32], now), Some(true));
        let later = now + Duration::from_secs(11);
        assert_eq!(verdicts.get(&[1; 32], later), None);
        assert_eq!(verdicts.get(&[2; 32], later), Some(false));
        for n in 3..100 {
            verdicts.put([n; 32], true, later, Duration::from_secs(30));
        }
        assert!(verdicts.entries.lock().unwrap().len() <= 2);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(key([&b"ab"[..], b"c"]), key([&b"a"[..], b"bc"]));
    }
}
