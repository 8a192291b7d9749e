//! How far the clock has come with the key in use.
//!
//! A handshake carries the time, and a peer refuses one that is not later than what it has seen of the same key (the WireGuard paper, 5.1).
//! Where the clock is behind that, because it was ahead before, nothing that this node begins is answered: another key is wanted, of which
//! nobody has seen any time. Within a process the agent's own WireGuard counts on from where it began, so it is looked at after a restart.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::json_file;

/// How often it is written down: a clock that is behind by less than that may be missed, and catches up as soon.
const EVERY: Duration = Duration::from_secs(300);
/// What the clock may be behind by: that is over before another key is in use.
const SLACK: Duration = Duration::from_secs(60);

/// What the file has.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    public_key: String,
    /// Seconds since 1970.
    latest: u64,
}

/// See the module.
pub(super) struct KeyClock {
    file: PathBuf,
    public_key: String,
    /// What an earlier process has reached with this key.
    before: Option<SystemTime>,
    /// The furthest time that this process has seen, and when.
    furthest: (SystemTime, Instant),
    written: Option<Instant>,
}

impl KeyClock {
    /// Reads what is known of the key. A file that cannot be read is as none: it is written again.
    pub(super) fn open(file: PathBuf, public_key: String) -> Self {
        let record = json_file::read::<Record>(&file, json_file::MAX_BYTES).unwrap_or_else(|error| {
            warn!(%error, "which times were told with the tunnel's key is not known");
            None
        });
        let before = record.filter(|record| record.public_key == public_key);
        let before = before.and_then(|record| UNIX_EPOCH.checked_add(Duration::from_secs(record.latest)));
        Self { file, public_key, before, furthest: (SystemTime::now(), Instant::now()), written: None }
    }

    /// Whether peers have seen later times of the key than `now`.
    pub(super) fn is_behind(&self, now: SystemTime) -> bool {
        self.before.is_some_and(|before| now.checked_add(SLACK).is_some_and(|now| now < before))
    }

    /// Another key is in use.
    pub(super) fn start_over(&mut self, public_key: String) {
        (self.public_key, self.before, self.written) = (public_key, None, None);
    }

    /// What is to be written down, if that is due. The time of the process never goes back, as that of its handshakes does not.
    pub(super) fn due(&mut self, wall: SystemTime, now: Instant) -> Option<impl FnOnce() + Send + use<>> {
        let reached = self.furthest.0.checked_add(now.saturating_duration_since(self.furthest.1)).unwrap_or(wall);
        self.furthest = (reached.max(wall), now);
        if self.written.is_some_and(|written| now.saturating_duration_since(written) < EVERY) {
            return None;
        }
        self.written = Some(now);
        let latest = self.before.map_or(self.furthest.0, |before| before.max(self.furthest.0));
        let latest = latest.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (file, record) = (self.file.clone(), Record { public_key: self.public_key.clone(), latest });
        Some(move || {
            if let Err(error) = json_file::write(&file, &record) {
                warn!(%error, "which times were told with the tunnel's key is not written down");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Bench {
        folder: tempfile::TempDir,
        wall: SystemTime,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), wall: SystemTime::now(), now: Instant::now() }
        }

        fn open(&self, key: &str) -> KeyClock {
            let mut clock = KeyClock::open(self.folder.path().join("clock"), key.into());
            clock.furthest = (self.wall, self.now);
            clock
        }

        fn write(&self, clock: &mut KeyClock) -> bool {
            clock.due(self.wall, self.now).map(|write| write()).is_some()
        }
    }

    #[test]
    fn a_clock_that_went_back_is_noticed_by_the_next_process_until_it_has_caught_up() {
        let mut bench = Bench::new();
        let mut clock = bench.open("a");
        assert!(bench.write(&mut clock) && !clock.is_behind(bench.wall));
        // The process counts on, whatever the clock does.
        (bench.now, bench.wall) = (bench.now + EVERY, bench.wall - HOUR);
        assert!(bench.write(&mut clock) && !clock.is_behind(bench.wall));
        let mut next = bench.open("a");
        assert!(next.is_behind(bench.wall));
        assert!(bench.write(&mut next), "what others have seen is not forgotten");
        let third = bench.open("a");
        assert!(third.is_behind(bench.wall + HOUR + EVERY - SLACK * 2) && !third.is_behind(bench.wall + HOUR + EVERY));
    }

    #[test]
    fn another_key_has_told_no_time() {
        let mut bench = Bench::new();
        let mut clock = bench.open("a");
        bench.write(&mut clock);
        bench.wall -= HOUR;
        assert!(!bench.open("b").is_behind(bench.wall));
        let mut clock = bench.open("a");
        clock.start_over("b".into());
        assert!(!clock.is_behind(bench.wall));
        assert!(bench.write(&mut clock), "at once");
        assert!(!bench.open("a").is_behind(bench.wall - HOUR) && bench.open("b").is_behind(bench.wall - HOUR));
    }

    #[test]
    fn it_is_written_down_every_five_minutes_and_a_damaged_file_is_replaced() {
        let mut bench = Bench::new();
        std::fs::write(bench.folder.path().join("clock"), "none").unwrap();
        let mut clock = bench.open("a");
        assert!(!clock.is_behind(bench.wall - HOUR) && bench.write(&mut clock) && !bench.write(&mut clock));
        bench.now += EVERY;
        assert!(bench.write(&mut clock) && bench.open("a").is_behind(bench.wall - HOUR));
    }
}
