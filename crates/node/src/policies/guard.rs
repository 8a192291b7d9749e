//! Pods wait here before their first container starts.

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::pod_uid;
use kube_pet_core::policies::LocalPod;
use tokio::sync::{mpsc, oneshot};

use super::residents::local_pod;
use crate::kernel_tables::TableError;

/// A pod cannot be isolated as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The kernel's rules could not be changed.
    #[error("enforcing NetworkPolicies for pod {uid}: {source}")]
    Table {
        /// The pod.
        uid: PodUid,
        /// What failed.
        #[source]
        source: TableError,
    },
    /// Nothing is known of policies, and nothing of an earlier run either.
    #[error("the cluster's NetworkPolicies are not known yet, so pod {uid} waits for them")]
    Unknown {
        /// The pod.
        uid: PodUid,
    },
    /// The agent ends.
    #[error("enforcing NetworkPolicies for pod {uid}: the agent is ending")]
    Ending {
        /// The pod.
        uid: PodUid,
    },
}

/// What the enforcer is asked for.
pub(super) struct Command {
    pub(super) pod: LocalPod,
    pub(super) done: oneshot::Sender<Result<(), PolicyError>>,
}

/// Isolates pods before they start. Cheap to clone.
#[derive(Clone)]
pub struct PolicyGuard {
    commands: Option<mpsc::UnboundedSender<Command>>,
}

impl PolicyGuard {
    pub(super) fn channel() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, rx) = mpsc::unbounded_channel();
        (Self { commands: Some(commands) }, rx)
    }

    /// Where nobody enforces policies.
    pub fn open() -> Self {
        Self { commands: None }
    }

    /// Returns when the kernel has what the policies ask for a pod with a network of its own, which is behind this link.
    ///
    /// # Errors
    /// When the kernel refuses, or nothing is known of policies yet. A later call can succeed.
    pub async fn hold(&self, pod: &Pod, link: &str) -> Result<(), PolicyError> {
        let Some(commands) = &self.commands else { return Ok(()) };
        let (done, answer) = oneshot::channel();
        let ending = || PolicyError::Ending { uid: pod_uid(pod) };
        commands.send(Command { pod: local_pod(pod, link), done }).map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}
