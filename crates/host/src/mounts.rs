//! Mounts in the agent's mount namespace.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, statvfs, statx};
use rustix::io::Errno;
pub use rustix::mount::MountFlags;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount, unmount};

/// Why something could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A file system in memory could not be mounted.
    #[error("mounting a tmpfs at {target}: {source}")]
    Tmpfs {
        /// Where.
        target: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file system of huge pages could not be mounted.
    #[error("mounting huge pages of {page_size} bytes at {target}: {source}")]
    HugePages {
        /// Their size.
        page_size: u64,
        /// Where.
        target: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A bind mount, or its options, failed.
    #[error("binding {from} to {target}: {source}")]
    Bind {
        /// What.
        from: PathBuf,
        /// Where.
        target: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The propagation of a mount could not be changed.
    #[error("changing how mounts propagate at {target}: {source}")]
    Propagation {
        /// Where.
        target: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The mount stays.
    #[error("unmounting {target}: {source}")]
    Unmount {
        /// Where.
        target: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The state of a path, or the mount table, could not be read.
    #[error("reading the mounts at {target}: {source}")]
    Inspect {
        /// The path asked for.
        target: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// How mounts made later below one side of a bind mount appear on the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all (`None` in a pod's spec).
    #[default]
    Private,
    /// From the host to the mount (`HostToContainer`).
    HostToContainer,
    /// Both ways (`Bidirectional`).
    Bidirectional,
}

/// Options of [`bind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindOptions {
    /// Writing through this mount is refused (mounts below it are not affected).
    pub read_only: bool,
    /// Mounts below the source come along.
    pub recursive: bool,
    /// How later mounts appear.
    pub propagation: Propagation,
    /// What else this mount has: see [`mount_flag`].
    pub flags: MountFlags,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self { read_only: false, recursive: false, propagation: Propagation::Private, flags: MountFlags::empty() }
    }
}

/// The flag of an option of mount(8) that a single mount can have, whatever its file system; `None` for all others. `ro` is
/// [`BindOptions::read_only`].
pub fn mount_flag(option: &str) -> Option<MountFlags> {
    Some(match option {
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        _ => return None,
    })
}

/// Mounts a file system in memory at the folder `target`, its root with `mode`, with at most `size` bytes (without: half of
/// the memory). No set-user-ID programs, no devices; `executable` decides about programs.
pub fn tmpfs(target: &Path, size: Option<u64>, mode: u32, executable: bool) -> Result<(), MountError> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if !executable {
        flags |= MountFlags::NOEXEC;
    }
    let options = CString::new(options).unwrap_or_default();
    mount("tmpfs", target, "tmpfs", flags, options.as_c_str())
        .map_err(|errno| MountError::Tmpfs { target: target.into(), source: errno.into() })
}

/// Mounts a file system whose files are huge pages of `page_size` bytes at the folder `target`, its root with `mode`.
pub fn huge_pages(target: &Path, page_size: u64, mode: u32) -> Result<(), MountError> {
    let options = CString::new(format!("pagesize={page_size},mode={mode:o}")).unwrap_or_default();
    mount("nodev", target, "hugetlbfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).map_err(|errno| MountError::HugePages {
        page_size,
        target: target.into(),
        source: errno.into(),
    })
}

/// Makes `source` visible at `target`; both exist, and are both folders or both not.
pub fn bind(source: &Path, target: &Path, options: BindOptions) -> Result<(), MountError> {
    let failed = |errno: Errno| MountError::Bind { from: source.into(), target: target.into(), source: errno.into() };
    let bound = if options.recursive { mount_bind_recursive(source, target) } else { mount_bind(source, target) };
    bound.map_err(failed)?;
    let finished = (|| {
        let mut wanted = options.flags;
        wanted.set(MountFlags::RDONLY, options.read_only);
        if !wanted.is_empty() {
            // A remount states all flags: those that the source has must not get lost (and may be locked).
            mount_remount(target, kept_flags(target)? | MountFlags::BIND | wanted, c"")?;
        }
        let mut change = match options.propagation {
            Propagation::Private => MountPropagationFlags::PRIVATE,
            Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
            Propagation::Bidirectional => MountPropagationFlags::SHARED,
        };
        if options.recursive {
            change |= MountPropagationFlags::REC;
        }
        mount_change(target, change)
    })();
    finished.map_err(|errno| {
        let _ = unmount(target, UnmountFlags::DETACH);
        failed(errno)
    })
}

fn kept_flags(target: &Path) -> Result<MountFlags, Errno> {
    let now = statvfs(target)?.f_flag;
    let mut flags = MountFlags::empty();
    for (has, keep) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if now.contains(has) {
            flags |= keep;
        }
    }
    Ok(flags)
}

/// Unmounts everything that is mounted at exactly `target`; fine if nothing is, or if there is no such path. A mount that is
/// in use disappears from the tree now, and is freed when its last user is gone.
pub fn unmount_all(target: &Path) -> Result<(), MountError> {
    // Bounded: something else could be mounting there again and again.
    for _ in 0..64 {
        let flags = UnmountFlags::NOFOLLOW;
        let done = match unmount(target, flags) {
            Err(Errno::BUSY) => {
                if let Some(real) = real_place(target) {
                    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
                    part_from_peers(&real, &mount_points(&table).collect::<Vec<_>>());
                }
                unmount(target, flags | UnmountFlags::DETACH)
            }
            other => other,
        };
        match done {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => {
                return Err(MountError::Unmount { target: target.into(), source: errno.into() });
            }
        }
    }
    Err(MountError::Unmount { target: target.into(), source: Errno::BUSY.into() })
}

/// Unmounts all that is mounted at or below `folder`, the deepest first. Goes on after an error and reports the first.
pub fn unmount_below(folder: &Path) -> Result<(), MountError> {
    each_below(folder, unmount_all)
}

/// Takes away all that is mounted at or below `folder` and does not go: calls that wait for its server end with an error, and data that the
/// server has not taken yet is lost (`MNT_FORCE`). Goes on after an error and reports the first.
pub fn abort_below(folder: &Path) -> Result<(), MountError> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE;
    each_below(folder, |target| {
        unmount(target, flags).map_err(|errno| MountError::Unmount { target: target.to_owned(), source: errno.into() })
    })
}

/// Does something to all mounts at or below `folder`, the deepest first.
fn each_below(folder: &Path, work: impl Fn(&Path) -> Result<(), MountError>) -> Result<(), MountError> {
    let mut first = Ok(());
    let targets = below(folder)?;
    for target in &targets {
        part_from_peers(target, &targets);
    }
    for target in targets.iter().rev() {
        let done = work(target);
        if first.is_ok() {
            first = done;
        }
    }
    first
}

/// Before mounts inside `target`, a real path, are unmounted: where it is a recursive bind of a shared mount, as `/` is with systemd, they are
/// peers of the mounts at its source, which would be unmounted with them. `points` are mount points. Without any inside, nothing is touched:
/// `target` may be a file system that does not answer.
fn part_from_peers(target: &Path, points: &[PathBuf]) {
    if points.iter().any(|point| point.starts_with(target) && point != target) {
        let _ = mount_change(target, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC);
    }
}

/// All mount points at or below `folder`, a mount before those inside it.
pub fn below(folder: &Path) -> Result<Vec<PathBuf>, MountError> {
    let failed = |source| MountError::Inspect { target: folder.into(), source };
    // Mount points are listed by their real path.
    let real = match fs::canonicalize(folder) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let table = fs::read("/proc/self/mountinfo").map_err(failed)?;
    let mut points: Vec<PathBuf> = mount_points(&table).filter(|point| point.starts_with(&real)).collect();
    points.sort();
    points.dedup();
    Ok(points)
}

/// The mount points of a `mountinfo` table, in its order.
pub(crate) fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Undoes the kernel's `\ooo` for blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'\\'
            && let Some(code) = tail.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())
        {
            out.push(code);
            rest = &tail[3..];
        } else {
            out.push(byte);
        }
    }
    out
}

/// Whether something is mounted at exactly `target` (`false` if there is no such path). Does not follow a link.
pub fn is_mount_point(target: &Path) -> Result<bool, MountError> {
    let failed = |source| MountError::Inspect { target: target.into(), source };
    match statx(CWD, target, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty()) {
        // The kernel tells since 5.8.
        Ok(status) if status.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Ok(_) => {
            let real = fs::canonicalize(target).map_err(failed)?;
            let table = fs::read("/proc/self/mountinfo").map_err(failed)?;
            Ok(mount_points(&table).any(|point| point == real))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The real path of a mount point, without a look at what is mounted there.
fn real_place(target: &Path) -> Option<PathBuf> {
    Some(fs::canonicalize(target.parent()?).ok()?.join(target.file_name()?))
}

/// Whether the mount table has something at exactly `target` (`false` if its folder is not there). What is mounted is not touched: it may be
/// a file system that does not answer.
pub fn is_listed(target: &Path) -> Result<bool, MountError> {
    let failed = |source| MountError::Inspect { target: target.into(), source };
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else { return Ok(true) };
    let real = match fs::canonicalize(folder) {
        Ok(real) => real.join(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let table = fs::read("/proc/self/mountinfo").map_err(failed)?;
    Ok(mount_points(&table).any(|point| point == real))
}

/// Makes `folder` a mount point (if it is none yet) whose mounts propagate to other mount namespaces and back: needed where
/// `/` itself is private and pods ask for mount propagation.
pub fn make_shared(folder: &Path) -> Result<(), MountError> {
    let failed = |errno: Errno| MountError::Propagation { target: folder.into(), source: errno.into() };
    if !is_mount_point(folder)? {
        mount_bind_recursive(folder, folder).map_err(failed)?;
    }
    mount_change(folder, MountPropagationFlags::SHARED).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unmounts what a test leaves behind, also if it fails.
    struct Folder(tempfile::TempDir);
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = unmount_below(self.0.path());
        }
    }
    fn folder() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    #[test]
    fn escaped_mount_points_are_read() {
        let table = b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 - ext3 /dev/root rw\n\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), [PathBuf::from("/mnt 2\\x")]);
        assert_eq!(unescape(b"a\\"), b"a\\");
    }

    #[test]
    fn a_tmpfs_has_its_size_and_mode() {
        let dir = folder();
        let target = dir.0.path().join("with blank");
        fs::create_dir(&target).unwrap();
        assert!(!is_mount_point(&target).unwrap());
        tmpfs(&target, Some(1 << 20), 0o1777, false).unwrap();
        assert!(is_mount_point(&target).unwrap());
        assert_eq!(below(dir.0.path()).unwrap(), [fs::canonicalize(&target).unwrap()]);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert!(fs::write(target.join("big"), vec![1u8; 2 << 20]).is_err());
        unmount_all(&target).unwrap();
        unmount_all(&target).unwrap();
        unmount_all(&dir.0.path().join("never was")).unwrap();
        assert!(!is_mount_point(&target).unwrap());
    }

    #[test]
    fn a_read_only_bind_refuses_writes_only_through_itself() {
        let dir = folder();
        let (source, target) = (dir.0.path().join("s"), dir.0.path().join("t"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        bind(&source, &target, BindOptions { read_only: true, ..BindOptions::default() }).unwrap();
        assert!(fs::write(target.join("f"), "x").is_err());
        fs::write(source.join("f"), "x").unwrap();
        assert_eq!(fs::read(target.join("f")).unwrap(), b"x");
    }

    #[test]
    fn a_bind_has_the_flags_that_it_is_given_and_is_in_the_table() {
        let dir = folder();
        let (source, target) = (dir.0.path().join("s"), dir.0.path().join("t"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        assert!(!is_listed(&target).unwrap() && !is_listed(&dir.0.path().join("none/t")).unwrap());
        let flags = mount_flag("noatime").unwrap() | mount_flag("noexec").unwrap();
        bind(&source, &target, BindOptions { flags, ..BindOptions::default() }).unwrap();
        assert!(is_listed(&target).unwrap() && !is_listed(&source).unwrap());
        let has = statvfs(&target).unwrap().f_flag;
        assert!(has.contains(StatVfsMountFlags::NOATIME | StatVfsMountFlags::NOEXEC) && !has.contains(StatVfsMountFlags::RDONLY));
        assert_eq!((mount_flag("ro"), mount_flag("nfsvers=4")), (None, None));
        abort_below(dir.0.path()).unwrap();
        assert!(!is_listed(&target).unwrap());
    }

    #[test]
    fn a_busy_mount_goes_away_at_once() {
        let dir = folder();
        let target = dir.0.path().join("t");
        fs::create_dir(&target).unwrap();
        tmpfs(&target, None, 0o755, true).unwrap();
        tmpfs(&target, None, 0o755, true).unwrap();
        let open = fs::File::create(target.join("open")).unwrap();
        unmount_all(&target).unwrap();
        assert!(!is_mount_point(&target).unwrap());
        drop(open);
    }

    /// As with a hostPath on a machine with systemd: everything is shared.
    #[test]
    fn mounts_inside_of_what_was_bound_stay_at_their_source() {
        let dir = folder();
        let (source, inner) = (dir.0.path().join("source"), dir.0.path().join("source/inner"));
        fs::create_dir(&source).unwrap();
        make_shared(&source).unwrap();
        fs::create_dir(&inner).unwrap();
        tmpfs(&inner, None, 0o755, false).unwrap();
        fs::write(inner.join("precious"), "x").unwrap();
        let pod = dir.0.path().join("pod");
        for whole in [false, true] {
            fs::create_dir_all(pod.join("bound")).unwrap();
            mount_bind_recursive(&source, pod.join("bound")).unwrap();
            assert!(pod.join("bound/inner/precious").exists());
            if whole {
                unmount_all(&pod.join("bound")).unwrap()
            } else {
                unmount_below(&pod).unwrap()
            }
            assert!(below(&pod).unwrap().is_empty());
            assert!(inner.join("precious").exists(), "unmounted at its source, too");
        }
    }

    #[test]
    fn a_shared_folder_propagates_and_nested_mounts_unmount_in_order() {
        let dir = folder();
        let shared = dir.0.path().join("shared");
        fs::create_dir(&shared).unwrap();
        make_shared(&shared).unwrap();
        make_shared(&shared).unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(&format!(" {} ", shared.display()))).unwrap();
        assert!(line.contains(" shared:"), "{line}");
        fs::create_dir(shared.join("inner")).unwrap();
        tmpfs(&shared.join("inner"), None, 0o755, false).unwrap();
        assert_eq!(below(&shared).unwrap().len(), 2);
        unmount_below(&shared).unwrap();
        assert!(below(&shared).unwrap().is_empty());
    }
}
