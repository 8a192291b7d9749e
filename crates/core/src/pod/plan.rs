//! What [`super::decide`] answers.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::probes::ProbeKind;
use super::spec::ContainerKind;
use crate::ids::{ContainerId, ContainerName};
use crate::resize::{Actuated, Resizing};

/// What to do next with one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Actions that are due now and not under way. They do not depend on each other's success.
    pub actions: Vec<Action>,
    /// Operations under way that have lost their sense: to be aborted.
    pub abandoned: Vec<ActionKey>,
    /// The probes that are to be run now; all others are to end.
    pub probes: BTreeSet<(ContainerId, ProbeKind)>,
    /// The pod's status as of now.
    pub status: PodStatus,
    /// Events that hold now; the recorder aggregates repeated ones.
    pub events: Vec<PodEvent>,
    /// When to decide again even if nothing happens, on the steady clock.
    pub wake_at: Option<Timestamp>,
    /// Where a resize stands.
    pub resize: ResizeStanding,
    /// Containers that end because their definition has changed, or with all others of the pod, to be remembered: others take their place
    /// whatever the policy.
    pub replaced: BTreeSet<ContainerId>,
    /// Nothing is left to do for this pod, ever: its worker can end.
    pub finished: bool,
}

impl Plan {
    /// Containers whose end is not to be their own: others take their place. An agent that starts again has to know, so that is written
    /// down before they end.
    pub fn replaces(&self) -> BTreeSet<ContainerId> {
        self.resize.restarts.union(&self.replaced).cloned().collect()
    }

    /// Whether the kernel is told of other resources: what it is told is written down before, too.
    pub fn resizes(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Resize(_)))
    }

    /// Notes [`Plan::replaces`] among what the kernel was told, and what it is told next.
    pub fn note_ahead(&self, actuated: &mut Actuated) {
        actuated.restarts.extend(self.resize.restarts.iter().cloned());
        actuated.replaced.extend(self.replaced.iter().cloned());
        for action in &self.actions {
            if let Action::Resize(resizing) = action {
                actuated.begun.clone_from(&resizing.steps);
            }
        }
    }

    /// Leaves those alone after all: their ends could not be written down.
    pub fn replace_nothing(&mut self) {
        let spared = self.replaces();
        self.actions.retain(|action| match action {
            Action::PreStop { id, .. } | Action::Signal { id, .. } | Action::Kill { id, .. } => !spared.contains(id),
            _ => true,
        });
    }
}

/// Whether the containers have what the pod was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeStanding {
    /// They have not all of it yet.
    pub busy: bool,
    /// Containers that end for it, to be remembered as such.
    pub restarts: BTreeSet<ContainerId>,
}

/// An operation. Each is idempotent and has a deadline of its own where it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make cgroup, sandbox, folders and volumes.
    Prepare,
    /// Make sure of the container's image by its pull policy.
    EnsureImage {
        /// The container whose image is wanted.
        container: ContainerName,
        /// The attempt that it is wanted for.
        attempt: u32,
    },
    /// Create and start an attempt.
    StartContainer {
        /// The container's name in the spec.
        container: ContainerName,
        /// Init or app.
        kind: ContainerKind,
        /// Number of the new attempt.
        attempt: u32,
        /// What the attempt's label says of its own next restart.
        backoff_seconds: u32,
        /// [`ObservedContainer::round`](super::ObservedContainer::round) of the attempt.
        round: u32,
        /// Older attempts that are no longer needed for status or logs.
        obsolete: Vec<ContainerId>,
    },
    /// Run the postStart hook of a container that has just been started.
    PostStart {
        /// Podman's ID.
        id: ContainerId,
        /// The container's name.
        container: ContainerName,
    },
    /// Begin a container's end: tell of it, and run its preStop hook if it has one.
    PreStop {
        /// Podman's ID.
        id: ContainerId,
        /// The container's name.
        container: ContainerName,
        /// Text of the `Killing` event.
        message: String,
    },
    /// Ask the container to stop: its stop signal, or SIGTERM.
    Signal {
        /// Podman's ID.
        id: ContainerId,
        /// The container's name.
        container: ContainerName,
        /// Text of the `Killing` event, if this is where the container's end begins.
        message: Option<String>,
    },
    /// SIGKILL.
    Kill {
        /// Podman's ID.
        id: ContainerId,
        /// The container's name.
        container: ContainerName,
    },
    /// Remove a container that never ran: a start that was cut short, or one in namespaces that are gone.
    RemoveContainer {
        /// Podman's ID.
        id: ContainerId,
    },
    /// Give the running containers what the pod was given.
    Resize(Resizing),
    /// Take down volumes, sandbox and cgroup. No process of the pod is alive.
    Release,
    /// Remove the pod's containers, Podman pod, log files and checkpoint.
    Remove,
    /// Delete the API object with grace 0 and a UID precondition.
    DeleteObject,
}

/// Which operation an action is: two with the same key never run at the same time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionKey {
    /// Prepare, Release, Remove, DeleteObject exclude each other.
    Pod,
    /// EnsureImage of a container.
    Image(ContainerName),
    /// Create or start of a container.
    Start(ContainerName),
    /// The postStart hook of a container.
    PostStart(ContainerId),
    /// The preStop hook of a container.
    PreStop(ContainerId),
    /// Signal, kill or removal of a container.
    Container(ContainerId),
    /// The change of limits in place.
    Resize,
}

impl Action {
    /// The operation's key.
    pub fn key(&self) -> ActionKey {
        match self {
            Self::Prepare | Self::Release | Self::Remove | Self::DeleteObject => ActionKey::Pod,
            Self::EnsureImage { container, .. } => ActionKey::Image(container.clone()),
            Self::StartContainer { container, .. } => ActionKey::Start(container.clone()),
            Self::PostStart { id, .. } => ActionKey::PostStart(id.clone()),
            Self::PreStop { id, .. } => ActionKey::PreStop(id.clone()),
            Self::Resize(_) => ActionKey::Resize,
            Self::Signal { id, .. } | Self::Kill { id, .. } | Self::RemoveContainer { id } => ActionKey::Container(id.clone()),
        }
    }
}

/// An event to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// Normal or Warning.
    pub kind: EventKind,
    /// The container it is about.
    pub container: Option<(ContainerKind, ContainerName)>,
    /// The reason, as the kubelet's.
    pub reason: &'static str,
    /// The text.
    pub message: String,
}

/// An event's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Normal
    Normal,
    /// Warning
    Warning,
}
