use serde_json::json;

use super::*;

fn network() -> PetNetwork {
    serde_json::from_value(json!({
        "apiVersion": "kube-pet.dev/v1alpha1", "kind": "PetNetwork", "metadata": {"name": "default"},
        "spec": {"nodeCIDRs": ["10.99.0.0/20"], "podCIDRs": ["10.100.0.0/16"], "serviceCIDRs": ["10.96.0.0/16"],
            "clusterCIDRs": ["10.1.0.0/16"], "mtu": 1380, "persistentKeepaliveSeconds": 20},
    }))
    .unwrap()
}

fn own() -> Pet {
    serde_json::from_value(json!({
        "apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": "pet"},
        "spec": {"publicKey": "", "machineID": "12345678"},
        "status": {"nodeAddresses": ["10.99.0.7"], "podCIDRs": ["10.100.7.0/24"]},
    }))
    .unwrap()
}

fn gateway(name: &str, number: u8, active: bool) -> PetGateway {
    serde_json::from_value(json!({
        "apiVersion": "kube-pet.dev/v1alpha1", "kind": "PetGateway", "metadata": {"name": name},
        "spec": {"publicKey": key(number).to_string(), "endpoints": [{"host": format!("{name}.example"), "port": 51820}]},
        "status": {"active": active},
    }))
    .unwrap()
}

fn key(number: u8) -> PublicKey {
    [number; 32].into()
}

fn nets(texts: &[&str]) -> BTreeSet<Network> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn everything_goes_to_the_active_gateway_and_the_other_is_ready() {
    let gateways = [gateway("a", 1, true), gateway("b", 2, false)];
    let known = Known::default().learn(Some(&own()), Some(&network()), gateways.iter());
    let networks = nets(&["10.1.0.0/16", "10.99.0.0/20", "10.100.0.0/16"]).into_iter().collect();
    let given = Allocation { addresses: vec!["10.99.0.7".parse().unwrap()], pod_cidrs: vec!["10.100.7.0/24".into()], networks };
    assert_eq!(known.allocation(), given);
    let desired = known.desired("kp-tunnel", &TunnelSettings::default(), &BTreeMap::new()).unwrap();
    let all = nets(&["10.1.0.0/16", "10.99.0.0/20", "10.100.0.0/16"]);
    let with_asked: BTreeSet<Network> = all.iter().copied().chain([Network::single(GATEWAY[0])]).collect();
    let peer = |number: u8| &desired.peers[&key(number)];
    assert_eq!((&peer(1).allowed, peer(1).keepalive), (&with_asked, 20), "it is asked for sizes, at the address of the node's family");
    assert_eq!(peer(1).endpoints, ["a.example:51820".parse().unwrap()]);
    assert_eq!((&peer(2).allowed, peer(2).keepalive), (&BTreeSet::new(), 20), "its way is kept open");
    assert_eq!((&desired.link.routes, &desired.link.guarded), (&with_asked, &all), "and nothing of Services: the node translates them");
    assert_eq!(desired.link.bypass, nets(&["10.100.7.0/24"]));
    assert_eq!(desired.link.mtu, 1380);
    assert_eq!((&peer(1).accepted, &peer(2).accepted), (&all, &all), "packets under way count, whoever is active now");
    assert_eq!(desired.remembered, ["10.99.0.0/20".parse().unwrap(), "10.100.0.0/16".parse().unwrap()]);
    let without = known.desired("kp-tunnel", &TunnelSettings { direct: false, ..TunnelSettings::default() }, &BTreeMap::new()).unwrap();
    assert_eq!(without.remembered, []);
}

#[test]
fn a_gateways_relay_is_used_once_it_is_open_and_known_after_a_reboot() {
    let mut with_relay = gateway("a", 1, true);
    with_relay.spec.relay = Some(kube_pet_api::Endpoint { host: "a.example".into(), port: 443 });
    let known = Known::default().learn(Some(&own()), Some(&network()), [with_relay, gateway("b", 2, false)].iter());
    let text = serde_json::to_string(&known).unwrap();
    let known: Known = serde_json::from_str(&text).unwrap();
    let relay: Endpoint = "a.example:443".parse().unwrap();
    assert_eq!(known.relays().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&relay));
    assert!(!known.relays()[&relay].is_empty(), "where it is tried beside the relay");
    let relay_of = |open: &BTreeMap<Endpoint, Place>, number| {
        known.desired("tunnel-kp", &TunnelSettings::default(), open).unwrap().peers[&key(number)].relay
    };
    assert_eq!(relay_of(&BTreeMap::new(), 1), None);
    let place = Place { address: "127.0.0.1:7".parse().unwrap(), reached: Some("192.0.2.1:51820".parse().unwrap()) };
    let open = BTreeMap::from([(relay, place)]);
    assert_eq!((relay_of(&open, 1), relay_of(&open, 2)), (Some(place), None));
}

#[test]
fn paths_in_use_outlive_the_process() {
    let neighbour = Neighbour {
        name: "other".into(),
        networks: nets(&["10.99.0.8/32", "10.100.8.0/24"]),
        endpoints: vec!["[2001:db8::1]:51820".parse().unwrap()],
    };
    let mut known = Known::default().learn(Some(&own()), Some(&network()), [].iter());
    known.keep_paths(&BTreeMap::from([(key(8), neighbour.clone())]));
    let text = serde_json::to_string(&known).unwrap();
    assert_eq!(serde_json::from_str::<Known>(&text).unwrap().paths(), BTreeMap::from([(key(8), neighbour)]));
}

#[test]
fn the_size_that_was_found_outlives_the_process() {
    let mut known = Known::default();
    let read = |known: &Known| serde_json::from_str::<Known>(&serde_json::to_string(known).unwrap()).unwrap().mtu();
    assert_eq!(read(&known), None);
    known.keep_mtu(Some(1297));
    assert_eq!(read(&known), Some(1297));
}

#[test]
fn what_is_guarded_stays_guarded_without_any_gateway() {
    let known = Known::default().learn(Some(&own()), Some(&network()), [].iter());
    let desired = known.desired("kp-tunnel", &TunnelSettings::default(), &BTreeMap::new()).unwrap();
    assert!(desired.peers.is_empty() && desired.link.routes.is_empty());
    assert_eq!(desired.link.guarded.len(), 3);
}

#[test]
fn the_newest_active_gateway_wins_and_one_that_only_went_silent_is_kept() {
    let learn =
        |known: &Known, a: bool, b: bool| known.learn(Some(&own()), Some(&network()), [gateway("a", 1, a), gateway("b", 2, b)].iter());
    let known = learn(&Known::default(), true, false);
    assert_eq!(known.active.as_deref(), Some("a"));
    let known = learn(&known, false, false);
    assert_eq!(known.active.as_deref(), Some("a"), "nobody else has taken over");
    let both = learn(&known, true, true);
    assert_eq!(both.active.as_deref(), Some("b"), "a has died without saying so");
    assert_eq!(learn(&both, false, true).active.as_deref(), Some("b"));
    let gone = both.learn(Some(&own()), Some(&network()), [gateway("a", 1, false)].iter());
    assert_eq!(gone.active, None);
}

#[test]
fn a_node_keeps_what_it_has_when_the_cluster_says_nothing() {
    let gateways = [gateway("a", 1, true)];
    let known = Known::default().learn(Some(&own()), Some(&network()), gateways.iter());
    assert_eq!(known.learn(None, None, gateways.iter()), known);
    let text = serde_json::to_string(&known).unwrap();
    assert_eq!(serde_json::from_str::<Known>(&text).unwrap(), known, "also after a reboot");
    assert_eq!(Known::default().desired("kp-tunnel", &TunnelSettings::default(), &BTreeMap::new()), None);
}

#[test]
fn the_nodes_own_settings_come_first() {
    let known = Known::default().learn(Some(&own()), Some(&network()), [gateway("a", 1, true)].iter());
    let settings = TunnelSettings { mtu: Some(1300), persistent_keepalive_seconds: Some(5), ..TunnelSettings::default() };
    let desired = known.desired("kp-tunnel", &settings, &BTreeMap::new()).unwrap();
    assert_eq!((desired.link.mtu, desired.peers[&key(1)].keepalive), (1300, 5));
    assert!(!desired.link.routes.contains(&Network::single(GATEWAY[0])), "nobody is asked for what is configured");
}
