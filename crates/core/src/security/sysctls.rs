use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Sysctl};

/// The reason with which the kubelet refuses a pod for its sysctls.
pub const SYSCTL_FORBIDDEN: &str = "SysctlForbidden";

/// Sysctls that only touch the pod's own namespaces (Kubernetes 1.37, `pkg/kubelet/sysctl/safe_sysctls.go`).
const SAFE: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// The kind of namespace that a sysctl belongs to, as the kubelet names it; `None` for those of the whole machine.
fn namespace(name: &str) -> Option<&'static str> {
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    match name {
        "kernel.domainname" => Some("UTS"),
        name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Some("IPC"),
        name if name.starts_with("net.") => Some("Net"),
        name if name.starts_with("user.") => Some("User"),
        _ => None,
    }
}

/// The name with dots between its parts: whichever of `.` and `/` comes first separates, the other one then stands for itself
/// (`net/ipv4/conf/eno2.100/rp_filter` is `net.ipv4.conf.eno2/100.rp_filter`).
fn normal(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|at| name[at..].starts_with('.')) {
        return name.to_owned();
    }
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    });
    swapped.collect()
}

fn listed(pod: &Pod) -> &[Sysctl] {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default()
}

/// The pod's sysctls with dots, as they are written inside its namespaces.
pub fn sysctls(pod: &Pod) -> BTreeMap<String, String> {
    listed(pod).iter().map(|sysctl| (normal(&sysctl.name), sysctl.value.clone())).collect()
}

/// The first sysctl that is neither safe nor allowed, or that would reach beyond the pod, in the kubelet's words. Patterns of
/// `allowed_unsafe` that end in `*` are prefixes; one that is not of a namespace allows nothing.
pub fn forbidden_sysctl(pod: &Pod, allowed_unsafe: &[String]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let shared = |namespace: &str| match namespace {
        "IPC" => spec.host_ipc.unwrap_or(false),
        "Net" => spec.host_network.unwrap_or(false),
        "User" => spec.host_users.unwrap_or(true),
        _ => false,
    };
    listed(pod).iter().find_map(|sysctl| {
        let name = normal(&sysctl.name);
        let by_pattern = |pattern: &String| {
            let pattern = normal(pattern);
            let (matches, stem) = match pattern.split_once('*') {
                Some((prefix, _)) => (name.starts_with(prefix), prefix),
                None => (name == pattern, pattern.as_str()),
            };
            if matches { namespace(stem) } else { None }
        };
        let safe = if SAFE.contains(&name.as_str()) { namespace(&name) } else { None };
        match safe.or_else(|| allowed_unsafe.iter().find_map(by_pattern)) {
            None => Some(format!("forbidden sysctl: {name:?} not allowlisted")),
            Some(kind) if shared(kind) => Some(format!("forbidden sysctl: {name:?} not allowed with host {kind} enabled")),
            Some(_) => None,
        }
    })
}
