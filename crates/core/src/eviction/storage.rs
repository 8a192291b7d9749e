//! Limits of local storage: a pod that exceeds its own is evicted whatever room there is on the node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::quantity::Amount;
use crate::resources::{is_sidecar, pod_limits};

const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// Bytes that a pod takes up, as far as they have been counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageUse {
    /// By volume.
    pub volumes: BTreeMap<String, u64>,
    /// Logs and what it wrote beside its volumes, by container.
    pub containers: BTreeMap<String, u64>,
    /// All of it that counts for the pod.
    pub total: u64,
}

/// Whether anything of the pod's is limited, so that it has to be measured.
#[must_use]
pub fn has_storage_limits(pod: &Pod) -> bool {
    size_limits(pod).next().is_some() || pod_limits(pod).get(EPHEMERAL_STORAGE).is_some_and(|limit| !limit.is_zero())
}

/// A pod uses more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The limit, as metrics name it.
    pub signal: &'static str,
    /// Message of the evicted pod's status and event.
    pub message: String,
}

/// What is wrong if a pod uses more than it may: volumes are looked at first, then the pod, then its containers.
#[must_use]
pub fn storage_excess(pod: &Pod, used: &StorageUse) -> Option<Excess> {
    let excess = |signal, message| Some(Excess { signal, message });
    let exceeds = |used: u64, limit: Amount| Amount::bytes(i64::try_from(used).unwrap_or(i64::MAX)).nano() > limit.nano();
    for (volume, limit) in size_limits(pod) {
        if used.volumes.get(volume).is_some_and(|used| exceeds(*used, limit)) {
            return excess("emptydirfs.limit", format!("Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{limit}\". "));
        }
    }
    if let Some(limit) = pod_limits(pod).get(EPHEMERAL_STORAGE).filter(|limit| exceeds(used.total, **limit)) {
        return excess(
            "ephemeralpodfs.limit",
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "),
        );
    }
    let (container, limit) =
        limited(pod).find(|(container, limit)| used.containers.get(&container.name).is_some_and(|used| exceeds(*used, *limit)))?;
    let name = &container.name;
    excess("ephemeralcontainerfs.limit", format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "))
}

/// Volumes on the disk with a limit. Those in memory cannot grow beyond theirs.
fn size_limits(pod: &Pod) -> impl Iterator<Item = (&str, Amount)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let dir = volume.empty_dir.as_ref().filter(|dir| dir.medium.as_deref() != Some("Memory"))?;
        let limit = Amount::of(dir.size_limit.as_ref()?).ok()?;
        (!limit.is_zero() && !limit.is_negative()).then_some((volume.name.as_str(), limit))
    })
}

/// Containers with a limit of their own; of init containers only those that stay.
fn limited(pod: &Pod) -> impl Iterator<Item = (&Container, Amount)> {
    let spec = pod.spec.as_ref();
    let apps = spec.into_iter().flat_map(|spec| &spec.containers);
    let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|container| is_sidecar(container));
    apps.chain(sidecars).filter_map(|container| {
        let limit = Amount::of(container.resources.as_ref()?.limits.as_ref()?.get(EPHEMERAL_STORAGE)?).ok()?;
        (!limit.is_zero()).then_some((container, limit))
    })
}
