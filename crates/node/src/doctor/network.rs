//! Ports, forwarding, and networks that are in each other's way.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

use kube_pet_host::routes::{self, Route};
use rustix::io::Errno;
use rustix::net::{self, sockopt};

use super::repairs::Repair;
use super::{Finding, Machine};
use crate::config::{IpNet, NodeConfiguration};

/// Where the DNS cache listens.
const DNS_PORT: u16 = 53;

pub(super) fn examine(machine: &Machine, config: &NodeConfiguration) -> Vec<Finding> {
    let mut findings = vec![port(machine, "port-api", config.address, config.port)];
    if config.healthz_port != 0 {
        findings.push(port(machine, "port-health", config.healthz_bind_address, config.healthz_port));
    }
    if config.dns_cache.enabled {
        findings.push(dns_port(machine, config.dns_cache.address));
    }
    findings.push(forwarding(machine));
    findings.extend(clashes(machine, config));
    findings
}

fn port(machine: &Machine, id: &'static str, address: IpAddr, port: u16) -> Finding {
    let address = SocketAddr::new(address, port);
    let Err(error) = TcpListener::bind(address) else { return Finding::ok(id, format!("port {port} is free")) };
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return Finding::error(id, format!("nothing can listen on {address}"), error.to_string(), "correct address and port in node.yaml");
    }
    match listener(machine, None, port) {
        Some((_, name)) if name == "kube-pet" => Finding::ok(id, format!("the agent listens on port {port}")),
        Some((pid, name)) => Finding::error(
            id,
            format!("port {port} is taken"),
            format!("process {pid} ({name}) listens on it"),
            if name.starts_with("kubelet") || name.starts_with("k3s") {
                "stop and disable it: a machine has one agent"
            } else {
                "stop it, or choose another port in node.yaml"
            },
        ),
        None => Finding::error(
            id,
            format!("port {port} is taken"),
            "some process listens on it",
            format!("find it with ss -tlnp 'sport = :{port}'"),
        ),
    }
}

/// The port of the DNS cache, at an address that only the agent gives the machine.
fn dns_port(machine: &Machine, address: Ipv4Addr) -> Finding {
    const ID: &str = "port-dns";
    const FIX: &str = "let it listen at addresses of its own, not at all of the machine's; or set another dnsCache.address";
    let bound = (|| {
        let socket = net::socket_with(net::AddressFamily::INET, net::SocketType::DGRAM, net::SocketFlags::CLOEXEC, None)?;
        sockopt::set_ip_freebind(&socket, true)?;
        net::bind(&socket, &SocketAddrV4::new(address, DNS_PORT))
    })();
    match bound {
        Ok(()) => Finding::ok(ID, format!("port {DNS_PORT} of {address} is free")),
        Err(Errno::ADDRINUSE) => match listener(machine, Some(address), DNS_PORT) {
            Some((_, name)) if name == "kube-pet" => Finding::ok(ID, format!("the agent listens on port {DNS_PORT} of {address}")),
            found => {
                let who = found.map_or_else(|| "some process".to_owned(), |(pid, name)| format!("process {pid} ({name})"));
                Finding::error(
                    ID,
                    format!("port {DNS_PORT} of {address} is taken"),
                    format!("{who} listens on it: there is no DNS cache"),
                    FIX,
                )
            }
        },
        Err(error) => Finding::error(ID, format!("nothing can listen on {address}:{DNS_PORT}"), error.to_string(), FIX),
    }
}

/// Which process listens on a port: at any address, or where it would be in the way of one.
fn listener(machine: &Machine, address: Option<Ipv4Addr>, port: u16) -> Option<(u32, String)> {
    const LISTEN: &str = "0A";
    // As the kernel writes it: a number in the processor's own order.
    let at = address.map(|address| format!("{:08X}", u32::from_ne_bytes(address.octets())));
    let matches = |local: &str| {
        local.rsplit_once(':').is_some_and(|(found, hex)| {
            let here = at.as_ref().is_none_or(|at| found == at || found.bytes().all(|digit| digit == b'0'));
            here && u16::from_str_radix(hex, 16).ok() == Some(port)
        })
    };
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in machine.read(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields.as_slice() else { continue };
            if *state == LISTEN && matches(local) {
                sockets.insert(format!("socket:[{inode}]"));
            }
        }
    }
    for process in std::fs::read_dir(machine.path("/proc")).ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let files = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = files
            .into_iter()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.to_str().is_some_and(|target| sockets.contains(target))));
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

fn forwarding(machine: &Machine) -> Finding {
    const SETTING: &str = "/proc/sys/net/ipv4/ip_forward";
    if machine.read(SETTING).is_some_and(|text| text.trim() == "1") {
        return Finding::ok("ip-forward", "the machine forwards packets");
    }
    Finding::warn(
        "ip-forward",
        "the machine does not forward packets",
        "pods reach nothing outside of it",
        "sysctl -w net.ipv4.ip_forward=1, and the same in /etc/sysctl.d/kube-pet.conf",
    )
    .repaired_by(Repair::WriteSetting(machine.path(SETTING), "1\n"))
}

/// Whether a route takes packets from a network of ours, or ours from its own. A wider route over a gateway (a VPN to the cluster,
/// say) is in nobody's way.
fn clashes_with(route: &Route, net: &IpNet) -> bool {
    network_of(route).overlaps(net) && (route.prefix >= net.prefix || route.gateway.is_none())
}

fn network_of(route: &Route) -> IpNet {
    IpNet { address: route.destination.into(), prefix: route.prefix }
}

fn clashes(machine: &Machine, config: &NodeConfiguration) -> Vec<Finding> {
    let mut routes = routes::parse(&machine.read("/proc/net/route").unwrap_or_default());
    routes.retain(|route| route.prefix > 0 && !route.interface.starts_with(&config.link_prefix));
    let mut ours: Vec<(String, IpNet)> =
        pod_networks(machine, config).into_iter().map(|net| (format!("the pod network {net}"), net)).collect();
    for dns in config.cluster_dns.iter().filter(|dns| dns.is_ipv4()) {
        ours.push((format!("the cluster's name server {dns}"), IpNet { address: *dns, prefix: 32 }));
    }
    let mut findings: Vec<_> = ours
        .iter()
        .filter_map(|(name, net)| {
            let route = routes.iter().find(|route| clashes_with(route, net))?;
            let what = format!("{name} overlaps {} on {}", network_of(route), route.interface);
            let fix = "move one of them: set podCIDR in node.yaml, or change the machine's own network";
            Some(if route.prefix >= net.prefix {
                Finding::error("subnet-clash", what, "packets for the one would be sent to the other", fix)
            } else {
                // Each pod has a route of its own, which wins: what suffers is the other network.
                let cause = "machines of that network with a pod's address cannot be reached from here; fine if it is the way to the cluster's pods";
                Finding::warn("subnet-clash", what, cause, fix)
            })
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("subnet-clash", "the machine's networks and the cluster's do not overlap"));
    }
    findings
}

fn pod_networks(machine: &Machine, config: &NodeConfiguration) -> Vec<IpNet> {
    if !config.pod_cidr.is_empty() {
        return config.pod_cidr.clone();
    }
    // What the cluster assigned last, if there was a last time.
    let file = config.paths().node_record();
    let text = machine.read(&file.display().to_string()).unwrap_or_default();
    let known: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    known["podCIDRs"].as_array().into_iter().flatten().filter_map(|net| net.as_str()?.parse().ok()).collect()
}
