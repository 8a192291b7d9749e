//! What pods were told of Services last, on disk: containers that start while the API server is away get the same environment
//! as before.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kube_pet_core::container_env::ServiceFacts;
use tracing::{info, warn};

use crate::json_file;

/// A namespace can have thousands of Services.
const MAX_BYTES: u64 = 16 << 20;

/// A file for each namespace, beside the other copies of its objects, with which it goes.
pub(super) struct LastServices {
    folder: PathBuf,
    /// What this run has written.
    written: Mutex<HashMap<String, Vec<ServiceFacts>>>,
}

impl LastServices {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, written: Mutex::default() }
    }

    /// What was told last; `None` if nothing was.
    pub(super) async fn read(&self, namespace: &str) -> Option<Vec<ServiceFacts>> {
        let path = self.path(namespace)?;
        let read = tokio::task::spawn_blocking(move || json_file::read(&path, MAX_BYTES)).await.ok()?;
        match read {
            Ok(found) => {
                if found.is_some() {
                    info!(namespace, "Services are not known yet; a container gets the variables of those that were known last");
                }
                found
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the Services that were known last cannot be used");
                None
            }
        }
    }

    /// Remembers it, if it is something else than before.
    pub(super) async fn write(&self, namespace: &str, services: &[ServiceFacts]) {
        let Some(path) = self.path(namespace) else { return };
        let lock = || self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if path.exists() && lock().get(namespace).is_some_and(|known| known == services) {
            return;
        }
        let told: Arc<[ServiceFacts]> = services.into();
        let content = told.clone();
        let written = tokio::task::spawn_blocking(move || {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            json_file::write(&path, &content.as_ref()).map_err(io::Error::other)
        });
        match written.await {
            Ok(Ok(())) => drop(lock().insert(namespace.to_owned(), told.to_vec())),
            Ok(Err(error)) => warn!(%error, namespace, "Services are not kept for a start without the API server"),
            Err(_) => {}
        }
    }

    fn path(&self, namespace: &str) -> Option<PathBuf> {
        let plain = !namespace.is_empty() && !namespace.starts_with('.') && !namespace.contains(['/', '\0']);
        plain.then(|| self.folder.join(namespace).join("services.json"))
    }
}
