//! The API's rules, read literally.

use super::*;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow<'a> {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) from_pod: Option<&'a PeerPod>,
    pub(super) to_pod: Option<&'a PeerPod>,
    /// `None`: ICMP.
    pub(super) by: Option<Protocol>,
    pub(super) port: u16,
}

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) policies: BTreeMap<Arc<str>, Arc<Policy>>,
    pub(super) namespaces: BTreeMap<Arc<str>, Labels>,
}

impl Oracle {
    pub(super) fn allows(&self, flow: &Flow<'_>) -> bool {
        if let (Some(from), Some(to)) = (flow.from_pod, flow.to_pod)
            && from.key == to.key
        {
            return true;
        }
        self.side(Direction::Ingress, flow) && self.side(Direction::Egress, flow)
    }

    fn side(&self, direction: Direction, flow: &Flow<'_>) -> bool {
        let (own, peer, address) = match direction {
            Direction::Ingress => (flow.to_pod, flow.from_pod, flow.from),
            Direction::Egress => (flow.from_pod, flow.to_pod, flow.to),
        };
        let Some(own) = own else { return true };
        let selecting = self.policies.values().filter(|p| *p.namespace == *own.namespace() && p.pods.selects(&own.labels));
        let mut rules = selecting.filter_map(|p| Some((&*p.namespace, p.rules(direction)?))).peekable();
        if rules.peek().is_none() {
            return true;
        }
        let mut rules = rules.flat_map(|(namespace, rules)| rules.iter().map(move |rule| (namespace, rule)));
        rules.any(|(namespace, rule)| {
            let ports = rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|port| Self::port(port, flow)));
            let peers = match &rule.peers {
                Peers::Everybody => true,
                Peers::Of(peers) => peers.iter().any(|kind| self.peer(namespace, kind, peer, address)),
            };
            ports && peers
        })
    }

    fn port(port: &PolicyPort, flow: &Flow<'_>) -> bool {
        flow.by == Some(port.protocol)
            && match &port.number {
                PortNumber::Any => true,
                PortNumber::Range(first, last) => (*first..=*last).contains(&flow.port),
                PortNumber::Named(name) => flow.to_pod.is_some_and(|pod| {
                    pod.ports.iter().any(|own| own.name == *name && own.protocol == port.protocol && own.number == flow.port)
                }),
            }
    }

    fn peer(&self, own: &str, kind: &Peer, pod: Option<&PeerPod>, address: IpAddr) -> bool {
        match kind {
            Peer::Block { network, except } => network.contains(address) && !except.iter().any(|except| except.contains(address)),
            Peer::Pods { namespaces, pods } => pod.is_some_and(|pod| {
                let there = match namespaces {
                    None => pod.namespace() == own,
                    Some(selector) => self.namespaces.get(pod.namespace()).is_some_and(|labels| selector.selects(labels)),
                };
                there && pods.selects(&pod.labels)
            }),
        }
    }
}
