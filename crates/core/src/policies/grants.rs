//! What the policies of a profile allow: addresses and ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::compiler::World;
use super::objects::{NamedPort, Peer, PeerPod, Peers, PolicyPort, PolicyRule, PortNumber, namespace_of};
use super::profile::ProfileKey;
use super::ranges::{everything, without};
use kube_pet_rules::policies::{Direction, Grant, Ports};
use kube_pet_rules::{Family, Protocol};

/// Several peers may be the reason of one grant.
pub(super) type Counts = BTreeMap<Grant, u32>;

impl World {
    /// All that a profile allows.
    pub(super) fn grants(&self, key: &ProfileKey) -> Counts {
        let mut counts = Counts::new();
        for (_, rule) in self.rules(key) {
            for grant in of_addresses(key, rule) {
                *counts.entry(grant).or_default() += 1;
            }
        }
        for grant in self.pods.values().flat_map(|pod| self.grants_of_pod(key, pod)) {
            *counts.entry(grant).or_default() += 1;
        }
        counts
    }

    /// What a profile allows because of one pod.
    pub(super) fn grants_of_pod(&self, key: &ProfileKey, pod: &PeerPod) -> Vec<Grant> {
        let mut found = Vec::new();
        for (namespace, rule) in self.rules(key) {
            let ports: Vec<Ports> = if self.is_peer(namespace, &rule.peers, pod) {
                match &rule.ports {
                    None => vec![Ports::All],
                    Some(ports) => ports.iter().flat_map(|port| numbers(port, key.receiver(Some(pod)))).collect(),
                }
            } else if key.direction == Direction::Egress {
                // Peers that are addresses: only the pods that have them know what names mean.
                names(rule).flat_map(|port| numbers(port, &pod.ports)).collect()
            } else {
                continue;
            };
            let of_pod = |ip: &&IpAddr| self.is_peer(namespace, &rule.peers, pod) || is_addressed(&rule.peers, **ip);
            let ips = pod.ips.iter().filter(of_pod);
            found.extend(ips.flat_map(|ip| ports.iter().map(|ports| Grant { first: *ip, last: *ip, ports: *ports })));
        }
        found
    }

    /// Whether other pods matter to a profile.
    pub(super) fn needs_peers(&self, key: &ProfileKey) -> bool {
        let selects = |rule: &PolicyRule| match &rule.peers {
            Peers::Everybody => false,
            Peers::Of(peers) => peers.iter().any(|peer| matches!(peer, Peer::Pods { .. })),
        };
        self.rules(key).any(|(_, rule)| selects(rule) || (key.direction == Direction::Egress && names(rule).next().is_some()))
    }

    /// The rules of a profile's policies, with the policy's namespace.
    fn rules<'a>(&'a self, key: &'a ProfileKey) -> impl Iterator<Item = (&'a str, &'a PolicyRule)> {
        let policies = key.policies.iter().filter_map(|name: &Arc<str>| self.policies.get(name));
        policies.flat_map(|policy| policy.rules(key.direction).into_iter().flatten().map(|rule| (&*policy.namespace, rule)))
    }

    fn is_peer(&self, own: &str, peers: &Peers, pod: &PeerPod) -> bool {
        let Peers::Of(peers) = peers else { return false };
        let namespace = namespace_of(&pod.key);
        peers.iter().any(|peer| {
            let Peer::Pods { namespaces, pods } = peer else { return false };
            let there = match namespaces {
                None => namespace == own,
                // Of a namespace that is not known yet nothing is known that a selector could select.
                Some(selector) => self.namespaces.get(namespace).is_some_and(|labels| selector.selects(labels)),
            };
            there && pods.selects(&pod.labels)
        })
    }
}

/// Whether the address is meant, whoever has it.
fn is_addressed(peers: &Peers, ip: IpAddr) -> bool {
    match peers {
        Peers::Everybody => true,
        Peers::Of(peers) => peers.iter().any(|peer| match peer {
            Peer::Block { network, except } => network.contains(ip) && !except.iter().any(|except| except.contains(ip)),
            Peer::Pods { .. } => false,
        }),
    }
}

/// The ports of a rule that have names.
fn names(rule: &PolicyRule) -> impl Iterator<Item = &PolicyPort> {
    rule.ports.iter().flatten().filter(|port| matches!(port.number, PortNumber::Named(_)))
}

impl ProfileKey {
    /// Whose names count: the receiving pod's.
    fn receiver<'a>(&'a self, peer: Option<&'a PeerPod>) -> &'a [NamedPort] {
        match self.direction {
            Direction::Ingress => &self.named,
            Direction::Egress => peer.map_or(&[], |pod| &pod.ports),
        }
    }
}

/// What a rule allows to and from addresses, whoever has them.
fn of_addresses(key: &ProfileKey, rule: &PolicyRule) -> Vec<Grant> {
    let spans: Vec<(IpAddr, IpAddr)> = match &rule.peers {
        Peers::Everybody => Family::ALL.map(everything).to_vec(),
        Peers::Of(peers) => {
            let blocks = peers.iter().filter_map(|peer| match peer {
                Peer::Block { network, except } => Some(without(network, except)),
                Peer::Pods { .. } => None,
            });
            blocks.flatten().collect()
        }
    };
    let ports: Vec<Ports> = match &rule.ports {
        None => vec![Ports::All],
        Some(ports) => ports.iter().flat_map(|port| numbers(port, key.receiver(None))).collect(),
    };
    spans.iter().flat_map(|(first, last)| ports.iter().map(|ports| Grant { first: *first, last: *last, ports: *ports })).collect()
}

/// The ports that a rule means, with the names of the pod that receives.
fn numbers(port: &PolicyPort, named: &[NamedPort]) -> Vec<Ports> {
    let protocol: Protocol = port.protocol;
    match &port.number {
        PortNumber::Any => vec![Ports::Of { protocol, first: 0, last: u16::MAX }],
        PortNumber::Range(first, last) => vec![Ports::Of { protocol, first: *first, last: *last }],
        PortNumber::Named(name) => {
            let same = named.iter().filter(|port| port.protocol == protocol && port.name == *name);
            same.map(|port| Ports::Of { protocol, first: port.number, last: port.number }).collect()
        }
    }
}
