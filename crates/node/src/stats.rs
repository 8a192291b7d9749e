//! What the node and its pods use, measured: `/stats/summary`, `/metrics/resource`, `/metrics/cadvisor`.
//!
//! A question is answered from files of the kernel at the moment it is asked: cgroups, `/proc`, the counters of the pods' links.
//! Podman is not asked. Three things are measured beforehand by [`StatsProvider::run`], because they need time: the CPU counters of
//! ten seconds ago, which rates are computed from; what containers and volumes take up on the disk, which is counted file by file
//! (at most once a minute each, rarer where it takes long; file systems that volumes are mounted from are asked instead); and the sizes of images, from the lists in Podman's storage.
//!
//! Answers are shared for a second. What cannot be measured is missing from an answer, not 0.

mod cadvisor;
mod consumption;
mod disks;
mod mounts;
mod rates;
mod resource;
mod snapshot;
mod summary;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::pod::pod_uid;
use kube_pet_host::cgroups::Detail;
use kube_pet_host::disk_usage::DiskUsage;
use kube_pet_host::machine::Filesystem;
use kube_pet_podman::{Client, Store};
use tracing::{debug, warn};

use crate::paths::Paths;
use crate::pods::store::PodStore;
use crate::sandboxes::SandboxManager;
use crate::volumes::VolumeManager;
pub(crate) use consumption::Parts;
use disks::Disks;
use mounts::Mounts;
use rates::Rates;
pub(crate) use snapshot::statuses;
use snapshot::{Snapshot, claim_of};

/// How often the CPU counters are kept, and due folders counted: cAdvisor's housekeeping interval in a kubelet.
const TICK: Duration = Duration::from_secs(10);

/// Answers this young are given again.
const FRESH: Duration = Duration::from_secs(1);

/// Where things are.
#[derive(Clone)]
pub struct StatsOptions {
    /// This node's name.
    pub node_name: String,
    /// Folders.
    pub paths: Paths,
    /// The cgroup that all pods are below.
    pub pods_cgroup: String,
    /// The pods.
    pub pods: PodStore,
    /// For the names of their links.
    pub sandboxes: SandboxManager,
    /// For what is mounted in their folders.
    pub volumes: VolumeManager,
    /// Asked once, for the place of its storage, and for the process of its service.
    pub podman: Client,
    /// Its storage as far as the settings tell, until it has answered.
    pub image_store: PathBuf,
}

/// Measures. Cheap to clone.
#[derive(Clone)]
pub struct StatsProvider {
    inner: Arc<Inner>,
}

struct Inner {
    options: StatsOptions,
    rates: Mutex<Rates>,
    disks: Mutex<Disks>,
    mounts: Mutex<Mounts>,
    store: Mutex<Option<Store>>,
    /// One measurement at a time; who comes meanwhile gets the same.
    latest: tokio::sync::Mutex<Option<(Instant, Detail, Arc<Snapshot>)>>,
}

/// A volume of a claim, for `kubelet_volume_stats_*`.
pub(crate) struct ClaimUsage {
    pub(crate) namespace: String,
    pub(crate) claim: String,
    pub(crate) filesystem: Filesystem,
}

/// The measuring failed altogether.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The machine's cgroups cannot be read.
    #[error("failed to get root cgroup stats: {0}")]
    Root(#[from] kube_pet_host::cgroups::CgroupError),
    /// The measuring thread broke down.
    #[error("the measurement was interrupted")]
    Interrupted,
}

impl StatsProvider {
    /// Measures nothing yet; see [`StatsProvider::run`].
    pub fn new(options: StatsOptions) -> Self {
        let inner = Inner {
            options,
            rates: Mutex::default(),
            disks: Mutex::default(),
            mounts: Mutex::default(),
            store: Mutex::default(),
            latest: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Keeps what needs time up to date, until it is dropped.
    pub async fn run(self) {
        loop {
            if lock(&self.inner.store).is_none() {
                match self.inner.options.podman.info().await {
                    Ok(info) => *lock(&self.inner.store) = Some(Store::new(info.store.graph_root, info.store.graph_driver_name)),
                    Err(error) => debug!(%error, "the place of Podman's storage is not known yet"),
                }
            }
            let service = snapshot::podman_service(self.inner.options.podman.socket()).await;
            let inner = self.inner.clone();
            if tokio::task::spawn_blocking(move || inner.tick(service)).await.is_err() {
                warn!("a measurement in the background broke down");
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn snapshot(&self, detail: Detail) -> Result<Arc<Snapshot>, StatsError> {
        let mut latest = self.inner.latest.lock().await;
        if let Some((at, read, snapshot)) = &*latest
            && at.elapsed() < FRESH
            && *read >= detail
        {
            return Ok(snapshot.clone());
        }
        let service = snapshot::podman_service(self.inner.options.podman.socket()).await;
        let inner = self.inner.clone();
        let measured = tokio::task::spawn_blocking(move || snapshot::measure(&inner, detail, service)).await;
        let snapshot = Arc::new(measured.map_err(|_| StatsError::Interrupted)??);
        *latest = Some((Instant::now(), detail, snapshot.clone()));
        Ok(snapshot)
    }

    /// `/stats/summary`.
    pub(crate) async fn summary(&self, only_cpu_and_memory: bool) -> Result<summary::Summary, StatsError> {
        let snapshot = self.snapshot(if only_cpu_and_memory { Detail::CpuAndMemory } else { Detail::All }).await?;
        Ok(summary::summary(&self.inner.options.node_name, &snapshot, only_cpu_and_memory))
    }

    /// `/metrics/resource`. An error is told in it, as the kubelet does.
    pub(crate) async fn resource_metrics(&self) -> String {
        let snapshot = self.snapshot(Detail::CpuAndMemory).await.inspect_err(|error| warn!(%error, "resource metrics")).ok();
        resource::write(snapshot.as_deref())
    }

    /// `/metrics/cadvisor`.
    pub(crate) async fn cadvisor_metrics(&self) -> String {
        let snapshot = self.snapshot(Detail::All).await.inspect_err(|error| warn!(%error, "container metrics")).ok();
        cadvisor::write(snapshot.as_deref())
    }

    /// The kubelet's name of the plugin that a claim of the pod's is mounted by; `None` if it is not mounted (hostPaths never are).
    pub(crate) fn plugin_of_claim(&self, pod: &Pod, volume: &str) -> Option<String> {
        let mounted = self.inner.options.volumes.mounted(&pod_uid(pod));
        Some(mounted.get(volume)?.parent()?.file_name()?.to_str()?.replace('~', "/"))
    }

    /// The file systems of claims that pods have mounted.
    pub(crate) fn claims(&self) -> Vec<ClaimUsage> {
        let mounts = lock(&self.inner.mounts);
        let pods = self.inner.options.pods.list();
        let of_pod = |pod: &Arc<Pod>| {
            let mounted = mounts.of_pod(&pod_uid(pod)).into_iter();
            let claims = mounted.filter_map(|(volume, filesystem)| {
                Some(ClaimUsage { namespace: pod.metadata.namespace.clone()?, claim: claim_of(pod, &volume)?, filesystem })
            });
            claims.collect::<Vec<_>>()
        };
        pods.iter().flat_map(of_pod).collect()
    }
}

impl Inner {
    /// Blocking: reads one counter per group, and counts what is due.
    fn tick(&self, service: Option<u32>) {
        let options = &self.options;
        let pods = snapshot::running(options);
        let groups = snapshot::groups(options, &pods, service);
        lock(&self.rates).keep(groups);
        lock(&self.mounts).ask(pods.iter().map(|running| pod_uid(&running.pod)).map(|uid| (uid.clone(), options.volumes.mounted(&uid))));
        let store = lock(&self.store).clone();
        let due = lock(&self.disks).due(&options.paths, &pods, store.as_ref());
        for folder in due {
            // Without the lock: a large folder takes its time, and answers must not wait for it.
            let measured = disks::Measured::now(&folder);
            lock(&self.disks).note(folder, measured);
        }
    }

    fn image_store(&self) -> (PathBuf, Option<u64>) {
        let store = lock(&self.store).clone();
        let bytes = store.as_ref().and_then(|store| store.image_bytes().ok());
        (store.map_or_else(|| self.options.image_store.clone(), |store| store.root().to_owned()), bytes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sizes of a pod's folders as last counted, by volume name.
type VolumeSizes = BTreeMap<String, DiskUsage>;

#[cfg(test)]
mod tests;
