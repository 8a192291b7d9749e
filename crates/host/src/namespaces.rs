//! Namespaces that are kept alive by files instead of processes.
//!
//! A thread of our own leaves its network, IPC or UTS namespace for a new one (these three need no fork), binds
//! `/proc/thread-self/ns/…` to a file and ends: from then on the file alone holds the namespace.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::statfs;
use rustix::mount::mount_bind;

use crate::mounts::{self, MountError};

mod sysctls;

pub use sysctls::{SysctlScope, sysctl_path, sysctl_scope, write_sysctl};

/// `NSFS_MAGIC`: the file system of the files in `/proc/PID/ns`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Why a namespace could not be made, entered or given up.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The kernel made no new namespace.
    #[error("making a new {kind} namespace: {source}")]
    Make {
        /// Of which kind.
        kind: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file that should hold the namespace could not be made or bound.
    #[error("pinning a {kind} namespace at {path}: {source}")]
    Pin {
        /// Of which kind.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file cannot be removed.
    #[error("removing the pinned namespace {path}: {source}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The pin cannot be unmounted.
    #[error(transparent)]
    Unmount(#[from] MountError),
    /// The namespace could not be entered: no namespace, or one of another kind.
    #[error("entering the {kind} namespace {path}: {source}")]
    Enter {
        /// Of which kind.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The host name or domain name was refused.
    #[error("setting the {what} {value:?}: {source}")]
    Name {
        /// `host name` or `domain name`.
        what: &'static str,
        /// What should be set.
        value: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A sysctl that belongs to no namespace, or is no name of one.
    #[error("sysctl {name:?} cannot be set for a pod: it is not part of a network or IPC namespace")]
    SysctlNotNamespaced {
        /// Its name.
        name: String,
    },
    /// The kernel refused a sysctl, or does not have it.
    #[error("setting sysctl {name} to {value:?}: {source}")]
    Sysctl {
        /// Its name.
        name: String,
        /// The value.
        value: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No thread could be started, or it died.
    #[error("no thread to change namespaces in: {source}")]
    Thread {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The kinds of namespaces that can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
}

impl Kind {
    /// The name that the kernel uses in `/proc/PID/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }
    pub(crate) fn flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// Makes a new namespace for each pin, all in one thread; `inside` runs there first, then each is bound to its file. So a file
/// that holds a namespace holds one in which `inside` has succeeded, also if the agent is killed meanwhile. Files are made if
/// missing; on an error the pins made in this call are taken away again.
pub fn create<T: Send>(pins: &[(Kind, &Path)], inside: impl FnOnce() -> Result<T, NamespaceError> + Send) -> Result<T, NamespaceError> {
    in_thread(|| {
        for (kind, _) in pins {
            unshare(kind.flag()).map_err(|errno| NamespaceError::Make { kind: kind.name(), source: errno.into() })?;
        }
        let value = inside()?;
        for (at, &(kind, path)) in pins.iter().enumerate() {
            if let Err(error) = pin(kind, path) {
                for (_, path) in &pins[..=at] {
                    let _ = unpin(path);
                }
                return Err(error);
            }
        }
        Ok(value)
    })
}

fn pin(kind: Kind, path: &Path) -> Result<(), NamespaceError> {
    let failed = |source| NamespaceError::Pin { kind: kind.name(), path: path.into(), source };
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    let bound = mount_bind(format!("/proc/thread-self/ns/{}", kind.name()), path);
    bound.map_err(|errno| failed(errno.into()))
}

/// Whether `path` holds a living namespace of this kind. A plain file (left over from before a reboot) does not.
pub fn is_pinned(kind: Kind, path: &Path) -> bool {
    // The kernel refuses to enter a namespace as one of another kind. Nothing runs inside, so this changes nothing.
    holds_namespace(path) && run_in(&[(kind, path)], || ()).is_ok()
}

/// Whether anything is bound to `path` that is a namespace, whatever its kind.
pub fn holds_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| u64::try_from(status.f_type).is_ok_and(|magic| magic == NSFS_MAGIC))
}

/// The number that tells two namespaces apart.
pub fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// Lets go of a namespace and removes its file; fine if there is none. Processes that are still inside keep it alive.
pub fn unpin(path: &Path) -> Result<(), NamespaceError> {
    mounts::unmount_all(path)?;
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NamespaceError::Remove { path: path.into(), source }),
        _ => Ok(()),
    }
}

/// Runs `inside` in a thread of its own that has entered these namespaces. Sockets made there stay in the namespace.
pub fn run_in<T: Send>(pins: &[(Kind, &Path)], inside: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    in_thread(|| {
        for &(kind, path) in pins {
            let failed = |source| NamespaceError::Enter { kind: kind.name(), path: path.into(), source };
            let file = fs::File::open(path).map_err(failed)?;
            setns(file.as_fd(), kind.flag()).map_err(|errno| failed(errno.into()))?;
        }
        Ok(inside())
    })
}

/// [`run_in`] one network namespace.
pub fn run_in_netns<T: Send>(netns: &Path, inside: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    run_in(&[(Kind::Net, netns)], inside)
}

/// The namespace is the thread's, so the thread ends with the work and is never handed back to a pool.
fn in_thread<T: Send>(work: impl FnOnce() -> Result<T, NamespaceError> + Send) -> Result<T, NamespaceError> {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name("namespace".into()).stack_size(256 << 10).spawn_scoped(scope, work);
        match handle.map_err(|source| NamespaceError::Thread { source })?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Sets the host name of the calling thread's UTS namespace: meant for inside [`create`] or [`run_in`].
pub fn set_hostname(value: &str) -> Result<(), NamespaceError> {
    rustix::system::sethostname(value.as_bytes()).map_err(|errno| NamespaceError::Name {
        what: "host name",
        value: value.into(),
        source: errno.into(),
    })
}

/// Sets the (NIS) domain name of the calling thread's UTS namespace: meant for inside [`create`] or [`run_in`].
pub fn set_domainname(value: &str) -> Result<(), NamespaceError> {
    rustix::system::setdomainname(value.as_bytes()).map_err(|errno| NamespaceError::Name {
        what: "domain name",
        value: value.into(),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests;
