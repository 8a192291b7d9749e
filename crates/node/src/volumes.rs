//! The volumes of pods: set up before containers start, kept up to date while they run, taken down when they are gone.
//!
//! ```text
//! <pod dir>/volumes/kubernetes.io~<kind>/<volume>          on disk: emptyDir, configMap, downwardAPI, projected without secrets
//! <pod run dir>/volumes/kubernetes.io~<kind>/<volume>      in memory: secret, projected with secrets or tokens
//! <pod dir>/volume-subpaths/<volume>/<container>/<index>   bound parts of volumes (subPath)
//! <pod dir>/plugins/kubernetes.io~empty-dir/<volume>/ready an emptyDir that is complete
//! ```
//! All of it can be done again at any time. Objects are fetched first, without touching the disk; the disk is then written from a
//! blocking thread, one at a time per pod.

mod container_mounts;
mod error;
mod gather;
mod layout;
mod removal;
mod setup;
mod teardown;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::pod_uid;

use crate::objects::ObjectFetcher;
use crate::paths::Paths;

pub use container_mounts::ContainerMount;
pub use error::{SetUpError, VolumeError};
pub use kube_pet_core::volumes::{MountError, Propagation};
pub use removal::{RemovalError, remove_tree};

use layout::Layout;

/// What volumes need to know of the pod's surroundings.
#[derive(Clone, Debug, Default)]
pub struct VolumeContext {
    /// This node: the defaults of resource fields, the size of memory-backed volumes.
    pub node: Arc<NodeInfo>,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
}

/// The volumes of a pod, ready to be mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodVolumes {
    by_name: BTreeMap<String, PreparedVolume>,
}

impl PodVolumes {
    /// The path of a volume on this machine.
    pub fn path(&self, volume: &str) -> Option<&PathBuf> {
        self.by_name.get(volume).map(|volume| &volume.path)
    }
}

/// One volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PreparedVolume {
    path: PathBuf,
    kind: PreparedKind,
}

/// Who owns a volume's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreparedKind {
    /// The pod: it may write, and the files end with it.
    Scratch,
    /// The agent: it writes them, the pod reads.
    Payload,
    /// The machine: neither labelled nor removed by us.
    HostPath,
}

/// Sets up, refreshes and takes down the volumes of this node's pods. Cheap to clone.
#[derive(Clone)]
pub struct VolumeManager {
    paths: Paths,
    objects: ObjectFetcher,
    recursive_read_only: bool,
    /// One lock per pod: its disk is changed by one thread at a time. Held in blocking threads only.
    locks: Arc<Mutex<HashMap<PodUid, Arc<Mutex<()>>>>>,
}

impl VolumeManager {
    /// Volumes below `paths`, filled from `objects`.
    pub fn new(paths: Paths, objects: ObjectFetcher) -> Self {
        Self { paths, objects, recursive_read_only: false, locks: Arc::default() }
    }

    /// Whether the runtime can make mounts read-only with all mounts below them (`recursiveReadOnly`).
    pub fn with_recursive_read_only(mut self, supported: bool) -> Self {
        self.recursive_read_only = supported;
        self
    }

    /// Makes every volume that the pod's containers mount ready. Call it before each container start and whenever it failed; what
    /// is ready stays as it is.
    ///
    /// # Errors
    /// One error per volume that is not ready, for a `FailedMount` event each. The others are ready nevertheless.
    pub async fn prepare(&self, pod: &Pod, context: &VolumeContext) -> Result<PodVolumes, Vec<VolumeError>> {
        let steps = gather::steps(&self.objects, pod, context).await;
        self.on_disk(pod_uid(pod), move |layout| setup::all(layout, steps)).await
    }

    /// Brings the files of configMap, secret, downwardAPI and projected volumes up to date; renews tokens that are old. Call it
    /// about once a minute while containers run. Volumes that are not there yet stay away.
    ///
    /// # Errors
    /// One error per volume that keeps its old files.
    pub async fn refresh(&self, pod: &Pod, context: &VolumeContext) -> Result<(), Vec<VolumeError>> {
        let uid = pod_uid(pod);
        let mut steps = gather::payload_steps(&self.objects, pod, context).await;
        self.on_disk(uid, move |layout| {
            steps.retain(|step| setup::has_payload(layout, step));
            setup::all(layout, steps).map(drop)
        })
        .await
    }

    /// Unmounts and removes all volumes of a pod none of whose containers runs. Fine if there are none.
    ///
    /// # Errors
    /// What is left. Nothing is removed below something that is still mounted.
    pub async fn teardown(&self, uid: &PodUid) -> Result<(), Vec<VolumeError>> {
        self.objects.forget_pod(uid);
        let done = self.on_disk(uid.clone(), teardown::all).await;
        if done.is_ok() {
            self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        }
        done
    }

    /// Pods that have a folder on this machine and are not in `known`.
    ///
    /// # Errors
    /// A folder that cannot be listed: nothing may then be concluded.
    pub async fn orphans(&self, known: impl IntoIterator<Item = PodUid>) -> Result<Vec<PodUid>, VolumeError> {
        let (paths, known) = (self.paths.clone(), known.into_iter().collect());
        match tokio::task::spawn_blocking(move || teardown::orphans(&paths, &known)).await {
            Ok(found) => found,
            Err(_) => Err(VolumeError::Interrupted),
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        uid: PodUid,
        work: impl FnOnce(&Layout) -> Result<T, Vec<VolumeError>> + Send + 'static,
    ) -> Result<T, Vec<VolumeError>> {
        let lock = self.locks.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.clone()).or_default().clone();
        let layout = Layout::new(&self.paths, &uid);
        let work = move || {
            let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
            work(&layout)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(vec![VolumeError::Interrupted]))
    }
}

#[cfg(test)]
mod tests;
