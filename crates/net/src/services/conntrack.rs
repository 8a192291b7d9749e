//! Connections that the kernel remembers. UDP has no end: a client that goes on sending would be led to an endpoint that is gone,
//! or, where there was none, never to one.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rustix::io::Errno;

use crate::addresses::host_addresses;
use crate::nft::socket::NetfilterSocket;
use crate::nft::{IPV4, IPV6, SUBSYSTEM_CTNETLINK, find};
use kube_pet_rules::Family;
use kube_pet_rules::services::{Address, Frontend, Protocol};

/// `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE` and `CTA_…` of `linux/netfilter/nfnetlink_conntrack.h`.
const GET: u16 = SUBSYSTEM_CTNETLINK << 8 | 1;
const DELETE: u16 = SUBSYSTEM_CTNETLINK << 8 | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;

/// Seconds, as kube-proxy sets them: a connection that one side has closed is not forgotten after the kernel's minute, and one that
/// nobody uses not only after five days.
const TIMEOUTS: [(&str, &str); 2] = [("nf_conntrack_tcp_timeout_close_wait", "3600"), ("nf_conntrack_tcp_timeout_established", "86400")];

/// Sets how long the kernel remembers TCP connections, in the calling thread's network namespace.
///
/// # Errors
/// When a setting that is there cannot be written.
pub fn set_timeouts() -> io::Result<()> {
    for (name, value) in TIMEOUTS {
        let path = Path::new("/proc/sys/net/netfilter").join(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(now) if now.trim() == value => {}
            _ => fs::write(&path, value)?,
        }
    }
    Ok(())
}

/// Forgets UDP connections to the frontends that do not lead to one of the endpoints beside them. How many those were.
pub(super) fn forget(socket: &mut NetfilterSocket, frontends: &[(Frontend, Vec<SocketAddr>)]) -> io::Result<usize> {
    let mut count = 0;
    let own: Vec<IpAddr> = host_addresses().map_err(|e| e.source)?.into_iter().map(|found| found.address).collect();
    for family in Family::ALL {
        if !frontends.iter().any(|(f, _)| f.family() == family) {
            continue;
        }
        let number = if family == Family::V4 { IPV4 } else { IPV6 };
        for connection in socket.dump(GET, number, |_| {})? {
            let (Some(original), Some(reply)) = (find(&connection, TUPLE_ORIGINAL), find(&connection, TUPLE_REPLY)) else { continue };
            let (Some(to), Some(from)) = (end(original, true), end(reply, false)) else { continue };
            let stale = |(frontend, serving): &(Frontend, Vec<SocketAddr>)| {
                let address = match frontend.address {
                    Address::Ip(address) => address == to.ip(),
                    // What was not translated and goes elsewhere is no connection to a port of the node.
                    // Never translated.
                    Address::Rest(_) => false,
                    Address::Node(_) => Family::of(to.ip()) == frontend.family() && (to != from || own.contains(&to.ip())),
                };
                address && frontend.port == to.port() && !serving.contains(&from)
            };
            if !frontends.iter().any(stale) {
                continue;
            }
            let deleted = socket.request(DELETE, 0, number, |w| {
                w.attribute(TUPLE_ORIGINAL | NESTED, original);
                if let Some(zone) = find(&connection, ZONE) {
                    w.attribute(ZONE, zone);
                }
            });
            match deleted {
                Ok(_) => count += 1,
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(count)
}

/// The destination or the source of a tuple of UDP.
fn end(tuple: &[u8], destination: bool) -> Option<SocketAddr> {
    let (ip, protocol) = (find(tuple, TUPLE_IP)?, find(tuple, TUPLE_PROTOCOL)?);
    if find(protocol, 1)? != [Protocol::Udp as u8] {
        return None;
    }
    let (v4, v6, port) = if destination { (2, 4, 3) } else { (1, 3, 2) };
    let address = match (find(ip, v4), find(ip, v6)) {
        (Some(v4), _) => IpAddr::from(<[u8; 4]>::try_from(v4).ok()?),
        (None, Some(v6)) => IpAddr::from(<[u8; 16]>::try_from(v6).ok()?),
        (None, None) => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(find(protocol, port)?.try_into().ok()?)))
}
