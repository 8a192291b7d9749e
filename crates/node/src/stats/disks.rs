//! What containers and volumes take up on the disk: counted in the background, one folder after the other.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::pod_uid;
use kube_pet_host::disk_usage::{DiskUsage, disk_usage};
use kube_pet_podman::Store;
use tracing::debug;

use super::VolumeSizes;
use super::snapshot::{Running, running_ids};
use crate::paths::Paths;

/// How often a folder is counted (`volumeStatsAggPeriod`, and cAdvisor's period for containers).
const EVERY: Duration = Duration::from_secs(60);
/// A folder that takes long is counted so much more rarely that counting takes at most this part of the time.
const REST_FACTOR: u32 = 50;
/// A folder is counted at least this often, however long it takes.
const RAREST: Duration = Duration::from_secs(30 * 60);
/// Counting stops for this round after so many folders; the rest is due in the next one.
const PER_ROUND: usize = 64;

/// Whose folder it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Owner {
    /// A container, by its ID.
    Container(String),
    /// A volume, by its name.
    Volume(String),
}

/// A folder to count.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pod: PodUid,
    owner: Owner,
    path: PathBuf,
}

/// What a count said.
pub(super) struct Measured {
    usage: Option<DiskUsage>,
    took: Duration,
}

impl Measured {
    /// Counts. Blocking.
    pub(super) fn now(folder: &Folder) -> Self {
        let began = Instant::now();
        let counted =
            disk_usage(&folder.path).inspect_err(|error| debug!(path = %folder.path.display(), %error, "a folder is not counted"));
        Self { usage: counted.ok(), took: began.elapsed() }
    }
}

struct Entry {
    usage: Option<DiskUsage>,
    due_at: Instant,
}

/// The sizes as last counted.
#[derive(Default)]
pub(super) struct Disks {
    entries: HashMap<PodUid, BTreeMap<Owner, Entry>>,
}

impl Disks {
    /// What to count now. Forgets pods, containers and volumes that are not there any more.
    pub(super) fn due(&mut self, paths: &Paths, pods: &[Running], store: Option<&Store>) -> Vec<Folder> {
        let layers = store.and_then(|store| store.writable_layers().inspect_err(|error| debug!(%error, "Podman's list of layers")).ok());
        let layers = layers.unwrap_or_default();
        let mut due = Vec::new();
        let mut kept = HashMap::with_capacity(pods.len());
        for running in pods {
            let uid = pod_uid(&running.pod);
            let containers = running_ids(running).filter_map(|id| Some((Owner::Container(id.to_owned()), layers.get(id)?.clone())));
            let volumes = volume_folders(paths, &uid, &running.pod).into_iter().map(|(name, path)| (Owner::Volume(name), path));
            let mut known = self.entries.remove(&uid).unwrap_or_default();
            let mut entries = BTreeMap::new();
            for (owner, path) in containers.chain(volumes) {
                let entry = known.remove(&owner).unwrap_or_else(|| Entry { usage: None, due_at: Instant::now() });
                if entry.due_at <= Instant::now() && due.len() < PER_ROUND {
                    due.push(Folder { pod: uid.clone(), owner: owner.clone(), path });
                }
                entries.insert(owner, entry);
            }
            kept.insert(uid, entries);
        }
        self.entries = kept;
        due
    }

    /// Keeps a count.
    pub(super) fn note(&mut self, folder: Folder, measured: Measured) {
        if let Some(entry) = self.entries.get_mut(&folder.pod).and_then(|entries| entries.get_mut(&folder.owner)) {
            entry.usage = measured.usage;
            entry.due_at = Instant::now() + (measured.took * REST_FACTOR).clamp(EVERY, RAREST);
        }
    }

    /// The sizes of a pod's containers by ID, and of its volumes by name.
    pub(super) fn of_pod(&self, uid: &PodUid) -> (BTreeMap<String, DiskUsage>, VolumeSizes) {
        let (mut containers, mut volumes) = (BTreeMap::new(), BTreeMap::new());
        for (owner, entry) in self.entries.get(uid).into_iter().flatten() {
            let Some(usage) = entry.usage else { continue };
            match owner {
                Owner::Container(id) => containers.insert(id.clone(), usage),
                Owner::Volume(name) => volumes.insert(name.clone(), usage),
            };
        }
        (containers, volumes)
    }
}

/// Kinds whose folders are others' file systems: they are not counted, and may not answer (see [`super::mounts`]).
const OTHERS: [&str; 2] = ["kubernetes.io~nfs", "kubernetes.io~local-volume"];

/// The folder of a pod's volume: on disk or in memory, whatever its kind.
pub(super) fn volume_folder(paths: &Paths, uid: &PodUid, volume: &str) -> Option<PathBuf> {
    let parents = [paths.pod_dir(uid), paths.pod_run_dir(uid)];
    let kinds = parents.into_iter().flat_map(|parent| std::fs::read_dir(parent.join("volumes")).into_iter().flatten().flatten());
    let mut folders = kinds.filter(|kind| !OTHERS.iter().any(|other| kind.file_name() == *other)).map(|kind| kind.path().join(volume));
    folders.find(|folder| folder.is_dir())
}

/// The folders of all of a pod's volumes that the agent has set up; those of the host's are the host's.
fn volume_folders(paths: &Paths, uid: &PodUid, pod: &Pod) -> Vec<(String, PathBuf)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let plain = |name: &str| !name.is_empty() && Path::new(name).components().count() == 1 && name != "..";
    volumes
        .filter(|volume| plain(&volume.name))
        .filter_map(|volume| Some((volume.name.clone(), volume_folder(paths, uid, &volume.name)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_counted_rarely_and_what_is_gone_is_forgotten() {
        let mut disks = Disks::default();
        let uid = PodUid::new("u");
        let folder = Folder { pod: uid.clone(), owner: Owner::Volume("v".into()), path: PathBuf::new() };
        let usage = Some(DiskUsage { bytes: 4096, inodes: 1 });
        disks.note(folder.clone(), Measured { usage, took: Duration::ZERO });
        assert!(disks.of_pod(&uid).1.is_empty(), "nobody has asked for it");
        let entry = || Entry { usage: None, due_at: Instant::now() };
        disks.entries.insert(uid.clone(), BTreeMap::from([(folder.owner.clone(), entry())]));
        for (took, wait) in [(Duration::ZERO, EVERY), (Duration::from_secs(2), Duration::from_secs(100)), (RAREST, RAREST)] {
            disks.note(folder.clone(), Measured { usage, took });
            let due = disks.entries[&uid][&folder.owner].due_at.saturating_duration_since(Instant::now());
            assert!(due <= wait && due + Duration::from_secs(5) > wait, "{took:?}: {due:?}");
        }
        assert_eq!(disks.of_pod(&uid).1["v"].bytes, 4096);
        let root = tempfile::tempdir().unwrap();
        assert!(disks.due(&Paths::new(root.path()), &[], None).is_empty());
        assert!(disks.of_pod(&uid).1.is_empty());
    }

    #[test]
    fn volumes_are_found_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        let (paths, uid) = (Paths::new(root.path()), PodUid::new("u"));
        let disk = paths.pod_dir(&uid).join("volumes/kubernetes.io~empty-dir/data");
        let memory = paths.pod_run_dir(&uid).join("volumes/kubernetes.io~secret/keys");
        let server = paths.pod_dir(&uid).join("volumes/kubernetes.io~nfs/net");
        for folder in [&disk, &memory, &server] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [], "volumes": [
            {"name": "data", "emptyDir": {}}, {"name": "keys", "secret": {"secretName": "s"}},
            {"name": "host", "hostPath": {"path": "/"}}, {"name": "..", "emptyDir": {}}, {"name": "net", "nfs": {"server": "s", "path": "/"}}]}}))
        .unwrap();
        assert_eq!(volume_folders(&paths, &uid, &pod), [("data".to_owned(), disk), ("keys".to_owned(), memory)]);
    }
}
