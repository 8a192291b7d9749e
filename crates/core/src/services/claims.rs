//! What one owner wants: a Service its addresses, a pod its host ports.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoints::{self, Usable};
use super::objects::{HostPort, Service, ServicePort, Slice};
use kube_pet_rules::services::{Address, Forward, Frontend, Rule};
use kube_pet_rules::{Family, Network};

/// Who has a claim on frontends. The order decides between two that are equal otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    /// A Service, by namespace and name.
    Service(Arc<str>),
    /// A pod, by UID.
    Pod(Arc<str>),
}

/// Who wins a frontend that several want: the lowest.
///
/// The API server gives a ClusterIP to one Service only, so nobody takes it away by naming it an external IP. External IPs
/// belong to the oldest Service. Pods with the same host port are not admitted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    ClusterIp,
    External { created: i64 },
    HostPort,
}

/// One frontend that an owner wants.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) frontend: Frontend,
    pub(super) precedence: Precedence,
    pub(super) rule: Rule,
}

/// The claims of a Service; of two on the same frontend the first counts.
pub(super) fn of_service(service: &Service, slices: &[Slice], zone: Option<&str>) -> Vec<Claim> {
    let mut claims = Vec::new();
    if !service.proxied {
        return claims;
    }
    for family in Family::ALL {
        let cluster_ips: Vec<IpAddr> = of_family(&service.cluster_ips, family).collect();
        if cluster_ips.is_empty() {
            continue;
        }
        // As with kube-proxy: what leads nowhere is told at once, and does not leave the node.
        claims.extend(cluster_ips.iter().map(|ip| Claim {
            frontend: Frontend::rest(*ip),
            precedence: Precedence::ClusterIp,
            rule: Rule::Reject,
        }));
        for port in &service.ports {
            let usable = endpoints::usable(&endpoints::merge(slices, family, port), zone);
            let internal = internal_rule(service, &usable);
            for ip in &cluster_ips {
                claims.push(claim(Address::Ip(*ip), port, port.port, Precedence::ClusterIp, internal.clone()));
            }
            external(service, family, port, &usable, &mut claims);
        }
    }
    claims
}

/// The claims on external IPs, load balancers' IPs and the node port.
fn external(service: &Service, family: Family, port: &ServicePort, usable: &Usable, claims: &mut Vec<Claim>) {
    let rule = external_rule(service, usable, Vec::new());
    let precedence = Precedence::External { created: service.created };
    for ip in of_family(&service.external_ips, family) {
        claims.push(claim(Address::Ip(ip), port, port.port, precedence, rule.clone()));
    }
    for ip in of_family(&service.load_balancer_ips, family) {
        let rule = external_rule(service, usable, sources(service, family));
        claims.push(claim(Address::Ip(ip), port, port.port, precedence, rule));
    }
    if port.node_port != 0 {
        claims.push(claim(Address::Node(family), port, port.node_port, precedence, rule));
    }
}

fn claim(address: Address, service_port: &ServicePort, port: u16, precedence: Precedence, rule: Rule) -> Claim {
    Claim { frontend: Frontend { address, protocol: service_port.protocol, port }, precedence, rule }
}

/// For the ClusterIP.
fn internal_rule(service: &Service, usable: &Usable) -> Rule {
    let endpoints = if service.internal_local { &usable.local } else { &usable.cluster };
    if usable.cluster.is_empty() {
        Rule::Reject
    } else if endpoints.is_empty() {
        Rule::Drop
    } else {
        Rule::Forward(Forward { endpoints: endpoints.clone(), affinity: service.affinity, ..Forward::default() })
    }
}

/// For all other addresses.
fn external_rule(service: &Service, usable: &Usable, sources: Vec<Network>) -> Rule {
    if usable.cluster.is_empty() {
        return Rule::Reject;
    }
    let affinity = service.affinity;
    Rule::Forward(if service.external_local {
        // Endpoints see the client. This node and its pods are served as if their packets had gone out and come back through
        // the load balancer.
        let (endpoints, inside) = (usable.local.clone(), Some(usable.cluster.clone()));
        Forward { endpoints, inside, masquerade: false, affinity, sources }
    } else {
        Forward { endpoints: usable.cluster.clone(), inside: None, masquerade: true, affinity, sources }
    })
}

/// Ranges of one family say nothing about the other. One that has all addresses is none.
fn sources(service: &Service, family: Family) -> Vec<Network> {
    let mut sources: Vec<Network> = service.source_ranges.iter().copied().filter(|range| Family::of(range.address) == family).collect();
    if sources.iter().any(|range| range.prefix == 0) {
        sources.clear();
    }
    sources.sort();
    sources.dedup();
    sources
}

/// The claims of a pod's host ports.
pub(super) fn of_pod(ips: &[IpAddr], ports: &[HostPort]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for port in ports {
        let wanted = port.address.filter(|address| !address.is_unspecified());
        for ip in ips {
            // `0.0.0.0` and `::` stand for all addresses of all families, as the scheduler sees them.
            let address = match wanted {
                None => Address::Node(Family::of(*ip)),
                Some(address) if Family::of(address) == Family::of(*ip) => Address::Ip(address),
                Some(_) => continue,
            };
            claims.push(Claim {
                frontend: Frontend { address, protocol: port.protocol, port: port.port },
                precedence: Precedence::HostPort,
                rule: Rule::Forward(Forward { endpoints: vec![SocketAddr::new(*ip, port.container_port)], ..Forward::default() }),
            });
        }
    }
    claims
}

fn of_family(ips: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> + '_ {
    ips.iter().copied().filter(move |ip| Family::of(*ip) == family)
}
