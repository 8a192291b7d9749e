//! Init containers and sidecars, after the kubelet's `computeInitContainerActions`.

use k8s_openapi::api::core::v1::Container;

use super::super::observed::{ObservedContainer, SandboxFacts};
use super::super::probes;
use super::super::spec::{ContainerKind, RestartPolicy, pod_restart_policy};
use super::Draft;
use crate::resources::is_sidecar;

impl Draft<'_> {
    /// Advances the init containers; true once app containers may start.
    ///
    /// The last one that was begun in this sandbox says how far the pod has come. Those before it count as done, except that
    /// sidecars among them are kept running.
    pub(super) fn init_done(&mut self, sandbox: &SandboxFacts) -> bool {
        // Where nothing may run twice, what is done stays done in a new sandbox.
        let never = pod_restart_policy(self.pod()) == RestartPolicy::Never;
        let counts = |r: &&ObservedContainer| (never || r.sandbox == sandbox.id) && !self.round.is_over(r);
        let init = self.init();
        let initialized = self.apps().iter().any(|c| self.observed.newest(&c.name).is_some_and(|r| counts(&r)));
        let reached = init.iter().enumerate().rev().find_map(|(i, c)| Some((i, c, self.observed.newest(&c.name).filter(counts)?)));
        let next = match reached {
            _ if initialized => init.len(),
            None => 0,
            Some((i, container, newest)) => i + usize::from(self.is_passed(container, newest)),
        };
        for sidecar in init.iter().take(next).filter(|c| is_sidecar(c)) {
            self.advance(ContainerKind::Init, sidecar, sandbox);
        }
        if let Some(container) = init.get(next) {
            self.advance(ContainerKind::Init, container, sandbox);
        }
        next >= init.len()
    }

    /// Whether what comes after an init container may start: it has succeeded, or it is a sidecar that has come up.
    fn is_passed(&self, container: &Container, newest: &ObservedContainer) -> bool {
        if is_sidecar(container) {
            return probes::is_started(self.memory, container, newest);
        }
        newest.exit().is_some_and(|e| e.code == 0 && e.reason.as_deref() != Some("StartError"))
    }
}
