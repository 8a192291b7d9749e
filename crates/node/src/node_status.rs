//! The Node: registered, described by real measurements, kept alive by its lease, and made again when somebody deletes it.
//!
//! Nothing here needs the API server to be there: what the rest of the agent has to know of its node comes from the machine
//! and from what was last known of the Node object.

mod addresses;
mod call;
mod conditions;
mod lease;
mod machine;
mod memory;
mod object;
mod observation;
mod patch;
mod pressure;
mod reporter;
mod resources;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ContainerImage, Node};
use kube_pet_core::node::NodeInfo;
use tokio::sync::watch;
use tracing::debug;

use crate::api::ApiHandle;
use crate::config::NodeConfiguration;
use crate::events::EventRecorder;
use crate::images::ImageManager;
use crate::paths::Paths;
use crate::podman_service::RuntimeHealth;
use crate::pods::store::PodStore;
use crate::tunnel::Allocation;
use machine::Places;
use pressure::Observer;
use reporter::Reporter;

pub use pressure::Gauge;

/// How often the images are listed: the status follows a pull by this much at most.
const IMAGES_EVERY: Duration = Duration::from_secs(60);

/// Tells why the sandboxes do not use the Node's pod network, if they do not.
pub type CidrConflict = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What the node's status depends on.
pub struct NodeManagerOptions {
    /// Settings.
    pub config: NodeConfiguration,
    /// Folders.
    pub paths: Paths,
    /// `status.nodeInfo.kubeletVersion`
    pub build_version: String,
    /// The API server, if there is one.
    pub api: Option<ApiHandle>,
    /// Podman's health.
    pub podman: watch::Receiver<RuntimeHealth>,
    /// The node's pods.
    pub pods: PodStore,
    /// The images.
    pub images: ImageManager,
    /// Refused changes of the pod network.
    pub cidr_conflict: CidrConflict,
    /// Events about the Node.
    pub events: EventRecorder,
    /// Whether the machine is being shut down.
    pub shutdown: watch::Receiver<bool>,
    /// What the cluster has given, where there is a tunnel.
    pub tunnel: watch::Receiver<Option<Allocation>>,
    /// Pods with user namespaces can be run.
    pub user_namespaces: bool,
}

/// What is known of the Node object.
#[derive(Clone, Debug, Default)]
enum Known {
    /// Nothing yet.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// This.
    Present(Arc<Node>),
}

impl Known {
    fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Self::Present(node) => Some(node),
            Self::Unknown | Self::Absent => None,
        }
    }

    fn uid(&self) -> Option<String> {
        self.node()?.metadata.uid.clone()
    }
}

type ImageLister = Arc<dyn Fn() -> BoxFuture<'static, Option<Vec<ContainerImage>>> + Send + Sync>;

/// Keeps the Node object and what the agent knows of it.
pub struct NodeManager {
    reporter: Reporter,
    observer: Observer,
    api: Option<ApiHandle>,
    config: NodeConfiguration,
    known: watch::Sender<Known>,
    external: watch::Sender<Vec<IpAddr>>,
    images: watch::Sender<Option<Vec<ContainerImage>>>,
    list_images: ImageLister,
    podman: watch::Receiver<RuntimeHealth>,
}

impl NodeManager {
    /// The manager, and what the agent is to know of its node. The first value is complete as far as the machine and the
    /// last run tell; it never waits for the API server.
    pub fn new(options: NodeManagerOptions) -> (Self, watch::Receiver<Arc<NodeInfo>>) {
        let (images, max) = (options.images.clone(), options.config.node_status_max_images);
        let list: ImageLister = Arc::new(move || {
            let images = images.clone();
            Box::pin(async move {
                let listed = images.list_for_node_status(max).await;
                listed.inspect_err(|error| debug!(%error, "the images cannot be listed; the Node keeps the last list")).ok()
            })
        });
        Self::with_images(options.into(), list)
    }

    fn with_images(inputs: Inputs, list_images: ImageLister) -> (Self, watch::Receiver<Arc<NodeInfo>>) {
        let (known, _) = watch::channel(Known::default());
        let (external, _) = watch::channel(Vec::new());
        let (images, _) = watch::channel(None);
        let (api, config, podman) = (inputs.api.clone(), inputs.config.clone(), inputs.podman.clone());
        let observer = Observer::new(&config, Places { state: inputs.paths.state_dir(), store: config.podman.store() });
        let sources = reporter::Sources { external: external.subscribe(), images: images.subscribe(), pressures: observer.conditions() };
        let (reporter, info) = Reporter::new(inputs, known.clone(), sources);
        (Self { reporter, observer, api, config, known, external, images, list_images, podman }, info)
    }

    /// What the node is short of.
    pub fn gauge(&self) -> Gauge {
        self.observer.gauge()
    }

    /// Runs until dropped.
    pub async fn run(self) {
        let Self { reporter, observer, api, config, known, external, images, list_images, podman } = self;
        let cluster = async {
            match api {
                Some(api) => {
                    let watch = observation::keep(api.clone(), config.node_name.clone(), known.clone());
                    let heartbeat = lease::keep(api, config.node_name.clone(), config.node_lease_duration_seconds, known.subscribe());
                    tokio::join!(Box::pin(watch), Box::pin(heartbeat));
                }
                None => std::future::pending().await,
            }
        };
        let external = addresses::keep_external(config.external_ip_sources.clone(), external);
        let images = keep_images(list_images, podman, images);
        tokio::join!(Box::pin(cluster), Box::pin(external), Box::pin(images), Box::pin(observer.run()), Box::pin(reporter.run()));
    }
}

async fn keep_images(list: ImageLister, mut podman: watch::Receiver<RuntimeHealth>, images: watch::Sender<Option<Vec<ContainerImage>>>) {
    loop {
        if podman.wait_for(|health| health.ready).await.is_err() {
            return std::future::pending().await;
        }
        if let Some(listed) = list().await {
            images.send_if_modified(|old| {
                let changed = old.as_ref() != Some(&listed);
                *old = Some(listed);
                changed
            });
        }
        tokio::time::sleep(IMAGES_EVERY).await;
    }
}

/// [`NodeManagerOptions`] without the images.
struct Inputs {
    config: NodeConfiguration,
    paths: Paths,
    build_version: String,
    api: Option<ApiHandle>,
    podman: watch::Receiver<RuntimeHealth>,
    pods: PodStore,
    cidr_conflict: CidrConflict,
    events: EventRecorder,
    shutdown: watch::Receiver<bool>,
    tunnel: watch::Receiver<Option<Allocation>>,
    user_namespaces: bool,
}

impl From<NodeManagerOptions> for Inputs {
    fn from(options: NodeManagerOptions) -> Self {
        let NodeManagerOptions {
            config,
            paths,
            build_version,
            api,
            podman,
            pods,
            images: _,
            cidr_conflict,
            events,
            shutdown,
            tunnel,
            user_namespaces,
        } = options;
        Self { config, paths, build_version, api, podman, pods, cidr_conflict, events, shutdown, tunnel, user_namespaces }
    }
}

#[cfg(test)]
mod tests;
