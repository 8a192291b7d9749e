use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Amount>;

/// Parses a resource list. What is no quantity is left out: the API server lets none through, and admission refuses static pods
/// that have one.
pub fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    list.into_iter().flatten().filter_map(|(name, quantity)| Some((name.clone(), Amount::of(quantity).ok()?))).collect()
}

/// A container's requests; a missing one is the limit, as the API server's defaulting has it (static pods never went through it).
pub fn container_requests(container: &Container) -> Amounts {
    requests_of(container.resources.as_ref())
}

pub(super) fn requests_of(resources: Option<&ResourceRequirements>) -> Amounts {
    let mut requests = amounts(resources.and_then(|r| r.limits.as_ref()));
    requests.extend(amounts(resources.and_then(|r| r.requests.as_ref())));
    requests
}

pub(super) fn limits_of(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

/// Whether an init container is a sidecar: it keeps running beside the app containers (KEP-753).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn counts_at_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn any_counts(list: Option<&BTreeMap<String, Quantity>>) -> bool {
    list.is_some_and(|list| list.keys().any(|name| counts_at_pod_level(name)))
}

/// Whether `spec.resources` holds anything that counts.
pub fn has_pod_level_resources(pod: &Pod) -> bool {
    pod_level(pod).is_some_and(|r| any_counts(r.requests.as_ref()) || any_counts(r.limits.as_ref()))
}

/// Whether `spec.resources.requests` holds anything that counts.
pub fn has_pod_level_requests(pod: &Pod) -> bool {
    pod_level(pod).is_some_and(|r| any_counts(r.requests.as_ref()))
}

pub(super) fn pod_level(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

fn add_all(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn max_all(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = most.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

/// The most that is in use at any time: all app containers and sidecars together, or an init container with the sidecars that
/// were started before it.
pub(super) fn aggregate(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::new();
    };
    let mut running = Amounts::new();
    for container in &spec.containers {
        add_all(&mut running, &of(container));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut own = of(container);
        if is_sidecar(container) {
            add_all(&mut running, &own);
            add_all(&mut sidecars, &own);
            own.clone_from(&sidecars);
        } else {
            add_all(&mut own, &sidecars);
        }
        max_all(&mut starting, &own);
    }
    max_all(&mut running, &starting);
    running
}

fn apply_pod_level(result: &mut Amounts, list: Option<&BTreeMap<String, Quantity>>) {
    result.extend(amounts(list).into_iter().filter(|(name, _)| counts_at_pod_level(name)));
}

/// What the pod counts for on its node, overhead included.
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut requests = aggregate(pod, container_requests);
    if has_pod_level_requests(pod) {
        apply_pod_level(&mut requests, pod_level(pod).and_then(|r| r.requests.as_ref()));
    }
    add_all(&mut requests, &overhead(pod));
    requests
}

/// The sum of what the pod may use; overhead is added only where there is a limit.
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut limits = aggregate(pod, limits_of);
    if has_pod_level_resources(pod) {
        apply_pod_level(&mut limits, pod_level(pod).and_then(|r| r.limits.as_ref()));
    }
    for (name, amount) in overhead(pod) {
        if let Some(limit) = limits.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit += amount;
        }
    }
    limits
}

fn overhead(pod: &Pod) -> Amounts {
    amounts(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()))
}
