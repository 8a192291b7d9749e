//! Stopping: preStop hooks, signals, the grace period, the order of sidecars, and what comes after.

use jiff::{SignedDuration, Timestamp};

use super::super::observed::{ObservedContainer, SandboxFacts};
use super::super::plan::{Action, ActionKey};
use super::super::probes::{self, Failed};
use super::super::spec::{ContainerKind, RestartPolicy, Stop, find_container, restart_policy};
use super::Draft;
use crate::container_hash::container_hash;
use crate::resources::is_sidecar;

/// A process in uninterruptible sleep dies when it can; Podman may also have been away.
const KILL_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// What a container has at least between its signal and SIGKILL, however long its hook took
/// (the kubelet's `minimumGracePeriodInSeconds`).
const SHORTEST_GRACE: SignedDuration = SignedDuration::from_secs(2);

impl Draft<'_> {
    /// Stops containers whose definition changed, or whose probe or hook failed. Their successors start once they have ended.
    pub(super) fn kill_unwanted(&mut self) {
        for newest in self.observed.containers.iter().filter(|c| c.is_running()) {
            let Some((kind, container)) = find_container(self.pod(), newest.name.as_str()) else { continue };
            let sidecar = is_sidecar(&container);
            if !(kind == ContainerKind::App || sidecar) {
                continue;
            }
            let changed = newest.spec_hash != container_hash(&container);
            let failed = probes::failed(self.memory, &container, newest);
            // What has its signal is seen to its end. What only waits for its turn is not: its turn is not known here.
            let begun = self.memory.signalled.contains_key(&newest.id);
            let resized = !changed && failed.is_none() && self.is_resized_by_restart(newest);
            if !(changed || failed.is_some() || begun || resized) {
                continue;
            }
            if changed {
                self.replaced.insert(newest.id.clone());
            }
            let name = &newest.name;
            let again = changed
                || !resized && failed != Some(Failed::PostStartHook) && restart_policy(self.pod(), &container) != RestartPolicy::Never;
            let subject = if sidecar && !resized { "Init container" } else { "Container" };
            let message = match failed {
                _ if changed => format!("{subject} {name} definition changed"),
                Some(Failed::Probe(kind)) => format!("{subject} {name} failed {} probe", kind.as_str().to_lowercase()),
                Some(Failed::PostStartHook) => "FailedPostStartHook".to_owned(),
                None if resized => format!("{subject} {name} resize requires restart"),
                None => format!("Stopping container {name}"),
            };
            let message = if again && !sidecar { format!("{message}, will be restarted") } else { message };
            let own_grace = match failed {
                Some(Failed::Probe(kind)) if !changed => kind.of(&container).and_then(|p| p.termination_grace_period_seconds),
                _ => None,
            };
            let grace = own_grace.map_or_else(|| self.grace(), |seconds| seconds.max(1));
            self.stop_container(newest, grace, message, false);
        }
    }

    /// Containers that still run in namespaces that are no longer the pod's.
    pub(super) fn stale_running(&mut self, sandbox: &SandboxFacts) -> bool {
        let grace = self.grace();
        let mut any = false;
        for container in self.observed.containers.iter().filter(|c| c.is_running() && c.sandbox != sandbox.id) {
            any = true;
            self.stop_container(container, grace, format!("Stopping container {}", container.name), false);
        }
        any
    }

    /// Stops everything and takes the pod apart; true when nothing is left to do.
    pub(super) fn stop(&mut self, stop: Stop) -> bool {
        // Where the node has no time for what the deletion gives, as the kubelet: a grace period only ever shrinks.
        let grace = self.eviction_grace().map_or(stop.grace_seconds(), |grace| grace.max(1).min(stop.grace_seconds()));
        if !self.end(grace) {
            return false;
        }
        if !self.memory.removed {
            self.teardown(Action::Remove);
            return false;
        }
        match stop {
            Stop::Gone { .. } => true,
            Stop::Deleted { .. } if self.memory.deleted => true,
            Stop::Deleted { .. } => {
                self.teardown(Action::DeleteObject);
                false
            }
        }
    }

    /// Stops the processes, then releases what the pod holds; true once both are done.
    pub(super) fn end(&mut self, grace: i64) -> bool {
        let running = self.stop_running(grace);
        let busy = self.memory.in_flight.iter().any(|k| matches!(k, ActionKey::Start(_)));
        if running || busy {
            return false;
        }
        if !self.memory.released {
            self.teardown(Action::Release);
            return false;
        }
        true
    }

    /// Stops whatever runs; true if anything does. Sidecars go after all app containers, the last one first (KEP-753).
    pub(super) fn stop_running(&mut self, grace: i64) -> bool {
        let rank = |container: &ObservedContainer| match find_container(self.pod(), container.name.as_str()) {
            Some((ContainerKind::App, _)) => Some(usize::MAX),
            Some((ContainerKind::Init, c)) if is_sidecar(&c) => self.init().iter().position(|i| i.name == c.name),
            _ => None,
        };
        let running: Vec<_> = self.observed.containers.iter().filter(|c| c.is_running()).map(|c| (c, rank(c))).collect();
        for (container, own) in &running {
            let waits = own.is_some_and(|own| running.iter().any(|(_, other)| other.is_some_and(|other| other > own)));
            self.stop_container(container, grace, format!("Stopping container {}", container.name), waits);
        }
        !running.is_empty()
    }

    fn teardown(&mut self, action: Action) {
        match self.memory.teardown_retry_at {
            Some(at) if self.now.steady < at => self.wake(at),
            _ => self.actions.push(action),
        }
    }

    /// The preStop hook, the container's turn, the signal, the rest of the grace period, then SIGKILL; again if that did not help.
    /// All of it counts against the grace period, but the signal is given [`SHORTEST_GRACE`]. Where there is none, the hook is left out.
    pub(super) fn stop_container(&mut self, container: &ObservedContainer, grace: i64, message: String, waits: bool) {
        let (id, name) = (&container.id, &container.name);
        let hook = grace > 0
            && find_container(self.pod(), name.as_str()).is_some_and(|(_, c)| c.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()));
        let Some(began) = self.memory.stopping.get(id).or(self.memory.signalled.get(id)).copied() else {
            self.actions.push(if hook || waits {
                Action::PreStop { id: id.clone(), container: name.clone(), message }
            } else {
                Action::Signal { id: id.clone(), container: name.clone(), message: Some(message) }
            });
            return;
        };
        let after = |at: Timestamp, wait: SignedDuration| at.checked_add(wait).unwrap_or(at);
        let deadline = after(began, SignedDuration::from_secs(grace));
        let Some(signalled) = self.memory.signalled.get(id).copied() else {
            let told = hook || waits || self.memory.pre_stopped.contains(id);
            let ready = !waits && (!hook || self.memory.pre_stopped.contains(id));
            if ready || self.now.steady >= deadline {
                self.actions.push(Action::Signal { id: id.clone(), container: name.clone(), message: (!told).then_some(message) });
                return;
            }
            if hook && !self.memory.pre_stopped.contains(id) {
                self.actions.push(Action::PreStop { id: id.clone(), container: name.clone(), message });
            }
            self.wake(deadline);
            return;
        };
        let deadline = deadline.max(after(signalled, SHORTEST_GRACE));
        if self.now.steady < deadline {
            self.wake(deadline);
            return;
        }
        let again = self.memory.killed.get(id).map(|at| after(*at, KILL_AGAIN));
        match again {
            Some(at) if self.now.steady < at => self.wake(at),
            _ => self.actions.push(Action::Kill { id: id.clone(), container: name.clone() }),
        }
    }
}
