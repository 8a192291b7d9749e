//! Everything that a group's files tell of what its processes use, for metrics. Names and units are cAdvisor's where it has them;
//! what a kernel does not tell is `None`, never 0.
//!
//! | | cgroup v1 | cgroup v2 |
//! | --- | --- | --- |
//! | CPU time | `cpuacct.usage`, `cpuacct.stat` (in ticks) | `cpu.stat` |
//! | periods, limits | `cpu.stat`, `cpu.shares`, `cpu.cfs_*` | `cpu.stat`, `cpu.weight`, `cpu.max` |
//! | memory | `memory.stat` (`total_*`), `memory.*_in_bytes` | `memory.stat`, `memory.current`, `memory.max` … |
//! | input and output | `blkio.throttle.*_recursive` | `io.stat` |
//! | pressure | `*.pressure` where a hybrid machine has a unified hierarchy (the machine's: `/proc/pressure`) | `*.pressure` |
//!
//! The root group of cgroup v2 has neither `memory.current` nor limits: the machine's `/proc/meminfo` stands in, as in runc.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::counters::{oom_kills_in, table, text};
use super::layout::Layout;
use super::{CgroupError, layout, relative};

mod io;
mod pressure;

pub use io::DeviceIo;
pub use pressure::{Pressure, PressureLine, machine_pressure};

/// The unit of `cpuacct.stat`; 100 on every architecture that this runs on.
const NANOS_PER_TICK: u64 = 10_000_000;

/// From this on a limit of memory is none: the kernel rounds "unlimited" to its page size (cAdvisor's rule).
const UNLIMITED_MEMORY: u64 = 1 << 62;

/// How much of a group is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// CPU time, and memory with its limit: about 5 small files.
    CpuAndMemory,
    /// Everything: about 20.
    All,
}

/// What the processes of a group, and of the groups in it, use. A controller that the machine does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time and its limits.
    pub cpu: Option<Cpu>,
    /// Memory and its limits.
    pub memory: Option<Memory>,
    /// Input and output by device.
    pub io: Option<BTreeMap<String, DeviceIo>>,
    /// Processes and threads.
    pub pids: Option<Pids>,
    /// Time lost to waiting for CPU, memory, input and output.
    pub pressure: Option<Pressure>,
}

/// CPU time. Counters since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In nanoseconds.
    pub total_nanos: u64,
    /// Of which outside the kernel.
    pub user_nanos: u64,
    /// Of which in the kernel.
    pub system_nanos: u64,
    /// Relative share in the units of cgroup v1 (1024 per CPU).
    pub shares: Option<u64>,
    /// Microseconds of CPU time per period; `None` is no limit.
    pub quota: Option<u64>,
    /// Microseconds.
    pub period: Option<u64>,
    /// Periods in which the limit was enforced; of which throttled; nanoseconds of it.
    pub periods: u64,
    /// See [`Cpu::periods`].
    pub throttled_periods: u64,
    /// See [`Cpu::periods`].
    pub throttled_nanos: u64,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The page cache included.
    pub usage: u64,
    /// What cannot be given back at once: usage without the inactive part of the page cache.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// On swap space.
    pub swap: u64,
    /// The active part of the page cache.
    pub active_file: u64,
    /// The inactive part of the page cache.
    pub inactive_file: u64,
    /// The kernel's own memory for these processes.
    pub kernel: Option<u64>,
    /// The highest usage so far.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: Option<u64>,
    /// Limit; `None` is no limit.
    pub limit: Option<u64>,
    /// Limit of swap (cgroup v1: of memory and swap); `None` is no limit.
    pub swap_limit: Option<u64>,
    /// Protected from being reclaimed (cgroup v1: the soft limit); `None` is none.
    pub reservation: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed the disk.
    pub major_page_faults: u64,
    /// Page cache that is not written yet.
    pub file_dirty: Option<u64>,
    /// Page cache that is being written.
    pub file_writeback: Option<u64>,
    /// Processes that the kernel has killed for want of memory.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now, threads counted.
    pub current: u64,
    /// Limit; `None` is no limit.
    pub max: Option<u64>,
}

/// Reads what a group uses; `/` is the whole machine.
///
/// # Errors
/// [`CgroupError::is_not_found`] if there is no such group (any more).
pub fn usage(cgroup: &str, detail: Detail) -> Result<Usage, CgroupError> {
    Reader::new(layout()?, cgroup)?.usage(detail)
}

/// Reads only the CPU time, in nanoseconds: one small file.
///
/// # Errors
/// As [`usage`].
pub fn cpu_nanos(cgroup: &str) -> Result<u64, CgroupError> {
    Ok(Reader::new(layout()?, cgroup)?.cpu_time()?.map_or(0, |(total, _)| total))
}

/// How many processes (not threads) are in the group and in the groups in it; `None` if it does not exist.
pub fn processes_in(cgroup: &str) -> Option<u64> {
    let reader = Reader::new(layout().ok()?, cgroup).ok()?;
    let (folder, _) = reader.folder("pids").or_else(|| reader.folder("memory"))?;
    count_processes(&folder)
}

fn count_processes(folder: &Path) -> Option<u64> {
    let own = fs::read_to_string(folder.join("cgroup.procs")).ok()?.lines().count();
    let inner = fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Some(u64::try_from(own).unwrap_or(u64::MAX).saturating_add(inner.filter_map(|entry| count_processes(&entry.path())).sum()))
}

/// CPU time in nanoseconds, and the other lines of the file that it is from.
type CpuTime = (u64, HashMap<String, u64>);

/// One group.
struct Reader<'a> {
    layout: &'a Layout,
    relative: &'a Path,
    meminfo: &'a Path,
}

impl<'a> Reader<'a> {
    fn new(layout: &'a Layout, cgroup: &'a str) -> Result<Self, CgroupError> {
        let relative = if cgroup == "/" { Path::new("") } else { relative(cgroup)? };
        Ok(Self { layout, relative, meminfo: Path::new("/proc/meminfo") })
    }

    /// The group's folder for a controller, and whether it is of cgroup v2.
    fn folder(&self, controller: &str) -> Option<(PathBuf, bool)> {
        self.layout.hierarchy(controller).map(|hierarchy| (hierarchy.mount.join(self.relative), hierarchy.unified))
    }

    fn is_root(&self) -> bool {
        self.relative.as_os_str().is_empty()
    }

    fn usage(&self, detail: Detail) -> Result<Usage, CgroupError> {
        if detail == Detail::CpuAndMemory {
            let cpu = self.cpu_time()?.map(|(total_nanos, _)| Cpu { total_nanos, ..Cpu::default() });
            return Ok(Usage { cpu, memory: self.memory(detail)?, ..Usage::default() });
        }
        Ok(Usage { cpu: self.cpu()?, memory: self.memory(detail)?, io: self.io(), pids: self.pids(), pressure: self.pressure() })
    }

    /// The CPU time, and on cgroup v2 the table that it is from.
    fn cpu_time(&self) -> Result<Option<CpuTime>, CgroupError> {
        match self.folder("cpuacct") {
            Some((folder, false)) => {
                let path = folder.join("cpuacct.usage");
                Ok(Some((text(&path)?.trim().parse().unwrap_or(0), HashMap::new())))
            }
            Some((folder, true)) => {
                let stat = table(&folder.join("cpu.stat"))?;
                Ok(Some((micros(&stat, "usage_usec"), stat)))
            }
            None => Ok(None),
        }
    }

    fn cpu(&self) -> Result<Option<Cpu>, CgroupError> {
        let Some((total_nanos, stat)) = self.cpu_time()? else { return Ok(None) };
        let mut cpu = Cpu { total_nanos, ..Cpu::default() };
        if let Some((folder, false)) = self.folder("cpuacct") {
            let ticks = table(&folder.join("cpuacct.stat")).unwrap_or_default();
            cpu.user_nanos = field(&ticks, "user").saturating_mul(NANOS_PER_TICK);
            cpu.system_nanos = field(&ticks, "system").saturating_mul(NANOS_PER_TICK);
        }
        match self.folder("cpu") {
            Some((folder, false)) => {
                let stat = table(&folder.join("cpu.stat")).unwrap_or_default();
                cpu.periods = field(&stat, "nr_periods");
                cpu.throttled_periods = field(&stat, "nr_throttled");
                cpu.throttled_nanos = field(&stat, "throttled_time");
                cpu.shares = number(&folder.join("cpu.shares"));
                cpu.period = number(&folder.join("cpu.cfs_period_us"));
                // -1 is no limit, and no number here.
                cpu.quota = number(&folder.join("cpu.cfs_quota_us"));
            }
            Some((folder, true)) => {
                cpu.user_nanos = micros(&stat, "user_usec");
                cpu.system_nanos = micros(&stat, "system_usec");
                cpu.periods = field(&stat, "nr_periods");
                cpu.throttled_periods = field(&stat, "nr_throttled");
                cpu.throttled_nanos = micros(&stat, "throttled_usec");
                cpu.shares = number(&folder.join("cpu.weight")).map(shares);
                let max = text(&folder.join("cpu.max")).unwrap_or_default();
                let mut fields = max.split_ascii_whitespace();
                cpu.quota = fields.next().and_then(|quota| quota.parse().ok());
                cpu.period = fields.next().and_then(|period| period.parse().ok());
            }
            None => {}
        }
        Ok(Some(cpu))
    }

    fn memory(&self, detail: Detail) -> Result<Option<Memory>, CgroupError> {
        match self.folder("memory") {
            None => Ok(None),
            Some((folder, false)) => memory_v1(&folder, detail).map(Some),
            Some((_, true)) if self.is_root() => self.memory_of_machine().map(Some),
            Some((folder, true)) => memory_v2(&folder, detail).map(Some),
        }
    }

    /// The root group of cgroup v2.
    fn memory_of_machine(&self) -> Result<Memory, CgroupError> {
        let info = text(self.meminfo)?;
        let bytes = |name: &str| -> u64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
        };
        let usage = bytes("MemTotal").saturating_sub(bytes("MemFree"));
        let inactive_file = bytes("Inactive(file)");
        let vmstat = table(Path::new("/proc/vmstat")).unwrap_or_default();
        Ok(Memory {
            usage,
            working_set: usage.saturating_sub(inactive_file),
            rss: bytes("AnonPages"),
            cache: bytes("Cached"),
            mapped_file: bytes("Mapped"),
            swap: bytes("SwapTotal").saturating_sub(bytes("SwapFree")),
            active_file: bytes("Active(file)"),
            inactive_file,
            file_dirty: Some(bytes("Dirty")),
            file_writeback: Some(bytes("Writeback")),
            page_faults: field(&vmstat, "pgfault"),
            major_page_faults: field(&vmstat, "pgmajfault"),
            oom_kills: field(&vmstat, "oom_kill"),
            ..Memory::default()
        })
    }

    fn io(&self) -> Option<BTreeMap<String, DeviceIo>> {
        match self.folder("blkio") {
            Some((folder, false)) => io::v1(&folder),
            Some((folder, true)) => io::v2(&folder),
            None => None,
        }
    }

    fn pids(&self) -> Option<Pids> {
        let (folder, _) = self.folder("pids")?;
        Some(Pids { current: number(&folder.join("pids.current"))?, max: number(&folder.join("pids.max")) })
    }

    fn pressure(&self) -> Option<Pressure> {
        if self.is_root() {
            return machine_pressure();
        }
        // On a hybrid machine too: it needs no controller.
        let unified = self.layout.all().find(|hierarchy| hierarchy.unified)?;
        pressure::of_group(&unified.mount.join(self.relative))
    }
}

fn memory_v1(folder: &Path, detail: Detail) -> Result<Memory, CgroupError> {
    let stat = table(&folder.join("memory.stat"))?;
    let read = |name: &str| number(&folder.join(name));
    let more = |name: &str| if detail == Detail::All { read(name) } else { None };
    let limit = |name: &str| read(name).filter(|limit| *limit < UNLIMITED_MEMORY);
    let usage = read("memory.usage_in_bytes").unwrap_or(0);
    let inactive_file = field(&stat, "total_inactive_file");
    Ok(Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        rss: field(&stat, "total_rss"),
        cache: field(&stat, "total_cache"),
        mapped_file: field(&stat, "total_mapped_file"),
        swap: field(&stat, "total_swap"),
        active_file: field(&stat, "total_active_file"),
        inactive_file,
        kernel: more("memory.kmem.usage_in_bytes"),
        max_usage: more("memory.max_usage_in_bytes"),
        fail_count: more("memory.failcnt"),
        limit: limit("memory.limit_in_bytes"),
        swap_limit: limit("memory.memsw.limit_in_bytes"),
        reservation: more("memory.soft_limit_in_bytes").filter(|limit| *limit < UNLIMITED_MEMORY),
        page_faults: field(&stat, "total_pgfault"),
        major_page_faults: field(&stat, "total_pgmajfault"),
        file_dirty: stat.get("total_dirty").copied(),
        file_writeback: stat.get("total_writeback").copied(),
        oom_kills: if detail == Detail::All { oom_kills_in(folder, false).unwrap_or(0) } else { 0 },
    })
}

fn memory_v2(folder: &Path, detail: Detail) -> Result<Memory, CgroupError> {
    let stat = table(&folder.join("memory.stat"))?;
    let events = if detail == Detail::All { table(&folder.join("memory.events")).unwrap_or_default() } else { HashMap::new() };
    // "max" is no limit, and no number.
    let read = |name: &str| number(&folder.join(name));
    let more = |name: &str| if detail == Detail::All { read(name) } else { None };
    let usage = read("memory.current").unwrap_or(0);
    let inactive_file = field(&stat, "inactive_file");
    Ok(Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        rss: field(&stat, "anon"),
        cache: field(&stat, "file"),
        mapped_file: field(&stat, "file_mapped"),
        swap: read("memory.swap.current").unwrap_or(0),
        active_file: field(&stat, "active_file"),
        inactive_file,
        kernel: stat.get("kernel").copied(),
        max_usage: more("memory.peak"),
        fail_count: events.get("max").copied(),
        limit: read("memory.max"),
        swap_limit: read("memory.swap.max"),
        reservation: more("memory.min"),
        page_faults: field(&stat, "pgfault"),
        major_page_faults: field(&stat, "pgmajfault"),
        file_dirty: stat.get("file_dirty").copied(),
        file_writeback: stat.get("file_writeback").copied(),
        oom_kills: field(&events, "oom_kill"),
    })
}

/// Shares of cgroup v1 that a weight of v2 stands for: the inverse of the curve in [`super::weight`].
fn shares(weight: u64) -> u64 {
    // Few enough values that looking for the first one is quicker than being clever; the curve only rises.
    let (mut low, mut high) = (2, 262_144);
    while low < high {
        let middle = u64::midpoint(low, high);
        if super::weight(middle) < weight { low = middle + 1 } else { high = middle }
    }
    low
}

/// The number in a file; `None` if there is no such file, or none in it.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(table: &HashMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

fn micros(table: &HashMap<String, u64>, name: &str) -> u64 {
    field(table, name).saturating_mul(1000)
}

#[cfg(test)]
mod tests;
