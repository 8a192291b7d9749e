//! Addresses and networks of both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// A network of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Network {
    /// One of its addresses; the first one where it was parsed.
    pub address: IpAddr,
    /// How many bits of it count.
    pub prefix: u8,
}

impl Network {
    /// The one that has only this address.
    pub fn single(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first and its last address.
    pub fn range(&self) -> (IpAddr, IpAddr) {
        match (self.address, self.mask()) {
            (IpAddr::V4(own), IpAddr::V4(mask)) => ((own & mask).into(), (own | !mask).into()),
            (IpAddr::V6(own), IpAddr::V6(mask)) => ((own & mask).into(), (own | !mask).into()),
            (own, _) => (own, own),
        }
    }

    /// As an address: ones for the bits that count.
    pub fn mask(&self) -> IpAddr {
        let host = |width: u32| width.saturating_sub(u32::from(self.prefix));
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::MAX.checked_shl(host(32)).unwrap_or(0)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX.checked_shl(host(128)).unwrap_or(0)).into(),
        }
    }

    /// Whether the address belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, last) = self.range();
        Family::of(first) == Family::of(address) && (first..=last).contains(&address)
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
        Ok(Self { address: Self { address, prefix }.range().0, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
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
        assert!(contains(network("::", 0), "ffff::1") && !contains(network("::", 0), "1.2.3.4"));
        let range = |n: Network| (n.range().0.to_string(), n.range().1.to_string());
        assert_eq!(range(network("10.0.0.9", 30)), ("10.0.0.8".into(), "10.0.0.11".into()));
        assert_eq!(range(network("10.0.0.9", 32)), ("10.0.0.9".into(), "10.0.0.9".into()));
        for text in ["10.0.0.9", "fd00::9"] {
            assert_eq!(range(Network::single(text.parse().unwrap())), (text.into(), text.into()));
        }
        assert_eq!(range(network("fd00::1:2", 112)), ("fd00::1:0".into(), "fd00::1:ffff".into()));
        assert_eq!(network("10.0.0.0", 9).mask().to_string(), "255.128.0.0");
        assert_eq!(network("::", 16).mask().to_string(), "ffff::");
    }
}
