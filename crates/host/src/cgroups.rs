//! The cgroups that pods' containers are in, by the file system (not by systemd): the same layout on machines with and
//! without systemd. Under systemd's cgroup manager such groups live beside systemd's slices, which leaves them alone (also at
//! `daemon-reload`); what it does need is `Delegate=` nowhere, because the groups are at the root and not in a unit of ours.
//!
//! A cgroup is named by its path within the hierarchy (`/kubepods/burstable/podUID`), as Podman's `cgroup_parent` takes it.
//! On cgroup v1 and hybrid machines the path exists once for each controller.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;

mod counters;
mod huge_pages;
mod layout;
mod usage;

pub use counters::{of_process, oom_kills};
pub use huge_pages::limit_huge_pages;
pub use layout::{Layout, Version};
pub use usage::{Cpu, Detail, DeviceIo, Memory, Pids, Pressure, PressureLine, Usage, cpu_nanos, machine_pressure, processes_in, usage};

use layout::Hierarchy;

/// A limit that does not limit.
pub const UNLIMITED: u64 = u64::MAX;

/// How long a group may refuse to be removed because processes are still ending in it.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(1);

/// Why a cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine's cgroups cannot be read, or there are none.
    #[error("finding the cgroups of this machine: {source}")]
    Detect {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not a path of a cgroup below the root.
    #[error("{cgroup:?} is not the path of a cgroup")]
    InvalidPath {
        /// What was given.
        cgroup: String,
    },
    /// A group cannot be made.
    #[error("making the cgroup {path}: {source}")]
    Make {
        /// Its folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A setting was refused.
    #[error("setting {path} to {value:?}: {source}")]
    Set {
        /// Its file.
        path: PathBuf,
        /// The value.
        value: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A counter cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// Its file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A group cannot be removed: processes are in it.
    #[error("removing the cgroup {path}: {source}")]
    Remove {
        /// Its folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    /// Whether processes are in the way.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Remove { source, .. } if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()))
    }

    /// Whether the kernel calls the value invalid: of a CPU quota on v1 also where a group in it has more, or the one around it less.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Set { source, .. } if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()))
    }

    /// Whether there is no such group (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } | Self::Set { source, .. } if source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(Errno::NODEV.raw_os_error()))
    }
}

/// Limits of a group; what is `None` is left as it is. [`UNLIMITED`] takes a limit away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU shares in the unit of cgroup v1 (1024 for one CPU); translated to a weight on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period of 100 ms.
    pub cpu_quota: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// `cpu.cfs_period_us`, the kubelet's default.
const CPU_PERIOD: u64 = 100_000;

/// This machine's cgroups, found once.
pub fn layout() -> Result<&'static Layout, CgroupError> {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    if let Some(layout) = LAYOUT.get() {
        return Ok(layout);
    }
    let layout = Layout::detect().map_err(|source| CgroupError::Detect { source })?;
    Ok(LAYOUT.get_or_init(|| layout))
}

/// Whether the machine has cgroup v2, and nothing else.
pub fn is_unified() -> bool {
    layout().is_ok_and(|layout| layout.version() == Version::V2)
}

/// The folder of a group below a hierarchy's mount point. The root itself and paths that leave the hierarchy are refused.
fn relative(cgroup: &str) -> Result<&Path, CgroupError> {
    let trimmed = cgroup.trim_matches('/');
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if trimmed.split('/').all(plain) { Ok(Path::new(trimmed)) } else { Err(CgroupError::InvalidPath { cgroup: cgroup.into() }) }
}

/// Makes the group and those above it (where missing), and sets its limits.
pub fn ensure(cgroup: &str, limits: &Limits) -> Result<(), CgroupError> {
    let relative = relative(cgroup)?;
    let layout = layout()?;
    for hierarchy in layout.limiting() {
        make(hierarchy, relative)?;
    }
    set_limits(layout, relative, limits)
}

/// Changes limits of a group that exists.
pub fn update(cgroup: &str, limits: &Limits) -> Result<(), CgroupError> {
    set_limits(layout()?, relative(cgroup)?, limits)
}

fn make(hierarchy: &Hierarchy, relative: &Path) -> Result<(), CgroupError> {
    let mut folder = hierarchy.mount.clone();
    for part in relative {
        if hierarchy.unified {
            enable_controllers(&folder)?;
        }
        folder.push(part);
        match mkdir(&folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                return Err(CgroupError::Make { path: folder, source: errno.into() });
            }
        }
    }
    // The containers' groups are made below this one.
    if hierarchy.unified { enable_controllers(&folder) } else { Ok(()) }
}

/// On cgroup v2 a group has the controllers that its parent passes on.
fn enable_controllers(folder: &Path) -> Result<(), CgroupError> {
    let words = |name: &str| -> Result<BTreeSet<String>, CgroupError> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    };
    let (available, enabled) = (words("cgroup.controllers")?, words("cgroup.subtree_control")?);
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        if available.contains(controller) && !enabled.contains(controller) {
            // One by one: one that is refused (cpu, with real-time processes around) must not take the others along.
            set(&folder.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
    }
    Ok(())
}

fn set_limits(layout: &Layout, relative: &Path, limits: &Limits) -> Result<(), CgroupError> {
    let Limits { cpu_shares, cpu_quota, memory, pids } = *limits;
    let or = |value: u64, unlimited: &str| {
        if value == UNLIMITED { unlimited.to_owned() } else { value.to_string() }
    };
    let file = |controller: &str, name: &str| {
        layout.hierarchy(controller).map(|hierarchy| (hierarchy.mount.join(relative).join(name), hierarchy.unified))
    };
    if let (Some(shares), Some((path, unified))) = (cpu_shares, file("cpu", "")) {
        let (name, value) = if unified { ("cpu.weight", weight(shares)) } else { ("cpu.shares", shares) };
        set(&path.join(name), &value.to_string())?;
    }
    if let (Some(quota), Some((path, unified))) = (cpu_quota, file("cpu", "")) {
        if unified {
            set(&path.join("cpu.max"), &format!("{} {CPU_PERIOD}", or(quota, "max")))?;
        } else {
            set(&path.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
            set(&path.join("cpu.cfs_quota_us"), &or(quota, "-1"))?;
        }
    }
    if let (Some(memory), Some((path, unified))) = (memory, file("memory", "")) {
        let (name, unlimited) = if unified { ("memory.max", "max") } else { ("memory.limit_in_bytes", "-1") };
        set(&path.join(name), &or(memory, unlimited))?;
    }
    if let (Some(pids), Some((path, _))) = (pids, file("pids", "pids.max")) {
        set(&path, &or(pids, "max"))?;
    }
    Ok(())
}

/// Changes how much memory a container's group may use, and leaves it no swap, as the OCI runtimes do where both limits are the same.
pub fn update_memory_without_swap(cgroup: &str, bytes: u64) -> Result<(), CgroupError> {
    let relative = relative(cgroup)?;
    let Some(hierarchy) = layout()?.hierarchy("memory") else { return Ok(()) };
    let folder = hierarchy.mount.join(relative);
    let value = bytes.to_string();
    if hierarchy.unified {
        set(&folder.join("memory.max"), &value)?;
        return where_counted(set(&folder.join("memory.swap.max"), "0"));
    }
    // On v1 the limit of memory and swap together is never below that of memory.
    let (memory, both) = (folder.join("memory.limit_in_bytes"), folder.join("memory.memsw.limit_in_bytes"));
    let now = fs::read_to_string(&both).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if now.is_some_and(|now| now < bytes) {
        where_counted(set(&both, &value))?;
        return set(&memory, &value);
    }
    set(&memory, &value)?;
    where_counted(set(&both, &value))
}

/// Kernels that do not count swap have no file for it.
fn where_counted(set: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match set {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}

fn set(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Not `fs::write`, which would try to make a missing file.
    let written = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| CgroupError::Set { path: path.into(), value: value.into(), source })
}

/// Shares of cgroup v1 (2 to 262144, 1024 by default) as a weight of v2 (1 to 10000, 100 by default): the curve that the OCI
/// runtimes and the kubelet use since `opencontainers/cgroups` 0.0.3.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss, reason = "below 2^18")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight
}

/// Removes the group and the groups in it, everywhere; fine if there is none. Waits a moment for processes that are ending;
/// does not end any.
pub fn remove(cgroup: &str) -> Result<(), CgroupError> {
    let relative = relative(cgroup)?;
    let deadline = Instant::now() + REMOVAL_PATIENCE;
    let mut first = Ok(());
    for hierarchy in layout()?.all() {
        let done = remove_tree(&hierarchy.mount.join(relative), deadline);
        if first.is_ok() {
            first = done;
        }
    }
    first
}

fn remove_tree(folder: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Remove { path: folder.into(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // Removed meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => break,
            Err(error) => return Err(failed(error)),
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), deadline)?;
        }
    }
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// SIGKILL to every process in the group and in the groups in it; returns how many there were. For processes that no runtime
/// knows any more. One that is being forked at the same moment may be missed: call it again while [`remove`] says busy.
pub fn kill(cgroup: &str) -> Result<usize, CgroupError> {
    kill_if(cgroup, |_| true)
}

/// As [`kill`], only those with this argument on their command line.
pub fn kill_with_argument(cgroup: &str, argument: &str) -> Result<usize, CgroupError> {
    kill_if(cgroup, |pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|one| one == argument.as_bytes())
    })
}

fn kill_if(cgroup: &str, chosen: impl Fn(i32) -> bool) -> Result<usize, CgroupError> {
    let relative = relative(cgroup)?;
    let mut found = BTreeSet::<i32>::new();
    for hierarchy in layout()?.all() {
        processes(&hierarchy.mount.join(relative), &mut found);
    }
    found.retain(|pid| chosen(*pid));
    for pid in &found {
        if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
            // It may have ended by itself meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Ok(found.len())
}

/// The processes of a group's folder and of those below it. Groups that vanish meanwhile have none.
fn processes(folder: &Path, found: &mut BTreeSet<i32>) {
    let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another PID namespace, which is none of ours.
    found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), found);
        }
    }
}

/// The names of the groups directly in this one, in any hierarchy; none if it does not exist.
pub fn children(cgroup: &str) -> Result<BTreeSet<String>, CgroupError> {
    let relative = relative(cgroup)?;
    let mut names = BTreeSet::new();
    for hierarchy in layout()?.all() {
        let path = hierarchy.mount.join(relative);
        match fs::read_dir(&path) {
            Ok(entries) => {
                let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                names.extend(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CgroupError::Read { path, source }),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
