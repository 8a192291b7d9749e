//! `kube-pet gateway`: the hub that joins pets and the cluster's network. Every pet is a peer; packets are forwarded between them and what
//! the machine has routes to.
//!
//! All gateways are set up the same and hear from all pets. The one that holds the Lease is active: it says so in its PetGateway, and
//! pets send to it; it tells in the Pets' status what it sees of them. A gateway that is not active any more goes on carrying what
//! it is sent.

mod counters;
mod desired;
mod keeper;
mod report;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource};
use kube_pet_api::{Endpoint, GATEWAY_LEASE, Pet, PetGateway, PetGatewaySpec, PetNetwork};
use kube_pet_tunnel::{KeyError, Mode, PrivateKey, Status, relay};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lease::{Elector, Timing};
use crate::probes::{self, Probed, ProbesError};
use keeper::{Seen, Watched};
use report::Reporter;

/// How often the interface is looked at.
const TICK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(2);
/// How long changes are gathered before the interface is changed.
const BURST: Duration = Duration::from_millis(50);
/// Whoever writes a gateway's own objects.
const MANAGER: &str = "kube-pet-gateway";
/// An interface that was not looked at for so long is not looked after.
const SILENCE: Duration = Duration::from_secs(30);

/// Another gateway carries the traffic within 10 s: it waits for the Lease's end, tries every second, and says so.
pub const TIMING: Timing = Timing { duration: Duration::from_secs(5), deadline: Duration::from_secs(3), retry: Duration::from_secs(1) };

/// What may be decided about a gateway.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of its PetGateway.
    pub name: String,
    /// Where the Lease is.
    pub namespace: String,
    /// Where pets reach it, best first.
    pub endpoints: Vec<Endpoint>,
    /// Its own addresses in the tunnel, if it is to have any.
    pub tunnel_addresses: Vec<IpAddr>,
    /// The UDP port.
    pub listen_port: u16,
    /// Where pets reach it over TCP, where UDP does not get through; and where it listens for them.
    pub relay: Option<(Endpoint, SocketAddr)>,
    /// The file of its private key, which is made if it is not there.
    pub key: PathBuf,
    /// The name of its link, and of its table of nf_tables.
    pub link: String,
    /// Who does WireGuard's work.
    pub mode: Mode,
    /// Whether pets' packets leave for the cluster with the gateway's own address.
    pub masquerade: bool,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub probes: SocketAddr,
    /// How fast another gateway takes over.
    pub timing: Timing,
}

/// Why the gateway ends.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// Probes.
    #[error(transparent)]
    Probes(#[from] ProbesError),
    /// The relay's port.
    #[error("listening on {address} for pets without UDP")]
    Relay {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The key.
    #[error("the gateway's key")]
    Key(#[from] KeyError),
    /// A task that runs for ever has ended.
    #[error("the task {task:?} has ended")]
    Ended {
        /// Its name.
        task: &'static str,
    },
}

/// What the API server has.
#[derive(Clone)]
struct Objects {
    pets: Store<Pet>,
    networks: Store<PetNetwork>,
    gateways: Store<PetGateway>,
    changed: watch::Receiver<()>,
}

struct State {
    active: AtomicBool,
    seen: watch::Receiver<Option<Seen>>,
}

impl Probed for State {
    fn healthy(&self) -> Result<(), String> {
        match &*self.seen.borrow() {
            Some(seen) if seen.at.elapsed() > SILENCE => {
                Err(format!("the tunnel was not looked after for {} s", seen.at.elapsed().as_secs()))
            }
            _ => Ok(()),
        }
    }
    /// One that stands by is ready, too: it is to be sent to at any time.
    fn ready(&self) -> Result<(), String> {
        match &*self.seen.borrow() {
            Some(seen) => seen.trouble.clone().map_or(Ok(()), Err),
            None => Err("the tunnel is not up yet".to_owned()),
        }
    }
    fn metrics(&self) -> String {
        counters::all(self.active.load(Ordering::Relaxed), self.seen.borrow().as_ref())
    }
}

/// Runs until `shutdown`. The interface goes with this process, if the process runs it.
///
/// # Errors
/// When it cannot start, or a part of it has ended: both are for the supervisor.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) -> Result<(), GatewayError> {
    let key = PrivateKey::load_or_create(&options.key)?;
    let (tell, seen) = watch::channel(None);
    let state = Arc::new(State { active: AtomicBool::new(false), seen: seen.clone() });
    let listener = probes::listen(options.probes).await?;
    info!(address = %options.probes, gateway = options.name, public_key = %key.public(), "probes and metrics");
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let probed = state.clone();
    tasks.spawn(async move {
        probes::serve(listener, probed).await;
        "probes"
    });

    if let Some((_, address)) = options.relay {
        let listener = TcpListener::bind(address).await.map_err(|source| GatewayError::Relay { address, source })?;
        info!(%address, "pets without UDP are taken over TCP");
        let port = options.listen_port;
        let (told, count) = watch::channel(0);
        tasks.spawn(async move {
            tokio::join!(relay::serve(listener, port, relay::Limits::default(), told), counters::count_relayed(count));
            "the relay"
        });
    }

    let objects = follow_all(&mut tasks, &client);
    tasks.spawn(announce(client.clone(), options.clone(), key.public().to_string(), objects.clone()));
    tasks.spawn(forward(options.clone(), key, objects.clone(), tell));
    tasks.spawn(lead(client, options, state, objects, seen, shutdown.clone()));

    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => Err(GatewayError::Ended { task: ended.unwrap_or("a task that panicked") }),
    };
    if ended.is_ok() {
        // The Lease is given back meanwhile, and the other gateway need not wait for its end. Nothing else ends by itself.
        let _ = tokio::time::timeout(RETRY, tasks.join_next()).await;
    }
    tasks.shutdown().await;
    ended
}

fn follow_all(tasks: &mut JoinSet<&'static str>, client: &Client) -> Objects {
    let (tell, changed) = watch::channel(());
    Objects {
        pets: follow(tasks, client, &tell, "the watch of Pets"),
        networks: follow(tasks, client, &tell, "the watch of PetNetworks"),
        gateways: follow(tasks, client, &tell, "the watch of PetGateways"),
        changed,
    }
}

fn follow<K>(tasks: &mut JoinSet<&'static str>, client: &Client, changed: &watch::Sender<()>, name: &'static str) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff().reflect(writer);
    let changed = changed.clone();
    tasks.spawn(async move {
        let mut stream = std::pin::pin!(stream);
        let mut failing = false;
        while let Some(event) = stream.next().await {
            match event {
                Ok(_) => {
                    failing = false;
                    changed.send_replace(());
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(error = &error as &dyn std::error::Error, "{name} failed; retrying");
                    }
                }
            }
        }
        name
    });
    store
}

/// Keeps the interface what it should be.
async fn forward(options: Options, key: PrivateKey, objects: Objects, tell: watch::Sender<Option<Seen>>) -> &'static str {
    // What is not known yet must not look as if it were gone: peers that an earlier process has left stay.
    let _ = tokio::join!(objects.pets.wait_until_ready(), objects.networks.wait_until_ready());
    let mut keeper = Watched::new(&options, key);
    let mut changed = objects.changed.clone();
    let (mut status, nothing) = (None::<Arc<Status>>, BTreeMap::new());
    // A thousand Pets are read again where one has changed, and not every second.
    let (mut wanted, mut exchanges) = (None, false);
    loop {
        if wanted.is_none() {
            changed.mark_unchanged();
            let networks = objects.networks.state();
            let network = networks.iter().find(|network| network.metadata.name.as_deref() == Some(kube_pet_api::NETWORK));
            let (pets, peers) = (objects.pets.state(), status.as_ref().map_or(&nothing, |status| &status.peers));
            exchanges = pets.iter().any(|pet| desired::is_changing_its_key(pet));
            wanted = network.and_then(|network| desired::desired(&options, &network.spec, &pets, peers)).map(Arc::new);
        }
        let Some(desired) = wanted.clone() else {
            warn!("there is no PetNetwork default: the gateway has nothing to do yet");
            let _ = tokio::time::timeout(Duration::from_secs(30), changed.changed()).await;
            continue;
        };
        let Some((kept, seen)) = keeper.keep(desired).await else { return "the tunnel" };
        keeper = kept;
        status.clone_from(&seen.status);
        tell.send_replace(Some(seen));
        let news = tokio::time::timeout(TICK, changed.changed()).await.is_ok();
        if news {
            // Each report on a pet is a change, too: those on a thousand are a few looks.
            tokio::time::sleep(BURST).await;
        }
        if news || exchanges {
            wanted = None;
        }
    }
}

/// The gateway's own PetGateway, kept saying what is true.
async fn announce(client: Client, options: Options, public_key: String, objects: Objects) -> &'static str {
    let api: Api<PetGateway> = Api::all(client);
    let spec = PetGatewaySpec {
        public_key,
        endpoints: options.endpoints.clone(),
        relay: options.relay.as_ref().map(|(endpoint, _)| endpoint.clone()),
        tunnel_addresses: options.tunnel_addresses.iter().map(ToString::to_string).collect(),
    };
    let _ = objects.gateways.wait_until_ready().await;
    let mut changed = objects.changed.clone();
    loop {
        changed.mark_unchanged();
        let found = objects.gateways.state().into_iter().find(|gateway| gateway.metadata.name.as_deref() == Some(&options.name));
        let done = match found {
            Some(found) if found.spec == spec => Ok(()),
            Some(_) => api.patch(&options.name, &PatchParams::default(), &Patch::Merge(whole(&spec))).await.map(drop),
            None => {
                let metadata = ObjectMeta { name: Some(options.name.clone()), ..ObjectMeta::default() };
                let gateway = PetGateway { metadata, spec: spec.clone(), status: None };
                match api.create(&PostParams::default(), &gateway).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                    done => done.map(drop),
                }
            }
        };
        let pause = match done {
            Ok(()) => Duration::from_secs(30),
            Err(error) => {
                warn!(gateway = options.name, error = &error as &dyn std::error::Error, "the PetGateway is not written; retrying");
                RETRY
            }
        };
        let _ = tokio::time::timeout(pause, changed.changed()).await;
        // A burst of changes is one look.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A patch that takes back what is not there any more, too.
fn whole(spec: &PetGatewaySpec) -> Value {
    let mut spec = json!(spec);
    if let Some(fields) = spec.as_object_mut() {
        for field in ["relay", "tunnelAddresses"] {
            fields.entry(field).or_insert(Value::Null);
        }
    }
    json!({ "spec": spec })
}

/// Takes part in the election; whoever is elected tells pets and reports on them.
async fn lead(
    client: Client,
    options: Options,
    state: Arc<State>,
    objects: Objects,
    seen: watch::Receiver<Option<Seen>>,
    shutdown: CancellationToken,
) -> &'static str {
    let elector = Elector::new(client.clone(), &options.namespace, GATEWAY_LEASE, &options.name, options.timing);
    let reporter = Reporter::new(client, options.name.clone(), objects);
    // One that cannot carry anything yet must not be elected.
    let mut up = seen.clone();
    if up.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.trouble.is_none())).await.is_err() {
        return "the tunnel";
    }
    loop {
        let standing_by = reporter.stand_by(seen.clone());
        let mut leadership = tokio::select! {
            leadership = elector.acquire() => leadership,
            () = standing_by => return "standing by",
            () = shutdown.cancelled() => return "standing by",
        };
        state.active.store(true, Ordering::Relaxed);
        info!(gateway = options.name, "this gateway is active");
        let over = tokio::select! {
            error = leadership.keep() => Some(error),
            () = shutdown.cancelled() => None,
            () = reporter.lead(seen.clone()) => return "reports",
        };
        state.active.store(false, Ordering::Relaxed);
        let Some(error) = over else {
            leadership.release().await;
            return "leadership";
        };
        warn!(gateway = options.name, error = &error as &dyn std::error::Error, "this gateway is not active any more");
    }
}
