//! The pods of this node with their newest computed status: written by the pod workers, read by the 10250 server,
//! the node status and admission.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::stats::statuses;

/// The write side; owned by the pod manager.
pub struct PodStoreWriter {
    shared: Arc<RwLock<BTreeMap<PodUid, Arc<Pod>>>>,
    version: watch::Sender<u64>,
    restored: watch::Sender<bool>,
}

/// A read-only, cheap-to-clone view. Each `Pod` carries the spec last seen and the status last computed by this agent
/// (which may be newer than what the API server has).
#[derive(Clone)]
pub struct PodStore {
    shared: Arc<RwLock<BTreeMap<PodUid, Arc<Pod>>>>,
    version: watch::Receiver<u64>,
    restored: watch::Receiver<bool>,
}

impl PodStoreWriter {
    /// An empty store and its reader.
    pub fn new() -> (Self, PodStore) {
        let shared = Arc::new(RwLock::new(BTreeMap::new()));
        let (tx, rx) = watch::channel(0);
        let (restored_tx, restored) = watch::channel(false);
        (Self { shared: shared.clone(), version: tx, restored: restored_tx }, PodStore { shared, version: rx, restored })
    }

    /// A reader.
    pub fn reader(&self) -> PodStore {
        PodStore { shared: self.shared.clone(), version: self.version.subscribe(), restored: self.restored.subscribe() }
    }

    /// Inserts or replaces one pod.
    pub fn put(&self, uid: PodUid, pod: Arc<Pod>) {
        self.shared.write().unwrap_or_else(PoisonError::into_inner).insert(uid, pod);
        self.version.send_modify(|v| *v += 1);
    }

    /// All pods of an earlier run are in it, and can be told to end.
    pub fn restored(&self) {
        self.restored.send_replace(true);
    }

    /// Forgets one pod.
    pub fn remove(&self, uid: &PodUid) {
        self.shared.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.version.send_modify(|v| *v += 1);
    }
}

impl PodStore {
    /// All pods, ordered by UID.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The pod with this UID.
    pub fn by_uid(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// The pod with this namespace and name; the youngest one where a static pod of the same name is being replaced.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.list()
            .into_iter()
            .filter(|p| p.metadata.namespace.as_deref() == Some(namespace) && p.metadata.name.as_deref() == Some(name))
            .max_by_key(|p| (p.metadata.deletion_timestamp.is_none(), p.metadata.creation_timestamp.as_ref().map(|t| t.0)))
    }

    /// Waits until nothing of these pods runs; false if it still does at the deadline.
    pub async fn ended(&self, uids: &[PodUid], deadline: Instant) -> bool {
        self.until(uids, deadline, |pod| !runs(pod)).await
    }

    /// Waits until all of these pods that are there are as `check` wants them; false if they are not at the deadline.
    pub async fn until(&self, uids: &[PodUid], deadline: Instant, check: impl Fn(&Pod) -> bool) -> bool {
        let mut changes = self.changes();
        while !uids.iter().all(|uid| self.by_uid(uid).is_none_or(|pod| check(&pod))) {
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    /// Waits until all pods of an earlier run are in it.
    pub async fn restored(&self) {
        let mut restored = self.restored.clone();
        // An error: the agent ends.
        let _ = restored.wait_for(|restored| *restored).await;
    }

    /// A receiver that changes whenever any pod changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }
}

/// Whether a container of the pod runs.
pub fn runs(pod: &Pod) -> bool {
    statuses(pod).any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}
