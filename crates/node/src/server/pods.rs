//! `/pods` and `/runningpods/`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use kube::api::ObjectMeta;
use serde_json::json;

use super::response::{self, Response};
use crate::pods::store::PodStore;
pub(super) use crate::stats::statuses;

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

/// The pods of this node with their computed status.
pub(super) fn bound(store: &PodStore) -> Response {
    let pods = store.list();
    list(&pods.iter().map(Arc::as_ref).collect::<Vec<_>>())
}

/// The pods that have running containers, with these, and no more than a runtime knows of them.
pub(super) fn running(store: &PodStore) -> Response {
    let pods: Vec<Pod> = store.list().iter().filter_map(|p| as_runtime(p)).collect();
    list(&pods)
}

fn as_runtime(pod: &Pod) -> Option<Pod> {
    let containers: Vec<Container> = statuses(pod)
        .filter(|status| is_running(status))
        .map(|status| Container { name: status.name.clone(), image: Some(status.image.clone()), ..Default::default() })
        .collect();
    (!containers.is_empty()).then(|| Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        },
        spec: Some(PodSpec { containers, ..Default::default() }),
        status: None,
    })
}

fn list<P: serde::Serialize>(pods: &[P]) -> Response {
    response::json(&json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods,
    }))
}
