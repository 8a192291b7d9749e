//! Time as it is given in.

use std::time::Duration;

/// A moment on a clock that only goes forward, in milliseconds since a moment of its own. What was learnt before the clock began
/// (in an earlier run) has a negative one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// This long after the clock's beginning.
    pub fn after(beginning: Duration) -> Self {
        Self(millis(beginning))
    }

    /// Earlier by this.
    pub(crate) fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// The time since an earlier moment; none since a later one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
