//! Files of variables (`fileKeyRef`): read from emptyDirs of the pod's own, in which its init containers have written them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube_pet_core::container_env::{FileRef, file_refs};
use tracing::warn;

use super::StartError;
use crate::pods::runtime::PodRuntime;

/// The largest file that is read: a pod's file must not fill the agent's memory.
const MAX_BYTES: u64 = 1 << 20;

impl PodRuntime {
    /// The files that a container's environment needs, by volume and path; `None` is one that does not exist.
    ///
    /// # Errors
    /// The message of the container's `CreateContainerConfigError`; the log says more of what is wrong with a file.
    pub(super) async fn env_files(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
    ) -> Result<BTreeMap<(String, String), Option<Vec<u8>>>, StartError> {
        let wanted = file_refs(container);
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let volumes = self.volumes_of(pod).await.map_err(StartError::config)?;
        let mut found = BTreeMap::new();
        for FileRef { volume, path } in wanted {
            // The API server accepts no other kind of volume; pods of files were not seen by it.
            let known = volumes.path(&volume).filter(|_| is_empty_dir(pod, &volume));
            let root =
                known.cloned().ok_or_else(|| StartError::config(format!("cannot find the volume {volume:?} referenced by FileKeyRef")))?;
            let asked = path.clone();
            let read = tokio::task::spawn_blocking(move || kube_pet_host::files::read_within(&root, &asked, MAX_BYTES)).await;
            let content = match read {
                Ok(Ok(content)) => content,
                Ok(Err(error)) => {
                    warn!(
                        container = container.name,
                        volume,
                        error = &error as &dyn std::error::Error,
                        "a file of variables cannot be read"
                    );
                    return Err(StartError::config("couldn't parse env file"));
                }
                Err(_) => return Err(StartError::config("reading the env file was interrupted")),
            };
            found.insert((volume, path), content);
        }
        Ok(found)
    }
}

fn is_empty_dir(pod: &Pod, name: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.name == name).any(|volume| volume.empty_dir.is_some())
}
