//! When a service-account token is replaced.

use jiff::{SignedDuration, Timestamp};

/// A token is replaced after 80 % of its life, or after a day if that comes first.
///
/// `lifetime_seconds` is what the API server granted; without it, nothing says how old the token is, and it is kept until it
/// expires (as the kubelet does).
pub fn token_needs_refresh(now: Timestamp, expires: Timestamp, lifetime_seconds: Option<i64>) -> bool {
    let Some(lifetime) = lifetime_seconds else {
        return now >= expires;
    };
    let left = expires.duration_since(now);
    let age = SignedDuration::from_secs(lifetime) - left;
    age >= SignedDuration::from_hours(24) || left <= SignedDuration::from_secs(lifetime / 5)
}
