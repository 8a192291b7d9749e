//! Room for a critical pod: others were told to go, and it waits for their end.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::admission::preemption::{DISRUPTION, MESSAGE, Preemption, REASON};
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::{Disruption, Eviction, Rejected, pod_uid};
use tokio::sync::watch;
use tracing::{info, warn};

use super::inventory::Subscribers;
use super::store::{PodStore, runs};
use crate::eviction::kill_time;
use crate::instruments;

/// What a critical pod waits for.
pub(super) struct Room {
    victims: Vec<PodUid>,
    /// The kubelet does not wait for ever: the pod comes all the same.
    pub(super) deadline: Instant,
    pods: PodStore,
    changes: watch::Receiver<u64>,
}

impl Room {
    /// Tells the pods that have to go, which are among `others`.
    pub(super) fn make(preemption: &Preemption, others: &[Arc<Pod>], workers: &Subscribers, pods: &PodStore) -> Self {
        let Preemption { victims, resource } = preemption;
        let changes = pods.changes();
        for uid in victims {
            info!(uid = uid.as_str(), resource, "a pod has to go for a critical one");
            instruments::PREEMPTIONS.add(&[resource]);
            workers.evict(
                uid,
                Eviction {
                    failed: Rejected { reason: REASON.into(), message: MESSAGE.into() },
                    grace_seconds: None,
                    disruption: Some(Disruption { since: Timestamp::now(), message: DISRUPTION.into() }),
                    event: true,
                },
            );
        }
        let grace = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(0);
        let longest = others.iter().filter(|pod| victims.contains(&pod_uid(pod))).map(grace).max().unwrap_or(0);
        Self { victims: victims.clone(), deadline: Instant::now() + kill_time(longest), pods: pods.clone(), changes }
    }

    /// Whether the pod may come: nothing of the others runs, or they have had their time.
    pub(super) fn is_made(&self) -> bool {
        let left = self.victims.iter().filter(|uid| self.pods.by_uid(uid).is_some_and(|pod| runs(&pod))).count();
        let late = left > 0 && Instant::now() >= self.deadline;
        if late {
            warn!(left, "not all pods that had to go for a critical one have ended in time; it comes all the same");
        }
        left == 0 || late
    }
}

/// Waits until any pod changes; without anything to wait for, for ever.
pub(super) async fn changed(room: &mut Option<Room>) {
    let changed = match room {
        Some(room) => room.changes.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}
