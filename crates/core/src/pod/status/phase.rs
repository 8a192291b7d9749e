//! `status.phase`, after the kubelet's `getPhase`.

use k8s_openapi::api::core::v1::{Container, ContainerStatus};

use super::View;
use crate::pod::probes;
use crate::pod::replacement::is_replaced;
use crate::pod::spec::restarts_after;
use crate::resources::is_sidecar;

/// Where a container stands.
enum Stage {
    /// The pod's status does not have it.
    Unknown,
    /// It has not run yet.
    Waiting,
    Running {
        started: bool,
    },
    /// It has ended with this code, for good or before a restart.
    Ended(i32),
}

/// The phase that the container statuses amount to. `stopped`: nothing runs and nothing will.
pub(super) fn phase(view: &View<'_>, init: &[ContainerStatus], apps: &[ContainerStatus], stopped: bool) -> &'static str {
    let pod = view.desired.pod;
    let spec = pod.spec.as_ref();
    let init_containers = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let app_containers = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    let (mut unknown, mut running, mut waiting) = (0, 0, 0);
    let (mut pending, mut pending_sidecars) = (0, 0);
    for container in init_containers {
        let stage = stage(container, init);
        if is_sidecar(container) {
            match stage {
                Stage::Unknown => unknown += 1,
                Stage::Waiting => {
                    pending_sidecars += 1;
                    waiting += 1;
                }
                Stage::Running { started } => {
                    running += 1;
                    pending_sidecars += usize::from(!started);
                }
                // One that has ended does not count.
                Stage::Ended(_) => {}
            }
            continue;
        }
        match stage {
            Stage::Ended(0) => {}
            // A failed init container that will run again keeps the pod pending: its app containers wait.
            Stage::Ended(code) if restarts_after(pod, container, code) || is_over(view, container) => pending += 1,
            Stage::Ended(_) => return "Failed",
            _ => pending += 1,
        }
    }
    let (mut ended, mut ended_for_good, mut succeeded) = (0, 0, 0);
    for container in app_containers {
        match stage(container, apps) {
            Stage::Unknown => unknown += 1,
            Stage::Waiting => waiting += 1,
            Stage::Running { .. } => running += 1,
            Stage::Ended(code) => {
                ended += 1;
                let again = view.observed.newest(&container.name).is_some_and(|newest| {
                    view.round.is_over(newest)
                        || is_replaced(view.memory, view.observed, newest)
                        || probes::restarts(view.memory, pod, container, newest)
                });
                ended_for_good += usize::from(!restarts_after(pod, container, code) && !again);
                succeeded += usize::from(code == 0 && is_terminated(container, apps));
            }
        }
    }
    let initialized = app_containers.iter().any(|c| matches!(stage(c, apps), Stage::Running { .. } | Stage::Ended(_)));
    if pending > 0 || pending_sidecars > 0 && !initialized || waiting > 0 {
        // A pod that is stopped before all of it has run did not succeed.
        return if stopped && (ended > 0 || pending > 0) { "Failed" } else { "Pending" };
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if ended > 0 && unknown == 0 {
        let result = if succeeded == ended { "Succeeded" } else { "Failed" };
        return if stopped || ended_for_good == ended { result } else { "Running" };
    }
    "Pending"
}

/// Whether the newest attempt is of an earlier round: another follows.
fn is_over(view: &View<'_>, container: &Container) -> bool {
    view.observed.newest(&container.name).is_some_and(|newest| view.round.is_over(newest))
}

fn is_terminated(container: &Container, statuses: &[ContainerStatus]) -> bool {
    statuses.iter().any(|s| s.name == container.name && s.state.as_ref().is_some_and(|s| s.terminated.is_some()))
}

fn stage(container: &Container, statuses: &[ContainerStatus]) -> Stage {
    let Some(status) = statuses.iter().find(|s| s.name == container.name) else { return Stage::Unknown };
    if status.state.as_ref().is_some_and(|s| s.running.is_some()) {
        return Stage::Running { started: status.started == Some(true) };
    }
    let code = [&status.state, &status.last_state].into_iter().flatten().find_map(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    code.map_or(Stage::Waiting, Stage::Ended)
}
