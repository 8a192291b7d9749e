//! Sysctls of network and IPC namespaces.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use super::NamespaceError;

/// The kind of namespace that a sysctl belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlScope {
    /// Set in the pod's network namespace.
    Net,
    /// Set in the pod's IPC namespace.
    Ipc,
    /// Set in the pod's UTS namespace.
    Uts,
}

/// The namespace that a sysctl belongs to; `None` for those of the whole machine.
/// The list of Kubernetes' `component-helpers/node/util/sysctl/namespace.go`.
pub fn sysctl_scope(name: &str) -> Option<SysctlScope> {
    const IPC: [&str; 8] = [
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
    ];
    let path = sysctl_path(name)?;
    let relative = path.strip_prefix("/proc/sys").ok()?.to_str()?;
    if IPC.contains(&relative) || relative.starts_with("fs/mqueue/") {
        Some(SysctlScope::Ipc)
    } else if relative.starts_with("net/") {
        Some(SysctlScope::Net)
    } else if relative == "kernel/domainname" {
        Some(SysctlScope::Uts)
    } else {
        None
    }
}

/// The file of a sysctl, written with dots or with slashes (whichever comes first separates; the other one stands for the
/// other then: `net.ipv4.conf.eth0/1.forwarding`). `None` if it is no name of one.
pub fn sysctl_path(name: &str) -> Option<PathBuf> {
    let relative: String = match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some(".") => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        Some(_) => name.to_owned(),
        None => return None,
    };
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-@:".contains(c))
    };
    relative.split('/').all(plain).then(|| PathBuf::from("/proc/sys").join(relative))
}

/// Sets a sysctl in the calling thread's namespaces: which values `/proc/sys` shows is decided by the namespaces of the
/// thread that opens the file.
pub fn write_sysctl(name: &str, value: &str) -> Result<(), NamespaceError> {
    if sysctl_scope(name).is_none() {
        return Err(NamespaceError::SysctlNotNamespaced { name: name.into() });
    }
    let Some(path) = sysctl_path(name) else {
        return Err(NamespaceError::SysctlNotNamespaced { name: name.into() });
    };
    // Without `create`: a missing sysctl is an error of its own, not a refused new file.
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| NamespaceError::Sysctl { name: name.into(), value: value.into(), source })
}
