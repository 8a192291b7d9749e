use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::steps::ResizeStep;
use crate::ids::ContainerId;
use crate::quantity::Amount;
use crate::resources::{container_requests, effective_limit, pod_cgroup};

/// What a container is run with; 0 is none. CPU in thousandths, memory in bytes. A limit that only the pod has is the container's
/// too, as in its cgroup.
///
/// As text (`cpu request/cpu limit/memory request/memory limit`) it is a label of the container: what it was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerAmounts {
    /// `requests.cpu`
    pub cpu_request: i64,
    /// `limits.cpu`
    pub cpu_limit: i64,
    /// `requests.memory`
    pub memory_request: i64,
    /// `limits.memory`
    pub memory_limit: i64,
}

impl ContainerAmounts {
    /// What the spec says.
    pub fn of(pod: &Pod, container: &Container) -> Self {
        let requests = container_requests(container);
        let request = |name: &str| requests.get(name).copied().unwrap_or(Amount::ZERO);
        Self {
            cpu_request: request("cpu").milli_value(),
            cpu_limit: effective_limit(pod, container, "cpu").milli_value(),
            memory_request: request("memory").value(),
            memory_limit: effective_limit(pod, container, "memory").value(),
        }
    }

    pub(super) fn differs_in_cpu(&self, other: &Self) -> bool {
        (self.cpu_request, self.cpu_limit) != (other.cpu_request, other.cpu_limit)
    }

    pub(super) fn differs_in_memory(&self, other: &Self) -> bool {
        (self.memory_request, self.memory_limit) != (other.memory_request, other.memory_limit)
    }

    /// Whether the change to `to` asks for a restart (`resizePolicy`).
    pub fn restarts(&self, to: &Self, container: &Container) -> bool {
        let policies = container.resize_policy.as_deref().unwrap_or_default();
        let restart =
            |name: &str| policies.iter().find(|p| p.resource_name == name).is_some_and(|p| p.restart_policy == "RestartContainer");
        self.differs_in_cpu(to) && restart("cpu") || self.differs_in_memory(to) && restart("memory")
    }
}

impl fmt::Display for ContainerAmounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.cpu_request, self.cpu_limit, self.memory_request, self.memory_limit)
    }
}

/// The text is not what [`ContainerAmounts`] writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not say what a container was made with")]
pub struct ParseAmountsError(String);

impl FromStr for ContainerAmounts {
    type Err = ParseAmountsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Option<Vec<i64>> = text.split('/').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([cpu_request, cpu_limit, memory_request, memory_limit]) => {
                Ok(Self { cpu_request: *cpu_request, cpu_limit: *cpu_limit, memory_request: *memory_request, memory_limit: *memory_limit })
            }
            _ => Err(ParseAmountsError(text.to_owned())),
        }
    }
}

/// What the pod's own cgroup has; absent is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodAmounts {
    /// As of cgroup v1.
    pub cpu_shares: u64,
    /// Microseconds per 100 ms.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
}

impl PodAmounts {
    /// What the spec says.
    pub fn of(pod: &Pod) -> Self {
        let cgroup = pod_cgroup(pod);
        Self { cpu_shares: cgroup.cpu_shares, cpu_quota: cgroup.cpu_quota, memory_limit: cgroup.memory_limit }
    }

    /// What is to be made of `self`. A limit is never taken away, as the kubelet's are not.
    #[must_use]
    pub fn towards(&self, wanted: Self) -> Self {
        Self {
            cpu_shares: wanted.cpu_shares,
            cpu_quota: wanted.cpu_quota.or(self.cpu_quota),
            memory_limit: wanted.memory_limit.or(self.memory_limit),
        }
    }
}

/// What the kernel was told since containers and the pod's cgroup were made. Kept on disk: what is lost of it is done again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actuated {
    /// The pod's cgroup; `None` before it is made.
    #[serde(default)]
    pub pod: Option<PodAmounts>,
    /// Containers that were changed in place.
    #[serde(default)]
    pub containers: BTreeMap<ContainerId, ContainerAmounts>,
    /// Containers that are ended so that their successors have other resources: they come back whatever their restart policy.
    #[serde(default)]
    pub restarts: BTreeSet<ContainerId>,
    /// Containers that are ended because their definition has changed, or with all others of the pod: the same holds of them.
    #[serde(default)]
    pub replaced: BTreeSet<ContainerId>,
    /// Steps that are being done. An agent that starts again does not know how far they came: it does all of them again, in their order, which
    /// changes nothing where they were done, and is right wherever they ended.
    #[serde(default)]
    pub begun: Vec<ResizeStep>,
}

impl Actuated {
    /// Notes that a step was done.
    pub fn apply(&mut self, step: &ResizeStep) {
        match step {
            ResizeStep::ContainerMemory { id, amounts, .. } | ResizeStep::ContainerCpu { id, amounts, .. } => {
                self.containers.insert(id.clone(), *amounts);
            }
            ResizeStep::PodMemory { limit } => self.pod.iter_mut().for_each(|pod| pod.memory_limit = Some(*limit)),
            ResizeStep::PodCpuQuota { quota } => self.pod.iter_mut().for_each(|pod| pod.cpu_quota = Some(*quota)),
            ResizeStep::PodCpuShares { shares } => self.pod.iter_mut().for_each(|pod| pod.cpu_shares = *shares),
        }
    }

    /// Whether what was written down misses something of `now`. That a cgroup was made with what was given goes without saying.
    pub fn is_outdated(&self, now: &Self) -> bool {
        (&self.containers, &self.restarts, &self.replaced, &self.begun) != (&now.containers, &now.restarts, &now.replaced, &now.begun)
            || self.pod.is_some() && self.pod != now.pod
    }

    /// Forgets containers that are gone.
    pub fn keep_only(&mut self, there: impl Fn(&ContainerId) -> bool) {
        self.containers.retain(|id, _| there(id));
        self.restarts.retain(|id| there(id));
        self.replaced.retain(|id| there(id));
    }
}
