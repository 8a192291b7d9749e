//! What the worker has seen of its containers, kept as cheaply as possible: a container is inspected only when something about it
//! may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::{ContainerId, PodUid, labels};
use kube_pet_core::pod::{ContainerState, Observed, ObservedContainer, SandboxFacts};
use tracing::debug;

use crate::containers::is_helper;
use crate::pods::inventory::Sighting;
use crate::pods::runtime::PodRuntime;

/// The containers and sandbox of one pod.
pub(super) struct Observation {
    pub sandbox: Option<SandboxFacts>,
    facts: Observed,
    /// When a container was last seen by ourselves: an older list says nothing about it.
    seen_at: BTreeMap<ContainerId, Instant>,
    /// Containers that could not be started. Podman calls them created.
    start_errors: BTreeMap<ContainerId, ObservedContainer>,
    /// Containers whose exit is awaited.
    watched: BTreeSet<ContainerId>,
}

impl Observation {
    pub fn new() -> Self {
        Self {
            sandbox: None,
            facts: Observed::default(),
            seen_at: BTreeMap::new(),
            start_errors: BTreeMap::new(),
            watched: BTreeSet::new(),
        }
    }

    /// What `decide` is given.
    pub fn facts(&mut self) -> &Observed {
        self.facts.sandbox.clone_from(&self.sandbox);
        &self.facts
    }

    pub fn sandbox_released(&mut self) {
        self.sandbox = None;
    }

    /// Reads everything anew.
    pub async fn load(&mut self, runtime: &Arc<PodRuntime>, pod: &Pod, uid: &PodUid) -> Result<(), kube_pet_podman::Error> {
        let asked_at = Instant::now();
        let node = runtime.node_name();
        let containers = runtime.podman().list_containers(&[(labels::NODE, node), (labels::POD_UID, uid.as_str())]).await?;
        self.sighted(runtime, pod, Sighting::All { asked_at, containers }).await;
        Ok(())
    }

    /// Takes in a sighting.
    pub async fn sighted(&mut self, runtime: &Arc<PodRuntime>, pod: &Pod, sighting: Sighting) {
        match sighting {
            Sighting::Touched(id) => self.inspect(runtime, pod, &id).await,
            // Not about what runs: the worker's own.
            Sighting::Evicted(_) | Sighting::Reallocated => {}
            Sighting::All { asked_at, containers } => {
                let listed: BTreeSet<ContainerId> = containers.iter().map(|c| ContainerId::new(&c.id)).collect();
                let lost: Vec<_> = self
                    .facts
                    .containers
                    .iter()
                    .map(|c| c.id.clone())
                    .filter(|id| !listed.contains(id) && self.seen_at.get(id).is_none_or(|seen| *seen < asked_at))
                    .collect();
                for id in lost {
                    debug!(id = id.as_str(), "a container is no longer there");
                    self.forget(&id);
                }
                for summary in containers.into_iter().filter(|summary| !is_helper(summary.labels.get(labels::KIND))) {
                    let id = ContainerId::new(&summary.id);
                    let known = self.facts.containers.iter().find(|c| c.id == id);
                    let same = known.is_some_and(|c| match c.state {
                        ContainerState::Running { .. } => summary.state == "running" || summary.state == "stopping",
                        ContainerState::Exited(_) => {
                            matches!(summary.state.as_str(), "exited" | "stopped") || self.start_errors.contains_key(&id)
                        }
                        ContainerState::Created => matches!(summary.state.as_str(), "created" | "configured" | "initialized"),
                    });
                    if !same {
                        self.inspect(runtime, pod, &id).await;
                    }
                }
            }
        }
    }

    async fn inspect(&mut self, runtime: &Arc<PodRuntime>, pod: &Pod, id: &ContainerId) {
        match runtime.observe(pod, id).await {
            Ok(Some(container)) => self.put(runtime, pod, container),
            Ok(None) => self.forget(id),
            Err(error) => debug!(id = id.as_str(), %error, "cannot inspect"),
        }
    }

    /// A container as just seen.
    pub fn put(&mut self, runtime: &Arc<PodRuntime>, pod: &Pod, container: ObservedContainer) {
        let container = match self.start_errors.get(&container.id) {
            Some(ended) if container.state == ContainerState::Created => ended.clone(),
            _ => container,
        };
        if container.is_running() && self.watched.insert(container.id.clone()) {
            runtime.watch_exit(pod, &container.id);
        }
        if !container.is_running() {
            self.watched.remove(&container.id);
        }
        self.seen_at.insert(container.id.clone(), Instant::now());
        self.facts.containers.retain(|c| c.id != container.id);
        self.facts.containers.push(container);
    }

    /// A container that was created and could not be started.
    pub fn put_start_error(&mut self, container: ObservedContainer) {
        self.start_errors.insert(container.id.clone(), container.clone());
        self.seen_at.insert(container.id.clone(), Instant::now());
        self.facts.containers.retain(|c| c.id != container.id);
        self.facts.containers.push(container);
    }

    pub fn forget(&mut self, id: &ContainerId) {
        self.facts.containers.retain(|c| c.id != *id);
        self.seen_at.remove(id);
        self.start_errors.remove(id);
        self.watched.remove(id);
    }
}
