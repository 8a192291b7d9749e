//! What this run of the agent remembers of a pod. All of it may be lost at any moment: it then costs a retry, never a
//! container.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::observed::Observed;
use super::plan::ActionKey;
use super::probes::{ProbeKind, Verdict};
use super::resizing::{RESIZE_IN_PROGRESS, RESIZE_PENDING};
use super::spec::container_status;
use crate::ids::{ContainerId, ContainerName};
use crate::resize::{Actuated, PendingResize};

/// The memory of one pod worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Set once admission has refused the pod.
    pub rejected: Option<Rejected>,
    /// Set once admission has accepted it, or once containers of it were found.
    pub admitted: bool,
    /// `status.startTime`: when this node first saw the pod.
    pub start_time: Option<Timestamp>,
    /// Operations under way: their actions are not asked for again.
    pub in_flight: BTreeSet<ActionKey>,
    /// Images made sure of, by container and for one attempt.
    pub images: BTreeMap<ContainerName, u32>,
    /// The last failure to get an image, by container.
    pub image_failures: BTreeMap<ContainerName, ImageFailure>,
    /// The last failure to create or start a container.
    pub start_failures: BTreeMap<ContainerName, StartFailure>,
    /// The last failure to make sandbox or volumes.
    pub prepare_failure: Option<PrepareFailure>,
    /// What probes have come to, by container and kind.
    pub probes: BTreeMap<(ContainerId, ProbeKind), Verdict>,
    /// Containers whose postStart hook has not succeeded yet.
    pub post_start: BTreeMap<ContainerId, PostStart>,
    /// When the end of a container began: its grace period counts from here.
    pub stopping: BTreeMap<ContainerId, Timestamp>,
    /// Containers whose preStop hook has ended, or that have none.
    pub pre_stopped: BTreeSet<ContainerId>,
    /// When a container was first asked to stop.
    pub signalled: BTreeMap<ContainerId, Timestamp>,
    /// When SIGKILL was last sent.
    pub killed: BTreeMap<ContainerId, Timestamp>,
    /// Volumes, sandbox and cgroup have been taken down.
    pub released: bool,
    /// Containers and log files have been removed.
    pub removed: bool,
    /// The API object was deleted by us (or was not there any more).
    pub deleted: bool,
    /// The last status written to the API server was the final one.
    pub final_status_written: bool,
    /// When an operation of tearing down last failed.
    pub teardown_retry_at: Option<Timestamp>,
    /// The node has given the pod up: `Evicted`, `Preempting`, `Terminated`.
    pub evicted: Option<Eviction>,
    /// What is told of a resize.
    pub resize: ResizeMemory,
    /// What the kernel was told. Unlike the rest it outlives the agent.
    pub actuated: Actuated,
}

impl Memory {
    /// Forgets what concerned containers that are gone.
    pub fn keep_only(&mut self, observed: &Observed) {
        let there = |id: &ContainerId| observed.containers.iter().any(|c| c.id == *id);
        self.probes.retain(|(id, _), _| there(id));
        self.post_start.retain(|id, _| there(id));
        self.stopping.retain(|id, _| there(id));
        self.pre_stopped.retain(there);
        self.signalled.retain(|id, _| there(id));
        self.killed.retain(|id, _| there(id));
        self.actuated.keep_only(there);
    }

    /// Takes over what an earlier run has told of a resize, where this run has nothing to tell yet.
    pub fn adopt_resize(&mut self, pod: &Pod) {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        if let Some(told) = conditions.iter().find(|c| c.type_ == RESIZE_PENDING) {
            let message = told.message.clone().unwrap_or_default();
            self.resize.pending.get_or_insert(PendingResize { cause: String::new(), message, generation: told.observed_generation });
        }
        if let Some(told) = conditions.iter().find(|c| c.type_ == RESIZE_IN_PROGRESS) {
            let error = told.reason.as_ref().and(told.message.clone());
            self.resize.in_progress.get_or_insert(ResizeInProgress { generation: told.observed_generation, error });
        }
    }

    /// Takes over what an earlier run of the agent had found of containers that still run, where this run has not found anything
    /// yet: a restart of the agent does not make them unready.
    pub fn adopt_verdicts(&mut self, pod: &Pod, observed: &Observed) {
        for seen in observed.containers.iter().filter(|c| c.is_running()) {
            let Some(status) = container_status(pod, seen.name.as_str()) else { continue };
            if status.container_id.as_deref() != Some(format!("podman://{}", seen.id).as_str()) {
                continue;
            }
            if status.started == Some(true) {
                self.probes.entry((seen.id.clone(), ProbeKind::Startup)).or_insert(Verdict::Success);
            }
            if status.ready {
                self.probes.entry((seen.id.clone(), ProbeKind::Readiness)).or_insert(Verdict::Success);
            }
        }
    }
}

/// A resize, as far as it is told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeMemory {
    /// What is asked for and cannot be given.
    pub pending: Option<PendingResize>,
    /// What is given, and not yet all had.
    pub in_progress: Option<ResizeInProgress>,
    /// When a change that failed is tried again.
    pub retry_at: Option<Timestamp>,
}

/// The condition `PodResizeInProgress`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeInProgress {
    /// `metadata.generation` of the spec that is given.
    pub generation: Option<i64>,
    /// What went wrong at the last try.
    pub error: Option<String>,
}

/// A postStart hook. Where the agent died in its midst, it is not run again, as the kubelet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostStart {
    /// It is due, or under way.
    Due,
    /// It failed: the container has to go.
    Failed,
}

/// A pod that the node ends for its own sake. An agent that starts again knows it by the pod's phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// What the status says.
    pub failed: Rejected,
    /// Seconds from the first signal to SIGKILL; `None` for those that the pod asks for.
    pub grace_seconds: Option<i64>,
    /// The condition `DisruptionTarget` tells of it.
    pub disruption: Option<Disruption>,
    /// An event tells of it, with the reason and message of the status.
    pub event: bool,
}

/// The condition `DisruptionTarget`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disruption {
    /// Since when, by the wall clock.
    pub since: Timestamp,
    /// Its message.
    pub message: String,
}

/// A pod that this node refuses, or fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// `status.reason`
    pub reason: String,
    /// `status.message`
    pub message: String,
}

/// An image could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFailure {
    /// The container's image: another image starts anew.
    pub image: String,
    /// The image that could not be had: the container's, or that of a volume which it mounts.
    pub missing: String,
    /// `ErrImagePull`, `InvalidImageName`, `ErrImageNeverPull` …
    pub reason: String,
    /// The message of `reason`.
    pub message: String,
    /// When it failed.
    pub at: Timestamp,
    /// How long to wait from `at`.
    pub backoff_seconds: u32,
    /// A pull was tried, and the next one waits longer: meanwhile the container waits with the reason `ImagePullBackOff`, whatever
    /// was wrong.
    pub backs_off: bool,
}

/// A container could not be created or started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// The attempt that failed.
    pub attempt: u32,
    /// `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`, `PostStartHookError`.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// When to try again. For `RunContainerError` the container has ended (StartError) and crash back-off applies as well.
    pub retry_at: Timestamp,
}

/// Sandbox or volumes could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareFailure {
    /// What was wrong.
    pub message: String,
    /// How many times in a row.
    pub count: u32,
    /// When to try again.
    pub retry_at: Timestamp,
}
