//! What is kept of the cluster's objects: as little as the rules need, because there may be very many pods.

use std::net::IpAddr;
use std::sync::Arc;

use super::selector::{Labels, Selector};
use kube_pet_rules::policies::Direction;
use kube_pet_rules::{Network, Protocol};

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `namespace/name`
    pub key: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// `spec.podSelector`
    pub pods: Selector,
    /// What may be received; `None`: the policy says nothing of it.
    pub ingress: Option<Box<[PolicyRule]>>,
    /// What may be sent; `None`: the policy says nothing of it.
    pub egress: Option<Box<[PolicyRule]>>,
}

impl Policy {
    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One rule: these peers, by these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// `from` or `to`
    pub peers: Peers,
    /// `ports`; everything if `None`, other protocols included.
    pub ports: Option<Box<[PolicyPort]>>,
}

/// The other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Whoever it is.
    Everybody,
    /// One of these; nobody if empty.
    Of(Box<[Peer]>),
}

/// A kind of peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods with these labels.
    Pods {
        /// In namespaces with these labels; in the policy's own if `None`.
        namespaces: Option<Selector>,
        /// Their labels.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// `cidr`
        network: Network,
        /// `except`
        except: Box<[Network]>,
    },
}

/// Ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub number: PortNumber,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortNumber {
    /// All.
    Any,
    /// From the first to the last.
    Range(u16, u16),
    /// What the receiving pod calls so.
    Named(Box<str>),
}

/// A port that a pod has a name for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// `containers[].ports[].name`
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// `containerPort`
    pub number: u16,
}

/// A pod of the cluster that is in the pod network and not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPod {
    /// `namespace/name`
    pub key: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// `status.podIPs`
    pub ips: Box<[IpAddr]>,
    /// Its ports with names.
    pub ports: Box<[NamedPort]>,
}

impl PeerPod {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        namespace_of(&self.key)
    }
}

/// The namespace of `namespace/name`.
pub(super) fn namespace_of(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

/// A pod of this node with a network of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The pod.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its ports with names.
    pub ports: Box<[NamedPort]>,
    /// The node's end of its link.
    pub link: Arc<str>,
    /// Directions that are closed whatever the policies say, because of the pod nothing is known but that.
    pub sealed: Box<[Direction]>,
}
