//! What can go wrong with volumes.

use std::io;
use std::path::PathBuf;

use kube_pet_core::volumes::{HostPathError, PayloadError};
use kube_pet_host::atomic_tree::TreeError;

use super::removal::RemovalError;
use crate::objects::FetchError;

/// A volume that could not be set up or taken down. The text of [`VolumeError::SetUp`] is that of the kubelet's event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A volume is not ready.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    SetUp {
        /// The volume's name.
        volume: String,
        /// Why.
        #[source]
        source: SetUpError,
    },
    /// Something below a pod's folder stays mounted.
    #[error("UnmountVolume.TearDown failed: {0}")]
    Unmount(#[source] kube_pet_host::mounts::MountError),
    /// Something was mounted again below a pod's folder: removing it would remove what is mounted.
    #[error("UnmountVolume.TearDown failed: {path} is still mounted")]
    StillMounted {
        /// Where.
        path: PathBuf,
    },
    /// A pod's files stay.
    #[error("UnmountVolume.TearDown failed: {0}")]
    Remove(#[source] RemovalError),
    /// The folder of all pods cannot be listed.
    #[error("listing the folders of pods in {path}: {source}")]
    List {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The work ended before it was done: the agent is stopping.
    #[error("work on volumes was interrupted")]
    Interrupted,
}

impl VolumeError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::SetUp { source, .. } => source.is_retryable(),
            _ => true,
        }
    }

    /// The volume that the error is about, if it is about one.
    pub fn volume(&self) -> Option<&str> {
        match self {
            Self::SetUp { volume, .. } => Some(volume),
            _ => None,
        }
    }
}

/// Why a volume is not ready.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// An object or a token could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The files cannot be computed from the objects.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Several of the above, in one projected volume.
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<SetUpError>),
    /// The machine has something else at the path, or nothing.
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    /// `emptyDir.medium` is none that Kubernetes knows.
    #[error("unknown storage medium \"{medium}\"")]
    UnknownMedium {
        /// The medium.
        medium: String,
    },
    /// Huge pages.
    #[error("emptyDir with medium HugePages is not supported by this node")]
    HugePages,
    /// A kind of volume that this version does not know.
    #[error("volume type {kind} is not supported by this node")]
    Unsupported {
        /// The field's name.
        kind: &'static str,
    },
    /// A name that would lead out of the pod's folder.
    #[error("invalid volume name \"{name}\"")]
    Name {
        /// The name.
        name: String,
    },
    /// A folder or file could not be made.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Memory could not be mounted.
    #[error(transparent)]
    Mount(#[from] kube_pet_host::mounts::MountError),
    /// The files could not be written.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl SetUpError {
    /// Whether the volume may become ready without a change of the pod.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_retryable(),
            Self::Several(errors) => errors.iter().all(SetUpError::is_retryable),
            Self::Payload(PayloadError::UnsupportedSource { .. }) => false,
            Self::UnknownMedium { .. } | Self::HugePages | Self::Unsupported { .. } | Self::Name { .. } => false,
            _ => true,
        }
    }

    /// Whether only the API server's absence keeps the volume from being ready: files that are there already may then stay.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_outage(),
            Self::Several(errors) => errors.iter().all(SetUpError::is_outage),
            _ => false,
        }
    }
}
