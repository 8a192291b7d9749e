//! What is programmed: frontends and their rules.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
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

/// A frontend's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// This address: a ClusterIP, an external IP, a load balancer's, the `hostIP` of a pod.
    Ip(IpAddr),
    /// Every address of the node, of this family.
    Node(Family),
    /// What is sent to this address and is no other frontend's: see [`Frontend::rest`].
    Rest(IpAddr),
}

impl Frontend {
    /// All protocols and ports of an address that no other frontend has. There is one such frontend for an address, and its rule is
    /// [`Rule::Reject`].
    pub fn rest(address: IpAddr) -> Self {
        Self { address: Address::Rest(address), protocol: Protocol::Tcp, port: 0 }
    }
}

/// What becomes of the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// They go to an endpoint.
    Forward(Forward),
    /// Nobody is there: the sender is told at once.
    Reject,
    /// Nobody is here, but on other nodes: they are dropped, so that a load balancer that is late asks another node.
    Drop,
}

/// Endpoints, and how they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// For traffic from outside the cluster, and for all where `inside` is `None`. Their order has no meaning. Empty: that
    /// traffic is dropped.
    pub endpoints: Vec<SocketAddr>,
    /// For traffic of this node and its pods instead.
    pub inside: Option<Vec<SocketAddr>>,
    /// Whether endpoints see the node as the sender, because they may be on another one.
    pub masquerade: bool,
    /// How long the same client's connections go to the same endpoint after its last one.
    pub affinity: Option<Duration>,
    /// Who may; everybody if empty.
    pub sources: Vec<Network>,
}

/// A network of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Its first address.
    pub address: IpAddr,
    /// How many bits of it count.
    pub prefix: u8,
}

impl Network {
    /// Whether the address belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let common = |own: u128, other: u128, width: u32| (own ^ other).checked_shr(width - u32::from(self.prefix)).unwrap_or(0) == 0;
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => common(own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => common(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

/// Not `address/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a network")]
pub struct InvalidNetwork {
    text: String,
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// Space around it is allowed, as the API server's validation does; bits behind the prefix are cleared.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork { text: text.to_owned() };
        let (address, prefix) = text.trim().split_once('/').ok_or_else(invalid)?;
        let (address, prefix): (IpAddr, u8) = (address.parse().map_err(|_| invalid())?, prefix.parse().map_err(|_| invalid())?);
        let width = if address.is_ipv4() { 32 } else { 128 };
        if prefix > width {
            return Err(invalid());
        }
        let address = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0)).into(),
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
