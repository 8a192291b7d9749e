//! The cluster's Services on this node: their environment variables, and the way to their endpoints.
//!
//! ```text
//! API server ─ watch.rs ─┬─► reader.rs   environment variables
//!                        └─► proxy.rs ─► programmer.rs  core::services::Compiler ─► table.rs, the kernel's rules
//! sandboxes ─ host_ports.rs ─►  └─► health_checks.rs    node ports that load balancers ask
//!                                └─► status.rs           kube-proxy's own ports
//! ```

mod health_checks;
mod host_ports;
mod last;
mod objects;
mod programmer;
mod proxy;
mod reader;
mod status;
mod table;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use kube_pet_core::node::NodeInfo;
use tokio::sync::{mpsc, watch as tokio_watch};
use tracing::warn;

pub use host_ports::{HostPortError, HostPortRequests, HostPorts};
pub use reader::ServiceReader;
pub use table::{KernelTable, Networks, Table, TableOptions};

use crate::api::ApiHandle;
use crate::config::ServiceProxySettings;
use crate::kernel_tables::{OwnChanges, blocking};
use crate::masquerade::Masquerade;
use crate::paths::Paths;
use last::LastServices;
use programmer::Open;
use proxy::{Parts, Proxy};
use status::ProxyStatus;

/// Updates that wait: a list is not read faster than it is worked on.
const QUEUE: usize = 256;

/// A task.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Of Services, what the rest of the agent uses, and the tasks behind it.
pub struct Services {
    /// For environment variables.
    pub reader: ServiceReader,
    /// Named; to be run once the node has an identity.
    pub watches: Vec<(&'static str, Task)>,
    /// To be run at once, after the host ports of an earlier run have been adopted.
    pub proxy: Task,
}

/// What it is made of.
pub struct ServicesOptions {
    /// The cluster, if there is one.
    pub api: Option<ApiHandle>,
    /// Whether Services are served, and where it is told how that goes.
    pub proxy: ServiceProxySettings,
    /// The node's name.
    pub node_name: String,
    /// Its networks for pods, and its labels, which name its zone.
    pub node: tokio_watch::Receiver<Arc<NodeInfo>>,
    /// What sandboxes ask for.
    pub host_ports: HostPortRequests,
    /// How the names of the node's ends of pods' links begin. Agents that share a network namespace have different ones, and so
    /// have their tables.
    pub link_prefix: String,
    /// What pods go to with their own addresses.
    pub masquerade: Masquerade,
    /// Shared by all tables of the agent's.
    pub own_changes: OwnChanges,
    /// Where it is kept what pods were told of Services.
    pub paths: Paths,
}

impl Services {
    /// Nothing runs yet.
    pub fn new(options: ServicesOptions) -> Self {
        let ServicesOptions { api, proxy, node_name, node, host_ports, link_prefix, masquerade, own_changes, paths } = options;
        let ServiceProxySettings { enabled: proxy, healthz_bind_address, metrics_bind_address } = proxy;
        let (updates_tx, updates) = mpsc::channel(QUEUE);
        let mut watches: Vec<(&'static str, Task)> = Vec::new();
        let mut services: Option<Open<KernelTable>> = None;
        let table = TableOptions {
            name: format!("{link_prefix}-services"),
            link_prefix: link_prefix.clone(),
            changes: own_changes.clone(),
            ..TableOptions::default()
        };
        let reader = match api {
            None => ServiceReader::none(),
            Some(api) => {
                let (writer, reader) = reader::store(Some(LastServices::new(paths)));
                watches.push(("services", Box::pin(watch::services(api.clone(), writer, proxy.then(|| updates_tx.clone())))));
                if proxy {
                    services = Some(opener(table.clone()));
                    watches.push(("endpoint slices", Box::pin(watch::slices(api, node_name, updates_tx))));
                }
                reader
            }
        };
        let serving = services.is_some();
        let retired = (!serving).then_some(table);
        let pods = opener(TableOptions {
            name: format!("{link_prefix}-pods"),
            link_prefix,
            // As with other runtimes; node ports of Services are not on the loopback, as with kube-proxy's nftables mode.
            loopback: true,
            // A Service's node port comes before a pod's host port with the same number, whichever is first.
            rank: 1,
            changes: own_changes,
            ..TableOptions::default()
        });
        let status = ProxyStatus::default();
        let told = status::serve(healthz_bind_address, metrics_bind_address, status.clone(), node.clone());
        let proxy = Proxy::new(Parts { services, host_ports: pods, updates, commands: host_ports.0, node, masquerade, status });
        let run = async move {
            if let Some(table) = retired {
                retire(table).await;
            }
            if serving && let Err(error) = kube_pet_net::services::set_timeouts() {
                warn!(%error, "the kernel's time-outs for connections stay as they are: half-closed ones through Services may end early");
            }
            if serving {
                tokio::join!(proxy.run(), told);
            } else {
                proxy.run().await;
            }
        };
        Self { reader, watches, proxy: Box::pin(run) }
    }
}

/// An earlier run has served Services, this one does not.
async fn retire(table: TableOptions) {
    if let Err(error) = blocking(move || KernelTable::remove(&table)).await {
        warn!(error = &error as &dyn std::error::Error, "what an earlier run has programmed for Services is not taken away");
    }
}

/// Opens the table for the networks as they are then.
fn opener(table: TableOptions) -> Open<KernelTable> {
    Arc::new(move |networks| KernelTable::open(&TableOptions { networks: networks.clone(), ..table.clone() }))
}
