use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::requests::{aggregate, limits_of, pod_level};
use super::{
    Amounts, QosClass, amounts, container_requests, has_pod_level_requests, has_pod_level_resources, is_critical, is_sidecar, pod_limits,
    pod_requests, qos_class,
};
use crate::quantity::Amount;

/// Period of the CPU quota, in microseconds.
pub const CPU_PERIOD: u64 = 100_000;
const MIN_QUOTA: i64 = 1000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const GUARANTEED_OOM_SCORE_ADJ: i64 = -997;
const BEST_EFFORT_OOM_SCORE_ADJ: i64 = 1000;

/// What one container's cgroup gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLimits {
    /// Relative CPU share, in the units of cgroup v1 (1024 per CPU).
    pub cpu_shares: u64,
    /// Microseconds of CPU time per [`CPU_PERIOD`]; unlimited when absent.
    pub cpu_quota: Option<i64>,
    /// Bytes; unlimited when absent.
    pub memory_limit: Option<i64>,
    /// Bytes by page size as the kernel writes it (`2MB`). A size that is not named must be limited to nothing.
    pub hugepages: BTreeMap<String, i64>,
    /// For `/proc/<pid>/oom_score_adj`.
    pub oom_score_adj: i32,
}

/// What the cgroup around all of a pod's containers gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Relative CPU share, in the units of cgroup v1.
    pub cpu_shares: u64,
    /// Microseconds of CPU time per [`CPU_PERIOD`]; unlimited when absent.
    pub cpu_quota: Option<i64>,
    /// Bytes; unlimited when absent.
    pub memory_limit: Option<i64>,
    /// Bytes by page size as the kernel writes it.
    pub hugepages: BTreeMap<String, i64>,
}

/// CPU shares (cgroup v1) of so many thousandths of a CPU.
pub fn cpu_shares(milli: i64) -> u64 {
    let shares = u64::try_from(milli).unwrap_or(0).saturating_mul(1024) / 1000;
    shares.clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota for so many thousandths of a CPU, in microseconds per [`CPU_PERIOD`]; nothing is no limit.
pub fn cpu_quota(milli: i64) -> Option<i64> {
    (milli > 0).then(|| (milli.saturating_mul(100_000) / 1000).max(MIN_QUOTA))
}

/// `cpu.weight` (cgroup v2) of cgroup v1's shares, as runc and crun convert since 1.3.2 and 1.23: 2 → 1, 1024 → 100, 262144 → 10000.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=MIN_SHARES => 1,
        MAX_SHARES.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn get(list: &Amounts, name: &str) -> Amount {
    list.get(name).copied().unwrap_or(Amount::ZERO)
}

fn memory(amount: Amount) -> Option<i64> {
    Some(amount.value()).filter(|bytes| *bytes > 0)
}

/// The kernel's name of a size of huge pages (`2MB`, `1GB`) for a resource (`hugepages-2Mi`).
pub fn hugepage_unit(resource: &str) -> Option<String> {
    hugepage_unit_of(hugepage_size(resource)?)
}

/// The size in bytes of the huge pages of a resource (`hugepages-2Mi`).
pub fn hugepage_size(resource: &str) -> Option<u64> {
    let size = resource.strip_prefix("hugepages-")?.parse::<Amount>().ok()?.value();
    u64::try_from(size).ok()
}

/// The kernel's name of huge pages of so many bytes.
pub fn hugepage_unit_of(mut size: u64) -> Option<String> {
    let units = ["B", "KB", "MB", "GB", "TB", "PB"];
    let mut unit = 0;
    while size > 0 && size.is_multiple_of(1024) && unit + 1 < units.len() {
        size /= 1024;
        unit += 1;
    }
    (size > 0 && size <= 1024).then(|| format!("{size}{}", units[unit]))
}

fn hugepages(list: &Amounts, result: &mut BTreeMap<String, i64>) {
    result.extend(list.iter().filter_map(|(name, amount)| Some((hugepage_unit(name)?, amount.value()))));
}

fn pod_level_limits(pod: &Pod) -> Amounts {
    if has_pod_level_resources(pod) { amounts(pod_level(pod).and_then(|r| r.limits.as_ref())) } else { Amounts::new() }
}

/// A container's limit of a resource, else the pod's; nothing is no limit.
pub fn effective_limit(pod: &Pod, container: &Container, name: &str) -> Amount {
    match get(&limits_of(container), name) {
        none if none.is_zero() => get(&pod_level_limits(pod), name),
        limit => limit,
    }
}

/// The limits of one container. A limit that only the pod has is the container's too, so that tools that look at their own cgroup
/// see it. `memory_capacity` is the machine's, in bytes.
pub fn container_limits(pod: &Pod, container: &Container, memory_capacity: i64) -> ContainerLimits {
    let cpu_limit = effective_limit(pod, container, "cpu");
    let cpu_request = container_requests(container).get("cpu").copied().unwrap_or(cpu_limit);
    let mut pages = BTreeMap::new();
    hugepages(&pod_level_limits(pod), &mut pages);
    hugepages(&limits_of(container), &mut pages);
    ContainerLimits {
        cpu_shares: cpu_shares(cpu_request.milli_value()),
        cpu_quota: cpu_quota(cpu_limit.milli_value()),
        memory_limit: memory(effective_limit(pod, container, "memory")),
        hugepages: pages,
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
    }
}

/// The values of the pod's own cgroup. Limits are set only where every container has one (or the pod itself): otherwise one
/// container's limit would bind the others.
pub fn pod_cgroup(pod: &Pod) -> PodCgroup {
    let (requests, limits, class) = (pod_requests(pod), pod_limits(pod), qos_class(pod));
    let mut pages = BTreeMap::new();
    hugepages(&requests, &mut pages);
    let declared = |name: &str| {
        let at_pod_level = has_pod_level_resources(pod) && {
            let list = amounts(pod_level(pod).and_then(|r| r.limits.as_ref()));
            !get(&list, name).is_zero()
        };
        let everywhere = pod.spec.as_ref().is_some_and(|spec| {
            spec.init_containers.iter().flatten().chain(&spec.containers).all(|container| !get(&limits_of(container), name).is_zero())
        });
        class == QosClass::Guaranteed || (class == QosClass::Burstable && (at_pod_level || everywhere))
    };
    PodCgroup {
        cpu_shares: if class == QosClass::BestEffort { MIN_SHARES } else { cpu_shares(get(&requests, "cpu").milli_value()) },
        cpu_quota: cpu_quota(get(&limits, "cpu").milli_value()).filter(|_| declared("cpu")),
        memory_limit: memory(get(&limits, "memory")).filter(|_| declared("memory")),
        hugepages: pages,
    }
}

/// How willing the kernel is to kill the container's processes when memory runs out: the less of its request a container can use
/// up, the higher. `memory_capacity` is the machine's, in bytes.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    let node_critical =
        is_critical(pod) && pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref()) == Some("system-node-critical");
    let adj = match qos_class(pod) {
        _ if node_critical => GUARANTEED_OOM_SCORE_ADJ,
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE_ADJ,
        QosClass::BestEffort => BEST_EFFORT_OOM_SCORE_ADJ,
        QosClass::Burstable => burstable_score(pod, container, memory_capacity),
    };
    i32::try_from(adj).unwrap_or(1000)
}

fn burstable_score(pod: &Pod, container: &Container, capacity: i64) -> i64 {
    let request = |container: &Container| get(&container_requests(container), "memory").value();
    let extra = if has_pod_level_requests(pod) { unclaimed_share(pod) } else { 0 };
    let score = |bytes: i64| {
        let bytes = i128::from(bytes.saturating_add(extra));
        i64::try_from(1000 - 1000 * bytes / i128::from(capacity.max(1))).unwrap_or(i64::MIN)
    };
    let mut adj = score(request(container));
    let spec = pod.spec.as_ref();
    let initial = spec.and_then(|s| s.init_containers.as_ref()).is_some_and(|list| list.iter().any(|c| c.name == container.name));
    if is_sidecar(container) && initial {
        // A sidecar must not be killed before the containers it serves.
        let least = spec.and_then(|s| s.containers.iter().map(request).min()).unwrap_or(0);
        adj = adj.min(score(least));
    }
    adj.clamp(1000 + GUARANTEED_OOM_SCORE_ADJ, BEST_EFFORT_OOM_SCORE_ADJ - 1)
}

/// Pod-level memory request that no container claims, divided among all containers.
fn unclaimed_share(pod: &Pod) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let requested = get(&amounts(pod_level(pod).and_then(|r| r.requests.as_ref())), "memory");
    let claimed = get(&aggregate(pod, container_requests), "memory");
    let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let left = requested.value().saturating_sub(claimed.value()).max(0);
    left / i64::try_from(count.max(1)).unwrap_or(i64::MAX)
}
