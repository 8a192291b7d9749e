use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::allocation::Allocation;
use crate::quantity::Amount;
use crate::resources::{QosClass, pod_requests, qos_class};

/// The order in which pending resizes are tried, as the kubelet's `sortPendingResizes`: first those that ask for no more than they
/// have, then by priority, guaranteed pods before others, and those that have waited longest. The numbers are places in `pending`:
/// each pod as it is wanted, with what it has, and since when its resize is deferred.
pub fn in_order(pending: &[(&Pod, &Allocation, Option<Timestamp>)]) -> Vec<usize> {
    let key = |place: &usize| {
        let (pod, allocation, since) = pending[*place];
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let waits_since = since.map_or(i128::MAX, Timestamp::as_nanosecond);
        (asks_for_more(pod, allocation), Reverse(priority), qos_class(pod) != QosClass::Guaranteed, waits_since)
    };
    let mut places: Vec<_> = (0..pending.len()).collect();
    places.sort_by_key(key);
    places
}

fn asks_for_more(pod: &Pod, allocation: &Allocation) -> bool {
    let mut given = pod.clone();
    allocation.apply(&mut given);
    let (before, after) = (pod_requests(&given), pod_requests(pod));
    ["cpu", "memory"].iter().any(|name| {
        let of = |amounts: &crate::resources::Amounts| amounts.get(*name).copied().unwrap_or(Amount::ZERO);
        of(&after) > of(&before)
    })
}
