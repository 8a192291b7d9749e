use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::actuation::{ContainerAmounts, PodAmounts};
use crate::ids::{ContainerId, ContainerName};
use crate::resources::container_limits;

/// One write to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResizeStep {
    /// The pod's limit of memory, in bytes.
    PodMemory {
        /// Bytes.
        limit: i64,
    },
    /// The pod's limit of CPU time.
    PodCpuQuota {
        /// Microseconds per 100 ms.
        quota: i64,
    },
    /// The pod's share of CPU time.
    PodCpuShares {
        /// As of cgroup v1.
        shares: u64,
    },
    /// A container's limit of memory.
    ContainerMemory {
        /// Podman's ID.
        id: ContainerId,
        /// Bytes; `None` where only the request changes, of which the kernel knows nothing.
        limit: Option<i64>,
        /// What the container has then.
        amounts: ContainerAmounts,
    },
    /// A container's CPU time.
    ContainerCpu {
        /// Podman's ID.
        id: ContainerId,
        /// As of cgroup v1.
        shares: u64,
        /// Microseconds per 100 ms; no limit when absent.
        quota: Option<i64>,
        /// What the container has then.
        amounts: ContainerAmounts,
    },
}

impl ResizeStep {
    /// The container whose cgroup is written to; `None` for the pod's own.
    pub fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::ContainerMemory { id, .. } | Self::ContainerCpu { id, .. } => Some(id),
            Self::PodMemory { .. } | Self::PodCpuQuota { .. } | Self::PodCpuShares { .. } => None,
        }
    }
}

/// A limit of memory that shrinks must be above what is in use: the kernel would kill for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryCheck {
    /// The container; `None` for the pod as a whole.
    pub container: Option<(ContainerId, ContainerName)>,
    /// Bytes.
    pub limit: i64,
}

impl MemoryCheck {
    /// What is wrong with so many bytes in use.
    pub fn verdict(&self, used: u64) -> Option<String> {
        let Self { container, limit } = self;
        let of = container.as_ref().map_or_else(|| "pod".to_owned(), |(_, name)| format!("container {:?}", name.as_str()));
        let above = u64::try_from(*limit).is_ok_and(|limit| used < limit);
        (!above).then(|| format!("attempting to set {of} memory limit ({limit}) below current usage ({used})"))
    }
}

/// The message of a resize that [`MemoryCheck`]s are against.
pub fn below_usage(found: &[String]) -> String {
    match found {
        [one] => format!("cannot decrease memory limits: {one}"),
        all => format!("cannot decrease memory limits: [{}]", all.join(", ")),
    }
}

/// A running container that is to be changed in place.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// Podman's ID.
    pub id: &'a ContainerId,
    /// Its spec.
    pub container: &'a Container,
    /// What it has.
    pub from: ContainerAmounts,
    /// What it gets.
    pub to: ContainerAmounts,
}

/// All that is to be done for a pod at once, in this order; it ends at the first failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resizing {
    /// Looked at before anything is done.
    pub checks: Vec<MemoryCheck>,
    /// What is done.
    pub steps: Vec<ResizeStep>,
}

impl Resizing {
    /// Memory first, then CPU. The pod's cgroup grows before its containers and shrinks after them, and containers that shrink come
    /// before those that grow: the sum never exceeds the whole, which cgroup v1 would refuse. Limits grow before requests.
    pub fn plan(pod: &Pod, updates: &[Update<'_>], cgroup: Option<(PodAmounts, PodAmounts)>) -> Self {
        let mut out = Self::default();
        let memory =
            cgroup.and_then(|(from, to)| Some((from.memory_limit, to.memory_limit.filter(|_| from.memory_limit != to.memory_limit)?)));
        let grows = |from: Option<i64>, to: i64| from.is_some_and(|from| from < to);
        out.checks.extend(memory.filter(|(from, to)| !grows(*from, *to)).map(|(_, limit)| MemoryCheck { container: None, limit }));
        out.steps.extend(memory.filter(|(from, to)| grows(*from, *to)).map(|(_, limit)| ResizeStep::PodMemory { limit }));
        for update in sorted(updates, |a| (a.memory_limit, a.memory_request)) {
            out.memory(update);
        }
        out.steps.extend(memory.filter(|(from, to)| !grows(*from, *to)).map(|(_, limit)| ResizeStep::PodMemory { limit }));

        let quota = cgroup.and_then(|(from, to)| Some((from.cpu_quota, to.cpu_quota.filter(|_| from.cpu_quota != to.cpu_quota)?)));
        let shares = cgroup.map(|(from, to)| (from.cpu_shares, to.cpu_shares)).filter(|(from, to)| from != to);
        out.steps.extend(quota.filter(|(from, to)| grows(*from, *to)).map(|(_, quota)| ResizeStep::PodCpuQuota { quota }));
        out.steps.extend(shares.filter(|(from, to)| from < to).map(|(_, shares)| ResizeStep::PodCpuShares { shares }));
        for update in sorted(updates, |a| (a.cpu_limit, a.cpu_request)) {
            out.cpu(pod, update);
        }
        out.steps.extend(shares.filter(|(from, to)| from > to).map(|(_, shares)| ResizeStep::PodCpuShares { shares }));
        out.steps.extend(quota.filter(|(from, to)| !grows(*from, *to)).map(|(_, quota)| ResizeStep::PodCpuQuota { quota }));
        out
    }

    fn memory(&mut self, update: &Update<'_>) {
        let Update { id, container, from, to } = update;
        if !from.differs_in_memory(to) {
            return;
        }
        let limit = Some(to.memory_limit).filter(|limit| *limit != from.memory_limit && *limit > 0);
        if let Some(limit) = limit.filter(|limit| from.memory_limit == 0 || *limit < from.memory_limit) {
            let container = Some(((*id).clone(), ContainerName::from(container.name.as_str())));
            self.checks.push(MemoryCheck { container, limit });
        }
        let amounts = ContainerAmounts { memory_request: to.memory_request, memory_limit: to.memory_limit, ..*from };
        self.steps.push(ResizeStep::ContainerMemory { id: (*id).clone(), limit, amounts });
    }

    fn cpu(&mut self, pod: &Pod, update: &Update<'_>) {
        let Update { id, container, from, to } = update;
        if from.differs_in_cpu(to) {
            // The machine's memory matters for the OOM score only, which is not changed in place.
            let limits = container_limits(pod, container, 0);
            let (shares, quota) = (limits.cpu_shares, limits.cpu_quota);
            self.steps.push(ResizeStep::ContainerCpu { id: (*id).clone(), shares, quota, amounts: *to });
        }
    }
}

/// Those that shrink first. What counts is the limit, and the request where the limit stays.
fn sorted<'a, 'b>(updates: &'b [Update<'a>], of: impl Fn(&ContainerAmounts) -> (i64, i64)) -> Vec<&'b Update<'a>> {
    let shrinks = |update: &Update<'_>| {
        let (from, to) = (of(&update.from), of(&update.to));
        // No limit is the highest of all.
        let limit = |(limit, _): (i64, i64)| if limit == 0 { i64::MAX } else { limit };
        if limit(from) == limit(to) { to.1 < from.1 } else { limit(to) < limit(from) }
    };
    let (shrinking, growing): (Vec<_>, Vec<_>) = updates.iter().partition(|update| shrinks(update));
    shrinking.into_iter().chain(growing).collect()
}
