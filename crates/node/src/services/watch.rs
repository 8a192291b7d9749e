//! What the API server tells: Services and EndpointSlices of the whole cluster.

use std::sync::Arc;

use jiff::Timestamp;
use kube::runtime::watcher;
use kube_pet_core::services::Event;
use tokio::sync::mpsc;

use super::objects::{ServiceObject, SliceObject};
use super::reader::ServiceWriter;
use crate::api::ApiHandle;
use crate::follower::{Follower, Kind};

/// Slices of headless Services are not for proxies: there may be very many, and nobody's address leads to them.
const SLICES: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// What the proxy is told.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// An object has changed, and when the cause of it was, if that is known.
    Changed(Event, Option<Timestamp>),
    /// The list of Services is complete.
    ServicesSynced,
    /// The list of EndpointSlices is complete.
    SlicesSynced,
}

/// Services: for the proxy, and for environment variables.
pub(super) struct Services(pub(super) ServiceWriter);

/// EndpointSlices, as the node of this name sees them.
pub(super) struct Slices(pub(super) String);

impl Kind for Services {
    type Object = ServiceObject;
    type Update = Update;
    const NAME: &'static str = "services";
    const REFUSED: &'static str = "the addresses of Services lead nowhere here: bind the ClusterRole system:node or system:node-proxier";

    fn put(&mut self, object: ServiceObject) -> Option<(Arc<str>, Update)> {
        let service = Arc::new(object.into_facts()?);
        self.0.put(service.clone());
        Some((service.key.clone(), Update::Changed(Event::Service(service), None)))
    }

    fn gone(&mut self, key: Arc<str>) -> Update {
        self.0.remove(&key);
        Update::Changed(Event::ServiceGone(key), None)
    }

    fn synced(&mut self) -> Update {
        self.0.synced();
        Update::ServicesSynced
    }
}

impl Kind for Slices {
    type Object = SliceObject;
    type Update = Update;
    const NAME: &'static str = "endpointslices.discovery.k8s.io";
    const REFUSED: &'static str = "the addresses of Services lead nowhere here: bind the ClusterRole system:node-proxier";

    fn put(&mut self, object: SliceObject) -> Option<(Arc<str>, Update)> {
        let (slice, trigger) = object.into_facts(&self.0)?;
        Some((slice.key.clone(), Update::Changed(Event::Slice(slice), trigger)))
    }

    fn gone(&mut self, key: Arc<str>) -> Update {
        Update::Changed(Event::SliceGone(key), None)
    }

    fn synced(&mut self) -> Update {
        Update::SlicesSynced
    }
}

/// Follows the Services; `updates` is left out where nobody proxies.
pub(super) async fn services(api: ApiHandle, writer: ServiceWriter, updates: Option<mpsc::Sender<Update>>) {
    Follower::new(Services(writer), updates).run(api, watcher::Config::default()).await;
}

/// Follows the EndpointSlices.
pub(super) async fn slices(api: ApiHandle, node: String, updates: mpsc::Sender<Update>) {
    Follower::new(Slices(node), Some(updates)).run(api, watcher::Config::default().labels(SLICES)).await;
}
