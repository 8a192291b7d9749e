//! Where Podman keeps images and containers. It says so itself: the agent's settings, `storage.conf` or whoever has started the service may
//! have decided it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube_pet_host::files::{FileError, flush_file_system};
use kube_pet_podman::Client;
use tokio::sync::OnceCell;
use tracing::debug;

type Flush = dyn Fn(&Path) -> Result<(), FileError> + Send + Sync;

/// The storage of one Podman service. Cheap to clone.
#[derive(Clone)]
pub struct PodmanStore {
    podman: Client,
    root: Arc<OnceCell<PathBuf>>,
    flush: Arc<Flush>,
}

impl fmt::Debug for PodmanStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodmanStore").field("root", &self.root).finish_non_exhaustive()
    }
}

/// What was written to it may not be on the disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Podman does not say where it is.
    #[error("ask Podman where it keeps images: {0}")]
    Unknown(#[source] kube_pet_podman::Error),
    /// The system's.
    #[error(transparent)]
    Flush(#[from] FileError),
    /// The flushing thread broke down.
    #[error("the flush of Podman's storage was interrupted")]
    Interrupted,
}

impl PodmanStore {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(podman: Client) -> Self {
        Self { podman, root: Arc::default(), flush: Arc::new(flush_file_system) }
    }

    /// With a file system that the test plays.
    #[cfg(test)]
    pub(crate) fn with_flush(podman: Client, flush: impl Fn(&Path) -> Result<(), FileError> + Send + Sync + 'static) -> Self {
        Self { flush: Arc::new(flush), ..Self::new(podman) }
    }

    /// Its folder (`store.graphRoot` of `GET /info`), which Podman is asked for until it has told it once.
    ///
    /// # Errors
    /// Podman's.
    pub async fn root(&self) -> Result<&Path, StoreError> {
        let ask = async || Ok(self.podman.info().await?.store.graph_root);
        self.root.get_or_try_init(ask).await.map(PathBuf::as_path).map_err(StoreError::Unknown)
    }

    /// Everything that Podman has written until now is on the disk when this returns. Where its folder is not on this machine, for example
    /// because the service runs in a mount namespace of its own, there is nothing that could be flushed.
    ///
    /// # Errors
    /// Podman's, and the disk's.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let (root, flush) = (self.root().await?.to_owned(), self.flush.clone());
        let flushed = tokio::task::spawn_blocking(move || flush(&root)).await.map_err(|_| StoreError::Interrupted)?;
        match flushed {
            Err(error) if error.is_not_found() => {
                debug!(%error, "Podman's storage is not on this machine's file systems, and is not flushed");
                Ok(())
            }
            flushed => Ok(flushed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kube_pet_testkit::podman::{Answer, Fake};

    use super::*;

    #[tokio::test]
    async fn component_what_podman_calls_its_store_is_flushed_and_need_not_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let info = serde_json::json!({"store": {"graphRoot": missing}}).to_string();
        let fake = Fake::start(move |_, _| Answer::Reply(200, info.clone().into_bytes()));
        PodmanStore::new(Client::new(fake.socket())).flush().await.unwrap();
        let flushed = Arc::new(Mutex::new(Vec::new()));
        let noted = flushed.clone();
        let store = PodmanStore::with_flush(Client::new(fake.socket()), move |path| {
            noted.lock().unwrap().push(path.to_owned());
            Ok(())
        });
        for _ in 0..2 {
            store.flush().await.unwrap();
        }
        assert_eq!(*flushed.lock().unwrap(), [missing.clone(), missing]);
        assert_eq!(fake.requests().len(), 2, "each store asks once: {:?}", fake.requests());
    }

    #[tokio::test]
    async fn component_what_cannot_be_flushed_is_an_error_with_its_cause() {
        let away = PodmanStore::new(Client::new("/nonexistent"));
        assert!(matches!(away.flush().await, Err(StoreError::Unknown(_))));
        let fake = Fake::start(|_, _| Answer::Reply(200, br#"{"store": {"graphRoot": "/s"}}"#.to_vec()));
        let full = PodmanStore::with_flush(Client::new(fake.socket()), |path| {
            Err(FileError::Flush { path: path.to_owned(), source: std::io::Error::other("no") })
        });
        assert_eq!(full.flush().await.unwrap_err().to_string(), "flushing the file system of /s: no");
    }
}
