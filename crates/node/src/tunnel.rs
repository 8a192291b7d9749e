//! The tunnel to the cluster: what gives a pet its address and its pod network, and carries both.
//!
//! ```text
//! key file ─► own Pet (claim.rs) ─► status: address, pod networks ─┐
//! PetNetwork, PetGateways, own Pet (watches.rs) ─► Known (model.rs) ◄─┘ ─► tunnel.json
//! other Pets ─► neighbours.rs ─┐                     │ desired()
//!                              ▼                     ▼
//!                             Interface (interface.rs, mtu.rs): kube_pet_tunnel::{Paths, Prober, Keeper}
//! ```
//! After a reboot without the API server, the file is enough. What the cluster's ranges are is known from the first contact on: from then on
//! nothing for them leaves in plaintext, whether the tunnel works or not.

mod claim;
mod interface;
mod model;
mod mtu;
mod neighbours;
mod relays;
mod rotation;
mod watches;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use kube_pet_net::services::Network;
use kube_pet_tunnel::{KeyError, PrivateKey};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::api::ApiHandle;
use crate::config::TunnelSettings;
use crate::json_file;
use crate::kernel_tables::OwnChanges;
use crate::paths::Paths;
use claim::{Claim, Seen};
use interface::{Interface, Link};
use model::Known;
use rotation::{KeyFiles, Rotation};
use watches::{Objects, Update};

/// How often the interface is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the cluster has given this node; empty until it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// The node's addresses, primary first.
    pub addresses: Vec<IpAddr>,
    /// The node's pod networks, primary first.
    pub pod_cidrs: Vec<String>,
    /// What the tunnel leads to: the cluster's networks and the pets'.
    pub networks: Vec<Network>,
}

/// What the tunnel depends on.
pub struct TunnelOptions {
    /// Settings.
    pub settings: TunnelSettings,
    /// The Node's name.
    pub node_name: String,
    /// The API server, if there is one.
    pub api: Option<ApiHandle>,
    /// How names of links and tables begin.
    pub link_prefix: String,
    /// Files.
    pub paths: Paths,
    /// The agent's changes of nf_tables.
    pub own_changes: OwnChanges,
}

/// The tunnel's tasks.
pub struct Tunnel {
    /// To be run while the node is identified.
    pub watches: Vec<(&'static str, BoxFuture<'static, ()>)>,
    /// To be run always.
    pub task: BoxFuture<'static, ()>,
    /// What the cluster has given; `None` where the tunnel is off.
    pub allocation: watch::Receiver<Option<Allocation>>,
}

impl Tunnel {
    /// Reads or makes the key, and what the last run knew. Blocking, for milliseconds.
    ///
    /// # Errors
    /// When there is no key.
    pub fn new(options: TunnelOptions) -> Result<Self, KeyError> {
        let TunnelOptions { settings, node_name, api, link_prefix, paths, own_changes } = options;
        let record = paths.tunnel();
        let Some(api) = api.filter(|_| settings.enabled) else {
            let (_, allocation) = watch::channel(None);
            let task = Box::pin(interface::leave(link_prefix, own_changes, record));
            return Ok(Self { watches: Vec::new(), task, allocation });
        };
        let key = PrivateKey::load_or_create(&paths.tunnel_key())?;
        let known: Known = match json_file::read(&record, json_file::MAX_BYTES) {
            Ok(known) => known.unwrap_or_default(),
            Err(error) => {
                warn!(%error, "what was known of the tunnel is lost; the cluster tells it again");
                Known::default()
            }
        };
        let (allocated, allocation) = watch::channel(Some(known.allocation()));
        let (seen, own) = watch::channel(Seen::Unknown);
        let files = KeyFiles {
            key: paths.tunnel_key(),
            next: paths.tunnel_next_key(),
            before: paths.tunnel_key_before(),
            clock: paths.tunnel_key_clock(),
        };
        let rotation = Rotation::open(files, settings.key_rotation)?;
        let mut spec = claim::spec(&key, &settings);
        spec.next_public_key = rotation.next();
        spec.mtu = spec.mtu.or(known.mtu());
        let (wanted, spec) = watch::channel(spec);
        let (talks, talking) = watch::channel(false);
        let (updates, received) = mpsc::channel(64);
        let mut watches = watches::all(&api, &node_name, &updates, talking);
        let claim = Claim { api, name: node_name, wanted: spec, seen: own };
        watches.push(("the node's Pet", Box::pin(claim.keep())));
        let interface = Interface::new(&link_prefix, settings, key, own_changes, &known);
        let task =
            Task { updates: received, seen, wanted, talks, allocated, known, record, rotation, interface, objects: Objects::default() };
        Ok(Self { watches, task: Box::pin(task.run()), allocation })
    }
}

struct Task<L> {
    updates: mpsc::Receiver<Update>,
    seen: watch::Sender<Seen>,
    wanted: watch::Sender<kube_pet_api::PetSpec>,
    talks: watch::Sender<bool>,
    allocated: watch::Sender<Option<Allocation>>,
    known: Known,
    record: PathBuf,
    rotation: Rotation,
    interface: L,
    objects: Objects,
}

impl<L: Link> Task<L> {
    async fn run(self) {
        let Self { mut updates, seen, wanted, talks, allocated, mut known, record, mut rotation, mut interface, mut objects } = self;
        let mut gateway = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    Some(update) => {
                        objects.take(update, &seen);
                        while let Ok(update) = updates.try_recv() {
                            objects.take(update, &seen);
                        }
                    }
                    None => std::future::pending().await,
                },
                _ = tick.tick() => {}
            }
            if objects.are_complete() {
                let now = known.learn(objects.own.as_deref(), objects.network.as_deref(), objects.gateways.values().map(|g| &**g));
                // Before anything is done by it: what is refused from now on is refused after a power cut, too.
                keep(&record, &mut known, now).await;
            }
            let key;
            (rotation, key) = rotation.look(objects.own.as_deref(), gateway).await;
            let names = (key.as_ref().map(|key| key.public().to_string()), rotation.next());
            wanted.send_if_modified(|spec| claim::set_keys(spec, names));
            if let Some(key) = key {
                interface.set_key(key);
            }
            let report;
            (interface, report) = interface.keep(&known, objects.neighbours()).await;
            if let Some(report) = report {
                gateway = report.gateway;
                let mut now = known.clone();
                now.keep_paths(&report.paths);
                now.keep_mtu(report.mtu);
                keep(&record, &mut known, now).await;
                // None are told while the interface is made again.
                wanted.send_if_modified(|spec| !report.local.is_empty() && claim::set_local(spec, &report.local));
                wanted.send_if_modified(|spec| claim::set_mtu(spec, report.mtu));
                talks.send_if_modified(|talks| report.talks && !std::mem::replace(talks, true));
            }
            let allocation = known.allocation();
            if allocated.send_if_modified(|old| old.replace(allocation.clone()) != Some(allocation.clone())) {
                info!(addresses = ?allocation.addresses, pods = ?allocation.pod_cidrs, "the cluster has given the node its addresses");
            }
        }
    }
}

/// Takes it in, and writes it down, if it is news.
async fn keep(record: &Path, known: &mut Known, now: Known) {
    if *known == now {
        return;
    }
    known.clone_from(&now);
    let path = record.to_owned();
    if let Err(error) = blocking(move || json_file::write_durable(&path, &now)).await {
        warn!(%error, "what is known of the tunnel is not kept for a start without the API server");
    }
}

/// Does what may wait, on a thread for that. What panics there panics here: with the tunnel's task the agent ends, and is started again.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime ends, and with it this task.
        Err(Err(_)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
