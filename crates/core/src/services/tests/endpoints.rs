//! Which endpoints are used.

use super::*;

fn in_zone(zone: Option<&str>, slices: impl IntoIterator<Item = Slice>) -> Rule {
    let mut compiler = compiled(service(), slices);
    compiler.apply(Event::Zone(zone.map(Into::into)));
    rule(&compiler, cluster_ip())
}

fn for_zone(address: &str, zone: &str) -> Endpoint {
    Endpoint { for_zones: [zone.into()].into(), ..endpoint(address) }
}

fn for_node(address: &str, this: bool) -> Endpoint {
    Endpoint { for_node: Some(this), ..endpoint(address) }
}

#[test]
fn endpoints_that_end_are_the_last_choice() {
    for (endpoints, used) in [
        (vec![endpoint("10.0.0.1"), ending(endpoint("10.0.0.2"))], Rule::Forward(to(&["10.0.0.1:8080"]))),
        (vec![unready(endpoint("10.0.0.1")), ending(endpoint("10.0.0.2"))], Rule::Forward(to(&["10.0.0.2:8080"]))),
        (vec![Endpoint { serving: false, ..ending(endpoint("10.0.0.2")) }], Rule::Reject),
        // `publishNotReadyAddresses`: ready by decree although it ends.
        (vec![Endpoint { terminating: true, ..endpoint("10.0.0.2") }], Rule::Forward(to(&["10.0.0.2:8080"]))),
    ] {
        assert_eq!(rule(&compiled(service(), [slice("a", endpoints.clone())]), cluster_ip()), used, "{endpoints:?}");
    }
}

#[test]
fn an_address_in_two_slices_is_one_endpoint_and_the_one_that_stays_wins() {
    for order in [["a", "b"], ["b", "a"]] {
        let slices = [slice(order[0], [ending(endpoint("10.0.0.1"))]), slice(order[1], [endpoint("10.0.0.1")])];
        let compiler = compiled(service(), slices);
        assert_eq!(rule(&compiler, cluster_ip()), Rule::Forward(to(&["10.0.0.1:8080"])), "{order:?}");
    }
}

#[test]
fn internal_policy_local_stays_on_the_node() {
    let service = Service { internal_local: true, ..service() };
    for (endpoints, used) in [
        (vec![endpoint("10.0.0.1"), local("10.0.0.2")], Rule::Forward(to(&["10.0.0.2:8080"]))),
        (vec![endpoint("10.0.0.1"), ending(local("10.0.0.2"))], Rule::Forward(to(&["10.0.0.2:8080"]))),
        (vec![endpoint("10.0.0.1")], Rule::Drop),
        (vec![ending(endpoint("10.0.0.1"))], Rule::Drop),
        (vec![unready(local("10.0.0.1"))], Rule::Reject),
    ] {
        assert_eq!(rule(&compiled(service.clone(), [slice("a", endpoints.clone())]), cluster_ip()), used, "{endpoints:?}");
    }
}

#[test]
fn hints_for_zones_hold_when_they_are_complete_and_name_this_zone() {
    let hinted = || slice("a", [for_zone("10.0.0.1", "here"), for_zone("10.0.0.2", "there")]);
    let all = Rule::Forward(to(&["10.0.0.1:8080", "10.0.0.2:8080"]));
    assert_eq!(in_zone(Some("here"), [hinted()]), Rule::Forward(to(&["10.0.0.1:8080"])));
    assert_eq!(in_zone(Some("elsewhere"), [hinted()]), all);
    assert_eq!(in_zone(None, [hinted()]), all);
    assert_eq!(in_zone(Some("here"), [slice("a", [for_zone("10.0.0.1", "here"), endpoint("10.0.0.2")])]), all);
    // Of endpoints that are not ready no hint is expected.
    let unhinted = slice("b", [unready(endpoint("10.0.0.3"))]);
    assert_eq!(in_zone(Some("here"), [hinted(), unhinted]), Rule::Forward(to(&["10.0.0.1:8080"])));
}

#[test]
fn hints_for_nodes_come_before_those_for_zones() {
    let both = |address, this, zone: &str| Endpoint { for_zones: [zone.into()].into(), ..for_node(address, this) };
    let slices = [slice("a", [both("10.0.0.1", true, "here"), both("10.0.0.2", false, "here"), both("10.0.0.3", false, "there")])];
    assert_eq!(in_zone(Some("here"), slices), Rule::Forward(to(&["10.0.0.1:8080"])));
    let slices = [slice("a", [both("10.0.0.1", false, "here"), both("10.0.0.2", false, "here"), both("10.0.0.3", false, "there")])];
    assert_eq!(in_zone(Some("here"), slices), Rule::Forward(to(&["10.0.0.1:8080", "10.0.0.2:8080"])));
    assert_eq!(in_zone(None, [slice("a", [for_node("10.0.0.1", true), endpoint("10.0.0.2")])]), {
        Rule::Forward(to(&["10.0.0.1:8080", "10.0.0.2:8080"]))
    });
}

#[test]
fn hints_do_not_hold_for_endpoints_that_end() {
    let slices = [slice("a", [ending(for_zone("10.0.0.1", "here")), ending(for_zone("10.0.0.2", "there"))])];
    assert_eq!(in_zone(Some("here"), slices), Rule::Forward(to(&["10.0.0.1:8080", "10.0.0.2:8080"])));
}
