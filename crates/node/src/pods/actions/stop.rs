//! Signals.

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::{ContainerId, ContainerName};
use kube_pet_core::pod::{ContainerKind, find_container};

use crate::pods::runtime::PodRuntime;

impl PodRuntime {
    /// Asks a container to stop with its stop signal. One that is no longer running is fine.
    pub(in crate::pods) async fn signal(
        &self,
        pod: &Pod,
        id: &ContainerId,
        name: &ContainerName,
        message: Option<String>,
    ) -> Result<(), String> {
        let found = find_container(pod, name.as_str());
        let kind = found.as_ref().map_or(ContainerKind::App, |(kind, _)| *kind);
        if let Some(message) = message {
            self.note(pod, Some((kind, name.as_str())), "Killing", message);
        }
        let own = found.and_then(|(_, c)| c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone())).filter(|signal| !signal.is_empty());
        if let Some(signal) = own {
            return self.podman.kill_container(id.as_str(), &signal).await.map_err(|e| e.to_string());
        }
        let signal = match self.podman.inspect_container(id.as_str()).await {
            Ok(inspect) => inspect.config.stop_signal.filter(|s| !s.is_empty() && s != "0").unwrap_or_else(|| "SIGTERM".into()),
            Err(error) if error.is_not_found() => return Err("the container is gone".into()),
            Err(_) => "SIGTERM".into(),
        };
        self.podman.kill_container(id.as_str(), &signal).await.map_err(|e| e.to_string())
    }

    /// Kills a container. Podman being away is an error that is retried.
    pub(in crate::pods) async fn kill(&self, id: &ContainerId) -> Result<(), String> {
        self.podman.kill_container(id.as_str(), "SIGKILL").await.map_err(|e| e.to_string())
    }
}
