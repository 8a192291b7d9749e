//! Admission with this node's settings.

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::admission::{Admission, AdmissionConfig, admit as core_admit};
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::Rejected;
use kube_pet_core::supported;

use super::runtime::PodSettings;

/// Refuses a pod that asks for what this node cannot do, or that does not fit.
pub(super) fn admit(
    pod: &Pod,
    node: &NodeInfo,
    others: &[&Pod],
    settings: &PodSettings,
    shutting_down: bool,
) -> Result<Admission, Rejected> {
    let config = AdmissionConfig {
        allowed_unsafe_sysctls: settings.allowed_unsafe_sysctls.clone(),
        max_pods: settings.max_pods,
        app_armor: settings.app_armor,
        shutting_down,
    };
    let refused = |r: kube_pet_core::admission::Rejection| Rejected { reason: r.reason, message: r.message };
    let admission = core_admit(pod, node, others, &config).map_err(refused)?;
    if let Some(rejection) = supported::refusal_of_user_namespace(pod, settings.no_user_namespaces.as_deref()) {
        return Err(refused(rejection));
    }
    match supported::refusal(&findings(pod)) {
        Some(rejection) => Err(refused(rejection)),
        None => Ok(admission),
    }
}

/// Texts of warnings about fields that have no effect yet.
pub(super) fn warnings(pod: &Pod) -> Vec<String> {
    findings(pod).iter().filter_map(supported::warning).collect()
}

fn findings(pod: &Pod) -> Vec<supported::Finding> {
    supported::findings(&serde_json::to_value(pod).unwrap_or_default())
}
