//! Host ports, as sandboxes ask for them.

use std::net::IpAddr;
use std::sync::Arc;

use kube_pet_core::ids::PodUid;
use kube_pet_core::services::{Event, HostPort};
use tokio::sync::{mpsc, oneshot};

use crate::kernel_tables::TableError;

/// Host ports could not be opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    /// The kernel's rules could not be changed.
    #[error("programming the host ports of pod {uid}: {source}")]
    Table {
        /// The pod.
        uid: PodUid,
        /// What failed.
        #[source]
        source: TableError,
    },
    /// The agent ends.
    #[error("programming the host ports of pod {uid}: the agent is ending")]
    Ending {
        /// The pod.
        uid: PodUid,
    },
}

/// What the proxy is asked for.
pub(super) struct Command {
    pub(super) event: Event,
    /// Told when the kernel has it; nobody waits for what an earlier run of the agent left.
    pub(super) done: Option<oneshot::Sender<Result<(), TableError>>>,
}

/// For the proxy: what is asked for, in order.
pub struct HostPortRequests(pub(super) mpsc::UnboundedReceiver<Command>);

/// Opens and closes ports of the node that lead into pods. Cheap to clone.
#[derive(Clone)]
pub struct HostPorts {
    commands: mpsc::UnboundedSender<Command>,
}

impl HostPorts {
    /// With what is asked for.
    pub fn channel() -> (Self, HostPortRequests) {
        let (commands, rx) = mpsc::unbounded_channel();
        (Self { commands }, HostPortRequests(rx))
    }

    /// Where nobody opens ports.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::channel().0
    }

    /// Opens these ports, and closes all others of the pod; returns when it is done.
    ///
    /// # Errors
    /// When the kernel refuses. A later call can succeed.
    pub async fn set(&self, uid: &PodUid, ips: &[IpAddr], ports: &[HostPort]) -> Result<(), HostPortError> {
        let (done, answer) = oneshot::channel();
        let sent = self.commands.send(Command { event: event(uid, ips, ports), done: Some(done) });
        let ending = || HostPortError::Ending { uid: uid.clone() };
        sent.map_err(|_| ending())?;
        let answer = answer.await.map_err(|_| ending())?;
        answer.map_err(|source| HostPortError::Table { uid: uid.clone(), source })
    }

    /// Tells of a pod that an earlier run of the agent left with these ports open.
    pub fn adopt(&self, uid: &PodUid, ips: &[IpAddr], ports: &[HostPort]) {
        // Without a receiver the agent ends.
        let _ = self.commands.send(Command { event: event(uid, ips, ports), done: None });
    }
}

fn event(uid: &PodUid, ips: &[IpAddr], ports: &[HostPort]) -> Event {
    Event::HostPorts { pod: Arc::from(uid.as_str()), ips: ips.to_vec(), ports: ports.to_vec() }
}
