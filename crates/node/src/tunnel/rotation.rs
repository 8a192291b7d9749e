//! Another key for the tunnel, without a gap.
//!
//! 1. The next key is made and kept in a file beside the one in use. The Pet names it.
//! 2. The controller accepts it, if nobody has it. Gateways expect it beside the one in use; paths to other pets are left for the gateway.
//! 3. After [`SETTLED`] it takes the place of the other one, whose file is kept; the interface gets the key, and the Pet says so. Gateways send
//!    to whichever key has shaken hands last.
//! 4. A gateway shakes hands by it, and the other one is forgotten. Where none does so within [`PROVED`], none may know it: the other one is
//!    used again. As none may know that any more, either, the two take turns until a gateway answers to one of them, each turn twice as
//!    long as the one before.
//!
//! Each step may be the last before the process ends: the next one goes on by the files. A key that is refused changes nothing; the Pet's
//! condition `NextKeyAccepted` says why, until another one is asked for.
//!
//! Another key is wanted by its age, by an annotation of the Pet, or because peers have seen later times of it than it is now (clock.rs).

mod clock;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use kube_pet_api::{Pet, ROTATE_KEY_ANNOTATION, condition, conditions};
use kube_pet_tunnel::{KeyError, PrivateKey};
use tracing::{info, warn};

use super::blocking;
use clock::KeyClock;

/// Watches of gateways and other pets have told of a change, and paths between pets are left.
const SETTLED: Duration = Duration::from_secs(10);
/// WireGuard asks for a handshake every 5 s: six times.
const PROVED: Duration = Duration::from_secs(30);
/// Turns are not longer than 16 minutes.
const DOUBLINGS: u32 = 5;
/// After a file that could not be written.
const RETRY: Duration = Duration::from_secs(60);

/// Where the keys are.
#[derive(Clone, Debug)]
pub(super) struct KeyFiles {
    /// The one in use, which is there already.
    pub(super) key: PathBuf,
    pub(super) next: PathBuf,
    pub(super) before: PathBuf,
    /// Which times were told with the one in use.
    pub(super) clock: PathBuf,
}

/// See the module.
pub(super) struct Rotation {
    files: KeyFiles,
    every: Duration,
    /// When the key in use was put there.
    made: SystemTime,
    clock: KeyClock,
    next: Option<PrivateKey>,
    accepted: Option<Instant>,
    /// The next key that is known to be refused.
    refused: Option<String>,
    trial: Option<Trial>,
    failed: Option<Instant>,
}

/// No gateway has answered to the key in use yet.
#[derive(Clone, Debug)]
struct Trial {
    before: PrivateKey,
    since: Instant,
    /// How often the two have changed places.
    turns: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    /// Make the next key, in the place of a refused one that there may be.
    Make,
    /// Use it.
    Use,
    /// Forget the one before.
    Forget,
    /// Use the one before again.
    Back,
}

/// What the deed follows from, unless the key in use is on trial.
#[derive(Clone, Copy, Debug)]
struct Facts {
    every: Duration,
    age: Duration,
    asked: bool,
    /// Handshakes that are begun with it now are older than what peers have seen.
    behind: bool,
    /// Whether there is a next key; for how long it has been accepted; whether it is refused.
    next: bool,
    accepted: Option<Duration>,
    refused: bool,
}

fn deed(facts: &Facts) -> Deed {
    let Facts { every, age, asked, behind, next, accepted, refused } = *facts;
    let old = !every.is_zero() && age >= every;
    match (next, accepted) {
        (false, _) if asked || old || behind => Deed::Make,
        (true, _) if refused && asked => Deed::Make,
        (true, Some(since)) if since >= SETTLED => Deed::Use,
        _ => Deed::Nothing,
    }
}

/// The same for a key that has been on trial for so long.
fn verdict(tried: Duration, turns: u32, is_proved: bool) -> Deed {
    match tried {
        _ if is_proved => Deed::Forget,
        tried if tried >= PROVED.saturating_mul(1 << turns.min(DOUBLINGS)) => Deed::Back,
        _ => Deed::Nothing,
    }
}

impl Rotation {
    /// Reads what an earlier run has left.
    ///
    /// # Errors
    /// When there is a key that cannot be read.
    pub(super) fn open(files: KeyFiles, every: Duration) -> Result<Self, KeyError> {
        let key = PrivateKey::load(&files.key)?;
        let next = load_other(&files.next, &key)?;
        let trial = load_other(&files.before, &key)?.map(|before| Trial { before, since: Instant::now(), turns: 0 });
        // Without a time it counts as new.
        let made = std::fs::metadata(&files.key).and_then(|found| found.modified()).unwrap_or_else(|_| SystemTime::now());
        let clock = KeyClock::open(files.clock.clone(), key.public().to_string());
        Ok(Self { files, every, made, clock, next, accepted: None, refused: None, trial, failed: None })
    }

    /// The public half of the next key.
    pub(super) fn next(&self) -> Option<String> {
        self.next.as_ref().map(|next| next.public().to_string())
    }

    /// Does what is due. `handshake`: the last one with a gateway. The key that is to be used from now on, if it is another one.
    pub(super) async fn look(mut self, own: Option<&Pet>, handshake: Option<SystemTime>) -> (Self, Option<PrivateKey>) {
        if let Some(write) = self.clock.due(SystemTime::now(), Instant::now()) {
            blocking(write).await;
        }
        if self.failed.is_some_and(|failed| failed.elapsed() < RETRY) {
            return (self, None);
        }
        let due = match (&self.trial, own) {
            (Some(trial), _) => verdict(trial.since.elapsed(), trial.turns, handshake.is_some_and(|at| self.is_of_this_key(at))),
            (None, Some(own)) => deed(&self.facts(own)),
            (None, None) => Deed::Nothing,
        };
        if due == Deed::Nothing {
            return (self, None);
        }
        let (mut rotation, done) = blocking(move || {
            let done = match due {
                Deed::Nothing => Ok(None),
                Deed::Make => self.make().map(|()| None),
                Deed::Use => self.take(),
                Deed::Forget => {
                    self.forget();
                    Ok(None)
                }
                Deed::Back => self.back(),
            };
            (self, done)
        })
        .await;
        let key = done.unwrap_or_else(|error| {
            warn!(error = &error as &dyn std::error::Error, "the tunnel keeps the key that it has; retrying");
            rotation.failed = Some(Instant::now());
            None
        });
        (rotation, key)
    }

    fn facts(&mut self, own: &Pet) -> Facts {
        let next = self.next();
        let status = own.status.clone().unwrap_or_default();
        let named = next.is_some() && own.spec.next_public_key == next;
        // What the status says of a next key counts where the Pet asks for it: it may be left of an earlier one.
        let accepted = named && status.next_public_key == next;
        self.accepted = accepted.then(|| self.accepted.unwrap_or_else(Instant::now));
        let verdict = condition(&status.conditions, conditions::NEXT_KEY_ACCEPTED);
        let refusal = verdict.filter(|one| named && one.status == "False" && one.observed_generation == own.metadata.generation);
        if let Some(refusal) = refusal.filter(|_| self.refused != next) {
            warn!(why = refusal.message, "the tunnel's next key is refused: it keeps the one that it has");
            self.refused.clone_from(&next);
        }
        let behind = self.clock.is_behind(SystemTime::now());
        if behind && next.is_none() {
            warn!(
                "the clock is behind what it was with the tunnel's key: peers refuse handshakes that this node begins, so it gets another key"
            );
        }
        Facts {
            behind,
            every: self.every,
            age: self.made.elapsed().unwrap_or_default(),
            asked: own.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ROTATE_KEY_ANNOTATION)),
            next: next.is_some(),
            accepted: self.accepted.map(|since| since.elapsed()),
            refused: refusal.is_some(),
        }
    }

    /// Handshakes are known to a millisecond.
    fn is_of_this_key(&self, handshake: SystemTime) -> bool {
        handshake.checked_add(Duration::from_millis(1)).is_some_and(|at| at > self.made)
    }

    fn make(&mut self) -> Result<(), KeyError> {
        let next = PrivateKey::create(&self.files.next)?;
        info!(next = %next.public(), "the tunnel is to have another key");
        (self.next, self.accepted) = (Some(next), None);
        Ok(())
    }

    fn take(&mut self) -> Result<Option<PrivateKey>, KeyError> {
        let Some(next) = self.next.clone() else { return Ok(None) };
        let before = PrivateKey::load(&self.files.key)?;
        before.store(&self.files.before)?;
        next.store(&self.files.key)?;
        remove(&self.files.next);
        info!(public_key = %next.public(), "the tunnel has another key");
        self.clock.start_over(next.public().to_string());
        (self.made, self.next, self.accepted) = (SystemTime::now(), None, None);
        self.trial = Some(Trial { before, since: Instant::now(), turns: 0 });
        Ok(Some(next))
    }

    fn forget(&mut self) {
        remove(&self.files.before);
        self.trial = None;
        info!("a gateway has shaken hands with the tunnel's key: the one before is forgotten");
    }

    fn back(&mut self) -> Result<Option<PrivateKey>, KeyError> {
        let Some(Trial { before, since, turns }) = self.trial.clone() else { return Ok(None) };
        let unproved = PrivateKey::load(&self.files.key)?;
        before.store(&self.files.key)?;
        unproved.store(&self.files.before)?;
        warn!(
            public_key = %before.public(), unproved = %unproved.public(), seconds = since.elapsed().as_secs(),
            "no gateway has shaken hands with the tunnel's key: none may know it, so the tunnel has the key before again"
        );
        self.clock.start_over(before.public().to_string());
        self.made = SystemTime::now();
        self.trial = Some(Trial { before: unproved, since: Instant::now(), turns: turns.saturating_add(1) });
        Ok(Some(before))
    }
}

/// A key beside the one in use. One that is the same is left of an exchange that has ended in the middle.
fn load_other(file: &Path, key: &PrivateKey) -> Result<Option<PrivateKey>, KeyError> {
    match PrivateKey::load(file) {
        Ok(other) if other.public() == key.public() => {
            remove(file);
            Ok(None)
        }
        Ok(other) => Ok(Some(other)),
        Err(KeyError::File(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// One that is left is found by the next run.
fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file) {
        warn!(file = %file.display(), %error, "a file of the tunnel's keys is left");
    }
}

#[cfg(test)]
mod tests;
