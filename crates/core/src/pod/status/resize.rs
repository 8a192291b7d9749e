//! What the status says of resources: what containers and pod have, what they were given, and a resize that is under way.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::View;
use crate::pod::observed::ObservedContainer;
use crate::pod::resizing::{RESIZE_IN_PROGRESS, RESIZE_PENDING, actual};
use crate::quantity::Amount;
use crate::resize::{ContainerAmounts, PodAmounts};
use crate::resources::{Amounts, pod_limits, pod_requests};

type List = BTreeMap<String, Quantity>;

/// `PodResizePending` and `PodResizeInProgress`, where they hold.
pub(super) fn conditions(view: &View<'_>, old: &[PodCondition]) -> Vec<PodCondition> {
    let memory = &view.memory.resize;
    let pending = memory
        .pending
        .as_ref()
        .map(|pending| condition(view, old, RESIZE_PENDING, Some("Deferred"), Some(&pending.message), pending.generation));
    let in_progress = view.differences.standing().busy.then(|| {
        let error = memory.in_progress.as_ref().and_then(|p| p.error.as_ref());
        let generation = memory.in_progress.as_ref().map_or(view.desired.pod.metadata.generation, |p| p.generation);
        condition(view, old, RESIZE_IN_PROGRESS, error.map(|_| "Error"), error, generation)
    });
    pending.into_iter().chain(in_progress).collect()
}

/// A transition is a change of the reason.
fn condition(
    view: &View<'_>,
    old: &[PodCondition],
    kind: &str,
    reason: Option<&str>,
    message: Option<&String>,
    generation: Option<i64>,
) -> PodCondition {
    let before = old.iter().find(|c| c.type_ == kind && c.reason.as_deref() == reason);
    let same = before.filter(|c| c.message.as_ref() == message && c.observed_generation == generation);
    let now = || Some(Time(view.now.wall));
    PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.map(str::to_owned),
        message: message.cloned(),
        last_probe_time: same.and_then(|c| c.last_probe_time.clone()).or_else(now),
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or_else(now),
        observed_generation: generation,
    }
}

/// `resources` of a container that Podman has: of one that runs what it has, else what it was given.
pub(super) fn of_container(view: &View<'_>, container: &Container, newest: &ObservedContainer) -> ResourceRequirements {
    let mut resources = container.resources.clone().unwrap_or_default();
    let Some(has) = actual(&view.memory.actuated, newest).filter(|_| newest.is_running()) else { return resources };
    let given = ContainerAmounts::of(view.desired.pod, container);
    // What is as it was given keeps the words of the spec.
    let mut put = |limits: bool, name: &str, has: i64, given: i64| {
        let list = if limits { &mut resources.limits } else { &mut resources.requests };
        if has == given {
            return;
        }
        match (list, has) {
            (Some(list), 0) => drop(list.remove(name)),
            (Some(list), has) => drop(list.insert(name.to_owned(), quantity(name, has))),
            (None, _) => {}
        }
    };
    put(true, "cpu", has.cpu_limit, given.cpu_limit);
    put(true, "memory", has.memory_limit, given.memory_limit);
    put(false, "cpu", has.cpu_request, given.cpu_request);
    put(false, "memory", has.memory_request, given.memory_request);
    resources
}

fn quantity(name: &str, number: i64) -> Quantity {
    if name == "cpu" { Amount::milli(number) } else { Amount::bytes(number) }.to_quantity()
}

/// `status.allocatedResources` and `status.resources`: of the pod as a whole, given and had (KEP-5419).
pub(super) fn of_pod(view: &View<'_>, phase: &str) -> (Option<List>, Option<ResourceRequirements>) {
    let pod = view.desired.pod;
    let requests = pod_requests(pod);
    let allocated = Some(list(&requests)).filter(|list| !list.is_empty());
    let has = view.memory.actuated.pod.filter(|_| phase == "Running");
    let Some(has) = has else {
        let resources = ResourceRequirements { requests: allocated.clone(), limits: some(list(&pod_limits(pod))), claims: None };
        return (allocated, some_resources(resources));
    };
    let own = pod.spec.as_ref().and_then(|spec| spec.resources.clone()).unwrap_or_default();
    let (mut own_requests, mut own_limits) = (own.requests.unwrap_or_default(), own.limits.unwrap_or_default());
    for name in ["cpu", "memory"] {
        if let Some(amount) = requests.get(name).filter(|amount| !amount.is_zero()) {
            own_requests.entry(name.to_owned()).or_insert_with(|| amount.to_quantity());
        }
    }
    let given = has.towards(PodAmounts::of(pod));
    if has.cpu_shares != given.cpu_shares {
        let milli = i64::try_from(has.cpu_shares.saturating_mul(1000) / 1024).unwrap_or(i64::MAX);
        own_requests.insert("cpu".to_owned(), Amount::milli(milli).to_quantity());
    }
    let limits = pod_limits(pod);
    let mut limit = |name: &str, has: Option<i64>, given: Option<i64>, milli_or_bytes: i64| match has {
        Some(_) if has == given => {
            if let Some(amount) = limits.get(name) {
                own_limits.entry(name.to_owned()).or_insert_with(|| amount.to_quantity());
            }
        }
        Some(_) => drop(own_limits.insert(name.to_owned(), quantity(name, milli_or_bytes))),
        None => drop(own_limits.remove(name)),
    };
    limit("cpu", has.cpu_quota, given.cpu_quota, has.cpu_quota.unwrap_or(0) / 100);
    limit("memory", has.memory_limit, given.memory_limit, has.memory_limit.unwrap_or(0));
    let resources = ResourceRequirements { requests: some(own_requests), limits: some(own_limits), claims: None };
    (allocated, some_resources(resources))
}

fn list(amounts: &Amounts) -> List {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.to_quantity())).collect()
}

fn some(list: List) -> Option<List> {
    Some(list).filter(|list| !list.is_empty())
}

fn some_resources(resources: ResourceRequirements) -> Option<ResourceRequirements> {
    Some(resources).filter(|r| r.requests.is_some() || r.limits.is_some())
}
