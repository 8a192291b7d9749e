//! Ends pods when the node runs short, one at a time, and pods that exceed their own limits of local storage: the kubelet's eviction
//! manager. Which pod, and the words, are decided in [`kube_pet_core::eviction`]; its worker ends it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::eviction::{self, Resource, Shortage};
use kube_pet_core::ids::PodUid;
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::{Eviction, Rejected, pod_uid};
use kube_pet_core::resources::is_critical;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{Signal, Threshold};
use crate::events::{EventRecorder, EventType};
use crate::images::collection::ImageReclaimer;
use crate::instruments;
use crate::node_status;
use crate::pods::inventory::Subscribers;
use crate::pods::store::PodStore;
use crate::stats::{Parts, StatsProvider, statuses};

/// The kubelet's `evictionMonitoringPeriod`.
const EVERY: Duration = Duration::from_secs(10);
/// How long the end of an evicted pod is waited for before the next look (`podCleanupTimeout`).
const END_WAIT: Duration = Duration::from_secs(30);
/// The node's status is measured as often as this module looks, at other moments.
const TOLD_WAIT: Duration = Duration::from_secs(12);
const DISK_PRESSURE: &str = "DiskPressure";
/// There is no time for more where a hard limit is met.
const GRACE_SECONDS: i64 = 1;

/// What it works with.
pub struct EvictionOptions {
    /// Measurements of pods.
    pub stats: StatsProvider,
    /// The pods.
    pub pods: PodStore,
    /// The node, with its conditions of pressure.
    pub node: watch::Receiver<Arc<NodeInfo>>,
    /// The way to their workers.
    pub workers: Subscribers,
    /// Events of the Node.
    pub events: EventRecorder,
    /// `evictionHard`
    pub limits: BTreeMap<Signal, Threshold>,
    /// The folder of the agent's state: nodefs.
    pub state: PathBuf,
    /// The folder of Podman's storage: imagefs.
    pub store: PathBuf,
    /// Images go before pods do.
    pub images: ImageReclaimer,
}

/// See the module.
pub struct EvictionManager {
    options: EvictionOptions,
}

impl EvictionManager {
    /// Does nothing yet.
    pub fn new(options: EvictionOptions) -> Self {
        Self { options }
    }

    /// Works until it is dropped.
    pub async fn run(self) {
        loop {
            let evicted = self.look().await;
            if evicted.is_empty() {
                tokio::time::sleep(EVERY).await;
            } else {
                self.ended(&evicted).await;
            }
        }
    }

    /// One look. Returns the pods that it evicted.
    async fn look(&self) -> Vec<PodUid> {
        let excessive = self.end_excessive().await;
        if !excessive.is_empty() {
            return excessive;
        }
        let Some((signal, shortage)) = self.shortage().await else { return Vec::new() };
        let resource = shortage.resource;
        info!(signal = signal.name(), limit = shortage.limit, available = shortage.available, "the node is short of {resource}");
        self.options.events.node_event(EventType::Warning, "EvictionThresholdMet", eviction::threshold_met(resource));
        let disk = matches!(resource, Resource::EphemeralStorage | Resource::Inodes);
        if disk {
            self.options.images.reclaim().await;
            if self.shortage().await.is_none() {
                info!("removing unused images was enough; no pod is evicted");
                return Vec::new();
            }
        }
        if disk {
            self.told(DISK_PRESSURE).await;
            // It may have passed meanwhile, or be another one.
            return match self.shortage().await {
                Some((signal, shortage)) => self.evict_one(signal, shortage).await,
                None => Vec::new(),
            };
        }
        self.evict_one(signal, shortage).await
    }

    /// The pod that is first to go.
    async fn evict_one(&self, signal: Signal, shortage: Shortage) -> Vec<PodUid> {
        let resource = shortage.resource;
        let mut pods = match self.options.stats.consumption(resource, self.parts(signal)).await {
            Ok(pods) => pods,
            Err(error) => {
                warn!(%error, "pods cannot be measured, so none is evicted");
                return Vec::new();
            }
        };
        // It is going already.
        pods.retain(|pod| !self.options.pods.by_uid(&pod.uid).is_some_and(|pod| is_ending(&pod)));
        let Some(pod) = eviction::first_to_go(resource, &pods) else {
            warn!(signal = signal.name(), "the node is short of {resource}, and there is no pod that may be evicted");
            return Vec::new();
        };
        instruments::EVICTIONS.add(&[signal.name()]);
        self.evict(&pod.uid, eviction::message(shortage, pod), Some(Timestamp::now()));
        vec![pod.uid.clone()]
    }

    /// Pods that exceed their own limits. They are measured only if there are any with limits.
    async fn end_excessive(&self) -> Vec<PodUid> {
        let limited = |pod: &Pod| !is_critical(pod) && !is_ending(pod) && eviction::has_storage_limits(pod);
        if !self.options.pods.list().iter().any(|pod| limited(pod)) {
            return Vec::new();
        }
        let Ok(measured) = self.options.stats.storage().await else { return Vec::new() };
        let mut evicted = Vec::new();
        for (pod, used) in measured.into_iter().filter(|(pod, _)| limited(pod)) {
            if let Some(excess) = eviction::storage_excess(&pod, &used) {
                let uid = pod_uid(&pod);
                instruments::EVICTIONS.add(&[excess.signal]);
                self.evict(&uid, excess.message, None);
                evicted.push(uid);
            }
        }
        evicted
    }

    /// Waits until the Node has the condition: what one eviction cures would else be over before the scheduler hears of it, and
    /// before admission refuses what would come in the pod's place.
    async fn told(&self, condition: &str) {
        let mut node = self.options.node.clone();
        let told = node.wait_for(|node| node.pressures.contains(condition));
        if tokio::time::timeout(TOLD_WAIT, told).await.is_err() {
            warn!(condition, "the node's status does not tell of the pressure yet");
        }
    }

    async fn shortage(&self) -> Option<(Signal, Shortage)> {
        let EvictionOptions { state, store, limits, .. } = &self.options;
        let (state, store, limits) = (state.clone(), store.clone(), limits.clone());
        let measured = tokio::task::spawn_blocking(move || node_status::shortages(state, store, &limits)).await;
        measured.unwrap_or_default().into_iter().min_by_key(|(_, shortage)| shortage.resource)
    }

    /// What of the pods' files is on the disk that a signal is about: all of it where there is only one disk.
    fn parts(&self, signal: Signal) -> Parts {
        let device = |path: &Path| std::fs::metadata(path).map(|folder| folder.dev()).ok();
        let two = device(&self.options.state) != device(&self.options.store);
        let images = matches!(signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
        Parts { layers: !two || images, volumes_and_logs: !two || !images }
    }

    fn evict(&self, uid: &PodUid, message: String, disruption: Option<Timestamp>) {
        let failed = Rejected { reason: eviction::REASON.into(), message };
        self.options.workers.evict(uid, Eviction { failed, grace_seconds: GRACE_SECONDS, disruption });
    }

    /// Waits until nothing of the pods runs: until then they use what the next look would find missing.
    async fn ended(&self, evicted: &[PodUid]) {
        let pods = &self.options.pods;
        let mut changes = pods.changes();
        let running = |pod: &Pod| statuses(pod).any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
        let deadline = Instant::now() + END_WAIT;
        while evicted.iter().any(|uid| pods.by_uid(uid).is_some_and(|pod| running(&pod))) {
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
        // The space that they had is given back a moment later.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Deleted, or at its end.
fn is_ending(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded"))
}
