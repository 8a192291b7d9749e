use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

/// What a node has given to a pod: its resources as they were when there was room for them. Outlives the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// `spec.resources`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ResourceRequirements>,
    /// `resources` of containers and init containers, by name.
    #[serde(default)]
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// All that the pod asks for.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        Self {
            pod: spec.resources.clone(),
            containers: containers.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect(),
        }
    }

    /// Whether the pod asks for something else.
    pub fn differs(&self, pod: &Pod) -> bool {
        *self != Self::of(pod)
    }

    /// Puts what is given in the place of what is asked for.
    pub fn apply(&self, pod: &mut Pod) {
        let Some(spec) = &mut pod.spec else { return };
        spec.resources.clone_from(&self.pod);
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(given) = self.containers.get(&container.name) {
                container.resources = Some(given.clone());
            }
        }
    }
}

/// A resize that cannot be given now: the condition `PodResizePending`, reason `Deferred`. The kubelet 1.37 knows `Infeasible` too,
/// for pods with exclusive CPUs, exclusive memory or swap; more than a node has is refused by the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingResize {
    /// The reason of the rejection (`OutOfcpu`), for the Event.
    pub cause: String,
    /// What is wrong.
    pub message: String,
    /// `metadata.generation` of the spec that asked for it.
    pub generation: Option<i64>,
}

/// The text of a resize's Events: `prefix: {"containers":[…],"generation":2}`.
pub fn summary(prefix: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let spec = pod.spec.as_ref();
    let summary = Summary {
        init_containers: listed(spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default()),
        containers: listed(spec.map(|s| s.containers.as_slice()).unwrap_or_default()),
        generation: generation.unwrap_or_default(),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(text) => format!("{prefix}: {text}"),
        Err(_) => prefix.to_owned(),
    }
}

fn listed(containers: &[Container]) -> Vec<Listed<'_>> {
    containers.iter().map(|c| Listed { name: &c.name, resources: c.resources.clone().unwrap_or_default() }).collect()
}

/// In the order of the kubelet's fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Listed<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Listed<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}
