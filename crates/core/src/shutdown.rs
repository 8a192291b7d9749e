//! Which pods end when, as their machine is shut down (the kubelet's `pkg/kubelet/nodeshutdown`).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::resources::SYSTEM_CRITICAL_PRIORITY;

/// `status.reason` of a pod that a shutdown has ended.
pub const REASON: &str = "Terminated";
/// Its `status.message`, and that of its condition `DisruptionTarget`.
pub const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// `status.reason` of a pod that comes during a shutdown.
pub const REFUSED: &str = "NodeShutdown";
/// What is told of such a pod.
pub const REFUSED_MESSAGE: &str = "Pod was rejected as the node is shutting down.";
/// Why the node is not ready.
pub const NOT_READY: &str = "node is shutting down";

/// How long pods of a priority, and of those up to the next one, have to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownGrace {
    /// The lowest priority.
    pub priority: i32,
    /// The time, in seconds.
    pub shutdown_grace_period_seconds: u32,
}

impl ShutdownGrace {
    /// Seconds that a pod of this group has: never more than it asks for.
    #[must_use]
    pub fn pod_grace(&self, pod: &Pod) -> i64 {
        let most = i64::from(self.shutdown_grace_period_seconds);
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        own.map_or(most, |own| own.min(most))
    }
}

/// The groups that `shutdownGracePeriod` and the part of it for critical pods stand for, in whole seconds; none where there is no
/// time at all.
#[must_use]
pub fn by_criticality(all: Duration, critical: Duration) -> Vec<ShutdownGrace> {
    if all.is_zero() || critical > all {
        return Vec::new();
    }
    let group = |priority, period: Duration| ShutdownGrace {
        priority,
        shutdown_grace_period_seconds: u32::try_from(period.as_secs()).unwrap_or(u32::MAX),
    };
    vec![group(0, all - critical), group(SYSTEM_CRITICAL_PRIORITY, critical)]
}

/// What all groups take together: how long the shutdown has to be held up.
#[must_use]
pub fn total(groups: &[ShutdownGrace]) -> Duration {
    groups.iter().map(|group| Duration::from_secs(u64::from(group.shutdown_grace_period_seconds))).sum()
}

/// The pods by groups, which rise in their priority. A pod is in the last group whose priority is not above its own; one below all
/// of them is in the first.
#[must_use]
pub fn by_priority<P: AsRef<Pod> + Clone>(groups: &[ShutdownGrace], pods: &[P]) -> Vec<(ShutdownGrace, Vec<P>)> {
    let place = |pod: &Pod| {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        groups.iter().rposition(|group| group.priority <= priority).unwrap_or(0)
    };
    let of = |at: usize| pods.iter().filter(|pod| place((*pod).as_ref()) == at).cloned().collect();
    groups.iter().enumerate().map(|(at, group)| (*group, of(at))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn group(priority: i32, seconds: u32) -> ShutdownGrace {
        ShutdownGrace { priority, shutdown_grace_period_seconds: seconds }
    }

    fn pod(priority: Option<i32>, grace: Option<i64>) -> Arc<Pod> {
        let spec = json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace});
        Arc::new(serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    #[test]
    fn two_periods_are_two_groups() {
        let seconds = Duration::from_secs;
        assert_eq!(by_criticality(Duration::ZERO, Duration::ZERO), []);
        assert_eq!(by_criticality(seconds(30), seconds(10)), [group(0, 20), group(2_000_000_000, 10)]);
        assert_eq!(by_criticality(seconds(30), seconds(30)), [group(0, 0), group(2_000_000_000, 30)]);
        assert_eq!(total(&by_criticality(seconds(30), seconds(10))), seconds(30));
        assert_eq!(by_criticality(Duration::from_millis(2500), seconds(1)), [group(0, 1), group(2_000_000_000, 1)]);
    }

    #[test]
    fn a_pod_is_in_the_group_that_begins_at_or_below_its_priority() {
        let groups = [group(0, 5), group(1000, 10), group(2_000_000_000, 20)];
        let table = [
            (Some(-5), 0),
            (None, 0),
            (Some(0), 0),
            (Some(999), 0),
            (Some(1000), 1),
            (Some(1001), 1),
            (Some(1_999_999_999), 1),
            (Some(2_000_000_000), 2),
            (Some(2_000_001_000), 2),
        ];
        for (priority, expected) in table {
            let pods = [pod(priority, None)];
            let full: Vec<_> = by_priority(&groups, &pods).into_iter().map(|(_, pods)| pods.len()).collect();
            assert_eq!(full.iter().position(|count| *count == 1), Some(expected), "{priority:?}");
        }
    }

    #[test]
    fn a_pod_has_no_more_time_than_it_asks_for() {
        for (own, expected) in [(None, 20), (Some(5), 5), (Some(20), 20), (Some(90), 20)] {
            assert_eq!(group(0, 20).pod_grace(&pod(None, own)), expected, "{own:?}");
        }
    }
}
