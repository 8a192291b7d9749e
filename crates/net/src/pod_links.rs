//! A pod's link to the node: a veth pair, `eth0` in the pod's network namespace, the other end in the agent's.
//!
//! ```text
//! pod's namespace                         agent's namespace
//! eth0  10.1.0.7/32         veth          <prefix><hash>  169.254.1.1/32 (scope link), fe80::1
//!   169.254.1.1 dev eth0 scope link         10.1.0.7/32 dev <prefix><hash> src <node's address>
//!   default via 169.254.1.1                 10.1.0.7/32 dev <prefix><hash> src 169.254.1.1 metric 2048
//! ```
//! Point-to-point: no bridge, everything is routed. The node's end carries the gateway's address, so that the kernel answers
//! for it whatever routes the node has; the alternative, proxy ARP, is silent on a node without a default route (a pet that is
//! offline) and delays its answers. Packets from the node to a pod carry the node's own address; the gateway's only while the
//! node has none.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use kube_pet_host::namespaces::{NamespaceError, run_in_netns};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteScope};
use rustix::io::Errno;

use crate::addresses::{addresses, family, links, whole};
use crate::netlink::{NetlinkError, RouteSocket};

mod routes;
mod sysctls;

pub(crate) use routes::PROTOCOL;
use routes::{add_host_route, replace_route, route};
pub(crate) use sysctls::{ensure_forwarding, sysctl};

/// The router that pods see over IPv4.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The router that pods see over IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The name of a pod's only interface.
pub const POD_INTERFACE: &str = "eth0";
/// How long a link's name may be.
pub const MAX_NAME: usize = 15;

/// Why a pod has no link.
#[derive(Debug, thiserror::Error)]
pub enum PodLinkError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The pod's namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The pod's namespace cannot be opened.
    #[error("opening the network namespace {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A sysctl of a link cannot be set.
    #[error("writing {path}: {source}")]
    Sysctl {
        /// Its file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The pod has other addresses than it should: they are left alone, because it is using them.
    #[error("the pod's interface in {netns} has the addresses {found:?} instead of {wanted:?}")]
    OtherAddresses {
        /// Its namespace.
        netns: PathBuf,
        /// What it has.
        found: Vec<IpAddr>,
        /// What it should have.
        wanted: Vec<IpAddr>,
    },
    /// The name cannot be that of a link.
    #[error("{name:?} cannot be the name of a network link")]
    InvalidName {
        /// The name.
        name: String,
    },
}

/// A pod's link as it should be.
#[derive(Clone, Copy, Debug)]
pub struct PodLink<'a> {
    /// The pod's network namespace.
    pub netns: &'a Path,
    /// The name of the node's end.
    pub host_name: &'a str,
    /// A text for people and for finding leaks, shown by `ip link`.
    pub alias: &'a str,
    /// The pod's addresses: one, or one of each family.
    pub addresses: &'a [IpAddr],
    /// Bytes per packet.
    pub mtu: u32,
    /// The node's address towards pods; without (or if the node does not have it), the kernel chooses.
    pub source: Option<IpAddr>,
}

/// A link of the node that looks like a pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLink {
    /// Its name.
    pub name: String,
    /// What [`PodLink::alias`] said.
    pub alias: String,
}

/// Makes the link, or repairs what is missing of it. A link that is right already is not disturbed.
pub fn ensure(link: &PodLink<'_>) -> Result<(), PodLinkError> {
    let PodLink { netns, host_name, alias, addresses, mtu, source } = *link;
    if !is_valid_name(host_name) {
        return Err(PodLinkError::InvalidName { name: host_name.to_owned() });
    }
    let mut socket = RouteSocket::open()?;
    create_pair(&mut socket, netns, host_name, mtu)?;
    let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    ensure_forwarding(ipv6)?;
    // Before the link is up: it would start looking for IPv6 neighbours and routers.
    for (file, value) in [
        (format!("ipv4/conf/{host_name}/rp_filter"), "2"),
        (format!("ipv6/conf/{host_name}/disable_ipv6"), if ipv6 { "0" } else { "1" }),
        (format!("ipv6/conf/{host_name}/accept_ra"), "0"),
        (format!("ipv6/conf/{host_name}/accept_dad"), "0"),
    ] {
        sysctl(&file, value)?;
    }
    let mut up = named(host_name);
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    up.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    socket.change("switching on", host_name, RouteNetlinkMessage::SetLink(up), 0)?;
    let index = index_of(&mut socket, host_name)?;
    for gateway in gateways(addresses) {
        add_address(&mut socket, host_name, index, gateway, AddressScope::Link)?;
    }
    run_in_netns(netns, || configure_pod(netns, addresses))??;
    for address in addresses {
        add_host_route(&mut socket, host_name, index, *address, source)?;
    }
    Ok(())
}

/// Lets the node's loopback speak to the pod behind the link, whose answers come back over it. The kernel refuses that otherwise.
/// What the pod itself sends to the loopback must be dropped before connections are told apart.
pub fn answer_loopback(host_name: &str) -> Result<(), PodLinkError> {
    sysctl(&format!("ipv4/conf/{host_name}/route_localnet"), "1")
}

/// Puts back the node's routes to a pod: the kernel drops those that name a source address when the node loses that one.
pub fn ensure_routes(host_name: &str, pod: &[IpAddr], source: Option<IpAddr>) -> Result<(), PodLinkError> {
    let mut socket = RouteSocket::open()?;
    let index = index_of(&mut socket, host_name)?;
    for address in pod {
        add_host_route(&mut socket, host_name, index, *address, source)?;
    }
    Ok(())
}

/// Removes the link, both ends, its addresses and routes. Says whether there was one.
pub fn remove(host_name: &str) -> Result<bool, PodLinkError> {
    let mut socket = RouteSocket::open()?;
    match socket.change("removing the link", host_name, RouteNetlinkMessage::DelLink(named(host_name)), 0) {
        Ok(()) => Ok(true),
        Err(error) if error.is_no_device() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// All veth links of the node whose name is `prefix` and then exactly `suffix_length` hexadecimal digits.
pub fn list(prefix: &str, suffix_length: usize) -> Result<Vec<FoundLink>, PodLinkError> {
    let ours = |name: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.len() == suffix_length && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let mut found = Vec::new();
    for link in links(&mut RouteSocket::open()?)? {
        let mut alias = String::new();
        let mut veth = false;
        for attribute in &link.message.attributes {
            match attribute {
                LinkAttribute::IfAlias(text) => alias.clone_from(text),
                LinkAttribute::LinkInfo(infos) => veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth))),
                _ => {}
            }
        }
        if veth && ours(&link.name) {
            found.push(FoundLink { name: link.name, alias });
        }
    }
    Ok(found)
}

/// The addresses that a pod has, read from its namespace; none if it has no link yet.
pub fn pod_addresses(netns: &Path) -> Result<Vec<IpAddr>, PodLinkError> {
    Ok(run_in_netns(netns, || own_pod_addresses(&mut RouteSocket::open()?))??)
}

fn own_pod_addresses(socket: &mut RouteSocket) -> Result<Vec<IpAddr>, NetlinkError> {
    let all = addresses(socket)?.into_iter();
    Ok(all.filter(|found| found.interface == POD_INTERFACE && found.global).map(|found| found.address).collect())
}

/// Switches the loopback interface of the calling thread's namespace on.
pub fn loopback_up() -> Result<(), NetlinkError> {
    switch_on(&mut RouteSocket::open()?, "lo")
}

fn switch_on(socket: &mut RouteSocket, name: &str) -> Result<(), NetlinkError> {
    let mut up = named(name);
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    socket.change("switching on", name, RouteNetlinkMessage::SetLink(up), 0)
}

/// Whether the kernel takes this as the name of a link, and `/proc/sys` as that of a folder.
fn is_valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn index_of(socket: &mut RouteSocket, name: &str) -> Result<u32, NetlinkError> {
    let found = socket.get("finding the link", name, RouteNetlinkMessage::GetLink(named(name)))?;
    match found {
        RouteNetlinkMessage::NewLink(link) => Ok(link.header.index),
        _ => Err(NetlinkError { doing: "finding the link", object: name.to_owned(), source: Errno::NODEV.into() }),
    }
}

/// Makes the pair, its far end directly in the pod's namespace. If one of the ends is there without the other (the node's end
/// of an earlier pod, a pod's end whose other is in another namespace), the old one is removed.
fn create_pair(socket: &mut RouteSocket, netns: &Path, host_name: &str, mtu: u32) -> Result<(), PodLinkError> {
    let file = fs::File::open(netns).map_err(|source| PodLinkError::Open { path: netns.into(), source })?;
    let mut peer = named(POD_INTERFACE);
    peer.attributes.push(LinkAttribute::Mtu(mtu));
    peer.attributes.push(LinkAttribute::NetNsFd(file.as_raw_fd()));
    let mut pair = named(host_name);
    pair.attributes.push(LinkAttribute::Mtu(mtu));
    pair.attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]));
    let create = |socket: &mut RouteSocket| {
        socket.change("making the link", host_name, RouteNetlinkMessage::NewLink(pair.clone()), NLM_F_CREATE | NLM_F_EXCL)
    };
    match create(socket) {
        Err(error) if error.is(Errno::EXIST) => {}
        other => return Ok(other?),
    }
    // The numbers of both ends, each as the other one tells it.
    let host_end = index_of(socket, host_name).ok();
    let pod_end = run_in_netns(netns, || peer_of(&mut RouteSocket::open()?, POD_INTERFACE))??;
    if host_end.is_some() && host_end == pod_end {
        return Ok(());
    }
    if host_end.is_some() {
        remove(host_name)?;
    }
    if pod_end.is_some() {
        run_in_netns(netns, || remove(POD_INTERFACE))??;
    }
    Ok(create(socket)?)
}

/// The number of the other end of a veth link; `None` if there is no such link.
fn peer_of(socket: &mut RouteSocket, name: &str) -> Result<Option<u32>, NetlinkError> {
    match socket.get("finding the link", name, RouteNetlinkMessage::GetLink(named(name))) {
        Ok(RouteNetlinkMessage::NewLink(link)) => {
            // Without the attribute the other end is gone or cannot be told: some number that no link has.
            let peer =
                link.attributes.iter().find_map(|attribute| if let LinkAttribute::Link(index) = attribute { Some(*index) } else { None });
            Ok(Some(peer.unwrap_or(0)))
        }
        Ok(_) => Ok(None),
        Err(error) if error.is_no_device() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The pod's side; runs in its namespace.
fn configure_pod(netns: &Path, wanted: &[IpAddr]) -> Result<(), PodLinkError> {
    let mut socket = RouteSocket::open()?;
    let found = own_pod_addresses(&mut socket)?;
    if found.iter().any(|address| !wanted.contains(address)) {
        return Err(PodLinkError::OtherAddresses { netns: netns.into(), found, wanted: wanted.to_vec() });
    }
    switch_on(&mut socket, "lo")?;
    for (name, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
        sysctl(&format!("ipv6/conf/{POD_INTERFACE}/{name}"), value)?;
    }
    switch_on(&mut socket, POD_INTERFACE)?;
    let index = index_of(&mut socket, POD_INTERFACE)?;
    for address in wanted {
        add_address(&mut socket, POD_INTERFACE, index, *address, AddressScope::Universe)?;
    }
    for gateway in gateways(wanted) {
        if gateway.is_ipv4() {
            let on_link = route(gateway, whole(gateway), index, RouteScope::Link);
            replace_route(&mut socket, gateway, on_link)?;
        }
        let mut default = route(gateway, 0, index, RouteScope::Universe);
        default.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Destination(_)));
        default.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        default.header.flags = RouteFlags::Onlink;
        replace_route(&mut socket, gateway, default)?;
    }
    Ok(())
}

/// The routers of the families that a pod has.
fn gateways(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let v4 = addresses.iter().any(IpAddr::is_ipv4).then_some(IpAddr::V4(GATEWAY_V4));
    let v6 = addresses.iter().any(IpAddr::is_ipv6).then_some(IpAddr::V6(GATEWAY_V6));
    v4.into_iter().chain(v6)
}

fn add_address(socket: &mut RouteSocket, name: &str, index: u32, address: IpAddr, scope: AddressScope) -> Result<(), NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    // A link-local address needs its prefix: without, neighbours' answers have no route back.
    message.header.prefix_len = if address == IpAddr::V6(GATEWAY_V6) { 64 } else { whole(address) };
    message.header.scope = scope;
    message.header.index = index;
    // Nobody else is on this link: no search for duplicates.
    message.header.flags = AddressHeaderFlags::Nodad | AddressHeaderFlags::Permanent;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    match socket.change(
        "adding an address to",
        &format!("{name}: {address}"),
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    ) {
        Err(error) if error.is(Errno::EXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
pub(crate) mod tests;
