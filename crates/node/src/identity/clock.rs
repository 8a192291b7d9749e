//! Finds out whether this machine's clock is right: where certificates are refused, and by every answer of the API server.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::DATE;
use jiff::{SignedDuration, Timestamp};
use kube::{Client, Config};
use tracing::{info, warn};

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
    Some(format!("{} ({now:.0} here, {server:.0} there); {REPAIR}", difference(ahead)))
}

const REPAIR: &str = "set it, for example with `timedatectl set-ntp true`";

/// To ten seconds: `Date` has whole ones, and the answer took its time.
fn difference(ahead: SignedDuration) -> String {
    let direction = if ahead.is_negative() { "behind" } else { "ahead of" };
    let seconds = ahead.abs().as_secs().saturating_add(5) / 10 * 10;
    format!("this machine's clock is {:#} {direction} the API server's", SignedDuration::from_secs(seconds))
}

/// By how much the clock was said to be wrong. The machine has one clock, however many clients look at it.
static TOLD: Mutex<SignedDuration> = Mutex::new(SignedDuration::ZERO);

/// Tells the operator when the clock turns out to be wrong or right by the `Date` of an answer, which was asked for at `sent`. How long the
/// answer took does not matter.
pub(super) fn compare(headers: &HeaderMap, sent: Timestamp, received: Timestamp) {
    let date = headers.get(DATE).and_then(|date| jiff::fmt::rfc2822::parse(date.to_str().ok()?).ok());
    let Some(server) = date.map(|date| date.timestamp()) else { return };
    let ahead = difference_between(server, sent, received);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    match news(*told, ahead) {
        News::None => return,
        News::Wrong => warn!("{}: certificates, tokens and times of events suffer; {REPAIR}", difference(ahead)),
        News::Right => info!("this machine's clock agrees with the API server's again"),
    }
    *told = if ahead.abs() > TOLERANCE { ahead } else { SignedDuration::ZERO };
}

/// How far the clock was ahead at least, or behind, if `server` was the time between two moments.
fn difference_between(server: Timestamp, sent: Timestamp, received: Timestamp) -> SignedDuration {
    if sent > server {
        sent.duration_since(server)
    } else if received < server {
        received.duration_since(server)
    } else {
        SignedDuration::ZERO
    }
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    None,
    Wrong,
    Right,
}

fn news(told: SignedDuration, ahead: SignedDuration) -> News {
    if ahead.abs() <= TOLERANCE {
        return if told.is_zero() { News::None } else { News::Right };
    }
    let changed = ahead.saturating_sub(told).abs() > TOLERANCE;
    if changed { News::Wrong } else { News::None }
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

    #[test]
    fn an_answer_from_the_next_second_changes_nothing_of_the_word() {
        for (ahead, word) in [(3599, "1h ahead of"), (3604, "1h ahead of"), (-3605, "1h 10s behind"), (86_399, "24h ahead of")] {
            assert!(difference(SignedDuration::from_secs(ahead)).contains(word), "{ahead}");
        }
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let server = at("2026-03-01T12:00:00Z");
        let ahead = |sent, received| difference_between(server, at(sent), at(received)).as_secs();
        assert_eq!(ahead("2026-03-01T11:58:00Z", "2026-03-01T12:01:00Z"), 0);
        assert_eq!(ahead("2026-03-01T13:00:00Z", "2026-03-01T13:00:01Z"), 3600);
        assert_eq!(ahead("2026-02-28T12:00:00Z", "2026-02-28T12:00:01Z"), 1 - 86_400);
    }

    #[test]
    fn a_wrong_clock_is_told_once_until_it_changes() {
        let minutes = SignedDuration::from_mins;
        assert_eq!(news(SignedDuration::ZERO, SignedDuration::from_secs(-59)), News::None);
        assert_eq!(news(SignedDuration::ZERO, minutes(-60)), News::Wrong);
        assert_eq!(news(minutes(-60), minutes(-60)), News::None);
        assert_eq!(news(minutes(-60), minutes(60)), News::Wrong);
        assert_eq!(news(minutes(60), SignedDuration::ZERO), News::Right);
    }
}
