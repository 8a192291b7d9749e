//! WireGuard's packets over TCP, for networks that let no UDP through.
//!
//! ```text
//! pet: WireGuard ── UDP, 127.0.0.1 ── Relay ── TCP ──► gateway: serve ── UDP, 127.0.0.1 ── WireGuard
//! ```
//! A packet is its length in two bytes, the high one first, and its bytes. Nothing else is said: WireGuard finds out who the other one is,
//! and nothing in its packets can be read on the way. On each side it has a peer on the loopback, so the kernel's is served as well as
//! the process's own. Where the connection is slower than WireGuard sends, packets are lost before it, as on any narrow way.

mod beside;
mod carrier;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Mark};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket, lookup_host};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::device::ALIVE;
use crate::endpoints::Endpoint;
use beside::Beside;
pub use beside::UDP_AGAIN;
use carrier::{Patience, carry};

/// To one address.
const CONNECT: Duration = Duration::from_secs(10);
/// After a connection has ended, or has not come about.
const RETRY: Duration = Duration::from_secs(1);

/// The gateway's side: what it allows to clients that nobody knows yet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A connection that WireGuard has answered nothing on is ended after so long: it answers who has a key that it knows.
    pub unanswered: Duration,
    /// Connections at a time; others wait.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unanswered: Duration::from_secs(15), connections: 4096 }
    }
}

/// Takes connections, and carries what comes on each to WireGuard at this UDP port of the loopback, and back. `told`: how many there are.
/// Never ends. May be dropped: connections end with it.
pub async fn serve(listener: TcpListener, wireguard: u16, limits: Limits, told: watch::Sender<usize>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, client)) => {
                    connections.spawn(async move {
                        let patience = Patience { first: limits.unanswered, then: ALIVE };
                        let ended = match loopback(wireguard).await {
                            Ok(socket) => carry(stream, &socket, patience, None).await,
                            Err(error) => error,
                        };
                        debug!(%client, %ended, "a relayed connection has ended");
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection to the relay is not accepted; retrying");
                    sleep(RETRY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
        told.send_replace(connections.len());
    }
}

/// Where WireGuard finds a relay, and what that has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// On the loopback.
    pub address: SocketAddr,
    /// An endpoint of the same gateway that has answered over UDP since WireGuard has begun to send to the relay.
    pub reached: Option<SocketAddr>,
}

/// The pet's side: a place on the loopback that leads to a gateway's relay. Dropped, it is gone, and its connection with it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    reached: watch::Receiver<Option<SocketAddr>>,
    task: AbortHandle,
}

impl Relay {
    /// For WireGuard at this UDP port of the loopback. A connection is made when that sends something, and ends some minutes after it has
    /// stopped. `udp`: the gateway's endpoints, which are tried beside it, so often as `again` says. `mark`: of the packets of all; 0 for
    /// none. To be called in a Tokio runtime.
    ///
    /// # Errors
    /// When the system has no socket to give.
    pub async fn open(gateway: Endpoint, udp: Vec<Endpoint>, again: Duration, wireguard: u16, mark: u32) -> io::Result<Self> {
        let socket = loopback(wireguard).await?;
        let address = socket.local_addr()?;
        let (told, reached) = watch::channel(None);
        let work = async move {
            let beside = Beside::new(told);
            tokio::join!(follow(&socket, gateway, mark, &beside), beside.run(&socket, &udp, mark, again));
        };
        let task = tokio::spawn(work).abort_handle();
        Ok(Self { address, reached, task })
    }

    /// Where WireGuard sends to, and where it might instead.
    pub fn place(&self) -> Place {
        Place { address: self.address, reached: *self.reached.borrow() }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket that hears nobody but this port: no other program of the machine gets a word in.
async fn loopback(wireguard: u16) -> io::Result<UdpSocket> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let socket = UdpSocket::bind((here, 0)).await?;
    socket.connect((here, wireguard)).await?;
    Ok(socket)
}

async fn follow(socket: &UdpSocket, gateway: Endpoint, mark: u32, beside: &Beside) {
    let mut trouble = None;
    loop {
        // An error is of a packet sent before: WireGuard was away.
        if socket.peek(&mut [0]).await.is_err() {
            continue;
        }
        match connect(&gateway, mark).await {
            Ok(stream) => {
                trouble = None;
                info!(%gateway, "packets to the gateway are carried over TCP");
                let ended = carry(stream, socket, Patience { first: ALIVE, then: ALIVE }, Some(beside)).await;
                info!(%gateway, %ended, "the connection to the gateway's relay has ended");
            }
            Err(error) => {
                let text = error.to_string();
                if trouble.as_ref() != Some(&text) {
                    warn!(%gateway, %error, "the gateway's relay is not reached; retrying");
                }
                trouble = Some(text);
            }
        }
        sleep(RETRY).await;
        // What has waited meanwhile is out of date.
        while socket.try_recv(&mut [0]).is_ok() {}
    }
}

async fn connect(gateway: &Endpoint, mark: u32) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in lookup_host((gateway.host.as_str(), gateway.port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if mark != 0 {
            setsockopt(&socket, Mark, &mark)?;
        }
        match timeout(CONNECT, socket.connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests;
