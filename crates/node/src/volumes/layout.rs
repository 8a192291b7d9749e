//! Where the volumes of one pod are.

use std::path::{Path, PathBuf};

use kube_pet_core::ids::PodUid;

use crate::paths::Paths;

/// The folders of one pod's volumes.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pod: PathBuf,
    memory: PathBuf,
}

impl Layout {
    pub(super) fn new(paths: &Paths, uid: &PodUid) -> Self {
        Self { pod: paths.pod_dir(uid), memory: paths.pod_run_dir(uid) }
    }

    /// Volumes on disk.
    pub(super) fn disk(&self) -> PathBuf {
        self.pod.join("volumes")
    }

    /// Volumes that never reach a disk.
    pub(super) fn memory(&self) -> PathBuf {
        self.memory.join("volumes")
    }

    /// One volume's folder.
    pub(super) fn volume(&self, kind: &str, name: &str, in_memory: bool) -> PathBuf {
        let folder = if in_memory { self.memory() } else { self.disk() };
        folder.join(format!("kubernetes.io~{kind}")).join(name)
    }

    /// What says that an emptyDir is complete.
    pub(super) fn ready_mark(&self, name: &str) -> PathBuf {
        self.marks().join("kubernetes.io~empty-dir").join(name).join("ready")
    }

    /// What says that all volumes were ready once.
    pub(super) fn once_ready(&self) -> PathBuf {
        self.marks().join("once-ready")
    }

    /// The folder of such marks.
    pub(super) fn marks(&self) -> PathBuf {
        self.pod.join("plugins")
    }

    /// What claims are bound to.
    pub(super) fn claims(&self) -> PathBuf {
        self.pod.join("claims.json")
    }

    /// Bound parts of volumes.
    pub(super) fn sub_paths(&self) -> PathBuf {
        self.pod.join("volume-subpaths")
    }

    /// The place of one bound part.
    pub(super) fn sub_path(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.sub_paths().join(volume).join(container).join(index.to_string())
    }

    /// Volumes as containers see them that mount them recursively read-only.
    pub(super) fn read_only_views(&self) -> PathBuf {
        self.pod.join("volume-read-only")
    }

    /// One of them.
    pub(super) fn read_only_view(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.read_only_views().join(volume).join(container).join(index.to_string())
    }

    /// Volumes as containers in a user namespace see them.
    pub(super) fn id_mapped_views(&self) -> PathBuf {
        self.pod.join("volume-id-mapped")
    }

    /// One of them.
    pub(super) fn id_mapped_view(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.id_mapped_views().join(volume).join(container).join(index.to_string())
    }

    /// All of the above.
    pub(super) fn all(&self) -> [PathBuf; 6] {
        // Views and sub-paths first: they are mounts of what is in the volumes.
        [self.id_mapped_views(), self.read_only_views(), self.sub_paths(), self.memory(), self.disk(), self.marks()]
    }

    /// The pod's folders, which others use too.
    pub(super) fn pod_folders(&self) -> [&Path; 2] {
        [&self.pod, &self.memory]
    }
}
