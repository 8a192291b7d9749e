//! Sends a log to a client, and what is appended to it while its container runs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kube_pet_core::ids::PodUid;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::instance::Instance;
use super::reader::{LogReader, Step};
use crate::pods::store::PodStore;

/// Looks again this often even without a notification, as the kubelet does (there: every second).
const SAFETY_CHECK: Duration = Duration::from_secs(10);
/// Replaces notifications where the kernel gives no watch (the limit of inotify instances is small).
const POLL: Duration = Duration::from_millis(250);

/// The container that a log is followed for.
pub(super) struct Followed {
    pub(super) store: PodStore,
    pub(super) uid: PodUid,
    pub(super) container: String,
    pub(super) instance: Instance,
}

impl Followed {
    fn still_runs(&self) -> bool {
        let pod = self.store.by_uid(&self.uid);
        self.instance.still_runs(pod.as_deref(), &self.container)
    }
}

/// Sends everything that `reader` yields. With `followed`, goes on until the container has ended and its log is sent
/// to the end. Returns early when the client is gone. A slow client slows the reading, nothing is dropped.
pub(super) async fn send(reader: LogReader, dir: &Path, followed: Option<Followed>, client: mpsc::Sender<io::Result<Bytes>>) {
    // Before the first read, so that nothing appended after it is missed.
    let mut changes = followed.as_ref().map(|followed| Changes { file: FileChanges::watch(dir), pods: followed.store.changes() });
    let mut reader = reader;
    let mut ended = false;
    loop {
        let step;
        (reader, step) = match aside(reader, LogReader::step).await {
            Some(result) => result,
            None => return,
        };
        match step {
            Ok(Step::Data(data)) => {
                if !data.is_empty() && client.send(Ok(data.into())).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(Step::Done) => return,
            Ok(Step::End) => {}
            Err(error) => {
                let _ = client.send(Err(error)).await;
                return;
            }
        }
        let (Some(followed), Some(changes), false) = (&followed, &mut changes, ended) else {
            let rest = reader.finish();
            if !rest.is_empty() {
                let _ = client.send(Ok(rest.into())).await;
            }
            return;
        };
        let rotated;
        (reader, rotated) = match aside(reader, LogReader::follow_rotation).await {
            Some(result) => result,
            None => return,
        };
        match rotated {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                let _ = client.send(Err(error)).await;
                return;
            }
        }
        // Marks the version as seen before looking: a change after the look wakes the wait.
        changes.pods.borrow_and_update();
        if !followed.still_runs() {
            // Once more to the end: what was written before the container ended may be behind the last read.
            ended = true;
            continue;
        }
        tokio::select! {
            () = changes.next() => {}
            () = client.closed() => return,
        }
    }
}

/// Lets the reader work where it may block; `None` when the agent ends.
async fn aside<T: Send + 'static>(mut reader: LogReader, work: fn(&mut LogReader) -> T) -> Option<(LogReader, T)> {
    let work = tokio::task::spawn_blocking(move || {
        let done = work(&mut reader);
        (reader, done)
    });
    work.await.ok()
}

struct Changes {
    file: FileChanges,
    pods: watch::Receiver<u64>,
}

impl Changes {
    async fn next(&mut self) {
        tokio::select! {
            () = self.file.next() => {}
            changed = self.pods.changed() => if changed.is_err() {
                // The store's owner is gone: the agent is stopping. The file still wakes us.
                self.file.next().await;
            },
        }
    }
}

enum FileChanges {
    Notified(AsyncFd<OwnedFd>),
    Polled,
}

impl FileChanges {
    fn watch(dir: &Path) -> Self {
        match Self::notify(dir) {
            Ok(fd) => Self::Notified(fd),
            Err(error) => {
                debug!(dir = %dir.display(), %error, "no inotify watch for a followed log; looking at intervals");
                Self::Polled
            }
        }
    }

    /// Watches the folder: a rotation replaces the file.
    fn notify(dir: &Path) -> io::Result<AsyncFd<OwnedFd>> {
        use inotify::{CreateFlags, WatchFlags};
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, events)?;
        // The replacement is an unsafe function; what it asks for (the same open descriptor for life) OwnedFd keeps.
        #[allow(deprecated)]
        AsyncFd::new(fd)
    }

    async fn next(&self) {
        match self {
            Self::Polled => tokio::time::sleep(POLL).await,
            Self::Notified(fd) => {
                let wait = tokio::time::timeout(SAFETY_CHECK, fd.readable()).await;
                if let Ok(Ok(mut ready)) = wait {
                    // Which events does not matter, only that there were some: empty the queue.
                    let mut events = [0u8; 4096];
                    while rustix::io::read(fd.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
                    ready.clear_ready();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::options::LogOptions;
    use super::*;
    use crate::pods::store::PodStoreWriter;

    fn pod(state: serde_json::Value) -> Arc<k8s_openapi::api::core::v1::Pod> {
        let status = json!({"name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
            "containerID": "podman://a", "state": state});
        let pod = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// The store changes all the time, so the reader is mostly between its last read and its look at the container
    /// when the last line is written and the container ends.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn component_the_last_line_before_the_end_is_never_lost() {
        for round in 0..100 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            std::fs::write(&path, "").unwrap();
            let (pods, store) = PodStoreWriter::new();
            let uid = PodUid::new("u");
            let running = pod(json!({"running": {}}));
            pods.put(uid.clone(), running.clone());
            let followed =
                Followed { store, uid: uid.clone(), container: "c".into(), instance: Instance::choose(&running, "c", false).unwrap() };
            let reader = LogReader::open(&path, LogOptions { follow: true, ..Default::default() }).unwrap();
            let (sender, mut received) = mpsc::channel(1);
            let folder = dir.path().to_owned();
            tokio::spawn(async move { send(reader, &folder, Some(followed), sender).await });
            let container = std::thread::spawn(move || {
                for _ in 0..50 + round {
                    pods.put(uid.clone(), running.clone());
                    std::thread::yield_now();
                }
                std::fs::write(&path, "2026-01-01T00:00:00Z stdout F last\n").unwrap();
                pods.put(uid, pod(json!({"terminated": {"exitCode": 0, "containerID": "podman://a"}})));
                pods
            });
            let mut text = Vec::new();
            while let Some(piece) = received.recv().await {
                text.extend(piece.unwrap());
            }
            let _pods = container.join().unwrap();
            assert_eq!(text, b"last\n", "round {round}");
        }
    }
}
