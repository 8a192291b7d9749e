//! Waiting times between attempts, and the randomness that keeps nodes from acting in step.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Doubling waits with jitter.
pub(super) struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, first, max }
    }

    /// The next wait: 75–125 % of the doubled value before it.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait.mul_f64(between(0.75, 1.25))
    }

    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random number in `low..high`. Not for secrets: it is the standard library's hash seed.
pub(super) fn between(low: f64, high: f64) -> f64 {
    let random = RandomState::new().build_hasher().finish() >> 11;
    // 53 bits fit a double exactly.
    #[allow(clippy::cast_precision_loss)]
    let unit = random as f64 / (1u64 << 53) as f64;
    low + (high - low) * unit
}
