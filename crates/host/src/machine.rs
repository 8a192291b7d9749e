//! What this machine is and has: readings for the node's status.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

/// A reading that failed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file of the kernel or the system could not be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the kernel does not look as it should.
    #[error("{path} has no usable {what}")]
    Parse {
        /// The file.
        path: &'static str,
        /// What was looked for.
        what: &'static str,
    },
}

fn read(path: &str) -> Result<String, MachineError> {
    fs::read_to_string(path).map_err(|source| MachineError::Read { path: path.into(), source })
}

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All that the kernel manages.
    pub total: u64,
    /// What new work could get without swapping (the kernel's estimate).
    pub available: u64,
    /// Swap space.
    pub swap_total: u64,
    /// Free swap space.
    pub swap_free: u64,
}

/// Process numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pids {
    /// How many processes and threads there may be.
    pub max: u64,
    /// How many there are.
    pub used: u64,
}

/// A file system, in bytes and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Size.
    pub capacity: u64,
    /// What an ordinary user may still write.
    pub available: u64,
    /// What is written.
    pub used: u64,
    /// Inodes in all; 0 where the file system has no fixed number.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// CPUs that are online.
pub fn cpu_count() -> Result<u32, MachineError> {
    const ONLINE: &str = "/sys/devices/system/cpu/online";
    if let Ok(list) = read(ONLINE) {
        return count_list(list.trim()).ok_or(MachineError::Parse { path: ONLINE, what: "list of CPUs" });
    }
    let count = read("/proc/cpuinfo")?.lines().filter(|line| line.starts_with("processor")).count();
    u32::try_from(count).ok().filter(|count| *count > 0).ok_or(MachineError::Parse { path: "/proc/cpuinfo", what: "processor" })
}

/// How many numbers a list like `0-3,8` has.
fn count_list(list: &str) -> Option<u32> {
    list.split(',').try_fold(0u32, |sum, part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        sum.checked_add(to.checked_sub(from)?.checked_add(1)?)
    })
}

/// The machine's memory.
pub fn memory() -> Result<Memory, MachineError> {
    memory_from(&read("/proc/meminfo")?)
}

fn memory_from(meminfo: &str) -> Result<Memory, MachineError> {
    let field = |name: &'static str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kibibytes = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kibibytes.map(|value| value.saturating_mul(1024)).ok_or(MachineError::Parse { path: "/proc/meminfo", what: name })
    };
    Ok(Memory {
        total: field("MemTotal")?,
        available: field("MemAvailable")?,
        swap_total: field("SwapTotal").unwrap_or(0),
        swap_free: field("SwapFree").unwrap_or(0),
    })
}

/// Process numbers of the machine.
pub fn pids() -> Result<Pids, MachineError> {
    const LOAD: &str = "/proc/loadavg";
    let number = |path: &'static str| read(path)?.trim().parse::<u64>().map_err(|_| MachineError::Parse { path, what: "number" });
    // The smaller one holds.
    let max = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    // "0.10 0.20 0.30 2/345 6789": the part after the slash counts processes and threads.
    let load = read(LOAD)?;
    let used = load.split_ascii_whitespace().nth(3).and_then(|field| field.split_once('/')?.1.parse().ok());
    Ok(Pids { max, used: used.ok_or(MachineError::Parse { path: LOAD, what: "number of threads" })? })
}

/// Whether this process is in a user namespace other than the machine's first: decided as the kubelet's library does
/// (`github.com/moby/sys/userns`), by a mapping that is not the identity over the whole range.
pub fn in_user_namespace() -> Result<bool, MachineError> {
    const MAP: &str = "/proc/self/uid_map";
    match read(MAP) {
        Ok(map) => Ok(!maps_everything(&map)),
        // A kernel without user namespaces.
        Err(MachineError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Nothing is mapped yet in an empty one: that is a namespace of its own.
fn maps_everything(map: &str) -> bool {
    let fields: Vec<&str> = map.split_ascii_whitespace().collect();
    fields == ["0", "0", "4294967295"]
}

/// The file system that `path` is on.
pub fn filesystem(path: &Path) -> Result<Filesystem, MachineError> {
    let status = statvfs(path).map_err(|errno| MachineError::Read { path: path.into(), source: errno.into() })?;
    let bytes = |blocks: u64| blocks.saturating_mul(status.f_frsize);
    Ok(Filesystem {
        capacity: bytes(status.f_blocks),
        available: bytes(status.f_bavail),
        used: bytes(status.f_blocks.saturating_sub(status.f_bfree)),
        inodes: status.f_files,
        inodes_free: status.f_ffree,
    })
}

/// Sizes of huge pages that the kernel offers, in bytes, each with the number of pages that are set aside; by size.
pub fn huge_pages() -> Vec<(u64, u64)> {
    huge_pages_in(Path::new("/sys/kernel/mm/hugepages"))
}

fn huge_pages_in(folder: &Path) -> Vec<(u64, u64)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut pages: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let kibibytes: u64 = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            Some((kibibytes.saturating_mul(1024), count))
        })
        .collect();
    pages.sort_unstable();
    pages
}

/// The ID of this boot: another one after each start of the machine.
pub fn boot_id() -> Result<String, MachineError> {
    Ok(read("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// When the machine was started, in seconds of the Unix time (moves if the clock is set).
pub fn boot_time() -> Result<u64, MachineError> {
    let stat = read("/proc/stat")?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    seconds.ok_or(MachineError::Parse { path: "/proc/stat", what: "btime" })
}

fn first_text(paths: &[&str]) -> Option<String> {
    paths.iter().find_map(|path| {
        let text = read(path).ok()?;
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        (!text.is_empty()).then(|| text.to_owned())
    })
}

/// The ID of this installation; empty if the system has none.
pub fn machine_id() -> String {
    first_text(&["/etc/machine-id", "/var/lib/dbus/machine-id"]).unwrap_or_default()
}

/// The ID of the hardware by its firmware; the installation's ID where the firmware tells none (the order of cAdvisor).
pub fn system_uuid() -> String {
    first_text(&["/sys/class/dmi/id/product_uuid", "/proc/device-tree/system-id", "/proc/device-tree/vm,uuid", "/etc/machine-id"])
        .unwrap_or_else(machine_id)
}

/// The kernel's version, as `uname -r` tells it.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The machine's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of the operating system for people.
pub fn os_name() -> String {
    let text = first_text(&["/etc/os-release", "/usr/lib/os-release"]).unwrap_or_default();
    pretty_name(&text).unwrap_or_else(|| "Linux".to_owned())
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let value = value.strip_prefix(['"', '\'']).map_or(value, |inner| inner.strip_suffix(['"', '\'']).unwrap_or(inner));
    (!value.is_empty()).then(|| value.replace('\\', ""))
}

/// The architecture by the name that Kubernetes and image registries use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_identity_is_the_first_user_namespace() {
        assert!(maps_everything("         0          0 4294967295\n"));
        for map in ["", "0 0 4294967294", "0 100000 4294967295", "0 0 1\n1 100000 65536", "0 0 4294967295\n1 1 1"] {
            assert!(!maps_everything(map), "{map:?}");
        }
        let first = fs::read_link("/proc/self/ns/user").unwrap() == Path::new("user:[4026531837]");
        assert_eq!(in_user_namespace().unwrap(), !first);
    }

    #[test]
    fn huge_pages_are_read_by_size() {
        let folder = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-2048kB", "4\n"), ("hugepages-1048576kB", "0\n"), ("other", "1\n")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("nr_hugepages"), count).unwrap();
        }
        assert_eq!(huge_pages_in(folder.path()), [(2 << 20, 4), (1 << 30, 0)]);
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_list("0"), Some(1));
        assert_eq!(count_list("0-3,8,10-11"), Some(7));
        for bad in ["", "3-1", "a", "0-4294967295"] {
            assert_eq!(count_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let memory = memory_from("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n").unwrap();
        assert_eq!((memory.total, memory.available, memory.swap_total), (1_024_000, 256_000, 0));
        assert!(memory_from("MemTotal: 1000 kB\n").is_err());
    }

    #[test]
    fn names_are_unquoted() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n").as_deref(), Some("Debian GNU/Linux 12"));
        assert_eq!(pretty_name("PRETTY_NAME=Alpine").as_deref(), Some("Alpine"));
        assert_eq!(pretty_name("PRETTY_NAME=\"\""), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(cpu_count().unwrap() >= 1);
        let memory = memory().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
        let pids = pids().unwrap();
        assert!(pids.used > 1 && pids.used < pids.max);
        let disk = filesystem(Path::new("/")).unwrap();
        assert!(disk.available <= disk.capacity && disk.used <= disk.capacity && disk.capacity > 0);
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(boot_time().unwrap() > 1_500_000_000);
        assert!(!kernel_release().is_empty() && !hostname().is_empty() && !os_name().is_empty());
        assert!(["amd64", "arm64"].contains(&architecture()));
        assert!(filesystem(Path::new("/nonexistent")).is_err());
    }
}
