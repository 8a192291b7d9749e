//! What is followed in the cluster: the node's own Pet, gateways, the pet network; and the other Pets, once one is talked to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::runtime::watcher;
use kube_pet_api::{Pet, PetGateway, PetNetwork};
use kube_pet_tunnel::{Neighbour, PublicKey};
use tokio::sync::{mpsc, watch};

use super::claim::Seen;
use super::neighbours::{Other, neighbours};
use crate::api::ApiHandle;
use crate::follower::{Follower, Kind, key_of, once};

/// What the watches tell.
pub(super) enum Update {
    Own(Option<Box<Pet>>),
    Gateway(Arc<str>, Option<Box<PetGateway>>),
    Network(Option<Box<PetNetwork>>),
    Other(Arc<str>, Option<Box<Other>>),
    Synced(&'static str),
}

/// Three lists: what is not known yet is not gone.
const LISTS: [&str; 3] = [Own::NAME, Gateways::NAME, Networks::NAME];

/// All watches, to be run while the node is identified. `talks`: whether another pet was talked to; before that, other Pets cost the API
/// server nothing: each change of one of a thousand would be told to a thousand.
pub(super) fn all(
    api: &ApiHandle,
    node_name: &str,
    updates: &mpsc::Sender<Update>,
    talks: watch::Receiver<bool>,
) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let field = format!("metadata.name={node_name}");
    vec![
        ("the watch of the node's Pet", follow(Own, updates, api, watcher::Config::default().fields(&field))),
        ("gateways", follow(Gateways, updates, api, watcher::Config::default())),
        ("the pet network", follow(Networks, updates, api, watcher::Config::default())),
        ("other Pets", Box::pin(once(talks, follow(Others { own: node_name.to_owned() }, updates, api, watcher::Config::default())))),
    ]
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
pub(super) struct Objects {
    synced: Vec<&'static str>,
    pub(super) own: Option<Box<Pet>>,
    pub(super) gateways: HashMap<Arc<str>, Box<PetGateway>>,
    pub(super) network: Option<Box<PetNetwork>>,
    others: HashMap<Arc<str>, Other>,
    /// Made of the others and the node's own Pet.
    neighbours: Option<Arc<BTreeMap<PublicKey, Neighbour>>>,
}

impl Objects {
    pub(super) fn take(&mut self, update: Update, seen: &watch::Sender<Seen>) {
        match update {
            Update::Own(pet) => {
                self.own = pet;
                self.neighbours = None;
            }
            Update::Gateway(name, Some(gateway)) => drop(self.gateways.insert(name, gateway)),
            Update::Gateway(name, None) => drop(self.gateways.remove(&name)),
            Update::Network(network) => self.network = network,
            Update::Other(name, other) => {
                let before = match &other {
                    Some(other) => self.others.insert(name, (**other).clone()),
                    None => self.others.remove(&name),
                };
                // Most changes of a Pet are none here.
                if before.as_ref() != other.as_deref() {
                    self.neighbours = None;
                }
            }
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

    /// Whether all is known that the way to the gateway needs.
    pub(super) fn are_complete(&self) -> bool {
        LISTS.iter().all(|list| self.synced.contains(list))
    }

    /// The other pets; `None` before they are known. None of them while the node is about to change its key: they see that, too, and a
    /// path between two keys ends with either.
    pub(super) fn neighbours(&mut self) -> Option<Arc<BTreeMap<PublicKey, Neighbour>>> {
        if self.own.as_ref().is_some_and(|own| own.spec.next_public_key.is_some()) {
            return Some(Arc::default());
        }
        if !self.synced.contains(&Others::NAME) {
            return None;
        }
        Some(self.neighbours.get_or_insert_with(|| Arc::new(neighbours(self.own.as_deref(), &self.others))).clone())
    }
}

struct Own;
struct Gateways;
struct Networks;
struct Others {
    own: String,
}

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

impl Kind for Others {
    type Object = Pet;
    type Update = Update;
    const NAME: &'static str = "Pets";
    const REFUSED: &'static str = "pets reach each other through the gateway only. Give the permission of kube-pet's chart";

    fn put(&mut self, pet: Pet) -> Option<(Arc<str>, Update)> {
        let other = Other::of(&pet).filter(|_| pet.metadata.name.as_ref() != Some(&self.own))?;
        let key = key_of(&pet.metadata);
        Some((key.clone(), Update::Other(key, Some(Box::new(other)))))
    }
    fn gone(&mut self, key: Arc<str>) -> Update {
        Update::Other(key, None)
    }
    fn synced(&mut self) -> Update {
        Update::Synced(Self::NAME)
    }
}
