//! The tunnel to the cluster: what gives a pet its address and its pod network, and carries both.
//!
//! ```text
//! key file ─► own Pet (claim.rs) ─► status: address, pod networks ─┐
//! PetNetwork, PetGateways, own Pet: watches ─► Known (model.rs) ◄──┘ ─► tunnel.json
//!                                                │ desired()
//!                                                ▼
//!                             Interface (interface.rs): kube_pet_tunnel::Keeper
//! ```
//! After a reboot without the API server, the file is enough. What the cluster's ranges are is known from the first contact on: from then on
//! nothing for them leaves in plaintext, whether the tunnel works or not.

mod claim;
mod interface;
mod model;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::runtime::watcher;
use kube_pet_api::{Pet, PetGateway, PetNetwork};
use kube_pet_tunnel::{KeyError, PrivateKey};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::api::ApiHandle;
use crate::config::TunnelSettings;
use crate::follower::{Follower, Kind, key_of};
use crate::json_file;
use crate::kernel_tables::OwnChanges;
use crate::paths::Paths;
use claim::Seen;
use interface::Interface;
use model::Known;

/// How often the interface is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the cluster has given this node; empty until it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// The node's addresses, primary first.
    pub addresses: Vec<IpAddr>,
    /// The node's pod networks, primary first.
    pub pod_cidrs: Vec<String>,
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

/// What the watches tell.
enum Update {
    Own(Option<Box<Pet>>),
    Gateway(Arc<str>, Option<Box<PetGateway>>),
    Network(Option<Box<PetNetwork>>),
    Synced(&'static str),
}

/// Three lists: what is not known yet is not gone.
const LISTS: [&str; 3] = [Own::NAME, Gateways::NAME, Networks::NAME];

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
        let (updates, received) = mpsc::channel(64);
        let field = format!("metadata.name={node_name}");
        let claim = claim::keep(api.clone(), node_name, claim::spec(&key, &settings), own);
        let watches: Vec<(&'static str, BoxFuture<'static, ()>)> = vec![
            ("the node's Pet", Box::pin(claim)),
            ("the watch of the node's Pet", follow(Own, &updates, &api, watcher::Config::default().fields(&field))),
            ("gateways", follow(Gateways, &updates, &api, watcher::Config::default())),
            ("the pet network", follow(Networks, &updates, &api, watcher::Config::default())),
        ];
        let interface = Interface::new(&link_prefix, settings, key, own_changes);
        let task = Task { updates: received, seen, allocated, known, record, interface, objects: Objects::default() };
        Ok(Self { watches, task: Box::pin(task.run()), allocation })
    }
}

fn follow<K: Kind<Update = Update> + Sync + 'static>(
    kind: K,
    updates: &mpsc::Sender<Update>,
    api: &ApiHandle,
    config: watcher::Config,
) -> BoxFuture<'static, ()> {
    Box::pin(Follower::new(kind, Some(updates.clone())).run(api.clone(), config))
}

/// What the API server has.
#[derive(Default)]
struct Objects {
    synced: Vec<&'static str>,
    own: Option<Box<Pet>>,
    gateways: HashMap<Arc<str>, Box<PetGateway>>,
    network: Option<Box<PetNetwork>>,
}

struct Task {
    updates: mpsc::Receiver<Update>,
    seen: watch::Sender<Seen>,
    allocated: watch::Sender<Option<Allocation>>,
    known: Known,
    record: PathBuf,
    interface: Interface,
    objects: Objects,
}

impl Task {
    async fn run(self) {
        let Self { mut updates, seen, allocated, mut known, record, mut interface, mut objects } = self;
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
            if objects.synced.len() == LISTS.len() {
                let now = known.learn(objects.own.as_deref(), objects.network.as_deref(), objects.gateways.values().map(|g| &**g));
                if now != known {
                    known = now;
                    save(&record, &known).await;
                    let allocation = known.allocation();
                    if allocated.send_if_modified(|old| old.replace(allocation.clone()) != Some(allocation.clone())) {
                        info!(addresses = ?allocation.addresses, pods = ?allocation.pod_cidrs, "the cluster has given the node its addresses");
                    }
                }
            }
            interface = interface.keep(&known).await;
        }
    }
}

impl Objects {
    fn take(&mut self, update: Update, seen: &watch::Sender<Seen>) {
        match update {
            Update::Own(pet) => self.own = pet,
            Update::Gateway(name, Some(gateway)) => drop(self.gateways.insert(name, gateway)),
            Update::Gateway(name, None) => drop(self.gateways.remove(&name)),
            Update::Network(network) => self.network = network,
            Update::Synced(list) => {
                if !self.synced.contains(&list) {
                    self.synced.push(list);
                }
            }
        }
        if self.synced.contains(&Own::NAME) {
            let _ = seen.send(self.own.clone().map_or(Seen::Absent, Seen::Present));
        }
    }
}

async fn save(record: &std::path::Path, known: &Known) {
    let (path, content) = (record.to_owned(), known.clone());
    match tokio::task::spawn_blocking(move || json_file::write_durable(&path, &content)).await {
        Ok(Err(error)) => warn!(%error, "what is known of the tunnel is not kept for a start without the API server"),
        Err(error) => warn!(%error, "what is known of the tunnel is not kept"),
        Ok(Ok(())) => {}
    }
}

struct Own;
struct Gateways;
struct Networks;

const REFUSED: &str = "the tunnel has no gateway. Give the permission of kube-pet's chart";

impl Kind for Own {
    type Object = Pet;
    type Update = Update;
    const NAME: &'static str = "the node's Pet";
    const REFUSED: &'static str = REFUSED;

    fn put(&mut self, pet: Pet) -> Option<(Arc<str>, Update)> {
        Some((key_of(&pet.metadata), Update::Own(Some(Box::new(pet)))))
    }
    fn gone(&mut self, _: Arc<str>) -> Update {
        Update::Own(None)
    }
    fn synced(&mut self) -> Update {
        Update::Synced(Self::NAME)
    }
}

impl Kind for Gateways {
    type Object = PetGateway;
    type Update = Update;
    const NAME: &'static str = "PetGateways";
    const REFUSED: &'static str = REFUSED;

    fn put(&mut self, gateway: PetGateway) -> Option<(Arc<str>, Update)> {
        let key = key_of(&gateway.metadata);
        Some((key.clone(), Update::Gateway(key, Some(Box::new(gateway)))))
    }
    fn gone(&mut self, key: Arc<str>) -> Update {
        Update::Gateway(key, None)
    }
    fn synced(&mut self) -> Update {
        Update::Synced(Self::NAME)
    }
}

impl Kind for Networks {
    type Object = PetNetwork;
    type Update = Update;
    const NAME: &'static str = "PetNetworks";
    const REFUSED: &'static str = REFUSED;

    fn put(&mut self, network: PetNetwork) -> Option<(Arc<str>, Update)> {
        Some((key_of(&network.metadata), Update::Network(Some(Box::new(network)))))
    }
    fn gone(&mut self, _: Arc<str>) -> Update {
        Update::Network(None)
    }
    fn synced(&mut self) -> Update {
        Update::Synced(Self::NAME)
    }
}
