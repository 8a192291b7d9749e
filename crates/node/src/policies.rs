//! The cluster's NetworkPolicies on this node.
//!
//! ```text
//! API server ─ watch.rs ─► enforcer.rs  core::policies::Compiler ─► table.rs, the kernel's rules
//! pods ─ guard.rs ───────►     └─► record.rs   which pods were isolated, for a start without the API server
//!   └ residents.rs ──────►
//! ```
//! Pods and namespaces of the cluster are followed only once a policy asks for them, and there is no table as long as nobody is isolated:
//! a cluster without policies costs one watch of nothing.

mod enforcer;
mod guard;
mod objects;
mod record;
mod residents;
mod table;
mod watch;

use std::pin::Pin;

use kube_pet_core::ids::PodUid;
use tokio::sync::mpsc;
use tracing::warn;

pub use guard::{PolicyError, PolicyGuard};

use crate::api::ApiHandle;
use crate::kernel_tables::{OwnChanges, blocking};
use crate::paths::Paths;
use crate::pods::store::PodStore;
use crate::sandboxes::SandboxManager;
use enforcer::{Enforcer, Parts};
use record::Record;
use residents::NodePods;
use table::{Kernel as _, NfTables};

/// Updates that wait: a list is not read faster than it is worked on.
const QUEUE: usize = 256;

/// A task.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Of NetworkPolicies, what the rest of the agent uses, and the tasks behind it.
pub struct Policies {
    /// For pods that start.
    pub guard: PolicyGuard,
    /// Named; to be run once the node has an identity.
    pub watches: Vec<(&'static str, Task)>,
    /// To be run at once.
    pub enforcer: Task,
}

/// What it is made of.
pub struct PoliciesOptions {
    /// The cluster, if there is one.
    pub api: Option<ApiHandle>,
    /// Whether policies are enforced.
    pub enabled: bool,
    /// How the names of the node's ends of pods' links begin, and the table's.
    pub link_prefix: String,
    /// Folders.
    pub paths: Paths,
    /// This node's sandboxes.
    pub sandboxes: SandboxManager,
    /// This node's pods.
    pub pods: PodStore,
    /// Pods that an earlier run has left a sandbox of.
    pub recovered: Vec<PodUid>,
    /// Shared by all tables of the agent's.
    pub own_changes: OwnChanges,
}

impl Policies {
    /// Nothing runs yet.
    pub fn new(options: PoliciesOptions) -> Self {
        let PoliciesOptions { api, enabled, link_prefix, paths, sandboxes, pods, recovered, own_changes } = options;
        let kernel = NfTables::new(&link_prefix, own_changes);
        let Some(api) = api.filter(|_| enabled) else {
            return Self { guard: PolicyGuard::open(), watches: Vec::new(), enforcer: Box::pin(idle(kernel)) };
        };
        let (updates_tx, updates) = mpsc::channel(QUEUE);
        let (guard, commands) = PolicyGuard::channel();
        let (peers_wanted, wanted) = tokio::sync::watch::channel(false);
        let watches: Vec<(&'static str, Task)> = vec![
            ("the watch of network policies", Box::pin(watch::policies(api.clone(), updates_tx.clone()))),
            ("the watch of namespaces", Box::pin(watch::namespaces(api.clone(), wanted.clone(), updates_tx.clone()))),
            ("the watch of peers", Box::pin(watch::peers(api, wanted, updates_tx))),
        ];
        let record = Record::read(&paths);
        let residents = NodePods::new(sandboxes, pods, paths, &recovered, &record);
        let enforcer = Enforcer::new(Parts { kernel, residents, record, updates, commands, peers_wanted, recovered });
        Self { guard, watches, enforcer: Box::pin(enforcer.run()) }
    }
}

/// An earlier run has enforced policies, this one does not.
async fn idle(kernel: NfTables) {
    if let Err(error) = blocking(move || kernel.remove()).await {
        warn!(error = &error as &dyn std::error::Error, "what an earlier run has programmed for NetworkPolicies is not taken away");
    }
    std::future::pending().await
}
