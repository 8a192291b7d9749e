//! From what is to what should be, one peer at a time.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use kube_pet_rules::Network;

use crate::device::{Change, PeerStatus};
use crate::keys::PublicKey;

/// A peer as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    /// To be written; `None` where WireGuard's own is to stay.
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: u16,
    pub(crate) allowed: &'a BTreeSet<Network>,
}

/// The changes, those that give before those that take: a network that moves from one peer to another belongs to one of them at any time.
/// Of a thousand peers one differs: nothing is copied for the others.
pub(crate) fn changes(wanted: &BTreeMap<PublicKey, Wanted<'_>>, actual: &BTreeMap<PublicKey, PeerStatus>) -> Vec<Change> {
    let mut given: HashSet<Network> = HashSet::with_capacity(2 * wanted.len());
    let mut shares = Vec::with_capacity(wanted.len());
    for (key, peer) in wanted {
        let all = if peer.allowed.iter().all(|network| first(network) == *network && !given.contains(network)) {
            given.extend(peer.allowed);
            Cow::Borrowed(peer.allowed)
        } else {
            // Of two that want the same, the first has it: a network leads to one place.
            Cow::Owned(peer.allowed.iter().map(first).filter(|network| given.insert(*network)).collect())
        };
        shares.push((key, peer, all));
    }
    let (mut changes, nothing) = (Vec::new(), BTreeSet::new());
    for (key, peer, all) in shares {
        let there = actual.get(key);
        let has = there.map_or(&nothing, |there| &there.allowed);
        let add: BTreeSet<Network> = all.difference(has).copied().collect();
        // What another peer gets is taken by that.
        let replace = has.difference(&all).any(|network| !given.contains(network));
        let endpoint = peer.endpoint.filter(|endpoint| there.and_then(|there| there.endpoint) != Some(*endpoint));
        let keepalive = (there.map(|there| there.keepalive).unwrap_or_default() != peer.keepalive).then_some(peer.keepalive);
        if there.is_none() || endpoint.is_some() || keepalive.is_some() || !add.is_empty() || replace {
            changes.push(Change::Set { peer: *key, endpoint, keepalive, add, replace, all: all.into_owned() });
        }
    }
    changes.extend(actual.keys().filter(|key| !wanted.contains_key(key)).map(|key| Change::Remove(*key)));
    changes
}

/// How many want each network. Where nobody wants what another one wants, a peer that changes concerns no other.
#[derive(Default)]
pub(crate) struct Claims {
    by_network: HashMap<Network, usize>,
    contested: usize,
}

impl Claims {
    pub(crate) fn add(&mut self, networks: &BTreeSet<Network>) {
        for network in networks {
            let claims = self.by_network.entry(first(network)).or_default();
            *claims += 1;
            self.contested += usize::from(*claims == 2);
        }
    }

    pub(crate) fn remove(&mut self, networks: &BTreeSet<Network>) {
        for network in networks {
            let Entry::Occupied(mut claims) = self.by_network.entry(first(network)) else { continue };
            self.contested -= usize::from(*claims.get() == 2);
            match *claims.get() {
                0 | 1 => drop(claims.remove()),
                more => drop(claims.insert(more - 1)),
            }
        }
    }

    pub(crate) fn are_contested(&self) -> bool {
        self.contested > 0
    }
}

/// Peers that differ, are new, or are not wanted any more.
pub(crate) fn differing<T: PartialEq>(before: &BTreeMap<PublicKey, T>, after: &BTreeMap<PublicKey, T>) -> Vec<PublicKey> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let old = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { after.next() } else { None };
        if old != new {
            found.extend(old.or(new).map(|(key, _)| *key));
        }
    }
}

/// With bits behind the prefix cleared.
pub(crate) fn first(network: &Network) -> Network {
    Network { address: network.range().0, prefix: network.prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PublicKey {
        [number; 32].into()
    }

    fn nets(texts: &[&str]) -> BTreeSet<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn wanted(endpoint: Option<&str>, allowed: &[&str]) -> Wanted<'static> {
        Wanted { endpoint: endpoint.map(|e| e.parse().unwrap()), keepalive: 25, allowed: Box::leak(Box::new(nets(allowed))) }
    }

    fn is(endpoint: &str, allowed: &[&str]) -> PeerStatus {
        PeerStatus { endpoint: Some(endpoint.parse().unwrap()), keepalive: 25, allowed: nets(allowed), ..PeerStatus::default() }
    }

    #[test]
    fn what_is_so_already_is_not_touched_and_a_learnt_endpoint_stays() {
        let actual = BTreeMap::from([(key(1), is("192.0.2.9:7", &["10.0.0.0/8"]))]);
        assert_eq!(changes(&BTreeMap::from([(key(1), wanted(None, &["10.0.0.0/8"]))]), &actual), []);
        assert_eq!(changes(&BTreeMap::from([(key(1), wanted(Some("192.0.2.9:7"), &["10.0.0.0/8"]))]), &actual), []);
    }

    #[test]
    fn a_new_peer_is_the_only_change() {
        let mut peers = BTreeMap::from([(key(1), wanted(None, &["10.0.0.0/8"]))]);
        let actual = BTreeMap::from([(key(1), is("192.0.2.9:7", &["10.0.0.0/8"]))]);
        peers.insert(key(2), wanted(Some("192.0.2.2:1"), &["10.9.0.0/24"]));
        let all = nets(&["10.9.0.0/24"]);
        let endpoint = Some("192.0.2.2:1".parse().unwrap());
        let set = Change::Set { peer: key(2), endpoint, keepalive: Some(25), add: all.clone(), replace: false, all };
        assert_eq!(changes(&peers, &actual), [set]);
    }

    #[test]
    fn a_network_moves_without_being_taken_first() {
        let peers = BTreeMap::from([(key(1), wanted(None, &["10.2.0.0/16"])), (key(2), wanted(None, &["10.1.0.0/16"]))]);
        let actual = BTreeMap::from([(key(1), is("192.0.2.1:1", &["10.1.0.0/16", "10.2.0.0/16"])), (key(2), is("192.0.2.2:1", &[]))]);
        let all = nets(&["10.1.0.0/16"]);
        let moved = Change::Set { peer: key(2), endpoint: None, keepalive: None, add: all.clone(), replace: false, all };
        assert_eq!(changes(&peers, &actual), [moved]);
    }

    #[test]
    fn a_network_that_nobody_gets_is_taken_and_a_peer_that_is_not_wanted_goes_last() {
        let peers = BTreeMap::from([(key(2), wanted(None, &["10.1.0.0/16"]))]);
        let actual = BTreeMap::from([(key(1), is("192.0.2.1:1", &["10.1.0.0/16"])), (key(2), is("192.0.2.2:1", &["10.3.0.0/16"]))]);
        let all = nets(&["10.1.0.0/16"]);
        let set = Change::Set { peer: key(2), endpoint: None, keepalive: None, add: all.clone(), replace: true, all };
        assert_eq!(changes(&peers, &actual), [set, Change::Remove(key(1))]);
    }

    #[test]
    fn peers_differ_that_are_new_gone_or_other() {
        let of = |all: &[(u8, u8)]| all.iter().map(|(number, value)| (key(*number), *value)).collect::<BTreeMap<_, _>>();
        let before = of(&[(1, 0), (3, 0), (5, 0), (9, 0)]);
        for (after, expected) in [
            (before.clone(), vec![]),
            (of(&[(3, 0), (5, 1), (9, 0)]), vec![1, 5]),
            (of(&[(0, 0), (1, 0), (3, 0), (5, 0), (7, 0), (9, 0), (10, 0)]), vec![0, 7, 10]),
            (BTreeMap::new(), vec![1, 3, 5, 9]),
        ] {
            assert_eq!(differing(&before, &after), expected.iter().copied().map(key).collect::<Vec<_>>());
        }
        assert_eq!(differing(&BTreeMap::new(), &before).len(), 4);
    }

    #[test]
    fn a_network_is_contested_while_two_want_it() {
        let mut claims = Claims::default();
        let (a, b, c) = (nets(&["10.1.0.0/16", "10.2.0.0/16"]), nets(&["10.1.0.9/16"]), nets(&["10.1.0.0/16"]));
        let mut contested = Vec::new();
        claims.add(&a);
        contested.push(claims.are_contested());
        claims.add(&b);
        claims.add(&c);
        claims.remove(&a);
        contested.push(claims.are_contested());
        claims.remove(&c);
        contested.push(claims.are_contested());
        claims.remove(&b);
        claims.remove(&b);
        assert_eq!(contested, [false, true, false]);
        assert!(claims.by_network.is_empty() && !claims.are_contested());
    }

    #[test]
    fn of_two_that_want_the_same_one_has_it_and_nothing_flaps() {
        let peers = BTreeMap::from([(key(1), wanted(None, &["10.1.0.0/16"])), (key(2), wanted(None, &["10.1.0.9/16"]))]);
        let actual = BTreeMap::from([(key(1), is("192.0.2.1:1", &["10.1.0.0/16"])), (key(2), is("192.0.2.2:1", &[]))]);
        assert_eq!(changes(&peers, &actual), []);
    }
}
