//! What is kept back from pods, and from which remainders on they have to go.

use std::collections::BTreeMap;
use std::time::Duration;

use kube_pet_core::eviction::{Limit, Signal, Threshold};
use kube_pet_core::quantity::Amount;

use super::section::{Field, Section};
use super::{NodeConfiguration, values};

const LIMIT: &str = "write a quantity such as 100Mi, or a part such as 10%";

pub(super) fn read(top: &Section<'_>, config: &mut NodeConfiguration) {
    for (key, into) in [("systemReserved", &mut config.system_reserved), ("kubeReserved", &mut config.kube_reserved)] {
        let section = top.section(key);
        for (resource, field) in section.all() {
            if !["cpu", "memory", "ephemeral-storage"].contains(&resource) {
                field.problem("cannot be reserved", "reserve cpu, memory or ephemeral-storage");
                continue;
            }
            let Some(text) = field.scalar() else { continue };
            match text.parse::<Amount>() {
                Ok(amount) if !amount.is_negative() => {
                    into.insert(resource.to_owned(), amount.to_quantity());
                }
                _ => field.problem(format!("{text:?} is not a quantity"), "write a number such as 500m, 1Gi or 2"),
            }
        }
    }
    eviction(top, config);
    top.duration("evictionPressureTransitionPeriod", Duration::ZERO, &mut config.eviction_pressure_transition_period);
}

fn eviction(top: &Section<'_>, config: &mut NodeConfiguration) {
    let mut merge = false;
    top.bool("mergeDefaultEvictionSettings", &mut merge);
    // As for the kubelet, what is written replaces all the defaults.
    by_signal(top, "evictionHard", limit, &mut config.eviction_hard);
    if merge {
        for (signal, threshold) in values::default_thresholds() {
            let written = top.peek("evictionHard").is_some_and(|field| field.child(signal.name()).is_some());
            if !written {
                config.eviction_hard.insert(signal, threshold);
            }
        }
    }
    by_signal(top, "evictionSoft", limit, &mut config.eviction_soft);
    by_signal(top, "evictionSoftGracePeriod", |field| field.duration(Duration::ZERO), &mut config.eviction_soft_grace_period);
    let written = top.peek("evictionSoftGracePeriod");
    for signal in config.eviction_soft.keys().filter(|signal| !config.eviction_soft_grace_period.contains_key(signal)) {
        // What is there and not usable is told of where it is.
        if written.as_ref().is_none_or(|field| field.child(signal.name()).is_none())
            && let Some(field) = top.peek("evictionSoft").and_then(|field| field.child(signal.name()))
        {
            field.problem("has no grace period", format!("set {} in evictionSoftGracePeriod", signal.name()));
        }
    }
    by_signal(top, "evictionMinimumReclaim", reclaim, &mut config.eviction_minimum_reclaim);
    top.number("evictionMaxPodGracePeriod", 0..=i64::from(i32::MAX), &mut config.eviction_max_pod_grace_period);
}

/// A mapping from signals. A value that is `None` is left out.
fn by_signal<T>(top: &Section<'_>, key: &'static str, read: impl Fn(&Field<'_>) -> Option<T>, into: &mut BTreeMap<Signal, T>) {
    let Some(field) = top.field(key) else { return };
    into.clear();
    for (name, field) in field.section().all() {
        let Some(signal) = Signal::ALL.iter().find(|signal| signal.name() == name) else {
            let known: Vec<_> = Signal::ALL.iter().map(|signal| signal.name()).collect();
            field.problem("is not measured", format!("use {}", known.join(", ")));
            continue;
        };
        if let Some(value) = read(&field) {
            into.insert(*signal, value);
        }
    }
}

fn threshold(field: &Field<'_>) -> Option<Threshold> {
    let text = field.scalar()?;
    let parsed = text.parse::<Threshold>();
    parsed.map_err(|()| field.problem(format!("{text:?} is not a limit"), LIMIT)).ok()
}

/// `0%` and `100%` are no limits.
fn limit(field: &Field<'_>) -> Option<Threshold> {
    let limit = threshold(field).filter(|limit| !limit.is_off())?;
    if limit.is_zero() {
        field.problem("must be more than 0", "write 0% for no limit");
        return None;
    }
    Some(limit)
}

fn reclaim(field: &Field<'_>) -> Option<Threshold> {
    let reclaim = threshold(field)?;
    if matches!(reclaim, Threshold::Percent(_)) && reclaim.is_zero() {
        field.problem("must be more than 0%", "remove it for no minimum");
        return None;
    }
    Some(reclaim)
}

impl NodeConfiguration {
    /// All limits, hard and soft.
    pub fn eviction_limits(&self) -> Vec<Limit> {
        let reclaim = |signal| self.eviction_minimum_reclaim.get(&signal).copied();
        let limit = |signal: &Signal, threshold: &Threshold, grace| Limit {
            signal: *signal,
            threshold: *threshold,
            grace,
            reclaim: reclaim(*signal),
        };
        let hard = self.eviction_hard.iter().map(|(signal, threshold)| limit(signal, threshold, Duration::ZERO));
        let soft = self.eviction_soft.iter().map(|(signal, threshold)| {
            let grace = self.eviction_soft_grace_period.get(signal).copied().unwrap_or_default();
            limit(signal, threshold, grace)
        });
        hard.chain(soft).collect()
    }
}
