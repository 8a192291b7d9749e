//! Values with a grammar of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use kube_pet_core::eviction::{Signal, Threshold};
use kube_pet_core::quantity::Amount;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// A network in CIDR notation, without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpNet {
    /// The first address.
    pub address: IpAddr,
    /// How many leading bits are fixed.
    pub prefix: u8,
}

impl IpNet {
    /// Whether an address is within.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4() && masked(ip, self.prefix) == self.address
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl FromStr for IpNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').ok_or("has no prefix length")?;
        let address: IpAddr = address.parse().map_err(|_| "does not begin with an IP address")?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 =
            prefix.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(|| format!("has no prefix length from 0 to {longest}"))?;
        let network = masked(address, prefix);
        if network != address {
            return Err(format!("has bits after its prefix; the network is {network}/{prefix}"));
        }
        Ok(Self { address, prefix })
    }
}

fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for IpNet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where an ExternalIP comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum ExternalIpSource {
    /// The public addresses of an interface; without a name, of the one that the default route leaves by.
    Interface(Option<String>),
    /// This one.
    Static(IpAddr),
    /// What an HTTP server answers: the body is the address as text.
    Url(String),
}

impl fmt::Debug for ExternalIpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => f.debug_tuple("Interface").field(name).finish(),
            Self::Static(ip) => f.debug_tuple("Static").field(ip).finish(),
            Self::Url(url) => f.debug_tuple("Url").field(&without_password(url)).finish(),
        }
    }
}

impl Serialize for ExternalIpSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = match self {
            Self::Interface(None) => return serializer.serialize_str("interface"),
            _ => serializer.serialize_map(Some(1))?,
        };
        match self {
            Self::Interface(name) => map.serialize_entry("interface", name)?,
            Self::Static(ip) => map.serialize_entry("static", ip)?,
            Self::Url(url) => map.serialize_entry("url", &without_password(url))?,
        }
        map.end()
    }
}

/// A URL without what stands before an `@` in its authority.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://REDACTED@{host}{tail}"),
        None => url.to_owned(),
    }
}

/// `logging.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The kubelet's (`DefaultEvictionHard`, Linux).
pub(super) fn default_thresholds() -> BTreeMap<Signal, Threshold> {
    BTreeMap::from([
        (Signal::MemoryAvailable, Threshold::Amount(Amount::bytes(100 << 20))),
        (Signal::NodefsAvailable, Threshold::Percent(10.0)),
        (Signal::NodefsInodesFree, Threshold::Percent(5.0)),
        (Signal::ImagefsAvailable, Threshold::Percent(15.0)),
        (Signal::ImagefsInodesFree, Threshold::Percent(5.0)),
    ])
}
