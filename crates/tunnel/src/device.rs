//! A WireGuard interface, whoever runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use kube_pet_host::tun::TunError;
use kube_pet_net::NetlinkError;
use kube_pet_net::tunnel_links::{self, LinkKind};
use kube_pet_rules::Network;

use crate::kernel::KernelDevice;
use crate::keys::{PrivateKey, PublicKey};
use crate::userspace::UserspaceDevice;

/// Which implementation to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The kernel's, else this process's.
    #[default]
    Auto,
    /// The kernel's only.
    Kernel,
    /// This process's only.
    Userspace,
}

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// The kernel's.
    Kernel,
    /// This process's, by a TUN link.
    Userspace,
}

/// What the interface itself is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its secret.
    pub private_key: PrivateKey,
    /// The UDP port; 0 for one that the kernel chooses.
    pub listen_port: u16,
    /// On every packet that it sends; 0 for none.
    pub mark: u32,
}

/// Keys are agreed on at the latest 180 s after the last time, and 25 s later where nothing but keepalives is sent. Older, and nobody
/// answers.
pub(crate) const ALIVE: Duration = Duration::from_secs(215);

/// A peer as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Where its packets come from, or were expected to.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between packets that keep a way open; 0 for none.
    pub keepalive: u16,
    /// What it may send from, and is sent.
    pub allowed: BTreeSet<Network>,
    /// When keys were agreed on the last time.
    pub last_handshake: Option<SystemTime>,
    /// Bytes that came from it.
    pub received: u64,
    /// Bytes that went to it.
    pub sent: u64,
}

impl PeerStatus {
    /// Whether keys were agreed on in the last 215 s. A clock that was set back makes it alive: WireGuard itself counts otherwise.
    pub fn is_alive(&self, now: SystemTime) -> bool {
        self.last_handshake.is_some_and(|at| now.duration_since(at).unwrap_or_default() < ALIVE)
    }
}

/// An interface as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Of its key, if it has one.
    pub public_key: Option<PublicKey>,
    /// The UDP port.
    pub listen_port: u16,
    /// On every packet that it sends.
    pub mark: u32,
    /// By their keys.
    pub peers: BTreeMap<PublicKey, PeerStatus>,
}

/// A change of one peer. Others do not notice it, unless it takes a network from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes or changes it.
    Set {
        /// Which.
        peer: PublicKey,
        /// A new endpoint; `None` leaves the one that there is.
        endpoint: Option<SocketAddr>,
        /// A new interval; `None` leaves the one that there is.
        keepalive: Option<u16>,
        /// Networks that it gets, also from another peer.
        add: BTreeSet<Network>,
        /// Whether `all` replaces what it has: something is taken from it that no other gets.
        replace: bool,
        /// All that it has afterwards.
        all: BTreeSet<Network>,
    },
    /// Takes it away.
    Remove(PublicKey),
}

/// The interface cannot be what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel has no WireGuard.
    #[error("the kernel has no WireGuard (module wireguard)")]
    NoKernelSupport,
    /// A link of this name is something else.
    #[error("the link {name} is no tunnel: it is somebody else's")]
    Foreign {
        /// Its name.
        name: String,
    },
    /// The kernel refused a request about a link.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// There is no TUN link.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A request to the kernel's WireGuard, or a system call, failed.
    #[error("{doing}: {source}")]
    System {
        /// What was asked for.
        doing: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The interface was taken away: it is to be made again.
    #[error("the link of the tunnel is gone")]
    Gone,
}

/// One interface.
pub trait Wireguard: Send {
    /// Who runs it.
    fn implementation(&self) -> Implementation;

    /// Tells it its key, port and mark. What is so already is not touched. A new key ends the sessions that there are, and makes new ones with
    /// all peers whose place is known: they would send by the old ones.
    ///
    /// # Errors
    /// When the system refuses.
    fn configure(&mut self, settings: &Settings) -> Result<(), DeviceError>;

    /// Changes peers.
    ///
    /// # Errors
    /// When the system refuses: changes before the failed one are done.
    fn apply(&mut self, changes: &[Change]) -> Result<(), DeviceError>;

    /// Sources that are taken from a peer, and no others, although packets to them go to another peer. The kernel's WireGuard has no such
    /// thing: what comes from a peer must be what goes to it.
    fn accept(&mut self, peer: &PublicKey, sources: &BTreeSet<Network>);

    /// How it is.
    ///
    /// # Errors
    /// When the system refuses, or the interface is gone.
    fn status(&mut self) -> Result<DeviceStatus, DeviceError>;

    /// How these peers are, if they are there.
    ///
    /// # Errors
    /// When the system refuses, or the interface is gone.
    fn peers(&mut self, keys: &[PublicKey]) -> Result<BTreeMap<PublicKey, PeerStatus>, DeviceError> {
        let mut peers = self.status()?.peers;
        peers.retain(|key, _| keys.contains(key));
        Ok(peers)
    }
}

/// Takes over the interface of this name, or makes it.
///
/// # Errors
/// When it can be neither; when it is no tunnel.
pub fn open(name: &str, mode: Mode, settings: &Settings) -> Result<Box<dyn Wireguard>, DeviceError> {
    let mut found = tunnel_links::kind(name)?;
    if found == Some(LinkKind::Other) {
        return Err(DeviceError::Foreign { name: name.to_owned() });
    }
    if mode != Mode::Userspace {
        if found == Some(LinkKind::Tun) && mode == Mode::Kernel {
            tunnel_links::delete(name)?;
            found = None;
        }
        let there = match found {
            Some(LinkKind::Wireguard) => true,
            Some(_) => false,
            None => tunnel_links::create_wireguard(name)?,
        };
        if there {
            let mut device = KernelDevice::open(name)?;
            device.configure(settings)?;
            return Ok(Box::new(device));
        }
        if mode == Mode::Kernel {
            return Err(DeviceError::NoKernelSupport);
        }
    } else if found == Some(LinkKind::Wireguard) {
        tunnel_links::delete(name)?;
    }
    Ok(Box::new(UserspaceDevice::open(name, settings)?))
}
