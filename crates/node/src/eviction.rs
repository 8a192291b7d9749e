//! Ends pods when the node runs short, one at a time, and pods that exceed their own limits of local storage: the kubelet's eviction
//! manager. Which pod, and the words, are decided in [`kube_pet_core::eviction`]; its worker ends it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::eviction::{self, Look, Resource, Shortage, Signal};
use kube_pet_core::ids::PodUid;
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::{Disruption, Eviction, Rejected, pod_uid};
use kube_pet_core::resources::is_critical;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::events::{EventRecorder, EventType};
use crate::images::collection::ImageReclaimer;
use crate::instruments;
use crate::node_status::Gauge;
use crate::pods::inventory::Subscribers;
use crate::pods::store::PodStore;
use crate::stats::{Parts, StatsProvider};

/// How long the end of an evicted pod is waited for before the next look, beside its grace period (`podCleanupTimeout`).
const END_WAIT: Duration = Duration::from_secs(30);
/// A report of the node's status that is under way, and the next one.
const TOLD_WAIT: Duration = Duration::from_secs(12);
const DISK_PRESSURE: &str = "DiskPressure";

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
    /// What the node is short of.
    pub gauge: Gauge,
    /// `evictionMaxPodGracePeriod`
    pub max_pod_grace_seconds: i64,
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
    pub async fn run(mut self) {
        let mut look = self.options.gauge.last();
        loop {
            let evicted = self.act(&look).await;
            look = if evicted.pods.is_empty() {
                self.options.gauge.next().await
            } else {
                self.ended(&evicted).await;
                self.options.gauge.now().await
            };
        }
    }

    /// What is to be done after a look.
    async fn act(&mut self, look: &Look) -> Evicted {
        let excessive = self.end_excessive().await;
        if !excessive.is_empty() {
            return Evicted { pods: excessive, grace_seconds: eviction::IMMEDIATE_GRACE_SECONDS };
        }
        let Some(shortage) = look.shortages.first().copied() else { return Evicted::default() };
        let Shortage { signal, limit, available, grace } = shortage;
        let resource = shortage.resource();
        info!(signal = signal.name(), limit, available, ?grace, "the node is short of {resource}");
        self.options.events.node_event(EventType::Warning, "EvictionThresholdMet", eviction::threshold_met(resource));
        if !matches!(resource, Resource::EphemeralStorage | Resource::Inodes) {
            return self.evict_one(shortage).await;
        }
        if self.parts(signal).layers {
            self.options.images.reclaim().await;
            if self.options.gauge.now().await.enough {
                info!("removing unused images was enough; no pod is evicted");
                return Evicted::default();
            }
        }
        self.told(DISK_PRESSURE).await;
        // It may have passed meanwhile, or be another one.
        match self.options.gauge.now().await.shortages.first() {
            Some(shortage) => self.evict_one(*shortage).await,
            None => Evicted::default(),
        }
    }

    /// The pod that is first to go.
    async fn evict_one(&self, shortage: Shortage) -> Evicted {
        let (signal, resource) = (shortage.signal, shortage.resource());
        let mut pods = match self.options.stats.consumption(resource, self.parts(signal)).await {
            Ok(pods) => pods,
            Err(error) => {
                warn!(%error, "pods cannot be measured, so none is evicted");
                return Evicted::default();
            }
        };
        // It is going already.
        pods.retain(|pod| !self.options.pods.by_uid(&pod.uid).is_some_and(|pod| is_ending(&pod)));
        let Some(pod) = eviction::first_to_go(resource, &pods) else {
            warn!(signal = signal.name(), "the node is short of {resource}, and there is no pod that may be evicted");
            return Evicted::default();
        };
        instruments::EVICTIONS.add(&[signal.name()]);
        let own = self.options.pods.by_uid(&pod.uid).and_then(|pod| pod.spec.as_ref()?.termination_grace_period_seconds);
        let grace_seconds = shortage.pod_grace(own, self.options.max_pod_grace_seconds);
        let message = eviction::message(shortage, pod);
        let disruption = Disruption { since: Timestamp::now(), message: message.clone() };
        self.evict(&pod.uid, message, grace_seconds, Some(disruption));
        Evicted { pods: vec![pod.uid.clone()], grace_seconds }
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
                self.evict(&uid, excess.message, eviction::IMMEDIATE_GRACE_SECONDS, None);
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

    /// What of the pods' files is on the disk that a signal is about: all of it where there is only one disk.
    fn parts(&self, signal: Signal) -> Parts {
        let device = |path: &Path| std::fs::metadata(path).map(|folder| folder.dev()).ok();
        let two = device(&self.options.state) != device(&self.options.store);
        let images = matches!(signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
        Parts { layers: !two || images, volumes_and_logs: !two || !images }
    }

    fn evict(&self, uid: &PodUid, message: String, grace_seconds: i64, disruption: Option<Disruption>) {
        let failed = Rejected { reason: eviction::REASON.into(), message };
        self.options.workers.evict(uid, Eviction { failed, grace_seconds: Some(grace_seconds), disruption, event: true });
    }

    /// Waits until nothing of the pods runs: until then they use what the next look would find missing.
    async fn ended(&self, evicted: &Evicted) {
        let patience = END_WAIT + kill_time(evicted.grace_seconds);
        if self.options.pods.ended(&evicted.pods, Instant::now() + patience).await {
            // The space that they had is given back a moment later.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Pods that were told to go, and how long they may take.
#[derive(Default)]
struct Evicted {
    pods: Vec<PodUid>,
    grace_seconds: i64,
}

/// How long the kubelet waits for the end of a pod that it has told to go (`killPodNow`).
pub(crate) fn kill_time(grace_seconds: i64) -> Duration {
    const AT_LEAST: Duration = Duration::from_secs(10);
    let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
    (grace + grace / 2).max(AT_LEAST)
}

/// Deleted, or at its end.
fn is_ending(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded"))
}
