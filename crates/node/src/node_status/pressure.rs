//! Measures what the node may run short of. Each limit is judged once, here: the Node's conditions, admission and eviction go by it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube_pet_core::eviction::{Level, Levels, Look, Pressure, Signal};
use kube_pet_host::machine::Filesystem;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::warn;

use super::machine::{self, Places, Readings};
use crate::config::NodeConfiguration;

/// The kubelet's `evictionMonitoringPeriod`.
const EVERY: Duration = Duration::from_secs(10);

/// What is measured, for whoever acts on it.
pub struct Gauge {
    looks: watch::Receiver<Arc<Look>>,
    ask: mpsc::Sender<oneshot::Sender<Arc<Look>>>,
}

impl Gauge {
    /// The last look.
    pub fn last(&mut self) -> Arc<Look> {
        self.looks.borrow_and_update().clone()
    }

    /// The next look that is due.
    pub async fn next(&mut self) -> Arc<Look> {
        if self.looks.changed().await.is_err() {
            // The agent ends.
            std::future::pending::<()>().await;
        }
        self.last()
    }

    /// A look at once.
    pub async fn now(&mut self) -> Arc<Look> {
        let (reply, answer) = oneshot::channel();
        match self.ask.send(reply).await {
            Ok(()) => match answer.await {
                Ok(look) => {
                    self.looks.mark_unchanged();
                    look
                }
                Err(_) => std::future::pending().await,
            },
            Err(_) => std::future::pending().await,
        }
    }
}

/// The one who looks.
pub(super) struct Observer {
    places: Places,
    pressure: Pressure,
    began: Instant,
    looks: watch::Sender<Arc<Look>>,
    conditions: watch::Sender<BTreeSet<&'static str>>,
    ask: mpsc::Sender<oneshot::Sender<Arc<Look>>>,
    asked: mpsc::Receiver<oneshot::Sender<Arc<Look>>>,
}

impl Observer {
    /// Has looked once: no part of the agent starts without knowing. Blocking for a moment.
    pub(super) fn new(config: &NodeConfiguration, places: Places) -> Self {
        let mut pressure = Pressure::new(config.eviction_limits(), config.eviction_pressure_transition_period);
        let first = pressure.look(&levels(&machine::read(&places)), Duration::ZERO);
        let (conditions, looks) = (watch::channel(first.conditions.clone()).0, watch::channel(Arc::new(first)).0);
        let (ask, asked) = mpsc::channel(1);
        Self { places, pressure, began: Instant::now(), looks, conditions, ask, asked }
    }

    /// The conditions of pressure that hold; it changes when they do.
    pub(super) fn conditions(&self) -> watch::Receiver<BTreeSet<&'static str>> {
        self.conditions.subscribe()
    }

    pub(super) fn gauge(&self) -> Gauge {
        Gauge { looks: self.looks.subscribe(), ask: self.ask.clone() }
    }

    /// Looks until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(EVERY) => None,
                asked = self.asked.recv() => asked,
            };
            let look = self.look().await;
            if let Some(reply) = asked {
                let _ = reply.send(look);
            }
        }
    }

    async fn look(&mut self) -> Arc<Look> {
        let places = self.places.clone();
        let Ok(readings) = tokio::task::spawn_blocking(move || machine::read(&places)).await else {
            warn!("a reading of the machine broke down");
            return self.looks.borrow().clone();
        };
        let look = Arc::new(self.pressure.look(&levels(&readings), self.began.elapsed()));
        self.conditions.send_if_modified(|old| {
            let changed = *old != look.conditions;
            old.clone_from(&look.conditions);
            changed
        });
        self.looks.send_replace(look.clone());
        look
    }
}

/// What there is of each signal.
pub(super) fn levels(readings: &Readings) -> Levels {
    let space = |disk: Option<Filesystem>| disk.map(|disk| (disk.available, disk.capacity));
    let inodes = |disk: Option<Filesystem>| disk.map(|disk| (disk.inodes_free, disk.inodes));
    let level = |signal: &Signal| {
        let (available, capacity) = match signal {
            Signal::MemoryAvailable => readings.memory.map(|memory| (memory.available, memory.total)),
            Signal::PidAvailable => readings.pids.map(|pids| (pids.max.saturating_sub(pids.used), pids.max)),
            Signal::NodefsAvailable => space(readings.nodefs),
            Signal::ImagefsAvailable => space(readings.imagefs),
            Signal::NodefsInodesFree => inodes(readings.nodefs),
            Signal::ImagefsInodesFree => inodes(readings.imagefs),
        }?;
        Some((*signal, Level { available, capacity }))
    };
    Signal::ALL.iter().filter_map(level).collect()
}
