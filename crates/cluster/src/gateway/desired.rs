//! From Pets to peers. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use kube_pet_api::{Pet, PetNetworkSpec};
use kube_pet_net::services::Network;
use kube_pet_net::tunnel_links::{Mark, TunnelLink};
use kube_pet_tunnel::{Desired, Endpoint, Peer, PublicKey};

use super::Options;

/// The table of the tunnel's routes. Not a pet's: a machine may be both.
pub(super) const TABLE: u32 = 19_281;
/// Of the tunnel's own packets.
pub(super) const MARK: Mark = Mark { value: 0x4b51_0000, mask: 0xffff_0000 };

/// `None` if the network has no range that can be read.
pub(super) fn desired(options: &Options, network: &PetNetworkSpec, pets: &[Arc<Pet>]) -> Option<Desired> {
    let ranges: BTreeSet<Network> = network.node_cidrs.iter().chain(&network.pod_cidrs).filter_map(|text| text.parse().ok()).collect();
    if ranges.is_empty() {
        return None;
    }
    let peers = pets.iter().filter_map(|pet| peer(pet)).collect();
    let link = TunnelLink {
        name: options.link.clone(),
        addresses: options.tunnel_addresses.iter().copied().collect(),
        mtu: u32::from(network.mtu),
        // The ranges as a whole: a pet that comes or goes changes no route. What belongs to no pet is dropped by the interface.
        routes: ranges.clone(),
        guarded: ranges.clone(),
        bypass: BTreeSet::new(),
        table: TABLE,
        mark: MARK,
        forward: true,
    };
    let masquerade = if options.masquerade { ranges.into_iter().collect() } else { Vec::new() };
    Some(Desired { link, peers, masquerade })
}

/// A pet without accepted key or addresses is none yet.
fn peer(pet: &Pet) -> Option<(PublicKey, Peer)> {
    let status = pet.status.as_ref()?;
    let key = status.public_key.as_ref()?.parse().ok()?;
    let single = |address: IpAddr| Network { address, prefix: if address.is_ipv4() { 32 } else { 128 } };
    let nodes = status.node_addresses.iter().filter_map(|text| text.parse().ok().map(single));
    let allowed: BTreeSet<Network> = nodes.chain(status.pod_cidrs.iter().filter_map(|text| text.parse().ok())).collect();
    let endpoints = pet.spec.endpoints.iter().map(|e| Endpoint { host: e.host.clone(), port: e.port }).collect();
    // The pet keeps the way open: only it can, behind NAT.
    (!allowed.is_empty()).then_some((key, Peer { endpoints, keepalive: 0, allowed }))
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
        let desired = desired(&options(), &network(), &pets).unwrap();
        assert_eq!(desired.peers.keys().collect::<Vec<_>>(), [&key]);
        let allowed = ["10.99.0.7/32", "10.100.7.0/24"].map(|text| text.parse().unwrap());
        assert_eq!(desired.peers[&key].allowed, BTreeSet::from(allowed));
        let ranges: BTreeSet<Network> = ["10.99.0.0/20", "10.100.0.0/16"].map(|text| text.parse().unwrap()).into();
        assert_eq!(desired.link.routes, ranges, "and nothing of the cluster's own");
        assert_eq!(desired.masquerade, ranges.into_iter().collect::<Vec<_>>());
    }
}
