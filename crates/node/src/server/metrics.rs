//! Metrics in Prometheus' text format: only what is really known here.

use std::fmt::Write;
use std::fs;

use super::health;
use super::pods::statuses;
use super::{BuildVersion, ServerState};

/// The unit of times in `/proc/<pid>/stat`; 100 on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(self.0, "{label}=\"{}\"", text.replace('\n', "\\n"));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
    fn single(&mut self, name: &str, kind: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.family(name, kind, help);
            self.sample(name, &[], value);
        }
    }
}

/// `/metrics`.
pub(super) fn node(state: &ServerState) -> String {
    let mut text = Text(String::new());
    build_info(&mut text, &state.version);
    text.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    text.sample("kubelet_node_name", &[("node", &state.node_name)], 1.0);
    let (mut pods, mut running, mut exited) = (0u32, 0u32, 0u32);
    for pod in state.store.list() {
        let before = running;
        for status in statuses(&pod) {
            match &status.state {
                Some(state) if state.running.is_some() => running += 1,
                Some(state) if state.terminated.is_some() => exited += 1,
                _ => {}
            }
        }
        pods += u32::from(running > before);
    }
    text.single("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running container", Some(pods.into()));
    let containers = "kubelet_running_containers";
    text.family(containers, "gauge", "[ALPHA] Number of containers currently running");
    text.sample(containers, &[("container_state", "exited")], exited.into());
    text.sample(containers, &[("container_state", "running")], running.into());
    process(&mut text);
    text.0
}

fn build_info(text: &mut Text, version: &BuildVersion) {
    let name = "kubernetes_build_info";
    let mut numbers = version.git_version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    text.family(name, "gauge", "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit and platform.");
    let platform = format!("linux/{}", version.architecture);
    text.sample(
        name,
        &[
            ("git_commit", &version.git_commit),
            ("git_version", &version.git_version),
            ("major", major),
            ("minor", minor),
            ("platform", &platform),
        ],
        1.0,
    );
}

fn process(text: &mut Text) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the command in parentheses, which may hold anything; the first one here is number 3.
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    text.single("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu);
    text.single("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", kilobytes("/proc/self/status", "VmRSS:"));
    text.single("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
    let open = fs::read_dir("/proc/self/fd").ok();
    text.single(
        "process_open_fds",
        "gauge",
        "Number of open file descriptors.",
        open.and_then(|dir| u32::try_from(dir.count()).ok()).map(f64::from),
    );
    start_time(text, field(22));
}

fn start_time(text: &mut Text, ticks_after_boot: Option<f64>) {
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| {
        let line = stat.lines().find_map(|l| l.strip_prefix("btime "))?;
        line.trim().parse::<f64>().ok()
    });
    text.single(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        boot.zip(ticks_after_boot).map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND),
    );
}

fn kilobytes(file: &str, key: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let number: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024.0)
}

/// `/metrics/cadvisor`: the machine; containers are not measured yet.
pub(super) fn cadvisor() -> String {
    let mut text = Text(String::new());
    let cores = fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let count = info.lines().filter(|l| l.starts_with("processor")).count();
        u32::try_from(count).ok().filter(|c| *c > 0)
    });
    text.single("machine_cpu_cores", "gauge", "Number of logical CPU cores.", cores.map(f64::from));
    text.single("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", kilobytes("/proc/meminfo", "MemTotal:"));
    text.0
}

/// `/metrics/resource`: says that nothing could be measured, which is true, instead of giving numbers that are not.
pub(super) fn resource() -> String {
    let mut text = Text(String::new());
    for name in ["resource_scrape_error", "scrape_error"] {
        text.single(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise", Some(1.0));
    }
    text.0
}

/// `/metrics/probes`.
pub(super) fn probes() -> String {
    let mut text = Text(String::new());
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(22 - 3)?.parse().ok());
    start_time(&mut text, start);
    text.0
}

/// `/metrics/slis`.
pub(super) fn slis(state: &ServerState) -> String {
    let mut text = Text(String::new());
    let name = "kubernetes_healthcheck";
    text.family(name, "gauge", "[STABLE] This metric records the result of a single healthcheck.");
    for check in health::CHECKS {
        let healthy = health::check(&state.health, check).is_ok();
        text.sample(name, &[("name", check), ("type", "healthz")], f64::from(u8::from(healthy)));
    }
    text.0
}
