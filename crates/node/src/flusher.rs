//! What the start of a pod has written reaches the disk within seconds. Left to itself the kernel takes half a minute, and a power cut in that
//! time leaves checkpoints, addresses and the layers of Podman's containers behind as empty files (seen with ext4).
//!
//! Each container that Podman has started asks for it, and nobody waits: a start is no slower, and a power cut in the seconds before
//! costs what it costs. syncfs(2) knows no single files, so what everybody else has written to the same file systems is flushed with it.
//! That is why there is a pause between two flushes.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube_pet_host::files::{FileError, flush_file_system};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::podman_store::PodmanStore;

/// Starts of many pods at once are one flush.
const SETTLE: Duration = Duration::from_secs(2);
/// Other writers of the machine have the disk for themselves between two flushes.
const PAUSE: Duration = Duration::from_secs(5);

/// Tells the task that something is to be flushed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Flusher {
    wanted: Arc<Notify>,
}

impl Flusher {
    /// Whatever is written until now, and in the next moment, is flushed.
    pub fn soon(&self) {
        self.wanted.notify_one();
    }

    /// Flushes the file systems of `folder` and of Podman's storage, whenever it is wanted; until it is dropped.
    pub async fn run(self, folder: PathBuf, store: PodmanStore) {
        self.run_with(|| async {
            let mut folders = vec![folder.clone()];
            match store.root().await {
                Ok(root) => folders.push(root.to_owned()),
                Err(error) => debug!(error = &error as &dyn std::error::Error, "Podman's storage is not flushed this time"),
            }
            if tokio::task::spawn_blocking(move || flush_each(&folders, flush_file_system)).await.is_err() {
                warn!("a flush of the disk broke down");
            }
        })
        .await;
    }

    async fn run_with<F: Future<Output = ()>>(self, flush: impl Fn() -> F) {
        loop {
            self.wanted.notified().await;
            tokio::time::sleep(SETTLE).await;
            flush().await;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Once for each file system. What is not on this machine is left out: Podman's storage need not be.
fn flush_each(folders: &[PathBuf], flush: impl Fn(&Path) -> Result<(), FileError>) {
    let mut done = BTreeSet::new();
    for folder in folders {
        let Ok(metadata) = std::fs::metadata(folder) else { continue };
        if done.insert(metadata.dev())
            && let Err(error) = flush(folder)
        {
            warn!(%error, "what pods have written is not on the disk yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn component_many_wishes_are_one_flush_and_a_late_one_is_another() {
        let (flusher, count) = (Flusher::default(), Arc::new(AtomicU32::new(0)));
        let counted = count.clone();
        let task = tokio::spawn(flusher.clone().run_with(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(())
        }));
        let flushed = |wanted: u32| {
            let count = count.clone();
            async move {
                while count.load(Ordering::SeqCst) < wanted {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        for _ in 0..5 {
            flusher.soon();
        }
        flushed(1).await;
        tokio::time::sleep(PAUSE * 5).await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
        flusher.soon();
        flushed(2).await;
        // The next one is not at once.
        let second = Instant::now();
        flusher.soon();
        flushed(3).await;
        assert!(second.elapsed() >= PAUSE, "{:?}", second.elapsed());
        task.abort();
    }

    #[test]
    fn each_file_system_is_flushed_once_and_what_is_missing_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for folder in [&one, &two] {
            std::fs::create_dir(folder).unwrap();
        }
        let flushed = RefCell::new(Vec::new());
        let note = |path: &Path| {
            flushed.borrow_mut().push(path.to_owned());
            Ok(())
        };
        flush_each(&[dir.path().join("missing"), one.clone(), two, PathBuf::from("/proc")], note);
        assert_eq!(*flushed.borrow(), [one, PathBuf::from("/proc")]);
    }

    #[test]
    fn a_file_system_is_flushed_or_its_folder_named() {
        let folder = tempfile::tempdir().unwrap();
        flush_file_system(folder.path()).unwrap();
        let missing = folder.path().join("missing");
        let error = flush_file_system(&missing).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
