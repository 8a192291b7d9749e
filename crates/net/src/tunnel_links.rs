//! The link of a tunnel to the cluster: its addresses, and which packets take it.
//!
//! ```text
//! rules     from all not fwmark <mark>/<mask> lookup <table>      the tunnel's own packets go past the table: no loop
//! <table>   10.42.0.0/16 dev <link> [mtu lock 1300]               what the other side takes, and how large it may be
//!           unreachable 10.42.0.0/16 metric 4096                  behind it: refused, and never sent in plaintext by another way
//!           throw 10.42.7.0/24                                    of this machine's own: the other tables decide
//! ```
//! The routes over the link go with the link, that of a program with the program. What is behind them stays until [`remove`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_pet_rules::Network;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rustix::io::Errno;

use crate::addresses::{addresses, family, links, whole};
use crate::netlink::{NetlinkError, RouteSocket};
use crate::pod_links::{PodLinkError, ensure_forwarding, sysctl};

mod routes;

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// The kernel's WireGuard.
    Wireguard,
    /// A program's.
    Tun,
    /// Something that is no tunnel.
    Other,
}

/// A tunnel's link as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelLink {
    /// Its name.
    pub name: String,
    /// This machine's addresses in the tunnel.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses that it answers at besides. What it sends by itself, its messages about lost packets too, does not come from them.
    pub answers: BTreeSet<IpAddr>,
    /// Bytes per packet.
    pub mtu: u32,
    /// What goes through it.
    pub routes: BTreeSet<Network>,
    /// Bytes per packet on some of these routes, where that is less than the link's.
    pub mtus: BTreeMap<Network, u32>,
    /// What goes through it or nowhere.
    pub guarded: BTreeSet<Network>,
    /// What never goes through it, although it lies in the others: this machine's own pods.
    pub bypass: BTreeSet<Network>,
    /// The number of the table that its routes are in.
    pub table: u32,
    /// The mark of its own packets.
    pub mark: Mark,
    /// Whether packets of others may pass.
    pub forward: bool,
}

/// Bits of a packet's mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Their value.
    pub value: u32,
    /// Which bits count.
    pub mask: u32,
}

/// What the link of this name is; `None` if there is none.
///
/// # Errors
/// When the kernel refuses.
pub fn kind(name: &str) -> Result<Option<LinkKind>, NetlinkError> {
    let found = links(&mut RouteSocket::open()?)?.into_iter().find(|link| link.name == name);
    Ok(found.map(|link| {
        let infos = link.message.attributes.iter().find_map(|a| if let LinkAttribute::LinkInfo(infos) = a { Some(infos) } else { None });
        let kind = infos.into_iter().flatten().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
        match kind {
            Some(InfoKind::Wireguard) => LinkKind::Wireguard,
            Some(InfoKind::Tun) => LinkKind::Tun,
            _ => LinkKind::Other,
        }
    }))
}

/// Makes a link of the kernel's WireGuard. Whether the kernel has it.
///
/// # Errors
/// When the kernel refuses for another reason.
pub fn create_wireguard(name: &str) -> Result<bool, NetlinkError> {
    let message = wireguard(name);
    match RouteSocket::open()?.change("making the WireGuard link", name, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.is(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

fn wireguard(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)])];
    message
}

/// Removes a link. Whether it was there.
///
/// # Errors
/// When the kernel refuses.
pub fn delete(name: &str) -> Result<bool, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match RouteSocket::open()?.change("removing the link", name, RouteNetlinkMessage::DelLink(message), 0) {
        Ok(()) => Ok(true),
        Err(error) if error.is_no_device() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses what should go through the link, as long as there is no link: before it is made.
///
/// # Errors
/// When the kernel refuses.
pub fn guard(link: &TunnelLink) -> Result<(), NetlinkError> {
    routes::guard(&mut RouteSocket::open()?, link)
}

/// Gives the link its size and addresses, switches it on and leads packets to it. What is right already is not touched.
///
/// # Errors
/// When the kernel refuses; what is not reachable then is refused rather than sent another way.
pub fn ensure(link: &TunnelLink) -> Result<(), PodLinkError> {
    let TunnelLink { name, addresses, answers, mtu, routes: _, mtus: _, guarded: _, bypass: _, table: _, mark: _, forward } = link;
    let mut socket = RouteSocket::open()?;
    // First what must not leak, then what may pass.
    routes::guard(&mut socket, link)?;
    let ipv6 = addresses.union(answers).any(IpAddr::is_ipv6);
    if *forward {
        ensure_forwarding(ipv6)?;
    }
    // A packet of the cluster that comes by the tunnel is right whatever other way leads back.
    for (file, value) in [
        (format!("ipv4/conf/{name}/rp_filter"), "2"),
        (format!("ipv6/conf/{name}/disable_ipv6"), if ipv6 { "0" } else { "1" }),
        (format!("ipv6/conf/{name}/accept_ra"), "0"),
    ] {
        sysctl(&file, value)?;
    }
    let mut up = LinkMessage::default();
    up.attributes = vec![LinkAttribute::IfName(name.clone()), LinkAttribute::Mtu(*mtu)];
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    socket.change("switching on", name, RouteNetlinkMessage::SetLink(up), 0)?;
    let index = set_addresses(&mut socket, name, addresses, answers)?;
    routes::lead(&mut socket, link, index)?;
    Ok(())
}

/// Removes the link and everything that [`ensure`] made for it: from now on nothing is refused. Whether the link was there.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(name: &str, table: u32, mark: Mark) -> Result<bool, NetlinkError> {
    let mut socket = RouteSocket::open()?;
    routes::unguard(&mut socket, table, mark)?;
    delete(name)
}

/// Gives it exactly these addresses; the link's number.
fn set_addresses(
    socket: &mut RouteSocket,
    name: &str,
    addresses_of_its_own: &BTreeSet<IpAddr>,
    answers: &BTreeSet<IpAddr>,
) -> Result<u32, NetlinkError> {
    let wanted = addresses_of_its_own | answers;
    let missing = || NetlinkError { doing: "finding the link", object: name.to_owned(), source: Errno::NODEV.into() };
    let index = links(socket)?.into_iter().find(|link| link.name == name).ok_or_else(missing)?.index;
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let found = addresses(socket)?.into_iter().filter(|found| found.index == index && !link_local(&found.address));
    let mut there = BTreeSet::new();
    let mut wrong = Vec::new();
    for found in found {
        if wanted.contains(&found.address) && found.prefix_length == whole(found.address) {
            there.insert(found.address);
        } else {
            wrong.push((found.address, found.prefix_length));
        }
    }
    // New ones first: a moment without any address would end what uses the link.
    for address in wanted.difference(&there) {
        let message = RouteNetlinkMessage::NewAddress(message(*address, whole(*address), index, addresses_of_its_own.contains(address)));
        socket.change("adding an address to", &format!("{name}: {address}"), message, NLM_F_CREATE | NLM_F_EXCL)?;
    }
    for (address, prefix) in wrong {
        let message = RouteNetlinkMessage::DelAddress(message(address, prefix, index, true));
        socket.change("taking an address from", &format!("{name}: {address}"), message, 0)?;
    }
    Ok(index)
}

/// `begins`: whether packets that begin here may come from it. Else it is one of the machine only (IPv4), or as good as outdated (RFC 6724).
fn message(address: IpAddr, prefix: u8, index: u32, begins: bool) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.scope = if begins || address.is_ipv6() { AddressScope::Universe } else { AddressScope::Host };
    message.header.index = index;
    message.header.flags = AddressHeaderFlags::Nodad | AddressHeaderFlags::Permanent;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if !begins && address.is_ipv6() {
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    message
}
