//! The tunnel as a whole: interface, peers, addresses, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kube_pet_net::NetlinkError;
use kube_pet_net::pod_links::PodLinkError;
use kube_pet_net::tunnel_links::{self, TunnelLink};
use kube_pet_rules::Network;
use tracing::{info, warn};

use crate::device::{self, DeviceError, DeviceStatus, Implementation, Mode, PeerStatus, Settings, Wireguard};
use crate::endpoints::{Endpoint, Path, Resolver, Step};
use crate::keys::PublicKey;
use crate::plan::{Claims, Wanted, changes, differing};
use crate::relay::Place;

/// How often addresses and routes are looked at if nothing else is wanted. A peer that comes or goes changes none of them.
const LOOK: Duration = Duration::from_secs(10);
/// So many peers that change are changed alone, as long as all were looked at a short time ago: changes that do not end must not keep the
/// others from what is due by time.
const FEW: usize = 16;
const SHORT: Duration = Duration::from_secs(2);

/// The tunnel cannot be what it should be.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The interface.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its address or a route.
    #[error(transparent)]
    Link(#[from] PodLinkError),
    /// A link cannot be removed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl TunnelError {
    /// Whether the interface was taken away: [`Tunnel::open`] makes it again.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Device(DeviceError::Gone) => true,
            Self::Link(PodLinkError::Netlink(error)) | Self::Netlink(error) => error.is_no_device(),
            _ => false,
        }
    }
}

/// What this machine's end should be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Link, addresses and routes.
    pub link: TunnelLink,
    /// The interface.
    pub settings: Settings,
    /// Who runs it.
    pub mode: Mode,
}

/// A peer as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it may be reached, the best first; empty where it is the one that begins.
    pub endpoints: Vec<Endpoint>,
    /// Where it is reached when none of them answers: see [`crate::relay`].
    pub relay: Option<Place>,
    /// Seconds between packets that keep the way open; 0 for none.
    pub keepalive: u16,
    /// What is sent to it, and may come from it.
    pub allowed: BTreeSet<Network>,
    /// What may come from it besides, where the process runs the tunnel: see [`crate::direct`].
    pub accepted: BTreeSet<Network>,
}

/// How the tunnel is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who runs it.
    pub implementation: Implementation,
    /// The UDP port.
    pub listen_port: u16,
    /// By their keys.
    pub peers: BTreeMap<PublicKey, PeerStatus>,
}

/// The tunnel. Dropped, it stays as it is where the kernel runs it, and ends where this process does; what should go through it is refused
/// until [`Tunnel::close`].
pub struct Tunnel {
    device: Box<dyn Wireguard>,
    config: Config,
    /// When addresses and routes were last what they should be.
    looked: Option<Instant>,
    peers: Arc<BTreeMap<PublicKey, Peer>>,
    claims: Claims,
    /// When all peers of the interface were last what they should be; `None` after a failure.
    settled: Option<Instant>,
    paths: BTreeMap<PublicKey, Path>,
    resolver: Resolver,
}

impl Tunnel {
    /// Takes over the interface, or makes it; then its addresses and routes.
    ///
    /// # Errors
    /// When the system refuses. What should go through the tunnel is refused then, not sent another way.
    pub fn open(config: Config) -> Result<Self, TunnelError> {
        tunnel_links::guard(&config.link)?;
        let device = device::open(&config.link.name, config.mode, &config.settings)?;
        info!(link = config.link.name, implementation = ?device.implementation(), "the tunnel's interface is there");
        tunnel_links::ensure(&config.link)?;
        let looked = Some(Instant::now());
        let (peers, claims, paths) = (Arc::default(), Claims::default(), BTreeMap::new());
        Ok(Self { device, config, looked, peers, claims, settled: None, paths, resolver: Resolver::new() })
    }

    /// Makes interface and peers what they should be, and changes only what differs.
    ///
    /// # Errors
    /// When the system refuses; see [`TunnelError::is_gone`].
    pub fn apply(&mut self, link: &TunnelLink, settings: &Settings, peers: &Arc<BTreeMap<PublicKey, Peer>>) -> Result<(), TunnelError> {
        let contested = self.claims.are_contested();
        let differing = self.want(peers);
        // A few of a thousand: the others are looked at when their time has come.
        let recent = self.settled.is_some_and(|settled| settled.elapsed() < SHORT);
        let alone = recent && !contested && !self.claims.are_contested() && (1..=FEW).contains(&differing.len());
        let done = self.configure(link, settings).and_then(|()| self.look_at_link());
        let done = done.and_then(|()| if alone { self.change(&differing) } else { self.look_at_peers() });
        self.note(done)
    }

    fn configure(&mut self, link: &TunnelLink, settings: &Settings) -> Result<(), TunnelError> {
        self.device.configure(settings)?;
        self.config.settings = settings.clone();
        if self.config.link != *link {
            self.config.link.clone_from(link);
            self.looked = None;
        }
        Ok(())
    }

    /// Takes in what is wanted: the peers that were not wanted like this before.
    fn want(&mut self, peers: &Arc<BTreeMap<PublicKey, Peer>>) -> Vec<PublicKey> {
        let before = std::mem::replace(&mut self.peers, Arc::clone(peers));
        let differing = differing(&before, peers);
        for key in &differing {
            if let Some(peer) = before.get(key) {
                self.claims.remove(&peer.allowed);
            }
            let Some(peer) = peers.get(key) else {
                self.paths.remove(key);
                continue;
            };
            self.claims.add(&peer.allowed);
            self.paths.entry(*key).or_default().want(&peer.endpoints, peer.relay);
        }
        differing
    }

    /// What is due by time: call it every second or so. Puts back what others have changed of interface and peers, and within some seconds of
    /// addresses and routes.
    ///
    /// # Errors
    /// When the system refuses; see [`TunnelError::is_gone`].
    pub fn tick(&mut self) -> Result<(), TunnelError> {
        let done = self.look_at_link().and_then(|()| self.look_at_peers());
        self.note(done)
    }

    fn note(&mut self, done: Result<(), TunnelError>) -> Result<(), TunnelError> {
        if done.is_err() {
            (self.looked, self.settled) = (None, None);
        }
        done
    }

    /// Before the peers: routes that lead to nobody yet are as good as refused; those that are taken are refused before a peer loses them.
    fn look_at_link(&mut self) -> Result<(), TunnelError> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            tunnel_links::ensure(&self.config.link)?;
            self.looked = Some(Instant::now());
        }
        Ok(())
    }

    fn look_at_peers(&mut self) -> Result<(), TunnelError> {
        let actual = self.device.status()?.peers;
        for (endpoint, addresses) in self.resolver.answers() {
            self.paths.values_mut().for_each(|path| path.resolved(&endpoint, addresses.clone()));
        }
        let peers = Arc::clone(&self.peers);
        self.make(peers.iter(), &actual)?;
        self.settled = Some(Instant::now());
        Ok(())
    }

    /// These peers alone, none of which has anything that another one has.
    fn change(&mut self, keys: &[PublicKey]) -> Result<(), TunnelError> {
        let actual = self.device.peers(keys)?;
        let peers = Arc::clone(&self.peers);
        self.make(keys.iter().filter_map(|key| peers.get_key_value(key)), &actual)
    }

    /// Those of `actual` that are not wanted go.
    fn make<'a>(
        &mut self,
        peers: impl Iterator<Item = (&'a PublicKey, &'a Peer)> + Clone,
        actual: &BTreeMap<PublicKey, PeerStatus>,
    ) -> Result<(), TunnelError> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut wanted = BTreeMap::new();
        for (key, peer) in peers.clone() {
            let there = actual.get(key);
            let alive = there.is_some_and(|there| there.is_alive(wall));
            let path = self.paths.entry(*key).or_default();
            if alive {
                path.adopt(now);
            }
            let fallen_back = there.and_then(|there| path.fall_back(there, now));
            let endpoint = fallen_back.or_else(|| match path.step(alive, now) {
                Step::Write(address) => Some(address),
                Step::Nothing => None,
                Step::Resolve(names) => {
                    names.into_iter().for_each(|name| self.resolver.ask(name));
                    None
                }
            });
            if let Some(endpoint) = endpoint.filter(|endpoint| in_tunnel_without_mark(&self.config, *endpoint)) {
                // Without a mark its own packets would go through it.
                warn!(peer = %key, %endpoint, "an endpoint lies in what goes through the tunnel, whose packets have no mark: it is not used");
                continue;
            }
            wanted.insert(*key, Wanted { endpoint, keepalive: peer.keepalive, allowed: &peer.allowed });
        }
        self.device.apply(&changes(&wanted, actual))?;
        for (key, peer) in peers {
            self.device.accept(key, &peer.accepted);
        }
        Ok(())
    }

    /// How it is.
    ///
    /// # Errors
    /// When the system refuses; see [`TunnelError::is_gone`].
    pub fn status(&mut self) -> Result<Status, TunnelError> {
        let implementation = self.device.implementation();
        let DeviceStatus { public_key: _, listen_port, mark: _, peers } = self.device.status()?;
        Ok(Status { implementation, listen_port, peers })
    }

    /// Takes everything away: interface, addresses, routes. From now on nothing is refused any more.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn close(self) -> Result<(), TunnelError> {
        let Self { device, config, .. } = self;
        drop(device);
        tunnel_links::remove(&config.link.name, config.link.table, config.link.mark)?;
        Ok(())
    }
}

fn in_tunnel_without_mark(config: &Config, endpoint: SocketAddr) -> bool {
    let Config { link, settings, mode: _ } = config;
    let inside = link.routes.iter().any(|network| network.contains(endpoint.ip()));
    let outside = link.bypass.iter().any(|network| network.contains(endpoint.ip()));
    inside && !outside && settings.mark & link.mark.mask != link.mark.value
}

#[cfg(test)]
mod tests;
