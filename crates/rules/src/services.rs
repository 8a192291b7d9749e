//! Services and host ports: frontends and what becomes of what is sent to them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::networks::{Family, Network};

mod rules;

pub use rules::Rules;

/// A protocol with ports, with its number (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    Tcp = 6,
    /// UDP
    Udp = 17,
    /// SCTP
    Sctp = 132,
}

impl Protocol {
    /// Kubernetes' name for it; `TCP` where nothing is written. `None`: not a protocol of Services.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Kubernetes' name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// Which packets: by their destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// To whom.
    pub address: Address,
    /// By what.
    pub protocol: Protocol,
    /// To which port.
    pub port: u16,
}

impl Frontend {
    /// All protocols and ports of an address that no other frontend has. There is one such frontend for an address, and its rule is
    /// [`Rule::Reject`].
    pub fn rest(address: IpAddr) -> Self {
        Self { address: Address::Rest(address), protocol: Protocol::Tcp, port: 0 }
    }

    /// Of its address.
    pub fn family(&self) -> Family {
        match self.address {
            Address::Ip(address) | Address::Rest(address) => Family::of(address),
            Address::Node(family) => family,
        }
    }
}

/// A frontend's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// This address: a ClusterIP, an external IP, a load balancer's, the `hostIP` of a pod.
    Ip(IpAddr),
    /// The node's addresses of this family.
    Node(Family),
    /// What is sent to this address and is no other frontend's: see [`Frontend::rest`].
    Rest(IpAddr),
}

/// What becomes of the packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// They go to an endpoint.
    Forward(Forward),
    /// Nobody is there: the sender is told at once, by a TCP reset or "port unreachable".
    Reject,
    /// They are dropped. With Services: nobody is here, but on other nodes, so that a load balancer that is late asks another node.
    Drop,
}

/// Endpoints, and how they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// For traffic from outside, and for all where `inside` is `None`. Their order has no meaning; those of another family than the
    /// frontend's are left out. Empty: that traffic is dropped.
    pub endpoints: Vec<SocketAddr>,
    /// For traffic of this node and of its pods instead.
    pub inside: Option<Vec<SocketAddr>>,
    /// Whether endpoints see the node as the sender of what comes from outside. What the node itself sends to a Service is always
    /// masqueraded, and so is what a pod sends to itself through one: the answer could not come back otherwise.
    pub masquerade: bool,
    /// How long the same client's connections go to the same endpoint after its last one began.
    pub affinity: Option<Duration>,
    /// Who may, others are dropped; everybody if empty.
    pub sources: Vec<Network>,
}
