//! What the claims of a pod's volumes are bound to, on disk: an agent that starts without an API server mounts them by it, and who has a
//! volume that only one pod may use is told from it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use kube_pet_core::ids::PodUid;
use kube_pet_core::volumes::BoundVolume;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::layout::Layout;
use crate::json_file;
use crate::paths::Paths;

/// By the name of the pod's volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) volumes: BTreeMap<String, BoundVolume>,
}

/// The pod's record; an empty one if there is none, or none that can be read.
pub(super) fn read(layout: &Layout) -> Record {
    let read = json_file::read(&layout.claims(), json_file::MAX_BYTES).unwrap_or_else(|error| {
        warn!(error = &error as &dyn std::error::Error, "what a pod's claims are bound to is not known; the API server is asked");
        None
    });
    read.unwrap_or_default()
}

/// Writes it atomically.
pub(super) fn write(layout: &Layout, record: &Record) -> io::Result<()> {
    let path = layout.claims();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    json_file::write(&path, record).map_err(io::Error::other)
}

/// Whether a pod other than `uid` has the PersistentVolume.
pub(super) fn is_used_elsewhere(paths: &Paths, uid: &PodUid, volume: &str) -> bool {
    let entries = fs::read_dir(paths.pods_dir()).into_iter().flatten().filter_map(Result::ok);
    let mut others = entries.filter_map(|entry| entry.file_name().to_str().map(PodUid::from)).filter(|other| other != uid);
    others.any(|other| read(&Layout::new(paths, &other)).volumes.values().any(|bound| bound.name == volume))
}
