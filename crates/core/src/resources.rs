//! What a pod asks for, as the scheduler counts it, and what its cgroups get.

mod cgroup;
mod requests;

pub use cgroup::{
    CPU_PERIOD, ContainerLimits, PodCgroup, container_limits, cpu_quota, cpu_shares, cpu_weight, effective_limit, hugepage_size,
    hugepage_unit, hugepage_unit_of, oom_score_adj, pod_cgroup,
};
pub use requests::{
    Amounts, amounts, container_requests, has_pod_level_requests, has_pod_level_resources, is_sidecar, pod_limits, pod_requests,
};

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::ids::PodUid;
use crate::quantity::Amount;

/// Priority from which on a pod is critical to the cluster.
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A pod's quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QosClass {
    /// CPU and memory requests equal the limits everywhere.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl QosClass {
    /// As in `status.qosClass`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The cgroup between `kubepods` and the pod; guaranteed pods have none.
    pub const fn cgroup(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

/// The cgroup that all of a pod's containers are in, below the one of all pods.
pub fn pod_cgroup_path(pods_cgroup: &str, class: QosClass, uid: &PodUid) -> String {
    let root = pods_cgroup.trim_matches('/');
    match class.cgroup() {
        Some(class) => format!("/{root}/{class}/pod{uid}"),
        None => format!("/{root}/pod{uid}"),
    }
}

/// The class of a pod: the one in its status, else computed from its spec.
pub fn qos_class(pod: &Pod) -> QosClass {
    let recorded = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
    match recorded {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => computed_qos_class(pod),
    }
}

/// The class that the spec alone gives.
pub fn computed_qos_class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else {
        return QosClass::BestEffort;
    };
    if let Some(resources) = spec.resources.as_ref().filter(|_| has_pod_level_resources(pod)) {
        return requirements_class(Some(resources));
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    combined(containers.map(|container| requirements_class(container.resources.as_ref())))
}

/// One class for many: the common one, else burstable.
fn combined(classes: impl IntoIterator<Item = QosClass>) -> QosClass {
    classes.into_iter().reduce(|a, b| if a == b { a } else { QosClass::Burstable }).unwrap_or(QosClass::BestEffort)
}

fn requirements_class(resources: Option<&ResourceRequirements>) -> QosClass {
    let requests = requests::requests_of(resources);
    let limits = amounts(resources.and_then(|r| r.limits.as_ref()));
    combined(["cpu", "memory"].map(|name| {
        let of = |list: &Amounts| list.get(name).copied().unwrap_or(Amount::ZERO);
        match (of(&requests), of(&limits)) {
            (request, limit) if request != limit => QosClass::Burstable,
            (request, _) if request.is_zero() => QosClass::BestEffort,
            _ => QosClass::Guaranteed,
        }
    }))
}

/// Whether the pod is static, a mirror of one, or has a system priority: such pods are admitted before others.
pub fn is_critical(pod: &Pod) -> bool {
    let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key));
    annotation("kubernetes.io/config.source").is_some_and(|source| source != "api")
        || annotation("kubernetes.io/config.mirror").is_some()
        || pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY)
}

#[cfg(test)]
mod tests;
