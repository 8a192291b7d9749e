//! Which endpoints a Service's port has on this node: kube-proxy's `CategorizeEndpoints` and its cache of slices.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::objects::{Endpoint, ServicePort, Slice};
use kube_pet_rules::Family;

/// The endpoints that can be used for one port of a Service, sorted.
#[derive(Debug, Default)]
pub(super) struct Usable {
    /// For the traffic policy `Cluster`. If there is none, there is none on any node.
    pub(super) cluster: Vec<SocketAddr>,
    /// For the traffic policy `Local`.
    pub(super) local: Vec<SocketAddr>,
}

/// The endpoints of one port in one family, of all slices together.
///
/// An address can be in two slices for a moment, while an endpoint moves or when an address is given again: the one that does
/// not end wins. `slices` must come in a fixed order.
pub(super) fn merge<'a>(slices: &'a [Slice], family: Family, port: &ServicePort) -> Vec<(SocketAddr, &'a Endpoint)> {
    let mut found: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        for slice_port in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, slice_port.port);
                if !endpoint.terminating || !found.contains_key(&address) {
                    found.insert(address, endpoint);
                }
            }
        }
    }
    found.into_iter().collect()
}

/// Chooses. Ready endpoints; without one those that still serve while they end, for each policy by itself.
pub(super) fn usable(endpoints: &[(SocketAddr, &Endpoint)], zone: Option<&str>) -> Usable {
    let choose = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        endpoints.iter().filter(|(_, endpoint)| wanted(endpoint)).map(|(address, _)| *address).collect()
    };
    let closeness = closeness(endpoints, zone);
    let mut cluster = choose(&|endpoint| endpoint.ready && closeness.admits(endpoint));
    if cluster.is_empty() {
        cluster = choose(&ending);
    }
    let mut local = choose(&|endpoint| endpoint.local && endpoint.ready);
    if local.is_empty() {
        local = choose(&|endpoint| endpoint.local && ending(endpoint));
    }
    Usable { cluster, local }
}

fn ending(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// How close endpoints must be.
#[derive(Clone, Copy)]
enum Closeness<'a> {
    Anywhere,
    Node,
    Zone(&'a str),
}

impl Closeness<'_> {
    fn admits(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Node => endpoint.for_node == Some(true),
            Self::Zone(zone) => for_zone(endpoint, zone),
        }
    }
}

fn for_zone(endpoint: &Endpoint, zone: &str) -> bool {
    endpoint.for_zones.iter().any(|hint| &**hint == zone)
}

/// Hints hold if every ready endpoint has one, and one of them names this node, or else this zone. The slices' controller
/// follows changes later than the endpoints do: half-made hints would overload some.
fn closeness<'a>(endpoints: &[(SocketAddr, &Endpoint)], zone: Option<&'a str>) -> Closeness<'a> {
    let ready = || endpoints.iter().map(|(_, endpoint)| *endpoint).filter(|endpoint| endpoint.ready);
    if ready().all(|e| e.for_node.is_some()) && ready().any(|e| e.for_node == Some(true)) {
        return Closeness::Node;
    }
    match zone {
        Some(zone) if ready().all(|e| !e.for_zones.is_empty()) && ready().any(|e| for_zone(e, zone)) => Closeness::Zone(zone),
        _ => Closeness::Anywhere,
    }
}
