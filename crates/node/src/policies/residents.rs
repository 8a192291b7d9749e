//! The pods of this node, as policies see them: those that have a sandbox with a network of its own.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::pod_uid;
use kube_pet_core::policies::{Labels, LocalPod, named_ports};
use tokio::sync::watch;

use super::record::Record;
use crate::paths::Paths;
use crate::pods::checkpoint;
use crate::pods::store::PodStore;
use crate::sandboxes::SandboxManager;

/// Who is here.
pub(super) trait Residents: Send + 'static {
    /// All pods that are here.
    fn list(&mut self) -> Vec<LocalPod>;

    /// Whether the pod is still here.
    fn has(&self, uid: &str) -> bool;

    /// Changes when the list may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The agent's own.
pub(super) struct NodePods {
    sandboxes: SandboxManager,
    pods: PodStore,
    paths: Paths,
    /// What an earlier run has left, until it is read: as they are if nothing more is known of them.
    recovered: Option<Vec<LocalPod>>,
    /// What was left, with the labels of checkpoints: workers may take their time to say what became of it.
    left: HashMap<PodUid, LocalPod>,
}

impl NodePods {
    pub(super) fn new(sandboxes: SandboxManager, pods: PodStore, paths: Paths, recovered: &[PodUid], record: &Record) -> Self {
        let unknown = |uid: &PodUid| LocalPod {
            uid: uid.as_str().into(),
            namespace: "".into(),
            labels: Labels::default(),
            ports: Box::default(),
            link: sandboxes.link_name(uid).into(),
            sealed: record.directions(uid.as_str()).into(),
        };
        let recovered = Some(recovered.iter().map(unknown).collect());
        Self { sandboxes, pods, paths, recovered, left: HashMap::new() }
    }

    fn is_here(&self, uid: &PodUid) -> bool {
        self.sandboxes.get(uid).is_some_and(|sandbox| sandbox.netns.is_some())
    }
}

impl Residents for NodePods {
    fn list(&mut self) -> Vec<LocalPod> {
        if let Some(recovered) = self.recovered.take().filter(|recovered| !recovered.is_empty()) {
            self.left = recovered.into_iter().map(|pod| (PodUid::new(&*pod.uid), pod)).collect();
            for found in checkpoint::read_all(&self.paths) {
                let uid = pod_uid(&found.pod);
                if let Some(pod) = self.left.get_mut(&uid) {
                    *pod = local_pod(&found.pod, &pod.link);
                }
            }
        }
        let mut here: Vec<LocalPod> = Vec::new();
        for pod in self.pods.list() {
            let uid = pod_uid(&pod);
            self.left.remove(&uid);
            if self.is_here(&uid) {
                here.push(local_pod(&pod, &self.sandboxes.link_name(&uid)));
            }
        }
        let mut left = std::mem::take(&mut self.left);
        left.retain(|uid, _| self.is_here(uid));
        here.extend(left.values().cloned());
        self.left = left;
        here
    }

    fn has(&self, uid: &str) -> bool {
        self.is_here(&PodUid::new(uid))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.pods.changes()
    }
}

/// A pod as policies see it.
pub(super) fn local_pod(pod: &Pod, link: &str) -> LocalPod {
    LocalPod {
        uid: pod_uid(pod).as_str().into(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default().into(),
        labels: pod.metadata.labels.clone().unwrap_or_default().into(),
        ports: named_ports(pod),
        link: link.into(),
        sealed: Box::default(),
    }
}
