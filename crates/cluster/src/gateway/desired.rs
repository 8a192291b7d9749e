//! From Pets to peers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube_pet_api::{Pet, PetNetworkSpec, PetStatus};
use kube_pet_net::services::Network;
use kube_pet_net::tunnel_links::{Mark, TunnelLink};
use kube_pet_tunnel::mtu::{FLOOR, GATEWAY};
use kube_pet_tunnel::{Desired, Endpoint, Peer, PeerStatus, PublicKey};

use super::Options;

/// The table of the tunnel's routes. Not a pet's: a machine may be both.
pub(super) const TABLE: u32 = 19_281;
/// Of the tunnel's own packets.
pub(super) const MARK: Mark = Mark { value: 0x4b51_0000, mask: 0xffff_0000 };

/// `None` if the network has no range that can be read.
/// `seen`: the interface's peers, as far as they are known.
pub(super) fn desired(
    options: &Options,
    network: &PetNetworkSpec,
    pets: &[Arc<Pet>],
    seen: &BTreeMap<PublicKey, PeerStatus>,
) -> Option<Desired> {
    let ranges: BTreeSet<Network> = network.node_cidrs.iter().chain(&network.pod_cidrs).filter_map(|text| text.parse().ok()).collect();
    if ranges.is_empty() {
        return None;
    }
    let peers = pets.iter().flat_map(|pet| peers(pet, seen)).collect();
    let asked = GATEWAY.into_iter().filter(|address| ranges.iter().any(|range| range.address.is_ipv4() == address.is_ipv4()));
    let mtus: BTreeMap<Network, u32> = pets.iter().flat_map(|pet| narrow(pet, network.mtu)).collect();
    let link = TunnelLink {
        name: options.link.clone(),
        addresses: options.tunnel_addresses.iter().copied().collect(),
        answers: asked.collect(),
        mtu: u32::from(network.mtu),
        // The ranges as a whole: a pet that comes or goes changes no route. What belongs to no pet is dropped by the interface.
        routes: ranges.iter().chain(mtus.keys()).copied().collect(),
        mtus,
        guarded: ranges.clone(),
        bypass: BTreeSet::new(),
        table: TABLE,
        mark: MARK,
        forward: true,
    };
    let masquerade = if options.masquerade { ranges.into_iter().collect() } else { Vec::new() };
    Some(Desired { link, peers: Arc::new(peers), masquerade, remembered: Vec::new() })
}

/// Whether what is seen of the interface says to which of a pet's keys packets go.
pub(super) fn is_changing_its_key(pet: &Pet) -> bool {
    pet.status.as_ref().is_some_and(|status| status.next_public_key.is_some())
}

/// The keys of a pet: the one that packets go to, and one that is only waited for. Of two the first is the one that has agreed on keys last.
pub(super) fn keys(status: &PetStatus, seen: &BTreeMap<PublicKey, PeerStatus>) -> Option<(PublicKey, Option<PublicKey>)> {
    let key = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<PublicKey>().ok());
    let current = key(&status.public_key)?;
    let Some(next) = key(&status.next_public_key).filter(|next| *next != current) else { return Some((current, None)) };
    let handshake = |key| seen.get(&key).and_then(|peer| peer.last_handshake);
    Some(if handshake(next) > handshake(current) { (next, Some(current)) } else { (current, Some(next)) })
}

/// The peers that are sent to: one for each pet, also while it is about to change its key.
pub(super) fn pets(peers: &BTreeMap<PublicKey, PeerStatus>) -> impl Iterator<Item = &PeerStatus> {
    peers.values().filter(|peer| !peer.allowed.is_empty())
}

/// Networks of a pet that are sent no larger packets than its way takes: those of its pods. Its own addresses are sent the network's: by the
/// answers in all sizes the pet finds out that its way has become wider.
fn narrow(pet: &Pet, limit: u16) -> Vec<(Network, u32)> {
    let mtu = pet.spec.mtu.filter(|mtu| (FLOOR..limit).contains(mtu));
    let pods = pet.status.iter().flat_map(|status| &status.pod_cidrs).filter_map(|text| text.parse().ok());
    mtu.map(|mtu| pods.map(|network| (network, u32::from(mtu))).collect()).unwrap_or_default()
}

/// A pet without accepted key or addresses is none yet. One that is about to change its key is two peers: packets go to one of them, and are
/// taken from both.
fn peers(pet: &Pet, seen: &BTreeMap<PublicKey, PeerStatus>) -> Vec<(PublicKey, Peer)> {
    let Some(status) = &pet.status else { return Vec::new() };
    let Some((used_by, waits)) = keys(status, seen) else { return Vec::new() };
    let networks = status.networks();
    if networks.is_empty() {
        return Vec::new();
    }
    let endpoints: Vec<_> = pet.spec.endpoints.iter().map(|e| Endpoint { host: e.host.clone(), port: e.port }).collect();
    // The pet keeps the way open: only it can, behind NAT.
    let waiting = Peer { endpoints, relay: None, keepalive: 0, allowed: BTreeSet::new(), accepted: networks.clone() };
    let used = Peer { allowed: networks, ..waiting.clone() };
    [(used_by, used)].into_iter().chain(waits.map(|waits| (waits, waiting))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options() -> Options {
        Options {
            name: "gw".into(),
            namespace: "kube-pet".into(),
            endpoints: Vec::new(),
            tunnel_addresses: Vec::new(),
            listen_port: 51820,
            relay: None,
            key: "/key".into(),
            link: "pet-gateway".into(),
            mode: kube_pet_tunnel::Mode::Auto,
            masquerade: true,
            probes: ([127, 0, 0, 1], 0).into(),
            timing: super::super::TIMING,
        }
    }

    fn pet(name: &str, status: serde_json::Value) -> Arc<Pet> {
        let pet = json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": name},
            "spec": {"publicKey": "not this one", "machineID": "12345678"}, "status": status});
        Arc::new(serde_json::from_value(pet).unwrap())
    }

    fn network() -> PetNetworkSpec {
        serde_json::from_value(json!({"nodeCIDRs": ["10.99.0.0/20"], "podCIDRs": ["10.100.0.0/16"], "clusterCIDRs": ["10.1.0.0/16"]}))
            .unwrap()
    }

    #[test]
    fn a_pet_is_a_peer_once_its_key_is_accepted_and_has_only_what_it_was_given() {
        let key = PublicKey::from([7; 32]);
        let pets = [
            pet("a", json!({"publicKey": key.to_string(), "nodeAddresses": ["10.99.0.7"], "podCIDRs": ["10.100.7.0/24"]})),
            pet("waits", json!({"nodeAddresses": ["10.99.0.8"]})),
            pet("has-nothing", json!({"publicKey": PublicKey::from([8; 32]).to_string()})),
        ];
        let desired = desired(&options(), &network(), &pets, &BTreeMap::new()).unwrap();
        assert_eq!(desired.peers.keys().collect::<Vec<_>>(), [&key]);
        let allowed = ["10.99.0.7/32", "10.100.7.0/24"].map(|text| text.parse().unwrap());
        assert_eq!(desired.peers[&key].allowed, BTreeSet::from(allowed));
        let ranges: BTreeSet<Network> = ["10.99.0.0/20", "10.100.0.0/16"].map(|text| text.parse().unwrap()).into();
        assert_eq!(desired.link.routes, ranges, "and nothing of the cluster's own");
        assert_eq!(desired.masquerade, ranges.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn pods_behind_a_narrow_way_are_sent_what_it_takes_and_the_gateway_answers_in_all_sizes() {
        let narrow = |mtu: u16| {
            let key = PublicKey::from([7; 32]).to_string();
            let mut pet = pet("a", json!({"publicKey": key, "nodeAddresses": ["10.99.0.7"], "podCIDRs": ["10.100.7.0/24"]}));
            Arc::get_mut(&mut pet).unwrap().spec.mtu = Some(mtu);
            desired(&options(), &network(), &[pet], &BTreeMap::new()).unwrap().link
        };
        let pods: Network = "10.100.7.0/24".parse().unwrap();
        let link = narrow(1300);
        assert_eq!(link.mtus, BTreeMap::from([(pods, 1300)]));
        assert!(link.routes.contains(&pods) && link.routes.len() == 3 && !link.guarded.contains(&pods));
        assert_eq!((link.addresses, link.answers), (BTreeSet::new(), BTreeSet::from([GATEWAY[0]])), "of the families that pets have");
        for mtu in [1279, 1420, 1500] {
            assert_eq!((narrow(mtu).mtus, narrow(mtu).routes.len()), (BTreeMap::new(), 2), "{mtu}");
        }
    }

    #[test]
    fn a_pet_that_changes_its_key_is_sent_to_by_the_one_that_it_used_last() {
        let (old, new) = (PublicKey::from([7; 32]), PublicKey::from([8; 32]));
        let status = json!({"publicKey": old.to_string(), "nextPublicKey": new.to_string(), "nodeAddresses": ["10.99.0.7"]});
        let pets = [pet("a", status)];
        let at = |seconds| Some(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let allowed = BTreeSet::from(["10.99.0.7/32".parse().unwrap()]);
        for (of_old, of_new, used) in [(None, None, old), (at(5), None, old), (at(5), at(6), new), (at(7), at(6), old), (None, at(1), new)]
        {
            let peer = |last_handshake| PeerStatus { last_handshake, ..PeerStatus::default() };
            let seen = BTreeMap::from([(old, peer(of_old)), (new, peer(of_new))]);
            let peers = desired(&options(), &network(), &pets, &seen).unwrap().peers;
            let with: Vec<_> = peers.iter().filter(|(_, peer)| peer.allowed == allowed).map(|(key, _)| *key).collect();
            assert_eq!((peers.len(), with), (2, vec![used]), "{of_old:?} {of_new:?}");
            assert!(peers.values().all(|peer| peer.accepted == allowed), "what is under way is taken");
            let is = |peer: &Peer| PeerStatus { allowed: peer.allowed.clone(), ..PeerStatus::default() };
            let interface = peers.iter().map(|(key, peer)| (*key, is(peer))).collect();
            assert_eq!(super::pets(&interface).count(), 1, "two peers, and one pet");
        }
    }
}
