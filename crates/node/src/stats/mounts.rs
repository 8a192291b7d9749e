//! The file systems that pods' volumes are mounted from: asked for their sizes as a whole, as the kubelet does. A server may not answer: each
//! is asked from a thread of its own that nobody waits for, and not again before it has answered.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube_pet_core::ids::PodUid;
use kube_pet_host::machine::{self, Filesystem};

/// How often each is asked (`volumeStatsAggPeriod`).
const EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Answer {
    under_way: AtomicBool,
    latest: Mutex<Option<Filesystem>>,
}

impl Answer {
    fn latest(&self) -> std::sync::MutexGuard<'_, Option<Filesystem>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Entry {
    path: PathBuf,
    answer: Arc<Answer>,
    due_at: Instant,
}

/// The sizes as last told.
#[derive(Default)]
pub(super) struct Mounts {
    entries: HashMap<PodUid, BTreeMap<String, Entry>>,
}

impl Mounts {
    /// Asks those that are due. Forgets pods and volumes that are not in `mounted`.
    pub(super) fn ask(&mut self, mounted: impl Iterator<Item = (PodUid, BTreeMap<String, PathBuf>)>) {
        let mut kept = HashMap::new();
        for (uid, volumes) in mounted.filter(|(_, volumes)| !volumes.is_empty()) {
            let mut known = self.entries.remove(&uid).unwrap_or_default();
            let entries = volumes.into_iter().map(|(name, path)| {
                let same = known.remove(&name).filter(|entry| entry.path == path);
                let mut entry = same.unwrap_or_else(|| Entry { path, answer: Arc::default(), due_at: Instant::now() });
                entry.ask();
                (name, entry)
            });
            kept.insert(uid, entries.collect());
        }
        self.entries = kept;
    }

    /// A pod's volumes that have answered.
    pub(super) fn of_pod(&self, uid: &PodUid) -> Vec<(String, Filesystem)> {
        let entries = self.entries.get(uid).into_iter().flatten();
        entries.filter_map(|(name, entry)| Some((name.clone(), (*entry.answer.latest())?))).collect()
    }
}

impl Entry {
    fn ask(&mut self) {
        if self.due_at > Instant::now() {
            return;
        }
        self.due_at = Instant::now() + EVERY;
        if self.answer.under_way.swap(true, Ordering::AcqRel) {
            // What it said a minute ago says nothing of now.
            *self.answer.latest() = None;
            return;
        }
        let (path, answer) = (self.path.clone(), self.answer.clone());
        let spawned = std::thread::Builder::new().name("volume size".to_owned()).spawn(move || {
            let told = machine::filesystem(&path).ok();
            *answer.latest() = told;
            answer.under_way.store(false, Ordering::Release);
        });
        if spawned.is_err() {
            self.answer.under_way.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_not_asked_again_and_has_no_size() {
        let (folder, uid) = (tempfile::tempdir().unwrap(), PodUid::new("u"));
        let mounted = || [(uid.clone(), BTreeMap::from([("v".to_owned(), folder.path().to_owned())]))].into_iter();
        let mut mounts = Mounts::default();
        mounts.ask(mounted());
        let began = Instant::now();
        while mounts.of_pod(&uid).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        assert_eq!(mounts.of_pod(&uid)[0].0, "v");
        let entry = mounts.entries.get_mut(&uid).unwrap().get_mut("v").unwrap();
        entry.due_at = Instant::now();
        entry.answer.under_way.store(true, Ordering::Release);
        mounts.ask(mounted());
        assert!(mounts.of_pod(&uid).is_empty());
        mounts.ask(std::iter::empty());
        assert!(mounts.entries.is_empty());
    }
}
