//! The parts of a PodSpec that the lifecycle looks at.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, ContainerStatus, EphemeralContainer, Pod};

use crate::ids::PodUid;

/// What is wanted of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    /// The newest object seen; its `status` is what the API server has.
    pub pod: &'a Pod,
    /// Whether it has to stop, and how.
    pub stop: Option<Stop>,
}

/// A reason from outside to stop a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `metadata.deletionTimestamp` is set: stop, release, then delete the API object.
    Deleted {
        /// Seconds from the first signal to SIGKILL.
        grace_seconds: i64,
    },
    /// The object is no longer there (force deletion, static pod file removed): stop and forget.
    Gone {
        /// Seconds from the first signal to SIGKILL.
        grace_seconds: i64,
    },
}

impl Stop {
    /// What the object's metadata asks for. `present`: the API server (or the static pod folder) still has it.
    /// The grace period is at least one second, as the kubelet's (`calculateEffectiveGracePeriod`).
    pub fn of(pod: &Pod, present: bool) -> Option<Self> {
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let grace_seconds = deleted
            .then_some(pod.metadata.deletion_grace_period_seconds)
            .flatten()
            .or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds))
            .unwrap_or(30)
            .max(1);
        match (present, deleted) {
            (true, false) => None,
            (true, true) => Some(Self::Deleted { grace_seconds }),
            (false, _) => Some(Self::Gone { grace_seconds }),
        }
    }

    /// Seconds from the first signal to SIGKILL.
    pub fn grace_seconds(self) -> i64 {
        match self {
            Self::Deleted { grace_seconds } | Self::Gone { grace_seconds } => grace_seconds,
        }
    }
}

/// Where a container stands in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    /// `spec.initContainers`
    Init,
    /// `spec.containers`
    App,
    /// `spec.ephemeralContainers`: started once, beside whatever else goes on.
    Ephemeral,
}

impl ContainerKind {
    /// The value of the kind label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::App => "app",
            Self::Ephemeral => "ephemeral",
        }
    }

    /// The field of the PodSpec, as events name it.
    pub fn field(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::App => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Restart whatever the exit code.
    Always,
    /// Restart after a non-zero exit code.
    OnFailure,
    /// Never restart.
    Never,
}

/// The pod's restart policy; `Always` where unset, as the API server defaults it.
pub fn pod_restart_policy(pod: &Pod) -> RestartPolicy {
    match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

impl RestartPolicy {
    /// Whether an app container that ended with `code` runs again.
    pub fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// The restart policy that holds for a container: its own, else the pod's.
pub fn restart_policy(pod: &Pod, container: &Container) -> RestartPolicy {
    match container.restart_policy.as_deref() {
        Some("Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        _ => pod_restart_policy(pod),
    }
}

/// Whether a container that ended with `code` runs again: by the first of its restart rules that matches, else by its policy
/// (KEP-5307).
pub fn restarts_after(pod: &Pod, container: &Container, code: i32) -> bool {
    let by_rule =
        container.restart_policy.is_some() && matching_rule(container, code).is_some_and(|rule| RESTARTS.contains(&&*rule.action));
    by_rule || restart_policy(pod, container).restarts(code)
}

/// Actions of restart rules by which the container runs again; others leave it to the policy.
const RESTARTS: [&str; 2] = ["Restart", RESTART_ALL];
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether a container that ended with `code` asks for a restart of all containers of its pod (KEP-5532).
pub fn restarts_all_after(container: &Container, code: i32) -> bool {
    matching_rule(container, code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether any end of a container may ask for a restart of all.
pub fn may_restart_all(pod: &Pod) -> bool {
    containers(pod).any(|(_, container)| container.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL))
}

fn matching_rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| matches(rule, code))
}

fn matches(rule: &ContainerRestartRule, code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

/// Init containers, app containers and ephemeral containers, each in the order of the spec.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (ContainerKind, Cow<'_, Container>)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let app = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    let ephemeral = spec.and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
    let init = init.iter().map(|c| (ContainerKind::Init, Cow::Borrowed(c)));
    let app = app.iter().map(|c| (ContainerKind::App, Cow::Borrowed(c)));
    init.chain(app).chain(ephemeral.iter().map(|c| (ContainerKind::Ephemeral, Cow::Owned(as_container(c)))))
}

/// A container of the spec, of whatever kind.
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<(ContainerKind, Cow<'a, Container>)> {
    containers(pod).find(|(_, container)| container.name == name)
}

/// The container whose processes an ephemeral container sees (`targetContainerName`).
pub fn target_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let ephemeral = pod.spec.as_ref()?.ephemeral_containers.as_deref()?;
    ephemeral.iter().find(|c| c.name == name)?.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// An ephemeral container has the fields of a container, and its target. It is never restarted.
fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy: _,
        restart_policy_rules: _,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = ephemeral.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy: Some("Never".into()),
        restart_policy_rules: None,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// What the pod's status says of a container, of whatever kind.
pub fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// The pod's identity. A static pod's mirror carries its hash in `kubernetes.io/config.hash`; the pod itself has it as UID.
pub fn pod_uid(pod: &Pod) -> PodUid {
    PodUid::new(pod.metadata.uid.clone().unwrap_or_default())
}

/// Whether this API object is only the image of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"))
}
