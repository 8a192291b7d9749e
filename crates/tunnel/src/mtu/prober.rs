//! Asks the gateway, and gives the tunnel's routes the size that was found.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Instant, SystemTime};

use kube_pet_net::tunnel_links::TunnelLink;
use kube_pet_rules::Network;
use nix::sys::socket::{setsockopt, sockopt::Mark};
use tracing::debug;

use super::echo::Echo;
use super::{Change, Discovery, Way};
use crate::device::PeerStatus;
use crate::keys::PublicKey;
use crate::tunnel::Peer;

/// Where every gateway answers, in the tunnel and nowhere else: of the ranges for links (RFC 3927) and for private networks (RFC 4193).
pub const GATEWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 51, 82)), IpAddr::V6(Ipv6Addr::new(0xfd6b, 0x7065, 0x742d, 0, 0, 0, 0, 0x5182))];

/// The discovery of one machine, with its socket.
#[derive(Debug)]
pub struct Prober {
    discovery: Discovery,
    echo: Option<((IpAddr, IpAddr), Echo)>,
    identifier: u16,
}

impl Prober {
    /// `known`: see [`Discovery::new`].
    pub fn new(known: Option<u16>) -> Self {
        // Of all programs that ask the same address, only this one's answers count.
        let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
        Self { discovery: Discovery::new(known), echo: None, identifier }
    }

    /// The size in use, if it is less than the link's.
    pub fn size(&self, link: &TunnelLink) -> Option<u16> {
        Some(self.discovery.size()).filter(|size| u32::from(*size) < link.mtu)
    }

    /// To be called about once a second, with what the tunnel is to be: asks the peer that has one of the addresses of [`GATEWAY`], and gives
    /// the link's routes the size in use where that is less than the link's. The link itself keeps its own: what is asked for is larger.
    pub fn look(
        &mut self,
        link: &mut TunnelLink,
        peers: &BTreeMap<PublicKey, Peer>,
        seen: &BTreeMap<PublicKey, PeerStatus>,
    ) -> Option<Change> {
        let limit = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        let way = self.follow(link, peers, seen);
        let answers = self.echo.as_ref().map(|(_, echo)| echo.answers()).unwrap_or_default();
        let (probes, change) = self.discovery.look(limit, way, &answers, Instant::now());
        for probe in probes {
            let Some((_, echo)) = &self.echo else { break };
            if let Err(error) = echo.ask(probe) {
                // The small one behind it is not sent either: nothing is learnt.
                debug!(size = probe.size, %error, "the gateway is not asked for a size");
                break;
            }
        }
        link.mtus = match self.size(link) {
            Some(size) => link.routes.iter().map(|network| (*network, u32::from(size))).collect(),
            None => BTreeMap::new(),
        };
        change
    }

    /// The way to the gateway that is asked, with a socket for it.
    fn follow(&mut self, link: &TunnelLink, peers: &BTreeMap<PublicKey, Peer>, seen: &BTreeMap<PublicKey, PeerStatus>) -> Option<Way> {
        let asked = GATEWAY.into_iter().find_map(|to| {
            let (gateway, _) = peers.iter().find(|(_, peer)| peer.allowed.contains(&Network::single(to)))?;
            let from = link.addresses.iter().copied().find(|from| from.is_ipv4() == to.is_ipv4())?;
            Some((*gateway, from, to))
        });
        let (gateway, from, to) = asked?;
        let endpoint = seen.get(&gateway).filter(|peer| peer.is_alive(SystemTime::now()))?.endpoint?;
        if self.echo.as_ref().is_none_or(|(between, _)| *between != (from, to)) {
            self.echo = None;
            match Echo::open(from, to, self.identifier) {
                Ok(echo) => self.echo = Some(((from, to), echo)),
                Err(error) => debug!(%from, %to, %error, "the gateway cannot be asked for sizes yet"),
            }
        }
        self.echo.as_ref()?;
        match source(endpoint, link.mark.value) {
            Ok(source) => Some(Way { peer: gateway, endpoint, source }),
            Err(error) => {
                debug!(%endpoint, %error, "there is no way to the gateway");
                None
            }
        }
    }
}

/// This machine's address for packets with this mark to there. Sends nothing.
pub(crate) fn source(to: SocketAddr, mark: u32) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    setsockopt(&socket, Mark, &mark)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}
