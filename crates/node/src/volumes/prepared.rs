//! Volumes that are ready.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The volumes of a pod, ready to be mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodVolumes {
    pub(super) by_name: BTreeMap<String, PreparedVolume>,
    pub(super) warnings: Vec<(&'static str, String)>,
}

impl PodVolumes {
    /// The path of a volume on this machine.
    pub fn path(&self, volume: &str) -> Option<&PathBuf> {
        self.by_name.get(volume).map(|volume| &volume.path)
    }

    /// Groups that the pod's processes get with the volumes.
    pub fn groups(&self) -> BTreeSet<i64> {
        self.by_name.values().filter_map(|volume| volume.group).collect()
    }

    /// Adds a volume that is an image, mounted at `path`.
    pub(crate) fn add_image(&mut self, volume: &str, path: PathBuf) {
        let prepared = PreparedVolume { read_only: true, ..PreparedVolume::of(path, PreparedKind::Image) };
        self.by_name.insert(volume.to_owned(), prepared);
    }

    /// What the pod should be told of them, with reasons.
    pub fn warnings(&self) -> &[(&'static str, String)] {
        &self.warnings
    }
}

/// One volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PreparedVolume {
    pub(super) path: PathBuf,
    pub(super) kind: PreparedKind,
    pub(super) read_only: bool,
    pub(super) group: Option<i64>,
}

impl PreparedVolume {
    pub(super) fn of(path: PathBuf, kind: PreparedKind) -> Self {
        Self { path, kind, read_only: false, group: None }
    }
}

/// Who owns a volume's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreparedKind {
    /// The pod: it may write, and the files end with it.
    Scratch,
    /// The agent: it writes them, the pod reads.
    Payload,
    /// The machine: neither labelled nor removed by us.
    HostPath,
    /// Whoever claimed it; it outlives the pod.
    Local,
    /// An image.
    Image,
    /// A server.
    Server,
}
