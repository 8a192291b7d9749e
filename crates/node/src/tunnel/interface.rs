//! The tunnel's interface, on threads that may wait; and what is done where the tunnel is off.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kube_pet_net::addresses::{default_route, host_addresses};
use kube_pet_net::services::Network;
use kube_pet_tunnel::mtu::Change;
use kube_pet_tunnel::{Asker, Desired, Keeper, Look, Neighbour, Paths, PrivateKey, PublicKey, Settings, Turn};
use tracing::{debug, info, warn};

use super::blocking;
use super::model::{Known, MARK, TABLE};
use super::mtu::Sizes;
use super::relays::Relays;
use crate::config::TunnelSettings;
use crate::instruments;
use crate::kernel_tables::OwnChanges;

/// How often the machine's addresses are looked at.
const ADDRESSES: Duration = Duration::from_secs(10);
/// As many as a Pet takes.
const MOST_ADDRESSES: usize = 8;

/// See the module.
pub(super) struct Interface {
    link: String,
    settings: TunnelSettings,
    keeper: Keeper,
    paths: Paths,
    asker: Asker,
    sizes: Sizes,
    relays: Relays,
    addresses: Vec<IpAddr>,
    looked: Option<Instant>,
}

/// What a look at the interface has shown.
#[derive(Default)]
pub(super) struct Report {
    /// WireGuard's UDP port; 0 if it is not known.
    port: u16,
    /// The last handshake with a gateway.
    pub(super) gateway: Option<SystemTime>,
    /// Where the machine has the tunnel's port.
    pub(super) local: Vec<SocketAddr>,
    /// Paths to other pets that are in use.
    pub(super) paths: BTreeMap<PublicKey, Neighbour>,
    /// The size of packets in use, if it is not the PetNetwork's.
    pub(super) mtu: Option<u16>,
    /// Whether another pet was talked to in the last minute, or such a path is left from before.
    pub(super) talks: bool,
}

/// The interface, or what stands for it in a test.
pub(super) trait Link: Sized + Send {
    /// From the next [`Link::keep`] on.
    fn set_key(&mut self, key: PrivateKey);

    /// Makes the tunnel what it should be. No report before the node has an address.
    fn keep(
        self,
        known: &Known,
        neighbours: Option<Arc<BTreeMap<PublicKey, Neighbour>>>,
    ) -> impl Future<Output = (Self, Option<Report>)> + Send;
}

/// Its name, and its table's. It does not begin as pods' links do: what comes from those is treated as the node's own pods' traffic.
fn link(link_prefix: &str) -> String {
    let kind = if "tunnel".starts_with(link_prefix) { "wg" } else { "tunnel" };
    format!("{kind}-{link_prefix}")
}

impl Interface {
    pub(super) fn new(
        link_prefix: &str,
        settings: TunnelSettings,
        private_key: PrivateKey,
        own_changes: OwnChanges,
        known: &Known,
    ) -> Self {
        let wanted = Settings { private_key, listen_port: settings.listen_port, mark: MARK.value };
        let kept = if settings.direct { known.paths() } else { BTreeMap::new() };
        Self {
            link: link(link_prefix),
            keeper: Keeper::new(wanted, settings.mode, own_changes),
            sizes: Sizes::new(&settings, known.mtu()),
            settings,
            paths: Paths::resume(kept, Instant::now()),
            asker: Asker::default(),
            relays: Relays::default(),
            addresses: Vec::new(),
            looked: None,
        }
    }

    fn work(&mut self, mut desired: Desired, neighbours: Option<&BTreeMap<PublicKey, Neighbour>>) -> Report {
        let (port, peers) = self.keeper.status().map(|status| (status.listen_port, status.peers)).unwrap_or_default();
        let gateway = desired.peers.keys().filter_map(|key| peers.get(key)?.last_handshake).max();
        let mtu = self.sizes.look(&mut desired, &peers);
        if !self.settings.direct {
            self.keeper.keep(&desired);
            return Report { port, gateway, mtu, ..Report::default() };
        }
        let talked_to = self.keeper.talked_to();
        let heard = self.asker.hear(&peers, MARK.value);
        let limit = self.sizes.limit(&desired.link);
        let (now, wall) = (Instant::now(), SystemTime::now());
        let look = Look { peers: &peers, talked_to: &talked_to, heard: &heard, limit, now, wall };
        self.paths.look(neighbours, &look).iter().for_each(tell);
        let paths = self.paths.kept(&peers);
        instruments::tunnel::paths(paths.len());
        for (key, peer) in self.paths.peers() {
            Arc::make_mut(&mut desired.peers).entry(key).or_insert(peer);
        }
        self.paths.narrow(&mut desired.link);
        let ranges = desired.link.guarded.clone();
        self.keeper.keep(&desired);
        // Now packets go by the paths that are asked about.
        self.asker.ask(&self.paths.questions(&desired.link.addresses));
        self.look_at_addresses(&ranges);
        let local = self.addresses.iter().filter(|_| port != 0).map(|address| SocketAddr::new(*address, port)).collect();
        Report { port, gateway, local, mtu, talks: !talked_to.is_empty() || !paths.is_empty(), paths }
    }

    fn look_at_addresses(&mut self, ranges: &BTreeSet<Network>) {
        if self.looked.is_some_and(|looked| looked.elapsed() < ADDRESSES) {
            return;
        }
        self.looked = Some(Instant::now());
        match local_addresses(ranges) {
            Ok(addresses) => self.addresses = addresses,
            Err(error) => debug!(%error, "the machine's addresses are not known"),
        }
    }
}

impl Link for Interface {
    fn set_key(&mut self, key: PrivateKey) {
        self.keeper.set_key(key);
    }

    async fn keep(mut self, known: &Known, neighbours: Option<Arc<BTreeMap<PublicKey, Neighbour>>>) -> (Self, Option<Report>) {
        let Some(desired) = known.desired(&self.link, &self.settings, &self.relays.places()) else { return (self, None) };
        let (mut kept, report) = blocking(move || {
            let report = self.work(desired, neighbours.as_deref());
            (self, report)
        })
        .await;
        kept.relays.follow(known.relays(), report.port).await;
        (kept, Some(report))
    }
}

/// Addresses of the links that lead to the world: others are of containers and machines on this one. None of the tunnel's network.
fn local_addresses(ranges: &BTreeSet<Network>) -> Result<Vec<IpAddr>, kube_pet_net::NetlinkError> {
    let mut uplinks = BTreeSet::new();
    for ipv6 in [false, true] {
        uplinks.extend(default_route(ipv6)?.map(|route| route.interface));
    }
    let outside = |address: IpAddr| !ranges.iter().any(|network| network.contains(address));
    let found = host_addresses()?.into_iter().filter(|found| found.global && found.up && uplinks.contains(&found.interface));
    let found: BTreeSet<IpAddr> = found.map(|found| found.address).filter(|address| outside(*address)).collect();
    Ok(found.into_iter().take(MOST_ADDRESSES).collect())
}

fn tell((neighbour, turn): &(Neighbour, Turn)) {
    let pet = &neighbour.name;
    instruments::tunnel::turn(*turn);
    match turn {
        Turn::Direct => info!(pet, "packets to this pet do not go through the gateway any more"),
        Turn::Silent => info!(pet, "this pet is not heard from directly any more: packets to it go through the gateway again"),
        Turn::Resized(Change { from, to }) => {
            info!(pet, mtu = to, before = from, "the path to this pet takes packets of another size");
        }
        Turn::Idle => info!(pet, "this pet was not talked to for some time: it has no path of its own any more"),
        Turn::Gone => info!(pet, "this pet is gone, has another key or takes part no more: it has no path of its own any more"),
        Turn::Unreachable => {
            let tried: Vec<String> = neighbour.endpoints.iter().map(ToString::to_string).collect();
            debug!(pet, ?tried, "this pet is not reached directly: packets to it go on through the gateway");
        }
    }
}

/// Where the tunnel is off: takes away what a run with it has left, which would refuse the cluster's addresses for ever. Never ends.
pub(super) async fn leave(link_prefix: String, own_changes: OwnChanges, record: PathBuf) {
    let left = tokio::task::spawn_blocking(move || -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        if !record.exists() {
            return Ok(false);
        }
        kube_pet_tunnel::keeper::remove(&link(&link_prefix), TABLE, MARK, own_changes)?;
        std::fs::remove_file(&record)?;
        Ok(true)
    });
    match left.await {
        Ok(Ok(true)) => info!("the tunnel is off: what an earlier run had left of it is taken away"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => warn!(%error, "what an earlier run has left of the tunnel is still there"),
        Err(error) => warn!(%error, "what an earlier run has left of the tunnel is still there"),
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::link;

    #[test]
    fn the_link_is_never_taken_for_a_pods() {
        for prefix in ["kp", "t", "tu", "tunn", "wg", "0"] {
            let name = link(prefix);
            assert!(!name.starts_with(prefix) && name.ends_with(prefix) && name.len() < 16, "{prefix}: {name}");
        }
    }
}
