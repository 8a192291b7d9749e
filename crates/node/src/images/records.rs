//! Which images were pulled with whose credentials, so that a pod without them cannot use an image that happens to be in
//! the store. The kubelet's rule (`NeverVerifyPreloadedImages`): an image that this agent never pulled is free for all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kube_pet_host::files::write_durable;
use serde::{Deserialize, Serialize};

use super::keyring::{Credential, SecretSource};

/// Secrets that are remembered per image and repository; a cluster that copies one Secret into many namespaces would
/// otherwise let the record grow without end.
const MAX_SECRETS: usize = 100;

/// Who may use an image without pulling it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Access {
    /// Pulled without a pod's credentials: every pod on the node.
    node_pods_accessible: bool,
    kubernetes_secrets: BTreeSet<SecretSource>,
}

/// One image, by ID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    image_ref: String,
    /// By repository (registry and path, without tag).
    credential_mapping: BTreeMap<String, Access>,
    /// It was in the store before the agent first pulled it: somebody else's.
    found_there: bool,
}

/// The records, in memory and on disk. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PullRecords {
    dir: Option<PathBuf>,
    known: Arc<Mutex<HashMap<String, Record>>>,
    /// Pulls that have not come to an end, by name; with the image that had the name before, and was whole.
    pulling: Arc<Mutex<HashMap<String, Option<String>>>>,
    /// Those of an earlier run.
    cut_off: Arc<Mutex<HashMap<String, Option<String>>>>,
}

impl PullRecords {
    /// The records below `dir`; without one they are only in memory. A file that cannot be read counts as an image that was
    /// pulled by someone unknown: it must be pulled again, which is the safe side.
    pub fn open(dir: Option<PathBuf>) -> Self {
        let mut known = HashMap::new();
        let mut pulling = HashMap::new();
        for path in files(dir.as_deref(), "pulled") {
            let record = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let id = file_stem(&path);
            if record.is_none() {
                tracing::warn!(path = %path.display(), "a record of a pulled image cannot be read: the image will be pulled again");
            }
            known.insert(id.clone(), record.unwrap_or(Record { image_ref: id, ..Record::default() }));
        }
        for path in files(dir.as_deref(), "pulling") {
            if let Ok(intent) = std::fs::read_to_string(&path) {
                let mut lines = intent.lines().map(str::to_owned);
                pulling.insert(lines.next().unwrap_or_default(), lines.next());
            }
        }
        let cut_off = Arc::new(Mutex::new(pulling.clone()));
        Self { dir, known: Arc::new(Mutex::new(known)), pulling: Arc::new(Mutex::new(pulling)), cut_off }
    }

    /// Whether a pod with these credentials may use the image that is in the store already.
    pub fn allows(&self, reference: &str, repository: &str, id: &str, credentials: &[Credential]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = known.get(id) else {
            // Not ours: somebody put it there for everybody, unless our own pull of it was cut off before it was recorded.
            let pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
            return pulling.get(reference).is_none_or(|before| before.as_deref() == Some(id));
        };
        let Some(access) = record.credential_mapping.get(repository) else {
            return false;
        };
        access.node_pods_accessible
            || credentials.iter().any(|credential| {
                let own = &credential.source;
                access.kubernetes_secrets.iter().any(|secret| {
                    // The same credentials in another Secret, or the same Secret with renewed credentials.
                    secret.credential_hash == own.credential_hash
                        || (&secret.uid, &secret.namespace, &secret.name) == (&own.uid, &own.namespace, &own.name)
                })
            })
    }

    /// Whether a pull of this name was cut off before this run, and what it has left has not been dealt with; with the image that had the
    /// name before, and was whole.
    pub fn cut_off(&self, reference: &str) -> Option<Option<String>> {
        self.cut_off.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned()
    }

    /// What the pull has left that was cut off is dealt with.
    pub fn cleared(&self, reference: &str) {
        self.cut_off.lock().unwrap_or_else(PoisonError::into_inner).remove(reference);
    }

    /// A pull begins: an image that appears from now on is not somebody else's, and not whole before the pull has come to its end. `before`
    /// is the image that has the name now. Whether this is the only pull of it. Blocks for a small file.
    pub fn intend(&self, reference: &str, before: Option<&str>) -> std::io::Result<bool> {
        {
            let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
            if pulling.contains_key(reference) {
                return Ok(false);
            }
            pulling.insert(reference.to_owned(), before.map(str::to_owned));
        }
        if let Some(dir) = &self.dir {
            let lines: Vec<&str> = [reference].into_iter().chain(before).collect();
            write(&dir.join("pulling"), &file_name(reference), lines.join("\n").as_bytes())?;
        }
        Ok(true)
    }

    /// Whether a pull of this image has come to its end, so that it is on the disk.
    pub fn is_whole(&self, id: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Whether the agent brought the image, in every repository that it has a name in. One that was there before, or that somebody
    /// else gave a name of his own, is not ours to remove.
    pub fn brought<'a>(&self, id: &str, repositories: impl IntoIterator<Item = &'a str>) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = known.get(id).filter(|record| !record.found_there && !record.credential_mapping.is_empty()) else {
            return false;
        };
        repositories.into_iter().all(|repository| record.credential_mapping.contains_key(repository))
    }

    /// A pull succeeded, with these credentials or none; `before` is the image that had the name until then. Blocks for a small file.
    pub fn pulled(
        &self,
        reference: &str,
        repository: &str,
        id: &str,
        before: Option<&str>,
        used: Option<&SecretSource>,
    ) -> std::io::Result<()> {
        let record = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let found_there = before == Some(id) && !known.contains_key(id);
            let record = known.entry(id.to_owned()).or_default();
            record.found_there |= found_there;
            let before = record.clone();
            id.clone_into(&mut record.image_ref);
            let access = record.credential_mapping.entry(repository.to_owned()).or_default();
            match used {
                None => *access = Access { node_pods_accessible: true, ..Access::default() },
                Some(_) if access.node_pods_accessible => {}
                Some(secret) => {
                    access.kubernetes_secrets.retain(|s| (&s.uid, &s.name, &s.namespace) != (&secret.uid, &secret.name, &secret.namespace));
                    if access.kubernetes_secrets.len() < MAX_SECRETS {
                        access.kubernetes_secrets.insert(secret.clone());
                    }
                }
            }
            (found_there || *record != before).then(|| record.clone())
        };
        if let (Some(dir), Some(record)) = (&self.dir, record) {
            let json = serde_json::to_vec(&record).map_err(std::io::Error::other)?;
            write(&dir.join("pulled"), id, &json)?;
        }
        // Only now: an agent that dies in between finds the intent and asks for credentials.
        self.abandon(reference);
        Ok(())
    }

    /// A pull failed.
    pub fn abandon(&self, reference: &str) {
        self.pulling.lock().unwrap_or_else(PoisonError::into_inner).remove(reference);
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_file(dir.join("pulling").join(file_name(reference)));
        }
    }

    /// Forgets images that are not in the store any more.
    pub fn prune(&self, present: &BTreeSet<String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| {
            let keep = present.contains(id);
            if let (false, Some(dir)) = (keep, &self.dir) {
                let _ = std::fs::remove_file(dir.join("pulled").join(id));
            }
            keep
        });
    }
}

fn files(dir: Option<&Path>, kind: &str) -> Vec<PathBuf> {
    let Some(dir) = dir else { return Vec::new() };
    std::fs::read_dir(dir.join(kind))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_none())
        .collect()
}

fn file_stem(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A reference has slashes; its own text is in the file.
fn file_name(reference: &str) -> String {
    reference.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Whole or not at all, and there after a power cut: an intent that is lost would make a damaged image a good one.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    write_durable(&dir.join(name), bytes, 0o644).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use kube_pet_podman::RegistryAuth;

    use super::*;

    fn credential(uid: &str, hash: &str) -> Credential {
        Credential {
            auth: RegistryAuth::default(),
            source: SecretSource { uid: uid.into(), namespace: "ns".into(), name: "s".into(), credential_hash: hash.into() },
        }
    }

    #[test]
    fn only_who_has_the_credentials_may_use_an_image_pulled_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let records = PullRecords::open(Some(dir.path().into()));
        assert!(records.allows("r/a:1", "r/a", "id", &[]), "preloaded: free for all");
        records.intend("r/a:1", None).unwrap();
        assert!(!records.allows("r/a:1", "r/a", "id", &[]), "being pulled: not free");
        let own = credential("u1", "h1");
        records.pulled("r/a:1", "r/a", "id", None, Some(&own.source)).unwrap();
        for records in [records.clone(), PullRecords::open(Some(dir.path().into()))] {
            assert!(!records.allows("r/a:1", "r/a", "id", &[]));
            assert!(records.allows("r/a:1", "r/a", "id", std::slice::from_ref(&own)));
            assert!(records.allows("r/a:1", "r/a", "id", &[credential("u1", "h2")]), "renewed");
            assert!(records.allows("r/a:1", "r/a", "id", &[credential("u2", "h1")]), "copied");
            assert!(!records.allows("r/a:1", "r/a", "id", &[credential("u2", "h2")]));
            assert!(!records.allows("r/b:1", "r/b", "id", std::slice::from_ref(&own)), "another repository");
        }
        records.pulled("r/a:1", "r/a", "id", None, None).unwrap();
        assert!(records.allows("r/a:1", "r/a", "id", &[]), "the registry gives it to anybody");
    }

    #[test]
    fn a_pull_that_was_cut_off_is_remembered_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        PullRecords::open(Some(dir.path().into())).intend("r/a:1", None).unwrap();
        let records = PullRecords::open(Some(dir.path().into()));
        assert!(!records.allows("r/a:1", "r/a", "id", &[]));
        assert_eq!(records.cut_off("r/a:1"), Some(None));
        records.cleared("r/a:1");
        assert_eq!(records.cut_off("r/a:1"), None);
        records.abandon("r/a:1");
        assert!(PullRecords::open(Some(dir.path().into())).allows("r/a:1", "r/a", "id", &[]));
    }

    #[test]
    fn what_was_there_before_a_pull_that_was_cut_off_is_known_and_stays_usable() {
        let dir = tempfile::tempdir().unwrap();
        assert!(PullRecords::open(Some(dir.path().into())).intend("r/a:1", Some("old")).unwrap());
        let records = PullRecords::open(Some(dir.path().into()));
        assert_eq!(records.cut_off("r/a:1"), Some(Some("old".to_owned())));
        assert!(records.allows("r/a:1", "r/a", "old", &[]) && !records.allows("r/a:1", "r/a", "new", &[]));
        // What is there now may be what the first one has left.
        assert!(!records.intend("r/a:1", Some("new")).unwrap());
        let later = PullRecords::open(Some(dir.path().into()));
        assert_eq!(later.cut_off("r/a:1"), Some(Some("old".to_owned())));
    }

    #[test]
    fn an_image_is_ours_if_we_brought_it_under_all_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let records = PullRecords::open(Some(dir.path().into()));
        assert!(!records.brought("id", []), "never pulled");
        records.pulled("r/a:1", "r/a", "id", Some("older"), None).unwrap();
        records.pulled("r/b:1", "r/b", "there", Some("there"), None).unwrap();
        records.pulled("r/b:1", "r/b", "there", Some("there"), None).unwrap();
        records.pulled("r/a:1", "r/a", "id", Some("id"), None).unwrap();
        for records in [records.clone(), PullRecords::open(Some(dir.path().into()))] {
            assert!(records.brought("id", ["r/a"]), "pulled again is still ours");
            assert!(records.brought("id", []), "its name was taken by a newer one");
            assert!(!records.brought("id", ["r/a", "localhost/mine"]), "somebody gave it a name");
            assert!(!records.brought("there", ["r/b"]), "it was there before");
        }
    }

    #[test]
    fn a_broken_record_is_on_the_safe_side_and_goes_with_its_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("pulled")).unwrap();
        std::fs::write(dir.path().join("pulled/id"), b"{").unwrap();
        let records = PullRecords::open(Some(dir.path().into()));
        assert!(!records.allows("r/a:1", "r/a", "id", &[]));
        records.prune(&["other".to_owned()].into());
        assert!(records.allows("r/a:1", "r/a", "id", &[]));
        assert!(!dir.path().join("pulled/id").exists());
    }
}
