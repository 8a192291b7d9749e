//! `mount_setattr(2)`: changes a mount, or a tree of them, before it is attached anywhere.

use std::io;
use std::os::fd::RawFd;

use rustix::io::Errno;

/// `MOUNT_ATTR_RDONLY`
const RDONLY: u64 = 1;
/// `MOUNT_ATTR_IDMAP`
const ID_MAP: u64 = 0x10_0000;
/// `AT_RECURSIVE`
const RECURSIVE: libc::c_int = 0x8000;

/// The kernel's `struct mount_attr`.
#[derive(Default)]
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes all mounts of a tree read-only.
pub(crate) fn set_read_only(tree: RawFd) -> Result<(), Errno> {
    set(tree, true, &MountAttr { attr_set: RDONLY, ..MountAttr::default() })
}

/// Says whether what is mounted elsewhere propagates to the mounts of a tree (`MS_PRIVATE`, `MS_SLAVE`).
pub(crate) fn set_propagation(tree: RawFd, propagation: u64) -> Result<(), Errno> {
    set(tree, true, &MountAttr { propagation, ..MountAttr::default() })
}

/// Shows the owners of a mount's files as those that the user namespace maps them to; with `whole_tree`, of all mounts below as well.
pub(crate) fn set_id_mapping(tree: RawFd, user_namespace: RawFd, whole_tree: bool) -> Result<(), Errno> {
    let userns_fd = u64::try_from(user_namespace).map_err(|_| Errno::BADF)?;
    set(tree, whole_tree, &MountAttr { attr_set: ID_MAP, userns_fd, ..MountAttr::default() })
}

#[allow(unsafe_code, reason = "no library has this system call")]
fn set(tree: RawFd, whole_tree: bool, attributes: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if whole_tree { RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the attributes have the layout and the size that are passed, and both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, tree, c"".as_ptr(), flags, &raw const *attributes, size_of::<MountAttr>()) };
    if done == 0 { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}
