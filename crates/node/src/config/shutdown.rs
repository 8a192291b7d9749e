//! How long a shutdown of the machine waits for pods.

use std::time::Duration;

use kube_pet_core::shutdown::{ShutdownGrace, by_criticality};

use super::NodeConfiguration;
use super::duration;
use super::section::{Field, Section};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn read(top: &Section<'_>, config: &mut NodeConfiguration) {
    let periods = [
        ("shutdownGracePeriod", &mut config.shutdown_grace_period),
        ("shutdownGracePeriodCriticalPods", &mut config.shutdown_grace_period_critical_pods),
    ];
    for (key, into) in periods {
        top.duration(key, Duration::ZERO, into);
        if !into.is_zero() && *into < SECOND {
            top.conflict(key, "is too short", "write 0s, or at least 1s");
        }
    }
    let (all, critical) = (config.shutdown_grace_period, config.shutdown_grace_period_critical_pods);
    if critical > all {
        let what = format!("is longer than shutdownGracePeriod, {}", duration::format(all));
        top.conflict("shutdownGracePeriodCriticalPods", &what, "shorten the one or lengthen the other: it is a part of it");
    }
    let groups = &mut config.shutdown_grace_period_by_pod_priority;
    top.list("shutdownGracePeriodByPodPriority", group, groups);
    let periods = !all.is_zero() || !critical.is_zero();
    if periods && !groups.is_empty() {
        top.conflict(
            "shutdownGracePeriodByPodPriority",
            "cannot stand beside shutdownGracePeriod and shutdownGracePeriodCriticalPods",
            "remove it, or both of them",
        );
    }
    let mut priorities: Vec<i32> = groups.iter().map(|group| group.priority).collect();
    priorities.sort_unstable();
    if let Some(twice) = priorities.windows(2).find(|pair| pair[0] == pair[1]) {
        let what = format!("names the priority {} twice", twice[0]);
        top.conflict("shutdownGracePeriodByPodPriority", &what, "keep one of them");
    }
}

fn group(field: &Field<'_>) -> Option<ShutdownGrace> {
    let section = field.section();
    let mut group = ShutdownGrace::default();
    section.number("priority", i64::from(i32::MIN)..=i64::from(i32::MAX), &mut group.priority);
    section.number("shutdownGracePeriodSeconds", 0..=i64::from(i32::MAX), &mut group.shutdown_grace_period_seconds);
    section.finish();
    Some(group)
}

impl NodeConfiguration {
    /// How long a shutdown waits for which pods, from low to high priorities; empty if it does not wait.
    pub fn shutdown_groups(&self) -> Vec<ShutdownGrace> {
        let mut groups = self.shutdown_grace_period_by_pod_priority.clone();
        if groups.is_empty() {
            groups = by_criticality(self.shutdown_grace_period, self.shutdown_grace_period_critical_pods);
        }
        groups.sort_by_key(|group| group.priority);
        groups
    }
}
