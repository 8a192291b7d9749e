//! One pod's last spec on disk: what an agent that starts without an API server knows of its pods, and what a container whose
//! pod has vanished meanwhile is stopped by. Never the only record of anything.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_core::resize::{Actuated, Allocation};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::sources::Source;
use crate::paths::Paths;

/// What is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// `true` for a static pod.
    pub from_file: bool,
    /// The pod, with the status last computed.
    pub pod: Pod,
    /// What it was given; of a checkpoint without it all that it asked for.
    #[serde(default)]
    pub allocation: Option<Allocation>,
    /// What the kernel was told.
    #[serde(default)]
    pub actuated: Actuated,
}

impl Checkpoint {
    /// Where the pod came from.
    pub fn source(&self) -> Source {
        if self.from_file { Source::File } else { Source::Api }
    }
}

/// A checkpoint that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk's.
    #[error("cannot write the checkpoint {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The writing thread broke down.
    #[error("the writing of a checkpoint was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

fn file(paths: &Paths, uid: &PodUid) -> PathBuf {
    paths.pod_dir(uid).join("pod.json")
}

/// Writes atomically, readable by root only: a spec may hold secrets in its environment.
pub fn write(paths: &Paths, uid: &PodUid, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let path = file(paths, uid);
    let run = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        kube_pet_host::files::write_atomic(&path, &serde_json::to_vec(checkpoint)?, 0o600).map_err(std::io::Error::other)
    };
    run().map_err(|source| CheckpointError::Write { path: path.clone(), source })
}

/// Reads all checkpoints. One that cannot be read is set aside and named in the log; its containers are still found by label.
pub fn read_all(paths: &Paths) -> Vec<Checkpoint> {
    let Ok(entries) = std::fs::read_dir(paths.pods_dir()) else { return Vec::new() };
    entries.filter_map(Result::ok).filter_map(|entry| read(&entry.path().join("pod.json"))).collect()
}

fn read(path: &Path) -> Option<Checkpoint> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot read a pod's checkpoint");
            return None;
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(checkpoint) => Some(checkpoint),
        Err(error) => {
            let aside = path.with_extension("json.corrupt");
            warn!(path = %path.display(), aside = %aside.display(), %error, "a pod's checkpoint is damaged; it is set aside, and the pod comes back from the API server");
            let _ = std::fs::rename(path, aside);
            None
        }
    }
}
