//! `kube-pet controller`: gives pets their addresses, pod CIDRs and their role, approves their serving certificates, and cleans up
//! after those that are gone.
//!
//! One of several replicas works, by a Lease; that nothing is given twice does not depend on it (`claims.rs`).

mod allocation;
pub mod certificates;
mod claims;
pub mod counters;
mod gateways;
mod pets;
pub mod ranges;
mod sweep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::controller::{Action, Config, Error as RunError};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use kube::{Api, Client};
use kube_pet_api::{Pet, PetAllocation, PetGateway, PetNetwork};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::lease::{Elector, LeaseError, Timing};
use crate::probes::{self, Probed, ProbesError};
use certificates::Approver;
use certificates::check::SERVING_SIGNER;
use claims::Claims;
use pets::Context;
use ranges::Range;
use sweep::Sweeper;

/// The Lease whose holder is the controller that works.
pub const LEASE: &str = "kube-pet-controller";
/// Pets that are worked on at a time.
const CONCURRENCY: u16 = 16;
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What may be decided about a controller.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the Lease is.
    pub namespace: String,
    /// Unique among the replicas.
    pub identity: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub probes: SocketAddr,
    /// Ranges in which a node's word for its own address is taken, for serving certificates.
    pub believed: Vec<Range>,
    /// How fast another replica takes over.
    pub timing: Timing,
}

/// Why the controller ends.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// Probes.
    #[error(transparent)]
    Probes(#[from] ProbesError),
    /// It is not the leader any more.
    #[error("leadership is over")]
    Lease(#[from] LeaseError),
    /// A task that runs for ever has ended.
    #[error("the task {task:?} has ended")]
    Ended {
        /// Its name.
        task: &'static str,
    },
}

#[derive(Debug, Default)]
struct State {
    leading: AtomicBool,
}

impl Probed for State {
    /// A process that has lost its Lease ends by itself; one that answers is healthy.
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }
    /// A replica that stands by is as ready as it is to be.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn metrics(&self) -> String {
        counters::LEADING.set(&[], f64::from(u8::from(self.leading.load(Ordering::Relaxed))));
        counters::all()
    }
}

/// Runs until `shutdown`, or until leadership is lost: then the process must end.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) -> Result<(), ControllerError> {
    let Options { namespace, identity, probes, believed, timing } = options;
    let state = Arc::new(State::default());
    let listener = probes::listen(probes).await?;
    info!(address = %probes, "probes and metrics");
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let probed = state.clone();
    tasks.spawn(async move {
        probes::serve(listener, probed).await;
        "probes"
    });

    let elector = Elector::new(client.clone(), &namespace, LEASE, &identity, timing);
    let Some(mut leadership) = shutdown.run_until_cancelled(elector.acquire()).await else {
        return Ok(());
    };
    state.leading.store(true, Ordering::Relaxed);
    start(&mut tasks, &client, believed);

    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = leadership.keep() => Err(error.into()),
        Some(ended) = tasks.join_next() => Err(ControllerError::Ended { task: ended.unwrap_or("a task that panicked") }),
    };
    tasks.shutdown().await;
    if ended.is_ok() {
        leadership.release().await;
    }
    ended
}

/// The tasks of the leader.
fn start(tasks: &mut JoinSet<&'static str>, client: &Client, believed: Vec<Range>) {
    let claims = Claims::new(client.clone());
    // What changes of networks, nodes and allocations makes pets be looked at again.
    let (networks, network_changes) = follow::<PetNetwork>(client, |_| {});
    let (nodes, node_changes) = follow::<Node>(client, slim);
    let (allocations, allocation_changes) = follow::<PetAllocation>(client, |_| {});
    let gateway_controller = Controller::new(Api::<PetGateway>::all(client.clone()), watcher::Config::default());
    let gateways = gateway_controller.store();

    let controller = Controller::new(Api::<Pet>::all(client.clone()), watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY));
    let pets = controller.store();
    let context = Context {
        client: client.clone(),
        claims: claims.clone(),
        networks: networks.clone(),
        allocations: allocations.clone(),
        gateways: gateways.clone(),
        nodes: nodes.clone(),
    };
    let synced = (networks.clone(), nodes.clone(), allocations.clone(), gateways.clone());
    // One that somebody has deleted is claimed again; of those that it makes itself the controller knows.
    let known = allocations.clone();
    let run = controller
        .reconcile_all_on(network_changes.filter_map(|change| async move { change.ok().map(drop) }))
        .reconcile_on(node_changes.filter_map(|change| async move { Some(ObjectRef::new(change.ok()?.metadata.name.as_deref()?)) }))
        .reconcile_on(allocation_changes.filter_map(move |change| {
            let gone = change.ok().filter(|allocation| known.get(&ObjectRef::from_obj(allocation)).is_none());
            std::future::ready(gone.map(|allocation| ObjectRef::new(&allocation.spec.owner)))
        }))
        .run(
            // Before all lists are complete, pets would be told that there is no network, and search among what is taken.
            move |pet, context| {
                let (networks, nodes, allocations, gateways) = synced.clone();
                async move {
                    tokio::join!(complete(&networks), complete(&nodes), complete(&allocations), complete(&gateways));
                    pets::reconcile(pet, context).await
                }
            },
            pets::retry,
            Arc::new(context),
        );
    spawn(tasks, "pets", run);

    let keys = gateways::Context { client: client.clone(), claims: claims.clone() };
    let run = gateway_controller.run(gateways::reconcile, gateways::retry, Arc::new(keys));
    spawn(tasks, "gateways", run);

    let approver = Approver { client: client.clone(), believed };
    let requests = watcher::Config::default().fields(&format!("spec.signerName={SERVING_SIGNER}"));
    let run = Controller::new(Api::<CertificateSigningRequest>::all(client.clone()), requests).run(
        certificates::reconcile,
        certificates::retry,
        Arc::new(approver),
    );
    spawn(tasks, "serving certificates", run);

    let sweeper = Sweeper { client: client.clone(), claims, networks, pets, gateways, allocations };
    tasks.spawn(async move {
        // What is not known yet must not look as if it were gone.
        tokio::join!(complete(&sweeper.pets), complete(&sweeper.gateways), complete(&sweeper.allocations));
        sweeper.run().await;
        "cleaning up"
    });
}

/// A Node without what the controller does not read: there may be thousands.
fn slim(node: &mut Node) {
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.conditions = None;
    }
}

/// All objects of a kind, and what changes of them, deletions too.
fn follow<K>(
    client: &Client,
    modify: impl Fn(&mut K) + Send + Sync + 'static,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let changes = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .modify(modify)
        .reflect(writer)
        .touched_objects();
    (store, changes)
}

/// Waits for the first complete list. Asked again and again: kube 5 keeps the waker of one waiter only, and forgets all others.
async fn complete<K>(store: &Store<K>)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    while tokio::time::timeout(ASK_AGAIN, store.wait_until_ready()).await.is_err() {}
}

type Ran<K, E> = Result<(ObjectRef<K>, Action), RunError<E, watcher::Error>>;

fn spawn<K, E>(tasks: &mut JoinSet<&'static str>, name: &'static str, run: impl Stream<Item = Ran<K, E>> + Send + 'static)
where
    K: kube::Resource<DynamicType = ()> + 'static,
    E: std::error::Error + 'static,
{
    tasks.spawn(async move {
        let mut run = std::pin::pin!(run);
        let mut told = false;
        while let Some(passed) = run.next().await {
            match passed {
                Ok(_) => told = false,
                // What failed in a pass has been told where it is retried; what is left is the watch.
                Err(RunError::QueueError(error)) if !told => {
                    told = true;
                    warn!(task = name, error = &error as &dyn std::error::Error, "a watch failed; retrying");
                }
                Err(error) => debug!(task = name, error = &error as &dyn std::error::Error, "a pass failed"),
            }
        }
        name
    });
}
