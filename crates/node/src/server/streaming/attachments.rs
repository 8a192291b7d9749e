//! Connections to containers whose standard input outlives its clients (`stdinOnce: false`).
//!
//! conmon closes a container's input as soon as any connection to it ends, one without input too. So a connection is kept when its client
//! leaves, its output read and dropped meanwhile, and the next client gets it. With the agent they end all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube_pet_core::ids::ContainerId;
use kube_pet_stream::remote_command::{Streams, TerminalSize};
use tokio::sync::oneshot;

use super::bridge::{self, Broken, InputEnd, Process};

/// The connections that no client uses, by container.
#[derive(Default)]
pub(super) struct Attachments {
    kept: Mutex<HashMap<ContainerId, Vec<Kept>>>,
}

/// A connection in the hands of the task that reads it.
struct Kept {
    wanted: oneshot::Sender<()>,
    process: oneshot::Receiver<Process>,
}

impl Attachments {
    /// A connection that was kept for this container.
    pub(super) async fn take(&self, container: &ContainerId) -> Option<Process> {
        loop {
            let Kept { wanted, process } = self.kept().get_mut(container)?.pop()?;
            // The task is gone where the container has ended meanwhile.
            let _ = wanted.send(());
            if let Ok(process) = process.await {
                return Some(process);
            }
        }
    }

    /// Keeps this connection until it is taken or the container ends.
    pub(super) fn keep(self: &Arc<Self>, container: ContainerId, mut process: Process) {
        // Without a runtime the agent is ending, and the connection with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (wanted, asked) = oneshot::channel();
        let (sender, receiver) = oneshot::channel();
        self.kept().entry(container.clone()).or_default().push(Kept { wanted, process: receiver });
        let all = self.clone();
        runtime.spawn(async move {
            tokio::select! {
                _ = asked => drop(sender.send(process)),
                () = process.drain() => drop(all.kept().remove(&container)),
            }
        });
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<ContainerId, Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use, which is kept when the session ends, however it does.
pub(super) struct Held<'a> {
    attachments: &'a Arc<Attachments>,
    container: &'a ContainerId,
    process: Option<Process>,
}

impl<'a> Held<'a> {
    pub(super) fn new(attachments: &'a Arc<Attachments>, container: &'a ContainerId, process: Process) -> Self {
        Self { attachments, container, process: Some(process) }
    }

    /// [`bridge::carry`] over it, until the container ends, the client's input does, or the client leaves.
    pub(super) async fn carry<F>(&mut self, streams: Streams, resized: impl Fn(TerminalSize) -> F) -> Result<(), Broken>
    where
        F: Future<Output = ()>,
    {
        match &mut self.process {
            Some(process) => bridge::carry(process, streams, InputEnd::Kept, resized).await,
            // Only while this is dropped.
            None => Ok(()),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            self.attachments.keep(self.container.clone(), process);
        }
    }
}
