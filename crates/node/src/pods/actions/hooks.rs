//! Lifecycle hooks, with the kubelet's events.

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use kube_pet_core::ids::{ContainerId, ContainerName};
use kube_pet_core::pod::{ContainerKind, SandboxFacts, find_container};
use tracing::warn;

use crate::pods::runtime::PodRuntime;

impl PodRuntime {
    /// Runs a container's postStart hook.
    ///
    /// # Errors
    /// The kubelet's words, for the container's state: they may hold output of the container.
    pub(in crate::pods) async fn post_start(
        &self,
        pod: &Pod,
        sandbox: &SandboxFacts,
        id: &ContainerId,
        name: &ContainerName,
    ) -> Result<(), String> {
        let Some((kind, container)) = find_container(pod, name.as_str()) else { return Ok(()) };
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        self.hook(pod, sandbox, id, (kind, &container), hook).await.inspect_err(|_| {
            self.warn(pod, Some((kind, name.as_str())), "FailedPostStartHook", "PostStartHook failed".to_owned());
        })
    }

    /// Tells that a container's end begins, and runs its preStop hook if it has one.
    pub(in crate::pods) async fn pre_stop(
        &self,
        pod: &Pod,
        sandbox: &SandboxFacts,
        id: &ContainerId,
        name: &ContainerName,
        message: String,
    ) {
        let Some((kind, container)) = find_container(pod, name.as_str()) else { return };
        self.note(pod, Some((kind, name.as_str())), "Killing", message);
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
        if self.hook(pod, sandbox, id, (kind, &container), hook).await.is_err() {
            self.warn(pod, Some((kind, name.as_str())), "FailedPreStopHook", "PreStopHook failed".to_owned());
        }
    }

    async fn hook(
        &self,
        pod: &Pod,
        sandbox: &SandboxFacts,
        id: &ContainerId,
        (kind, container): (ContainerKind, &Container),
        hook: &LifecycleHandler,
    ) -> Result<(), String> {
        match self.handlers.hook(pod, container, hook, &sandbox.pod_ips, id).await {
            Ok(done) => {
                if let Some(message) = done.http_fallback {
                    self.warn(pod, None, "LifecycleHTTPFallback", message);
                }
                Ok(())
            }
            Err(error) => {
                warn!(container = container.name, kind = kind.as_str(), error, "a lifecycle hook failed");
                Err(error)
            }
        }
    }
}
