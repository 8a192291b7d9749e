//! UDP, tried beside a connection that carries packets over TCP, which goes on as if nothing was.
//!
//! - **Copies** of WireGuard's packets go to one of the gateway's endpoints from a socket of their own, just before they go over TCP. Of two that
//!   are the same, WireGuard takes the first and drops the other: nothing is lost, whichever arrives. The gateway answers to where the last new
//!   one has come from. What comes back is WireGuard's, and proves that UDP gets through in both directions.
//! - **When**: a few packets each minute, and at once when the machine has another address for the way. A handshake's first packet, which is
//!   answered even where nobody talks, at any time; but the one after it goes over TCP alone: where only one direction is open, the answer to
//!   the copy is lost.
//! - **Who comes back** to the relay within ten minutes was led astray: UDP is left alone for 2, 4, 8 and then every 16 minutes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Mark};
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use crate::endpoints::Endpoint;

/// Between two tries.
pub const UDP_AGAIN: Duration = Duration::from_secs(60);
/// Of a try.
const COPIES: u32 = 32;
/// `MessageType` of WireGuard: a handshake's first packet.
const INITIATION: u8 = 1;
/// WireGuard sends it again after 5 s.
const GREETED: Duration = Duration::from_secs(20);
/// How often the machine's address is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// WireGuard itself has sent a packet to the endpoint that has answered, if only to keep the way open.
const MOVED: Duration = Duration::from_secs(30);
/// UDP that was used for so long was worth it.
const PROVEN: Duration = Duration::from_secs(600);
const LONGEST: u32 = 16;
const PACKET: usize = 65_536;

/// What is tried beside one connection.
#[derive(Debug)]
pub(super) struct Beside {
    trial: Mutex<Option<Trial>>,
    used: watch::Sender<()>,
    reached: watch::Sender<Option<SocketAddr>>,
}

#[derive(Debug)]
struct Trial {
    socket: Arc<UdpSocket>,
    left: u32,
    greeted: Option<Instant>,
}

impl Beside {
    /// `reached`: told which endpoint has answered, as long as WireGuard has not come back to the relay since.
    pub(super) fn new(reached: watch::Sender<Option<SocketAddr>>) -> Self {
        Self { trial: Mutex::new(None), used: watch::Sender::new(()), reached }
    }

    /// A packet that goes over TCP next.
    pub(super) fn copy(&self, packet: &[u8]) {
        self.used.send_replace(());
        let mut trial = self.trial();
        let Some(Trial { socket, left, greeted }) = trial.as_mut() else { return };
        if packet.first() == Some(&INITIATION) {
            if greeted.is_some_and(|greeted| greeted.elapsed() < GREETED) {
                return;
            }
            *greeted = Some(Instant::now());
        } else if *left == 0 {
            return;
        } else {
            *left -= 1;
        }
        // The other one is on its way over TCP.
        let _ = socket.try_send(packet);
    }

    /// Tries these endpoints in turn, as long as the relay is used. Never ends. `wireguard`: the relay's socket on the loopback.
    pub(super) async fn run(&self, wireguard: &UdpSocket, endpoints: &[Endpoint], mark: u32, every: Duration) {
        let mut used = self.used.subscribe();
        let (mut pause, mut turn) = (every, 0);
        loop {
            if used.changed().await.is_err() {
                return std::future::pending().await;
            }
            let Some(to) = address(endpoints, turn).await else {
                sleep(LOOK).await;
                continue;
            };
            turn = turn.wrapping_add(1);
            let Ok((socket, from)) = connect(to, mark).await else {
                sleep(LOOK).await;
                continue;
            };
            let socket = Arc::new(socket);
            let greeted = self.trial().take().and_then(|trial| trial.greeted);
            *self.trial() = Some(Trial { socket: socket.clone(), left: COPIES, greeted });
            tokio::select! {
                () = hear(&socket, wireguard) => {}
                () = sleep(every) => continue,
                () = moved(from, to, mark) => {
                    pause = every;
                    continue;
                }
            }
            *self.trial() = None;
            info!(endpoint = %to, "UDP gets through to the gateway again");
            self.reached.send_replace(Some(to));
            let began = Instant::now();
            let _ = timeout(MOVED, carry_on(&socket, wireguard)).await;
            used.mark_unchanged();
            if used.changed().await.is_err() {
                return std::future::pending().await;
            }
            self.reached.send_replace(None);
            pause = next_pause(began.elapsed(), pause, every);
            debug!(endpoint = %to, seconds = pause.as_secs(), "the gateway's relay is used again; UDP is left alone for some time");
            tokio::select! {
                () = sleep(pause) => {}
                () = moved(from, to, mark) => pause = every,
            }
        }
    }

    fn trial(&self) -> MutexGuard<'_, Option<Trial>> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long UDP is left alone after a stay there.
fn next_pause(stay: Duration, pause: Duration, every: Duration) -> Duration {
    if stay < PROVEN { pause.saturating_mul(2).min(every.saturating_mul(LONGEST)) } else { every }
}

/// The one whose turn it is.
async fn address(endpoints: &[Endpoint], turn: usize) -> Option<SocketAddr> {
    let mut all = Vec::new();
    for endpoint in endpoints {
        match lookup_host((endpoint.host.as_str(), endpoint.port)).await {
            Ok(found) => all.extend(found),
            Err(error) => debug!(%endpoint, %error, "an endpoint's name has no address"),
        }
    }
    let place = turn.checked_rem(all.len())?;
    all.get(place).copied()
}

/// A socket, and this machine's address for it.
async fn connect(to: SocketAddr, mark: u32) -> io::Result<(UdpSocket, IpAddr)> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    if mark != 0 {
        setsockopt(&socket, Mark, &mark)?;
    }
    socket.connect(to).await?;
    let from = socket.local_addr()?.ip();
    Ok((socket, from))
}

/// Until the machine has another address for packets to there.
async fn moved(from: IpAddr, to: SocketAddr, mark: u32) {
    loop {
        sleep(LOOK).await;
        if connect(to, mark).await.is_ok_and(|(_, now)| now != from) {
            return;
        }
    }
}

/// Until a packet has come that may be WireGuard's.
async fn hear(socket: &UdpSocket, wireguard: &UdpSocket) {
    while !pass_on(socket, wireguard).await {}
}

/// Never ends.
async fn carry_on(socket: &UdpSocket, wireguard: &UdpSocket) {
    loop {
        pass_on(socket, wireguard).await;
    }
}

/// Whether it was a packet that may be WireGuard's.
async fn pass_on(socket: &UdpSocket, wireguard: &UdpSocket) -> bool {
    let mut packet = vec![0; PACKET];
    // An error is of a packet sent before: nobody is there.
    let Ok(length) = socket.recv(&mut packet).await else { return false };
    let packet = packet.get(..length).unwrap_or_default();
    let is_wireguards = matches!(packet, [1..=4, 0, 0, 0, ..]);
    if is_wireguards {
        let _ = wireguard.send(packet).await;
    }
    is_wireguards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_soon_comes_back_leaves_udp_alone_for_longer_each_time_and_no_longer_after_a_long_stay() {
        let (mut pause, mut minutes) = (UDP_AGAIN, Vec::new());
        for stay in [12, 12, 599, 12, 12, 600, 12] {
            pause = next_pause(Duration::from_secs(stay), pause, UDP_AGAIN);
            minutes.push(pause.as_secs() / 60);
        }
        assert_eq!(minutes, [2, 4, 8, 16, 16, 1, 2]);
    }
}
