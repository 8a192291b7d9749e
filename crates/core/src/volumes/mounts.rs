//! How a container mounts a volume: its sub-path, its propagation, and the mount points that other volumes need inside it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, VolumeMount};

/// Which mounts made on one side appear on the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None in either direction.
    #[default]
    Private,
    /// The host's later mounts appear in the container.
    HostToContainer,
    /// And the container's appear on the host.
    Bidirectional,
}

/// Why a container's mount cannot be made. The texts are the kubelet's; they deliberately say nothing about the host's files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The pod has no such volume.
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoSuchVolume {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// `subPathExpr` names variables that have no value.
    #[error("missing value for {names}")]
    MissingVariables {
        /// Their names.
        names: String,
    },
    /// A sub-path starts at the root.
    #[error("error SubPath `{sub_path}` must not be an absolute path")]
    AbsoluteSubPath {
        /// The sub-path.
        sub_path: String,
    },
    /// A sub-path leaves its volume.
    #[error("unable to provision SubPath `{sub_path}`: must not contain '..'")]
    Backstep {
        /// The sub-path.
        sub_path: String,
    },
    /// The folder of a sub-path could not be made.
    #[error("failed to create subPath directory for volumeMount \"{volume}\" of container \"{container}\"")]
    SubPathDirectory {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A sub-path is not what it seems: a link out of the volume, for instance.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\"")]
    SubPath {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A sub-path is not in the image of its volume.
    #[error("ImageVolumeMountFailed: there is no subPath `{sub_path}` in the image of volume \"{volume}\"")]
    ImageSubPath {
        /// The volume's name.
        volume: String,
        /// The sub-path.
        sub_path: String,
    },
    /// A hostPath that does not exist could not be made.
    #[error("failed to mkdir \"{path}\": {reason}")]
    HostPath {
        /// The path.
        path: String,
        /// The system's reason.
        reason: std::io::ErrorKind,
    },
    /// A propagation mode that Kubernetes does not know.
    #[error("invalid MountPropagation mode: \"{mode}\"")]
    InvalidPropagation {
        /// The mode.
        mode: String,
    },
    /// `recursiveReadOnly` without `readOnly`.
    #[error("failed to resolve recursive read-only mode: volume \"{volume}\" requested recursive read-only mode, but it is not read-only")]
    NotReadOnly {
        /// The volume's name.
        volume: String,
    },
    /// `recursiveReadOnly` together with propagation.
    #[error(
        "failed to resolve recursive read-only mode: volume \"{volume}\" requested recursive read-only mode, but it is not compatible with propagation \"{mode}\""
    )]
    PropagatesReadOnly {
        /// The volume's name.
        volume: String,
        /// The propagation.
        mode: String,
    },
    /// `recursiveReadOnly: Enabled` where the runtime cannot.
    #[error(
        "failed to resolve recursive read-only mode: volume \"{volume}\" requested recursive read-only mode, but it is not supported by the runtime"
    )]
    NoRecursiveReadOnly {
        /// The volume's name.
        volume: String,
    },
    /// The system refuses to mount it so.
    #[error("failed to mount volume \"{volume}\" recursively read-only for container \"{container}\"")]
    ReadOnlyView {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// The file system of a volume cannot show other owners.
    #[error(
        "failed to mount volume \"{volume}\" for container \"{container}\" in the pod's user namespace: its file system has no ID-mapped mounts"
    )]
    IdMappedView {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A `recursiveReadOnly` mode that Kubernetes does not know.
    #[error("failed to resolve recursive read-only mode: unknown recursive read-only mode \"{mode}\"")]
    InvalidRecursiveReadOnly {
        /// The mode.
        mode: String,
    },
}

/// Reads `mountPropagation`.
///
/// # Errors
/// A mode that Kubernetes does not know.
pub fn propagation(mode: Option<&str>) -> Result<Propagation, MountError> {
    match mode {
        None | Some("None") => Ok(Propagation::Private),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => Ok(Propagation::Bidirectional),
        Some(other) => Err(MountError::InvalidPropagation { mode: other.to_owned() }),
    }
}

/// Reads `recursiveReadOnly`; `supported` is whether the runtime can do it.
///
/// # Errors
/// It contradicts the mount's other fields, or is required and not supported.
pub fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, MountError> {
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    let volume = mount.name.clone();
    if mount.read_only != Some(true) {
        return Err(MountError::NotReadOnly { volume });
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|p| *p != "None") {
        return Err(MountError::PropagatesReadOnly { volume, mode: propagation.to_owned() });
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(MountError::NoRecursiveReadOnly { volume }),
        other => Err(MountError::InvalidRecursiveReadOnly { mode: other.to_owned() }),
    }
}

/// The mount's path within its volume; `None` for the whole volume.
///
/// # Errors
/// Variables without a value, an absolute path, a path with `..`.
pub fn sub_path(mount: &VolumeMount, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, MountError> {
    let sub_path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        Some(expression) => expand(expression, variable)?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if sub_path.is_empty() {
        return Ok(None);
    }
    if sub_path.starts_with('/') {
        return Err(MountError::AbsoluteSubPath { sub_path });
    }
    if sub_path.split('/').any(|part| part == "..") {
        return Err(MountError::Backstep { sub_path });
    }
    Ok(Some(sub_path))
}

/// Replaces `$(NAME)`; `$$` is a dollar sign. Other than in commands, a variable without a value is an error: the path would
/// be another one.
fn expand(expression: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, MountError> {
    let mut out = String::with_capacity(expression.len());
    let mut missing = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variable(name).filter(|value| !value.is_empty()) {
                Some(value) => out.push_str(&value),
                None => {
                    missing.insert(name);
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    if missing.is_empty() {
        return Ok(out);
    }
    Err(MountError::MissingVariables { names: missing.into_iter().collect::<Vec<_>>().join(", ") })
}

/// Where in the container the volume appears; a relative path counts from the root.
pub fn absolute_mount_path(mount: &VolumeMount) -> String {
    if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) }
}

/// Folders that must exist inside `volume` because containers mount other volumes below it: it is read-only for them, so nobody
/// could make them later. Relative to the volume, outermost only.
pub fn nested_mount_points(volume: &str, pod: &Pod) -> BTreeSet<String> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.volume_mounts.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.volume_mounts.as_deref());
    let mut nested = BTreeSet::new();
    for mounts in containers.chain(ephemeral).flatten() {
        let all: BTreeSet<String> = mounts.iter().map(|m| clean(&m.mount_path)).collect();
        for mine in mounts.iter().filter(|m| m.name == volume) {
            let below = format!("{}/", clean(&mine.mount_path));
            let mut outer: Vec<String> = Vec::new();
            for inner in all.iter().filter_map(|path| path.strip_prefix(&below)).filter(|p| !p.is_empty()) {
                if !outer.iter().any(|o| inner.starts_with(o.as_str())) {
                    outer.push(format!("{inner}/"));
                    nested.insert(inner.to_owned());
                }
            }
        }
    }
    nested
}

/// An absolute path without empty parts, `.` and `..`: it cannot name anything above the root.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.iter().map(|part| format!("/{part}")).collect()
}
