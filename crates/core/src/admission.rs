//! Whether this node takes a pod: the kubelet's checks in the kubelet's order, with its reasons and messages
//! (Kubernetes 1.37, `pkg/kubelet/lifecycle/predicate.go` and what it calls of the scheduler).

mod affinity;
mod app_armor;
mod capacity;
mod ports;
pub mod preemption;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

pub(crate) use affinity::selector_matches;

use self::preemption::Preemption;
use crate::eviction;
use crate::node::NodeInfo;
use crate::resources::{QosClass, is_critical, qos_class};
use crate::security::{SYSCTL_FORBIDDEN, forbidden_sysctl};
use crate::shutdown;

/// What the node's configuration and its machine say about admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Sysctls, or prefixes that end in `*`, that pods may set although they are not known to be safe.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How many pods the node runs, where its Node object does not say (`status.allocatable.pods`).
    pub max_pods: u32,
    /// Whether the machine enforces AppArmor profiles.
    pub app_armor: bool,
    /// Whether the machine is being shut down.
    pub shutting_down: bool,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self { allowed_unsafe_sysctls: Vec::new(), max_pods: 110, app_armor: false, shutting_down: false }
    }
}

/// How a pod is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// There is room.
    Fits,
    /// It is critical, and there is room once these have gone.
    After(Preemption),
}

/// Why a pod is not run. The event has `message` as it is; the pod's status has it after `Pod was rejected: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// `status.reason` of the pod and the reason of the event.
    pub reason: String,
    /// What is wrong, without the status's prefix.
    pub message: String,
}

impl Rejection {
    /// A rejection with its reason and message.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    fn predicate(name: &str, description: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {description}"))
    }
}

/// Decides whether `pod` may run beside `others`, the pods that were admitted before and have not ended; the pod itself among
/// them does not count.
///
/// Where only room is wanting, critical pods push others out.
///
/// # Errors
/// The first check that fails.
pub fn admit(pod: &Pod, node: &NodeInfo, others: &[&Pod], config: &AdmissionConfig) -> Result<Admission, Rejection> {
    pressure(pod, node)?;
    let AdmissionConfig { allowed_unsafe_sysctls, max_pods, app_armor, shutting_down } = config;
    if let Some(message) = forbidden_sysctl(pod, allowed_unsafe_sysctls) {
        return Err(Rejection::new(SYSCTL_FORBIDDEN, message));
    }
    operating_system(pod)?;
    let others: Vec<&Pod> =
        others.iter().copied().filter(|other| other.metadata.uid.is_none() || other.metadata.uid != pod.metadata.uid).collect();
    let admission = predicates(pod, node, &others, *max_pods)?;
    app_armor::check(pod, *app_armor)?;
    if *shutting_down {
        return Err(Rejection::new(shutdown::REFUSED, shutdown::REFUSED_MESSAGE));
    }
    Ok(admission)
}

/// A node that is short of something takes only critical pods; of memory alone, all but those that asked for none and do not
/// tolerate it.
fn pressure(pod: &Pod, node: &NodeInfo) -> Result<(), Rejection> {
    if node.pressures.is_empty() || is_critical(pod) {
        return Ok(());
    }
    let memory_only = node.pressures.iter().all(|kind| kind == "MemoryPressure");
    let taint = Taint { key: "node.kubernetes.io/memory-pressure".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let tolerated = tolerations.iter().any(|toleration| tolerates(toleration, &taint));
    if memory_only && (qos_class(pod) != QosClass::BestEffort || tolerated) {
        return Ok(());
    }
    let kinds: Vec<&str> = node.pressures.iter().map(String::as_str).collect();
    Err(Rejection::new(eviction::REASON, format!("The node had condition: [{}]. ", kinds.join(" "))))
}

fn operating_system(pod: &Pod) -> Result<(), Rejection> {
    const OS: &str = "linux";
    const OS_LABEL: &str = "kubernetes.io/os";
    // The kubelet puts the machine's own system in the place of the node's label before it compares.
    let labelled = pod.metadata.labels.as_ref().and_then(|l| l.get(OS_LABEL));
    if labelled.is_some_and(|os| os != OS) {
        return Err(Rejection::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    let field = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    if field.is_some_and(|os| os.name != OS) {
        return Err(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    Ok(())
}

/// What the scheduler checks and the kubelet checks again, because a pod can name its node itself.
fn predicates(pod: &Pod, node: &NodeInfo, others: &[&Pod], max_pods: u32) -> Result<Admission, Rejection> {
    let placement = || {
        affinity::check(pod, node)?;
        node_name(pod, node)?;
        ports::check(pod, others)?;
        taints(pod, node)
    };
    let missing = capacity::missing(pod, node, others, max_pods);
    if is_critical(pod) {
        // What no eviction could help comes first.
        placement()?;
        return if missing.is_empty() { Ok(Admission::Fits) } else { preemption::choose(pod, others, &missing).map(Admission::After) };
    }
    match missing.first() {
        Some(missing) => Err(missing.rejection()),
        None => placement().map(|()| Admission::Fits),
    }
}

fn node_name(pod: &Pod, node: &NodeInfo) -> Result<(), Rejection> {
    let wanted = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    match wanted.unwrap_or_default() {
        "" => Ok(()),
        name if name == node.name => Ok(()),
        _ => Err(Rejection::predicate("NodeName", "node(s) didn't match the requested node name")),
    }
}

/// Only taints that evict count: others keep the scheduler away, not a pod that names its node. Static pods tolerate all.
fn taints(pod: &Pod, node: &NodeInfo) -> Result<(), Rejection> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref());
    let tolerated = |taint: &Taint| {
        let mut tolerations = tolerations.unwrap_or_default().iter();
        tolerations.any(|toleration| tolerates(toleration, taint))
    };
    let mut evicting = node.taints.iter().filter(|t| t.effect == "NoExecute");
    if is_static(pod) || evicting.all(tolerated) {
        return Ok(());
    }
    Err(Rejection::predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let matches_or_empty = |wanted: Option<&str>, actual: &str| {
        let wanted = wanted.unwrap_or_default();
        wanted.is_empty() || wanted == actual
    };
    matches_or_empty(toleration.effect.as_deref(), &taint.effect)
        && matches_or_empty(toleration.key.as_deref(), &taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
            // `Lt` and `Gt` are behind a feature gate that is off.
            operator => operator == "Exists",
        }
}

fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get("kubernetes.io/config.source")).is_some_and(|source| source != "api")
}

#[cfg(test)]
mod tests;
