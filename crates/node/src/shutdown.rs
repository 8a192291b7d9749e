//! Holds a shutdown of the machine up until its pods have ended, in the order of their priorities: the kubelet's `nodeshutdown`.
//! Meanwhile the node is not ready, and takes no pods.
//!
//! The end of the agent alone is something else: it touches no pod.

mod logind;
mod record;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::{Disruption, Eviction, Rejected, pod_uid};
use kube_pet_core::shutdown::{self, ShutdownGrace};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::logind::{Logind, LogindError};
use self::record::Record;
use crate::events::{EventRecorder, EventType};
use crate::pods::inventory::Subscribers;
use crate::pods::store::{PodStore, runs};

/// The kubelet's `dbusReconnectPeriod`, after the bus has gone.
const RECONNECT: Duration = Duration::from_secs(1);
/// Where there is no logind, it may still come.
const LAST_RECONNECT: Duration = Duration::from_secs(60);

/// The kubelet's `NodeShutdown` event.
const EVENT: &str = "Shutdown";

/// What it works with.
pub struct ShutdownOptions {
    /// How long which pods have, from low to high priorities.
    pub groups: Vec<ShutdownGrace>,
    /// The pods.
    pub pods: PodStore,
    /// The way to their workers.
    pub workers: Subscribers,
    /// Events of the Node.
    pub events: EventRecorder,
    /// Tells the rest of the agent.
    pub shutting_down: watch::Sender<bool>,
    /// The file of settings that makes logind wait long enough.
    pub drop_in: PathBuf,
    /// Keeps when the last shutdown began and ended.
    pub record: PathBuf,
    /// The address of the bus that logind is on; `None` for the system bus.
    pub bus: Option<String>,
}

/// See the module.
pub struct ShutdownManager {
    options: ShutdownOptions,
    record: Record,
}

impl ShutdownManager {
    /// Does nothing yet.
    pub fn new(options: ShutdownOptions) -> Self {
        let record = Record::new(options.record.clone());
        Self { options, record }
    }

    /// Works until it is dropped.
    pub async fn run(self) {
        if self.options.groups.is_empty() {
            return std::future::pending().await;
        }
        self.record.show().await;
        let (mut pause, mut told) = (RECONNECT, None);
        loop {
            match self.follow().await {
                Ok(()) => {
                    warn!("the system bus is gone; it is looked for again");
                    (pause, told) = (RECONNECT, None);
                }
                Err(error) => {
                    let text = chain(&error);
                    if told.as_ref() != Some(&text) {
                        warn!(error = text, "a shutdown of the machine does not wait for pods; retrying");
                    }
                    told = Some(text);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RECONNECT);
        }
    }

    /// Follows logind until the bus is gone.
    async fn follow(&self) -> Result<(), LogindError> {
        let ShutdownOptions { groups, drop_in, bus, shutting_down, .. } = &self.options;
        let wanted = shutdown::total(groups);
        let logind = Logind::connect(bus.as_deref()).await?;
        let mut shutdowns = logind.shutdowns().await?;
        logind.raise_delay(wanted, drop_in).await?;
        if *shutting_down.borrow() && !logind.is_shutting_down().await? {
            // It was called off while the bus was away.
            self.called_off();
        }
        let mut lock = Some(logind.inhibit().await?);
        info!(?wanted, "a shutdown of the machine waits for pods");
        let mut next = shutdowns.next().await;
        while let Some(begins) = next {
            next = if begins {
                self.begin();
                let ended = tokio::select! {
                    () = self.end_pods() => None,
                    next = shutdowns.next() => Some(next),
                };
                drop(lock.take());
                match ended {
                    Some(next) => next,
                    None => {
                        info!("the pods have had their time; the machine goes down");
                        shutdowns.next().await
                    }
                }
            } else {
                self.called_off();
                lock = Some(logind.inhibit().await?);
                shutdowns.next().await
            };
        }
        Ok(())
    }

    fn begin(&self) {
        info!("the machine is being shut down");
        self.options.events.node_event(EventType::Normal, EVENT, "Shutdown manager detected shutdown event".into());
        self.options.shutting_down.send_replace(true);
    }

    fn called_off(&self) {
        info!("the shutdown of the machine was called off");
        self.options.events.node_event(EventType::Normal, EVENT, "Shutdown manager detected shutdown cancellation".into());
        self.options.shutting_down.send_replace(false);
    }

    /// Ends all pods, one group after the other; a group without pods takes no time.
    async fn end_pods(&self) {
        let began = Timestamp::now();
        self.record.began(began).await;
        // The agent may have started just now.
        self.options.pods.restored().await;
        for place in 0..self.options.groups.len() {
            self.end_group(place).await;
        }
        self.record.ended(began, Timestamp::now()).await;
    }

    async fn end_group(&self, place: usize) {
        let ShutdownOptions { groups, pods, workers, .. } = &self.options;
        // Anew for each group: what was admitted just before the shutdown shows a moment later.
        let active: Vec<Arc<Pod>> = pods.list().into_iter().filter(|pod| !is_over(pod)).collect();
        let Some((group, members)) = shutdown::by_priority(groups, &active).into_iter().nth(place) else { return };
        if members.is_empty() {
            return;
        }
        let seconds = group.shutdown_grace_period_seconds;
        info!(priority = group.priority, pods = members.len(), seconds, "pods are ended");
        let uids: Vec<PodUid> = members.iter().map(|pod| pod_uid(pod)).collect();
        for (pod, uid) in members.iter().zip(&uids) {
            workers.evict(uid, terminated(group.pod_grace(pod)));
        }
        // What mounts their volumes may be in a later group.
        let deadline = Instant::now() + Duration::from_secs(u64::from(seconds));
        if pods.until(&uids, deadline, is_over).await {
            debug!(priority = group.priority, "all of them have ended");
        } else {
            warn!(priority = group.priority, seconds, "not all pods have ended in time");
        }
    }
}

fn terminated(grace_seconds: i64) -> Eviction {
    Eviction {
        failed: Rejected { reason: shutdown::REASON.into(), message: shutdown::MESSAGE.into() },
        grace_seconds: Some(grace_seconds),
        disruption: Some(Disruption { since: Timestamp::now(), message: shutdown::MESSAGE.into() }),
        event: false,
    }
}

/// Nothing of the pod runs, nothing will, and what it had is given back.
fn is_over(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let terminal = matches!(status.and_then(|status| status.phase.as_deref()), Some("Failed" | "Succeeded"));
    let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let sandbox = conditions.any(|condition| condition.type_ == "PodReadyToStartContainers" && condition.status == "True");
    terminal && !sandbox && !runs(pod)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
