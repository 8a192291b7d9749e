//! Bind mounts that are read-only with everything mounted below them (`recursiveReadOnly`).

use std::path::Path;

use rustix::io::Errno;

use crate::mount_attributes::set_read_only;
use crate::mounts::{MountError, Propagation};
use crate::views;

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
    views::make(source, target, Propagation::Private, set_read_only)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::mounts;

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
