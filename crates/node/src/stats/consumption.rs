//! What pods use, for eviction: the same measurements as in the answers to others.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::eviction::{ContainerUse, PodUse, Resource, StorageUse};
use kube_pet_core::pod::{containers, pod_uid};
use kube_pet_core::quantity::Amount;
use kube_pet_core::resources::{container_requests, is_critical, pod_requests};
use kube_pet_host::cgroups::Detail;
use kube_pet_host::disk_usage::DiskUsage;

use super::snapshot::{ContainerSample, PodSample};
use super::{StatsError, StatsProvider};

/// What of a pod's files counts: what is on the disk that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// What containers write beside their volumes: it is in Podman's store.
    pub(crate) layers: bool,
    /// Volumes and logs: they are below the agent's folders.
    pub(crate) volumes_and_logs: bool,
}

impl StatsProvider {
    /// What each pod with running containers uses of a resource; `parts` matter for disks.
    pub(crate) async fn consumption(&self, resource: Resource, parts: Parts) -> Result<Vec<PodUse>, StatsError> {
        let snapshot = self.snapshot(Detail::All).await?;
        Ok(snapshot.pods.iter().map(|sample| pod_use(sample, resource, parts)).collect())
    }

    /// What each pod with running containers takes up on the disk.
    pub(crate) async fn storage(&self) -> Result<Vec<(Arc<Pod>, StorageUse)>, StatsError> {
        let snapshot = self.snapshot(Detail::All).await?;
        Ok(snapshot.pods.iter().map(|sample| (sample.pod.clone(), storage_use(sample))).collect())
    }
}

fn pod_use(sample: &PodSample, resource: Resource, parts: Parts) -> PodUse {
    let disk = || sample.files(parts);
    let used = match resource {
        Resource::Memory => sample.group.as_ref().and_then(|group| group.usage.memory).map(|memory| memory.working_set),
        Resource::EphemeralStorage => Some(disk().bytes),
        Resource::Inodes => Some(disk().inodes),
        Resource::Pids => sample.processes(),
    };
    let spec = sample.pod.spec.as_ref();
    let requested = pod_requests(&sample.pod).get(resource.as_str()).map_or(0, |amount| u64::try_from(amount.value()).unwrap_or(0));
    let container = |container: &ContainerSample| {
        let (_, found) = containers(&sample.pod).find(|(_, candidate)| candidate.name == container.name)?;
        let requested = container_requests(&found).get(resource.as_str()).copied().unwrap_or(Amount::ZERO);
        Some(ContainerUse { name: container.name.clone(), used: container_use(container, resource), requested })
    };
    PodUse {
        uid: pod_uid(&sample.pod),
        priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
        critical: is_critical(&sample.pod),
        used,
        requested,
        containers: sample.containers.iter().filter_map(container).collect(),
    }
}

fn container_use(container: &ContainerSample, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Memory => container.group.usage.memory.map(|memory| memory.working_set),
        Resource::EphemeralStorage => Some(container.rootfs?.bytes.saturating_add(container.logs?.bytes)),
        Resource::Inodes | Resource::Pids => None,
    }
}

fn storage_use(sample: &PodSample) -> StorageUse {
    let of = |container: &ContainerSample| {
        let parts = [container.rootfs, container.logs].into_iter().flatten();
        (container.name.clone(), parts.map(|part| part.bytes).fold(0, u64::saturating_add))
    };
    StorageUse {
        volumes: sample.volumes.iter().map(|volume| (volume.name.clone(), volume.usage.bytes)).collect(),
        containers: sample.containers.iter().map(of).collect(),
        total: sample.files(Parts { layers: true, volumes_and_logs: true }).bytes,
    }
}

impl PodSample {
    /// What the pod's own files take up.
    pub(super) fn files(&self, parts: Parts) -> DiskUsage {
        let layers = self.containers.iter().filter_map(|container| container.rootfs).filter(|_| parts.layers);
        let volumes = self.volumes.iter().filter(|volume| self.is_ephemeral(&volume.name)).map(|volume| volume.usage);
        // The pod's log folder has all of its containers' logs.
        let rest = volumes.chain(self.logs).chain(self.etc_hosts).filter(|_| parts.volumes_and_logs);
        layers.chain(rest).fold(DiskUsage::default(), |sum, part| DiskUsage {
            bytes: sum.bytes.saturating_add(part.bytes),
            inodes: sum.inodes.saturating_add(part.inodes),
        })
    }
}
