//! User namespaces that are kept alive by files, the namespaces that belong to them, and mounts that show files as their owners are in one.
//!
//! A process with several threads can neither make nor enter a user namespace. So a child does it, which does nothing else: it leaves
//! its user namespace for a new one, waits until its IDs are mapped, becomes root in it, and makes the others there. Whose they are
//! decides who may set sysctls in them, mount their sysfs, or open raw sockets.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, mount_bind, open_tree};

use crate::mount_attributes::set_id_mapping;
use crate::mounts::{MountError, Propagation};
use crate::namespaces::{self, Kind, NamespaceError};
use crate::views;

/// IDs of the host that a user namespace has, from `first` on: they are 0 and so on in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The host's ID of the namespace's root.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Makes a user namespace with these users and groups, pinned at `user`, and for each of `pins` a namespace that belongs to it. On an
/// error the pins made in this call are taken away again.
///
/// # Errors
/// What the kernel refuses.
pub fn create(user: &Path, ids: IdRange, pins: &[(Kind, &Path)]) -> Result<(), NamespaceError> {
    let refused = |source| NamespaceError::Make { kind: "user", source };
    let flags = pins.iter().fold(0, |flags, (kind, _)| flags | kind.flag().bits());
    let mut child = Child::start(flags).map_err(refused)?;
    child.expect_word().map_err(refused)?;
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{file}", child.pid);
        fs::write(path, format!("0 {} {}\n", ids.first, ids.count)).map_err(refused)?;
    }
    child.tell_word().and_then(|()| child.expect_word()).map_err(refused)?;
    let all: Vec<(&str, &Path)> = std::iter::once(("user", user)).chain(pins.iter().map(|(kind, path)| (kind.name(), *path))).collect();
    for (at, &(kind, path)) in all.iter().enumerate() {
        if let Err(source) = pin(child.pid, kind, path) {
            for (_, path) in &all[..=at] {
                let _ = namespaces::unpin(path);
            }
            return Err(NamespaceError::Pin { kind, path: path.into(), source });
        }
    }
    Ok(())
}

fn pin(process: Pid, kind: &str, path: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    mount_bind(format!("/proc/{process}/ns/{kind}"), path)?;
    Ok(())
}

/// The process that the namespaces are made in. Ends when it is dropped.
struct Child {
    pid: Pid,
    from: File,
    to: File,
}

impl Child {
    fn start(flags: libc::c_int) -> io::Result<Self> {
        let (from, says) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (hears, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let pid = fork_with(|| make_inside(flags, &says, &hears))?;
        Ok(Self { pid, from: from.into(), to: to.into() })
    }

    /// The child's next step is done; without a word, its error is told.
    fn expect_word(&mut self) -> io::Result<()> {
        let mut code = [0; 4];
        self.from.read_exact(&mut code)?;
        match i32::from_ne_bytes(code) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn tell_word(&mut self) -> io::Result<()> {
        self.to.write_all(&[0])
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The child's whole life. Only system calls: another thread may have held any lock when this process was made.
fn make_inside(flags: libc::c_int, says: &OwnedFd, hears: &OwnedFd) {
    let told = |done: Result<(), i32>| {
        let code = done.err().unwrap_or(0);
        write_to(says.as_raw_fd(), &code.to_ne_bytes()) && code == 0
    };
    if !told(unshare(libc::CLONE_NEWUSER)) || !read_byte(hears.as_raw_fd()) {
        return;
    }
    // What is made from here on belongs to the namespace's root.
    if told(become_root().and_then(|()| unshare(flags))) {
        read_byte(hears.as_raw_fd());
    }
}

#[allow(unsafe_code, reason = "fork: the child calls nothing but the system, and never returns")]
fn fork_with(child: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: `child` allocates nothing and takes no lock (see `make_inside`), and the process ends without any destructor.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                child();
                libc::_exit(0)
            }
            pid => Ok(Pid::from_raw(pid)),
        }
    }
}

#[allow(unsafe_code, reason = "the raw calls: libraries' wrappers may allocate, which a forked child must not")]
fn become_root() -> Result<(), i32> {
    // SAFETY: calls with numbers only.
    let refused = unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) != 0 || libc::syscall(libc::SYS_setresuid, 0, 0, 0) != 0 };
    if refused { Err(last_errno()) } else { Ok(()) }
}

#[allow(unsafe_code, reason = "as above")]
fn unshare(flags: libc::c_int) -> Result<(), i32> {
    // SAFETY: a call with a number only.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(last_errno()) }
}

#[allow(unsafe_code, reason = "as above")]
fn write_to(fd: RawFd, bytes: &[u8; 4]) -> bool {
    // SAFETY: the bytes outlive the call, and their length is passed.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) == 4 }
}

#[allow(unsafe_code, reason = "as above")]
fn read_byte(fd: RawFd) -> bool {
    let mut byte = 0u8;
    // SAFETY: there is room for the one byte that is asked for.
    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) == 1 }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Makes the calling thread root of the user namespace, as far as the kernel's files of sysctls look: those of an IPC namespace are
/// written by its owner's root only. Meant for inside [`namespaces::run_in`], whose thread ends afterwards.
///
/// # Errors
/// The system refuses.
pub fn act_as(ids: IdRange) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    let (user, group) = (Uid::from_raw(ids.first), Gid::from_raw(ids.first));
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Makes `source`, a folder or a file, visible at `target` with the owners that `user`, a pinned user namespace, maps its files to: what is
/// 0 on the disk is root there. Mounts below come along; those whose file systems cannot do it keep their owners. Later ones appear if
/// `propagation` says so; none goes back to the source, whatever it says. What was mounted at `target` before is replaced. `target` and its
/// folders are made.
///
/// # Errors
/// The system refuses: the file system cannot do it, for instance. Nothing is then mounted at `target`.
pub fn bind(source: &Path, target: &Path, user: &Path, propagation: Propagation) -> Result<(), MountError> {
    let mapping = File::open(user).map_err(|error| MountError::Bind { from: source.into(), target: target.into(), source: error })?;
    views::make(source, target, propagation, |tree| {
        set_id_mapping(tree, mapping.as_raw_fd(), true).or_else(|_| set_id_mapping(tree, mapping.as_raw_fd(), false))
    })
}

/// A file system in memory that every machine has.
const MEMORY: &str = "/dev/shm";

/// Tries in `folder` what pods with user namespaces need.
///
/// # Errors
/// In words: what this machine cannot do.
pub fn check(folder: &Path) -> Result<(), String> {
    match fs::read_to_string("/proc/sys/user/max_user_namespaces").map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(0)) => return Err("the machine allows no user namespaces: the sysctl user.max_user_namespaces is 0".to_owned()),
        Ok(_) => {}
        Err(_) => return Err("the kernel has no user namespaces".to_owned()),
    }
    let user = folder.join(format!(".user-namespace-check-{}", std::process::id()));
    let ids = IdRange { first: 1 << 16, count: 1 << 16 };
    let tried = (|| {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
        namespaces::unpin(&user).map_err(|error| error.to_string())?;
        create(&user, ids, &[]).map_err(|error| format!("no user namespace can be made: {error}"))?;
        try_mapping(folder, &user).map_err(|error| format!("mounts in {} cannot be ID-mapped: {error}", folder.display()))?;
        try_mapping(Path::new(MEMORY), &user)
            .map_err(|error| format!("file systems in memory cannot be ID-mapped (Linux 6.3 can): {error}"))
    })();
    let _ = namespaces::unpin(&user);
    tried
}

/// Maps a copy of the mount that `folder` is in, which is mounted nowhere.
fn try_mapping(folder: &Path, user: &Path) -> io::Result<()> {
    let mapping = File::open(user)?;
    let tree = open_tree(CWD, folder, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    Ok(set_id_mapping(tree.as_raw_fd(), mapping.as_raw_fd(), false)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, chown};

    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;
    use crate::mounts;

    const IDS: IdRange = IdRange { first: 0x30_0000, count: 1 << 16 };

    struct Folder(tempfile::TempDir);
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = mounts::unmount_below(self.0.path());
        }
    }

    fn capable(folder: &Folder) -> bool {
        kube_pet_testkit::capability::available("user namespaces and ID-mapped mounts", check(folder.0.path()).is_ok())
    }

    #[test]
    fn namespaces_belong_to_the_users_root_and_sysctls_are_its_own() {
        let dir = Folder(tempfile::tempdir().unwrap());
        if !capable(&dir) {
            return;
        }
        let path = |name| dir.0.path().join(name);
        let (user, net, ipc, uts) = (path("user"), path("net"), path("ipc"), path("uts"));
        let pins = [(Kind::Net, net.as_path()), (Kind::Ipc, ipc.as_path()), (Kind::Uts, uts.as_path())];
        create(&user, IDS, &pins).unwrap();
        assert!(namespaces::holds_namespace(&user));
        for (kind, path) in pins {
            assert!(namespaces::is_pinned(kind, path));
        }
        namespaces::run_in(&pins, || {
            namespaces::set_hostname("inside").unwrap();
            assert!(namespaces::write_sysctl("kernel.shm_rmid_forced", "1").is_err(), "the machine's root is not its owner");
            namespaces::write_sysctl("net.ipv4.ip_unprivileged_port_start", "80").unwrap();
            act_as(IDS).unwrap();
            namespaces::write_sysctl("kernel.shm_rmid_forced", "1").unwrap();
        })
        .unwrap();
        assert_eq!(fs::metadata("/proc/self").unwrap().uid(), 0, "only that thread");
        let refused = create(&path("none/user"), IDS, &[]).unwrap_err();
        assert!(matches!(refused, NamespaceError::Pin { kind: "user", .. }), "{refused}");
        let refused = create(&path("user2"), IdRange { first: u32::MAX, count: 2 }, &[]).unwrap_err();
        assert!(matches!(refused, NamespaceError::Make { kind: "user", .. }) && !path("user2").exists(), "{refused}");
    }

    #[test]
    fn files_are_seen_as_the_namespace_has_them() {
        let dir = Folder(tempfile::tempdir().unwrap());
        if !capable(&dir) {
            return;
        }
        let path = |name| dir.0.path().join(name);
        create(&path("user"), IDS, &[]).unwrap();
        fs::create_dir_all(path("s/inner")).unwrap();
        mounts::tmpfs(&path("s/inner"), None, 0o755, false).unwrap();
        for (file, owner) in [("s/root", 0), ("s/app", 1000), ("s/inner/f", 7)] {
            fs::write(path(file), "x").unwrap();
            chown(path(file), Some(owner), Some(owner)).unwrap();
        }
        bind(&path("s"), &path("views/t"), &path("user"), Propagation::Private).unwrap();
        let owner = |file| fs::metadata(path(file)).unwrap().uid() - IDS.first;
        assert_eq!([owner("views/t/root"), owner("views/t/app"), owner("views/t/inner/f")], [0, 1000, 7]);
        // Again, and of a file.
        bind(&path("s"), &path("views/t"), &path("user"), Propagation::Private).unwrap();
        bind(&path("s/app"), &path("views/f"), &path("user"), Propagation::Private).unwrap();
        assert_eq!(owner("views/f"), 1000);
        mounts::unmount_below(&path("views")).unwrap();
        assert!(mounts::is_mount_point(&path("s/inner")).unwrap(), "the source keeps what is mounted in it");
        let refused = bind(Path::new("/proc/sys"), &path("views/p"), &path("user"), Propagation::Private);
        assert!(refused.is_err() && !mounts::is_mount_point(&path("views/p")).unwrap());
    }

    /// As with systemd, where all mounts are shared, for an agent whose folder is another one's bind mount.
    #[test]
    fn a_view_takes_later_mounts_in_only_if_asked_to_and_leaves_nothing_at_a_peer() {
        let dir = Folder(tempfile::tempdir().unwrap());
        if !capable(&dir) {
            return;
        }
        let path = |name| dir.0.path().join(name);
        create(&path("user"), IDS, &[]).unwrap();
        fs::create_dir(path("a")).unwrap();
        fs::create_dir(path("b")).unwrap();
        mounts::tmpfs(&path("a"), None, 0o755, false).unwrap();
        mount_change(path("a"), MountPropagationFlags::SHARED).unwrap();
        fs::create_dir_all(path("a/s/later")).unwrap();
        mount_bind(path("a"), path("b")).unwrap();
        let is_mounted = |name| mounts::is_mount_point(&path(name)).unwrap();
        for propagation in [Propagation::HostToContainer, Propagation::Private] {
            bind(&path("b/s"), &path("views/t"), &path("user"), propagation).unwrap();
            bind(&path("b/s"), &path("b/t"), &path("user"), propagation).unwrap();
            mounts::tmpfs(&path("b/s/later"), None, 0o755, false).unwrap();
            for target in ["views/t/later", "b/t/later"] {
                assert_eq!(is_mounted(target), propagation == Propagation::HostToContainer, "{target}");
            }
            mounts::unmount_below(&path("views/t")).unwrap();
            mounts::unmount_below(&path("b/s/later")).unwrap();
            mounts::unmount_below(&path("b/t")).unwrap();
            for left in ["a/s/later", "a/t/later", "a/t"] {
                assert!(!is_mounted(left), "{propagation:?}: {left}");
            }
        }
        bind(&path("b/s"), &path("b/t"), &path("user"), Propagation::Private).unwrap();
        mounts::tmpfs(&path("b/s"), None, 0o755, false).unwrap();
        mounts::unmount_below(&path("b/t")).unwrap();
        assert!(!is_mounted("a/t"), "a view that had taken in what covers its source would have left that here");
    }
}
