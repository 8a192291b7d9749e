//! What the pod workers share: the machine's managers, the API server, the rules.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube_pet_core::accounts::Accounts;
use kube_pet_core::ids::{ContainerId, PodUid};
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::{BackoffPolicy, EventKind, PodEvent, Rules, pod_uid, status_patch};
use kube_pet_podman::Client;
use tokio::sync::watch;

use super::checkpoint::{self, Checkpoint, CheckpointError};
use super::exits::ExitWatcher;
use super::inventory::Subscribers;
use super::ledger::Ledger;
use super::oom::OomMark;
use super::sources::Source;
use super::store::PodStoreWriter;
use super::worker::Wanted;
use crate::api::ApiHandle;
use crate::events::{EventRecorder, EventType};
use crate::flusher::Flusher;
use crate::handlers::Handlers;
use crate::images::ImageManager;
use crate::objects::ObjectFetcher;
use crate::paths::Paths;
use crate::policies::PolicyGuard;
use crate::sandboxes::SandboxManager;
use crate::services::ServiceReader;
use crate::volumes::{PodVolumes, VolumeManager};

/// Settings that hold for every pod.
#[derive(Clone, Debug)]
pub struct PodSettings {
    /// This node's name.
    pub node_name: String,
    /// `clusterDNS`
    pub cluster_dns: Vec<String>,
    /// `clusterDomain`
    pub cluster_domain: String,
    /// Where the node's cache of the cluster's DNS listens, if there is one.
    pub dns_cache: Option<String>,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// The cgroup below which all pods are.
    pub cgroup_root: String,
    /// Patterns of unsafe sysctls that are allowed.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// `maxPods`
    pub max_pods: u32,
    /// `podPidsLimit`
    pub pod_pids_limit: Option<i64>,
    /// The kernel's OOM killer ends all processes of a container together.
    pub oom_group: bool,
    /// Crash back-off.
    pub crash: BackoffPolicy,
    /// Folder of Localhost seccomp profiles.
    pub seccomp_dir: PathBuf,
    /// The kernel makes mounts read-only with all mounts below them.
    pub recursive_read_only: bool,
    /// The machine enforces AppArmor profiles.
    pub app_armor: bool,
    /// Why pods with `hostUsers: false` cannot run here, if they cannot.
    pub no_user_namespaces: Option<String>,
}

/// Shared by all workers.
pub struct PodRuntime {
    pub(super) settings: PodSettings,
    pub(super) paths: Paths,
    pub(super) podman: Client,
    pub(super) images: ImageManager,
    pub(super) sandboxes: SandboxManager,
    pub(super) volumes: Arc<VolumeManager>,
    pub(super) objects: ObjectFetcher,
    pub(super) services: ServiceReader,
    pub(super) policies: PolicyGuard,
    pub(super) events: EventRecorder,
    pub(super) api: Option<ApiHandle>,
    pub(super) node: watch::Receiver<Arc<NodeInfo>>,
    pub(super) subscribers: Subscribers,
    pub(super) exits: ExitWatcher,
    pub(super) boot_id: String,
    pub(super) store: PodStoreWriter,
    pub(super) handlers: Handlers,
    /// When this agent started.
    pub(super) began: Instant,
    pub(super) shutdown: watch::Receiver<bool>,
    pub(super) flusher: Flusher,
    /// Admitted pods, and what each was given.
    pub(super) ledger: Mutex<Ledger>,
    /// Volumes known to be there.
    mounted: Mutex<BTreeMap<PodUid, Arc<PodVolumes>>>,
    /// Users and groups of images, by ID.
    pub(super) accounts: Mutex<BTreeMap<String, Arc<Accounts>>>,
    pub(super) synced: watch::Sender<bool>,
}

/// The parts that a [`PodRuntime`] is made of.
pub struct PodRuntimeParts {
    /// Settings.
    pub settings: PodSettings,
    /// Folders.
    pub paths: Paths,
    /// Podman.
    pub podman: Client,
    /// Images.
    pub images: ImageManager,
    /// Sandboxes.
    pub sandboxes: SandboxManager,
    /// Volumes.
    pub volumes: VolumeManager,
    /// Secrets, ConfigMaps, tokens.
    pub objects: ObjectFetcher,
    /// Services, for environment variables.
    pub services: ServiceReader,
    /// Who isolates pods before they start.
    pub policies: PolicyGuard,
    /// Events.
    pub events: EventRecorder,
    /// The API server, if there is one.
    pub api: Option<ApiHandle>,
    /// This node.
    pub node: watch::Receiver<Arc<NodeInfo>>,
    /// Who is told of sightings.
    pub subscribers: Subscribers,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// The pods' store.
    pub store: PodStoreWriter,
    /// Probes and hooks.
    pub handlers: Handlers,
    /// Whether the machine is being shut down.
    pub shutdown: watch::Receiver<bool>,
    /// Brings what starts have written to the disk.
    pub flusher: Flusher,
}

/// Whose status is written: the pod's own object, or a static pod's mirror.
#[derive(Clone, Debug)]
pub struct StatusTarget {
    namespace: String,
    name: String,
    uid: String,
}

/// A status that was not written.
#[derive(Debug)]
pub enum StatusWriteError {
    /// The object is not there any more, or is another one.
    Gone,
    /// Anything else: worth another try.
    Failed(String),
}

impl PodRuntime {
    /// Puts the parts together.
    pub fn new(parts: PodRuntimeParts) -> Self {
        let PodRuntimeParts {
            settings,
            paths,
            podman,
            images,
            sandboxes,
            volumes,
            objects,
            services,
            policies,
            events,
            api,
            node,
            subscribers,
            boot_id,
            store,
            handlers,
            shutdown,
            flusher,
        } = parts;
        let exits = ExitWatcher::new(podman.clone(), subscribers.clone());
        let (synced, _) = watch::channel(false);
        Self {
            settings,
            paths,
            podman,
            images,
            sandboxes,
            volumes: Arc::new(volumes),
            objects,
            services,
            policies,
            events,
            api,
            node,
            subscribers,
            exits,
            boot_id,
            store,
            handlers,
            began: Instant::now(),
            shutdown,
            flusher,
            ledger: Mutex::default(),
            mounted: Mutex::new(BTreeMap::new()),
            accounts: Mutex::default(),
            synced,
        }
    }

    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    pub(super) fn podman(&self) -> &Client {
        &self.podman
    }

    pub(super) fn node_name(&self) -> &str {
        &self.settings.node_name
    }

    /// Every source of pods has told everything that it has.
    pub(super) fn sources_synced(&self) {
        self.synced.send_replace(true);
        self.retry_resizes();
    }

    /// Becomes true once every source of pods has told everything.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            crash: self.settings.crash,
            image: BackoffPolicy::default(),
            recursive_read_only: self.settings.recursive_read_only,
            host_ips: self.node.borrow().host_ips.clone(),
        }
    }

    pub(super) fn touch(&self, uid: &PodUid, id: &ContainerId) {
        self.subscribers.touch(uid, id.clone());
    }

    pub(super) fn watch_exit(&self, pod: &Pod, id: &ContainerId) {
        self.exits.watch(pod_uid(pod), id.clone(), self.oom_mark(pod, id));
    }

    pub(super) fn oom_mark(&self, pod: &Pod, id: &ContainerId) -> OomMark {
        OomMark::new(self.paths.pod_dir(&pod_uid(pod)), self.pod_cgroup(pod), id)
    }

    pub(super) fn known_volumes(&self, uid: &PodUid) -> Option<Arc<PodVolumes>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    pub(super) fn remember_volumes(&self, uid: PodUid, volumes: Arc<PodVolumes>) {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, volumes);
    }

    pub(super) fn forget_volumes(&self, uid: &PodUid) {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    // --- records

    pub(super) async fn checkpoint(&self, uid: &PodUid, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        let (paths, uid) = (self.paths.clone(), uid.clone());
        let written = tokio::task::spawn_blocking(move || checkpoint::write(&paths, &uid, &checkpoint)).await;
        written.unwrap_or_else(|error| Err(CheckpointError::Interrupted(error)))
    }

    pub(super) fn record(&self, pod: &Pod, event: &PodEvent) {
        let kind = match event.kind {
            EventKind::Normal => EventType::Normal,
            EventKind::Warning => EventType::Warning,
        };
        let container = event.container.as_ref().map(|(kind, name)| (*kind, name.as_str()));
        self.event(pod, container, kind, event.reason, event.message.clone());
    }

    pub(super) fn warn(&self, pod: &Pod, container: Option<(kube_pet_core::pod::ContainerKind, &str)>, reason: &str, message: String) {
        self.event(pod, container, EventType::Warning, reason, message);
    }

    pub(super) fn note(&self, pod: &Pod, container: Option<(kube_pet_core::pod::ContainerKind, &str)>, reason: &str, message: String) {
        self.event(pod, container, EventType::Normal, reason, message);
    }

    fn event(
        &self,
        pod: &Pod,
        container: Option<(kube_pet_core::pod::ContainerKind, &str)>,
        kind: EventType,
        reason: &str,
        message: String,
    ) {
        let path = container.map(|(kind, name)| format!("spec.{}{{{name}}}", kind.field()));
        self.events.pod_event(pod, path, kind, reason, message);
    }

    // --- the API server

    pub(super) fn status_target(&self, wanted: &Wanted) -> Option<StatusTarget> {
        self.api.as_ref()?;
        let meta = &wanted.pod.metadata;
        let uid = match wanted.source {
            Source::Api => meta.uid.clone()?,
            Source::File => wanted.mirror.as_ref()?.uid.clone(),
        };
        Some(StatusTarget { namespace: meta.namespace.clone()?, name: meta.name.clone()?, uid })
    }

    /// Writes a status; returns the object's new resource version.
    pub(super) async fn write_status(&self, target: &StatusTarget, status: &PodStatus) -> Result<u64, StatusWriteError> {
        let Some(api) = &self.api else { return Err(StatusWriteError::Gone) };
        let pods: Api<Pod> = Api::namespaced(api.client(), &target.namespace);
        let (params, body) = (PatchParams::default(), Patch::Strategic(status_patch(&target.uid, status)));
        match tokio::time::timeout(API_DEADLINE, pods.patch_status(&target.name, &params, &body)).await {
            Ok(Ok(pod)) => Ok(pod.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or(0)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(StatusWriteError::Gone),
            Ok(Err(error)) => Err(StatusWriteError::Failed(error.to_string())),
            Err(_) => Err(StatusWriteError::Failed(format!("no answer from the API server within {} s", API_DEADLINE.as_secs()))),
        }
    }

    /// The end of a deletion: the final status, then the object goes.
    pub(super) async fn delete_object(&self, wanted: &Wanted, status: Option<&PodStatus>) -> Result<(), String> {
        let (Some(api), Source::Api) = (&self.api, wanted.source) else { return Ok(()) };
        let Some(target) = self.status_target(wanted) else { return Ok(()) };
        if let Some(status) = status {
            match self.write_status(&target, status).await {
                Ok(_) => {}
                Err(StatusWriteError::Gone) => return Ok(()),
                Err(StatusWriteError::Failed(error)) => return Err(error),
            }
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(target.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let pods: Api<Pod> = Api::namespaced(api.client(), &target.namespace);
        match tokio::time::timeout(API_DEADLINE, pods.delete(&target.name, &params)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer from the API server".into()),
        }
    }
}

/// Longer than the API server's own time-out for short requests would be of no use.
pub(super) const API_DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);
