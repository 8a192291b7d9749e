//! Requests and limits: quality of service, what a pod counts for, cgroup values, OOM scores.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;

/// Quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Limits equal requests, for CPU and memory, everywhere.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl QosClass {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Resource amounts by name.
pub type Amounts = BTreeMap<String, Amount>;

fn amounts(map: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    // The API server has validated quantities; what a static pod has wrong counts as nothing.
    map.into_iter().flatten().map(|(name, q)| (name.clone(), Amount::of(q).unwrap_or_default())).collect()
}

/// Requests of a container; a limit without a request counts as one.
pub fn requests(container: &Container) -> Amounts {
    let mut out = limits(container);
    out.extend(amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref())));
    out
}

/// Limits of a container.
pub fn limits(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn add(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let sum = into.get(name).copied().unwrap_or_default() + *amount;
        into.insert(name.clone(), sum);
    }
}

fn raise(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let max = into.get(name).copied().unwrap_or_default().max(*amount);
        into.insert(name.clone(), max);
    }
}

/// What a pod counts for: containers and sidecars together, or the largest init container if that is more; plus overhead.
/// `of` is [`requests`] or [`limits`]. Resources on the pod level take precedence.
fn pod_amounts(pod: &Pod, of: fn(&Container) -> Amounts, pod_level: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut init_peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut init_peak, &sidecars);
        } else {
            let mut with = sidecars.clone();
            add(&mut with, &own);
            raise(&mut init_peak, &with);
        }
    }
    raise(&mut total, &init_peak);
    for (name, amount) in amounts(pod_level) {
        total.insert(name, amount);
    }
    if let Some(overhead) = &spec.overhead {
        add(&mut total, &amounts(Some(overhead)));
    }
    total
}

/// What a pod requests.
pub fn pod_requests(pod: &Pod) -> Amounts {
    let level = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    pod_amounts(pod, requests, level.and_then(|r| r.requests.as_ref()))
}

/// What a pod is limited to. A container without a limit leaves the pod unlimited: see [`pod_cgroup`].
pub fn pod_limits(pod: &Pod) -> Amounts {
    let level = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    pod_amounts(pod, limits, level.and_then(|r| r.limits.as_ref()))
}

/// The pod's class, after `GetPodQOS`: CPU and memory of init and app containers count.
pub fn qos_class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let positive = |amounts: &Amounts, name: &str| amounts.get(name).copied().filter(|a| !a.is_zero());
    if let Some(level) = &spec.resources {
        let (req, lim) = (amounts(level.requests.as_ref()), amounts(level.limits.as_ref()));
        return classify(&[(req, lim)], positive);
    }
    let each: Vec<_> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| (amounts(c.resources.as_ref().and_then(|r| r.requests.as_ref())), limits(c)))
        .collect();
    classify(&each, positive)
}

fn classify(each: &[(Amounts, Amounts)], positive: impl Fn(&Amounts, &str) -> Option<Amount>) -> QosClass {
    let mut any = false;
    let mut guaranteed = true;
    for (req, lim) in each {
        for name in ["cpu", "memory"] {
            let (r, l) = (positive(req, name), positive(lim, name));
            any |= r.is_some() || l.is_some();
            // A request that is absent is defaulted to the limit.
            guaranteed &= l.is_some() && r.is_none_or(|r| Some(r) == l);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// Values for one cgroup. `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupValues {
    /// cgroup v1 `cpu.shares`; see [`cpu_weight`] for v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Number of processes.
    pub pids_limit: Option<i64>,
}

const CPU_PERIOD: u64 = 100_000;
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// `cpu.shares` of a request in thousandths of a CPU.
pub fn cpu_shares(milli: i64) -> u64 {
    let shares = milli.saturating_mul(1024) / 1000;
    u64::try_from(shares.clamp(MIN_SHARES, MAX_SHARES)).unwrap_or(2)
}

/// cgroup v2 `cpu.weight` of v1 shares: the logarithmic curve of runc 1.4 and crun 1.23 on which 1024 shares are weight 100.
pub fn cpu_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10,000")]
    {
        let l = (shares as f64).log2();
        let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
        10_f64.powf(exponent).ceil() as u64
    }
}

fn quota(milli: i64) -> Option<i64> {
    (milli > 0).then(|| (milli.saturating_mul(100_000) / 1000).max(MIN_QUOTA))
}

/// A container's cgroup.
pub fn container_cgroup(container: &Container) -> CgroupValues {
    let (req, lim) = (requests(container), limits(container));
    let cpu_limit = lim.get("cpu").copied().unwrap_or_default().milli_value();
    let quota = quota(cpu_limit);
    CgroupValues {
        cpu_shares: Some(cpu_shares(req.get("cpu").copied().unwrap_or_default().milli_value())),
        cpu_quota: quota,
        cpu_period: quota.map(|_| CPU_PERIOD),
        memory_limit: lim.get("memory").map(|m| m.value()).filter(|m| *m > 0),
        pids_limit: None,
    }
}

/// The pod's cgroup: limits hold only if every container has one, or the pod itself.
pub fn pod_cgroup(pod: &Pod, pids_limit: Option<i64>) -> CgroupValues {
    let (req, lim) = (pod_requests(pod), pod_limits(pod));
    let spec = pod.spec.as_ref();
    let level = spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
    let everywhere = |name: &str| {
        level.is_some_and(|l| l.contains_key(name))
            || spec.is_some_and(|s| {
                s.containers
                    .iter()
                    .chain(s.init_containers.iter().flatten())
                    .all(|c| limits(c).get(name).is_some_and(|a| !a.is_zero()))
            })
    };
    let shares = match qos_class(pod) {
        QosClass::BestEffort => cpu_shares(0),
        _ => cpu_shares(req.get("cpu").copied().unwrap_or_default().milli_value()),
    };
    let quota = everywhere("cpu").then(|| quota(lim.get("cpu").copied().unwrap_or_default().milli_value())).flatten();
    CgroupValues {
        cpu_shares: Some(shares),
        cpu_quota: quota,
        cpu_period: quota.map(|_| CPU_PERIOD),
        memory_limit: everywhere("memory").then(|| lim.get("memory").map(|m| m.value())).flatten().filter(|m| *m > 0),
        pids_limit,
    }
}

/// `kubepods[/burstable|/besteffort]/pod<uid>` below `root`, as the kubelet's cgroupfs driver names it.
pub fn pod_cgroup_path(root: &str, pod: &Pod) -> String {
    let class = match qos_class(pod) {
        QosClass::Guaranteed => "",
        QosClass::Burstable => "/burstable",
        QosClass::BestEffort => "/besteffort",
    };
    format!("/{}{class}/pod{}", root.trim_matches('/'), pod.metadata.uid.as_deref().unwrap_or_default())
}

/// `oom_score_adj` of a container's processes, after the kubelet's `GetContainerOOMScoreAdjust`.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    const GUARANTEED: i64 = -997;
    let node_critical = pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_001_000);
    if node_critical {
        return -997;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => return -997,
        QosClass::BestEffort => return 1000,
        QosClass::Burstable => {}
    }
    let capacity = memory_capacity.max(1);
    let memory = |c: &Container| requests(c).get("memory").copied().unwrap_or_default().value();
    let spec = pod.spec.as_ref();
    let level = spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    let remaining = match (spec, level) {
        (Some(spec), Some(level)) => {
            let pod_level = amounts(Some(level)).get("memory").copied().unwrap_or_default().value();
            let counted: Vec<_> = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|c| is_sidecar(c))).collect();
            let own: i64 = counted.iter().map(|c| memory(c)).sum();
            (pod_level - own).max(0) / i64::try_from(counted.len()).unwrap_or(1).max(1)
        }
        _ => 0,
    };
    let score = |bytes: i64| 1000 - 1000_i64.saturating_mul(bytes) / capacity;
    let mut adjust = score(memory(container) + remaining);
    if is_sidecar(container) {
        let least = spec.into_iter().flat_map(|s| &s.containers).map(memory).min().unwrap_or(0);
        adjust = adjust.min(score(least + remaining));
    }
    let adjust = if adjust < 1000 + GUARANTEED {
        1000 + GUARANTEED
    } else if adjust == 1000 {
        999
    } else {
        adjust
    };
    i32::try_from(adjust).unwrap_or(999)
}

#[cfg(test)]
mod tests;
