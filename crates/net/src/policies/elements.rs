//! From what is wanted to elements of sets.

use std::net::IpAddr;

use kube_pet_rules::Family;
use kube_pet_rules::policies::{Direction, Grant, Ports};

use crate::nft::{digit, octets};

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Set {
    /// link
    Isolated(Direction),
    /// link . link: a pod that reaches itself.
    Itself,
    /// link . address
    Peers(Direction, Family),
    /// link . address . protocol . port
    Ports(Direction, Family),
    /// The same with ranges of addresses, protocols and ports.
    Ranges(Direction, Family),
}

impl Set {
    pub(super) fn all() -> Vec<Self> {
        let mut sets = vec![Self::Itself];
        for direction in Direction::ALL {
            sets.push(Self::Isolated(direction));
            sets.extend(
                Family::ALL.into_iter().flat_map(|f| [Self::Peers(direction, f), Self::Ports(direction, f), Self::Ranges(direction, f)]),
            );
        }
        sets
    }

    pub(super) fn name(self) -> String {
        let named = |direction: Direction, family: Family, what: &str| format!("{}{}-{what}", direction.name(), digit(family));
        match self {
            Self::Isolated(direction) => direction.name().to_owned(),
            Self::Itself => "itself".to_owned(),
            Self::Peers(direction, family) => named(direction, family, "peers"),
            Self::Ports(direction, family) => named(direction, family, "ports"),
            Self::Ranges(direction, family) => named(direction, family, "ranges"),
        }
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

/// Where a link lies that is isolated.
pub(super) fn isolated(direction: Direction, link: &str) -> Place {
    exact(Set::Isolated(direction), name(link))
}

/// Where a link lies that reaches itself.
pub(super) fn itself(link: &str) -> Place {
    exact(Set::Itself, name(link).repeat(2))
}

/// Where lies what a link is allowed.
pub(super) fn allowed(direction: Direction, link: &str, grant: &Grant) -> Place {
    let Grant { first, last, ports } = grant;
    let family = Family::of(*first);
    let key = |address: &IpAddr, protocol: u8, port: u16| {
        let [high, low] = port.to_be_bytes();
        // Fields lie in whole registers.
        [name(link), octets(*address), vec![protocol, 0, 0, 0, high, low, 0, 0]].concat()
    };
    let range = |from: Vec<u8>, to: Vec<u8>| Place { set: Set::Ranges(direction, family), key: from.into(), end: to.into() };
    match *ports {
        Ports::All if first == last => exact(Set::Peers(direction, family), [name(link), octets(*first)].concat()),
        Ports::All => range(key(first, 0, 0), key(last, u8::MAX, u16::MAX)),
        Ports::Of { protocol, first: from, last: to } if first == last && from == to => {
            exact(Set::Ports(direction, family), key(first, protocol as u8, from))
        }
        Ports::Of { protocol, first: from, last: to } => range(key(first, protocol as u8, from), key(last, protocol as u8, to)),
    }
}

fn exact(set: Set, key: Vec<u8>) -> Place {
    Place { set, key: key.into(), end: Box::default() }
}

/// The name of a link, as the kernel compares it.
fn name(link: &str) -> Vec<u8> {
    let mut name = link.as_bytes().to_vec();
    name.resize(16, 0);
    name
}
