//! Pressure stall information: how long processes waited for something.

use std::fs;
use std::path::Path;

/// Of a group, or of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Waiting for a CPU.
    pub cpu: (PressureLine, PressureLine),
    /// Waiting for memory.
    pub memory: (PressureLine, PressureLine),
    /// Waiting for input and output.
    pub io: (PressureLine, PressureLine),
}

/// One line. In the pairs of [`Pressure`] the first is `some` (at least one process waited), the second `full` (all did).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureLine {
    /// Microseconds in all.
    pub total: u64,
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last 5 minutes.
    pub avg300: f64,
}

/// The machine's; `None` where the kernel has none.
pub fn machine_pressure() -> Option<Pressure> {
    read(|resource| format!("/proc/pressure/{resource}").into())
}

/// A group's (cgroup v2).
pub(super) fn of_group(folder: &Path) -> Option<Pressure> {
    read(|resource| folder.join(format!("{resource}.pressure")))
}

fn read(path: impl Fn(&str) -> std::path::PathBuf) -> Option<Pressure> {
    let of = |resource| fs::read_to_string(path(resource)).ok().map(|text| lines(&text));
    Some(Pressure { cpu: of("cpu")?, memory: of("memory")?, io: of("io")? })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`, which old kernels do not have for the CPU.
fn lines(text: &str) -> (PressureLine, PressureLine) {
    let line = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let value = |field: &str| rest.split_ascii_whitespace().find_map(|part| part.strip_prefix(field)?.strip_prefix('='));
        let percent = |field: &str| value(field).and_then(|value| value.parse().ok()).unwrap_or(0.0);
        PressureLine {
            total: value("total").and_then(|value| value.parse().ok()).unwrap_or(0),
            avg10: percent("avg10"),
            avg60: percent("avg60"),
            avg300: percent("avg300"),
        }
    };
    (line("some"), line("full"))
}
