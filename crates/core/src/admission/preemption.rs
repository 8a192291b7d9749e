//! Which pods go so that a critical one has room (`pkg/kubelet/preemption`).
//!
//! As few guaranteed pods as can be, then as few burstable ones, then as few that ask for nothing; of them those that come nearest
//! to what is missing, and of equals the smaller.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;

use super::Rejection;
use super::capacity::{Missing, request};
use crate::ids::PodUid;
use crate::pod::pod_uid;
use crate::resources::{QosClass, is_critical, qos_class};

/// `status.reason` of a pod that had to go for a critical one, and the reason of its event.
pub const REASON: &str = "Preempting";
/// `status.message`, and the text of the event.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";
/// The message of its condition `DisruptionTarget`.
pub const DISRUPTION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// Pods that have to go before another one has room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// The pods.
    pub victims: Vec<PodUid>,
    /// What is missing, the first if it is more: metrics count by it.
    pub resource: String,
}

/// What is still missing, by resource.
#[derive(Clone, Debug)]
struct Requirements(Vec<(String, i64)>);

impl Requirements {
    /// What is left to find when these pods are gone.
    fn without(&self, pods: &[&Pod]) -> Self {
        let left = |(name, amount): &(String, i64)| {
            let freed = pods.iter().map(|pod| request(pod, name)).fold(0, i64::saturating_add);
            Some((name.clone(), amount.saturating_sub(freed))).filter(|(_, left)| *left > 0)
        };
        Self(self.0.iter().filter_map(left).collect())
    }

    /// How far a pod is from giving back all of it: each resource counts for 1 at most.
    fn distance(&self, pod: &Pod) -> f64 {
        let part = |(name, amount): &(String, i64)| {
            let left = amount.saturating_sub(request(pod, name)).max(0);
            (left as f64 / *amount as f64).powi(2)
        };
        self.0.iter().map(part).sum()
    }

    fn not_found(&self) -> Rejection {
        let list = self.0.iter().fold(String::new(), |mut list, (name, amount)| {
            let _ = write!(list, "(res: {name}, q: {amount}), ");
            list
        });
        Rejection::new(
            "UnexpectedAdmissionError",
            format!(
                "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: \
                 no set of running pods found to reclaim resources: [{list}]"
            ),
        )
    }
}

/// The pods among `others` that go for the critical `pod`.
///
/// # Errors
/// When all that may go together would not be enough.
pub(super) fn choose(pod: &Pod, others: &[&Pod], missing: &[Missing]) -> Result<Preemption, Rejection> {
    let requirements = Requirements(missing.iter().map(|missing| (missing.name.clone(), missing.amount())).collect());
    let of = |class| -> Vec<&Pod> { others.iter().copied().filter(|other| preempts(pod, other) && qos_class(other) == class).collect() };
    let (best_effort, burstable, guaranteed) = (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let unmet = requirements.without(&[&best_effort[..], &burstable, &guaranteed].concat());
    if !unmet.0.is_empty() {
        return Err(unmet.not_found());
    }
    // What is needed of a class is what is missing when all of the lesser ones are gone.
    let of_guaranteed = nearest(guaranteed, requirements.without(&[&best_effort[..], &burstable].concat()))?;
    let of_burstable = nearest(burstable, requirements.without(&[&best_effort[..], &of_guaranteed].concat()))?;
    let of_best_effort = nearest(best_effort, requirements.without(&[&of_burstable[..], &of_guaranteed].concat()))?;
    let victims = [of_best_effort, of_burstable, of_guaranteed].concat();
    Ok(Preemption {
        victims: victims.into_iter().map(pod_uid).collect(),
        resource: missing.first().map(|missing| missing.name.clone()).unwrap_or_default(),
    })
}

/// Pods of one class that give back what is required, the one that comes nearest first.
fn nearest(mut pods: Vec<&Pod>, mut requirements: Requirements) -> Result<Vec<&Pod>, Rejection> {
    let mut chosen = Vec::new();
    while !requirements.0.is_empty() {
        let mut best: Option<(usize, f64)> = None;
        for (place, pod) in pods.iter().enumerate() {
            let distance = requirements.distance(pod);
            let better = best.is_none_or(|(at, least)| distance < least || distance == least && is_smaller(pod, pods[at]));
            if better {
                best = Some((place, distance));
            }
        }
        let Some((place, _)) = best else { return Err(requirements.not_found()) };
        // As the kubelet: the last takes the place, which decides between equals.
        let pod = pods.swap_remove(place);
        requirements = requirements.without(&[pod]);
        chosen.push(pod);
    }
    Ok(chosen)
}

/// Equals count as smaller.
fn is_smaller(a: &Pod, b: &Pod) -> bool {
    let asked = |pod| (request(pod, "memory"), request(pod, "cpu"));
    asked(a) <= asked(b)
}

fn preempts(pod: &Pod, other: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    let higher = || priority(pod).zip(priority(other)).is_some_and(|(own, others)| own > others);
    is_critical(pod) && !is_critical(other) || higher()
}
