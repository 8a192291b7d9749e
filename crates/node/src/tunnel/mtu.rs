//! How large packets in the tunnel may be: as the way to the gateway takes them, or as it is configured.

use std::collections::BTreeMap;

use kube_pet_net::tunnel_links::TunnelLink;
use kube_pet_tunnel::mtu::{Change, Prober};
use kube_pet_tunnel::{Desired, PeerStatus, PublicKey};
use tracing::{info, warn};

use crate::config::TunnelSettings;
use crate::instruments;

/// See the module.
pub(super) struct Sizes {
    configured: Option<u16>,
    prober: Prober,
}

impl Sizes {
    /// `known`: what an earlier process has found.
    pub(super) fn new(settings: &TunnelSettings, known: Option<u16>) -> Self {
        Self { configured: settings.mtu, prober: Prober::new(known) }
    }

    /// Gives the tunnel's routes the size in use; that size, where it is another one than the PetNetwork's.
    pub(super) fn look(&mut self, desired: &mut Desired, seen: &BTreeMap<PublicKey, PeerStatus>) -> Option<u16> {
        let size = if self.configured.is_some() {
            self.configured
        } else {
            self.prober.look(&mut desired.link, &desired.peers, seen).iter().for_each(tell);
            self.prober.size(&desired.link)
        };
        instruments::tunnel::mtu(size.map_or(desired.link.mtu, u32::from));
        size
    }

    /// The size in use on the way to the gateway, up to which others are to be found out; `None` where it is configured.
    pub(super) fn limit(&self, link: &TunnelLink) -> Option<u16> {
        let whole = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        self.configured.is_none().then(|| self.prober.size(link).unwrap_or(whole))
    }
}

fn tell(Change { from, to }: &Change) {
    if to < from {
        warn!(mtu = to, before = from, "the way to the gateway loses larger packets: the tunnel's are made smaller");
    } else {
        info!(mtu = to, before = from, "the way to the gateway takes larger packets again");
    }
}
