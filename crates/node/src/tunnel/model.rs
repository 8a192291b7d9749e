//! What is known of the cluster's pet network, and what follows from it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kube_pet_api::{Pet, PetGateway, PetNetwork};
use kube_pet_net::services::Network;
use kube_pet_net::tunnel_links::{Mark, TunnelLink};
use kube_pet_tunnel::mtu::GATEWAY;
use kube_pet_tunnel::relay::Place;
use kube_pet_tunnel::{Desired, Endpoint, Neighbour, Peer, PublicKey};
use serde::{Deserialize, Serialize};

use super::Allocation;
use crate::config::TunnelSettings;

/// The table of the tunnel's routes; free numbers are as good as any.
pub(super) const TABLE: u32 = 19_280;
/// Of the tunnel's own packets. The low bits are left to whoever else marks packets.
pub(super) const MARK: Mark = Mark { value: 0x4b50_0000, mask: 0xffff_0000 };

/// What a start without the API server has to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Known {
    addresses: Vec<IpAddr>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    /// The cluster's pods and nodes behind the gateways.
    cluster: Vec<String>,
    /// Of all pets: nodes and pods.
    pets: Vec<String>,
    mtu: u16,
    keepalive: u16,
    gateways: BTreeMap<String, Gateway>,
    /// The gateway that packets go to.
    active: Option<String>,
    /// Paths to other pets that are in use, by their keys: those others send by them, whether this process begins anew or not.
    paths: BTreeMap<String, Path>,
    /// The size of packets in use, found or configured, if it is not the PetNetwork's. The search for a larger one begins anew with each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    found_mtu: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Path {
    pet: String,
    networks: Vec<String>,
    endpoints: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Gateway {
    public_key: String,
    endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<String>,
    addresses: Vec<IpAddr>,
}

impl Known {
    /// What the API server has now. What it does not say (any more) stays as it was: a node keeps its addresses, and traffic the gateway
    /// that it had, until there is another one.
    pub(super) fn learn<'a>(
        &self,
        own: Option<&Pet>,
        network: Option<&PetNetwork>,
        gateways: impl Iterator<Item = &'a PetGateway>,
    ) -> Self {
        let mut new = self.clone();
        if let Some(status) = own.and_then(|pet| pet.status.as_ref()).filter(|status| !status.node_addresses.is_empty()) {
            new.addresses = status.node_addresses.iter().filter_map(|address| address.parse().ok()).collect();
            new.pod_cidrs.clone_from(&status.pod_cidrs);
        }
        if let Some(network) = network {
            new.cluster.clone_from(&network.spec.cluster_cidrs);
            new.pets = network.spec.node_cidrs.iter().chain(&network.spec.pod_cidrs).cloned().collect();
            new.mtu = network.spec.mtu;
            new.keepalive = network.spec.persistent_keepalive_seconds;
        }
        let (mut all, mut active) = (BTreeMap::new(), Vec::new());
        for gateway in gateways {
            let Some(name) = gateway.metadata.name.clone() else { continue };
            if gateway.status.as_ref().is_some_and(|status| status.active) {
                active.push(name.clone());
            }
            all.insert(name, Gateway::of(gateway));
        }
        new.gateways = all;
        // Where two say so, one has died without taking it back: the other is new.
        active.sort();
        let other = active.iter().find(|name| Some(*name) != self.active.as_ref());
        let kept = self.active.clone().filter(|name| new.gateways.contains_key(name));
        let next = if active.len() > 1 { other.cloned() } else { active.first().cloned() };
        new.active = next.or(kept);
        new
    }

    pub(super) fn allocation(&self) -> Allocation {
        Allocation { addresses: self.addresses.clone(), pod_cidrs: self.pod_cidrs.clone(), networks: self.networks().into_iter().collect() }
    }

    /// The cluster's and the pets'.
    fn networks(&self) -> BTreeSet<Network> {
        self.cluster.iter().chain(&self.pets).filter_map(|text| text.parse().ok()).collect()
    }

    /// For [`kube_pet_tunnel::Paths::resume`].
    pub(super) fn paths(&self) -> BTreeMap<PublicKey, Neighbour> {
        let read = |path: &Path| Neighbour {
            name: path.pet.clone(),
            networks: path.networks.iter().filter_map(|text| text.parse().ok()).collect(),
            endpoints: path.endpoints.iter().filter_map(|text| text.parse().ok()).collect(),
        };
        self.paths.iter().filter_map(|(key, path)| Some((key.parse().ok()?, read(path)))).collect()
    }

    pub(super) fn keep_paths(&mut self, paths: &BTreeMap<PublicKey, Neighbour>) {
        let write = |Neighbour { name, networks, endpoints }: &Neighbour| Path {
            pet: name.clone(),
            networks: networks.iter().map(ToString::to_string).collect(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
        };
        self.paths = paths.iter().map(|(key, neighbour)| (key.to_string(), write(neighbour))).collect();
    }

    /// For [`kube_pet_tunnel::mtu::Prober::new`].
    pub(super) fn mtu(&self) -> Option<u16> {
        self.found_mtu
    }

    pub(super) fn keep_mtu(&mut self, mtu: Option<u16>) {
        self.found_mtu = mtu;
    }

    /// Where gateways are reached over TCP, and where over UDP.
    pub(super) fn relays(&self) -> BTreeMap<Endpoint, Vec<Endpoint>> {
        self.gateways.values().filter_map(|gateway| Some((gateway.relay()?, gateway.endpoints()))).collect()
    }

    /// `None` before the node has an address. `relays`: where on the loopback those that are open are.
    pub(super) fn desired(&self, link: &str, settings: &TunnelSettings, relays: &BTreeMap<Endpoint, Place>) -> Option<Desired> {
        if self.addresses.is_empty() {
            return None;
        }
        let TunnelSettings {
            enabled: _,
            mode: _,
            listen_port: _,
            endpoints: _,
            direct,
            key_rotation: _,
            persistent_keepalive_seconds,
            mtu,
        } = settings;
        let ranges = self.networks();
        let mut peers = BTreeMap::new();
        for (name, gateway) in &self.gateways {
            let Ok(key) = gateway.public_key.parse() else { continue };
            // The others are kept ready: a change of the active one is a move of networks, without a handshake.
            let mut allowed: BTreeSet<Network> = gateway.addresses.iter().copied().map(Network::single).collect();
            if self.active.as_ref() == Some(name) {
                allowed.extend(ranges.iter().copied());
                if mtu.is_none() {
                    // It is asked there which sizes the way takes.
                    let asked = GATEWAY.into_iter().filter(|to| self.addresses.iter().any(|from| from.is_ipv4() == to.is_ipv4()));
                    allowed.extend(asked.map(Network::single));
                }
            }
            let endpoints = gateway.endpoints();
            let keepalive = persistent_keepalive_seconds.unwrap_or(self.keepalive);
            // Also from one that is not active any more, and what another pet sends although a path of its own leads to it.
            let relay = gateway.relay().and_then(|relay| relays.get(&relay).copied());
            peers.insert(key, Peer { endpoints, relay, keepalive, allowed, accepted: ranges.clone() });
        }
        let link = TunnelLink {
            name: link.to_owned(),
            addresses: self.addresses.iter().copied().collect(),
            answers: BTreeSet::new(),
            mtu: u32::from(mtu.unwrap_or(self.mtu)),
            routes: peers.values().flat_map(|peer| peer.allowed.iter().copied()).collect(),
            mtus: BTreeMap::new(),
            guarded: ranges,
            bypass: self.pod_cidrs.iter().filter_map(|text| text.parse().ok()).collect(),
            table: TABLE,
            mark: MARK,
            forward: true,
        };
        let remembered = self.pets.iter().filter(|_| *direct).filter_map(|text| text.parse().ok()).collect();
        Some(Desired { link, peers: Arc::new(peers), masquerade: Vec::new(), remembered })
    }
}

impl Gateway {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.iter().filter_map(|text| text.parse().ok()).collect()
    }

    fn relay(&self) -> Option<Endpoint> {
        self.relay.as_ref()?.parse().ok()
    }

    fn of(gateway: &PetGateway) -> Self {
        let spec = &gateway.spec;
        Self {
            public_key: spec.public_key.clone(),
            endpoints: spec.endpoints.iter().map(ToString::to_string).collect(),
            relay: spec.relay.as_ref().map(ToString::to_string),
            addresses: spec.tunnel_addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
