//! The addresses and routes of the namespace that the agent is in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{NetlinkError, RouteSocket};

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub interface: String,
    /// The interface's number.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its network prefix.
    pub prefix_length: u8,
    /// Whether others can reach it: neither loopback, nor link-local, nor temporary, nor not usable yet.
    pub global: bool,
    /// Whether the interface is switched on.
    pub up: bool,
}

/// The way to everywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface's name.
    pub interface: String,
    /// The next router; none on a point-to-point link.
    pub gateway: Option<IpAddr>,
    /// The address that this machine uses towards it.
    pub source: Option<IpAddr>,
    /// Its preference: the lowest wins.
    pub metric: u32,
}

/// All addresses of all interfaces, in the kernel's order.
pub fn host_addresses() -> Result<Vec<InterfaceAddress>, NetlinkError> {
    addresses(&mut RouteSocket::open()?)
}

pub(crate) fn addresses(socket: &mut RouteSocket) -> Result<Vec<InterfaceAddress>, NetlinkError> {
    let links = links(socket)?;
    let mut found = Vec::new();
    for message in socket.dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let Some(link) = links.iter().find(|link| link.index == message.header.index) else { continue };
        let Some(address) = local_address(&message) else { continue };
        found.push(InterfaceAddress {
            interface: link.name.clone(),
            index: link.index,
            address,
            prefix_length: message.header.prefix_len,
            global: message.header.scope == AddressScope::Universe && !unusable(&message) && !address.is_loopback(),
            up: link.up,
        });
    }
    Ok(found)
}

/// On a point-to-point link, `Address` is the other end's.
pub(crate) fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None })
    })
}

/// IPv6 addresses that were found twice, are being checked, or are exchanged for others soon.
fn unusable(message: &AddressMessage) -> bool {
    let bad = AddressFlags::Dadfailed | AddressFlags::Tentative | AddressFlags::Deprecated;
    let temporary = message.header.family == AddressFamily::Inet6 && message.header.flags.contains(AddressHeaderFlags::Secondary);
    let flagged = message.attributes.iter().any(|attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(bad)));
    temporary || flagged
}

/// What is needed of a link.
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) message: LinkMessage,
}

pub(crate) fn links(socket: &mut RouteSocket) -> Result<Vec<Link>, NetlinkError> {
    let messages = socket.dump("links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let links = messages.into_iter().filter_map(|message| {
        let RouteNetlinkMessage::NewLink(message) = message else { return None };
        let name = message
            .attributes
            .iter()
            .find_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name.clone()) } else { None })?;
        Some(Link { index: message.header.index, name, up: message.header.flags.contains(LinkFlags::Up), message })
    });
    Ok(links.collect())
}

/// The default route in use, of IPv4 or IPv6; `None` on a machine without network.
pub fn default_route(ipv6: bool) -> Result<Option<DefaultRoute>, NetlinkError> {
    let mut socket = RouteSocket::open()?;
    let addresses = addresses(&mut socket)?;
    let links = links(&mut socket)?;
    let mut request = RouteMessage::default();
    request.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let mut best: Option<DefaultRoute> = None;
    for message in socket.dump("routes", RouteNetlinkMessage::GetRoute(request))? {
        let RouteNetlinkMessage::NewRoute(message) = message else { continue };
        let Some(route) = as_default_route(&message, &links, &addresses) else { continue };
        if best.as_ref().is_none_or(|best| route.metric < best.metric) {
            best = Some(route);
        }
    }
    Ok(best)
}

fn as_default_route(message: &RouteMessage, links: &[Link], addresses: &[InterfaceAddress]) -> Option<DefaultRoute> {
    let RouteHeader { destination_prefix_length: 0, table: RouteHeader::RT_TABLE_MAIN, kind: RouteType::Unicast, .. } = message.header
    else {
        return None;
    };
    let (mut index, mut gateway, mut source, mut metric) = (None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.first()?;
                index = Some(hop.interface_index);
                gateway = hop
                    .attributes
                    .iter()
                    .find_map(|attribute| if let RouteAttribute::Gateway(address) = attribute { ip(address) } else { None });
            }
            _ => {}
        }
    }
    let link = links.iter().find(|link| Some(link.index) == index && link.up)?;
    let ipv6 = message.header.address_family == AddressFamily::Inet6;
    let own = addresses.iter().find(|address| address.index == link.index && address.global && address.address.is_ipv6() == ipv6);
    Some(DefaultRoute { interface: link.name.clone(), gateway, source: source.or(own.map(|address| address.address)), metric })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The family's constant for an address.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// The prefix length of a single address.
pub(crate) fn whole(address: IpAddr) -> u8 {
    if address.is_ipv6() { Ipv6Addr::BITS as u8 } else { Ipv4Addr::BITS as u8 }
}
