//! From the API's objects. What cannot be understood allows nothing: the API server has validated it, so it is of a newer version.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::objects::{NamedPort, Peer, Peers, Policy, PolicyPort, PolicyRule, PortNumber};
use crate::resources::is_sidecar;
use kube_pet_rules::Protocol;

impl From<NetworkPolicy> for Policy {
    fn from(object: NetworkPolicy) -> Self {
        let namespace = object.metadata.namespace.unwrap_or_default();
        let key = format!("{namespace}/{}", object.metadata.name.unwrap_or_default()).into();
        let spec = object.spec.unwrap_or_default();
        // What the API server fills in where nothing is said.
        let default = || if spec.egress.is_some() { vec!["Ingress".into(), "Egress".into()] } else { vec!["Ingress".into()] };
        let types: Vec<String> = spec.policy_types.unwrap_or_else(default);
        let of_type = |name: &str| types.iter().any(|one| one == name);
        let ingress = spec.ingress.unwrap_or_default().into_iter().map(|rule| self::rule(rule.from, rule.ports)).collect();
        let egress = spec.egress.unwrap_or_default().into_iter().map(|rule| self::rule(rule.to, rule.ports)).collect();
        Self {
            key,
            namespace: namespace.into(),
            pods: spec.pod_selector.unwrap_or_default().into(),
            ingress: of_type("Ingress").then_some(ingress),
            egress: of_type("Egress").then_some(egress),
        }
    }
}

fn rule(peers: Option<Vec<NetworkPolicyPeer>>, ports: Option<Vec<NetworkPolicyPort>>) -> PolicyRule {
    let peers = peers.filter(|peers| !peers.is_empty());
    let ports = ports.filter(|ports| !ports.is_empty());
    PolicyRule {
        peers: peers.map_or(Peers::Everybody, |peers| Peers::Of(peers.into_iter().filter_map(peer).collect())),
        ports: ports.map(|ports| ports.into_iter().filter_map(port).collect()),
    }
}

fn peer(peer: NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = peer.ip_block {
        let except: Option<_> = block.except.unwrap_or_default().iter().map(|text| text.parse().ok()).collect();
        return Some(Peer::Block { network: block.cidr.parse().ok()?, except: except? });
    }
    let (namespaces, pods) = (peer.namespace_selector, peer.pod_selector);
    (namespaces.is_some() || pods.is_some())
        .then(|| Peer::Pods { namespaces: namespaces.map(Into::into), pods: pods.unwrap_or_default().into() })
}

fn port(port: NetworkPolicyPort) -> Option<PolicyPort> {
    let number = match port.port {
        None => PortNumber::Any,
        Some(IntOrString::String(name)) => PortNumber::Named(name.into()),
        Some(IntOrString::Int(first)) => {
            let first = u16::try_from(first).ok()?;
            let last = port.end_port.map_or(Some(first), |last| u16::try_from(last).ok()).filter(|last| *last >= first)?;
            PortNumber::Range(first, last)
        }
    };
    Some(PolicyPort { protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?, number })
}

/// The ports of a pod that have names, of all containers that run as long as it does.
pub fn named_ports(pod: &Pod) -> Box<[NamedPort]> {
    let Some(spec) = &pod.spec else { return Box::default() };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.as_deref().filter(|name| !name.is_empty())?.into(),
                protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
                number: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}
