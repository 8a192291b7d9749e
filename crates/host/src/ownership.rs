//! Giving a volume to a pod's `fsGroup`, by the rules of Kubernetes' `pkg/volume/volume_linux.go`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, chmod, chownat, fstat, openat};
use rustix::io::Errno;

const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
const EXECUTE: u32 = 0o110;
const SET_GID: u32 = 0o2000;

/// Why a volume was not given to its group.
#[derive(Debug, thiserror::Error)]
#[error("giving {path} to group {group}: {source}")]
pub struct OwnershipError {
    /// The file or folder.
    pub path: PathBuf,
    /// The group.
    pub group: u32,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Whether the root of the volume already belongs to the group with the rights needed: with the policy `OnRootMismatch`,
/// nothing is changed then. A volume that cannot be read, or is no folder, does not.
pub fn root_matches(volume: &Path, group: u32, read_only: bool) -> bool {
    let Ok(status) = rustix::fs::stat(volume) else {
        return false;
    };
    let needed = EXECUTE | SET_GID | if read_only { READ_ONLY } else { READ_WRITE };
    FileType::from_raw_mode(status.st_mode).is_dir() && status.st_gid == group && status.st_mode & needed == needed
}

/// Gives `volume` and all below it to `group`, with read (and write) access, folders passed on to new files. Links are
/// neither followed nor is what they lead to changed, also if somebody exchanges files meanwhile. Like the kubelet, goes on
/// where the system refuses single files; the first refusal is reported at the end.
pub fn give_to_group(volume: &Path, group: u32, read_only: bool) -> Result<(), OwnershipError> {
    let mut first = Ok(());
    let failed = |path: &Path, errno: Errno| OwnershipError { path: path.into(), group, source: errno.into() };
    let root = openat(CWD, volume, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(volume, e))?;
    visit(&root, volume, read_only, group, &mut |path, errno| {
        if first.is_ok() {
            first = Err(failed(path, errno));
        }
    });
    first
}

/// Children before their folder: while the root does not match, the work is not done.
fn visit(node: &OwnedFd, path: &Path, read_only: bool, group: u32, refused: &mut dyn FnMut(&Path, Errno)) {
    let status = match fstat(node) {
        Ok(status) => status,
        Err(errno) => return refused(path, errno),
    };
    let kind = FileType::from_raw_mode(status.st_mode);
    if kind.is_dir() {
        match openat(node, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(Dir::new) {
            Ok(mut entries) => {
                let mut names = Vec::new();
                while let Some(entry) = entries.read() {
                    match entry {
                        Ok(entry) if entry.file_name() == c"." || entry.file_name() == c".." => {}
                        Ok(entry) => names.push(entry.file_name().to_owned()),
                        Err(errno) => refused(path, errno),
                    }
                }
                drop(entries);
                for name in names {
                    let child = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
                    match openat(node, name.as_c_str(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                        Ok(fd) => visit(&fd, &child, read_only, group, refused),
                        // Removed meanwhile.
                        Err(Errno::NOENT) => {}
                        Err(errno) => refused(&child, errno),
                    }
                }
            }
            Err(errno) => refused(path, errno),
        }
    }
    if let Err(errno) = change(node, &status, kind, read_only, group) {
        refused(path, errno);
    }
}

fn change(node: &OwnedFd, status: &Stat, kind: FileType, read_only: bool, group: u32) -> Result<(), Errno> {
    chownat(node, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    if kind.is_symlink() {
        return Ok(());
    }
    let mut add = if read_only { READ_ONLY } else { READ_WRITE };
    if kind.is_dir() {
        add |= EXECUTE | SET_GID;
    }
    // A descriptor of O_PATH refuses fchmod, the link of it in /proc does not, and it cannot lead elsewhere.
    chmod(format!("/proc/thread-self/fd/{}", node.as_raw_fd()), Mode::from_raw_mode((status.st_mode & 0o7777) | add))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> (u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
    }
    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_and_folders_get_group_and_rights_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        fs::write(&victim, "").unwrap();
        set(&victim, 0o600);
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path();
        fs::create_dir(volume.join("sub")).unwrap();
        fs::write(volume.join("sub/f"), "").unwrap();
        set(&volume.join("sub/f"), 0o4701);
        set(&volume.join("sub"), 0o700);
        symlink(&victim, volume.join("link")).unwrap();
        symlink(outside.path(), volume.join("sub/folder-link")).unwrap();
        assert!(!root_matches(volume, 4321, false));
        give_to_group(volume, 4321, false).unwrap();
        assert_eq!(mode(&volume.join("sub")), (4321, 0o2770));
        // Changing the group clears set-user-ID; the kubelet sets the mode it saw before, and so do we.
        assert_eq!(mode(&volume.join("sub/f")), (4321, 0o4761));
        assert_eq!(mode(&volume.join("link")).0, 4321);
        assert_eq!(mode(&victim), (0, 0o600));
        assert!(root_matches(volume, 4321, false));
        assert!(!root_matches(volume, 4322, false));
        set(volume, 0o770);
        assert!(!root_matches(volume, 4321, false), "new files would not get the group");
    }

    #[test]
    fn read_only_volumes_get_no_write_access() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        set(&dir.path().join("f"), 0o400);
        set(dir.path(), 0o700);
        give_to_group(dir.path(), 4321, true).unwrap();
        assert_eq!(mode(&dir.path().join("f")), (4321, 0o440));
        assert_eq!(mode(dir.path()), (4321, 0o2750));
        assert!(root_matches(dir.path(), 4321, true));
        assert!(!root_matches(dir.path(), 4321, false));
    }

    #[test]
    fn a_volume_that_is_not_there_is_an_error() {
        assert!(give_to_group(Path::new("/nonexistent/volume"), 1, false).is_err());
        assert!(!root_matches(Path::new("/nonexistent/volume"), 1, false));
    }
}
