//! What Podman has, told to the workers: a complete list now and then (the truth), events and exits in between (hints).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube_pet_core::ids::{ContainerId, PodUid, labels};
use kube_pet_core::pod::Eviction;
use kube_pet_podman::{Client, ContainerSummary};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use crate::instruments;

/// How often everything is listed.
const RELIST_EVERY: Duration = Duration::from_secs(10);

/// Something seen of one pod's containers.
#[derive(Clone, Debug)]
pub enum Sighting {
    /// All of the pod's containers, as of `asked_at` or later.
    All {
        /// When the list was asked for: what the worker did after that is not in it.
        asked_at: Instant,
        /// The containers.
        containers: Vec<ContainerSummary>,
    },
    /// This container may have changed.
    Touched(ContainerId),
    /// The node is short of something, and this pod has to go.
    Evicted(Eviction),
    /// What the pod was given, or why it is given nothing more, has changed.
    Reallocated,
}

/// Where sightings of a pod go. Pods without a worker go to the default, so that orphans are noticed.
#[derive(Clone, Default)]
pub struct Subscribers {
    by_uid: Arc<Mutex<HashMap<PodUid, mpsc::UnboundedSender<Sighting>>>>,
}

impl Subscribers {
    /// Registers a worker.
    pub fn add(&self, uid: PodUid, sender: mpsc::UnboundedSender<Sighting>) {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, sender);
    }
    /// Forgets a worker.
    pub fn remove(&self, uid: &PodUid) {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
    fn send(&self, uid: &PodUid, sighting: Sighting) {
        if let Some(sender) = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).get(uid) {
            let _ = sender.send(sighting);
        }
    }
    /// Whether a worker is registered for this pod.
    pub fn has(&self, uid: &PodUid) -> bool {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid)
    }
    /// The pods that have a worker.
    pub fn uids(&self) -> Vec<PodUid> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
    /// Tells a worker that its pod has to go.
    pub fn evict(&self, uid: &PodUid, eviction: Eviction) {
        self.send(uid, Sighting::Evicted(eviction));
    }
    /// Tells a worker to look at what its pod is given.
    pub fn reallocated(&self, uid: &PodUid) {
        self.send(uid, Sighting::Reallocated);
    }
    /// Tells a worker that one of its containers may have changed.
    pub fn touch(&self, uid: &PodUid, id: ContainerId) {
        self.send(uid, Sighting::Touched(id));
    }
}

/// Pods found in Podman that no worker stands for: UID and the labels of one of their containers.
pub type Orphans = BTreeMap<PodUid, HashMap<String, String>>;

/// The relist loop. Also publishes when it last succeeded, for the health check.
pub struct Inventory {
    podman: Client,
    node_name: String,
    subscribers: Subscribers,
    orphans: mpsc::UnboundedSender<Orphans>,
    now: Arc<Notify>,
    last_success: Arc<Mutex<Option<Instant>>>,
    last_asked: Mutex<Option<Instant>>,
}

/// When the inventory last succeeded.
#[derive(Clone)]
pub struct InventoryHealth(Arc<Mutex<Option<Instant>>>);

impl InventoryHealth {
    /// Time since the last complete list; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}

impl Inventory {
    /// `node_name`: only containers that this agent made are looked at.
    pub fn new(podman: Client, node_name: String, subscribers: Subscribers) -> (Self, mpsc::UnboundedReceiver<Orphans>, InventoryHealth) {
        let (orphans, receiver) = mpsc::unbounded_channel();
        let last_success = Arc::new(Mutex::new(None));
        let health = InventoryHealth(last_success.clone());
        (
            Self { podman, node_name, subscribers, orphans, now: Arc::new(Notify::new()), last_success, last_asked: Mutex::default() },
            receiver,
            health,
        )
    }

    /// Lists and listens until it is dropped.
    pub async fn run(self) {
        let events = self.events();
        let relist = self.relist_forever();
        tokio::join!(events, relist);
    }

    async fn relist_forever(&self) {
        let mut failing = false;
        loop {
            match self.relist().await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        debug!("Podman answers again");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "cannot list containers; running ones are left alone");
                    }
                }
            }
            let pause = if failing { Duration::from_secs(1) } else { RELIST_EVERY };
            let _ = tokio::time::timeout(pause, self.now.notified()).await;
        }
    }

    async fn relist(&self) -> Result<(), kube_pet_podman::Error> {
        let asked_at = Instant::now();
        let before = self.last_asked.lock().unwrap_or_else(PoisonError::into_inner).replace(asked_at);
        if let Some(before) = before {
            instruments::PLEG_RELIST_INTERVAL.observe(&[], asked_at.duration_since(before));
        }
        let all = self.podman.list_containers(&[(labels::NODE, self.node_name.as_str())]).await?;
        *self.last_success.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut by_uid: BTreeMap<PodUid, Vec<ContainerSummary>> = BTreeMap::new();
        for container in all {
            if let Some(uid) = container.labels.get(labels::POD_UID) {
                by_uid.entry(PodUid::new(uid)).or_default().push(container);
            }
        }
        for uid in self.subscribers.uids() {
            let containers = by_uid.remove(&uid).unwrap_or_default();
            self.subscribers.send(&uid, Sighting::All { asked_at, containers });
        }
        let orphans: Orphans =
            by_uid.into_iter().filter_map(|(uid, c)| c.into_iter().next().map(|c| (uid, c.labels.into_iter().collect()))).collect();
        let _ = self.orphans.send(orphans);
        instruments::PLEG_RELIST_DURATION.observe(&[], asked_at.elapsed());
        Ok(())
    }

    /// Podman's events. After each (re)connection everything is listed: what happened in between is not told.
    async fn events(&self) {
        loop {
            match self.podman.events(None).await {
                Ok(stream) => {
                    self.now.notify_one();
                    let mut stream = std::pin::pin!(stream);
                    while let Some(event) = stream.next().await {
                        let Ok(event) = event else { break };
                        if !matters(&event.status) {
                            continue;
                        }
                        if let Some(uid) = event.labels.get(labels::POD_UID)
                            && event.labels.get(labels::NODE).is_some_and(|n| *n == self.node_name)
                        {
                            self.subscribers.touch(&PodUid::new(uid), ContainerId::new(event.id));
                        }
                    }
                    debug!("Podman's event stream ended");
                }
                Err(error) => debug!(%error, "no event stream"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Whether an event says something that the worker does not know yet. What it did itself (`create`, `init`, `start`) it has looked
/// at, and what exec sessions do changes no container. Should somebody else start a container, the next list shows it.
fn matters(status: &str) -> bool {
    !(matches!(status, "create" | "init" | "start" | "attach") || status.starts_with("exec") || status.starts_with("health"))
}
