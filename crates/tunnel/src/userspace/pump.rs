//! The threads that move packets.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::{debug, warn};

use super::peers::Peer;
use super::socket::Socket;
use super::{Shared, lock, read};

/// The largest packet, and what encryption adds.
const PACKET: usize = 65_536 + 64;
/// How often timers are looked at: the protocol's own count seconds.
const TICK: Duration = Duration::from_millis(250);
/// Packets in a row before the stop is looked for.
const BURST: usize = 256;

enum Wake {
    Ready,
    Timeout,
    Stop,
}

/// Until one of the first is readable, the last is signalled, or time is over.
fn wait(fds: &[BorrowedFd<'_>], stop: &[BorrowedFd<'_>], patience: Option<Duration>) -> Wake {
    let mut polled: Vec<PollFd<'_>> = stop.iter().chain(fds).map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    match poll(&mut polled, patience.as_ref()) {
        Ok(0) => Wake::Timeout,
        Ok(_) if polled.iter().take(stop.len()).any(|fd| !fd.revents().is_empty()) => Wake::Stop,
        Ok(_) | Err(Errno::INTR) => Wake::Ready,
        Err(error) => {
            warn!(%error, "the tunnel cannot wait for packets");
            Wake::Stop
        }
    }
}

/// From the link to peers.
pub(super) fn send(shared: &Shared) {
    let (mut packet, mut buffer) = (vec![0; PACKET], vec![0; PACKET]);
    while let Wake::Ready = wait(&[shared.tun.as_fd()], &[shared.stop.as_fd()], None) {
        for _ in 0..BURST {
            let length = match rustix::io::read(&shared.tun, &mut packet) {
                Ok(length) => length,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => {
                    warn!(%error, "the link of the tunnel cannot be read any more");
                    shared.gone.store(true, Ordering::Release);
                    return;
                }
            };
            let packet = packet.get(..length).unwrap_or_default();
            let Some(address) = Tunn::dst_address(packet) else { continue };
            let Some(peer) = read(&shared.table).by_address(address).cloned() else { continue };
            let Some(endpoint) = peer.endpoint() else { continue };
            let mut session = lock(&peer.session);
            if let TunnResult::WriteToNetwork(sealed) = session.encapsulate(packet, &mut buffer) {
                peer.send(&read(&shared.socket), sealed, endpoint);
            }
        }
    }
}

/// From peers to the link.
pub(super) fn receive(shared: &Shared, socket: &Socket) {
    let (mut packet, mut buffer) = (vec![0; PACKET], vec![0; PACKET]);
    while let Wake::Ready = wait(&[socket.udp().as_fd()], &[socket.stopped().as_fd(), shared.stop.as_fd()], None) {
        for _ in 0..BURST {
            match socket.receive(&mut packet) {
                Ok(Some((length, from))) => open(shared, socket, packet.get(..length).unwrap_or_default(), from, &mut buffer),
                Ok(None) => break,
                Err(error) => {
                    debug!(%error, "a packet of the tunnel is not received");
                    break;
                }
            }
        }
    }
}

fn open(shared: &Shared, socket: &Socket, sealed: &[u8], from: SocketAddr, buffer: &mut [u8]) {
    let Some(peer) = sender(shared, socket, sealed, from, buffer) else { return };
    let mut session = lock(&peer.session);
    let mut answered = false;
    match session.decapsulate(Some(from.ip()), sealed, buffer) {
        TunnResult::Done => {}
        TunnResult::Err(error) => {
            debug!(?error, peer = %peer.key, %from, "a packet of the tunnel is not the peer's, or old");
            return;
        }
        TunnResult::WriteToNetwork(answer) => {
            answered = true;
            peer.send(socket, answer, from);
        }
        TunnResult::WriteToTunnelV4(packet, source) => deliver(shared, &peer, packet, source.into()),
        TunnResult::WriteToTunnelV6(packet, source) => deliver(shared, &peer, packet, source.into()),
    }
    peer.heard(sealed);
    peer.set_endpoint(from);
    if answered {
        // A session may have begun: what waited for it goes now.
        while let TunnResult::WriteToNetwork(waiting) = session.decapsulate(None, &[], buffer) {
            peer.send(socket, waiting, from);
        }
        peer.note_handshake(&session);
    }
}

/// Whose packet it says it is. An opening one is looked at only if its sender knows our key, and, under load, has proved its address.
fn sender(shared: &Shared, socket: &Socket, sealed: &[u8], from: SocketAddr, buffer: &mut [u8]) -> Option<Arc<Peer>> {
    let keys = read(&shared.keys);
    let packet = match keys.limiter.verify_packet(Some(from.ip()), sealed, buffer) {
        Ok(packet) => packet,
        Err(TunnResult::WriteToNetwork(cookie)) => {
            socket.send(cookie, from);
            return None;
        }
        Err(_) => return None,
    };
    let table = read(&shared.table);
    match &packet {
        Packet::HandshakeInit(init) => {
            let opener = parse_handshake_anon(&keys.private.0, &keys.public, init).ok()?;
            let found = table.by_key(&opener.peer_static_public.into());
            if found.is_none() {
                debug!(%from, "a handshake of somebody who is no peer");
            }
            found.cloned()
        }
        Packet::HandshakeResponse(response) => table.by_receiver(response.receiver_idx).cloned(),
        Packet::PacketCookieReply(reply) => table.by_receiver(reply.receiver_idx).cloned(),
        Packet::PacketData(data) => table.by_receiver(data.receiver_idx).cloned(),
    }
}

/// Only from addresses that the peer has, or that are taken from it besides.
fn deliver(shared: &Shared, peer: &Arc<Peer>, packet: &[u8], source: IpAddr) {
    let owns = read(&shared.table).by_address(source).is_some_and(|owner| Arc::ptr_eq(owner, peer));
    if !owns && !peer.accepts(source) {
        debug!(peer = %peer.key, %source, "a packet from an address that the peer does not have");
        return;
    }
    if let Err(error) = rustix::io::write(&shared.tun, packet) {
        debug!(%error, "a packet is not taken by the link");
    }
}

/// What is due by time.
pub(super) fn tick(shared: &Shared) {
    let mut buffer = vec![0; PACKET];
    while let Wake::Timeout | Wake::Ready = wait(&[], &[shared.stop.as_fd()], Some(TICK)) {
        read(&shared.keys).limiter.reset_count();
        let peers: Vec<Arc<Peer>> = read(&shared.table).all().cloned().collect();
        let now = Instant::now();
        let wall = SystemTime::now();
        for peer in peers {
            let Some(endpoint) = peer.endpoint() else { continue };
            // First the keys, so that they are not changed in between.
            let keys = read(&shared.keys);
            let mut session = lock(&peer.session);
            if peer.catch_up(&mut session, &keys, (wall, now)) && peer.keeps_alive() {
                shake_hands(shared, &peer, &mut session, endpoint, &mut buffer);
            }
            drop(keys);
            match session.update_timers(&mut buffer) {
                TunnResult::WriteToNetwork(packet) => peer.send(&read(&shared.socket), packet, endpoint),
                // It gives up after 90 s. A peer that is to be kept reachable is tried on.
                TunnResult::Err(WireGuardError::ConnectionExpired) if peer.keeps_alive() => {
                    shake_hands(shared, &peer, &mut session, endpoint, &mut buffer);
                }
                _ => {}
            }
            if peer.keepalive_due(now)
                && let TunnResult::WriteToNetwork(packet) = session.encapsulate(&[], &mut buffer)
            {
                peer.send(&read(&shared.socket), packet, endpoint);
            }
            peer.note_handshake(&session);
        }
    }
}

/// Agrees on keys with a peer at once, if its place is known.
pub(super) fn greet_one(shared: &Shared, peer: &Peer) {
    let Some(endpoint) = peer.endpoint() else { return };
    let mut buffer = vec![0; PACKET];
    let mut session = lock(&peer.session);
    if let TunnResult::WriteToNetwork(packet) = session.format_handshake_initiation(&mut buffer, true) {
        peer.send(&read(&shared.socket), packet, endpoint);
    }
}

/// With all of them: each has a session with another key of ours, and may be the next who has something to say.
pub(super) fn greet(shared: &Shared) {
    let peers: Vec<Arc<Peer>> = read(&shared.table).all().cloned().collect();
    for peer in peers {
        greet_one(shared, &peer);
    }
}

fn shake_hands(shared: &Shared, peer: &Peer, session: &mut Tunn, endpoint: SocketAddr, buffer: &mut [u8]) {
    if let TunnResult::WriteToNetwork(packet) = session.format_handshake_initiation(buffer, false) {
        peer.send(&read(&shared.socket), packet, endpoint);
    }
}
