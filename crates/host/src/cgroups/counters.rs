//! What a group has used.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{CgroupError, layout, relative};

/// Processes of a group, and on cgroup v2 of the groups in it, that the kernel has killed for want of memory. Few reads, for
/// a group that is about to be removed.
pub fn oom_kills(cgroup: &str) -> Result<u64, CgroupError> {
    let Some(hierarchy) = layout()?.hierarchy("memory") else { return Ok(0) };
    oom_kills_in(&hierarchy.mount.join(relative(cgroup)?), hierarchy.unified)
}

pub(super) fn oom_kills_in(folder: &Path, unified: bool) -> Result<u64, CgroupError> {
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

pub(super) fn text(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read { path: PathBuf::from(path), source })
}

/// Lines of a name and a number.
pub(super) fn table(path: &Path) -> Result<HashMap<String, u64>, CgroupError> {
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
