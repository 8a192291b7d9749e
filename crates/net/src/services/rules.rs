//! What is programmed: frontends and their rules.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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

    pub(crate) fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp = 6,
    /// UDP
    Udp = 17,
    /// SCTP
    Sctp = 132,
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

    pub(crate) fn family(&self) -> Family {
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
    /// The node's addresses of this family ([`super::Config::node_addresses`]).
    Node(Family),
    /// What is sent to this address and is no other frontend's: see [`Frontend::rest`].
    Rest(IpAddr),
}

/// What becomes of the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// They go to an endpoint.
    Forward(Forward),
    /// Nobody is there: the sender is told at once, by a TCP reset or "port unreachable".
    Reject,
    /// They are dropped.
    Drop,
}

/// Endpoints, and how they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        let (own, other) = (octets(self.address), octets(address));
        own.len() == other.len() && own.iter().zip(&other).zip(self.mask()).all(|((a, b), mask)| a & mask == b & mask)
    }

    pub(crate) fn mask(&self) -> Vec<u8> {
        let bits = |index: usize| usize::from(self.prefix).saturating_sub(index * 8).min(8);
        (0..octets(self.address).len()).map(|i| 0xff_u8.checked_shl(8 - u32::try_from(bits(i)).unwrap_or(0)).unwrap_or(0)).collect()
    }

    /// Its first and its last address.
    pub(crate) fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let (address, mask) = (octets(self.address), self.mask());
        let first = address.iter().zip(&mask).map(|(a, m)| a & m).collect();
        (first, address.iter().zip(&mask).map(|(a, m)| a & m | !m).collect())
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_every_size() {
        let network = |text: &str, prefix| Network { address: text.parse().unwrap(), prefix };
        let contains = |n: Network, text: &str| n.contains(text.parse().unwrap());
        assert!(contains(network("10.1.2.3", 8), "10.255.0.1") && !contains(network("10.1.2.3", 8), "11.0.0.0"));
        assert!(contains(network("0.0.0.0", 0), "255.0.0.1") && !contains(network("0.0.0.0", 0), "::1"));
        assert!(contains(network("10.0.0.4", 31), "10.0.0.5") && !contains(network("10.0.0.4", 31), "10.0.0.6"));
        assert!(contains(network("fd00::", 65), "fd00::7fff:0:0:1") && !contains(network("fd00::", 65), "fd00::8000:0:0:1"));
        assert_eq!(network("10.0.0.9", 30).bounds(), (vec![10, 0, 0, 8], vec![10, 0, 0, 11]));
        assert_eq!(network("10.0.0.9", 32).bounds(), (vec![10, 0, 0, 9], vec![10, 0, 0, 9]));
    }
}
