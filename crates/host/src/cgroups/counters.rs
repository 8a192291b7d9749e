//! What a group has used.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{CgroupError, layout, relative};

/// What the processes of a group, and of the groups in it, have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// CPU time in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in bytes, the page cache included.
    pub memory_usage: u64,
    /// Memory that cannot be given back at once: usage without the inactive part of the page cache, as the kubelet counts it.
    pub working_set: u64,
    /// Anonymous memory in bytes.
    pub rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed the disk.
    pub major_page_faults: u64,
    /// Processes that the kernel has killed for want of memory.
    pub oom_kills: u64,
    /// Processes and threads now.
    pub pids: u64,
}

/// Reads the counters of a group. Controllers that the machine does not have count 0.
pub fn counters(cgroup: &str) -> Result<Counters, CgroupError> {
    let relative = relative(cgroup)?;
    let layout = layout()?;
    let mut result = Counters::default();
    let folder = |controller: &str| layout.hierarchy(controller).map(|hierarchy| (hierarchy.mount.join(relative), hierarchy.unified));
    match folder("cpuacct") {
        Some((folder, false)) => result.cpu_nanos = number(&folder.join("cpuacct.usage"))?,
        Some((folder, true)) => {
            result.cpu_nanos = table(&folder.join("cpu.stat"))?.get("usage_usec").copied().unwrap_or(0).saturating_mul(1000)
        }
        None => {}
    }
    if let Some((folder, unified)) = folder("memory") {
        let [usage, inactive, rss, faults, major] = if unified {
            ["memory.current", "inactive_file", "anon", "pgfault", "pgmajfault"]
        } else {
            ["memory.usage_in_bytes", "total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"]
        };
        let stat = table(&folder.join("memory.stat"))?;
        let field = |name: &str| stat.get(name).copied().unwrap_or(0);
        result.memory_usage = number(&folder.join(usage))?;
        result.working_set = result.memory_usage.saturating_sub(field(inactive));
        result.rss = field(rss);
        result.page_faults = field(faults);
        result.major_page_faults = field(major);
        result.oom_kills = oom_kills_in(&folder, unified)?;
    }
    if let Some((folder, _)) = folder("pids") {
        result.pids = number(&folder.join("pids.current"))?;
    }
    Ok(result)
}

/// Processes of a group, and on cgroup v2 of the groups in it, that the kernel has killed for want of memory. Fewer reads than
/// [`counters`], for a group that is about to be removed.
pub fn oom_kills(cgroup: &str) -> Result<u64, CgroupError> {
    let Some(hierarchy) = layout()?.hierarchy("memory") else { return Ok(0) };
    oom_kills_in(&hierarchy.mount.join(relative(cgroup)?), hierarchy.unified)
}

fn oom_kills_in(folder: &Path, unified: bool) -> Result<u64, CgroupError> {
    let events = table(&folder.join(if unified { "memory.events" } else { "memory.oom_control" }))?;
    Ok(events.get("oom_kill").copied().unwrap_or(0))
}

/// The group of a process (in the memory controller's hierarchy on v1); `None` if there is no such process.
pub fn of_process(pid: i64) -> Option<String> {
    group_from(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

fn group_from(table: &str) -> Option<String> {
    let mut unified = None;
    for line in table.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if controllers.split(',').any(|name| name == "memory") {
            return Some(path.to_owned());
        }
        if controllers.is_empty() {
            unified = Some(path.to_owned());
        }
    }
    unified
}

fn text(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read { path: PathBuf::from(path), source })
}

fn number(path: &Path) -> Result<u64, CgroupError> {
    Ok(text(path)?.trim().parse().unwrap_or(0))
}

fn table(path: &Path) -> Result<HashMap<String, u64>, CgroupError> {
    Ok(text(path)?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process_is_that_of_its_memory() {
        assert_eq!(group_from("4:memory:/a/b\n3:cpu,cpuacct:/x\n0::/u\n").as_deref(), Some("/a/b"));
        assert_eq!(group_from("0::/user.slice/a:b\n").as_deref(), Some("/user.slice/a:b"));
        assert_eq!(group_from(""), None);
        assert!(of_process(i64::from(std::process::id())).is_some());
    }
}
