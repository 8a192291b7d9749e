//! Policies as people write them, against a second reading of the API's rules that knows of no profiles, sets and ranges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::services::{Family, Protocol};

mod events;
mod oracle;
mod table;

use oracle::Flow;

fn policy(key: &str, spec: Value) -> Arc<Policy> {
    let (namespace, name) = key.split_once('/').unwrap();
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    Arc::new(Policy::from(serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(object).unwrap()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn named(ports: &[(&str, Protocol, u16)]) -> Box<[NamedPort]> {
    ports.iter().map(|(name, protocol, number)| NamedPort { name: (*name).into(), protocol: *protocol, number: *number }).collect()
}

/// A pod of the cluster that is on this node, too.
fn both(peer: &PeerPod) -> [Event; 2] {
    let local = LocalPod {
        uid: format!("uid-{}", peer.key).into(),
        namespace: peer.namespace().into(),
        labels: peer.labels.clone(),
        ports: peer.ports.clone(),
        link: link(&peer.key),
        sealed: Box::default(),
    };
    [Event::Peer(Arc::new(peer.clone())), Event::Local(Arc::new(local))]
}

fn link(key: &str) -> Arc<str> {
    format!("link-{key}").into()
}

/// What the kernel does with the elements.
struct Kernel<'a>(&'a BTreeSet<Element>);

impl Kernel<'_> {
    /// Whether one pod's packet reaches the other; a side without a pod is elsewhere.
    fn passes(&self, flow: &Flow<'_>) -> bool {
        if let (Some(from), Some(to)) = (flow.from_pod, flow.to_pod)
            && from.key == to.key
            && self.0.contains(&Element::Itself { link: link(&from.key) })
        {
            return true;
        }
        let sides = [(Direction::Egress, flow.from_pod, flow.to), (Direction::Ingress, flow.to_pod, flow.from)];
        sides.into_iter().all(|(direction, pod, peer)| pod.is_none_or(|pod| self.allows(direction, &pod.key, peer, flow)))
    }

    fn allows(&self, direction: Direction, pod: &str, peer: IpAddr, flow: &Flow<'_>) -> bool {
        let own = link(pod);
        let isolated = self.0.iter().find_map(|element| match element {
            Element::Isolated { direction: d, link, profile } if *d == direction && *link == own => Some(*profile),
            _ => None,
        });
        let Some(id) = isolated else { return true };
        self.0.iter().any(|element| match element {
            Element::Allowed { direction: d, profile, grant } if *d == direction && *profile == id => {
                let ports = match grant.ports {
                    Ports::All => true,
                    Ports::Of { protocol, first, last } => flow.by == Some(protocol) && (first..=last).contains(&flow.port),
                };
                ports && Family::of(grant.first) == Family::of(peer) && grant.first <= peer && peer <= grant.last
            }
            _ => false,
        })
    }
}

/// Ranges of one profile must not overlap: the kernel refuses them.
fn assert_disjoint(elements: &BTreeSet<Element>) {
    let mut ranges: BTreeMap<(Direction, u32), Vec<Grant>> = BTreeMap::new();
    for element in elements {
        if let Element::Allowed { direction, profile, grant } = element
            && !grant.is_exact()
        {
            ranges.entry((*direction, *profile)).or_default().push(*grant);
        }
    }
    let apart = |a: &Grant, b: &Grant| {
        let ports = match (a.ports, b.ports) {
            (Ports::Of { protocol: p, first: a, last: b }, Ports::Of { protocol: q, first: c, last: d }) => p != q || b < c || d < a,
            _ => false,
        };
        ports || Family::of(a.first) != Family::of(b.first) || a.last < b.first || b.last < a.first
    };
    for of_profile in ranges.values() {
        for (index, a) in of_profile.iter().enumerate() {
            assert!(of_profile.iter().skip(index + 1).all(|b| apart(a, b)), "{of_profile:?}");
        }
    }
}
