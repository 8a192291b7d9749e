//! Removing a folder that pods wrote to: nothing is removed through a mount or a link, however deep and whatever was made of it.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;

/// Folders nested deeper are first moved to the top: a pod can nest them deeper than there are stack and descriptors.
const MAX_DEPTH: usize = 64;
/// Names read at a time: a pod can make more files than there is memory for their names.
const BATCH: usize = 4096;

/// Why a folder is not gone.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// Something is mounted in it.
    #[error("removing {path}: something is mounted there")]
    Mounted {
        /// Where.
        path: PathBuf,
    },
    /// The system refused.
    #[error("removing {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

fn failed(path: &Path, errno: Errno) -> RemovalError {
    match errno {
        Errno::XDEV | Errno::BUSY => RemovalError::Mounted { path: path.to_owned() },
        errno => RemovalError::Io { path: path.to_owned(), source: errno.into() },
    }
}

/// Removes `path` and all below it; fine if there is none. Stops at the first thing that is mounted. A link is removed, not what it
/// leads to.
///
/// # Errors
/// What could not be removed first; a part may be gone.
pub fn remove_tree(path: &Path) -> Result<(), RemovalError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(path, Errno::INVAL));
    };
    let parent = match openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed(path, errno)),
    };
    let name = CString::new(name.as_bytes()).map_err(|_| failed(path, Errno::INVAL))?;
    let top = match open_folder(&parent, &name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(&parent, &name, AtFlags::empty()).map_err(|errno| failed(path, errno)),
        Err(errno) => return Err(failed(path, errno)),
    };
    let mut removal = Removal { top: top.as_fd(), moved: 0 };
    removal.clear(top.as_fd(), path, 0)?;
    unlinkat(&parent, &name, AtFlags::REMOVEDIR).map_err(|errno| failed(path, errno))
}

/// Opens a folder that is neither a link nor a mount point (`RESOLVE_NO_XDEV` refuses bind mounts of the same file system, too).
fn open_folder(parent: impl AsFd, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    openat2(parent, name, flags, Mode::empty(), resolve)
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    /// Empties a folder.
    fn clear(&mut self, folder: BorrowedFd<'_>, path: &Path, depth: usize) -> Result<(), RemovalError> {
        loop {
            let names = names(folder).map_err(|errno| failed(path, errno))?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                self.remove(folder, &name, &path.join(OsStr::from_bytes(name.as_bytes())), depth)?;
            }
        }
    }

    fn remove(&mut self, folder: BorrowedFd<'_>, name: &CString, path: &Path, depth: usize) -> Result<(), RemovalError> {
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(failed(path, errno)),
        }
        match unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(failed(path, errno)),
        }
        let inner = open_folder(folder, name).map_err(|errno| failed(path, errno))?;
        if depth >= MAX_DEPTH {
            self.moved += 1;
            let flat = CString::new(format!("..removing-{}", self.moved)).unwrap_or_default();
            return match renameat(folder, name, self.top, &flat) {
                // The name is taken by a file of the pod's: the next number is not, one time.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => self.remove(folder, name, path, depth),
                other => other.map_err(|errno| failed(path, errno)),
            };
        }
        self.clear(inner.as_fd(), path, depth + 1)?;
        unlinkat(folder, name, AtFlags::REMOVEDIR).map_err(|errno| failed(path, errno))
    }
}

/// Some names in a folder; none if it is empty.
fn names(folder: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
            if names.len() == BATCH {
                break;
            }
        }
    }
    Ok(names)
}
