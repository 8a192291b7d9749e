//! One table for each rule, and the property that the order of events does not matter.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::*;

mod contention;
mod endpoints;
mod events;
mod external;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A Service `ns/web` at 10.96.0.1 with the port 80.
pub(super) fn service() -> Service {
    Service {
        key: "ns/web".into(),
        created: 100,
        proxied: true,
        cluster_ips: [ip("10.96.0.1")].into(),
        external_ips: [].into(),
        load_balancer_ips: [].into(),
        source_ranges: [].into(),
        ports: [port("", 80)].into(),
        internal_local: false,
        external_local: false,
        affinity: None,
        health_check_port: None,
    }
}

pub(super) fn port(name: &str, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: 0 }
}

/// A ready endpoint on another node.
pub(super) fn endpoint(address: &str) -> Endpoint {
    Endpoint { address: ip(address), local: false, ready: true, serving: true, terminating: false, for_node: None, for_zones: [].into() }
}

pub(super) fn local(address: &str) -> Endpoint {
    Endpoint { local: true, ..endpoint(address) }
}

/// Ends, but still serves.
pub(super) fn ending(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, terminating: true, ..endpoint }
}

pub(super) fn unready(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, serving: false, ..endpoint }
}

/// A slice of `ns/web` whose endpoints have the port 8080.
pub(super) fn slice(name: &str, endpoints: impl Into<Box<[Endpoint]>>) -> Slice {
    let endpoints = endpoints.into();
    let family = endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.address));
    Slice {
        key: format!("ns/{name}").into(),
        service: "ns/web".into(),
        family,
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints,
    }
}

pub(super) fn compiled(service: Service, slices: impl IntoIterator<Item = Slice>) -> Compiler {
    let mut compiler = Compiler::default();
    compiler.apply(Event::Service(Arc::new(service)));
    for slice in slices {
        compiler.apply(Event::Slice(slice));
    }
    compiler
}

pub(super) fn frontend(address: Address, port: u16) -> Frontend {
    Frontend { address, protocol: Protocol::Tcp, port }
}

pub(super) fn cluster_ip() -> Frontend {
    frontend(Address::Ip(ip("10.96.0.1")), 80)
}

pub(super) fn to(endpoints: &[&str]) -> Forward {
    Forward { endpoints: endpoints.iter().map(|text| at(text)).collect(), ..Forward::default() }
}

/// The rule of a frontend, which must be there.
pub(super) fn rule(compiler: &Compiler, frontend: Frontend) -> Rule {
    compiler.rules().remove(&frontend).unwrap_or_else(|| panic!("{frontend:?} has no rule: {:?}", compiler.rules()))
}

#[test]
fn a_cluster_ip_leads_to_the_ready_endpoints_of_all_slices() {
    let compiler =
        compiled(service(), [slice("b", [endpoint("10.244.2.2")]), slice("a", [endpoint("10.244.1.2"), endpoint("10.244.1.1")])]);
    let all = to(&["10.244.1.1:8080", "10.244.1.2:8080", "10.244.2.2:8080"]);
    assert_eq!(rule(&compiler, cluster_ip()), Rule::Forward(all));
    assert_eq!(rule(&compiler, Frontend::rest(ip("10.96.0.1"))), Rule::Reject, "other ports");
    assert_eq!(compiler.rules().len(), 2);
}

#[test]
fn without_endpoints_the_client_is_told_at_once() {
    assert_eq!(rule(&compiled(service(), []), cluster_ip()), Rule::Reject);
    assert_eq!(rule(&compiled(service(), [slice("a", [unready(endpoint("10.244.1.1"))])]), cluster_ip()), Rule::Reject);
}

#[test]
fn headless_and_foreign_services_are_left_alone() {
    let headless = Service { cluster_ips: [].into(), external_ips: [ip("192.0.2.1")].into(), ..service() };
    let foreign = Service { proxied: false, ..service() };
    for service in [headless, foreign] {
        assert!(compiled(service, [slice("a", [endpoint("10.244.1.1")])]).rules().is_empty());
    }
}

#[test]
fn each_family_has_its_own_endpoints() {
    let dual = Service { cluster_ips: [ip("10.96.0.1"), ip("fd00:96::1")].into(), ..service() };
    let v6 = slice("six", [endpoint("fd00:244::1")]);
    let compiler = compiled(dual, [slice("four", [endpoint("10.244.1.1")]), v6]);
    assert_eq!(rule(&compiler, cluster_ip()), Rule::Forward(to(&["10.244.1.1:8080"])));
    assert_eq!(rule(&compiler, frontend(Address::Ip(ip("fd00:96::1")), 80)), Rule::Forward(to(&["[fd00:244::1]:8080"])));
}

#[test]
fn ports_find_their_endpoints_by_name_and_protocol() {
    let udp = ServicePort { protocol: Protocol::Udp, ..port("dns", 53) };
    let service = Service { ports: [port("dns-tcp", 53), udp, port("metrics", 9153)].into(), ..service() };
    let named = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port };
    let mut one = slice("a", [endpoint("10.244.1.1")]);
    one.ports = [named("dns", Protocol::Udp, 5353), named("dns-tcp", Protocol::Tcp, 5354), named("metrics", Protocol::Udp, 1)].into();
    // A pod with another number under the same name is in another slice.
    let mut other = slice("b", [endpoint("10.244.1.2")]);
    other.ports = [named("dns", Protocol::Udp, 6353)].into();
    let compiler = compiled(service, [one, other]);
    let find = |protocol, port| rule(&compiler, Frontend { address: Address::Ip(ip("10.96.0.1")), protocol, port });
    assert_eq!(find(Protocol::Udp, 53), Rule::Forward(to(&["10.244.1.1:5353", "10.244.1.2:6353"])));
    assert_eq!(find(Protocol::Tcp, 53), Rule::Forward(to(&["10.244.1.1:5354"])));
    assert_eq!(find(Protocol::Tcp, 9153), Rule::Reject);
}

#[test]
fn affinity_holds_for_every_address() {
    let affinity = Some(Duration::from_secs(7));
    let service = Service { affinity, external_ips: [ip("192.0.2.1")].into(), ..service() };
    let compiler = compiled(service, [slice("a", [endpoint("10.244.1.1")])]);
    let forwards: Vec<_> = compiler.rules().iter().map(|(_, rule)| rule).filter(|rule| *rule != Rule::Reject).collect();
    assert_eq!(forwards.len(), 2);
    for rule in forwards {
        assert!(matches!(&rule, Rule::Forward(forward) if forward.affinity == affinity), "{rule:?}");
    }
}

#[test]
fn networks_are_read_as_the_api_server_takes_them() {
    for (text, read) in [
        (" 10.1.2.3/8 ", Some("10.0.0.0/8")),
        ("10.1.2.3/32", Some("10.1.2.3/32")),
        ("10.1.2.3/0", Some("0.0.0.0/0")),
        ("fd00::1/64", Some("fd00::/64")),
        ("::/0", Some("::/0")),
        ("fd00::1/128", Some("fd00::1/128")),
        ("10.1.2.3/33", None),
        ("10.1.2.3", None),
    ] {
        assert_eq!(text.parse::<Network>().ok().map(|network| network.to_string()).as_deref(), read, "{text}");
    }
}
