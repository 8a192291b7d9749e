//! Space, memory and mounts.

use std::path::Path;

use kube_pet_host::machine::{self, Filesystem};

use super::repairs::Repair;
use super::{Finding, Machine};
use crate::config::{NodeConfiguration, Signal};

const TMPFS_MAGIC: u64 = 0x0102_1994;
const GIB: f64 = (1u64 << 30) as f64;

pub(super) fn examine(machine: &Machine, config: &NodeConfiguration) -> Vec<Finding> {
    let paths = config.paths();
    let store = config.podman.store();
    let mut findings = vec![
        space("disk-state", &paths.state_dir(), config, Signal::NodefsAvailable),
        space("disk-images", &store, config, Signal::ImagefsAvailable),
        run_folder(&paths.run_dir()),
        propagation(machine),
    ];
    if let Ok(memory) = machine::memory() {
        findings.push(if memory.swap_total > 0 {
            Finding::warn(
                "swap",
                format!("{:.1} GiB of swap space is in use for pods, too", memory.swap_total as f64 / GIB),
                "Secrets and volumes in memory may reach the disk, and memory limits bite later",
                "swapoff -a and remove it from /etc/fstab, or encrypt it",
            )
        } else {
            Finding::ok("swap", "there is no swap space")
        });
    }
    findings
}

fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn space(id: &'static str, path: &Path, config: &NodeConfiguration, signal: Signal) -> Finding {
    let folder = path.display();
    let Filesystem { capacity, available, .. } = match machine::filesystem(existing(path)) {
        Ok(disk) => disk,
        Err(error) => return Finding::error(id, format!("the file system of {folder} cannot be read"), error.to_string(), "mount it"),
    };
    let limit = config.eviction_hard.get(&signal).map_or(0, |limit| limit.of(capacity));
    let free = format!("{folder}: {:.1} of {:.1} GiB are free", available as f64 / GIB, capacity as f64 / GIB);
    let below = format!("{} is {:.1} GiB there", signal.name(), limit as f64 / GIB);
    let fix = "free space, or lower evictionHard";
    if available < limit {
        Finding::error(id, free, format!("{below}: the node has disk pressure, and takes no pods"), fix)
    } else if available < limit.saturating_mul(3) / 2 {
        Finding::warn(id, free, format!("{below}: the node will soon have disk pressure"), fix)
    } else {
        Finding::ok(id, free)
    }
}

fn run_folder(path: &Path) -> Finding {
    let in_memory = rustix::fs::statfs(existing(path)).is_ok_and(|status| u64::try_from(status.f_type) == Ok(TMPFS_MAGIC));
    if in_memory {
        return Finding::ok("run-folder", format!("{} is in memory", path.display()));
    }
    Finding::error(
        "run-folder",
        format!("{} is not in memory", path.display()),
        "Secrets and tokens would be written to a disk, and what must end with a reboot would not",
        "mount a tmpfs at /run",
    )
}

fn propagation(machine: &Machine) -> Finding {
    let mounts = machine.read("/proc/self/mountinfo").unwrap_or_default();
    // ID, parent, device, root, mount point, options, optional fields … `-`
    let root = mounts.lines().rev().find(|line| line.split(' ').nth(4) == Some("/"));
    let shared =
        root.is_some_and(|line| line.split(' ').skip(6).take_while(|field| *field != "-").any(|field| field.starts_with("shared:")));
    if shared {
        return Finding::ok("mount-propagation", "mounts of the machine are shared");
    }
    Finding::warn(
        "mount-propagation",
        "mounts of the machine are private",
        "volumes with mountPropagation HostToContainer or Bidirectional would not see new mounts",
        "mount --make-rshared /",
    )
    .repaired_by(Repair::ShareMount(machine.path("/")))
}
