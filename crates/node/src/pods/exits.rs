//! Exits at once: the kernel tells the end of a container's main process by its pidfd, a tenth of a second before Podman's event.

use std::path::Path;
use std::time::Duration;

use kube_pet_core::ids::{ContainerId, PodUid};
use kube_pet_podman::Client;
use tracing::{debug, warn};

use super::inventory::Subscribers;
use super::oom::OomMark;
use super::orphans::{EXITS, KILLED, UNKNOWN, is_conmon, tell_end};

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
        let state = self.podman.inspect_container(id.as_str()).await.map_err(|e| e.to_string())?.state;
        if state.pid > 0 {
            kube_pet_host::exits::wait_exit(i64::from(state.pid)).await.map_err(|e| e.to_string())?;
        }
        // Its cgroup, with the counters, is about to be removed.
        oom.look();
        // conmon needs a moment to write the exit code, and Podman to read it.
        let mut pause = Duration::from_millis(4);
        let mut running = state.running;
        for _ in 0..9 {
            tokio::time::sleep(pause).await;
            running = self.podman.inspect_container(id.as_str()).await.is_ok_and(|inspect| inspect.state.running);
            if !running {
                break;
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        if running && state.pid > 0 && !is_conmon(state.conmon_pid, id) {
            stand_in(id, oom);
        }
        self.subscribers.touch(uid, id.clone());
        Ok(())
    }
}

/// The main process has ended, and so has the one that would have told Podman.
fn stand_in(id: &ContainerId, oom: &OomMark) {
    oom.look_back();
    let code = if oom.is_set() { KILLED } else { UNKNOWN };
    match tell_end(Path::new(EXITS), id, code) {
        Ok(true) => warn!(id = id.as_str(), code, "the container's conmon is gone: its end is told to Podman in its place"),
        Ok(false) => {}
        Err(error) => warn!(id = id.as_str(), %error, "the container's conmon is gone, and Podman cannot be told of the end"),
    }
}
