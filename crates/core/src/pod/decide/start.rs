//! Starting containers: images, attempts, back-off.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

use super::super::backoff::next_restart;
use super::super::observed::{ContainerState, SandboxFacts};
use super::super::plan::{Action, ActionKey, EventKind, PodEvent};
use super::super::probes;
use super::super::replacement::is_replaced;
use super::super::spec::{ContainerKind, RestartPolicy, find_container, pod_restart_policy, restarts_after, restarts_all_after};
use super::super::{container_status, status};
use super::{Draft, format_pod};
use crate::container_hash::container_hash;
use crate::ids::ContainerName;

/// Whether an attempt may start, and with which label.
pub(super) enum Turn {
    Now { attempt: u32, backoff_seconds: u32 },
    At(Timestamp),
    Never,
}

impl Draft<'_> {
    /// Pulls may go on while the sandbox is being made.
    pub(super) fn first_images(&mut self) {
        let (init, apps) = (self.init(), self.apps());
        let wanted = if init.is_empty() { apps } else { &init[..1] };
        for container in wanted {
            if self.observed.newest(&container.name).is_none() {
                let attempt = self.first_attempt(&container.name);
                self.ensure_image(&ContainerName::from(container.name.as_str()), container, attempt);
            }
        }
    }

    /// Moves one container on: image, start, restart.
    pub(super) fn advance(&mut self, kind: ContainerKind, container: &Container, sandbox: &SandboxFacts) {
        let name = ContainerName::from(container.name.as_str());
        if let Some(newest) = self.observed.newest(&container.name)
            && newest.state == ContainerState::Created
        {
            // The agent or Podman died between creation and start, and the runtime may be in the midst of it: a new one is sure to start.
            if !self.memory.in_flight.contains(&ActionKey::Start(name)) {
                self.actions.push(Action::RemoveContainer { id: newest.id.clone() });
            }
            return;
        }
        match self.turn(container, sandbox) {
            Turn::Never => {}
            Turn::At(at) => {
                self.wake(at);
                self.events.push(PodEvent {
                    kind: EventKind::Warning,
                    container: Some((kind, name)),
                    reason: "BackOff",
                    message: format!("Back-off restarting failed container {} in pod {}", container.name, format_pod(self.pod())),
                });
            }
            Turn::Now { attempt, backoff_seconds } => {
                if let Some(failure) = self.memory.start_failures.get(&name)
                    && self.now.steady < failure.retry_at
                {
                    self.wake(failure.retry_at);
                    return;
                }
                if !self.ensure_image(&name, container, attempt) {
                    return;
                }
                if self.awaits_resize() {
                    return;
                }
                let obsolete =
                    self.observed.containers.iter().filter(|c| c.name == name && c.attempt + 1 < attempt).map(|c| c.id.clone()).collect();
                let round = self.round.number;
                self.actions.push(Action::StartContainer { container: name, kind, attempt, backoff_seconds, round, obsolete });
            }
        }
    }

    pub(super) fn turn(&self, container: &Container, sandbox: &SandboxFacts) -> Turn {
        let Some(newest) = self.observed.newest(&container.name) else {
            return Turn::Now { attempt: self.first_attempt(&container.name), backoff_seconds: 0 };
        };
        let Some(exit) = newest.exit() else { return Turn::Never };
        // Other resources than those that can be changed in place are as good as another image.
        let changed = newest.spec_hash != container_hash(container) || self.is_resized_by_restart(newest);
        let over = self.round.is_over(newest);
        let never_started = exit.reason.as_deref() == Some("StartError");
        let same_sandbox = newest.sandbox == sandbox.id;
        let probed = probes::restarts(self.memory, self.pod(), container, newest);
        let restarts = over || probed || restarts_after(self.pod(), container, if never_started { 128 } else { exit.code });
        // A container that had ended for good before its definition changed stays so, as with the kubelet.
        if !(restarts || is_replaced(self.memory, self.observed, newest)) {
            // An init container that succeeded in a sandbox that is gone runs again in the new one, whatever its own policy.
            let reruns = !same_sandbox && self.is_init(&container.name) && pod_restart_policy(self.pod()) != RestartPolicy::Never;
            if !reruns {
                return Turn::Never;
            }
        }
        // What was ended for a restart of all is not backed off, however that end reads to its own rules: with the kubelet it is a container
        // that has never run (KEP-5532). What has asked for the restart is, or pods would restart without end.
        let asked = restarts_all_after(container, exit.code) && !self.memory.actuated.replaced.contains(&newest.id);
        if changed || over && !asked {
            return Turn::Now { attempt: newest.attempt + 1, backoff_seconds: 0 };
        }
        let lived = exit.finished_at.duration_since(exit.started_at.unwrap_or(exit.finished_at));
        let (at, label) = next_restart(self.rules.crash, newest.backoff_seconds, lived, exit.finished_at);
        // A clock that was set back behind the end says nothing about the time since: better too early than never.
        let due = self.now.wall >= at || self.now.wall < exit.finished_at;
        if due { Turn::Now { attempt: newest.attempt + 1, backoff_seconds: label } } else { Turn::At(self.steady(at)) }
    }

    fn is_init(&self, name: &str) -> bool {
        self.init().iter().any(|c| c.name == name)
    }

    /// The number of an attempt where Podman knows none: it goes on from what the API server was told.
    fn first_attempt(&self, name: &str) -> u32 {
        container_status(self.pod(), name).map_or(0, |status| {
            let ran = status.container_id.as_deref().is_some_and(|id| !id.is_empty());
            u32::try_from(status.restart_count).unwrap_or(0) + u32::from(ran)
        })
    }

    /// True if the image is there for this attempt; otherwise asks for it or waits.
    fn ensure_image(&mut self, name: &ContainerName, container: &Container, attempt: u32) -> bool {
        if self.memory.images.get(name) == Some(&attempt) {
            return true;
        }
        let image = container.image.as_deref().unwrap_or_default();
        if let Some(failure) = self.memory.image_failures.get(name).filter(|f| f.image == image) {
            let until = failure.at.checked_add(SignedDuration::from_secs(i64::from(failure.backoff_seconds))).unwrap_or(failure.at);
            let shown = failure.at.checked_add(status::ERR_IMAGE_PULL_SHOWN).unwrap_or(failure.at);
            if self.now.steady < until {
                self.wake(until);
                if self.now.steady < shown {
                    self.wake(shown);
                } else if failure.reason == "ErrImagePull" {
                    self.events.push(PodEvent {
                        kind: EventKind::Normal,
                        container: find_container(self.pod(), name.as_str()).map(|(kind, _)| (kind, name.clone())),
                        reason: "BackOff",
                        message: format!("Back-off pulling image {:?}", failure.missing),
                    });
                }
                return false;
            }
        }
        self.actions.push(Action::EnsureImage { container: name.clone(), attempt });
        false
    }
}
