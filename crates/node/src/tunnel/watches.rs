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
pub(super) const LISTS: [&str; 3] = [Own::NAME, Gateways::NAME, Networks::NAME];

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
    /// `seen` is told of the node's Pet, and of nothing else: each time it is compared with what it should be, and written.
    pub(super) fn take(&mut self, update: Update, seen: &watch::Sender<Seen>) {
        let is_own = matches!(update, Update::Own(_) | Update::Synced(Own::NAME));
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
        if is_own && self.synced.contains(&Own::NAME) {
            let _ = seen.send(self.own.clone().map_or(Seen::Absent, Seen::Present));
        }
    }

    /// Whether all is known that the way to the gateway needs.
    pub(super) fn are_complete(&self) -> bool {
        LISTS.iter().all(|list| self.synced.contains(list))
    }

    /// The other pets; `None` before they are known. None of them while the node is about to change its key, which the controller has
    /// accepted: they see that, too, and a path between two keys ends with either.
    pub(super) fn neighbours(&mut self) -> Option<Arc<BTreeMap<PublicKey, Neighbour>>> {
        let status = self.own.as_ref().and_then(|own| own.status.as_ref());
        if status.is_some_and(|status| status.next_public_key.is_some()) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pet(name: &str, number: u8) -> Pet {
        let key = PublicKey::from([number; 32]).to_string();
        serde_json::from_value(json!({
            "apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": name},
            "spec": {"publicKey": key, "machineID": "12345678", "direct": true},
            "status": {"publicKey": key, "nodeAddresses": [format!("10.99.0.{number}")]},
        }))
        .unwrap()
    }

    fn other(number: u8) -> Update {
        Update::Other(format!("/{number}").into(), Other::of(&pet("other", number)).map(Box::new))
    }

    #[test]
    fn the_nodes_pet_is_compared_when_it_has_changed_and_not_with_each_change_of_others() {
        let (seen, mut own) = watch::channel(Seen::Unknown);
        let mut objects = Objects::default();
        let is_told = |objects: &mut Objects, own: &mut watch::Receiver<Seen>, update| {
            objects.take(update, &seen);
            let told = own.has_changed().unwrap();
            own.mark_unchanged();
            told
        };
        assert!(!is_told(&mut objects, &mut own, Update::Own(Some(Box::new(pet("own", 1))))), "the list is not complete");
        assert!(is_told(&mut objects, &mut own, Update::Synced(Own::NAME)));
        for update in [Update::Synced(Gateways::NAME), Update::Synced(Others::NAME), Update::Network(None), other(2), other(3)] {
            assert!(!is_told(&mut objects, &mut own, update));
        }
        assert!(is_told(&mut objects, &mut own, Update::Own(None)));
        assert!(matches!(*own.borrow(), Seen::Absent));
    }

    #[test]
    fn paths_are_left_for_a_next_key_that_is_accepted() {
        let (seen, _own) = watch::channel(Seen::Unknown);
        let mut objects = Objects::default();
        for update in [Update::Synced(Others::NAME), other(2)] {
            objects.take(update, &seen);
        }
        let mut neighbours = |own: &Pet| {
            objects.take(Update::Own(Some(Box::new(own.clone()))), &seen);
            objects.neighbours().unwrap().len()
        };
        let mut own = pet("own", 1);
        let next = Some(PublicKey::from([9; 32]).to_string());
        assert_eq!(neighbours(&own), 1);
        own.spec.next_public_key.clone_from(&next);
        assert_eq!(neighbours(&own), 1, "it may be another's");
        own.status.as_mut().unwrap().next_public_key = next;
        assert_eq!(neighbours(&own), 0);
    }
}
