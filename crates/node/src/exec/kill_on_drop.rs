//! A process that is not left to itself.

use std::ops::Deref;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::debug;

use super::Process;

/// Kills its process when dropped, by a task of its own (see [`super::Executor::idle`]).
pub(crate) struct KillOnDrop {
    process: Process,
    cleanups: TaskTracker,
    over: bool,
}

impl KillOnDrop {
    pub(super) fn new(process: Process, cleanups: TaskTracker) -> Self {
        Self { process, cleanups, over: false }
    }

    /// Leaves the process alone: it has ended, or is to go on.
    pub(crate) fn keep(mut self) -> Process {
        self.over = true;
        self.process.clone()
    }

    /// Kills the process and waits for its end, no longer than `wait`; that goes on when the future is dropped.
    pub(crate) async fn kill(mut self, wait: Duration) {
        let _ = tokio::time::timeout(wait, self.spawn_kill()).await;
    }

    fn spawn_kill(&mut self) -> impl Future<Output = ()> + use<> {
        self.over = true;
        let process = self.process.clone();
        let task = self.cleanups.spawn(async move {
            if let Err(error) = process.kill().await {
                debug!(error, ?process, "a process in a container stays");
            }
        });
        async {
            let _ = task.await;
        }
    }
}

impl Deref for KillOnDrop {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Without a runtime the agent ends, and with it its interest.
        if !self.over && tokio::runtime::Handle::try_current().is_ok() {
            drop(self.spawn_kill());
        }
    }
}
