//! Input and output of a group, by device.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Input and output of one device since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// `blkio.throttle.*`: lines of `<major>:<minor> <operation> <number>`.
pub(super) fn v1(folder: &Path) -> Option<BTreeMap<String, DeviceIo>> {
    let read = |name: &str| {
        // Kernels before 3.x have no recursive ones; a container's group has none below it as a rule.
        let recursive = fs::read_to_string(folder.join(format!("{name}_recursive")));
        recursive.or_else(|_| fs::read_to_string(folder.join(name))).ok()
    };
    let (bytes, counts) = (read("blkio.throttle.io_service_bytes")?, read("blkio.throttle.io_serviced")?);
    let mut devices = BTreeMap::new();
    for (text, is_bytes) in [(&bytes, true), (&counts, false)] {
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(device), Some(operation), Some(Ok(number))) = (fields.next(), fields.next(), fields.next().map(str::parse)) else {
                continue;
            };
            let io: &mut DeviceIo = devices.entry(name(device)).or_default();
            match (operation, is_bytes) {
                ("Read", true) => io.read_bytes = number,
                ("Write", true) => io.write_bytes = number,
                ("Read", false) => io.reads = number,
                ("Write", false) => io.writes = number,
                _ => {}
            }
        }
    }
    Some(devices)
}

/// `io.stat`: lines of `<major>:<minor> rbytes=1 wbytes=2 rios=3 wios=4 …`.
pub(super) fn v2(folder: &Path) -> Option<BTreeMap<String, DeviceIo>> {
    let text = fs::read_to_string(folder.join("io.stat")).ok()?;
    let devices = text.lines().filter_map(|line| {
        let (device, rest) = line.split_once(' ')?;
        let field = |name: &str| {
            let value = rest.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        let io = DeviceIo { read_bytes: field("rbytes"), write_bytes: field("wbytes"), reads: field("rios"), writes: field("wios") };
        Some((name(device), io))
    });
    Some(devices.collect())
}

/// `/dev/<name>` of a device by its numbers; the numbers themselves where the kernel does not know it.
fn name(numbers: &str) -> String {
    let device = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    let name = device.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or_else(|| numbers.to_owned(), |name| format!("/dev/{name}"))
}
