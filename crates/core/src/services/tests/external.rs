//! External IPs, load balancers, node ports, host ports.

use super::*;

fn everywhere() -> Service {
    Service {
        external_ips: [ip("192.0.2.1"), ip("fd00::1")].into(),
        load_balancer_ips: [ip("198.51.100.1")].into(),
        ports: [ServicePort { node_port: 30080, ..port("", 80) }].into(),
        ..service()
    }
}

fn external() -> [Frontend; 3] {
    [frontend(Address::Ip(ip("192.0.2.1")), 80), frontend(Address::Ip(ip("198.51.100.1")), 80), frontend(Address::Node(Family::V4), 30080)]
}

#[test]
fn traffic_from_outside_is_masqueraded() {
    let compiler = compiled(everywhere(), [slice("a", [endpoint("10.0.0.1")])]);
    let masqueraded = Rule::Forward(Forward { masquerade: true, ..to(&["10.0.0.1:8080"]) });
    for frontend in external() {
        assert_eq!(rule(&compiler, frontend), masqueraded);
    }
    assert_eq!(rule(&compiler, cluster_ip()), Rule::Forward(to(&["10.0.0.1:8080"])));
    // The external IP of a family that the Service does not have is no frontend.
    assert_eq!(compiler.rules().len(), 5, "and what is no port of the ClusterIP");
}

#[test]
fn without_endpoints_every_address_rejects() {
    for service in [everywhere(), Service { external_local: true, ..everywhere() }] {
        let rules = compiled(service, []).rules();
        assert_eq!(rules.len(), 5);
        assert!(rules.iter().all(|(_, rule)| rule == Rule::Reject), "{rules:?}");
    }
}

#[test]
fn external_policy_local_keeps_clients_addresses_and_serves_the_node_from_everywhere() {
    let service = Service { external_local: true, ..everywhere() };
    let compiler = compiled(service.clone(), [slice("a", [endpoint("10.0.0.1"), local("10.0.0.2")])]);
    let inside = Some(vec![at("10.0.0.1:8080"), at("10.0.0.2:8080")]);
    for frontend in external() {
        assert_eq!(rule(&compiler, frontend), Rule::Forward(Forward { inside: inside.clone(), ..to(&["10.0.0.2:8080"]) }));
    }
    assert_eq!(rule(&compiler, cluster_ip()), Rule::Forward(to(&["10.0.0.1:8080", "10.0.0.2:8080"])));
    let elsewhere = compiled(service, [slice("a", [endpoint("10.0.0.1")])]);
    for frontend in external() {
        assert_eq!(rule(&elsewhere, frontend), Rule::Forward(Forward { inside: Some(vec![at("10.0.0.1:8080")]), ..to(&[]) }));
    }
}

#[test]
fn a_local_endpoint_that_ends_is_used_where_others_are_ready_elsewhere() {
    let service = Service { external_local: true, ..everywhere() };
    let compiler = compiled(service, [slice("a", [endpoint("10.0.0.1"), ending(local("10.0.0.2"))])]);
    let forward = Forward { inside: Some(vec![at("10.0.0.1:8080")]), ..to(&["10.0.0.2:8080"]) };
    assert_eq!(rule(&compiler, external()[2]), Rule::Forward(forward));
}

#[test]
fn source_ranges_hold_for_the_load_balancer_only() {
    let sources = |ranges: &[&str]| {
        let source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let compiler = compiled(Service { source_ranges, ..everywhere() }, [slice("a", [endpoint("10.0.0.1")])]);
        external().map(|frontend| match rule(&compiler, frontend) {
            Rule::Forward(forward) => forward.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        })
    };
    let none = Vec::<String>::new;
    assert_eq!(
        sources(&["203.0.113.0/24", "fd00::/8", "10.0.0.0/8"]),
        [none(), vec!["10.0.0.0/8".into(), "203.0.113.0/24".into()], none()]
    );
    assert_eq!(sources(&["203.0.113.0/24", "0.0.0.0/0"]), [none(), none(), none()]);
    assert_eq!(sources(&["fd00::/8"]), [none(), none(), none()]);
}

#[test]
fn a_health_check_counts_ready_endpoints_of_this_node_by_address() {
    let service = Service { external_local: true, health_check_port: Some(32000), ..everywhere() };
    let mut slice = slice("a", [endpoint("10.0.0.1"), local("10.0.0.2"), local("10.0.0.3"), ending(local("10.0.0.4"))]);
    slice.ports = [slice.ports[0].clone(), SlicePort { name: "other".into(), ..slice.ports[0].clone() }].into();
    let mut compiler = compiled(service.clone(), [slice]);
    let check = |compiler: &Compiler| compiler.health_checks().get("ns/web").copied();
    assert_eq!(check(&compiler), Some(HealthCheck { port: 32000, local: 2 }));
    compiler.apply(Event::SliceGone("ns/a".into()));
    assert_eq!(check(&compiler), Some(HealthCheck { port: 32000, local: 0 }));
    compiler.apply(Event::Service(Arc::new(Service { health_check_port: None, ..service })));
    assert_eq!(check(&compiler), None);
}

#[test]
fn host_ports_lead_into_their_pod() {
    let mut compiler = Compiler::default();
    let host_port = |address: Option<&str>, port| HostPort { address: address.map(ip), protocol: Protocol::Tcp, port, container_port: 80 };
    let ports = vec![
        host_port(None, 8080),
        host_port(Some("0.0.0.0"), 8081),
        host_port(Some("127.0.0.1"), 8082),
        host_port(Some("192.0.2.9"), 8083),
        host_port(Some("::1"), 8084),
    ];
    let host_ports = |ips: &[&str], ports| Event::HostPorts { pod: "u1".into(), ips: ips.iter().map(|text| ip(text)).collect(), ports };
    let changes = compiler.apply(host_ports(&["10.244.0.5"], ports.clone()));
    let expected: Changes = [
        frontend(Address::Node(Family::V4), 8080),
        frontend(Address::Node(Family::V4), 8081),
        frontend(Address::Ip(ip("127.0.0.1")), 8082),
        frontend(Address::Ip(ip("192.0.2.9")), 8083),
    ]
    .into_iter()
    .map(|frontend| (frontend, Some(Rule::Forward(to(&["10.244.0.5:80"])))))
    .collect();
    assert_eq!(changes, expected);
    // A second address, of the other family.
    let changes = compiler.apply(host_ports(&["10.244.0.5", "fd00::5"], ports));
    let added: Vec<_> = changes.keys().map(|frontend| (frontend.address, frontend.port)).collect();
    assert_eq!(added, [(Address::Ip(ip("::1")), 8084), (Address::Node(Family::V6), 8080), (Address::Node(Family::V6), 8081)]);
    let changes = compiler.apply(host_ports(&["10.244.0.5", "fd00::5"], Vec::new()));
    assert_eq!(changes.len(), 7);
    assert!(changes.values().all(Option::is_none));
}
