//! Back-off as data.
//!
//! The kubelet keeps the delay of a crashing container in memory. Here each attempt carries, as a label, the delay that its own
//! end will be followed by; with Podman's FinishedAt that is the whole state, and it survives the agent.

use jiff::{SignedDuration, Timestamp};

/// Delays of restarts and of retried pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// First delay, seconds.
    pub initial: u32,
    /// Longest delay, seconds (`crashLoopBackOff.maxContainerRestartPeriod`).
    pub max: u32,
}

impl Default for BackoffPolicy {
    /// The kubelet's: 10 s doubling to 300 s.
    fn default() -> Self {
        Self { initial: 10, max: 300 }
    }
}

/// When the successor of an attempt may start, and the delay label that it gets.
///
/// `label` is the ended attempt's own label (0: the first restart is immediate), `lived` how long it ran. An attempt that ran
/// for more than twice the longest delay counts as healthy: the next one starts anew (client-go `flowcontrol.Backoff`).
pub fn next_restart(policy: BackoffPolicy, label: u32, lived: SignedDuration, finished_at: Timestamp) -> (Timestamp, u32) {
    let healthy = lived > SignedDuration::from_secs(i64::from(policy.max) * 2);
    let delay = if healthy { 0 } else { label.min(policy.max) };
    let at = finished_at.checked_add(SignedDuration::from_secs(i64::from(delay))).unwrap_or(finished_at);
    (at, grow(policy, delay))
}

/// The next delay of something that keeps failing (image pulls): `previous` is `None` for the first failure.
pub fn next_retry(policy: BackoffPolicy, previous: Option<u32>) -> u32 {
    previous.map_or(policy.initial.min(policy.max), |p| grow(policy, p))
}

fn grow(policy: BackoffPolicy, delay: u32) -> u32 {
    if delay == 0 { policy.initial.min(policy.max) } else { delay.saturating_mul(2).min(policy.max) }
}
