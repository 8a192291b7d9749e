//! Finds out whether this machine's clock is the reason why certificates are refused.

use std::time::Duration;

use http::header::DATE;
use jiff::{SignedDuration, Timestamp};
use kube::{Client, Config};

/// Differences below this do not matter to certificates, whose signers back-date them by five minutes.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// A sentence that names the clock as the cause, if the API server's `Date` says so. `None` when the clock is right or
/// the server cannot be asked.
///
/// The request is made without credentials and without checking the server's certificate: with a wrong clock that
/// check is what fails. Nothing in the answer but the date is used, and only for this sentence.
pub(super) async fn explanation(config: &Config) -> Option<String> {
    let mut probe = config.clone();
    probe.auth_info = kube::config::AuthInfo::default();
    probe.accept_invalid_certs = true;
    probe.default_retry = false;
    probe.connect_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(probe).ok()?;
    let request = http::Request::get("/version").body(kube::client::Body::empty()).ok()?;
    let response = tokio::time::timeout(Duration::from_secs(10), client.send(request)).await.ok()?.ok()?;
    let date = response.headers().get(DATE)?.to_str().ok()?;
    describe(date, Timestamp::now())
}

fn describe(date_header: &str, now: Timestamp) -> Option<String> {
    let server = jiff::fmt::rfc2822::parse(date_header).ok()?.timestamp();
    let ahead = now.duration_since(server);
    if ahead.abs() <= TOLERANCE {
        return None;
    }
    let direction = if ahead.is_negative() { "behind" } else { "ahead of" };
    Some(format!(
        "this machine's clock is {:#} {direction} the API server's ({now:.0} here, {server:.0} there); \
         set it, for example with `timedatectl set-ntp true`",
        ahead.abs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_direction_and_tolerates_small_differences() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        assert_eq!(describe("Sun, 01 Mar 2026 11:59:10 GMT", now), None);
        let behind = describe("Sun, 01 Mar 2026 15:00:00 GMT", now).unwrap();
        assert!(behind.contains("3h behind the API server's (2026-03-01T12:00:00Z here"), "{behind}");
        let ahead = describe("Sat, 28 Feb 2026 12:00:00 GMT", now).unwrap();
        assert!(ahead.contains("24h ahead of"), "{ahead}");
        assert_eq!(describe("yesterday", now), None);
    }
}
