//! Whole files: replaced atomically, read with a limit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The temporary file beside the target could not be written, or not renamed over it.
    #[error("writing {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file could not be opened or read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What was written to a file system could not be brought to its disk.
    #[error("flushing the file system of {path}: {source}")]
    Flush {
        /// A file or folder on it.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file is larger than the caller accepts.
    #[error("reading {path}: larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes that the caller accepts.
        limit: u64,
    },
}

impl FileError {
    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } | Self::Flush { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::TooLarge { .. } => false,
        }
    }
}

/// Replaces `path` by `bytes` with exactly `mode`: readers see the old or the new content, never a part. Not flushed to the
/// disk: after a power cut the old content, the new one or none may be there.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    replace(path, bytes, mode, false).map_err(|source| FileError::Write { path: path.into(), source })
}

/// As [`write_atomic`], and on the disk when it returns.
pub fn write_durable(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    replace(path, bytes, mode, true).map_err(|source| FileError::Write { path: path.into(), source })
}

/// Everything that was written to the file system of `path` until now is on its disk when this returns. Blocks for as long as that takes.
pub fn flush_file_system(path: &Path) -> Result<(), FileError> {
    let flushed = File::open(path).and_then(|file| Ok(rustix::fs::syncfs(file)?));
    flushed.map_err(|source| FileError::Flush { path: path.into(), source })
}

fn replace(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{}.{}-{number}.tmp", name.display(), std::process::id()));
    let written = (|| {
        // A crashed agent of the same PID may have left the name behind.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The whole file, or an error if it has more than `limit` bytes (a corrupt or hostile file must not fill the memory).
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| FileError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge { path: path.into(), limit });
    }
    Ok(bytes)
}

/// The regular file at `path` within the folder `root`, which others may be changing: links are followed as if `root` were the root of the
/// file system, so that none leads out of it. `None` if there is no such file.
///
/// # Errors
/// It cannot be read, is no regular file, or has more than `limit` bytes.
pub fn read_within(root: &Path, path: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let full = root.join(path.trim_start_matches('/'));
    let failed = |source: io::Error| FileError::Read { path: full.clone(), source };
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    // Without O_NONBLOCK a named pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&folder, path, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let read = || {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge { path: full, limit });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        write_atomic(&path, b"old, and longer", 0o644).unwrap();
        write_durable(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("folder/x"), "").unwrap();
        assert!(write_atomic(&dir.path().join("folder"), b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        assert!(matches!(read_limited(&path, 4), Err(FileError::TooLarge { limit: 4, .. })));
        assert!(read_limited(&dir.path().join("none"), 4).unwrap_err().is_not_found());
    }

    #[test]
    fn a_file_within_a_folder_is_read_and_no_link_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("in")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(root.join("in/f"), "inside").unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link("../secret", "up");
        link(dir.path().join("secret").to_str().unwrap(), "out");
        link("/in/f", "absolute");
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let read = |path: &str| read_within(&root, path, 6);
        assert_eq!(read("in/f").unwrap().unwrap(), b"inside");
        assert_eq!(read("absolute").unwrap().unwrap(), b"inside", "as the pod sees it");
        for gone in ["none", "in/f/x", "up", "out", "../secret"] {
            assert_eq!(read(gone).unwrap(), None, "{gone}");
        }
        assert!(matches!(read("pipe"), Err(FileError::Read { .. })) && matches!(read("in"), Err(FileError::Read { .. })));
        assert!(matches!(read_within(&root, "in/f", 5), Err(FileError::TooLarge { limit: 5, .. })));
    }
}
