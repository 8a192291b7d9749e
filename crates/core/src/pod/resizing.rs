//! Where the running containers differ from what their pod was given. The pod here is the one that was given: its resources are
//! those of its [`Allocation`](crate::resize::Allocation).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::memory::Memory;
use super::observed::{Observed, ObservedContainer};
use super::plan::ResizeStanding;
use super::replacement::is_replaced;
use super::spec::{ContainerKind, restarts_after};
use crate::ids::ContainerId;
use crate::resize::{Actuated, ContainerAmounts, PodAmounts, Resizing, Update};

/// The conditions of a resize.
pub const RESIZE_PENDING: &str = "PodResizePending";
/// See [`RESIZE_PENDING`].
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// The differences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Containers that run and have to end, so that others come with other resources.
    pub restarts: BTreeSet<ContainerId>,
    /// What is to be changed in place.
    pub resizing: Resizing,
    /// The pod's own cgroup is among it: what starts waits for it.
    pub cgroup: bool,
    /// Containers that were ended for it and have no successor yet.
    pub unfollowed: bool,
}

impl Differences {
    pub fn find(pod: &Pod, observed: &Observed, memory: &Memory) -> Self {
        let containers: Vec<_> = super::containers(pod).filter(|(kind, _)| *kind != ContainerKind::Ephemeral).collect();
        let (mut out, mut updates) = (Self::default(), Vec::new());
        for (_, container) in &containers {
            let Some(newest) = observed.newest(&container.name) else { continue };
            let follows =
                || newest.exit().is_none_or(|exit| restarts_after(pod, container, exit.code) || is_replaced(memory, observed, newest));
            out.unfollowed |= memory.actuated.restarts.contains(&newest.id) && follows();
            let to = ContainerAmounts::of(pod, container);
            let Some(from) = actual(&memory.actuated, newest).filter(|from| newest.is_running() && *from != to) else { continue };
            if from.restarts(&to, container) {
                out.restarts.insert(newest.id.clone());
            } else {
                updates.push(Update { id: &newest.id, container, from, to });
            }
        }
        let cgroup = memory.actuated.pod.map(|from| (from, from.towards(PodAmounts::of(pod)))).filter(|(from, to)| from != to);
        out.cgroup = cgroup.is_some();
        out.resizing = Resizing::plan(pod, &updates, cgroup);
        out
    }

    pub fn standing(&self) -> ResizeStanding {
        let busy = !self.restarts.is_empty() || !self.resizing.steps.is_empty() || self.unfollowed;
        ResizeStanding { busy, restarts: self.restarts.clone() }
    }
}

/// Containers and cgroups that were made by an agent that wrote nothing down of them have what the pod was given.
pub fn note_unknown(memory: &mut Memory, pod: &Pod, observed: &Observed) {
    if observed.sandbox.is_some() {
        memory.actuated.pod.get_or_insert_with(|| PodAmounts::of(pod));
    }
    for (_, container) in super::containers(pod) {
        if let Some(newest) = observed.newest(&container.name).filter(|newest| newest.amounts.is_none()) {
            memory.actuated.containers.entry(newest.id.clone()).or_insert_with(|| ContainerAmounts::of(pod, &container));
        }
    }
}

/// What a container is run with; `None` where nobody knows, which is no difference.
pub(super) fn actual(actuated: &Actuated, seen: &ObservedContainer) -> Option<ContainerAmounts> {
    actuated.containers.get(&seen.id).copied().or(seen.amounts)
}
