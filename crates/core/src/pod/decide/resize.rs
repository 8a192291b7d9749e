//! Resources that are changed in place, and restarts for those that cannot be.

use super::super::observed::ObservedContainer;
use super::super::plan::{Action, ActionKey};
use super::Draft;

impl Draft<'_> {
    /// Changes limits in place. What has to end for it ends before, and what is being started is not disturbed.
    pub(super) fn resize(&mut self) {
        let starting = self.memory.in_flight.iter().any(|key| matches!(key, ActionKey::Start(_)));
        if self.differences.resizing.steps.is_empty() || !self.differences.restarts.is_empty() || starting {
            return;
        }
        match self.memory.resize.retry_at {
            Some(at) if self.now.steady < at => self.wake(at),
            _ => self.actions.push(Action::Resize(self.differences.resizing.clone())),
        }
    }

    /// Whether what starts has to wait for the pod's cgroup: cgroup v1 allows no container more than its pod. Where that fails, it
    /// is tried all the same, as by the kubelet.
    pub(super) fn awaits_resize(&self) -> bool {
        self.differences.cgroup && self.memory.resize.retry_at.is_none()
    }

    /// Whether a container has to end, or has ended, because its resources cannot be changed in place.
    pub(super) fn is_resized_by_restart(&self, container: &ObservedContainer) -> bool {
        self.memory.actuated.restarts.contains(&container.id) || self.differences.restarts.contains(&container.id)
    }
}
