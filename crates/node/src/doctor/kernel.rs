//! Features of the kernel.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::repairs::Repair;
use super::{Finding, Machine, Severity};

struct Feature {
    id: &'static str,
    option: &'static str,
    module: &'static str,
    /// What is without it.
    severity: Severity,
    needed: &'static str,
}

const FEATURES: [Feature; 5] = [
    Feature {
        id: "kernel-overlay",
        option: "OVERLAY_FS",
        module: "overlay",
        severity: Severity::Warn,
        needed: "without it, each container copies its image",
    },
    Feature {
        id: "kernel-veth",
        option: "VETH",
        module: "veth",
        severity: Severity::Error,
        needed: "every pod's network interface is one",
    },
    Feature {
        id: "kernel-nftables",
        option: "NF_TABLES",
        module: "nf_tables",
        severity: Severity::Warn,
        needed: "services and network policies will be its rules; this version has none yet",
    },
    Feature {
        id: "kernel-conntrack",
        option: "NF_CONNTRACK",
        module: "nf_conntrack",
        severity: Severity::Warn,
        needed: "services will remember their connections with it; this version has none yet",
    },
    // The tunnel is not there yet, and will have an implementation of its own for such kernels.
    Feature {
        id: "kernel-wireguard",
        option: "WIREGUARD",
        module: "wireguard",
        severity: Severity::Ok,
        needed: "the tunnel is faster with it",
    },
];

/// Whether the kernel has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    Loadable,
    Absent,
    Unknown,
}

pub(super) fn examine(machine: &Machine) -> Vec<Finding> {
    let release = machine.read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let config = configuration(machine, &release);
    let mut findings: Vec<_> = FEATURES.iter().map(|feature| examine_feature(machine, &release, config.as_deref(), feature)).collect();
    findings.push(namespaces(machine));
    findings
}

fn examine_feature(machine: &Machine, release: &str, config: Option<&str>, feature: &Feature) -> Finding {
    let Feature { id, option, module, severity, needed } = feature;
    match presence(machine, release, config, option, module) {
        Presence::Here => Finding::ok(id, format!("the kernel has {module}")),
        Presence::Loadable => Finding::warn(
            id,
            format!("the module {module} is not loaded"),
            "some machines forbid to load modules later",
            format!("modprobe {module}, and a line {module} in /etc/modules-load.d/kube-pet.conf for the next boot"),
        )
        .repaired_by(Repair::LoadModule(module)),
        Presence::Absent if *severity == Severity::Ok => {
            Finding::ok(id, format!("the kernel {release} has no {module}; the agent does without"))
        }
        Presence::Absent => Finding::bad(
            id,
            *severity,
            format!("the kernel {release} has no {module}"),
            *needed,
            format!("install a kernel with CONFIG_{option}"),
        ),
        Presence::Unknown => Finding::ok(id, format!("whether the kernel {release} has {module} cannot be told")),
    }
}

fn presence(machine: &Machine, release: &str, config: Option<&str>, option: &str, module: &str) -> Presence {
    let listed = |path: &str, test: &dyn Fn(&str) -> bool| machine.read(path).is_some_and(|text| text.lines().any(test));
    let file = format!("/{module}.ko");
    let is_file = |line: &str| line.split(':').next().unwrap_or_default().contains(&file);
    let modules = format!("/lib/modules/{release}");
    if machine.path(&format!("/sys/module/{module}")).exists()
        || listed("/proc/modules", &|line| line.split(' ').next() == Some(module))
        || listed("/proc/filesystems", &|line| line.split('\t').next_back() == Some(module))
        || listed(&format!("{modules}/modules.builtin"), &is_file)
    {
        return Presence::Here;
    }
    if listed(&format!("{modules}/modules.dep"), &is_file) {
        return Presence::Loadable;
    }
    let Some(config) = config else { return Presence::Unknown };
    let value = config.lines().find_map(|line| line.strip_prefix(&format!("CONFIG_{option}=")));
    match value {
        Some("y") => Presence::Here,
        // A module whose file is not there: the kernel was updated without a reboot, or runs on another machine's disk.
        Some(_) | None => Presence::Absent,
    }
}

fn configuration(machine: &Machine, release: &str) -> Option<String> {
    if let Ok(packed) = std::fs::read(machine.path("/proc/config.gz")) {
        let mut text = String::new();
        GzDecoder::new(packed.as_slice()).read_to_string(&mut text).ok()?;
        return Some(text);
    }
    machine.read(&format!("/boot/config-{release}"))
}

pub(super) fn user_namespaces(missing: Option<String>) -> Finding {
    const ID: &str = "user-namespaces";
    let Some(reason) = missing else { return Finding::ok(ID, "pods can have user namespaces (hostUsers: false)") };
    Finding::warn(
        ID,
        "pods with hostUsers: false are refused",
        reason,
        "run Linux 6.3 or newer with user namespaces allowed, /var/lib/kube-pet on ext4, xfs or btrfs, and the agent's own Podman service",
    )
}

fn namespaces(machine: &Machine) -> Finding {
    let missing: Vec<_> =
        ["net", "ipc", "uts", "pid", "mnt"].into_iter().filter(|kind| !machine.path(&format!("/proc/self/ns/{kind}")).exists()).collect();
    if missing.is_empty() {
        return Finding::ok("kernel-namespaces", "the kernel has all kinds of namespaces");
    }
    Finding::error(
        "kernel-namespaces",
        format!("the kernel has no {} namespaces", missing.join(", ")),
        "every pod is a set of namespaces",
        "install a distribution's standard kernel",
    )
}
