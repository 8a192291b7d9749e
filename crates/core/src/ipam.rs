//! Which pod has which address.
//!
//! A plain value: addresses of one or two CIDRs (one of each family) are given to pods by UID, never one twice. A freed address
//! is given again only after all others were, so that connections to a pod that is gone do not end at a new one. The whole
//! state can be stored and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::PodUid;

/// A network by its first address and prefix length, as `10.1.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

/// Why addresses cannot be managed or given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Not a network, or one that cannot be used for pods.
    #[error("pod CIDR {cidr:?}: {reason}")]
    InvalidCidr {
        /// What was given.
        cidr: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Neither one network nor one of each family.
    #[error("pod CIDRs {cidrs:?}: one network is needed, or one of IPv4 and one of IPv6")]
    Families {
        /// What was given.
        cidrs: Vec<String>,
    },
    /// All addresses are given.
    #[error("pod CIDR {cidr} has no free address: all {used} are in use")]
    Exhausted {
        /// The network.
        cidr: Cidr,
        /// How many addresses of it are in use.
        used: usize,
    },
    /// Another pod has this address.
    #[error("address {address} cannot be reserved for pod {uid}: pod {holder} has it")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who asked for it.
        uid: PodUid,
        /// Who has it.
        holder: PodUid,
    },
    /// Not an address for a pod: of another network, or the network's own.
    #[error("address {address} cannot be reserved for pod {uid}: it is not one of {}", list(cidrs))]
    OutOfRange {
        /// The address.
        address: IpAddr,
        /// Who asked for it.
        uid: PodUid,
        /// The networks.
        cidrs: Vec<Cidr>,
    },
    /// The pod has another address of this family.
    #[error("address {address} cannot be reserved for pod {uid}: the pod has {has}")]
    Other {
        /// The address.
        address: IpAddr,
        /// The pod.
        uid: PodUid,
        /// The address that it has.
        has: IpAddr,
    },
}

fn list(cidrs: &[Cidr]) -> String {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = IpamError;
    fn try_from(text: String) -> Result<Self, IpamError> {
        text.parse()
    }
}

impl FromStr for Cidr {
    type Err = IpamError;
    /// Bits after the prefix are ignored, as in a Kubernetes Node's `podCIDR`.
    fn from_str(text: &str) -> Result<Self, IpamError> {
        let invalid = |reason| IpamError::InvalidCidr { cidr: text.to_owned(), reason };
        let (address, prefix) = text.split_once('/').ok_or(invalid("not an address, a slash and a prefix length"))?;
        let address: IpAddr = address.parse().map_err(|_| invalid("not an address before the slash"))?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid("not a prefix length after the slash"))?;
        let width = width(address);
        if prefix > width {
            return Err(invalid("the prefix is longer than an address"));
        }
        let host_bits = width - prefix;
        if host_bits < 2 {
            return Err(invalid("too small for pods"));
        }
        let mask = if host_bits >= 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
        Ok(Self { first: from_number(number(address) & !mask, address.is_ipv6()), prefix })
    }
}

impl Cidr {
    /// Whether the address belongs to this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.offset(address).is_some()
    }
    /// Whether it is a network of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }
    /// How many addresses it has, as far as it is ever of interest.
    fn size(&self) -> u64 {
        1u64 << u32::from(width(self.first) - self.prefix).min(32)
    }
    fn address(&self, offset: u64) -> IpAddr {
        from_number(number(self.first) + u128::from(offset), self.is_ipv6())
    }
    fn offset(&self, address: IpAddr) -> Option<u64> {
        if address.is_ipv6() != self.is_ipv6() {
            return None;
        }
        let offset = number(address).checked_sub(number(self.first))?;
        let host_bits = u32::from(width(self.first) - self.prefix);
        if host_bits < 128 && offset >> host_bits != 0 {
            return None;
        }
        u64::try_from(offset).ok()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn from_number(number: u128, ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::V6(Ipv6Addr::from(number)) } else { IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))) }
}

/// One network and where the search goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Range {
    cidr: Cidr,
    /// Offset of the address that was given last.
    last: u64,
}

/// The addresses of a node's pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocator {
    ranges: Vec<Range>,
    /// Leaves the first address after the network's own to a gateway.
    skip_gateway: bool,
    pods: BTreeMap<PodUid, Vec<IpAddr>>,
}

impl Allocator {
    /// For these networks: one, or one of IPv4 and one of IPv6 (pods get an address of each, in this order). `skip_gateway`
    /// leaves out the first address, which other network setups use as the gateway's.
    pub fn new(cidrs: &[String], skip_gateway: bool) -> Result<Self, IpamError> {
        let parsed = cidrs.iter().map(|text| text.trim().parse()).collect::<Result<Vec<Cidr>, _>>()?;
        match parsed.as_slice() {
            [_] => {}
            [one, two] if one.is_ipv6() != two.is_ipv6() => {}
            _ => return Err(IpamError::Families { cidrs: cidrs.to_vec() }),
        }
        let ranges = parsed.into_iter().map(|cidr| Range { cidr, last: 0 }).collect();
        Ok(Self { ranges, skip_gateway, pods: BTreeMap::new() })
    }

    /// The networks.
    pub fn cidrs(&self) -> Vec<Cidr> {
        self.ranges.iter().map(|range| range.cidr).collect()
    }

    /// The addresses of a pod: those that it has, or new ones. On an error nothing has changed.
    pub fn allocate(&mut self, uid: &PodUid) -> Result<Vec<IpAddr>, IpamError> {
        let has = self.pods.get(uid).cloned().unwrap_or_default();
        let taken: BTreeSet<IpAddr> = self.pods.values().flatten().copied().collect();
        let mut chosen = Vec::new();
        for range in &self.ranges {
            match has.iter().find(|address| address.is_ipv6() == range.cidr.is_ipv6()) {
                Some(address) => chosen.push((*address, range.last)),
                None => chosen.push(self.next_free(range, &taken)?),
            }
        }
        for (range, (_, last)) in self.ranges.iter_mut().zip(&chosen) {
            range.last = *last;
        }
        let addresses: Vec<IpAddr> = chosen.into_iter().map(|(address, _)| address).collect();
        self.pods.insert(uid.clone(), addresses.clone());
        Ok(addresses)
    }

    fn next_free(&self, range: &Range, taken: &BTreeSet<IpAddr>) -> Result<(IpAddr, u64), IpamError> {
        let (first, end) = self.usable(range.cidr);
        let used = taken.iter().filter(|address| range.cidr.contains(**address)).count();
        let start = if range.last < first || range.last + 1 >= end { first } else { range.last + 1 };
        // Among one more address than are taken, one is free.
        let tries = (end - first).min(used as u64 + 1);
        let candidates = (start..end).chain(first..start).take(usize::try_from(tries).unwrap_or(usize::MAX));
        let mut free = candidates.map(|offset| (range.cidr.address(offset), offset)).filter(|(address, _)| !taken.contains(address));
        free.next().ok_or(IpamError::Exhausted { cidr: range.cidr, used })
    }

    /// The offsets that pods may have: without the network's own address, the broadcast address, and the gateway's if asked.
    fn usable(&self, cidr: Cidr) -> (u64, u64) {
        let first = if self.skip_gateway { 2 } else { 1 };
        let end = if cidr.is_ipv6() { cidr.size() } else { cidr.size() - 1 };
        (first, end)
    }

    /// Gives a pod an address that it had before. Fine if the pod has it already.
    pub fn reserve(&mut self, uid: &PodUid, address: IpAddr) -> Result<(), IpamError> {
        if let Some(holder) = self.holder(address) {
            if holder == uid {
                return Ok(());
            }
            return Err(IpamError::Taken { address, uid: uid.clone(), holder: holder.clone() });
        }
        let range = self.ranges.iter().position(|range| range.cidr.contains(address));
        let offset = range.and_then(|at| {
            let cidr = self.ranges[at].cidr;
            let (_, end) = self.usable(cidr);
            // The gateway's too, if a pod had it under another setting.
            cidr.offset(address).filter(|offset| (1..end).contains(offset))
        });
        let (Some(at), Some(offset)) = (range, offset) else {
            return Err(IpamError::OutOfRange { address, uid: uid.clone(), cidrs: self.cidrs() });
        };
        let has = self.pods.get(uid).and_then(|has| has.iter().find(|has| has.is_ipv6() == address.is_ipv6()));
        if let Some(has) = has {
            return Err(IpamError::Other { address, uid: uid.clone(), has: *has });
        }
        // What is in use was given lately: the search goes on behind it.
        self.ranges[at].last = self.ranges[at].last.max(offset);
        let addresses = self.pods.entry(uid.clone()).or_default();
        addresses.push(address);
        let first_is_ipv6 = self.ranges[0].cidr.is_ipv6();
        addresses.sort_by_key(|address| address.is_ipv6() != first_is_ipv6);
        Ok(())
    }

    /// Takes a pod's addresses back, and returns them.
    pub fn release(&mut self, uid: &PodUid) -> Vec<IpAddr> {
        self.pods.remove(uid).unwrap_or_default()
    }

    /// A pod's addresses.
    pub fn get(&self, uid: &PodUid) -> &[IpAddr] {
        self.pods.get(uid).map_or(&[], Vec::as_slice)
    }

    /// Who has an address.
    pub fn holder(&self, address: IpAddr) -> Option<&PodUid> {
        self.pods.iter().find(|(_, addresses)| addresses.contains(&address)).map(|(uid, _)| uid)
    }

    /// All pods that have addresses.
    pub fn pods(&self) -> impl Iterator<Item = (&PodUid, &[IpAddr])> {
        self.pods.iter().map(|(uid, addresses)| (uid, addresses.as_slice()))
    }

    /// Where the search goes on, to be stored: without, an address freed before a restart could be given first after it.
    pub fn cursors(&self) -> Vec<u64> {
        self.ranges.iter().map(|range| range.last).collect()
    }

    /// Goes on where [`Allocator::cursors`] were.
    pub fn resume(&mut self, cursors: &[u64]) {
        for (range, cursor) in self.ranges.iter_mut().zip(cursors) {
            range.last = *cursor;
        }
    }
}

#[cfg(test)]
mod tests;
