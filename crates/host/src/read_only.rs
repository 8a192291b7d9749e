//! Bind mounts that are read-only with everything mounted below them (`recursiveReadOnly`).
//!
//! A remount changes one mount only, and those below, which a pod may have made, would have to be found by paths that the pod can exchange
//! meanwhile. `mount_setattr` changes all of a tree at once, before it is attached anywhere.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree};

use crate::mount_attributes::set_read_only;
use crate::mounts::{self, MountError};
use crate::subpath;

/// Whether the kernel can do it: since 5.12.
pub fn is_supported() -> bool {
    // No such descriptor, if there is such a call.
    set_read_only(-1) == Err(Errno::BADF)
}

/// Makes `source`, a folder or a file, visible at `target`, read-only with everything that is mounted below it now; mounts that are made
/// there later do not appear. What [`bind`] mounted at `target` before is replaced. `target` and its folders are made.
///
/// # Errors
/// The system refuses. Nothing is then mounted at `target`.
pub fn bind(source: &Path, target: &Path) -> Result<(), MountError> {
    let failed = |source_error: io::Error| MountError::Bind { from: source.into(), target: target.into(), source: source_error };
    mounts::unmount_below(target)?;
    let folder = fs::metadata(source).map_err(failed)?.is_dir();
    subpath::place(target, folder).map_err(failed)?;
    let mounted = (|| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, source, flags)?;
        set_read_only(tree.as_raw_fd())?;
        move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        // Below a shared mount it has become shared.
        mount_change(target, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
    })();
    mounted.map_err(|errno: Errno| {
        let _ = mounts::unmount_below(target);
        failed(errno.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = mounts::unmount_below(self.0.path());
        }
    }

    #[test]
    fn mounts_below_are_read_only_too_and_later_ones_do_not_appear() {
        if !kube_pet_testkit::capability::available("mount_setattr(2)", is_supported()) {
            return;
        }
        let dir = Folder(tempfile::tempdir().unwrap());
        let (source, target) = (dir.0.path().join("s"), dir.0.path().join("views/t"));
        fs::create_dir_all(source.join("inner")).unwrap();
        fs::create_dir_all(source.join("later")).unwrap();
        mounts::tmpfs(&source.join("inner"), None, 0o777, true).unwrap();
        fs::write(source.join("inner/f"), "x").unwrap();
        bind(&source, &target).unwrap();
        let refused = |path: &str| fs::write(target.join(path), "y").unwrap_err().raw_os_error() == Some(libc::EROFS);
        assert_eq!(fs::read_to_string(target.join("inner/f")).unwrap(), "x");
        assert!(refused("g") && refused("inner/g"));
        fs::write(source.join("inner/g"), "through the source").unwrap();
        mounts::tmpfs(&source.join("later"), None, 0o777, true).unwrap();
        assert!(!mounts::is_mount_point(&target.join("later")).unwrap());
        // Once more: what is mounted now.
        bind(&source, &target).unwrap();
        assert!(refused("later/g") && refused("inner/g"));
        let file = dir.0.path().join("views/file");
        bind(&source.join("inner/f"), &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
        assert!(fs::write(&file, "y").is_err() && bind(&source.join("none"), &file).is_err());
        mounts::unmount_below(&dir.0.path().join("views")).unwrap();
        fs::write(source.join("inner/g"), "still writable").unwrap();
    }
}
