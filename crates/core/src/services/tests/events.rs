//! Changes are exactly what is different, and their order does not matter.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn what_is_the_same_is_no_change() {
    let mut compiler = compiled(service(), [slice("a", [endpoint("10.0.0.1"), endpoint("10.0.0.2")])]);
    assert!(compiler.apply(Event::Service(Arc::new(service()))).is_empty());
    // Endpoints move between slices.
    assert!(compiler.apply(Event::Slice(slice("b", [endpoint("10.0.0.2")]))).is_empty());
    assert!(compiler.apply(Event::Slice(slice("a", [endpoint("10.0.0.1")]))).is_empty());
    assert!(compiler.apply(Event::SliceGone("ns/never".into())).is_empty());
    assert!(compiler.apply(Event::ServiceGone("ns/never".into())).is_empty());
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut compiler = compiled(service(), [slice("a", [endpoint("10.0.0.1")])]);
    let moved = Slice { service: "ns/other".into(), ..slice("a", [endpoint("10.0.0.1")]) };
    let changes = compiler.apply(Event::Slice(moved));
    assert_eq!(changes, [(cluster_ip(), Some(Rule::Reject))].into());
}

#[test]
fn nothing_is_left_of_what_is_gone() {
    let mut compiler = compiled(service(), [slice("a", [endpoint("10.0.0.1")])]);
    compiler.apply(Event::ServiceGone("ns/web".into()));
    compiler.apply(Event::SliceGone("ns/a".into()));
    assert_eq!(format!("{compiler:?}"), format!("{:?}", Compiler::default()));
}

/// Few names, addresses and ports, so that they meet.
fn services() -> impl Strategy<Value = Service> {
    let policies = (any::<bool>(), any::<bool>(), any::<bool>(), prop::option::weighted(0.2, Just(Duration::from_secs(9))));
    let addresses = (0_u8..3, prop::collection::vec(0_u8..4, 0..3), prop::collection::vec(0_u8..3, 0..2));
    (0_u8..4, 0_i64..3, addresses, policies, 0_u16..2, prop::option::weighted(0.2, 32000_u16..32003)).prop_map(
        |(name, created, (families, external, balancer), (proxied, internal_local, external_local, affinity), node_port, health)| Service {
            key: format!("ns/{name}").into(),
            created,
            proxied: proxied || name > 0,
            cluster_ips: match families {
                0 => [].into(),
                1 => [ip(&format!("10.96.0.{name}"))].into(),
                _ => [ip(&format!("10.96.0.{name}")), ip(&format!("fd00:96::{name}"))].into(),
            },
            // Some are the ClusterIPs of others.
            external_ips: external.iter().map(|last| ip(&format!("10.96.0.{}", last + 2))).collect(),
            load_balancer_ips: balancer.iter().map(|last| ip(&format!("fd00:96::{}", last + 2))).collect(),
            source_ranges: if health.is_some() { ["fd00::/8".parse().unwrap()].into() } else { [].into() },
            ports: [
                ServicePort { node_port: node_port * 30080, ..port("a", 80) },
                ServicePort { protocol: Protocol::Udp, node_port: node_port * 30080, ..port("b", 80) },
            ]
            .into(),
            internal_local,
            external_local,
            affinity,
            health_check_port: health,
        },
    )
}

fn slices() -> impl Strategy<Value = Slice> {
    let hints = (prop::option::weighted(0.7, any::<bool>()), prop::collection::vec(0_u8..2, 0..2));
    let endpoint = (0_u8..4, any::<bool>(), 0_u8..4, hints);
    (0_u8..5, 0_u8..4, any::<bool>(), prop::collection::vec(endpoint, 0..4)).prop_map(|(name, service, v6, endpoints)| Slice {
        key: format!("ns/s{name}").into(),
        service: format!("ns/{service}").into(),
        family: if v6 { Family::V6 } else { Family::V4 },
        ports: [("a", Protocol::Tcp), ("b", Protocol::Udp)]
            .map(|(name, protocol)| SlicePort { name: name.into(), protocol, port: 8080 })
            .into(),
        endpoints: endpoints
            .into_iter()
            .map(|(last, local, state, (for_node, zones))| Endpoint {
                address: ip(&if v6 { format!("fd00::{last}") } else { format!("10.0.0.{last}") }),
                local,
                ready: state < 2,
                serving: state < 3,
                terminating: state % 2 == 1,
                for_node,
                for_zones: zones.into_iter().map(|zone| zone.to_string().into()).collect(),
            })
            .collect(),
    })
}

fn events() -> impl Strategy<Value = Event> {
    let host_port = (0_u8..3, any::<bool>()).prop_map(|(pod, there)| Event::HostPorts {
        pod: format!("u{pod}").into(),
        ips: vec![ip(&format!("10.0.0.{pod}")), ip(&format!("fd00::{pod}"))],
        ports: there.then_some(HostPort { address: None, protocol: Protocol::Tcp, port: 30080, container_port: 80 }).into_iter().collect(),
    });
    prop_oneof![
        4 => services().prop_map(|service| Event::Service(Arc::new(service))),
        1 => (0_u8..4).prop_map(|name| Event::ServiceGone(format!("ns/{name}").into())),
        6 => slices().prop_map(Event::Slice),
        2 => (0_u8..5).prop_map(|name| Event::SliceGone(format!("ns/s{name}").into())),
        1 => prop::option::of(0_u8..2).prop_map(|zone| Event::Zone(zone.map(|zone| zone.to_string().into()))),
        1 => host_port,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_ends_as_a_build_from_what_is_left(events in prop::collection::vec(events(), 1..60)) {
        let mut compiler = Compiler::default();
        let mut programmed: BTreeMap<Frontend, Rule> = BTreeMap::new();
        let mut left: BTreeMap<String, Event> = BTreeMap::new();
        for event in events {
            let (key, stays) = match &event {
                Event::Service(service) => (format!("service {}", service.key), true),
                Event::ServiceGone(key) => (format!("service {key}"), false),
                Event::Slice(slice) => (format!("slice {}", slice.key), true),
                Event::SliceGone(key) => (format!("slice {key}"), false),
                Event::Zone(_) => ("zone".to_owned(), true),
                Event::HostPorts { pod, .. } => (format!("pod {pod}"), true),
            };
            if stays {
                left.insert(key, event.clone());
            } else {
                left.remove(&key);
            }
            for (frontend, rule) in compiler.apply(event) {
                let before = programmed.get(&frontend).cloned();
                prop_assert_ne!(&before, &rule, "a change that is none");
                match rule {
                    Some(rule) => drop(programmed.insert(frontend, rule)),
                    None => drop(programmed.remove(&frontend)),
                }
            }
        }
        let mut fresh = Compiler::default();
        for event in left.into_values().rev() {
            fresh.apply(event);
        }
        prop_assert_eq!(&programmed, &fresh.built_anew());
        prop_assert_eq!(compiler.rules(), Rules::from(&programmed));
        prop_assert_eq!(compiler.rules(), fresh.rules());
        prop_assert_eq!(compiler.health_checks(), fresh.health_checks());
    }
}
