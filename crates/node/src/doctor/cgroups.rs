//! How the cgroup hierarchies are mounted.

use super::repairs::Repair;
use super::{Finding, Machine};

const ROOT: &str = "/sys/fs/cgroup";

pub(super) fn examine(machine: &Machine) -> Vec<Finding> {
    let mounts = machine.read("/proc/self/mounts").unwrap_or_default();
    // device, folder, type, options
    let mounted: Vec<(&str, &str, &str)> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .filter(|(path, kind, _)| path.starts_with(ROOT) && kind.starts_with("cgroup"))
        .collect();
    if mounted.iter().any(|(path, kind, _)| *path == ROOT && *kind == "cgroup2") {
        return vec![unified(machine)];
    }
    if !mounted.iter().any(|(_, kind, _)| *kind == "cgroup") {
        return vec![Finding::error(
            "cgroups",
            format!("no cgroup hierarchy is mounted below {ROOT}"),
            "containers' limits are set there",
            "boot with systemd or another init that mounts them, or: mount -t cgroup2 cgroup /sys/fs/cgroup",
        )];
    }
    let mut findings = vec![Finding::warn(
        "cgroups",
        "the cgroup hierarchies are of version 1",
        "Podman 5 and crun's newer versions give it up, and memory pressure is measured worse",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )];
    let controllers = machine.read("/proc/cgroups").unwrap_or_default();
    let enabled = |name: &str| controllers.lines().any(|line| line.split('\t').next() == Some(name) && line.ends_with("\t1"));
    let has = |name: &str| mounted.iter().any(|(_, kind, options)| *kind == "cgroup" && options.split(',').any(|option| option == name));
    let missing: Vec<_> = ["cpu", "memory", "pids"].into_iter().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        findings.push(Finding::error(
            "cgroup-controllers",
            format!("the controllers {} are not mounted", missing.join(", ")),
            "limits of containers cannot be set without them",
            format!("mount each, such as: mount -t cgroup -o {0} cgroup {ROOT}/{0}", missing.first().unwrap_or(&"memory")),
        ));
    }
    let hybrid = mounted.iter().any(|(_, kind, _)| *kind == "cgroup2");
    if hybrid && enabled("hugetlb") && !has("hugetlb") {
        let path = format!("{ROOT}/hugetlb");
        findings.push(
            Finding::error(
                "cgroup-hugetlb",
                "the hierarchies are of both versions, and the controller hugetlb is mounted in neither",
                "crun refuses to start any container then",
                format!("mkdir -p {path} && mount -t cgroup -o hugetlb cgroup {path}"),
            )
            .repaired_by(Repair::MountController(machine.path(&path), "hugetlb")),
        );
    }
    findings
}

fn unified(machine: &Machine) -> Finding {
    let controllers = machine.read(&format!("{ROOT}/cgroup.controllers")).unwrap_or_default();
    let missing: Vec<_> =
        ["cpu", "memory", "pids"].into_iter().filter(|name| !controllers.split_whitespace().any(|have| have == *name)).collect();
    if missing.is_empty() {
        return Finding::ok("cgroups", "the cgroup hierarchy is of version 2, with cpu, memory and pids");
    }
    Finding::error(
        "cgroups",
        format!("the cgroup hierarchy lacks the controllers {}", missing.join(", ")),
        "limits of containers cannot be set without them",
        "remove cgroup_disable= from the kernel's command line (on a Raspberry Pi, add cgroup_enable=memory)",
    )
}
