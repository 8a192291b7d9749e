//! The volumes of pods: set up before containers start, kept up to date while they run, taken down when they are gone.
//!
//! ```text
//! <pod dir>/volumes/kubernetes.io~<kind>/<volume>          on disk: emptyDir, configMap, downwardAPI, projected without secrets
//! <pod run dir>/volumes/kubernetes.io~<kind>/<volume>      in memory: secret, projected with secrets or tokens
//! <pod dir>/volumes/kubernetes.io~{local-volume,nfs}/<name> what is mounted there: a folder of the machine's, or a server's
//! <pod dir>/volumes/kubernetes.io~image/<volume>           an image, mounted
//! <pod dir>/claims.json                                    what claims are bound to
//! <pod dir>/volume-subpaths/<volume>/<container>/<index>   bound parts of volumes (subPath)
//! <pod dir>/plugins/kubernetes.io~empty-dir/<volume>/ready an emptyDir that is complete
//! ```
//! All of it can be done again at any time. Objects are fetched first, without touching the disk; the disk is then written from a
//! blocking thread, one at a time per pod. What is not the agent's own is looked at from threads of their own, with deadlines: see
//! `foreign.rs`.

mod claims;
mod container_mounts;
mod error;
mod foreign;
mod gather;
mod images;
mod layout;
mod nfs;
mod patience;
mod prepared;
mod record;
mod removal;
mod setup;
mod teardown;
mod trust_bundles;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::pod_uid;
use kube_pet_core::volumes::used_volumes;
use tokio_util::sync::CancellationToken;

use crate::instruments;
use crate::objects::ObjectFetcher;
use crate::paths::Paths;

pub use claims::ClaimProblem;
pub use container_mounts::ContainerMount;
pub use error::{SetUpError, VolumeError};
pub use kube_pet_core::volumes::{MountError, Propagation};
pub use prepared::PodVolumes;
pub use removal::{RemovalError, remove_tree};

use claims::ClaimResolver;
use foreign::Foreign;
use gather::{Step, Work};
use layout::Layout;
use nfs::NfsMount;
use prepared::{PreparedKind, PreparedVolume};
use setup::Done;

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

/// What goes on with a pod's volumes.
#[derive(Default)]
struct PodState {
    /// Its disk is changed by one thread at a time. Held in blocking threads only.
    disk: Arc<Mutex<()>>,
    /// The volumes are taken down: nothing is begun any more.
    ending: CancellationToken,
    /// What is mounted in its folders and not the agent's, by the volume's name.
    mounted: Mutex<BTreeMap<String, PathBuf>>,
}

/// Sets up, refreshes and takes down the volumes of this node's pods. Cheap to clone.
#[derive(Clone)]
pub struct VolumeManager {
    paths: Paths,
    objects: ObjectFetcher,
    claims: ClaimResolver,
    foreign: Foreign,
    recursive_read_only: bool,
    pods: Arc<Mutex<HashMap<PodUid, Arc<PodState>>>>,
}

impl VolumeManager {
    /// Volumes below `paths`, filled from `objects`.
    pub fn new(paths: Paths, objects: ObjectFetcher) -> Self {
        let claims = ClaimResolver::new(paths.clone(), objects.clone());
        let foreign = Foreign::new(paths.pods_dir());
        Self { paths, objects, claims, foreign, recursive_read_only: false, pods: Arc::default() }
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
        let state = self.state(&pod_uid(pod));
        let mut claims = self.claims.resolve(pod, &context.node, &state.ending).await;
        let problems = std::mem::take(&mut claims.problems);
        let steps = gather::steps(&self.objects, pod, context, claims).await;
        let (foreign, own): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|step| matches!(step.work, Ok(Work::HostPath { .. } | Work::Local(_) | Work::Nfs { .. })));
        let layout = Layout::new(&self.paths, &pod_uid(pod));
        let others = join_all(foreign.into_iter().map(|step| self.foreign_volume(&layout, &state, step)));
        let ending = state.ending.clone();
        let (own, others) = tokio::join!(self.on_disk(pod_uid(pod), move |layout| Ok(setup::all(layout, own, &ending))), others);
        let (mut volumes, mut failed) = (PodVolumes::default(), BTreeMap::new());
        for (warning, done) in own?.into_iter().map(|done| (None, done)).chain(others) {
            volumes.warnings.extend(warning);
            match done {
                (name, _, Ok(prepared)) => drop(volumes.by_name.insert(name, prepared)),
                (name, volume, Err(source)) => drop(failed.insert(name, VolumeError::SetUp { volume, source })),
            }
        }
        if failed.is_empty() && problems.is_empty() {
            return Ok(volumes);
        }
        // In the order of the spec.
        let place = |name: &str| used_volumes(pod).iter().position(|volume| volume.name == name);
        let claims = (!problems.is_empty()).then(|| {
            let mut unmounted: Vec<_> = failed.keys().chain(problems.keys()).cloned().collect();
            unmounted.sort_by_key(|name| place(name));
            let (failed, problems) = problems.into_iter().unzip();
            VolumeError::Claims { unmounted, failed, problems }
        });
        let mut errors: Vec<_> = failed.into_iter().collect();
        errors.sort_by_key(|(name, _)| place(name));
        Err(errors.into_iter().map(|(_, error)| error).chain(claims).collect())
    }

    async fn foreign_volume(&self, layout: &Layout, state: &PodState, step: Step) -> (Option<foreign::Warning>, Done) {
        let (kind, began) = (setup::kind_of(&step), Instant::now());
        let Step { volume, shown, work, group, .. } = step;
        let prepared = |path, kind, read_only| PreparedVolume { path, kind, read_only, group };
        let mounted = |path: &PathBuf| drop(lock(&state.mounted).insert(volume.clone(), path.clone()));
        let mut warning = None;
        let done = match work {
            Ok(Work::HostPath { path, wanted, read_only }) => {
                self.foreign.host_path(&path, wanted, &state.ending).await.map(|()| prepared(path, PreparedKind::HostPath, read_only))
            }
            Ok(Work::Local(local)) => {
                let (path, read_only) = (layout.volume(foreign::LOCAL, &local.name, false), local.read_only);
                self.foreign.local(local, path.clone(), state.ending.clone()).await.map(|told| {
                    warning = told;
                    mounted(&path);
                    prepared(path, PreparedKind::Local, read_only)
                })
            }
            Ok(Work::Nfs { name, source, options, read_only }) => {
                let target = layout.volume(foreign::NFS, &name, false);
                let mount = NfsMount { source, options, target: target.clone() };
                self.foreign.nfs(mount, state.ending.clone()).await.map(|()| {
                    mounted(&target);
                    prepared(target, PreparedKind::Server, read_only)
                })
            }
            Ok(Work::EmptyDir { .. } | Work::Payload { .. }) => Err(SetUpError::Unsupported { kind }),
            Err(error) => Err(error),
        };
        instruments::volume_mounted(kind, began.elapsed(), done.is_ok());
        (warning, (volume, shown, done))
    }

    /// Where volumes that are not the agent's are mounted in the pod's folders, by their names.
    pub fn mounted(&self, uid: &PodUid) -> BTreeMap<String, PathBuf> {
        let state = lock(&self.pods).get(uid).cloned();
        state.map(|state| lock(&state.mounted).clone()).unwrap_or_default()
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
            let done = setup::all(layout, steps, &CancellationToken::new());
            let failed = done.into_iter().filter_map(|(_, volume, done)| Some(VolumeError::SetUp { volume, source: done.err()? }));
            let failed: Vec<_> = failed.collect();
            if failed.is_empty() { Ok(()) } else { Err(failed) }
        })
        .await
    }

    /// Ends the setting up of a pod's volumes that is under way: it fails soon, also if a server keeps it waiting.
    pub fn give_up(&self, uid: &PodUid) {
        self.end(uid);
    }

    /// Unmounts and removes all volumes of a pod none of whose containers runs. Fine if there are none.
    ///
    /// # Errors
    /// What is left. Nothing is removed below something that is still mounted.
    pub async fn teardown(&self, uid: &PodUid) -> Result<(), Vec<VolumeError>> {
        self.objects.forget_pod(uid);
        let state = self.end(uid);
        let claims = self.claims.clone();
        let errors = self.foreign.unmount(uid, &Layout::new(&self.paths, uid)).await;
        let done = self.on_disk(uid.clone(), move |layout| teardown::all(layout, &claims, errors)).await;
        let mut pods = lock(&self.pods);
        if done.is_ok() && pods.get(uid).is_some_and(|now| Arc::ptr_eq(now, &state)) {
            pods.remove(uid);
        }
        done
    }

    fn state(&self, uid: &PodUid) -> Arc<PodState> {
        lock(&self.pods).entry(uid.clone()).or_default().clone()
    }

    /// Ends what goes on with a pod's volumes, and returns the state of what comes after.
    fn end(&self, uid: &PodUid) -> Arc<PodState> {
        let mut pods = lock(&self.pods);
        let mut next = PodState::default();
        if let Some(state) = pods.get(uid) {
            state.ending.cancel();
            next.disk = state.disk.clone();
        }
        let next = Arc::new(next);
        pods.insert(uid.clone(), next.clone());
        next
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
        let disk = self.state(&uid).disk.clone();
        let layout = Layout::new(&self.paths, &uid);
        let work = move || {
            let _alone = lock(&disk);
            work(&layout)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(vec![VolumeError::Interrupted]))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
