//! Room on the node: the number of pods, and the sum of what they request.

use k8s_openapi::api::core::v1::Pod;

use super::Rejection;
use crate::node::NodeInfo;
use crate::quantity::Amount;
use crate::resources::{Amounts, amounts, pod_requests};

pub(super) fn check(pod: &Pod, node: &NodeInfo, others: &[&Pod], max_pods: u32) -> Result<(), Rejection> {
    let allocatable = amounts(Some(&node.allocatable));
    let allowed = allocatable.get("pods").map_or(i64::from(max_pods), |pods| pods.value());
    let running = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if running >= allowed {
        return Err(insufficient("pods", 1, running, allowed));
    }
    let requested: Amounts = pod_requests(pod)
        .into_iter()
        .filter(|(name, amount)| units(name, *amount) > 0 && (!is_extended(name) || allocatable.contains_key(name)))
        .collect();
    if requested.is_empty() {
        return Ok(());
    }
    let used: Vec<Amounts> = others.iter().map(|other| pod_requests(other)).collect();
    for name in in_order(&requested) {
        let of = |amounts: &Amounts| amounts.get(name).map_or(0, |amount| units(name, *amount));
        let (requested, capacity) = (of(&requested), of(&allocatable));
        let used = used.iter().map(of).fold(0, i64::saturating_add);
        if requested > capacity.saturating_sub(used) {
            return Err(insufficient(name, requested, used, capacity));
        }
    }
    Ok(())
}

fn insufficient(name: &str, requested: i64, used: i64, capacity: i64) -> Rejection {
    Rejection::new(
        format!("OutOf{name}"),
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"),
    )
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
