//! A pod's status as the kubelet would write it: phase, conditions, container statuses.

mod conditions;
mod containers;
mod phase;
mod resize;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Now, Rules, Waiting};
use super::memory::{Memory, Rejected};
use super::observed::Observed;
use super::resizing::Differences;
use super::rounds::Round;
use super::spec::{ContainerKind, Desired};

pub use conditions::is_own_condition;

/// Why a container waits that is restarted with all others.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";

/// How long `ErrImagePull` is shown before it reads `ImagePullBackOff`.
pub(super) const ERR_IMAGE_PULL_SHOWN: SignedDuration = SignedDuration::from_secs(3);

/// Everything that a status is computed from.
pub(super) struct View<'a> {
    pub desired: Desired<'a>,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub rules: &'a Rules,
    pub now: Now,
    /// The node fails the pod whatever its containers do.
    pub failed: Option<&'a Rejected>,
    /// Reasons to wait, by container.
    pub waiting: &'a Waiting,
    /// What the containers have against what the pod was given.
    pub differences: &'a Differences,
    /// The round that the pod is in.
    pub round: Round,
}

/// The complete status. Conditions that are not the kubelet's are carried over as the API server has them.
pub(super) fn pod_status(view: &View<'_>) -> PodStatus {
    let pod = view.desired.pod;
    let old = pod.status.clone().unwrap_or_default();
    let qos_class = Some(crate::resources::qos_class(pod).as_str().to_owned());
    if let Some(rejected) = view.memory.rejected.as_ref() {
        return PodStatus {
            phase: Some("Failed".into()),
            reason: Some(rejected.reason.clone()),
            message: Some(rejected.message.clone()),
            qos_class,
            start_time: old.start_time.clone().or_else(|| view.memory.start_time.map(Time)),
            conditions: old.conditions.clone(),
            observed_generation: pod.metadata.generation,
            ..PodStatus::default()
        };
    }
    let container_statuses = containers::statuses(view, ContainerKind::App);
    let init_container_statuses = containers::statuses(view, ContainerKind::Init);
    let ephemeral_container_statuses = containers::statuses(view, ContainerKind::Ephemeral);
    let stopped = view.desired.stop.is_some() && !view.observed.any_running();
    let computed = phase::phase(view, &init_container_statuses, &container_statuses, stopped);
    let old_phase = old.phase.as_deref().unwrap_or_default();
    let (phase, reason, message) = if matches!(old_phase, "Failed" | "Succeeded") {
        (old_phase.to_owned(), old.reason.clone(), old.message.clone())
    } else if let Some(failed) = view.failed {
        ("Failed".to_owned(), Some(failed.reason.clone()), Some(failed.message.clone()))
    } else if computed == old_phase {
        (computed.to_owned(), old.reason.clone(), old.message.clone())
    } else {
        (computed.to_owned(), None, None)
    };
    let pod_ips = match &view.observed.sandbox {
        Some(sandbox) if !sandbox.pod_ips.is_empty() => Some(sandbox.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        _ => old.pod_ips.clone(),
    };
    let conditions = conditions::conditions(view, &phase, &init_container_statuses, &container_statuses);
    let (allocated_resources, resources) = resize::of_pod(view, &phase);
    PodStatus {
        allocated_resources,
        conditions: Some(conditions),
        container_statuses: Some(container_statuses),
        init_container_statuses: (!init_container_statuses.is_empty()).then_some(init_container_statuses),
        ephemeral_container_statuses: (!ephemeral_container_statuses.is_empty()).then_some(ephemeral_container_statuses),
        host_ip: view.rules.host_ips.first().map(ToString::to_string).or(old.host_ip),
        host_ips: if view.rules.host_ips.is_empty() {
            old.host_ips
        } else {
            Some(view.rules.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect())
        },
        pod_ip: pod_ips.as_ref().and_then(|ips: &Vec<PodIP>| ips.first()).map(|p| p.ip.clone()),
        pod_ips,
        message,
        observed_generation: pod.metadata.generation,
        phase: Some(phase),
        qos_class,
        reason,
        resources,
        start_time: old.start_time.or_else(|| view.memory.start_time.map(Time)),
        ..PodStatus::default()
    }
}

/// A failure's reason as a constant; an unknown one reads as the general case.
pub(super) fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 10] = [
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "PostStartHookError",
    ];
    KNOWN.into_iter().find(|k| *k == reason).unwrap_or("CreateContainerError")
}
