//! The decision itself.

mod init;
mod resize;
mod rounds;
mod start;
mod stop;
mod waiting;

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::backoff::BackoffPolicy;
use super::memory::{Memory, Rejected};
use super::observed::{Observed, SandboxFacts};
use super::plan::{Action, ActionKey, Plan, PodEvent, ResizeStanding};
use super::probes::{self, ProbeKind};
use super::resizing::Differences;
use super::rounds::Round;
use super::spec::{ContainerKind, Desired, find_container};
use super::status;
use crate::ids::{ContainerId, ContainerName};
use crate::resources::is_sidecar;

/// What holds for all pods of the node.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Restarts of crashing containers.
    pub crash: BackoffPolicy,
    /// Retried pulls.
    pub image: BackoffPolicy,
    /// Mounts can be read-only with all mounts below them.
    pub recursive_read_only: bool,
    /// `status.hostIPs`, primary first.
    pub host_ips: Vec<IpAddr>,
}

/// The two clocks. What this run remembers is timed by the steady one, which no clock step touches; what is written down
/// (FinishedAt, startTime) is in wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// A clock that only runs forward, from any origin. All times in [`Memory`] but `start_time`, and [`Plan::wake_at`], are of it.
    pub steady: Timestamp,
}

/// What is due for one pod now. Pure and total; see the module's state diagrams.
pub fn decide(desired: Desired<'_>, observed: &Observed, memory: &Memory, rules: &Rules, now: Now) -> Plan {
    let differences = Differences::find(desired.pod, observed, memory);
    let mut draft = Draft {
        desired,
        observed,
        memory,
        rules,
        now,
        differences,
        round: Round::find(desired.pod, observed, memory),
        actions: Vec::new(),
        events: Vec::new(),
        replaced: BTreeSet::new(),
        wake_at: None,
        failed: false,
    };
    let evicted = memory.evicted.as_ref().map(|eviction| eviction.failed.clone());
    let failed = memory.rejected.clone().or(evicted).or_else(|| draft.deadline_exceeded());
    draft.failed = failed.is_some();
    let waiting = draft.waiting();
    let (differences, round) = (&draft.differences, draft.round);
    let view = status::View { desired, observed, memory, rules, now, failed: failed.as_ref(), waiting: &waiting, differences, round };
    let status = status::pod_status(&view);
    let terminal = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let finished = match (desired.stop, terminal) {
        (Some(stop), _) => draft.stop(stop),
        (None, true) => {
            draft.end(draft.grace());
            false
        }
        (None, false) => {
            draft.run();
            false
        }
    };
    let ending = desired.stop.is_some() || terminal;
    let probes = draft.probes(ending);
    // What ends is not changed any more.
    let resize = if ending { ResizeStanding::default() } else { draft.differences.standing() };
    let abandoned = draft.abandoned();
    let Draft { mut actions, events, replaced, wake_at, .. } = draft;
    actions.retain(|a| !memory.in_flight.contains(&a.key()));
    Plan { actions, abandoned, probes, status, events, wake_at, resize, replaced, finished }
}

/// Why a container waits, for its status: reason and message.
pub(super) type Waiting = Vec<(ContainerName, &'static str, String)>;

struct Draft<'a> {
    desired: Desired<'a>,
    observed: &'a Observed,
    memory: &'a Memory,
    rules: &'a Rules,
    now: Now,
    /// What the containers have against what the pod was given.
    differences: Differences,
    round: Round,
    actions: Vec<Action>,
    events: Vec<PodEvent>,
    replaced: BTreeSet<ContainerId>,
    wake_at: Option<Timestamp>,
    /// The node fails the pod whatever its containers do.
    failed: bool,
}

impl<'a> Draft<'a> {
    fn pod(&self) -> &'a Pod {
        self.desired.pod
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }

    /// A moment of the wall clock, on the steady one.
    fn steady(&self, wall: Timestamp) -> Timestamp {
        self.now.steady.checked_add(wall.duration_since(self.now.wall)).unwrap_or(self.now.steady)
    }

    fn deadline_exceeded(&mut self) -> Option<Rejected> {
        let seconds = self.pod().spec.as_ref()?.active_deadline_seconds?;
        let start = self.memory.start_time?;
        let deadline = start.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        if self.now.wall < deadline {
            self.wake(self.steady(deadline));
            return None;
        }
        Some(Rejected {
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
        })
    }

    /// Seconds from the first signal to SIGKILL where nothing else says so.
    fn grace(&self) -> i64 {
        let own = || self.pod().spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        self.eviction_grace().unwrap_or_else(own).max(1)
    }

    fn eviction_grace(&self) -> Option<i64> {
        self.memory.evicted.as_ref().and_then(|eviction| eviction.grace_seconds)
    }

    fn init(&self) -> &'a [Container] {
        self.pod().spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
    }

    fn apps(&self) -> &'a [Container] {
        self.pod().spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default()
    }

    // --- running

    fn run(&mut self) {
        if self.end_round() {
            return;
        }
        self.kill_unwanted();
        self.post_start();
        let Some(sandbox) = self.observed.sandbox.as_ref() else {
            self.prepare();
            self.first_images();
            return;
        };
        if self.stale_running(sandbox) {
            return;
        }
        self.resize();
        self.ephemeral(sandbox);
        if self.apps_are_done(sandbox) {
            let grace = self.grace();
            self.stop_running(grace);
        } else if self.init_done(sandbox) {
            for container in self.apps() {
                self.advance(ContainerKind::App, container, sandbox);
                if self.holds_back(container) {
                    break;
                }
            }
        }
    }

    fn prepare(&mut self) {
        match &self.memory.prepare_failure {
            Some(failure) if self.now.steady < failure.retry_at => self.wake(failure.retry_at),
            _ => self.actions.push(Action::Prepare),
        }
    }

    /// Every app container has ended for good: sidecars and ephemeral containers must not keep the pod alive.
    fn apps_are_done(&self, sandbox: &SandboxFacts) -> bool {
        self.observed.any_running()
            && self.apps().iter().all(|c| {
                let ended = self.observed.newest(&c.name).is_some_and(|newest| newest.exit().is_some());
                ended && matches!(self.turn(c, sandbox), start::Turn::Never)
            })
    }

    /// The kubelet starts containers one after the other and waits for each one's postStart hook: the next one waits too.
    fn holds_back(&self, container: &Container) -> bool {
        if container.lifecycle.as_ref().is_none_or(|l| l.post_start.is_none()) {
            return false;
        }
        let name = ContainerName::from(container.name.as_str());
        let starting = [ActionKey::Start(name.clone()), ActionKey::Image(name)];
        let hooked = self.observed.newest(&container.name).is_some_and(|c| c.is_running() && probes::is_hooked(self.memory, container, c));
        hooked || starting.iter().any(|key| self.memory.in_flight.contains(key) || self.actions.iter().any(|a| a.key() == *key))
    }

    /// The postStart hooks of containers that have just been started.
    fn post_start(&mut self) {
        for container in self.observed.containers.iter().filter(|c| c.is_running() && !self.memory.stopping.contains_key(&c.id)) {
            if self.memory.post_start.get(&container.id) == Some(&super::PostStart::Due) {
                self.actions.push(Action::PostStart { id: container.id.clone(), container: container.name.clone() });
            }
        }
    }

    /// Ephemeral containers are started once, whatever the pod's others do.
    fn ephemeral(&mut self, sandbox: &SandboxFacts) {
        for (kind, container) in super::containers(self.pod()).filter(|(kind, _)| *kind == ContainerKind::Ephemeral) {
            let ran = super::container_status(self.pod(), &container.name).is_some_and(|s| s.container_id.is_some());
            let newest = self.observed.newest(&container.name);
            if newest.is_none() && !ran || newest.is_some_and(|c| c.state == super::ContainerState::Created) {
                self.advance(kind, &container, sandbox);
            }
        }
    }

    fn probes(&self, ending: bool) -> BTreeSet<(ContainerId, ProbeKind)> {
        let mut out = BTreeSet::new();
        for seen in self.observed.containers.iter().filter(|c| c.is_running()) {
            if let Some((kind, container)) = find_container(self.pod(), seen.name.as_str())
                && (kind == ContainerKind::App || is_sidecar(&container))
            {
                let ending = ending || self.memory.stopping.contains_key(&seen.id);
                probes::due(self.memory, &container, seen, ending, &mut out);
            }
        }
        out
    }

    /// Hooks of containers that have ended meanwhile, or that have to end whatever the hook does.
    fn abandoned(&self) -> Vec<ActionKey> {
        let ended = |id: &ContainerId| !self.observed.containers.iter().any(|c| c.id == *id && c.is_running());
        let signalled = |id: &ContainerId| {
            self.memory.signalled.contains_key(id) || self.actions.iter().any(|a| matches!(a, Action::Signal { id: of, .. } if of == id))
        };
        let obsolete = |key: &&ActionKey| match key {
            ActionKey::PostStart(id) => ended(id) || self.memory.stopping.contains_key(id) || signalled(id),
            ActionKey::PreStop(id) => ended(id) || signalled(id),
            _ => false,
        };
        self.memory.in_flight.iter().filter(obsolete).cloned().collect()
    }
}

/// `name_namespace(uid)`, as the kubelet's messages have it.
pub(super) fn format_pod(pod: &Pod) -> String {
    let m = &pod.metadata;
    format!(
        "{}_{}({})",
        m.name.as_deref().unwrap_or_default(),
        m.namespace.as_deref().unwrap_or_default(),
        m.uid.as_deref().unwrap_or_default()
    )
}
