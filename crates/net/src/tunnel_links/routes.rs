//! The table of a tunnel's routes, and the rules that lead to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_pet_rules::{Family, Network};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{Mark, TunnelLink};
use crate::netlink::{NetlinkError, RouteSocket};
use crate::pod_links::PROTOCOL;

/// Before the rule of the main table (32766) and behind that of the machine's own addresses (0).
const RULE_PRIORITY: u32 = 7575;
/// Of the routes over the link, so that both families have the same.
const METRIC: u32 = 100;
/// Of the routes to nowhere: the highest number is asked last.
const LAST_METRIC: u32 = 4096;
/// `1 << RTAX_MTU`. What is forwarded over IPv6 heeds a route's size only if that is locked, and so does IPv4 before Linux 5.10.
const MTU_IS_LOCKED: u32 = 1 << 2;
/// `RT_TABLE_COMPAT`: the number is in an attribute.
const IN_ATTRIBUTE: u8 = 252;

/// A route of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    way: Way,
    network: Network,
    /// `None`: the link's.
    mtu: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Over the link of this number.
    Link(u32),
    /// To whatever the other tables say.
    Elsewhere,
    Nowhere,
}

/// Refuses what should go through the tunnel, as long as nothing leads there.
pub(super) fn guard(socket: &mut RouteSocket, link: &TunnelLink) -> Result<(), NetlinkError> {
    // What lies in a guarded network is refused with it: a route of its own to nowhere would be there before the one over the link.
    let outside = link.routes.iter().filter(|route| !link.guarded.iter().any(|network| contains(network, route)));
    let guarded = firsts(link.guarded.iter().chain(outside));
    let bypass = firsts(&link.bypass);
    let wanted: BTreeSet<Entry> = entries(&bypass, Way::Elsewhere).chain(entries(&(&guarded - &bypass), Way::Nowhere)).collect();
    let found = entries_of(socket, link.table)?;
    for entry in wanted.difference(&found) {
        add(socket, *entry, link.table)?;
    }
    for family in Family::ALL {
        if wanted.iter().any(|entry| Family::of(entry.network.address) == family) {
            add_rule(socket, family, link.table, link.mark)?;
        }
    }
    for entry in found.difference(&wanted).filter(|entry| !matches!(entry.way, Way::Link(_))) {
        delete(socket, *entry, link.table)?;
    }
    Ok(())
}

/// Leads to the link of this number.
pub(super) fn lead(socket: &mut RouteSocket, link: &TunnelLink, index: u32) -> Result<(), NetlinkError> {
    let routes = &firsts(&link.routes) - &firsts(&link.bypass);
    let mtus: BTreeMap<Network, u32> = link.mtus.iter().map(|(network, mtu)| (first(network), *mtu)).collect();
    let sized = |entry: Entry| Entry { mtu: mtus.get(&entry.network).copied(), ..entry };
    let wanted: BTreeSet<Entry> = entries(&routes, Way::Link(index)).map(sized).collect();
    let found: BTreeSet<Entry> = entries_of(socket, link.table)?.into_iter().filter(|entry| matches!(entry.way, Way::Link(_))).collect();
    let leads = |entries: &BTreeSet<Entry>, one: &Entry| entries.iter().any(|entry| (entry.way, entry.network) == (one.way, one.network));
    for entry in found.difference(&wanted).filter(|entry| !leads(&wanted, entry)) {
        delete(socket, *entry, link.table)?;
    }
    for entry in wanted.difference(&found) {
        if leads(&found, entry) {
            resize(socket, *entry, link.table)?;
        } else {
            add(socket, *entry, link.table)?;
        }
    }
    Ok(())
}

/// Takes the rules away, and then the table's routes.
pub(super) fn unguard(socket: &mut RouteSocket, table: u32, mark: Mark) -> Result<(), NetlinkError> {
    for family in Family::ALL {
        match socket.change("removing the rule of", &table.to_string(), RouteNetlinkMessage::DelRule(rule(family, table, mark)), 0) {
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::AFNOSUPPORT) => {}
            other => other?,
        }
    }
    for entry in entries_of(socket, table)? {
        delete(socket, entry, table)?;
    }
    Ok(())
}

fn entries(networks: &BTreeSet<Network>, way: Way) -> impl Iterator<Item = Entry> {
    networks.iter().map(move |network| Entry { way, network: *network, mtu: None })
}

/// With bits behind the prefix cleared, as the kernel lists them.
fn firsts<'a>(networks: impl IntoIterator<Item = &'a Network>) -> BTreeSet<Network> {
    networks.into_iter().map(first).collect()
}

fn contains(network: &Network, other: &Network) -> bool {
    network.prefix <= other.prefix && network.contains(other.address)
}

fn first(network: &Network) -> Network {
    Network { address: network.range().0, prefix: network.prefix }
}

fn add(socket: &mut RouteSocket, entry: Entry, table: u32) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::NewRoute(route(entry, table));
    match socket.change("adding the route to", &entry.network.to_string(), message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.is(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// In the place of the one of another size: at no moment is there none.
fn resize(socket: &mut RouteSocket, entry: Entry, table: u32) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::NewRoute(route(entry, table));
    socket.change("changing the size of the route to", &entry.network.to_string(), message, NLM_F_CREATE | NLM_F_REPLACE)
}

fn delete(socket: &mut RouteSocket, entry: Entry, table: u32) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::DelRoute(route(Entry { mtu: None, ..entry }, table));
    match socket.change("removing the route to", &entry.network.to_string(), message, 0) {
        Err(error) if error.is(Errno::SRCH) => Ok(()),
        other => other,
    }
}

fn route(entry: Entry, table: u32) -> RouteMessage {
    let Entry { way, network, mtu } = entry;
    let mut message = RouteMessage::default();
    message.header.address_family = family(Family::of(network.address));
    message.header.destination_prefix_length = network.prefix;
    message.header.table = u8::try_from(table).unwrap_or(IN_ATTRIBUTE);
    message.header.protocol = PROTOCOL;
    message.header.scope = if matches!(way, Way::Link(_)) { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = match way {
        Way::Link(_) => RouteType::Unicast,
        Way::Elsewhere => RouteType::Throw,
        Way::Nowhere => RouteType::Unreachable,
    };
    message.attributes =
        vec![RouteAttribute::Table(table), RouteAttribute::Priority(if way == Way::Nowhere { LAST_METRIC } else { METRIC })];
    if network.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(network.address)));
    }
    if let Way::Link(index) = way {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    if let Some(mtu) = mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Lock(MTU_IS_LOCKED), RouteMetric::Mtu(mtu)]));
    }
    message
}

/// Ours in the table, of both families.
fn entries_of(socket: &mut RouteSocket, table: u32) -> Result<BTreeSet<Entry>, NetlinkError> {
    let mut found = BTreeSet::new();
    for of in Family::ALL {
        let mut request = RouteMessage::default();
        request.header.address_family = family(of);
        let messages = match socket.dump("routes", RouteNetlinkMessage::GetRoute(request)) {
            Err(error) if error.is(Errno::AFNOSUPPORT) => continue,
            other => other?,
        };
        found.extend(messages.iter().filter_map(|message| entry(message, of, table)));
    }
    Ok(found)
}

fn entry(message: &RouteNetlinkMessage, of: Family, table: u32) -> Option<Entry> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let RouteHeader { destination_prefix_length: prefix, protocol: PROTOCOL, kind, .. } = message.header else { return None };
    let (mut address, mut index, mut mtu, mut in_table) = (None, None, None, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
            }
            RouteAttribute::Table(number) => in_table = *number,
            _ => {}
        }
    }
    let way = match kind {
        RouteType::Unicast => Way::Link(index?),
        RouteType::Throw => Way::Elsewhere,
        RouteType::Unreachable => Way::Nowhere,
        _ => return None,
    };
    let any = if of == Family::V4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    (in_table == table).then_some(Entry { way, network: Network { address: address.unwrap_or(any), prefix }, mtu })
}

fn add_rule(socket: &mut RouteSocket, family: Family, table: u32, mark: Mark) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::NewRule(rule(family, table, mark));
    match socket.change("adding the rule of", &table.to_string(), message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.is(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn rule(of: Family, table: u32, mark: Mark) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(of);
    message.header.table = u8::try_from(table).unwrap_or(IN_ATTRIBUTE);
    message.header.action = RuleAction::ToTable;
    message.header.flags = RuleFlags::Invert;
    message.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(mark.value),
        RuleAttribute::FwMask(mark.mask),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    message
}

fn family(of: Family) -> AddressFamily {
    match of {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
