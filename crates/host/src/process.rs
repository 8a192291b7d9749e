//! What processes use.

use std::fs;

/// The unit of times in `/proc/<pid>/stat`; 100 on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What this process uses. A reading that failed is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// Seconds of CPU time, in and outside the kernel.
    pub cpu_seconds: Option<f64>,
    /// Bytes in memory.
    pub resident_bytes: Option<f64>,
    /// Bytes of address space.
    pub virtual_bytes: Option<f64>,
    /// Limit of the address space; `None` without one.
    pub max_virtual_bytes: Option<f64>,
    /// Open files.
    pub open_files: Option<f64>,
    /// How many may be open.
    pub max_open_files: Option<f64>,
    /// Bytes that came from and went to the network (of all of its namespace, as in Prometheus' Go client).
    pub network_bytes: Option<(f64, f64)>,
    /// When it was started, in seconds of the Unix time.
    pub start_time: Option<f64>,
}

/// What one process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OneProcess {
    /// CPU time in nanoseconds.
    pub cpu_nanos: u64,
    /// Bytes in memory.
    pub resident: u64,
    /// Of which anonymous.
    pub anonymous: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed the disk.
    pub major_page_faults: u64,
    /// When it was started, in milliseconds of the Unix time.
    pub started_millis: i64,
}

/// Reads what the process `pid` uses; `None` if there is none.
pub fn process(pid: u32) -> Option<OneProcess> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters, never negative")]
    let whole = |value: Option<f64>| value.unwrap_or(0.0) as u64;
    let number = |index| whole(field(&stat, index));
    #[allow(clippy::cast_possible_truncation, reason = "milliseconds of the Unix time")]
    let started_millis = (start_time_from(&stat)? * 1000.0) as i64;
    Some(OneProcess {
        cpu_nanos: number(14).saturating_add(number(15)).saturating_mul(10_000_000),
        resident: whole(kilobytes(&status, "VmRSS:")),
        anonymous: whole(kilobytes(&status, "RssAnon:")),
        page_faults: number(10).saturating_add(number(12)),
        major_page_faults: number(12),
        started_millis,
    })
}

/// Reads all of it.
pub fn this_process() -> ProcessUsage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").ok();
    let interfaces = crate::interfaces::interfaces();
    #[allow(clippy::cast_precision_loss, reason = "a metric")]
    let sum = |direction: fn(&crate::interfaces::InterfaceCounters) -> u64| interfaces.values().map(direction).sum::<u64>() as f64;
    ProcessUsage {
        cpu_seconds: field(&stat, 14).zip(field(&stat, 15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
        resident_bytes: kilobytes(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS:"),
        virtual_bytes: field(&stat, 23),
        max_virtual_bytes: limit(&limits, "Max address space"),
        open_files: open.and_then(|dir| u32::try_from(dir.count()).ok()).map(f64::from),
        max_open_files: limit(&limits, "Max open files"),
        network_bytes: (!interfaces.is_empty()).then(|| (sum(|i| i.received.bytes), sum(|i| i.transmitted.bytes))),
        start_time: start_time_from(&stat),
    }
}

/// When this process was started, in seconds of the Unix time.
pub fn start_time() -> Option<f64> {
    start_time_from(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn start_time_from(stat: &str) -> Option<f64> {
    let ticks_after_boot = field(stat, 22)?;
    #[allow(clippy::cast_precision_loss, reason = "seconds of the Unix time")]
    let boot = crate::machine::boot_time().ok()? as f64;
    Some(boot + ticks_after_boot / TICKS_PER_SECOND)
}

/// A field by its number in proc(5). Those after the command in parentheses, which may hold anything; the first one there is 3.
fn field(stat: &str, number: usize) -> Option<f64> {
    let rest = stat.rsplit_once(')')?.1;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn kilobytes(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024.0)
}

/// The soft limit.
fn limit(limits: &str, key: &str) -> Option<f64> {
    limits.lines().find_map(|line| line.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_command() {
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 777 4096 9";
        assert_eq!(field(stat, 14), Some(150.0));
        assert_eq!(field(stat, 22), Some(777.0));
        assert_eq!(field("", 14), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 20000                files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let usage = this_process();
        assert!(usage.resident_bytes.unwrap() > 1e5 && usage.open_files.unwrap() >= 3.0);
        let same = process(std::process::id()).unwrap();
        assert!(same.resident > 100_000 && same.anonymous <= same.resident && same.page_faults > 0);
        assert!((same.started_millis - (usage.start_time.unwrap() * 1000.0) as i64).abs() <= 1);
        assert_eq!(process(u32::MAX), None);
        assert!(usage.start_time.unwrap() > 1.5e9 && usage.cpu_seconds.unwrap() >= 0.0);
    }
}
