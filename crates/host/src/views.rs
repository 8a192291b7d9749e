//! Views: a folder or file that is visible at a second place, in another way. `mount_setattr(2)` changes all of the tree at once, before it is
//! attached anywhere: by paths, mounts below would have to be found that a pod can exchange meanwhile.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree};

use crate::mount_attributes::set_propagation;
use crate::mounts::{self, MountError, Propagation};
use crate::subpath;

/// Makes `source` visible at `target`, with what is mounted below it now, after `change` was made to a copy of all these mounts. What is at
/// `target` already is replaced; `target` and its folders are made. Nothing is mounted at `target` after an error. Nothing propagates from a
/// view to its source.
pub(crate) fn make(
    source: &Path,
    target: &Path,
    propagation: Propagation,
    change: impl FnOnce(RawFd) -> Result<(), Errno>,
) -> Result<(), MountError> {
    let failed = |source_error: io::Error| MountError::Bind { from: source.into(), target: target.into(), source: source_error };
    mounts::unmount_below(target)?;
    let folder = fs::metadata(source).map_err(failed)?.is_dir();
    subpath::place(target, folder).map_err(failed)?;
    let mounted = (|| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, source, flags)?;
        let (early, late) = match propagation {
            Propagation::Private => (libc::MS_PRIVATE, MountPropagationFlags::PRIVATE),
            Propagation::HostToContainer | Propagation::Bidirectional => (libc::MS_SLAVE, MountPropagationFlags::DOWNSTREAM),
        };
        // Before it is attached: below a shared mount it is copied to that one's peers, and a copy that belonged to the source would take in
        // what is mounted there later, for good.
        set_propagation(tree.as_raw_fd(), early)?;
        change(tree.as_raw_fd())?;
        move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        // Below a shared mount it has become shared.
        mount_change(target, late | MountPropagationFlags::REC)
    })();
    mounted.map_err(|errno: Errno| {
        let _ = mounts::unmount_below(target);
        failed(errno.into())
    })
}
