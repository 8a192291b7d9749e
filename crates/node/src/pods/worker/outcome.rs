//! What an operation reports back, and what the worker makes of it.

use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube_pet_core::ids::{ContainerId, ContainerName};
use kube_pet_core::pod::{
    Action, ContainerKind, Exit, ImageFailure, ObservedContainer, PostStart, PrepareFailure, SandboxFacts, StartFailure, find_container,
    next_retry,
};
use kube_pet_core::resize::PodAmounts;
use tracing::{debug, warn};

use super::{Wanted, Worker, steady_now};
use crate::instruments;
use crate::pods::actions::{ImageError, Resized, Start, StartError};
use crate::pods::runtime::{PodRuntime, StatusWriteError};

/// The result of an operation.
pub(super) enum Outcome {
    Prepared(Result<SandboxFacts, String>, PodAmounts),
    Image { container: ContainerName, attempt: u32, image: String, result: Result<(), ImageError> },
    Started { container: ContainerName, attempt: u32, result: Box<Result<ObservedContainer, StartError>> },
    PostStarted { id: ContainerId, container: ContainerName, result: Result<(), String> },
    PreStopped { id: ContainerId },
    Signalled { id: ContainerId, killed: bool, result: Result<(), String> },
    ContainerRemoved { id: ContainerId, result: Result<(), String> },
    Resized(Resized),
    Released(Result<(), String>),
    Removed(Result<(), String>),
    ObjectDeleted(Result<(), String>),
    Refreshed,
    StatusWritten(Result<(u64, Box<PodStatus>), StatusWriteError>),
}

/// Carries out one action.
pub(super) async fn act(
    runtime: &Arc<PodRuntime>,
    wanted: &Wanted,
    pod: &Arc<Pod>,
    sandbox: Option<SandboxFacts>,
    status: Option<PodStatus>,
    action: Action,
) -> Outcome {
    match action {
        Action::Prepare => Outcome::Prepared(runtime.prepare(pod).await, PodAmounts::of(pod)),
        Action::EnsureImage { container, attempt } => {
            let image = image_of(pod, &container);
            let result = runtime.ensure_image(pod, &container).await;
            Outcome::Image { container, attempt, image, result }
        }
        Action::StartContainer { container, kind, attempt, backoff_seconds, round, obsolete } => {
            let start = Start { kind, container: &container, attempt, backoff_seconds, round };
            let result = match &sandbox {
                Some(sandbox) => runtime.start_container(pod, sandbox, start).await,
                None => Err(StartError::config("the pod has no sandbox")),
            };
            let container_type = match kind {
                ContainerKind::Init => "init_container",
                ContainerKind::App => "container",
                ContainerKind::Ephemeral => "ephemeral_container",
            };
            match &result {
                Ok(_) => instruments::STARTED_CONTAINERS.add(&[container_type]),
                Err(error) => instruments::STARTED_CONTAINERS_ERRORS.add(&[container_type, error.reason]),
            }
            if result.is_ok() {
                runtime.remove_attempts(pod, &container, &obsolete, attempt).await;
            }
            Outcome::Started { container, attempt, result: Box::new(result) }
        }
        Action::PostStart { id, container } => {
            let result = runtime.post_start(pod, &sandbox.unwrap_or_default(), &id, &container).await;
            Outcome::PostStarted { id, container, result }
        }
        Action::PreStop { id, container, message } => {
            runtime.pre_stop(pod, &sandbox.unwrap_or_default(), &id, &container, message).await;
            Outcome::PreStopped { id }
        }
        Action::Signal { id, container, message } => {
            let result = runtime.signal(pod, &id, &container, message).await;
            Outcome::Signalled { id, killed: false, result }
        }
        Action::Kill { id, container: _ } => {
            let result = runtime.kill(&id).await;
            Outcome::Signalled { id, killed: true, result }
        }
        Action::RemoveContainer { id } => {
            let result = runtime.remove_container(pod, &id).await;
            Outcome::ContainerRemoved { id, result }
        }
        Action::Resize(resizing) => Outcome::Resized(runtime.resize(pod, resizing).await),
        Action::Release => Outcome::Released(runtime.release(pod).await),
        Action::Remove => Outcome::Removed(runtime.remove(pod).await),
        Action::DeleteObject => Outcome::ObjectDeleted(runtime.delete_object(wanted, status.as_ref()).await),
    }
}

fn image_of(pod: &Pod, container: &ContainerName) -> String {
    find_container(pod, container.as_str()).and_then(|(_, c)| c.image.clone()).unwrap_or_default()
}

impl Worker {
    pub(super) fn note_launch(&mut self, action: &Action) {
        // The grace period runs from the moment at which the signal is sent, whatever Podman does meanwhile.
        match action {
            Action::Prepare => self.preparing = true,
            Action::PreStop { id, .. } => {
                self.memory.stopping.entry(id.clone()).or_insert_with(steady_now);
            }
            Action::Signal { id, .. } => {
                self.memory.stopping.entry(id.clone()).or_insert_with(steady_now);
                self.memory.signalled.entry(id.clone()).or_insert_with(steady_now);
            }
            Action::Kill { id, .. } => {
                self.memory.killed.insert(id.clone(), steady_now());
            }
            _ => {}
        }
    }

    pub(super) fn apply(&mut self, outcome: Outcome) {
        self.preparing &= !matches!(outcome, Outcome::Prepared(..));
        match outcome {
            Outcome::Prepared(Ok(sandbox), amounts) => {
                self.memory.actuated.pod = Some(amounts);
                self.memory.prepare_failure = None;
                self.observation.sandbox = Some(sandbox);
            }
            Outcome::Prepared(Err(message), _) => {
                let count = self.memory.prepare_failure.as_ref().map_or(0, |f| f.count) + 1;
                let delay = (1_i64 << count.min(5)).min(20);
                warn!(message, "preparing the pod failed; retrying in {delay} s");
                self.memory.prepare_failure = Some(PrepareFailure { message, count, retry_at: after(delay) });
            }
            Outcome::Image { container, attempt, image, result } => self.apply_image(container, attempt, image, result),
            Outcome::Started { container, attempt, result } => self.apply_started(container, attempt, *result),
            Outcome::PostStarted { id, result: Ok(()), .. } => {
                self.memory.post_start.remove(&id);
            }
            Outcome::PostStarted { id, container, result: Err(message) } => {
                let attempt = self.observation.facts().containers.iter().find(|c| c.id == id).map_or(0, |c| c.attempt);
                let failure = StartFailure { attempt, reason: "PostStartHookError".to_owned(), message, retry_at: steady_now() };
                self.memory.start_failures.insert(container, failure);
                self.memory.post_start.insert(id, PostStart::Failed);
            }
            Outcome::PreStopped { id } => {
                self.memory.pre_stopped.insert(id);
            }
            Outcome::Signalled { id, killed, result } => {
                if let Err(error) = result {
                    debug!(id = id.as_str(), killed, error, "signal not delivered; looking again");
                    if killed {
                        self.memory.killed.remove(&id);
                    } else {
                        self.memory.signalled.remove(&id);
                    }
                    self.runtime.touch(&self.uid, &id);
                }
            }
            Outcome::ContainerRemoved { id, result } => match result {
                Ok(()) => self.observation.forget(&id),
                Err(error) => warn!(id = id.as_str(), error, "cannot remove a container"),
            },
            Outcome::Resized(resized) => self.apply_resized(resized),
            Outcome::Released(Ok(())) => {
                self.memory.released = true;
                self.memory.teardown_retry_at = None;
                self.observation.sandbox_released();
            }
            Outcome::Removed(Ok(())) => {
                self.memory.removed = true;
                self.memory.teardown_retry_at = None;
            }
            Outcome::ObjectDeleted(Ok(())) => {
                self.memory.deleted = true;
                self.memory.teardown_retry_at = None;
            }
            Outcome::Released(Err(error)) | Outcome::Removed(Err(error)) | Outcome::ObjectDeleted(Err(error)) => {
                warn!(error, "taking the pod down failed; retrying");
                self.memory.teardown_retry_at = Some(after(2));
            }
            Outcome::Refreshed => {
                self.refreshing = false;
                self.refresh_at = Instant::now() + super::REFRESH_EVERY;
            }
            Outcome::StatusWritten(result) => self.apply_status_written(result),
        }
    }

    fn apply_image(&mut self, container: ContainerName, attempt: u32, image: String, result: Result<(), ImageError>) {
        match result {
            Ok(()) => {
                self.memory.image_failures.remove(&container);
                let wanted = self.inbox.wanted.borrow().pod.clone();
                if image_of(&wanted, &container) == image {
                    self.memory.images.insert(container, attempt);
                }
            }
            Err(error) => {
                let previous = self.memory.image_failures.get(&container).filter(|f| f.image == image).map(|f| f.backoff_seconds);
                let backoff_seconds = if error.backs_off { next_retry(self.runtime.rules().image, previous) } else { 10 };
                let (reason, backs_off, missing) = (error.reason.to_owned(), error.backs_off, error.image);
                let failure = ImageFailure { image, missing, reason, message: error.message, at: steady_now(), backoff_seconds, backs_off };
                self.memory.image_failures.insert(container, failure);
            }
        }
    }

    fn apply_started(&mut self, container: ContainerName, attempt: u32, result: Result<ObservedContainer, StartError>) {
        self.memory.images.remove(&container);
        match result {
            Ok(started) => {
                self.memory.start_failures.remove(&container);
                let pod = self.inbox.wanted.borrow().pod.clone();
                let hook = find_container(&pod, container.as_str())
                    .is_some_and(|(_, c)| c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()));
                if hook {
                    self.memory.post_start.insert(started.id.clone(), PostStart::Due);
                }
                self.observation.put(&self.runtime, &pod, started);
            }
            Err(StartError { reason, message, ended, retry_seconds }) => {
                if let Some(mut ended) = ended {
                    let now = Timestamp::now();
                    ended.state = kube_pet_core::pod::ContainerState::Exited(Exit {
                        code: 128,
                        started_at: None,
                        finished_at: now,
                        reason: Some("StartError".into()),
                        message: Some(message.clone()),
                    });
                    self.observation.put_start_error(*ended);
                }
                let failure = StartFailure { attempt, reason: reason.to_owned(), message, retry_at: after(retry_seconds) };
                self.memory.start_failures.insert(container, failure);
            }
        }
    }
}

pub(super) fn after(seconds: i64) -> Timestamp {
    let now = steady_now();
    now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now)
}
