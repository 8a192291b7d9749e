//! What the pod is given, what is kept of that, and what is told of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::pod::{Plan, ResizeInProgress, Stop, note_unknown};
use kube_pet_core::resize::{Resizing, summary};
use tracing::{debug, warn};

use super::outcome::after;
use super::{Wanted, Worker};
use crate::pods::actions::{ResizeFailure, Resized};
use crate::pods::checkpoint::Checkpoint;
use crate::pods::ledger::with_allocation;
use crate::pods::sources::Source;

/// How often a resize that is pending is tried again where nothing has become free that anybody has seen.
const RETRY_PENDING: Duration = Duration::from_secs(30);

/// Seconds until a change that failed is tried again; of one that has met a container's end, which is soon seen.
const RETRY_FAILED: i64 = 10;
const RETRY_GONE: i64 = 1;

impl Worker {
    /// From here on the pod's resources are those that it was given.
    pub(super) fn allocate(&mut self, asked: &Wanted) -> Wanted {
        if self.memory.rejected.is_some() || !self.memory.admitted {
            return asked.clone();
        }
        if self.memory.resize.pending.is_some() && self.resize_retried.elapsed() >= RETRY_PENDING {
            self.resize_retried = Instant::now();
            self.runtime.retry_resizes();
        }
        let given = self.runtime.ask(&self.uid, &asked.pod);
        let pod = with_allocation(&asked.pod, &given.allocation);
        match &self.allocation {
            None => note_unknown(&mut self.memory, &pod, self.observation.facts()),
            Some(before) if *before != given.allocation => {
                self.memory.resize.in_progress = Some(ResizeInProgress { generation: given.generation, error: None });
                self.memory.resize.retry_at = None;
                self.runtime.note(&pod, None, "ResizeStarted", summary("Pod resize started", &pod, given.generation, ""));
            }
            Some(_) => {}
        }
        self.allocation = Some(given.allocation);
        match given.refusal {
            Some(refusal) => {
                let before = self.memory.resize.pending.replace(refusal.clone());
                if before.is_none_or(|before| before.generation != refusal.generation) {
                    let prefix = format!("Pod resize {}", refusal.cause);
                    let text = summary(&prefix, &asked.pod, refusal.generation, &refusal.message);
                    self.runtime.warn(&asked.pod, None, "ResizeDeferred", text);
                }
            }
            // What an earlier run has told holds until this one has looked.
            None if given.waits => {}
            None => self.memory.resize.pending = None,
        }
        Wanted { pod, ..asked.clone() }
    }

    /// Before anything is done: what was given is not given again to others, and whose end is not its own is known to the next agent. Whether
    /// all of it is on the disk.
    pub(super) async fn checkpoint(&mut self, wanted: &Wanted) -> bool {
        if self.memory.removed || self.memory.rejected.is_some() {
            return true;
        }
        let same = self.checkpointed.as_mut().filter(|(c, allocation, actuated)| {
            *allocation == self.allocation
                && !actuated.is_outdated(&self.memory.actuated)
                && c.metadata.generation == wanted.pod.metadata.generation
                && c.spec == wanted.pod.spec
                && c.metadata.labels == wanted.pod.metadata.labels
                && c.metadata.deletion_timestamp == wanted.pod.metadata.deletion_timestamp
        });
        if let Some((checkpointed, ..)) = same {
            // Of two equal ones the older need not be kept in memory.
            checkpointed.clone_from(&wanted.pod);
            return true;
        }
        let (allocation, actuated) = (self.allocation.clone(), self.memory.actuated.clone());
        let now = (wanted.pod.clone(), allocation.clone(), actuated.clone());
        let checkpoint = Checkpoint { from_file: wanted.source == Source::File, pod: (*wanted.pod).clone(), allocation, actuated };
        match self.runtime.checkpoint(&self.uid, checkpoint).await {
            Ok(()) => {
                self.checkpointed = Some(now);
                self.checkpoint_failed = false;
                true
            }
            Err(error) => {
                self.checkpointed = None;
                if !std::mem::replace(&mut self.checkpoint_failed, true) {
                    let error: &dyn std::error::Error = &error;
                    warn!(error, "the pod runs on, but would not come back without the API server, and replaces no container");
                }
                false
            }
        }
    }

    /// What a decision says of a resize.
    pub(super) fn follow_resize(&mut self, wanted: &Wanted, plan: &Plan) {
        plan.note_ahead(&mut self.memory.actuated);
        let resize = &mut self.memory.resize;
        if plan.resize.busy {
            resize.in_progress.get_or_insert_with(|| ResizeInProgress { generation: wanted.pod.metadata.generation, error: None });
            return;
        }
        resize.retry_at = None;
        let Some(ResizeInProgress { generation, .. }) = resize.in_progress.take() else { return };
        let terminal = matches!(plan.status.phase.as_deref(), Some("Failed" | "Succeeded"));
        if !terminal && Stop::of(&wanted.pod, wanted.present).is_none() {
            self.runtime.note(&wanted.pod, None, "ResizeCompleted", summary("Pod resize completed", &wanted.pod, generation, ""));
        }
    }

    /// Does again what an earlier run had begun: it may have come to its end, and not have written that down.
    pub(super) async fn resume_resize(&mut self, pod: &Arc<Pod>) {
        let mut steps = std::mem::take(&mut self.memory.actuated.begun);
        let facts = self.observation.facts();
        steps.retain(|step| step.container().is_none_or(|id| facts.containers.iter().any(|c| c.id == *id && c.is_running())));
        while !steps.is_empty() {
            let Resized { done, failure } = self.runtime.resize(pod, Resizing { checks: Vec::new(), steps: steps.clone() }).await;
            done.iter().for_each(|step| self.memory.actuated.apply(step));
            match failure {
                Some(ResizeFailure::Gone(id)) => steps.retain(|step| step.container() != Some(&id)),
                failure => {
                    if let Some(error) = failure {
                        debug!(%error, "a resize that an earlier run has begun does not come to its end");
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn apply_resized(&mut self, resized: Resized) {
        let Resized { done, failure } = resized;
        self.memory.actuated.begun.clear();
        done.iter().for_each(|step| self.memory.actuated.apply(step));
        self.memory.resize.retry_at = None;
        let Some(failure) = failure else { return };
        if let ResizeFailure::Gone(id) = &failure {
            self.memory.resize.retry_at = Some(after(RETRY_GONE));
            self.runtime.touch(&self.uid, id);
            return;
        }
        self.memory.resize.retry_at = Some(after(RETRY_FAILED));
        let message = failure.to_string();
        let pod = self.inbox.wanted.borrow().pod.clone();
        let pod = self.allocation.as_ref().map_or_else(|| pod.clone(), |given| with_allocation(&pod, given));
        let in_progress = self.memory.resize.in_progress.get_or_insert_with(ResizeInProgress::default);
        if in_progress.error.as_ref() != Some(&message) {
            warn!(message, "the pod cannot be resized; retrying in {RETRY_FAILED} s");
            let text = summary("Pod resize error", &pod, in_progress.generation, &message);
            in_progress.error = Some(message);
            self.runtime.warn(&pod, None, "ResizeError", text);
        }
    }
}
