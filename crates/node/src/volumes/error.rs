//! What can go wrong with volumes.

use std::io;
use std::path::PathBuf;

use kube_pet_core::volumes::{BoundVolumeError, FileKind, HostPathError, HugePagesError, MountError, PayloadError};
use kube_pet_host::atomic_tree::TreeError;

use super::claims::ClaimProblem;
use super::removal::RemovalError;
use crate::objects::FetchError;

/// A volume that could not be set up or taken down. Texts of what is not set up are those of the kubelet's events.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A volume is not ready.
    #[error("{} for volume \"{volume}\" : {source}", source.operation())]
    SetUp {
        /// The volume's name, or that of the PersistentVolume.
        volume: String,
        /// Why.
        #[source]
        source: SetUpError,
    },
    /// What claims are bound to is not known, or cannot be used.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], failed to process volumes=[{}]: {}",
        unmounted.join(" "),
        failed.join(" "),
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Claims {
        /// All volumes of the pod that are not ready.
        unmounted: Vec<String>,
        /// Those of the claims.
        failed: Vec<String>,
        /// What is wrong with each of them.
        problems: Vec<ClaimProblem>,
    },
    /// What a container would mount is there, but its server or disk is not.
    #[error("volume \"{volume}\" does not answer: no reply from its file system within {seconds} s")]
    NoAnswer {
        /// The volume's name.
        volume: String,
        /// How long was waited.
        seconds: u64,
    },
    /// What a container would mount answered at first, and then not any more.
    #[error("a volume of container \"{container}\" does not answer: no sub-path within {seconds} s")]
    BindingHangs {
        /// The container's name.
        container: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A container's mounts cannot be made.
    #[error(transparent)]
    Container(#[from] MountError),
    /// Unmounting has not come to an end.
    #[error("UnmountVolume.TearDown failed: no end within {seconds} s, also by force")]
    UnmountHangs {
        /// How long was waited.
        seconds: u64,
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

    /// Whether it is about what is in the image of a volume, as the container's runtime would say it.
    pub fn is_of_image(&self) -> bool {
        matches!(self, Self::Container(MountError::ImageSubPath { .. }))
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
    /// It is not known which huge pages an emptyDir is made of.
    #[error(transparent)]
    HugePages(#[from] HugePagesError),
    /// A kind of volume that this version does not know.
    #[error("volume type {kind} is not supported by this node")]
    Unsupported {
        /// The field's name.
        kind: &'static str,
    },
    /// The volume of a claim is not for this pod or node.
    #[error(transparent)]
    Bound(#[from] BoundVolumeError),
    /// The path of a local volume steps out of itself.
    #[error("invalid path: {path} must not contain '..'")]
    Backstep {
        /// The path.
        path: String,
    },
    /// Nothing is at the path of a local volume.
    #[error("path \"{path}\" does not exist")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Something else is at the path of a local volume.
    #[error("only directories are supported by this node, and {path} is a {found}")]
    NotAFolder {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: FileKind,
    },
    /// The server or the disk does not answer. What was begun may still come to an end.
    #[error("timed out after {seconds} s: {what} does not answer")]
    Hung {
        /// What is asked.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The program that mounts could not be run.
    #[error("mount failed: running the program mount: {source}")]
    MountProgram {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The program that mounts has failed.
    #[error("mount failed: {status}\nMounting command: mount\nMounting arguments: {arguments}\nOutput: {output}")]
    MountCommand {
        /// How it ended.
        status: String,
        /// What it was given.
        arguments: String,
        /// What it said.
        output: String,
    },
    /// The pod is being taken down meanwhile.
    #[error("the pod is being taken down")]
    Ending,
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
    /// What failed, in the kubelet's words.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Bound(BoundVolumeError::NodeAffinity) => "MountVolume.NodeAffinity check failed",
            Self::Bound(BoundVolumeError::MountOptions) => "MountVolume.MountOptionSupport check failed",
            Self::Missing { .. } | Self::NotAFolder { .. } => "MountVolume.NewMounter initialization failed",
            _ => "MountVolume.SetUp failed",
        }
    }

    /// Whether the volume may become ready without a change of the pod.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_retryable(),
            Self::Several(errors) => errors.iter().all(SetUpError::is_retryable),
            Self::UnknownMedium { .. } | Self::HugePages(_) | Self::Unsupported { .. } | Self::Name { .. } => false,
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
