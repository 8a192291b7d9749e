//! Probes: what their results amount to, and which of them run now.
//!
//! A probe is tried beside the worker; tries are counted against the thresholds by [`Tally`], and only a verdict that changes
//! reaches the worker. After the kubelet's `prober` package: a container is live until its probe fails, not ready until it succeeds;
//! a startup probe holds the two others back; one that fails for good is not tried again before the container's successor.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};

use super::memory::{Memory, PostStart};
use super::observed::ObservedContainer;
use super::plan::ActionKey;
use super::spec::{RestartPolicy, restart_policy};
use crate::ids::ContainerId;

/// What a probe decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Whether the application has come up.
    Startup,
    /// Whether it takes requests.
    Readiness,
    /// Whether it has to be restarted.
    Liveness,
}

/// What the tries of a probe have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As many tries in a row as `successThreshold` have succeeded.
    Success,
    /// As many tries in a row as `failureThreshold` have failed.
    Failure,
}

impl ProbeKind {
    /// As events have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// Counts tries against the thresholds of a probe.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    run: Option<(Verdict, i32)>,
}

impl Tally {
    /// Takes in one try; says the verdict if the tries in a row reach its threshold.
    pub fn add(&mut self, probe: &Probe, result: Verdict) -> Option<Verdict> {
        let count = match self.run {
            Some((last, count)) if last == result => count.saturating_add(1),
            _ => 1,
        };
        self.run = Some((result, count));
        let threshold = match result {
            Verdict::Success => probe.success_threshold.unwrap_or(1),
            Verdict::Failure => probe.failure_threshold.unwrap_or(3),
        };
        (count >= threshold).then_some(result)
    }
}

/// Whether the postStart hook has not succeeded yet, or the container is only just being started and has one.
pub(super) fn is_hooked(memory: &Memory, container: &Container, seen: &ObservedContainer) -> bool {
    let hook = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
    memory.post_start.contains_key(&seen.id) || hook && memory.in_flight.contains(&ActionKey::Start(seen.name.clone()))
}

/// Whether the container has come up: its postStart hook is done and its startup probe, if any, has succeeded.
pub(super) fn is_started(memory: &Memory, container: &Container, seen: &ObservedContainer) -> bool {
    seen.is_running()
        && !is_hooked(memory, container, seen)
        && (container.startup_probe.is_none() || verdict(memory, seen, ProbeKind::Startup) == Some(Verdict::Success))
}

/// Whether the container takes requests.
pub(super) fn is_ready(memory: &Memory, container: &Container, seen: &ObservedContainer) -> bool {
    is_started(memory, container, seen)
        && (container.readiness_probe.is_none() || verdict(memory, seen, ProbeKind::Readiness) == Some(Verdict::Success))
}

/// Why a running container has to be stopped: which probe, or hook, has failed.
pub(super) fn failed(memory: &Memory, container: &Container, seen: &ObservedContainer) -> Option<Failed> {
    if memory.post_start.get(&seen.id) == Some(&PostStart::Failed) {
        return Some(Failed::PostStartHook);
    }
    failed_probe(memory, container, seen).map(Failed::Probe)
}

/// The probe by which a container has failed for good.
fn failed_probe(memory: &Memory, container: &Container, seen: &ObservedContainer) -> Option<ProbeKind> {
    let has = |kind: &ProbeKind| kind.of(container).is_some() && verdict(memory, seen, *kind) == Some(Verdict::Failure);
    [ProbeKind::Liveness, ProbeKind::Startup].into_iter().find(has)
}

/// What a probe has ended is started again whatever its exit code, unless nothing of it may run twice.
pub(super) fn restarts(memory: &Memory, pod: &Pod, container: &Container, seen: &ObservedContainer) -> bool {
    restart_policy(pod, container) != RestartPolicy::Never && failed_probe(memory, container, seen).is_some()
}

/// What has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    PostStartHook,
    Probe(ProbeKind),
}

/// The probes of one running container that are to be run now. While it ends, only readiness is still of interest.
pub(super) fn due(
    memory: &Memory,
    container: &Container,
    seen: &ObservedContainer,
    ending: bool,
    out: &mut BTreeSet<(ContainerId, ProbeKind)>,
) {
    if !seen.is_running() || is_hooked(memory, container, seen) {
        return;
    }
    let kinds: &[ProbeKind] = match (ending, is_started(memory, container, seen)) {
        (true, true) => &[ProbeKind::Readiness],
        (true, false) => &[],
        (false, true) => &[ProbeKind::Readiness, ProbeKind::Liveness],
        (false, false) => &[ProbeKind::Startup],
    };
    for kind in kinds {
        let over = *kind != ProbeKind::Readiness && verdict(memory, seen, *kind) == Some(Verdict::Failure);
        if kind.of(container).is_some() && !over {
            out.insert((seen.id.clone(), *kind));
        }
    }
}

fn verdict(memory: &Memory, seen: &ObservedContainer, kind: ProbeKind) -> Option<Verdict> {
    memory.probes.get(&(seen.id.clone(), kind)).copied()
}
