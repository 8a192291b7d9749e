//! Processes by identity: a PID alone may belong to somebody else by the time it is used.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process: its PID, and when it started in clock ticks since boot (`/proc/PID/stat`, field 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// PID in the namespace of the lab's own processes.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this PID now.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = Stat::read(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, start_time: stat.start_time })
    }

    /// Whether it still runs. A zombie does not, once the last of its threads has given back what the process held: ports, links.
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start_time == self.start_time && (stat.state != 'Z' || stat.threads > 1))
    }

    /// Sends a signal to exactly this process; nothing happens when it has ended.
    ///
    /// # Errors
    /// When the signal may not be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        // The descriptor first, then the look at the start time: from here on the PID cannot come to mean another process.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(());
        };
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal:?} to process {}", self.pid)),
        }
    }

    /// Stops it where it is, as a hanging program looks to others; [`Self::kill`] still ends it.
    ///
    /// # Errors
    /// When the signal may not be sent.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Waits until it has ended; false when it still runs after `limit`.
    pub async fn ended_within(&self, limit: Duration) -> bool {
        let start = std::time::Instant::now();
        while self.is_alive() {
            if start.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// SIGKILL, then waits for the end.
    ///
    /// # Errors
    /// When it does not end within 20 s.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        anyhow::ensure!(self.ended_within(Duration::from_secs(20)).await, "process {} does not end after SIGKILL", self.pid);
        Ok(())
    }
}

/// The children of a process, by PID.
pub fn children(pid: i32) -> Vec<i32> {
    all().into_iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| pid).collect()
}

/// The processes in the PID namespace that the process `pid` is in, by their PID here.
pub fn in_namespace_of(pid: i32) -> Vec<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(pid) else { return Vec::new() };
    all().into_iter().map(|(pid, _)| pid).filter(|pid| namespace(*pid).as_ref() == Some(&wanted)).collect()
}

/// The argument vector of a process; empty for a kernel thread or a process that is gone.
pub fn arguments(pid: i32) -> Vec<String> {
    let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return Vec::new();
    };
    bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty()).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// CPU time used by a process so far, its waited-for children not included, in clock ticks.
pub fn cpu_ticks(pid: i32) -> u64 {
    Stat::read(pid).map_or(0, |stat| stat.cpu_ticks)
}

/// As [`cpu_ticks`], with the children that it has waited for.
pub fn cpu_ticks_with_children(pid: i32) -> u64 {
    Stat::read(pid).map_or(0, |stat| stat.cpu_ticks + stat.children_ticks)
}

/// Proportional set size of a process in KiB; 0 when it is gone.
pub fn pss_kib(pid: i32) -> u64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
        return 0;
    };
    kib_field(&text, "Pss:")
}

/// Resident set size of a process in KiB; 0 when it is gone.
pub fn rss_kib(pid: i32) -> u64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return 0;
    };
    kib_field(&text, "VmRSS:")
}

fn kib_field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

struct Stat {
    state: char,
    parent: i32,
    cpu_ticks: u64,
    children_ticks: u64,
    start_time: u64,
    threads: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The program's name may hold blanks and parentheses: fields count from the last ')'.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            cpu_ticks: number(11)? + number(12)?,
            children_ticks: number(13)? + number(14)?,
            start_time: number(19)?,
            threads: number(17)?,
        })
    }
}

fn all() -> Vec<(i32, Stat)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, Stat::read(pid)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_odd_program_names() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.cpu_ticks, stat.children_ticks, stat.start_time), ('S', 7, 11, 15, 987_654));
    }

    #[tokio::test]
    async fn a_process_with_another_start_time_is_not_touched() {
        let mut child = crate::command::argv(&["sleep", "60"]).spawn().unwrap();
        let real = ProcessId::of(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let stale = ProcessId { start_time: real.start_time + 1, ..real };
        stale.signal(Signal::KILL).unwrap();
        assert!(real.is_alive());
        assert!(in_namespace_of(std::process::id().cast_signed()).contains(&real.pid));
        real.signal(Signal::KILL).unwrap();
        child.wait().await.unwrap();
        assert!(!real.is_alive());
    }
}
