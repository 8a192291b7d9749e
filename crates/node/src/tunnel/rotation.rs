//! Another key for the tunnel, without a gap.
//!
//! 1. The next key is made and kept in a file beside the one in use. The Pet names it.
//! 2. The controller accepts it, if nobody has it. Gateways expect it beside the one in use; paths to other pets are left for the gateway.
//! 3. After [`SETTLED`] the file takes the place of the other one, the interface gets the key, and the Pet says so. Gateways send to whichever
//!    key has shaken hands last.
//!
//! Each step may be the last before the process ends: the next one goes on by the files. A key that is refused changes nothing; the Pet's
//! condition `NextKeyAccepted` says why, until another one is asked for.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use kube_pet_api::{Pet, ROTATE_KEY_ANNOTATION, condition, conditions};
use kube_pet_tunnel::{KeyError, PrivateKey};
use tracing::{info, warn};

/// Watches of gateways and other pets have told of a change, and paths between pets are left.
const SETTLED: Duration = Duration::from_secs(10);
/// After a file that could not be written.
const RETRY: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Rotation {
    file: PathBuf,
    next_file: PathBuf,
    every: Duration,
    /// When the key in use was made.
    made: SystemTime,
    next: Option<PrivateKey>,
    accepted: Option<Instant>,
    /// The next key that is known to be refused.
    refused: Option<String>,
    failed: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    /// Make the next key, in the place of a refused one that there may be.
    Make,
    /// Use it.
    Use,
}

/// What the deed follows from.
#[derive(Clone, Copy, Debug)]
struct Facts {
    every: Duration,
    age: Duration,
    asked: bool,
    /// Whether there is a next key; for how long it has been accepted; whether it is refused.
    next: bool,
    accepted: Option<Duration>,
    refused: bool,
}

fn deed(facts: &Facts) -> Deed {
    let Facts { every, age, asked, next, accepted, refused } = *facts;
    let old = !every.is_zero() && age >= every;
    match (next, accepted) {
        (false, _) if asked || old => Deed::Make,
        (true, _) if refused && asked => Deed::Make,
        (true, Some(since)) if since >= SETTLED => Deed::Use,
        _ => Deed::Nothing,
    }
}

impl Rotation {
    /// Reads what an earlier run has left. The key itself is there already.
    ///
    /// # Errors
    /// When there is a next key that cannot be read.
    pub(super) fn open(file: PathBuf, next_file: PathBuf, every: Duration) -> Result<Self, KeyError> {
        let next = match PrivateKey::load(&next_file) {
            Ok(next) => Some(next),
            Err(KeyError::File(error)) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        // Without a time it counts as new.
        let made = std::fs::metadata(&file).and_then(|found| found.modified()).unwrap_or_else(|_| SystemTime::now());
        Ok(Self { file, next_file, every, made, next, accepted: None, refused: None, failed: None })
    }

    /// The public half of the next key.
    pub(super) fn next(&self) -> Option<String> {
        self.next.as_ref().map(|next| next.public().to_string())
    }

    /// Does what is due. The key that is to be used from now on, if it is another one.
    pub(super) async fn look(mut self, own: Option<&Pet>) -> (Self, Option<PrivateKey>) {
        let Some(own) = own.filter(|_| self.failed.is_none_or(|failed| failed.elapsed() >= RETRY)) else { return (self, None) };
        let facts = self.facts(own);
        if facts.refused && self.refused != self.next() {
            self.refused = self.next();
            let all = own.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let why = condition(all, conditions::NEXT_KEY_ACCEPTED).map(|condition| condition.message.as_str());
            warn!(why, "the tunnel's next key is refused: it keeps the one that it has");
        }
        let due = deed(&facts);
        if due == Deed::Nothing {
            return (self, None);
        }
        let done = tokio::task::spawn_blocking(move || {
            let done = match due {
                Deed::Make => self.make().map(|()| None),
                _ => self.take(),
            };
            (self, done)
        });
        match done.await {
            Ok((rotation, Ok(key))) => (rotation, key),
            Ok((mut rotation, Err(error))) => {
                warn!(error = &error as &dyn std::error::Error, "the tunnel keeps the key that it has; retrying");
                rotation.failed = Some(Instant::now());
                (rotation, None)
            }
            Err(error) => {
                warn!(%error, "the exchange of the tunnel's key broke down");
                std::future::pending().await
            }
        }
    }

    fn facts(&mut self, own: &Pet) -> Facts {
        let next = self.next();
        let status = own.status.clone().unwrap_or_default();
        let accepted = next.is_some() && status.next_public_key == next;
        self.accepted = accepted.then(|| self.accepted.unwrap_or_else(Instant::now));
        let verdict = condition(&status.conditions, conditions::NEXT_KEY_ACCEPTED);
        let is_refusal = verdict.is_some_and(|one| one.status == "False" && one.observed_generation == own.metadata.generation);
        Facts {
            every: self.every,
            age: self.made.elapsed().unwrap_or_default(),
            asked: own.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ROTATE_KEY_ANNOTATION)),
            next: next.is_some(),
            accepted: self.accepted.map(|since| since.elapsed()),
            refused: next.is_some() && own.spec.next_public_key == next && is_refusal,
        }
    }

    fn make(&mut self) -> Result<(), KeyError> {
        let next = PrivateKey::create(&self.next_file)?;
        info!(next = %next.public(), "the tunnel is to have another key");
        (self.next, self.accepted) = (Some(next), None);
        Ok(())
    }

    fn take(&mut self) -> Result<Option<PrivateKey>, KeyError> {
        let Some(next) = &self.next else { return Ok(None) };
        next.store(&self.file)?;
        // One that is left is the one in use: it would be taken once more, and nothing else.
        if let Err(error) = std::fs::remove_file(&self.next_file) {
            warn!(%error, "the file of the tunnel's next key is left");
        }
        info!(public_key = %next.public(), "the tunnel has another key");
        (self.made, self.accepted) = (SystemTime::now(), None);
        Ok(self.next.take())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_due() {
        let (day, month) = (Duration::from_secs(86_400), Duration::from_secs(30 * 86_400));
        let none = Facts { every: month, age: day, asked: false, next: false, accepted: None, refused: false };
        let next = Facts { next: true, age: month, ..none };
        let cases = [
            (none, Deed::Nothing),
            (Facts { age: month, ..none }, Deed::Make),
            (Facts { age: 100 * month, every: Duration::ZERO, ..none }, Deed::Nothing),
            (Facts { asked: true, ..none }, Deed::Make),
            (Facts { asked: true, every: Duration::ZERO, ..none }, Deed::Make),
            // The cluster is away, or has not decided: for as long as it takes.
            (next, Deed::Nothing),
            (Facts { asked: true, ..next }, Deed::Nothing),
            (Facts { accepted: Some(Duration::from_secs(9)), ..next }, Deed::Nothing),
            (Facts { accepted: Some(SETTLED), ..next }, Deed::Use),
            (Facts { accepted: Some(SETTLED), asked: true, ..next }, Deed::Use),
            (Facts { refused: true, ..next }, Deed::Nothing),
            (Facts { refused: true, asked: true, ..next }, Deed::Make),
        ];
        for (facts, expected) in cases {
            assert_eq!(deed(&facts), expected, "{facts:?}");
        }
    }

    struct Bench {
        folder: tempfile::TempDir,
        rotation: Option<Rotation>,
        old: String,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let old = PrivateKey::create(&folder.path().join("key")).unwrap().public().to_string();
            let mut bench = Self { folder, rotation: None, old };
            bench.restart();
            bench
        }

        fn restart(&mut self) {
            let file = |name| self.folder.path().join(name);
            self.rotation = Some(Rotation::open(file("key"), file("next"), Duration::ZERO).unwrap());
        }

        fn in_use(&self) -> String {
            PrivateKey::load(&self.folder.path().join("key")).unwrap().public().to_string()
        }

        async fn look(&mut self, pet: serde_json::Value) -> Option<PrivateKey> {
            let mut whole = json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": "a", "generation": 1},
                "spec": {"publicKey": self.old, "machineID": "12345678"}});
            for (part, content) in pet.as_object().unwrap() {
                for (field, value) in content.as_object().unwrap() {
                    whole[part][field] = value.clone();
                }
            }
            let (rotation, key) = self.rotation.take().unwrap().look(Some(&serde_json::from_value(whole).unwrap())).await;
            self.rotation = Some(rotation);
            key
        }

        fn next(&self) -> Option<String> {
            self.rotation.as_ref().unwrap().next()
        }

        fn settle(&mut self) {
            let accepted = &mut self.rotation.as_mut().unwrap().accepted;
            *accepted = accepted.unwrap().checked_sub(SETTLED);
        }
    }

    fn asked() -> serde_json::Value {
        json!({"metadata": {"annotations": {ROTATE_KEY_ANNOTATION: ""}}})
    }

    #[tokio::test]
    async fn a_process_that_ends_at_any_step_is_gone_on_with() {
        let mut bench = Bench::new();
        assert!(bench.look(json!({})).await.is_none() && bench.next().is_none());
        assert!(bench.look(asked()).await.is_none());
        let next = bench.next().unwrap();
        bench.restart();
        assert_eq!((bench.next(), bench.in_use()), (Some(next.clone()), bench.old.clone()), "made, and not yet named");
        let accepted = json!({"spec": {"nextPublicKey": next}, "status": {"publicKey": bench.old, "nextPublicKey": next}});
        assert!(bench.look(accepted.clone()).await.is_none(), "others do not know yet");
        bench.settle();
        assert_eq!(bench.look(accepted).await.unwrap().public().to_string(), next);
        assert_eq!((bench.next(), bench.in_use()), (None, next.clone()));
        bench.restart();
        assert_eq!((bench.next(), bench.in_use()), (None, next));
    }

    #[tokio::test]
    async fn a_refused_key_is_left_until_another_one_is_asked_for() {
        let mut bench = Bench::new();
        bench.look(asked()).await;
        let next = bench.next().unwrap();
        let refused = json!({"spec": {"nextPublicKey": next}, "status": {"publicKey": bench.old, "conditions": [{
            "type": "NextKeyAccepted", "status": "False", "reason": "PublicKeyInUse", "message": "b has it",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        assert!(bench.look(refused.clone()).await.is_none());
        assert_eq!((bench.next(), bench.in_use()), (Some(next.clone()), bench.old.clone()));
        let mut again = refused;
        again["metadata"] = asked()["metadata"].clone();
        assert!(bench.look(again).await.is_none());
        assert!(bench.next().is_some_and(|other| other != next));
        assert_eq!(bench.in_use(), bench.old);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_leaves_the_old_key() {
        let mut bench = Bench::new();
        bench.rotation.as_mut().unwrap().next_file = bench.folder.path().join("missing/next");
        assert!(bench.look(asked()).await.is_none());
        assert_eq!((bench.next(), bench.in_use()), (None, bench.old.clone()));
    }
}
