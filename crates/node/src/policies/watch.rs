//! What the API server tells: policies always; pods and namespaces of the whole cluster once somebody asks for them.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher;
use kube_pet_core::policies::{Event, Policy};
use tokio::sync::{mpsc, watch};

use super::objects::{NamespaceObject, PodObject};
use crate::api::ApiHandle;
use crate::follower::{Follower, Kind, once};

/// Pods that are over have no address any more.
const ALIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// What the enforcer is told.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// An object has changed.
    Changed(Event),
    /// A list is complete.
    Known(List),
    /// The node may not read it.
    Refused(List),
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Policies,
    Namespaces,
    Peers,
}

struct Policies;
struct Namespaces;
struct Peers;

/// The same for all three: one role has all that is needed.
const REFUSED: &str = "NetworkPolicies are not enforced here as they should be: bind the ClusterRole kube-pet:network-policies";

impl Kind for Policies {
    type Object = NetworkPolicy;
    type Update = Update;
    const NAME: &'static str = "networkpolicies.networking.k8s.io";
    const REFUSED: &'static str = REFUSED;

    fn put(&mut self, object: NetworkPolicy) -> Option<(Arc<str>, Update)> {
        let policy = Arc::new(Policy::from(object));
        Some((policy.key.clone(), Update::Changed(Event::Policy(policy))))
    }

    fn gone(&mut self, key: Arc<str>) -> Update {
        Update::Changed(Event::PolicyGone(key))
    }

    fn synced(&mut self) -> Update {
        Update::Known(List::Policies)
    }

    fn refused(&mut self) -> Option<Update> {
        Some(Update::Refused(List::Policies))
    }
}

impl Kind for Namespaces {
    type Object = NamespaceObject;
    type Update = Update;
    const NAME: &'static str = "namespaces";
    const REFUSED: &'static str = REFUSED;

    fn put(&mut self, object: NamespaceObject) -> Option<(Arc<str>, Update)> {
        let (name, labels) = object.into_facts();
        // As the follower calls what has no namespace.
        Some((format!("/{name}").into(), Update::Changed(Event::Namespace(name, labels))))
    }

    fn gone(&mut self, key: Arc<str>) -> Update {
        Update::Changed(Event::NamespaceGone(key.trim_start_matches('/').into()))
    }

    fn synced(&mut self) -> Update {
        Update::Known(List::Namespaces)
    }

    fn refused(&mut self) -> Option<Update> {
        Some(Update::Refused(List::Namespaces))
    }
}

impl Kind for Peers {
    type Object = PodObject;
    type Update = Update;
    const NAME: &'static str = "pods of all nodes";
    const REFUSED: &'static str = REFUSED;

    fn put(&mut self, object: PodObject) -> Option<(Arc<str>, Update)> {
        let pod = Arc::new(object.into_facts()?);
        Some((pod.key.clone(), Update::Changed(Event::Peer(pod))))
    }

    fn gone(&mut self, key: Arc<str>) -> Update {
        Update::Changed(Event::PeerGone(key))
    }

    fn synced(&mut self) -> Update {
        Update::Known(List::Peers)
    }

    fn refused(&mut self) -> Option<Update> {
        Some(Update::Refused(List::Peers))
    }
}

/// Follows the policies.
pub(super) async fn policies(api: ApiHandle, updates: mpsc::Sender<Update>) {
    Follower::new(Policies, Some(updates)).run(api, watcher::Config::default()).await;
}

/// Follows the namespaces, once they are wanted.
pub(super) async fn namespaces(api: ApiHandle, wanted: watch::Receiver<bool>, updates: mpsc::Sender<Update>) {
    once(wanted, Box::pin(Follower::new(Namespaces, Some(updates)).run(api, watcher::Config::default()))).await;
}

/// Follows the pods, once they are wanted.
pub(super) async fn peers(api: ApiHandle, wanted: watch::Receiver<bool>, updates: mpsc::Sender<Update>) {
    once(wanted, Box::pin(Follower::new(Peers, Some(updates)).run(api, watcher::Config::default().fields(ALIVE)))).await;
}
