//! What this process may do.

use kube_pet_host::privileges::{Capabilities, Capability};

use super::{Finding, Machine};

pub(super) fn examine(machine: &Machine) -> Vec<Finding> {
    let own = Capabilities::from_status(&machine.read("/proc/self/status").unwrap_or_default());
    let mut findings = Vec::new();
    let missing: Vec<_> = [(Capability::SysAdmin, "CAP_SYS_ADMIN"), (Capability::NetAdmin, "CAP_NET_ADMIN")]
        .into_iter()
        .filter(|(capability, _)| !own.has(*capability))
        .map(|(_, name)| name)
        .collect();
    findings.push(if missing.is_empty() {
        Finding::ok("privileges", "the agent may make namespaces, mounts and interfaces")
    } else {
        Finding::error(
            "privileges",
            format!("this process lacks {}", missing.join(" and ")),
            "pods need namespaces, mounts and network interfaces of their own",
            "run as root",
        )
    });
    if own.has(Capability::SysResource) {
        findings.push(Finding::ok("ulimits", "containers get the usual limits of open files and processes"));
        findings.push(Finding::ok("oom-score", "containers can be protected from the kernel's out-of-memory killer"));
    } else {
        let limit = |name: &str| {
            let limits = machine.read("/proc/self/limits").unwrap_or_default();
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
        };
        findings.push(Finding::warn(
            "ulimits",
            format!("containers get at most {} open files and {} processes", limit("Max open files"), limit("Max processes")),
            "this machine withholds CAP_SYS_RESOURCE, so Podman's default limits cannot be set; the agent's Podman service lowers them",
            "raise the hard limits of the agent's unit (LimitNOFILE=, LimitNPROC=), or give the machine CAP_SYS_RESOURCE",
        ));
        findings.push(Finding::warn(
            "oom-score",
            "containers cannot be given a lower oom_score_adj than the agent's own",
            "this machine withholds CAP_SYS_RESOURCE; Guaranteed and critical pods lose their protection, nothing else",
            "give the machine CAP_SYS_RESOURCE",
        ));
    }
    findings
}
