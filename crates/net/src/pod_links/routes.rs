//! Routes to and from pods.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::GATEWAY_V4;
use crate::addresses::{family, local_address, whole};
use crate::netlink::{NetlinkError, RouteSocket};

/// Marks our routes as ours in `ip route` (a free number: 4 is `static`, higher ones belong to routing daemons).
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(75);

/// Of the route that holds when the node has no address of its own.
const FALLBACK_METRIC: u32 = 2048;

pub(super) fn route(destination: IpAddr, prefix: u8, index: u32, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(destination)), RouteAttribute::Oif(index)];
    message
}

pub(super) fn replace_route(socket: &mut RouteSocket, to: IpAddr, message: RouteMessage) -> Result<(), NetlinkError> {
    socket.change("adding the route to", &to.to_string(), RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The node's route to one address of a pod.
///
/// Over IPv4 two of them: one with the node's address as source, and behind it one with the gateway's. The kernel drops the
/// first when the node loses that address; the second holds as long as the link does. So a node that has lost its network, or
/// never had one, still reaches its pods. (IPv6 chooses a source for each packet, and has the link-local one.)
pub(super) fn add_host_route(
    socket: &mut RouteSocket,
    name: &str,
    index: u32,
    pod: IpAddr,
    source: Option<IpAddr>,
) -> Result<(), NetlinkError> {
    let plain = route(pod, whole(pod), index, RouteScope::Universe);
    let with_source = |source: IpAddr| {
        let mut route = plain.clone();
        route.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
        route
    };
    if pod.is_ipv4() {
        let mut fallback = with_source(IpAddr::V4(GATEWAY_V4));
        fallback.attributes.push(RouteAttribute::Priority(FALLBACK_METRIC));
        replace_route(socket, pod, fallback)?;
    }
    let given = source.filter(|source| source.is_ipv4() == pod.is_ipv4());
    let found = if given.is_none() && pod.is_ipv4() { first_global_v4(socket)? } else { None };
    match given.or(found) {
        Some(source) => match replace_route(socket, pod, with_source(source)) {
            // The node does not have this address (now): pods must be reachable all the same.
            Err(error) if error.is(Errno::INVAL) || error.is(Errno::ADDRNOTAVAIL) => {
                tracing::debug!(%source, link = name, "the node's address cannot be used towards a pod");
                match first_global_v4(socket)?.filter(|_| pod.is_ipv4()) {
                    Some(other) => replace_route(socket, pod, with_source(other)),
                    None if pod.is_ipv4() => Ok(()),
                    None => replace_route(socket, pod, plain.clone()),
                }
            }
            other => other,
        },
        None if pod.is_ipv4() => Ok(()),
        None => replace_route(socket, pod, plain.clone()),
    }
}

/// The address that the kernel would choose: the first one that others can reach.
fn first_global_v4(socket: &mut RouteSocket) -> Result<Option<IpAddr>, NetlinkError> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let messages = socket.dump("addresses", RouteNetlinkMessage::GetAddress(request))?;
    Ok(messages.into_iter().find_map(|message| match message {
        RouteNetlinkMessage::NewAddress(message) if message.header.scope == AddressScope::Universe => {
            local_address(&message).filter(|address| !address.is_loopback())
        }
        _ => None,
    }))
}
