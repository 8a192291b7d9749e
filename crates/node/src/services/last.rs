//! What pods were told of Services last, on disk: containers that start while the API server is away get the same environment
//! as before.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use kube_pet_core::container_env::ServiceFacts;
use tracing::{info, warn};

use crate::json_file;
use crate::paths::Paths;

const FILE: &str = "services.json";
/// A namespace can have thousands of Services.
const MAX_BYTES: u64 = 16 << 20;

/// A file for each namespace, beside the other copies of its objects, with which it goes.
pub(super) struct LastServices {
    paths: Paths,
    /// Hashes of what this run has written.
    written: Mutex<HashMap<String, u64>>,
}

impl LastServices {
    pub(super) fn new(paths: Paths) -> Self {
        Self { paths, written: Mutex::default() }
    }

    /// What was told last; `None` if nothing was.
    pub(super) async fn read(&self, namespace: &str) -> Option<Vec<ServiceFacts>> {
        let path = self.paths.object_copy(namespace, FILE)?;
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

    /// Remembers it, if it is something else than before or was taken away.
    pub(super) async fn write(&self, namespace: &str, services: Vec<ServiceFacts>) -> Vec<ServiceFacts> {
        let Some(path) = self.paths.object_copy(namespace, FILE) else { return services };
        let mut hasher = DefaultHasher::new();
        services.hash(&mut hasher);
        let hash = hasher.finish();
        let lock = || self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(namespace) == Some(&hash);
        let services = Arc::new(services);
        let told = services.clone();
        let work = move || {
            if known && path.exists() {
                return Ok(());
            }
            let folder = path.parent().map_or(Ok(()), |folder| DirBuilder::new().recursive(true).mode(0o700).create(folder));
            folder.and_then(|()| json_file::write(&path, &*told).map_err(io::Error::other))
        };
        match tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => drop(lock().insert(namespace.to_owned(), hash)),
            Err(error) => warn!(%error, namespace, "Services are not kept for a start without the API server"),
        }
        Arc::unwrap_or_clone(services)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str) -> Vec<ServiceFacts> {
        vec![ServiceFacts { namespace: "ns".into(), name: name.into(), cluster_ip: "10.96.0.1".into(), ports: Vec::new() }]
    }

    #[tokio::test]
    async fn a_later_run_finds_what_pods_were_told_last() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        let last = LastServices::new(paths.clone());
        assert_eq!(last.read("ns").await, None);
        for name in ["a", "b"] {
            assert_eq!(last.write("ns", facts(name)).await, facts(name));
        }
        assert_eq!(LastServices::new(paths.clone()).read("ns").await, Some(facts("b")));
        // It went with the namespace's last pod, and another one comes.
        std::fs::remove_dir_all(paths.object_copies()).unwrap();
        last.write("ns", facts("b")).await;
        assert_eq!(last.read("ns").await, Some(facts("b")));
        for namespace in ["..", "a/b", ""] {
            last.write(namespace, facts("a")).await;
            assert_eq!(last.read(namespace).await, None);
        }
        std::fs::write(paths.object_copy("ns", FILE).unwrap(), "{").unwrap();
        assert_eq!(last.read("ns").await, None, "it is damaged");
    }
}
