//! The security context that holds for a container: its own fields over the pod's.

mod sysctls;

pub use sysctls::{SYSCTL_FORBIDDEN, forbidden_sysctl, sysctls};

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SELinuxOptions, SeccompProfile};

/// What a container may and may not do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// `runAsUser`
    pub user: Option<i64>,
    /// `runAsGroup`
    pub group: Option<i64>,
    /// `runAsNonRoot`
    pub non_root: bool,
    /// `fsGroup` first, then `supplementalGroups`.
    pub groups: Vec<i64>,
    /// `supplementalGroupsPolicy: Strict`: groups of the image's /etc/group do not count.
    pub strict_groups: bool,
    /// `privileged`
    pub privileged: bool,
    /// `readOnlyRootFilesystem`
    pub read_only_root: bool,
    /// `allowPrivilegeEscalation: false`
    pub no_new_privileges: bool,
    /// `capabilities.add`
    pub cap_add: Vec<String>,
    /// `capabilities.drop`
    pub cap_drop: Vec<String>,
    /// seccomp profile.
    pub seccomp: Seccomp,
    /// AppArmor profile name; `unconfined`, or `None` for the runtime's default.
    pub app_armor: Option<String>,
    /// SELinux level and types.
    pub selinux: Option<SELinuxOptions>,
    /// `procMount: Unmasked`
    pub unmasked_proc: bool,
}

/// A seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// No filter: the kubelet's default without `seccompDefault`.
    #[default]
    Unconfined,
    /// The runtime's own profile.
    RuntimeDefault,
    /// A file below the node's profile folder.
    Localhost(String),
}

/// Merges the pod's and the container's security contexts.
pub fn effective(pod: &Pod, container: &Container) -> Effective {
    let pod_level = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let privileged = own.and_then(|c| c.privileged).unwrap_or(false);
    let caps = own.and_then(|c| c.capabilities.as_ref());
    let profile = own.and_then(|c| c.seccomp_profile.as_ref()).or(pod_level.and_then(|p| p.seccomp_profile.as_ref()));
    let fs_group = pod_level.and_then(|p| p.fs_group);
    Effective {
        user: own.and_then(|c| c.run_as_user).or(pod_level.and_then(|p| p.run_as_user)),
        group: own.and_then(|c| c.run_as_group).or(pod_level.and_then(|p| p.run_as_group)),
        non_root: own.and_then(|c| c.run_as_non_root).or(pod_level.and_then(|p| p.run_as_non_root)).unwrap_or(false),
        groups: fs_group.into_iter().chain(pod_level.and_then(|p| p.supplemental_groups.clone()).into_iter().flatten()).collect(),
        strict_groups: pod_level.and_then(|p| p.supplemental_groups_policy.as_deref()) == Some("Strict"),
        privileged,
        read_only_root: own.and_then(|c| c.read_only_root_filesystem).unwrap_or(false),
        // A privileged container, or one with CAP_SYS_ADMIN, cannot be kept from it; the API server refuses the combination.
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        cap_add: caps.and_then(|c| c.add.clone()).unwrap_or_default(),
        cap_drop: caps.and_then(|c| c.drop.clone()).unwrap_or_default(),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile) },
        app_armor: app_armor_profile(pod, container),
        selinux: own.and_then(|c| c.se_linux_options.clone()).or(pod_level.and_then(|p| p.se_linux_options.clone())),
        unmasked_proc: own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked"),
    }
}

fn seccomp(profile: Option<&SeccompProfile>) -> Seccomp {
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => Seccomp::RuntimeDefault,
        // Without a file the container fails to start: it must not run unconfined instead.
        Some(("Localhost", path)) => Seccomp::Localhost(path.unwrap_or_default().to_owned()),
        _ => Seccomp::Unconfined,
    }
}

/// The container's own profile, the one that an annotation names (static pods may still have it), the pod's.
fn app_armor_profile(pod: &Pod, container: &Container) -> Option<String> {
    let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    if own.is_none() {
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", container.name);
        match pod.metadata.annotations.as_ref().and_then(|a| a.get(&key)).map(String::as_str) {
            Some("unconfined") => return Some("unconfined".to_owned()),
            Some("runtime/default") => return None,
            Some(profile) if profile.starts_with("localhost/") => {
                return profile.strip_prefix("localhost/").map(str::to_owned);
            }
            _ => {}
        }
    }
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let profile: &AppArmorProfile = own.or(of_pod.and_then(|p| p.app_armor_profile.as_ref()))?;
    match profile.type_.as_str() {
        "Unconfined" => Some("unconfined".into()),
        "Localhost" => profile.localhost_profile.clone(),
        _ => None,
    }
}

/// Why a container that must not be root would be, with the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RunsAsRoot(String);

/// Checks `runAsNonRoot` against the image's user (`uid`, `name`, `uid:gid` …).
pub fn verify_non_root(pod: &Pod, container: &Container, image_user: &str) -> Result<(), RunsAsRoot> {
    let context = effective(pod, container);
    if !context.non_root {
        return Ok(());
    }
    let meta = &pod.metadata;
    let place = format!(
        "(pod: \"{}_{}({})\", container: {})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
        container.name
    );
    match context.user {
        Some(0) => return Err(RunsAsRoot(format!("container's runAsUser breaks non-root policy {place}"))),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(0) => Err(RunsAsRoot(format!("container has runAsNonRoot and image will run as root {place}"))),
        Ok(uid) if i32::try_from(uid).map_or(true, |uid| uid < 0) => Err(RunsAsRoot(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({max})): must be between 0 and {max}, inclusive {place}",
            max = i32::MAX
        ))),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() => Err(RunsAsRoot(format!("container has runAsNonRoot and image will run as root {place}"))),
        Err(_) => Err(RunsAsRoot(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
        ))),
    }
}

#[cfg(test)]
mod tests;
