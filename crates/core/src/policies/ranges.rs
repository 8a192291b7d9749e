//! Ranges of addresses with their ports, made disjoint: the kernel's sets of ranges must not hold two that overlap.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_pet_rules::policies::{Grant, Ports};
use kube_pet_rules::{Family, Network};

/// The same as the given grants together, without overlaps, in as few pieces as their borders allow: one result for one meaning.
pub(super) fn disjoint<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> BTreeSet<Grant> {
    let grants: Vec<&Grant> = grants.into_iter().collect();
    Family::ALL.into_iter().flat_map(|family| of_family(family, &grants)).collect()
}

fn of_family(family: Family, grants: &[&Grant]) -> Vec<Grant> {
    let spans: Vec<(u128, u128, Ports)> =
        grants.iter().filter(|g| Family::of(g.first) == family).map(|g| (number(g.first), number(g.last), g.ports)).collect();
    let borders: BTreeSet<u128> = spans.iter().flat_map(|(first, last, _)| [Some(*first), last.checked_add(1)]).flatten().collect();
    let mut pieces: Vec<(u128, u128, Vec<Ports>)> = Vec::new();
    for first in &borders {
        let ports = union(spans.iter().filter(|(from, to, _)| from <= first && first <= to).map(|(_, _, ports)| *ports));
        if ports.is_empty() {
            continue;
        }
        // Up to the next border; the end of the last piece is that of a span.
        let next = borders.range(first + 1..).next().map(|next| next - 1);
        let last = next.or_else(|| spans.iter().map(|(_, last, _)| *last).max()).unwrap_or(*first);
        match pieces.last_mut() {
            Some((_, end, same)) if end.checked_add(1) == Some(*first) && *same == ports => *end = last,
            _ => pieces.push((*first, last, ports)),
        }
    }
    let grant = |first, last, ports| Grant { first: address(family, first), last: address(family, last), ports };
    pieces.into_iter().flat_map(|(first, last, ports)| ports.into_iter().map(move |ports| grant(first, last, ports))).collect()
}

/// Sorted and without overlaps.
fn union(ports: impl Iterator<Item = Ports>) -> Vec<Ports> {
    let sorted: BTreeSet<Ports> = ports.collect();
    if sorted.contains(&Ports::All) {
        return vec![Ports::All];
    }
    let mut merged: Vec<Ports> = Vec::new();
    for ports in sorted {
        match (merged.last_mut(), ports) {
            (Some(Ports::Of { protocol: same, last: end, .. }), Ports::Of { protocol, first, last })
                if *same == protocol && first <= end.saturating_add(1) =>
            {
                *end = (*end).max(last);
            }
            _ => merged.push(ports),
        }
    }
    merged
}

/// The addresses of a network without the given ones: first and last of each range.
pub(super) fn without(network: &Network, except: &[Network]) -> Vec<(IpAddr, IpAddr)> {
    let family = Family::of(network.address);
    let mut left = vec![bounds(network)];
    for (from, to) in except.iter().filter(|n| Family::of(n.address) == family).map(bounds) {
        let cut = |(first, last): (u128, u128)| {
            if to < first || last < from {
                return vec![(first, last)];
            }
            let before = (first < from).then(|| (first, from - 1));
            let after = (to < last).then(|| (to + 1, last));
            before.into_iter().chain(after).collect()
        };
        left = left.into_iter().flat_map(cut).collect();
    }
    left.into_iter().map(|(first, last)| (address(family, first), address(family, last))).collect()
}

/// All addresses of a family.
pub(super) fn everything(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
        Family::V6 => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from_bits(u128::MAX).into()),
    }
}

fn bounds(network: &Network) -> (u128, u128) {
    let (first, last) = network.range();
    (number(first), number(last))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Protocol;

    fn tcp(first: u16, last: u16) -> Ports {
        Ports::Of { protocol: Protocol::Tcp, first, last }
    }

    fn grant(first: &str, last: &str, ports: Ports) -> Grant {
        Grant { first: first.parse().unwrap(), last: last.parse().unwrap(), ports }
    }

    #[test]
    fn what_overlaps_is_cut_and_what_is_the_same_is_joined() {
        let of = |grants: &[Grant]| disjoint(grants).into_iter().collect::<Vec<_>>();
        let (a, b) = (grant("10.0.0.0", "10.0.0.255", tcp(80, 80)), grant("10.0.0.128", "10.0.1.255", tcp(81, 90)));
        let joined = [
            grant("10.0.0.0", "10.0.0.127", tcp(80, 80)),
            grant("10.0.0.128", "10.0.0.255", tcp(80, 90)),
            grant("10.0.1.0", "10.0.1.255", tcp(81, 90)),
        ];
        assert_eq!(of(&[a, b]), joined);
        let all = grant("10.0.0.0", "10.0.1.255", Ports::All);
        assert_eq!(of(&[a, b, all]), [all], "nothing beside everything");
        let halves = [grant("0.0.0.0", "127.255.255.255", Ports::All), grant("128.0.0.0", "255.255.255.255", Ports::All)];
        assert_eq!(of(&halves), [grant("0.0.0.0", "255.255.255.255", Ports::All)]);
        let end = grant("ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", tcp(0, 65535));
        assert_eq!(of(&[end, a]), [a, end], "families have nothing in common");
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn exceptions_are_taken_out() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let of = |cidr: &str, except: &[&str]| {
            let except: Vec<_> = except.iter().map(|e| network(e)).collect();
            without(&network(cidr), &except).into_iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>()
        };
        assert_eq!(of("10.0.0.0/24", &[]), ["10.0.0.0-10.0.0.255"]);
        assert_eq!(
            of("10.0.0.0/24", &["10.0.0.64/26", "10.0.0.4/32"]),
            ["10.0.0.0-10.0.0.3", "10.0.0.5-10.0.0.63", "10.0.0.128-10.0.0.255"]
        );
        assert_eq!(of("10.0.0.0/24", &["10.0.0.0/24"]), [""; 0]);
        assert_eq!(of("0.0.0.0/0", &["0.0.0.0/1"]), ["128.0.0.0-255.255.255.255"]);
        assert_eq!(of("::/0", &["8000::/1"]), ["::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
    }
}
