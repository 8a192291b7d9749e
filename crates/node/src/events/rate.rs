//! A token bucket, in the time that it is told.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// So many at once, and so many per second.
pub(super) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    pub(super) fn new(burst: f64, per_second: f64, now: Timestamp) -> Self {
        Self { burst, per_second, tokens: burst, at: now }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at).max(SignedDuration::ZERO);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(self.burst);
        self.at = now;
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    /// How long until there is one.
    pub(super) fn wait(&self) -> Duration {
        let missing = (1.0 - self.tokens).max(0.0);
        Duration::try_from_secs_f64(missing / self.per_second).unwrap_or(Duration::from_secs(1))
    }
}
