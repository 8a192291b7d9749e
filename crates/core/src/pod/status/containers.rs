//! `status.containerStatuses` and `initContainerStatuses`, after the kubelet's `convertToAPIContainerStatuses`.

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{View, resize};
use crate::pod::observed::{ContainerState, Exit, ObservedContainer};
use crate::pod::probes;
use crate::pod::spec::{ContainerKind, containers};
use crate::resources::is_sidecar;

/// The statuses of one kind of container. App containers are sorted by name, the others keep the order of the spec.
pub(super) fn statuses(view: &View<'_>, kind: ContainerKind) -> Vec<ContainerStatus> {
    let old = view.desired.pod.status.as_ref();
    let old = match kind {
        ContainerKind::Init => old.and_then(|s| s.init_container_statuses.as_deref()),
        ContainerKind::App => old.and_then(|s| s.container_statuses.as_deref()),
        ContainerKind::Ephemeral => old.and_then(|s| s.ephemeral_container_statuses.as_deref()),
    };
    let old = old.unwrap_or_default();
    let mut out: Vec<_> = containers(view.desired.pod)
        .filter(|(of, _)| *of == kind)
        .map(|(_, c)| status(view, kind, &c, old.iter().find(|o| o.name == c.name)))
        .collect();
    if kind == ContainerKind::App {
        out.sort_by(|a, b| a.name.cmp(&b.name));
    }
    out
}

fn status(view: &View<'_>, kind: ContainerKind, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let newest = view.observed.newest(&container.name);
    let mut status = match newest {
        Some(newest) => seen(view, container, newest, old),
        None => unseen(view, kind, container, old),
    };
    // As the kubelet, which looks at a container again only when its postStart hook is done.
    if newest.is_some_and(|newest| newest.is_running() && probes::is_hooked(view.memory, container, newest)) {
        let before = old.and_then(|o| o.state.clone()).filter(|s| s.waiting.is_some());
        status.state = Some(before.unwrap_or_else(|| wait("ContainerCreating", None)));
    }
    let waiting = view.waiting.iter().find(|(name, _, _)| name.as_str() == container.name);
    let succeeded = |status: &ContainerStatus| status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
    let plain_init = kind == ContainerKind::Init && !is_sidecar(container);
    let restarts = newest.is_some_and(|newest| view.round.is_over(newest));
    if let Some((_, reason, message)) = waiting
        && !(plain_init && succeeded(&status) && !restarts)
        && !running(&status)
    {
        let state = status.state.take();
        if let Some(terminated) = state.and_then(|s| s.terminated) {
            status.last_state = Some(ApiState { terminated: Some(terminated), ..ApiState::default() });
        }
        status.state = Some(wait(reason, Some(message.clone())));
    }
    let seen_running = newest.filter(|_| running(&status));
    if kind == ContainerKind::Ephemeral {
        status.ready = false;
    } else if plain_init {
        status.ready = succeeded(&status);
        status.started = Some(seen_running.is_some());
    } else {
        status.ready = seen_running.is_some_and(|newest| probes::is_ready(view.memory, container, newest));
        status.started = Some(seen_running.is_some_and(|newest| probes::is_started(view.memory, container, newest)));
    }
    status.volume_mounts = volume_mounts(container, view.rules.recursive_read_only);
    status
}

fn running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn wait(reason: &str, message: Option<String>) -> ApiState {
    ApiState { waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }), ..ApiState::default() }
}

/// The status of a container that Podman has.
fn seen(view: &View<'_>, container: &Container, newest: &ObservedContainer, old: Option<&ContainerStatus>) -> ContainerStatus {
    let state = match &newest.state {
        ContainerState::Created => wait("ContainerCreating", None),
        ContainerState::Running { started_at } => {
            ApiState { running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }), ..ApiState::default() }
        }
        ContainerState::Exited(exit) => ApiState { terminated: Some(terminated(newest, exit)), ..ApiState::default() },
    };
    let last_state = view
        .observed
        .before(&container.name, newest.attempt)
        .and_then(|before| before.exit().map(|exit| terminated(before, exit)))
        .map(|t| ApiState { terminated: Some(t), ..ApiState::default() })
        .or_else(|| old.and_then(|o| last_of(o, newest)));
    ContainerStatus {
        name: container.name.clone(),
        container_id: Some(container_id(newest)),
        image: newest.image.clone(),
        image_id: newest.image_id.clone(),
        restart_count: i32::try_from(newest.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        resources: Some(resize::of_container(view, container, newest)),
        user: newest.user.as_ref().map(user).or_else(|| {
            // A container that has ended shows no process any more.
            old.filter(|old| old.container_id.as_deref() == Some(container_id(newest).as_str()))?.user.clone()
        }),
        ..ContainerStatus::default()
    }
}

fn user((uid, gid, groups): &(i64, i64, Vec<i64>)) -> ContainerUser {
    let supplemental_groups = (!groups.is_empty()).then(|| groups.clone());
    ContainerUser { linux: Some(LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups }) }
}

/// What the API server was told of the attempt before, where Podman has it no more.
fn last_of(old: &ContainerStatus, newest: &ObservedContainer) -> Option<ApiState> {
    let same = old.container_id.as_deref() == Some(container_id(newest).as_str());
    let ended = old.state.as_ref().filter(|s| s.terminated.is_some());
    if same { old.last_state.clone() } else { ended.cloned().or_else(|| old.last_state.clone()) }
}

/// The status of a container that Podman does not have: not made yet, or lost.
fn unseen(view: &View<'_>, kind: ContainerKind, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let spec = view.desired.pod.spec.as_ref();
    let has_init = spec.is_some_and(|s| s.init_containers.as_ref().is_some_and(|i| !i.is_empty()));
    let apps = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: String::new(),
        state: Some(wait(if has_init { "PodInitializing" } else { "ContainerCreating" }, None)),
        last_state: Some(ApiState::default()),
        ..ContainerStatus::default()
    };
    if kind == ContainerKind::Init && !is_sidecar(container) && apps.iter().any(|c| view.observed.newest(&c.name).is_some()) {
        if let Some(old) = old.filter(|o| o.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
            return old.clone();
        }
        status.state = Some(ApiState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("Completed".into()),
                message: Some(
                    "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"
                        .into(),
                ),
                exit_code: 0,
                ..ContainerStateTerminated::default()
            }),
            ..ApiState::default()
        });
        return status;
    }
    let Some(old) = old else { return status };
    if old.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = Some(old.last_state.clone().unwrap_or_default());
    if running(old) && status.last_state.as_ref().is_none_or(|s| s.terminated.is_none()) {
        status.last_state = Some(ApiState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was deleted.  The container used to be Running".into()),
                exit_code: 137,
                ..ContainerStateTerminated::default()
            }),
            ..ApiState::default()
        });
        if view.desired.stop.is_none() {
            status.restart_count += 1;
        }
    }
    status
}

fn terminated(container: &ObservedContainer, exit: &Exit) -> ContainerStateTerminated {
    let reason = exit.reason.clone().unwrap_or_else(|| if exit.code == 0 { "Completed".into() } else { "Error".into() });
    ContainerStateTerminated {
        container_id: Some(container_id(container)),
        exit_code: exit.code,
        finished_at: Some(Time(exit.finished_at)),
        message: exit.message.clone().filter(|m| !m.is_empty()),
        reason: Some(reason),
        signal: None,
        started_at: exit.started_at.map(Time),
    }
}

fn container_id(container: &ObservedContainer) -> String {
    format!("podman://{}", container.id)
}

fn volume_mounts(container: &Container, recursive_read_only: bool) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    (!mounts.is_empty()).then(|| {
        mounts
            .iter()
            .map(|m| {
                let read_only = m.read_only.unwrap_or(false);
                let recursive = recursive_read_only && matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
                VolumeMountStatus {
                    name: m.name.clone(),
                    mount_path: m.mount_path.clone(),
                    read_only: read_only.then_some(true),
                    recursive_read_only: read_only.then(|| if recursive { "Enabled".into() } else { "Disabled".into() }),
                    ..VolumeMountStatus::default()
                }
            })
            .collect()
    })
}
