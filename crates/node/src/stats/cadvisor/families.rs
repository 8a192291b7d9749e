//! The families with at most one sample of a cgroup.

use kube_pet_host::cgroups::{Cpu, Memory, Pressure};

use super::super::text::Kind;
use super::Subject;

/// A family with at most one sample of a subject.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// Specifications have no time of their own.
    pub(super) timed: bool,
    pub(super) value: fn(&Subject<'_>) -> Option<f64>,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Subject<'_>) -> Option<f64>) -> Family {
    Family { name, kind: Kind::Counter, help, timed: true, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Subject<'_>) -> Option<f64>) -> Family {
    Family { name, kind: Kind::Gauge, help, timed: true, value }
}

const fn spec(name: &'static str, help: &'static str, value: fn(&Subject<'_>) -> Option<f64>) -> Family {
    Family { name, kind: Kind::Gauge, help, timed: false, value }
}

#[allow(clippy::cast_precision_loss, reason = "a metric")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

pub(super) fn seconds(nanos: u64) -> f64 {
    number(nanos) / 1e9
}

fn cpu(subject: &Subject<'_>, value: fn(Cpu) -> Option<f64>) -> Option<f64> {
    value(subject.group.usage.cpu?)
}

/// Only of groups that have a quota.
fn cfs(subject: &Subject<'_>, value: fn(Cpu) -> f64) -> Option<f64> {
    subject.group.usage.cpu.filter(|cpu| cpu.quota.is_some()).map(value)
}

fn memory(subject: &Subject<'_>, value: fn(Memory) -> Option<u64>) -> Option<f64> {
    value(subject.group.usage.memory?).map(number)
}

/// In seconds; the kernel counts microseconds.
fn pressure(subject: &Subject<'_>, value: fn(Pressure) -> u64) -> Option<f64> {
    subject.group.usage.pressure.map(|pressure| number(value(pressure)) / 1e6)
}

pub(super) static FAMILIES: &[Family] = &[
    gauge("container_last_seen", "Last time a container was seen by the exporter", |s| {
        Some(number(u64::try_from(s.group.at.as_second()).ok()?))
    }),
    counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |s| {
        cpu(s, |c| Some(seconds(c.user_nanos)))
    }),
    counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", |s| {
        cpu(s, |c| Some(seconds(c.system_nanos)))
    }),
    counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |s| cfs(s, |c| number(c.periods))),
    counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |s| {
        cfs(s, |c| number(c.throttled_periods))
    }),
    counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", |s| {
        cfs(s, |c| seconds(c.throttled_nanos))
    }),
    gauge("container_memory_cache", "Number of bytes of page cache memory.", |s| memory(s, |m| Some(m.cache))),
    gauge("container_memory_rss", "Size of RSS in bytes.", |s| memory(s, |m| Some(m.rss))),
    gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", |s| memory(s, |m| m.kernel)),
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", |s| memory(s, |m| Some(m.mapped_file))),
    gauge("container_memory_swap", "Container swap usage in bytes.", |s| memory(s, |m| Some(m.swap))),
    counter("container_memory_failcnt", "Number of memory usage hits limits", |s| memory(s, |m| m.fail_count)),
    gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", |s| {
        memory(s, |m| Some(m.usage))
    }),
    gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", |s| memory(s, |m| m.max_usage)),
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", |s| memory(s, |m| Some(m.working_set))),
    gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", |s| memory(s, |m| Some(m.active_file))),
    gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", |s| memory(s, |m| Some(m.inactive_file))),
    gauge(
        "container_memory_file_dirty_bytes",
        "Number of bytes of file cache that has been modified but not yet written back to disk.",
        |s| memory(s, |m| m.file_dirty),
    ),
    gauge("container_memory_file_writeback_bytes", "Number of bytes of file cache that is currently being written back to disk.", |s| {
        memory(s, |m| m.file_writeback)
    }),
    counter("container_oom_events_total", "Count of out of memory events observed for the container", |s| memory(s, |m| Some(m.oom_kills))),
    gauge("container_processes", "Number of processes running inside the container.", |s| s.container?.processes.map(number)),
    gauge("container_threads", "Number of threads running inside the container", |s| Some(number(s.group.usage.pids?.current))),
    gauge("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", |s| {
        Some(number(s.group.usage.pids?.max.unwrap_or(0)))
    }),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |s| pressure(s, |p| p.cpu.1.total),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |s| pressure(s, |p| p.cpu.0.total),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |s| pressure(s, |p| p.memory.1.total),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |s| pressure(s, |p| p.memory.0.total),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |s| pressure(s, |p| p.io.1.total),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |s| pressure(s, |p| p.io.0.total),
    ),
    spec("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", |s| {
        Some(number(u64::try_from(s.started_at?.as_second()).ok()?))
    }),
    spec("container_spec_cpu_period", "CPU period of the container.", |s| cpu(s, |c| c.period.map(number))),
    spec("container_spec_cpu_quota", "CPU quota of the container.", |s| cpu(s, |c| c.quota.map(number))),
    spec("container_spec_cpu_shares", "CPU share of the container.", |s| cpu(s, |c| c.shares.map(number))),
    spec("container_spec_memory_limit_bytes", "Memory limit for the container.", |s| memory(s, |m| Some(m.limit.unwrap_or(0)))),
    spec("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |s| {
        memory(s, |m| Some(m.swap_limit.unwrap_or(0)))
    }),
    spec("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", |s| {
        memory(s, |m| Some(m.reservation.unwrap_or(0)))
    }),
];
