//! `status.phase`, after the kubelet's `getPhase`.

use k8s_openapi::api::core::v1::ContainerStatus;

use super::View;
use crate::container_hash::container_hash;
use crate::pod::spec::pod_restart_policy;

/// The phase that the container statuses amount to. `stopped`: nothing runs and nothing will.
pub(super) fn phase(view: &View<'_>, init: &[ContainerStatus], apps: &[ContainerStatus], stopped: bool) -> &'static str {
    let pod = view.desired.pod;
    let policy = pod_restart_policy(pod);
    let spec = pod.spec.as_ref();
    let mut pending = 0;
    for container in spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default() {
        let Some(status) = init.iter().find(|s| s.name == container.name) else {
            pending += 1;
            continue;
        };
        match ended(status) {
            Some(0) => {}
            Some(code) if policy.restarts(code) => {}
            Some(_) => return "Failed",
            None => pending += 1,
        }
        // A failed init container that will run again keeps the pod pending: its app containers wait.
        if ended(status).is_some_and(|code| code != 0) {
            pending += 1;
        }
    }
    let (mut unknown, mut running, mut waiting, mut ended_count, mut final_count, mut succeeded) = (0, 0, 0, 0, 0, 0);
    for container in spec.map(|s| s.containers.as_slice()).unwrap_or_default() {
        let Some(status) = apps.iter().find(|s| s.name == container.name) else {
            unknown += 1;
            continue;
        };
        let state = status.state.as_ref();
        if state.is_some_and(|s| s.running.is_some()) {
            running += 1;
        } else if let Some(code) = ended(status) {
            ended_count += 1;
            let changed = view.observed.newest(&container.name).is_some_and(|r| r.spec_hash != container_hash(container));
            if !policy.restarts(code) && !changed {
                final_count += 1;
            }
            if code == 0 && state.is_some_and(|s| s.terminated.is_some()) {
                succeeded += 1;
            }
        } else {
            waiting += 1;
        }
    }
    if pending > 0 || waiting > 0 {
        // A pod that is stopped before all of it has run did not succeed.
        return if stopped && (ended_count > 0 || pending > 0) { "Failed" } else { "Pending" };
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if ended_count > 0 && unknown == 0 {
        let result = if succeeded == ended_count { "Succeeded" } else { "Failed" };
        return if stopped || final_count == ended_count { result } else { "Running" };
    }
    "Pending"
}

/// The exit code of a container that has ended: of its state, or of its last one while it waits for a restart.
fn ended(status: &ContainerStatus) -> Option<i32> {
    let terminated =
        |s: &Option<k8s_openapi::api::core::v1::ContainerState>| s.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    if status.state.as_ref().is_some_and(|s| s.running.is_some()) {
        return None;
    }
    terminated(&status.state).or_else(|| terminated(&status.last_state))
}
