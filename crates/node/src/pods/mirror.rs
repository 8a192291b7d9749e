//! Mirror pods: what the API server shows of static pods.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube_pet_core::ids::PodUid;
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::pod_uid;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::sources::Source;
use crate::api::ApiHandle;

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";

type Name = (String, String);

/// A mirror, as the API server shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mirror {
    /// Its own UID.
    pub uid: String,
    /// Of the static pod that it was made for; empty if it is being deleted.
    hash: String,
    /// `metadata.resourceVersion`
    pub version: u64,
    /// Others write there as well: the controllers set pods of a node that they do not hear of to not ready.
    pub status: PodStatus,
}

#[derive(Default)]
struct State {
    /// Static pods that are wanted, by namespace and name.
    wanted: BTreeMap<Name, Arc<Pod>>,
    /// Mirrors that the API server has.
    present: BTreeMap<Name, Arc<Mirror>>,
    files_synced: bool,
    api_synced: bool,
}

/// What is known of static pods and their mirrors. Cheap to clone.
#[derive(Clone, Default)]
pub struct Mirrors {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// `metadata.resourceVersion` as a number, by which later objects are told from earlier ones (KEP-5504).
pub fn resource_version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The status that the API server has, as far as is known: what it answered to our own last write, or what it has shown since then. An
/// object that was on its way while we wrote shows an older one.
pub fn newest_status<'a>(written: Option<&'a (u64, PodStatus)>, shown: Option<(u64, &'a PodStatus)>) -> Option<&'a PodStatus> {
    match (written, shown) {
        (Some((version, _)), Some((later, shown))) if later > *version => Some(shown),
        (Some((_, written)), _) => Some(written),
        (None, shown) => shown.map(|(_, status)| status),
    }
}

fn name_of(pod: &Pod) -> Name {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(key)
}

impl Mirrors {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
        out
    }

    /// A static pod is wanted.
    pub fn want(&self, pod: Arc<Pod>) {
        self.with(|s| s.wanted.insert(name_of(&pod), pod));
    }

    /// The API server shows this mirror.
    pub fn seen(&self, mirror: &Pod) {
        // One that a user deletes is taken away and made again: the static pod is still there.
        let deleted = mirror.metadata.deletion_timestamp.is_some();
        let hash = annotation(mirror, MIRROR).filter(|_| !deleted).cloned().unwrap_or_default();
        let shown = Mirror {
            uid: mirror.metadata.uid.clone().unwrap_or_default(),
            hash,
            version: resource_version(mirror),
            status: mirror.status.clone().unwrap_or_default(),
        };
        self.with(|s| s.present.insert(name_of(mirror), Arc::new(shown)));
    }

    /// A static pod or a mirror is gone.
    pub fn gone(&self, source: Source, uid: &PodUid) {
        self.with(|s| match source {
            Source::File => s.wanted.retain(|_, pod| pod_uid(pod) != *uid),
            Source::Api => s.present.retain(|_, mirror| mirror.uid != uid.as_str()),
        });
    }

    /// A source has told everything.
    pub fn synced(&self, source: Source) {
        self.with(|s| match source {
            Source::File => s.files_synced = true,
            Source::Api => s.api_synced = true,
        });
    }

    /// A static pod's mirror, if it is there.
    pub fn of(&self, pod: &Pod) -> Option<Arc<Mirror>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = annotation(pod, HASH)?;
        state.present.get(&name_of(pod)).filter(|mirror| mirror.hash == *hash).cloned()
    }

    /// The static pod that a mirror was made for, if it is wanted.
    pub fn static_pod_of(&self, mirror: &Pod) -> Option<Arc<Pod>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pod = state.wanted.get(&name_of(mirror))?;
        (annotation(mirror, MIRROR) == annotation(pod, HASH)).then(|| pod.clone())
    }

    /// Makes the API server's mirrors match the static pods, until dropped: one that was deleted comes back, a stale one goes.
    pub async fn run(self, api: ApiHandle, node: watch::Receiver<Arc<NodeInfo>>) {
        loop {
            let retry = self.reconcile(&api, &node).await;
            let pause = if retry { Duration::from_secs(2) } else { Duration::from_secs(30) };
            let _ = tokio::time::timeout(pause, self.changed.notified()).await;
            // Bursts of changes are taken together.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn reconcile(&self, api: &ApiHandle, node: &watch::Receiver<Arc<NodeInfo>>) -> bool {
        let (wanted, present) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.files_synced || !state.api_synced {
                return true;
            }
            (state.wanted.clone(), state.present.clone())
        };
        let node = node.borrow().clone();
        let mut retry = false;
        for (name, mirror) in &present {
            let stale = wanted.get(name).is_none_or(|pod| annotation(pod, HASH) != Some(&mirror.hash));
            if stale {
                retry |= self.delete(api, name, &mirror.uid).await;
            }
        }
        for (name, pod) in &wanted {
            if !present.contains_key(name) {
                if node.uid.is_empty() {
                    retry = true;
                    continue;
                }
                retry |= self.create(api, pod, &node).await;
            }
        }
        retry
    }

    async fn create(&self, api: &ApiHandle, pod: &Pod, node: &NodeInfo) -> bool {
        let mut mirror = pod.clone();
        let hash = annotation(pod, HASH).cloned().unwrap_or_default();
        mirror.metadata.uid = None;
        mirror.metadata.resource_version = None;
        mirror.metadata.creation_timestamp = None;
        mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.name.clone(),
            uid: node.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        if let Some(spec) = mirror.spec.as_mut() {
            spec.automount_service_account_token = None;
            spec.service_account_name = None;
        }
        mirror.status = None;
        let (namespace, name) = name_of(pod);
        match Api::<Pod>::namespaced(api.client(), &namespace).create(&PostParams::default(), &mirror).await {
            Ok(made) => {
                info!(namespace, name, "mirror pod created");
                self.seen(&made);
                false
            }
            Err(kube::Error::Api(status)) if status.code == 409 => false,
            Err(error) => {
                warn!(namespace, name, %error, "mirror pod not created; retrying");
                true
            }
        }
    }

    async fn delete(&self, api: &ApiHandle, (namespace, name): &Name, uid: &str) -> bool {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match Api::<Pod>::namespaced(api.client(), namespace).delete(name, &params).await {
            Ok(_) => {
                debug!(namespace, name, "stale mirror pod deleted");
                false
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => false,
            Err(error) => {
                warn!(namespace, name, %error, "stale mirror pod not deleted; retrying");
                true
            }
        }
    }
}
