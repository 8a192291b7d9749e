//! hostPath volumes: what must be found at the path, and what is made there.

use std::fmt;

/// What was found at a path, with the names that the API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Directory,
    /// A regular file.
    File,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A pipe or something rarer.
    Other,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "Directory",
            Self::File => "File",
            Self::Socket => "Socket",
            Self::CharDevice => "CharDevice",
            Self::BlockDevice => "BlockDevice",
            Self::Other => "",
        })
    }
}

/// What is to be done before a hostPath volume can be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathStep {
    /// Nothing.
    Ready,
    /// Make the folder and its parents, mode 0755.
    CreateDirectory,
    /// Make an empty file, mode 0644; its folder must exist.
    CreateFile,
}

/// Why a hostPath volume cannot be mounted. The texts are the kubelet's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPathError {
    /// The path steps out of itself.
    #[error("invalid HostPath `{path}`: must not contain '..'")]
    Backstep {
        /// The path.
        path: String,
    },
    /// Something else is at the path.
    #[error("hostPath type check failed: {path} is not a {expected}, it's a {found}")]
    WrongType {
        /// The path.
        path: String,
        /// What was asked for.
        expected: &'static str,
        /// What is there.
        found: FileKind,
    },
    /// Nothing is at the path.
    #[error("hostPath type check failed, {path} is not a {expected}, unable to determine its type: path \"{path}\" does not exist")]
    Missing {
        /// The path.
        path: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// Something that Kubernetes has no name for is at the path.
    #[error(
        "hostPath type check failed, {path} is not a {expected}, unable to determine its type: only recognise file, directory, socket, block device and character device"
    )]
    UnknownType {
        /// The path.
        path: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// `type` is none that Kubernetes knows.
    #[error("{wanted} is an invalid volume type")]
    InvalidType {
        /// The type.
        wanted: String,
    },
}

/// Whether `path` may be used at all.
///
/// # Errors
/// A path with a `..` in it.
pub fn host_path_without_backsteps(path: &str) -> Result<(), HostPathError> {
    if path.split('/').any(|part| part == "..") {
        return Err(HostPathError::Backstep { path: path.to_owned() });
    }
    Ok(())
}

/// Compares what is at `path` (nothing: `None`) with what the volume asks for.
///
/// # Errors
/// What is there is not what was asked for.
pub fn check_host_path(path: &str, wanted: &str, found: Option<FileKind>) -> Result<HostPathStep, HostPathError> {
    let (kind, expected, otherwise) = match wanted {
        "" => return Ok(HostPathStep::Ready),
        "DirectoryOrCreate" => (FileKind::Directory, "directory", Some(HostPathStep::CreateDirectory)),
        "Directory" => (FileKind::Directory, "directory", None),
        "FileOrCreate" => (FileKind::File, "file", Some(HostPathStep::CreateFile)),
        "File" => (FileKind::File, "file", None),
        "Socket" => (FileKind::Socket, "socket file", None),
        "CharDevice" => (FileKind::CharDevice, "character device", None),
        "BlockDevice" => (FileKind::BlockDevice, "block device", None),
        other => {
            return Err(HostPathError::InvalidType { wanted: other.to_owned() });
        }
    };
    let path = path.to_owned();
    match (found, otherwise) {
        (Some(found), _) if found == kind => Ok(HostPathStep::Ready),
        (Some(FileKind::Other), _) => Err(HostPathError::UnknownType { path, expected }),
        (Some(found), _) => Err(HostPathError::WrongType { path, expected, found }),
        (None, Some(step)) => Ok(step),
        (None, None) => Err(HostPathError::Missing { path, expected }),
    }
}
