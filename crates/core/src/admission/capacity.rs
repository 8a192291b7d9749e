//! Room on the node: the number of pods, and the sum of what they request.

use k8s_openapi::api::core::v1::Pod;

use super::Rejection;
use crate::node::NodeInfo;
use crate::quantity::Amount;
use crate::resources::{Amounts, amounts, pod_requests};

const PODS: &str = "pods";

/// Something that the node has too little of for a pod, in [`units`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) name: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Missing {
    /// How much would have to be given back.
    pub(super) fn amount(&self) -> i64 {
        self.requested.saturating_sub(self.capacity.saturating_sub(self.used))
    }

    pub(super) fn rejection(&self) -> Rejection {
        let Self { name, requested, used, capacity } = self;
        Rejection::new(
            format!("OutOf{name}"),
            format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"),
        )
    }
}

/// All that there is too little of.
pub(super) fn missing(pod: &Pod, node: &NodeInfo, others: &[&Pod], max_pods: u32) -> Vec<Missing> {
    let allocatable = amounts(Some(&node.allocatable));
    let mut missing = Vec::new();
    let allowed = allocatable.get(PODS).map_or(i64::from(max_pods), |pods| pods.value());
    let running = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if running >= allowed {
        missing.push(Missing { name: PODS.to_owned(), requested: 1, used: running, capacity: allowed });
    }
    let requested: Amounts = pod_requests(pod)
        .into_iter()
        .filter(|(name, amount)| units(name, *amount) > 0 && (!is_extended(name) || allocatable.contains_key(name)))
        .collect();
    if requested.is_empty() {
        return missing;
    }
    let used: Vec<Amounts> = others.iter().map(|other| pod_requests(other)).collect();
    for name in in_order(&requested) {
        let of = |amounts: &Amounts| amounts.get(name).map_or(0, |amount| units(name, *amount));
        let (requested, capacity) = (of(&requested), of(&allocatable));
        let used = used.iter().map(of).fold(0, i64::saturating_add);
        if requested > capacity.saturating_sub(used) {
            missing.push(Missing { name: name.to_owned(), requested, used, capacity });
        }
    }
    missing
}

/// What a pod's end gives back, in [`units`].
pub(super) fn request(pod: &Pod, name: &str) -> i64 {
    if name == PODS {
        return 1;
    }
    pod_requests(pod).get(name).map_or(0, |amount| units(name, *amount))
}

/// The three that every node has first; the rest by name. The kubelet takes the rest in no order at all.
fn in_order(requested: &Amounts) -> impl Iterator<Item = &str> {
    const FIRST: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    let rest = requested.keys().map(String::as_str);
    let first = FIRST.into_iter().filter(|n| requested.contains_key(*n));
    first.chain(rest.filter(|n| !FIRST.contains(n) && is_counted(n)))
}

/// The number that is compared and shown: thousandths of CPU, whole units of all else.
fn units(name: &str, amount: Amount) -> i64 {
    match name {
        "cpu" => amount.milli_value(),
        _ => amount.value(),
    }
}

fn is_counted(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

/// A resource that Kubernetes itself does not define. One that the node does not have at all is some other component's business
/// (a device of the cluster, a resource claim), as for the kubelet.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}
