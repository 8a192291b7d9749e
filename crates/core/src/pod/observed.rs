//! What was seen of a pod on this machine.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::ids::{ContainerId, ContainerName};
use crate::resize::ContainerAmounts;

/// Everything seen of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// All its containers that Podman knows, every attempt.
    pub containers: Vec<ObservedContainer>,
    /// The sandbox, once namespaces, addresses, cgroup and volumes are all there.
    pub sandbox: Option<SandboxFacts>,
}

/// The sandbox that containers join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxFacts {
    /// Differs whenever the namespaces were made anew: containers of another sandbox are stale.
    pub id: String,
    /// `status.podIPs`, primary first.
    pub pod_ips: Vec<IpAddr>,
}

/// One attempt of one container.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    /// Podman's ID.
    pub id: ContainerId,
    /// The name in the spec.
    pub name: ContainerName,
    /// 0 for the first.
    pub attempt: u32,
    /// Hash of the spec that it was made from.
    pub spec_hash: String,
    /// How often all containers of the pod had been restarted together before it was made (see [`super::rounds`]).
    pub round: u32,
    /// Seconds that its next restart has to wait after its end (see `backoff`).
    pub backoff_seconds: u32,
    /// [`SandboxFacts::id`] that it was made in.
    pub sandbox: String,
    /// `status.image`: the normalised reference.
    pub image: String,
    /// `status.imageID`.
    pub image_id: String,
    /// What it was made with; `None` where it does not say.
    pub amounts: Option<ContainerAmounts>,
    /// When Podman made it.
    pub created_at: Timestamp,
    /// Its state.
    pub state: ContainerState,
    /// User and groups of its first process: uid, gid, supplementary groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// State of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its main process runs.
    Running {
        /// Start time as Podman reports it.
        started_at: Timestamp,
    },
    /// It ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + n for signal n.
    pub code: i32,
    /// `None` if it never started (StartError).
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// `OOMKilled`, `StartError` …; `None` for the usual `Completed` / `Error`.
    pub reason: Option<String>,
    /// The termination message.
    pub message: Option<String>,
}

impl ObservedContainer {
    /// Whether its process may be alive.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            ContainerState::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

impl Observed {
    /// The newest attempt of a container.
    pub fn newest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().filter(|c| c.name.as_str() == name).max_by_key(|c| c.attempt)
    }
    /// The newest attempt before `attempt`.
    pub fn before(&self, name: &str, attempt: u32) -> Option<&ObservedContainer> {
        self.containers.iter().filter(|c| c.name.as_str() == name && c.attempt < attempt).max_by_key(|c| c.attempt)
    }
    /// Whether any process of the pod may be alive.
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(ObservedContainer::is_running)
    }
}
