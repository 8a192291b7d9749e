//! Ports of the machine that two pods cannot both have.

use k8s_openapi::api::core::v1::Pod;

use super::Rejection;
use crate::resources::is_sidecar;

const ANY_ADDRESS: &str = "0.0.0.0";

#[derive(PartialEq, Eq)]
struct HostPort<'a> {
    address: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    fn conflicts(&self, other: &Self) -> bool {
        let addresses = [self.address, other.address];
        self.protocol == other.protocol && self.port == other.port && (self.address == other.address || addresses.contains(&ANY_ADDRESS))
    }
}

pub(super) fn check(pod: &Pod, others: &[&Pod]) -> Result<(), Rejection> {
    let wanted = host_ports(pod);
    let mut used = others.iter().flat_map(|other| host_ports(other));
    if used.any(|used| wanted.iter().any(|wanted| wanted.conflicts(&used))) {
        return Err(Rejection::predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

/// The host ports of all containers that run as long as the pod does. In the host's network every port is one.
fn host_ports(pod: &Pod) -> Vec<HostPort<'_>> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let host_network = spec.host_network.unwrap_or(false);
    let sidecars = spec.init_containers.iter().flatten();
    let ports =
        sidecars.filter(|container| is_sidecar(container)).chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .map(|port| HostPort {
            address: non_empty(port.host_ip.as_deref()).unwrap_or(ANY_ADDRESS),
            protocol: non_empty(port.protocol.as_deref()).unwrap_or("TCP"),
            port: match port.host_port.unwrap_or_default() {
                0 if host_network => port.container_port,
                port => port,
            },
        })
        .filter(|port| port.port > 0)
        .collect()
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
