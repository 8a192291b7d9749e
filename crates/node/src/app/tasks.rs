//! The agent's tasks, and the small ones that no component has.

use std::sync::Arc;
use std::time::Duration;

use kube_pet_core::node::NodeInfo;
use kube_pet_host::memory;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::pods::sources;
use crate::sandboxes::SandboxManager;

/// A named task of the agent's.
pub(super) struct Tasks {
    pub(super) set: JoinSet<&'static str>,
    shutdown: CancellationToken,
}

impl Tasks {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self { set: JoinSet::new(), shutdown }
    }

    pub(super) fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.set.spawn(async move {
            shutdown.run_until_cancelled(Box::pin(work)).await;
            name
        });
    }
}

/// Work that makes no sense before the node has its first certificate.
pub(super) async fn after(mut identified: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    if identified.wait_for(|ready| *ready).await.is_ok() {
        work.await;
    }
}

/// Tells the sandboxes the node's networks whenever they change: a change that pods are in the way of shows in the Node's
/// conditions before the next pod comes. Looked at again now and then, because the pods may be gone meanwhile.
pub(super) async fn follow_networks(sandboxes: SandboxManager, mut node: watch::Receiver<Arc<NodeInfo>>) {
    loop {
        let networks = node.borrow_and_update().pod_cidrs.clone();
        // An error is kept as the conflict, and logged, where it is found.
        let _ = sandboxes.use_networks(&networks);
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(10), node.changed()).await {
            // The node manager has ended, and with it the agent.
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps a source's channel open after it has told everything.
pub(super) async fn hold_open<F: Future<Output = ()>>(
    tx: mpsc::Sender<sources::PodUpdate>,
    source: impl FnOnce(mpsc::Sender<sources::PodUpdate>) -> F,
) {
    source(tx.clone()).await;
    tx.closed().await;
}

/// What a burst of work has left is given back within half a minute.
pub(super) async fn return_memory() {
    loop {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let give_back = || {
            memory::trim();
            memory::let_go_of_code();
        };
        let _ = tokio::task::spawn_blocking(give_back).await;
    }
}
