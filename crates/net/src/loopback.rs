//! Addresses on the loopback interface, for what pods reach on their node. Marked by a label, so that a later run finds them whatever
//! address it is told to use.
//!
//! Of the scope of the host: the kernel never chooses such an address as a packet's source, and nobody takes it for the node's own.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use rustix::io::Errno;

use crate::addresses::{Link, family, links, local_address, whole};
use crate::netlink::{NetlinkError, RouteSocket};
use crate::pod_links::PROTOCOL;

const LOOPBACK: &str = "lo";

/// Puts the address there, and switches the interface on. An address that is there already stays as it is.
pub fn ensure(address: Ipv4Addr, label: &str) -> Result<(), NetlinkError> {
    let mut socket = RouteSocket::open()?;
    let link = loopback(&mut socket)?;
    if !link.up {
        let mut up = LinkMessage::default();
        up.header.index = link.index;
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        socket.change("switching on", LOOPBACK, RouteNetlinkMessage::SetLink(up), 0)?;
    }
    let mut message = message(&link, address);
    message.header.scope = AddressScope::Host;
    message.header.flags = AddressHeaderFlags::Permanent;
    message.attributes.push(AddressAttribute::Label(marked(label)));
    let object = format!("{LOOPBACK}: {address}");
    match socket.change("adding an address to", &object, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.is(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// The addresses that have this label.
pub fn labelled(label: &str) -> Result<Vec<Ipv4Addr>, NetlinkError> {
    let mut socket = RouteSocket::open()?;
    let (link, label) = (loopback(&mut socket)?, marked(label));
    let mut found = Vec::new();
    for message in socket.dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let ours = message.attributes.iter().any(|attribute| matches!(attribute, AddressAttribute::Label(found) if *found == label));
        if let (true, Some(IpAddr::V4(address))) = (ours && message.header.index == link.index, local_address(&message)) {
            found.push(address);
        }
    }
    Ok(found)
}

/// Takes the address away; one that is not there is no error.
pub fn remove(address: Ipv4Addr) -> Result<(), NetlinkError> {
    let mut socket = RouteSocket::open()?;
    let message = message(&loopback(&mut socket)?, address);
    match socket.change("taking an address from", &format!("{LOOPBACK}: {address}"), RouteNetlinkMessage::DelAddress(message), 0) {
        Err(error) if error.is(Errno::ADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

/// Takes the address away if it has this label, and has the kernel tell whoever sends there that it cannot be reached. Otherwise such packets
/// go to the default route, and nothing comes back.
pub fn refuse(address: Ipv4Addr, label: &str) -> Result<(), NetlinkError> {
    if labelled(label)?.contains(&address) {
        remove(address)?;
    }
    let route = RouteNetlinkMessage::NewRoute(unreachable(address));
    RouteSocket::open()?.change("refusing packets to", &address.to_string(), route, NLM_F_CREATE | NLM_F_REPLACE)
}

/// Undoes [`refuse`]; where nothing is refused, that is no error.
pub fn stop_refusing(address: Ipv4Addr) -> Result<(), NetlinkError> {
    let route = RouteNetlinkMessage::DelRoute(unreachable(address));
    match RouteSocket::open()?.change("refusing packets no more to", &address.to_string(), route, 0) {
        Err(error) if error.is(Errno::SRCH) => Ok(()),
        other => other,
    }
}

fn unreachable(address: Ipv4Addr) -> RouteMessage {
    let address = IpAddr::V4(address);
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = whole(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unreachable;
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(address))];
    message
}

fn loopback(socket: &mut RouteSocket) -> Result<Link, NetlinkError> {
    let missing = || NetlinkError { doing: "finding the link", object: LOOPBACK.to_owned(), source: Errno::NODEV.into() };
    links(socket)?.into_iter().find(|link| link.name == LOOPBACK).ok_or_else(missing)
}

fn message(link: &Link, address: Ipv4Addr) -> AddressMessage {
    let address = IpAddr::V4(address);
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = whole(address);
    message.header.index = link.index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// A label begins with the interface's name: older programs take it for an interface of its own.
fn marked(label: &str) -> String {
    format!("{LOOPBACK}:{label}")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::addresses::host_addresses;
    use crate::pod_links::tests::{Scene, ip};

    #[test]
    fn netns_pods_reach_an_address_on_the_loopback_that_is_nobodys_source() {
        let scene = Scene::new();
        let address = Ipv4Addr::new(169, 254, 20, 10);
        scene.link("pod1", "kp000001", &[ip("10.1.0.1")]).unwrap();
        scene.within("node", || {
            for _ in 0..2 {
                ensure(address, "kp-dns").unwrap();
            }
            assert_eq!(labelled("kp-dns").unwrap(), [address]);
            assert_eq!(labelled("kq-dns").unwrap(), [] as [Ipv4Addr; 0]);
            let found = host_addresses().unwrap().into_iter().find(|found| found.address == IpAddr::V4(address)).unwrap();
            assert!(!found.global, "{found:?}");
        });
        let listener = scene.within("node", || TcpListener::bind((address, 53)).unwrap());
        let _stream = scene.within("pod1", || TcpStream::connect((address, 53)).unwrap());
        assert_eq!(listener.accept().unwrap().1.ip(), ip("10.1.0.1"));
        drop(listener);
        let refused = scene.within("pod1", || TcpStream::connect((address, 53)).unwrap_err().kind());
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "known at once: the client goes on to its next name server");
        let error = |scene: &Scene| scene.within("pod1", || TcpStream::connect((address, 53)).unwrap_err().kind());
        scene.within("node", || {
            for _ in 0..2 {
                refuse(address, "kp-dns").unwrap();
            }
            assert_eq!(labelled("kp-dns").unwrap(), [] as [Ipv4Addr; 0]);
        });
        assert_eq!(error(&scene), std::io::ErrorKind::HostUnreachable);
        scene.within("node", || {
            ensure(address, "kp-dns").unwrap();
            for _ in 0..2 {
                stop_refusing(address).unwrap();
            }
        });
        assert_eq!(error(&scene), std::io::ErrorKind::ConnectionRefused);
        scene.within("node", || {
            for _ in 0..2 {
                remove(address).unwrap();
            }
            assert_eq!(labelled("kp-dns").unwrap(), [] as [Ipv4Addr; 0]);
        });
    }
}
