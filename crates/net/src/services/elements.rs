//! From a frontend and its rule to elements of sets: pure, the same for a first load and for a change.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::nft::{digit, octets};
use kube_pet_rules::services::{Address, Forward, Frontend, Protocol, Rule};
use kube_pet_rules::{Family, Network};

/// Where a packet's rule is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lane {
    pub(super) family: Family,
    pub(super) to: To,
    /// For what comes from this node and its pods, where that is another thing.
    pub(super) inside: bool,
}

/// Whether the frontend's address is part of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum To {
    /// An address of its own.
    Address,
    /// Any of the node's.
    Node,
}

impl To {
    pub(super) const ALL: [Self; 2] = [Self::Address, Self::Node];
}

impl Lane {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Family::ALL.into_iter().flat_map(|family| {
            To::ALL.into_iter().flat_map(move |to| [false, true].into_iter().map(move |inside| Self { family, to, inside }))
        })
    }

    /// `service4`, `node-port6-inside`: the beginning of names of chains and sets.
    pub(super) fn name(self) -> String {
        let to = prefix(self.to);
        format!("{to}{}{}", digit(self.family), if self.inside { "-inside" } else { "" })
    }
}

pub(super) fn prefix(to: To) -> &'static str {
    match to {
        To::Address => "service",
        To::Node => "node-port",
    }
}

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Set {
    /// Frontends with so many endpoints; made when first needed.
    Count(Lane, u16),
    /// frontend . index → endpoint
    Endpoints(Lane),
    /// Frontends that nobody serves.
    Reject(Family, To),
    /// Frontends whose packets are dropped.
    Drop(Lane),
    /// Frontends whose endpoints see the node as the sender.
    Masquerade(Family, To),
    /// Frontends that remember their clients for so many seconds; made when first needed.
    Affinity(Family, To, u32),
    /// client . frontend → endpoint; the kernel writes it.
    Clients(Family, To),
    /// Frontends that not everybody may use, and who may.
    Restricted(Family, To),
    Sources(Family, To),
    /// Addresses of frontends.
    Addresses(Family),
    /// Those whose other ports are nobody's.
    Closed(Family),
    /// Own pods' addresses that are endpoints, twice: a pod that reaches itself.
    Hairpin(Family),
}

impl Set {
    pub(super) fn name(self) -> String {
        let named = |family: Family, to, what: &str| format!("{}{}-{what}", prefix(to), digit(family));
        match self {
            Self::Count(lane, count) => format!("{}-of-{count}", lane.name()),
            Self::Endpoints(lane) => format!("{}-endpoints", lane.name()),
            Self::Drop(lane) => format!("{}-drop", lane.name()),
            Self::Reject(family, to) => named(family, to, "reject"),
            Self::Masquerade(family, to) => named(family, to, "masquerade"),
            Self::Affinity(family, to, seconds) => named(family, to, &format!("affinity-{seconds}")),
            Self::Clients(family, to) => named(family, to, "clients"),
            Self::Restricted(family, to) => named(family, to, "restricted"),
            Self::Sources(family, to) => named(family, to, "sources"),
            Self::Addresses(family) => format!("addresses{}", digit(family)),
            Self::Closed(family) => format!("closed{}", digit(family)),
            Self::Hairpin(family) => format!("hairpin{}", digit(family)),
        }
    }

    /// The sets that are there from the beginning.
    pub(super) fn fixed() -> Vec<Self> {
        let mut sets: Vec<Self> = Lane::all().flat_map(|lane| [Self::Endpoints(lane), Self::Drop(lane)]).collect();
        for family in Family::ALL {
            sets.extend([Self::Addresses(family), Self::Closed(family), Self::Hairpin(family)]);
            for to in To::ALL {
                sets.extend([
                    Self::Reject(family, to),
                    Self::Masquerade(family, to),
                    Self::Clients(family, to),
                    Self::Restricted(family, to),
                    Self::Sources(family, to),
                ]);
            }
        }
        sets
    }

    /// The set with this name, of those that are made when needed.
    pub(super) fn made_when_needed(name: &str) -> Option<Self> {
        for lane in Lane::all() {
            let rest = name.strip_prefix(&lane.name());
            if let Some(count) = rest.and_then(|r| r.strip_prefix("-of-")).and_then(|c| c.parse().ok()) {
                return Some(Self::Count(lane, count));
            }
            if let Some(seconds) = rest.and_then(|r| r.strip_prefix("-affinity-")).and_then(|s| s.parse().ok()) {
                return Some(Self::Affinity(lane.family, lane.to, seconds));
            }
        }
        None
    }
}

/// A key in a set: its place in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) set: Set,
    pub(super) key: Box<[u8]>,
    /// Where the key is the beginning of a range.
    pub(super) end: Box<[u8]>,
}

/// An element that several frontends share. There are as many as there are Services, so this is smaller than its [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shared {
    /// In [`Set::Addresses`].
    Address(IpAddr),
    /// In [`Set::Hairpin`].
    Hairpin(IpAddr),
}

impl Shared {
    pub(super) fn place(self) -> Place {
        let (set, key) = match self {
            Self::Address(address) => (Set::Addresses(Family::of(address)), octets(address)),
            Self::Hairpin(address) => (Set::Hairpin(Family::of(address)), octets(address).repeat(2)),
        };
        Place { set, key: key.into(), end: Box::default() }
    }
}

/// Fields lie in whole registers.
fn port_key(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The frontend as keys have it.
pub(super) fn frontend_key(frontend: &Frontend) -> Vec<u8> {
    let mut key = match frontend.address {
        Address::Ip(address) | Address::Rest(address) => octets(address),
        Address::Node(_) => Vec::new(),
    };
    key.extend_from_slice(&[frontend.protocol as u8, 0, 0, 0]);
    key.extend_from_slice(&port_key(frontend.port));
    key
}

/// The frontend of a key in a set of frontends.
pub(super) fn frontend_of(family: Family, key: &[u8]) -> Option<Frontend> {
    let (address, rest) = key.split_at_checked(key.len().checked_sub(8)?)?;
    let address = match address.len() {
        0 => Address::Node(family),
        4 => Address::Ip(<[u8; 4]>::try_from(address).ok()?.into()),
        _ => Address::Ip(<[u8; 16]>::try_from(address).ok()?.into()),
    };
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| rest.first() == Some(&(*p as u8)))?;
    Some(Frontend { address, protocol, port: u16::from_be_bytes(rest.get(4..6)?.try_into().ok()?) })
}

pub(super) fn to_of(frontend: &Frontend) -> To {
    match frontend.address {
        Address::Ip(_) | Address::Rest(_) => To::Address,
        Address::Node(_) => To::Node,
    }
}

/// An endpoint as values have it.
pub(super) fn endpoint_value(endpoint: &SocketAddr) -> Vec<u8> {
    let mut value = octets(endpoint.ip());
    value.extend_from_slice(&port_key(endpoint.port()));
    value
}

/// The endpoint that a value is.
pub(super) fn endpoint_of(value: &[u8]) -> Option<SocketAddr> {
    let (address, port) = value.split_at_checked(value.len().checked_sub(4)?)?;
    let port = u16::from_be_bytes(port.get(..2)?.try_into().ok()?);
    if let Ok(v4) = <[u8; 4]>::try_from(address) {
        return Some(SocketAddr::from((v4, port)));
    }
    Some(SocketAddr::from((<[u8; 16]>::try_from(address).ok()?, port)))
}

/// The key of one endpoint.
pub(super) fn endpoint_key(frontend_key: &[u8], index: usize) -> Box<[u8]> {
    let mut key = frontend_key.to_vec();
    key.extend_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_ne_bytes());
    key.into()
}

/// Those of the frontend's family, each once, at most as many as a count can say.
pub(super) fn usable(frontend: &Frontend, endpoints: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut seen = HashSet::with_capacity(endpoints.len());
    let of_family = endpoints.iter().filter(|e| Family::of(e.ip()) == frontend.family());
    of_family.filter(|e| seen.insert(**e)).take(usize::from(u16::MAX)).copied().collect()
}

/// The wanted endpoints in an order that moves few of the old ones: who stays keeps the place, holes are filled from behind.
pub(super) fn keep_places(old: &[SocketAddr], wanted: &[SocketAddr]) -> Vec<SocketAddr> {
    let (before, after): (HashSet<_>, HashSet<_>) = (old.iter().collect(), wanted.iter().collect());
    let mut new: Vec<SocketAddr> = wanted.iter().filter(|e| !before.contains(e)).copied().collect();
    let mut placed: Vec<Option<SocketAddr>> = old.iter().map(|e| after.contains(e).then_some(*e)).collect();
    for hole in placed.iter_mut().filter(|p| p.is_none()) {
        *hole = new.pop();
    }
    let mut index = 0;
    while index < placed.len() {
        // What fills a hole from behind may be a hole itself.
        if placed.get(index).is_some_and(Option::is_none) {
            placed.swap_remove(index);
        } else {
            index += 1;
        }
    }
    placed.into_iter().flatten().chain(new).collect()
}

/// What a frontend is in the kernel: elements of its own, and those that it shares.
#[derive(Default)]
pub(super) struct Elements {
    pub(super) own: Vec<(Place, Box<[u8]>)>,
    pub(super) shared: Vec<Shared>,
}

/// The elements of a frontend. `local`: the networks of the node's own pods.
pub(super) fn elements(frontend: &Frontend, rule: &Rule, local: &[Network]) -> Elements {
    let (family, to, key) = (frontend.family(), to_of(frontend), frontend_key(frontend));
    let mut found = Elements::default();
    let mut own = |set: Set, key: &[u8], value: Vec<u8>| {
        found.own.push((Place { set, key: key.into(), end: Box::default() }, value.into()));
    };
    match rule {
        Rule::Reject => match frontend.address {
            Address::Rest(address) => own(Set::Closed(family), &octets(address), Vec::new()),
            Address::Ip(_) | Address::Node(_) => own(Set::Reject(family, to), &key, Vec::new()),
        },
        Rule::Drop => own(Set::Drop(Lane { family, to, inside: false }), &key, Vec::new()),
        Rule::Forward(Forward { endpoints, inside, masquerade, affinity, sources }) => {
            let outside = Lane { family, to, inside: false };
            let lanes = inside.as_ref().map(|e| (Lane { inside: true, ..outside }, e));
            for (lane, endpoints) in [(outside, endpoints)].into_iter().chain(lanes) {
                match u16::try_from(endpoints.len()) {
                    Ok(0) | Err(_) => own(Set::Drop(lane), &key, Vec::new()),
                    Ok(count) => own(Set::Count(lane, count), &key, Vec::new()),
                }
                for (index, endpoint) in endpoints.iter().enumerate() {
                    own(Set::Endpoints(lane), &endpoint_key(&key, index), endpoint_value(endpoint));
                }
            }
            if *masquerade {
                own(Set::Masquerade(family, to), &key, Vec::new());
            }
            if let Some(affinity) = affinity {
                own(Set::Affinity(family, to, seconds(*affinity)), &key, Vec::new());
            }
            if !sources.is_empty() {
                own(Set::Restricted(family, to), &key, Vec::new());
            }
            for source in minimal(sources, family) {
                let (first, last) = source.range();
                let ends = |bound: Vec<u8>| [key.clone(), bound].concat().into();
                let place = Place { set: Set::Sources(family, to), key: ends(octets(first)), end: ends(octets(last)) };
                found.own.push((place, Box::default()));
            }
            for endpoint in endpoints.iter().chain(inside.iter().flatten()).filter(|e| local.iter().any(|n| n.contains(e.ip()))) {
                found.shared.push(Shared::Hairpin(endpoint.ip()));
            }
        }
    }
    if let Address::Ip(address) | Address::Rest(address) = frontend.address {
        found.shared.push(Shared::Address(address));
    }
    found
}

pub(super) fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Networks of the family that none of the others holds: ranges of a set must not overlap.
fn minimal(networks: &[Network], family: Family) -> Vec<Network> {
    let of_family: Vec<Network> = networks.iter().filter(|n| Family::of(n.address) == family).copied().collect();
    let mut minimal: Vec<Network> = Vec::new();
    for (index, network) in of_family.iter().enumerate() {
        let held = |(at, other): (usize, &Network)| {
            other.contains(network.address) && (other.prefix < network.prefix || (other.prefix == network.prefix && at < index))
        };
        if !of_family.iter().enumerate().any(held) {
            minimal.push(*network);
        }
    }
    minimal
}
