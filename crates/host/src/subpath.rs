//! `subPath`: a part of a volume, mounted by itself, although the pods that write to the volume may be hostile.
//!
//! A path is resolved by the kernel below an open folder of the volume (`openat2` with `RESOLVE_BENEATH`): links inside the
//! volume work, a link that leads out of it is refused, and exchanging a folder for a link meanwhile changes nothing. What was
//! opened is then bound to a path of our own in the pod's folder, because Podman takes paths and would resolve them again:
//! from there on nobody in the pod can exchange it. The kubelet does the same (`pkg/volume/util/subpath/subpath_linux.go`).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat, openat2, stat};
use rustix::io::Errno;
use rustix::mount::mount_bind_recursive;

use crate::mounts::{self, MountError};

/// Why a part of a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// Absolute, or with `..`.
    #[error("invalid subPath {subpath:?}: {reason}")]
    Invalid {
        /// What was asked for.
        subpath: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A link on the way leads out of the volume.
    #[error("subPath {subpath:?} leads out of the volume {volume}")]
    Escape {
        /// What was asked for.
        subpath: String,
        /// The volume.
        volume: PathBuf,
    },
    /// The path cannot be opened in the volume.
    #[error("opening subPath {subpath:?} in the volume {volume}: {source}")]
    Open {
        /// What was asked for.
        subpath: String,
        /// The volume.
        volume: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Missing folders cannot be made.
    #[error("making subPath {subpath:?} in the volume {volume}: {source}")]
    Make {
        /// What was asked for.
        subpath: String,
        /// The volume.
        volume: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The place in the pod's folder cannot be prepared or bound.
    #[error("binding subPath {subpath:?} of the volume {volume} to {target}: {source}")]
    Bind {
        /// What was asked for.
        subpath: String,
        /// The volume.
        volume: PathBuf,
        /// The place.
        target: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An older mount at the place cannot be read or removed.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// Opens `subpath` below the folder `volume`, making missing folders with the permissions of the volume's root (so that an
/// `fsGroup` can write there), and binds it to `target`: a path in the pod's own folder, which the pod cannot reach. Mounts
/// inside the volume come along. If `target` shows the right thing already, nothing is done.
pub fn bind(volume: &Path, subpath: &str, target: &Path) -> Result<(), SubPathError> {
    let relative = checked(subpath)?;
    let opened = open_or_make(volume, &relative, subpath)?;
    let failed = |source| SubPathError::Bind { subpath: subpath.into(), volume: volume.into(), target: target.into(), source };
    let source = fstat(&opened).map_err(|errno| failed(errno.into()))?;
    if mounts::is_mount_point(target)? {
        if stat(target).is_ok_and(|bound| (bound.st_dev, bound.st_ino) == (source.st_dev, source.st_ino)) {
            return Ok(());
        }
        mounts::unmount_all(target)?;
    }
    place(target, FileType::from_raw_mode(source.st_mode).is_dir()).map_err(failed)?;
    mount_bind_recursive(format!("/proc/thread-self/fd/{}", opened.as_raw_fd()), target).map_err(|errno| failed(errno.into()))
}

/// Undoes all of [`bind`] at and below `folder`, the folder of the pod's bound parts: unmounts, and removes the empty places.
/// Nothing in a volume is removed.
pub fn unbind_below(folder: &Path) -> Result<(), MountError> {
    mounts::unmount_below(folder)?;
    remove_places(folder).map_err(|source| MountError::Inspect { target: folder.into(), source })
}

/// Only empty files and empty folders: if a mount were still there (made by somebody else meanwhile), removing stops at it.
fn remove_places(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            remove_places(&entry?.path())?;
        }
        fs::remove_dir(path)
    } else if metadata.len() == 0 {
        fs::remove_file(path)
    } else {
        Err(io::Error::other(format!("{} is not an empty file", path.display())))
    }
}

fn checked(subpath: &str) -> Result<PathBuf, SubPathError> {
    let invalid = |reason| SubPathError::Invalid { subpath: subpath.into(), reason };
    let mut relative = PathBuf::new();
    for component in Path::new(subpath).components() {
        match component {
            Component::Normal(part) => relative.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(invalid("must not contain '..'")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(invalid("must not be an absolute path"));
            }
        }
    }
    if subpath.contains('\0') {
        return Err(invalid("must not contain a null byte"));
    }
    Ok(relative)
}

fn open_or_make(volume: &Path, relative: &Path, subpath: &str) -> Result<OwnedFd, SubPathError> {
    let opening = |errno: Errno| match errno {
        Errno::XDEV | Errno::LOOP => SubPathError::Escape { subpath: subpath.into(), volume: volume.into() },
        errno => SubPathError::Open { subpath: subpath.into(), volume: volume.into(), source: errno.into() },
    };
    let root = open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(opening)?;
    if relative.as_os_str().is_empty() {
        return Ok(root);
    }
    match beneath(&root, relative) {
        Err(Errno::NOENT) => {}
        found => return found.map_err(opening),
    }
    let making = |errno: Errno| SubPathError::Make { subpath: subpath.into(), volume: volume.into(), source: errno.into() };
    let mode = Mode::from_raw_mode(fstat(&root).map_err(making)?.st_mode & 0o7777);
    let mut missing: Vec<_> = relative.components().collect();
    let mut tail = Vec::new();
    // The longest part that exists; a link to nowhere is not a place to make folders at.
    let mut parent = loop {
        tail.extend(missing.pop());
        if missing.is_empty() {
            break openat(&root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(making)?;
        }
        match beneath(&root, &missing.iter().collect::<PathBuf>()) {
            Ok(parent) => break parent,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(opening(errno)),
        }
    };
    while let Some(name) = tail.pop() {
        let name = name.as_os_str();
        match mkdirat(&parent, name, mode) {
            Ok(()) => {
                let made = openat(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                    .map_err(making)?;
                // The umask must not take what the volume's root allows.
                fchmod(&made, mode).map_err(making)?;
                parent = made;
            }
            // Made by somebody else at this moment (or a link to nowhere, which is refused here).
            Err(Errno::EXIST) => {
                parent = openat(&parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                    .map_err(making)?;
            }
            Err(errno) => return Err(making(errno)),
        }
    }
    Ok(parent)
}

/// Opens a path that cannot leave `root`, whatever links are on the way.
fn beneath(root: &OwnedFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match openat2(root, relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Somebody renamed on the way: the kernel could not tell whether the path stays below.
            Err(Errno::AGAIN) if tries < 100 => tries += 1,
            other => return other,
        }
    }
}

/// An empty folder or file to bind to. A file does for everything that is no folder.
pub(crate) fn place(target: &Path, folder: bool) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    let present = match rustix::fs::statat(CWD, target, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Some(FileType::from_raw_mode(status.st_mode)),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(errno.into()),
    };
    match (present, folder) {
        (Some(FileType::Directory), true) | (Some(FileType::RegularFile), false) => return Ok(()),
        (Some(FileType::Directory), false) => fs::remove_dir(target)?,
        (Some(_), _) => fs::remove_file(target)?,
        (None, _) => {}
    }
    if folder {
        fs::DirBuilder::new().mode(0o750).create(target)
    } else {
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(target).map(drop)
    }
}

#[cfg(test)]
mod tests;
