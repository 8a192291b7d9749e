//! AppArmor profiles on a machine that may not enforce them.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod};

use super::Rejection;

/// Names a container's profile in pods from before 1.30, and in static pods.
const ANNOTATION_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A pod that has started is not asked again: its profile was in force then.
pub(super) fn check(pod: &Pod, enforced: bool) -> Result<(), Rejection> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if !matches!(phase, None | Some("" | "Pending")) {
        return Ok(());
    }
    let wrong = |what: &str| {
        let message = format!("Cannot enforce AppArmor: {what}");
        Err(Rejection::new("AppArmor", message))
    };
    let profiles = profiles(pod);
    let annotations = pod.metadata.annotations.iter().flatten();
    let annotated = annotations.filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX)).any(|(_, profile)| profile != "unconfined");
    let required = annotated || profiles.iter().any(|p| p.type_ != "Unconfined");
    if required && !enforced {
        return wrong("AppArmor is not enabled on the host");
    }
    let nameless = |profile: &&AppArmorProfile| {
        let name = profile.localhost_profile.as_deref().unwrap_or_default();
        profile.type_ == "Localhost" && name.trim().is_empty()
    };
    if profiles.iter().any(nameless) {
        return wrong("invalid empty AppArmor profile name");
    }
    Ok(())
}

fn profiles(pod: &Pod) -> Vec<&AppArmorProfile> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let own = spec.security_context.iter().filter_map(|context| context.app_armor_profile.as_ref());
    let debug = spec.ephemeral_containers.iter().flatten();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let contexts =
        containers.map(|container| container.security_context.as_ref()).chain(debug.map(|container| container.security_context.as_ref()));
    own.chain(contexts.filter_map(|context| context?.app_armor_profile.as_ref())).collect()
}
