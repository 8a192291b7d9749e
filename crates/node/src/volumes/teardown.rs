//! Taking volumes down. Runs in a blocking thread.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;

use kube_pet_core::ids::PodUid;
use kube_pet_host::mounts;

use super::claims::ClaimResolver;
use super::error::VolumeError;
use super::layout::Layout;
use super::removal::remove_tree;
use crate::paths::Paths;

/// Removes the pod's volumes, once nothing is mounted there any more; `errors` are those of unmounting.
pub(super) fn all(layout: &Layout, claims: &ClaimResolver, mut errors: Vec<VolumeError>) -> Result<(), Vec<VolumeError>> {
    let folders = layout.all();
    // What is bound into a volume may be anything on this machine, also a folder of the user's: one mount that stays keeps all.
    for folder in &folders {
        match mounts::below(folder) {
            Ok(left) => errors.extend(left.into_iter().map(|path| VolumeError::StillMounted { path })),
            Err(error) => errors.push(VolumeError::Unmount(error)),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    errors.extend(folders.iter().filter_map(|folder| remove_tree(folder).err()).map(VolumeError::Remove));
    if !errors.is_empty() {
        return Err(errors);
    }
    // Last: who may have the volumes next is told from it.
    claims.forget(layout).map_err(|error| vec![error])?;
    for folder in layout.pod_folders() {
        // Only if nothing else of the pod is there.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Pods that have a folder and are not `known`.
pub(super) fn orphans(paths: &Paths, known: &HashSet<PodUid>) -> Result<Vec<PodUid>, VolumeError> {
    let mut found = BTreeSet::new();
    for folder in [paths.pods_dir(), paths.run_dir().join("pods")] {
        let failed = |source| VolumeError::List { path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            if let Some(name) = entry.file_name().to_str().filter(|_| is_folder) {
                found.insert(PodUid::from(name));
            }
        }
    }
    Ok(found.into_iter().filter(|uid| !known.contains(uid)).collect())
}
