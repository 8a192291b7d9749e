//! Exits at once: the kernel tells the end of a container's main process by its pidfd, a tenth of a second before Podman's event.

use std::time::Duration;

use kube_pet_core::ids::{ContainerId, PodUid};
use kube_pet_podman::Client;
use tracing::debug;

use super::inventory::Subscribers;
use super::oom::OomMark;

/// Watches main processes.
#[derive(Clone)]
pub struct ExitWatcher {
    podman: Client,
    subscribers: Subscribers,
}

impl ExitWatcher {
    /// Tells `subscribers` of exits.
    pub fn new(podman: Client, subscribers: Subscribers) -> Self {
        Self { podman, subscribers }
    }

    /// Watches one container until it ends. Without a pidfd, Podman's events and the relist do it.
    pub fn watch(&self, uid: PodUid, id: ContainerId, oom: OomMark) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.wait(&uid, &id, &oom).await {
                debug!(id = id.as_str(), error, "exit not watched");
            }
        });
    }

    async fn wait(&self, uid: &PodUid, id: &ContainerId, oom: &OomMark) -> Result<(), String> {
        let pid = self.podman.inspect_container(id.as_str()).await.map_err(|e| e.to_string())?.state.pid;
        if pid > 0 {
            kube_pet_host::exits::wait_exit(i64::from(pid)).await.map_err(|e| e.to_string())?;
        }
        // Its cgroup, with the counters, is about to be removed.
        oom.look();
        // conmon needs a moment to write the exit code, and Podman to read it.
        let mut pause = Duration::from_millis(4);
        for _ in 0..9 {
            tokio::time::sleep(pause).await;
            let Ok(inspect) = self.podman.inspect_container(id.as_str()).await else { break };
            if !inspect.state.running {
                break;
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        self.subscribers.touch(uid, id.clone());
        Ok(())
    }
}
