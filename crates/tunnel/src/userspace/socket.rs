//! The UDP socket: one for both families, where the machine has IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt::Mark};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use tracing::debug;

use super::{event, signal};
use crate::device::DeviceError;

/// A burst of a hundred megabits in a quarter of a second.
const BUFFER: usize = 4 << 20;

pub(super) struct Socket {
    udp: UdpSocket,
    ipv6: bool,
    port: u16,
    stop: OwnedFd,
}

impl Socket {
    pub(super) fn bind(port: u16, mark: u32) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::System { doing: "opening the tunnel's UDP port", source };
        let (udp, ipv6) = match open(true, port, mark) {
            Ok(udp) => (udp, true),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(failed(error)),
            Err(error) => {
                debug!(%error, "the tunnel has no IPv6");
                (open(false, port, mark).map_err(failed)?, false)
            }
        };
        let port = udp.local_addr().map_err(failed)?.port();
        Ok(Self { udp, ipv6, port, stop: event()? })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn udp(&self) -> &UdpSocket {
        &self.udp
    }

    /// Ends the thread that reads from it.
    pub(super) fn stop(&self) {
        signal(&self.stop);
    }

    pub(super) fn stopped(&self) -> &OwnedFd {
        &self.stop
    }

    /// Packets are lost on the way anyhow: what cannot be sent is sent again by those who want it to arrive.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) {
        let to = match to {
            SocketAddr::V4(v4) if self.ipv6 => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
            other => other,
        };
        if let Err(error) = self.udp.send_to(packet, to) {
            debug!(%to, %error, "a packet of the tunnel is not sent");
        }
    }

    /// One packet, if there is one.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        match recvfrom(&self.udp, buffer, RecvFlags::DONTWAIT) {
            Ok((_, length, Some(from))) => {
                let from = SocketAddr::try_from(from).map_err(io::Error::from)?;
                Ok(Some((length, SocketAddr::new(from.ip().to_canonical(), from.port()))))
            }
            Ok(_) => Ok(None),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open(ipv6: bool, port: u16, mark: u32) -> io::Result<UdpSocket> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // A packet that is too large for the way is cut in pieces, as the kernel's WireGuard has it: a message that tells so may never come.
    sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
    if ipv6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
        sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?;
    }
    if mark != 0 {
        setsockopt(&socket, Mark, &mark)?;
    }
    for size in [sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER), sockopt::set_socket_send_buffer_size_force(&socket, BUFFER)] {
        if let Err(error) = size {
            debug!(%error, "the tunnel's socket has a buffer of the ordinary size");
        }
    }
    let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    bind(&socket, &SocketAddr::new(any, port))?;
    Ok(socket.into())
}
