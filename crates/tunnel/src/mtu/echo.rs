//! Echo requests (RFC 792, RFC 4443) of a size, never cut in pieces on this machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv, send, socket_with};

use super::Probe;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Type, code, checksum, identifier, number.
const HEADER: usize = 8;
/// What is read at a time; the rest waits in the socket.
const MOST: usize = 256;

/// A socket that hears of one address only.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: OwnedFd,
    ipv6: bool,
    identifier: u16,
}

impl Echo {
    /// # Errors
    /// When this machine does not have the address `from`, or no way to `to`.
    pub(crate) fn open(from: IpAddr, to: IpAddr, identifier: u16) -> io::Result<Self> {
        let ipv6 = to.is_ipv6();
        let (family, protocol) = if ipv6 { (AddressFamily::INET6, ipproto::ICMPV6) } else { (AddressFamily::INET, ipproto::ICMP) };
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(protocol))?;
        // As large as the link takes, whatever the route says.
        if ipv6 {
            sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
        } else {
            sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
        }
        bind(&socket, &SocketAddr::new(from, 0))?;
        connect(&socket, &SocketAddr::new(to, 0))?;
        Ok(Self { socket, ipv6, identifier })
    }

    /// # Errors
    /// When it cannot be sent.
    pub(crate) fn ask(&self, probe: Probe) -> io::Result<()> {
        // What the kernel was told of an earlier one would be the answer to this one.
        let _ = sockopt::socket_error(&self.socket)?;
        send(&self.socket, &request(self.ipv6, self.identifier, probe), SendFlags::empty())?;
        Ok(())
    }

    /// What has come since the last time.
    pub(crate) fn answers(&self) -> Vec<Probe> {
        let (mut found, mut buffer) = (Vec::new(), vec![0; usize::from(u16::MAX)]);
        for _ in 0..MOST {
            match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((_, length)) => found.extend(answer(self.ipv6, self.identifier, buffer.get(..length).unwrap_or_default())),
                Err(Errno::AGAIN) => break,
                // Of a packet, not of the socket.
                Err(_) => {}
            }
        }
        found
    }
}

/// The message behind the IP header. The kernel puts in the checksum of IPv6.
fn request(ipv6: bool, identifier: u16, Probe { number, size }: Probe) -> Vec<u8> {
    let length = usize::from(size).saturating_sub(if ipv6 { IPV6_HEADER } else { IPV4_HEADER });
    let mut message = vec![if ipv6 { 128 } else { 8 }, 0, 0, 0];
    message.extend(identifier.to_be_bytes().into_iter().chain(number.to_be_bytes()));
    // As `ping` fills it.
    message.extend((0..=u8::MAX).cycle().take(length.saturating_sub(HEADER)));
    if !ipv6 {
        let sum = checksum(&message).to_be_bytes();
        message.splice(2..4, sum);
    }
    message
}

/// Of an answer to one of these requests, as the kernel gives it: with the header of IPv4, without that of IPv6.
fn answer(ipv6: bool, identifier: u16, packet: &[u8]) -> Option<Probe> {
    let (kind, message, size) = if ipv6 {
        (129, packet, IPV6_HEADER + packet.len())
    } else {
        let words = usize::from(packet.first()? & 0x0f);
        (0, packet.get(words * 4..)?, packet.len())
    };
    let [found, 0, _, _, a, b, c, d, ..] = message else { return None };
    let is_ours = *found == kind && u16::from_be_bytes([*a, *b]) == identifier;
    is_ours.then_some(Probe { number: u16::from_be_bytes([*c, *d]), size: size.try_into().ok()? })
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|pair| match *pair {
        [high, low] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        _ => 0,
    });
    // What does not fit is added at the other end.
    let sum = words.fold(0_u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    });
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ping -c 1 -s 12 127.0.0.1` of busybox 1.37: request and answer as they were on the link, and the ICMPv6 message of the answer from ::1.
    const REQUEST: &str = "4500002867ee40004001d4e47f0000017f0000010800ebc1487f0000bf3604880000000000000000";
    const ANSWER: &str = "4500002867ef0000400114e47f0000017f0000010000f3c1487f0000bf3604880000000000000000";
    const ANSWER_IPV6: &str = "8100fc6c48800000353a04880000000000000000";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn a_request_is_what_ping_sends() {
        let real = bytes(REQUEST);
        let ours = request(false, 0x487f, Probe { number: 0, size: 40 });
        assert_eq!((ours.len() + IPV4_HEADER, &ours[..2], &ours[4..8]), (real.len(), &real[20..22], &real[24..28]));
        let mut message = real[20..].to_vec();
        message[2..4].fill(0);
        assert_eq!(checksum(&message).to_be_bytes(), real[22..24], "ping's own");
        assert_eq!((checksum(&real[20..]), checksum(&ours)), (0, 0), "what is right adds up to nothing");
        assert_eq!(checksum(&[0xff, 0xff, 0x01]), 0xfeff, "an odd number, with a carry");
    }

    #[test]
    fn an_answer_is_known_by_who_asked_and_told_with_its_size() {
        assert_eq!(answer(false, 0x487f, &bytes(ANSWER)), Some(Probe { number: 0, size: 40 }));
        assert_eq!(answer(true, 0x4880, &bytes(ANSWER_IPV6)), Some(Probe { number: 0, size: 60 }));
        assert_eq!(answer(false, 0x4880, &bytes(ANSWER)), None, "another program's");
        assert_eq!(answer(false, 0x487f, &bytes(REQUEST)), None, "a request");
        for length in 0..28 {
            assert_eq!(answer(false, 0x487f, &bytes(ANSWER)[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_request_has_the_size_that_it_asks_for() {
        for (ipv6, header) in [(false, IPV4_HEADER), (true, IPV6_HEADER)] {
            for size in [84, 1280, 1421, 9000] {
                assert_eq!(request(ipv6, 1, Probe { number: 2, size }).len() + header, usize::from(size));
            }
        }
    }
}
