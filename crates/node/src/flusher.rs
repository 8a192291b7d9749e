//! What the start of a pod has written reaches the disk a moment later. Left to itself the kernel takes half a minute, and a power cut in that
//! time leaves checkpoints, addresses and the layers of Podman's containers behind as empty files (seen with ext4). Nobody waits for it:
//! a start is no slower.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube_pet_host::files::flush_file_system;
use tokio::sync::Notify;
use tracing::warn;

/// Starts of many pods at once are one flush.
const PAUSE: Duration = Duration::from_secs(2);

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

    /// Flushes the file systems that these folders are on, whenever it is wanted; until it is dropped.
    pub async fn run(self, folders: Vec<PathBuf>) {
        self.run_with(move || {
            for folder in folders.iter().filter(|folder| folder.exists()) {
                if let Err(error) = flush_file_system(folder) {
                    warn!(%error, "what pods have written is not on the disk yet");
                }
            }
        })
        .await;
    }

    async fn run_with(self, flush: impl Fn() + Clone + Send + 'static) {
        loop {
            self.wanted.notified().await;
            tokio::time::sleep(PAUSE).await;
            let flush = flush.clone();
            if tokio::task::spawn_blocking(flush).await.is_err() {
                warn!("a flush of the disk broke down");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn component_many_wishes_are_one_flush_and_a_late_one_is_another() {
        let (flusher, count) = (Flusher::default(), Arc::new(AtomicU32::new(0)));
        let counted = count.clone();
        let task = tokio::spawn(flusher.clone().run_with(move || {
            counted.fetch_add(1, Ordering::SeqCst);
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
        task.abort();
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
