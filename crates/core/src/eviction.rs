//! Which pod has to go when the node runs short, and with which words: the kubelet's eviction manager (`pkg/kubelet/eviction`).

mod pressure;
mod signals;
mod storage;

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use crate::ids::PodUid;
use crate::quantity::Amount;

pub use pressure::{Level, Levels, Limit, Look, Pressure};
pub use signals::{Signal, Threshold};
pub use storage::{Excess, StorageUse, has_storage_limits, storage_excess};

/// `status.reason` of a pod that was evicted, and the reason of the event.
pub const REASON: &str = "Evicted";
/// Seconds that a pod has to end where there is no time (the kubelet's `immediateEvictionGracePeriodSeconds`).
pub const IMMEDIATE_GRACE_SECONDS: i64 = 1;

/// What the node can run short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Memory; comes first, because it is the most urgent.
    Memory,
    /// Space on a disk.
    EphemeralStorage,
    /// Inodes on a disk.
    Inodes,
    /// Process IDs.
    Pids,
}

impl Resource {
    /// Its name in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    fn amount(self, value: u64) -> Amount {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        match self {
            Self::Memory | Self::EphemeralStorage => Amount::bytes(value),
            Self::Inodes | Self::Pids => Amount::whole(value),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A limit that the node is below, for long enough that pods have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What was measured.
    pub signal: Signal,
    /// How much there should be.
    pub limit: u64,
    /// How much there is.
    pub available: u64,
    /// How long it may last. Zero: the limit is a hard one.
    pub grace: Duration,
}

impl Shortage {
    /// Of what.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.signal.resource()
    }

    /// Seconds that a pod has to end, of which it asks for `own`: at most `most` at a soft limit, and no time at a hard one.
    #[must_use]
    pub fn pod_grace(&self, own: Option<i64>, most: i64) -> i64 {
        if self.grace.is_zero() { IMMEDIATE_GRACE_SECONDS } else { own.map_or(most, |own| own.min(most)) }
    }
}

/// What a container uses of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUse {
    /// Its name in the spec.
    pub name: String,
    /// Missing where it cannot be told for a single container.
    pub used: Option<u64>,
    /// What it asked for.
    pub requested: Amount,
}

/// What a pod uses of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUse {
    /// The pod.
    pub uid: PodUid,
    /// `spec.priority`
    pub priority: i32,
    /// It is never evicted.
    pub critical: bool,
    /// Missing if it could not be measured.
    pub used: Option<u64>,
    /// What it asked for; nothing, for what cannot be asked for.
    pub requested: u64,
    /// Its containers.
    pub containers: Vec<ContainerUse>,
}

impl PodUse {
    fn exceeds(&self) -> bool {
        self.used.is_some_and(|used| used > self.requested)
    }

    fn excess(&self) -> i128 {
        i128::from(self.used.unwrap_or(0)) - i128::from(self.requested)
    }
}

/// The pod that goes first: one that could not be measured; then one that uses more than it asked for; the lowest priority; the
/// largest use above what was asked for. Process IDs cannot be asked for: there the priority comes first.
#[must_use]
pub fn first_to_go(resource: Resource, pods: &[PodUse]) -> Option<&PodUse> {
    pods.iter().filter(|pod| !pod.critical).min_by(|a, b| order(resource, a, b))
}

/// Less goes first.
fn order(resource: Resource, a: &PodUse, b: &PodUse) -> Ordering {
    // As `true` first.
    let unmeasured = b.used.is_none().cmp(&a.used.is_none());
    let both = a.used.is_some() && b.used.is_some();
    let exceeds = if both { b.exceeds().cmp(&a.exceeds()) } else { unmeasured };
    let excess = if both { b.excess().cmp(&a.excess()) } else { unmeasured };
    let priority = a.priority.cmp(&b.priority);
    let ordered = if resource == Resource::Pids { priority } else { exceeds.then(priority) };
    // Any order will do for the rest, as long as it is one.
    ordered.then(excess).then_with(|| a.uid.as_str().cmp(b.uid.as_str()))
}

/// Message of the evicted pod's status and event.
#[must_use]
pub fn message(shortage: Shortage, pod: &PodUse) -> String {
    let Shortage { limit, available, .. } = shortage;
    let resource = shortage.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        resource.amount(limit),
        resource.amount(available)
    );
    if !matches!(resource, Resource::Memory | Resource::EphemeralStorage) {
        return text;
    }
    for container in &pod.containers {
        let Some(used) = container.used.map(|used| resource.amount(used)) else { continue };
        if used.nano() > container.requested.nano() {
            let ContainerUse { name, requested, .. } = container;
            text += &format!("Container {name} was using {used}, request is {requested}, has larger consumption of {resource}. ");
        }
    }
    text
}

/// Text of the Node's event `EvictionThresholdMet`.
#[must_use]
pub fn threshold_met(resource: Resource) -> String {
    format!("Attempting to reclaim {resource}")
}

#[cfg(test)]
mod tests;
