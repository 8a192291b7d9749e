//! The decision itself.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::backoff::{BackoffPolicy, next_restart};
use super::memory::{Memory, Rejected};
use super::observed::{ContainerState, Observed, ObservedContainer, SandboxFacts};
use super::plan::{Action, ActionKey, EventKind, Plan, PodEvent};
use super::spec::{ContainerKind, Desired, Stop, pod_restart_policy};
use super::status;
use crate::container_hash::container_hash;
use crate::ids::{ContainerId, ContainerName};

/// What holds for all pods of the node.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Restarts of crashing containers.
    pub crash: BackoffPolicy,
    /// Retried pulls.
    pub image: BackoffPolicy,
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
    let mut draft = Draft { desired, observed, memory, rules, now, actions: Vec::new(), events: Vec::new(), wake_at: None };
    let failed = memory.rejected.clone().or_else(|| memory.failed.clone()).or_else(|| draft.deadline_exceeded());
    let waiting = draft.waiting();
    let view = status::View { desired, observed, memory, rules, now, failed: failed.as_ref(), waiting: &waiting };
    let status = status::pod_status(&view);
    let terminal = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let finished = match (desired.stop, terminal) {
        (Some(stop), _) => draft.stop(stop),
        (None, true) => {
            let grace = desired.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30).max(1);
            draft.end(grace);
            false
        }
        (None, false) => {
            draft.run();
            false
        }
    };
    let Draft { mut actions, events, wake_at, .. } = draft;
    actions.retain(|a| !memory.in_flight.contains(&a.key()));
    Plan { actions, status, events, wake_at, finished }
}

/// Why a container waits, for its status: reason and message.
pub(super) type Waiting = Vec<(ContainerName, &'static str, String)>;

struct Draft<'a> {
    desired: Desired<'a>,
    observed: &'a Observed,
    memory: &'a Memory,
    rules: &'a Rules,
    now: Now,
    actions: Vec<Action>,
    events: Vec<PodEvent>,
    wake_at: Option<Timestamp>,
}

/// Whether an attempt may start, and with which label.
enum Turn {
    Now { attempt: u32, backoff_seconds: u32 },
    At(Timestamp),
    Never,
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

    // --- running

    fn run(&mut self) {
        self.kill_unwanted();
        let Some(sandbox) = self.observed.sandbox.as_ref() else {
            self.prepare();
            self.first_images();
            return;
        };
        if self.stale_running(sandbox) {
            return;
        }
        if self.init_done(sandbox) {
            let apps = self.pod().spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
            for container in apps {
                self.advance(ContainerKind::App, container, sandbox);
            }
        }
    }

    fn prepare(&mut self) {
        match &self.memory.prepare_failure {
            Some(failure) if self.now.steady < failure.retry_at => self.wake(failure.retry_at),
            _ => self.actions.push(Action::Prepare),
        }
    }

    /// Pulls may go on while the sandbox is being made.
    fn first_images(&mut self) {
        let spec = self.pod().spec.as_ref();
        let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
        let apps = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
        let wanted = if init.is_empty() { apps } else { &init[..1] };
        for container in wanted {
            if self.observed.newest(&container.name).is_none() {
                let attempt = self.first_attempt(&container.name);
                self.ensure_image(&ContainerName::from(container.name.as_str()), container, attempt);
            }
        }
    }

    /// Stops containers whose definition changed. Their successors start once they have ended.
    fn kill_unwanted(&mut self) {
        let grace = self.pod().spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30).max(1);
        let changed: Vec<(ContainerId, ContainerName)> = super::containers(self.pod())
            .filter(|(kind, _)| *kind == ContainerKind::App)
            .filter_map(|(_, c)| {
                let newest = self.observed.newest(&c.name)?;
                (newest.is_running() && newest.spec_hash != container_hash(c)).then(|| (newest.id.clone(), newest.name.clone()))
            })
            .collect();
        for (id, name) in changed {
            self.stop_container(&id, &name, grace, format!("Container {name} definition changed, will be restarted"));
        }
    }

    /// Containers that still run in namespaces that are no longer the pod's.
    fn stale_running(&mut self, sandbox: &SandboxFacts) -> bool {
        let grace = self.pod().spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30).max(1);
        let stale: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(|c| c.is_running() && c.sandbox != sandbox.id)
            .map(|c| (c.id.clone(), c.name.clone()))
            .collect();
        for (id, name) in &stale {
            self.stop_container(id, name, grace, format!("Stopping container {name}"));
        }
        !stale.is_empty()
    }

    /// Advances the init containers; true once app containers may start.
    fn init_done(&mut self, sandbox: &SandboxFacts) -> bool {
        let spec = self.pod().spec.as_ref();
        let apps = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
        // Where nothing may run twice, what is done stays done in a new sandbox.
        let never = pod_restart_policy(self.pod()) == super::RestartPolicy::Never;
        let counts = |r: &&ObservedContainer| never || r.sandbox == sandbox.id;
        if apps.iter().any(|c| self.observed.newest(&c.name).is_some_and(|r| counts(&r))) {
            return true;
        }
        let init: &'a [Container] = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
        for container in init {
            let newest = self.observed.newest(&container.name).filter(counts);
            let done = newest.and_then(ObservedContainer::exit).is_some_and(|e| e.code == 0 && e.reason.as_deref() != Some("StartError"));
            if !done {
                self.advance(ContainerKind::Init, container, sandbox);
                return false;
            }
        }
        true
    }

    /// Moves one container on: image, start, restart.
    fn advance(&mut self, kind: ContainerKind, container: &'a Container, sandbox: &SandboxFacts) {
        let name = ContainerName::from(container.name.as_str());
        if let Some(newest) = self.observed.newest(&container.name)
            && newest.state == ContainerState::Created
        {
            // The agent or Podman died between creation and start, and the runtime may be in the midst of it: a new one is sure to start.
            if !self.memory.in_flight.contains(&ActionKey::Start(name)) {
                self.actions.push(Action::RemoveContainer { id: newest.id.clone() });
            }
            return;
        }
        match self.turn(container, sandbox) {
            Turn::Never => {}
            Turn::At(at) => {
                self.wake(at);
                self.events.push(PodEvent {
                    kind: EventKind::Warning,
                    container: Some((kind, name)),
                    reason: "BackOff",
                    message: format!("Back-off restarting failed container {} in pod {}", container.name, format_pod(self.pod())),
                });
            }
            Turn::Now { attempt, backoff_seconds } => {
                if let Some(failure) = self.memory.start_failures.get(&name)
                    && self.now.steady < failure.retry_at
                {
                    self.wake(failure.retry_at);
                    return;
                }
                if !self.ensure_image(&name, container, attempt) {
                    return;
                }
                let obsolete =
                    self.observed.containers.iter().filter(|c| c.name == name && c.attempt + 1 < attempt).map(|c| c.id.clone()).collect();
                self.actions.push(Action::StartContainer { container: name, kind, attempt, backoff_seconds, obsolete });
            }
        }
    }

    fn turn(&self, container: &Container, sandbox: &SandboxFacts) -> Turn {
        let Some(newest) = self.observed.newest(&container.name) else {
            return Turn::Now { attempt: self.first_attempt(&container.name), backoff_seconds: 0 };
        };
        let Some(exit) = newest.exit() else { return Turn::Never };
        let changed = newest.spec_hash != container_hash(container);
        let never_started = exit.reason.as_deref() == Some("StartError");
        let policy = pod_restart_policy(self.pod());
        let same_sandbox = newest.sandbox == sandbox.id;
        let restarts = policy.restarts(if never_started { 128 } else { exit.code });
        if !(restarts || changed && same_sandbox) {
            // An init container that succeeded in a sandbox that is gone runs again in the new one.
            let reruns = !same_sandbox && self.is_init(&container.name) && policy != super::RestartPolicy::Never;
            if !reruns {
                return Turn::Never;
            }
        }
        if changed {
            return Turn::Now { attempt: newest.attempt + 1, backoff_seconds: 0 };
        }
        let lived = exit.finished_at.duration_since(exit.started_at.unwrap_or(exit.finished_at));
        let (at, label) = next_restart(self.rules.crash, newest.backoff_seconds, lived, exit.finished_at);
        // A clock that was set back behind the end says nothing about the time since: better too early than never.
        let due = self.now.wall >= at || self.now.wall < exit.finished_at;
        if due { Turn::Now { attempt: newest.attempt + 1, backoff_seconds: label } } else { Turn::At(self.steady(at)) }
    }

    fn is_init(&self, name: &str) -> bool {
        super::containers(self.pod()).any(|(kind, c)| kind == ContainerKind::Init && c.name == name)
    }

    /// The number of an attempt where Podman knows none: it goes on from what the API server was told.
    fn first_attempt(&self, name: &str) -> u32 {
        super::container_status(self.pod(), name).map_or(0, |status| {
            let ran = status.container_id.as_deref().is_some_and(|id| !id.is_empty());
            u32::try_from(status.restart_count).unwrap_or(0) + u32::from(ran)
        })
    }

    /// True if the image is there for this attempt; otherwise asks for it or waits.
    fn ensure_image(&mut self, name: &ContainerName, container: &Container, attempt: u32) -> bool {
        if self.memory.images.get(name) == Some(&attempt) {
            return true;
        }
        let image = container.image.as_deref().unwrap_or_default();
        if let Some(failure) = self.memory.image_failures.get(name).filter(|f| f.image == image) {
            let until = failure.at.checked_add(SignedDuration::from_secs(i64::from(failure.backoff_seconds))).unwrap_or(failure.at);
            let shown = failure.at.checked_add(status::ERR_IMAGE_PULL_SHOWN).unwrap_or(failure.at);
            if self.now.steady < until {
                self.wake(until);
                if self.now.steady < shown {
                    self.wake(shown);
                } else if failure.reason == "ErrImagePull" {
                    self.events.push(PodEvent {
                        kind: EventKind::Normal,
                        container: Some((if self.is_init(name.as_str()) { ContainerKind::Init } else { ContainerKind::App }, name.clone())),
                        reason: "BackOff",
                        message: format!("Back-off pulling image {image:?}"),
                    });
                }
                return false;
            }
        }
        self.actions.push(Action::EnsureImage { container: name.clone(), attempt });
        false
    }

    /// Reasons to wait that are not in the observation: failures, and restarts that are backed off.
    fn waiting(&self) -> Waiting {
        let mut out = Waiting::new();
        for (_, container) in super::containers(self.pod()) {
            let name = ContainerName::from(container.name.as_str());
            let newest = self.observed.newest(&container.name);
            if newest.is_some_and(ObservedContainer::is_running) {
                continue;
            }
            let image = container.image.as_deref().unwrap_or_default();
            if let Some(f) = self.memory.image_failures.get(&name).filter(|f| f.image == image) {
                let fresh = self.now.steady.duration_since(f.at) < status::ERR_IMAGE_PULL_SHOWN;
                if fresh || f.reason != "ErrImagePull" {
                    out.push((name, status::known_reason(&f.reason), f.message.clone()));
                } else {
                    out.push((name, "ImagePullBackOff", format!("Back-off pulling image {image:?}: {}: {}", f.reason, f.message)));
                }
                continue;
            }
            let crash = self.observed.sandbox.as_ref().zip(newest).and_then(|(sandbox, newest)| match self.turn(container, sandbox) {
                Turn::At(_) => Some(newest.backoff_seconds.min(self.rules.crash.max)),
                // The restart is under way: the reason stays until the new attempt runs.
                Turn::Now { .. }
                    if newest.backoff_seconds > 0 && newest.exit().is_some() && !self.memory.start_failures.contains_key(&name) =>
                {
                    Some(newest.backoff_seconds.min(self.rules.crash.max))
                }
                _ => None,
            });
            if let Some(delay) = crash {
                let message =
                    format!("back-off {} restarting failed container={} pod={}", go_seconds(delay), container.name, format_pod(self.pod()));
                out.push((name, "CrashLoopBackOff", message));
            } else if let Some(f) = self.memory.start_failures.get(&name) {
                out.push((name, status::known_reason(&f.reason), f.message.clone()));
            }
        }
        out
    }

    // --- stopping

    /// Stops everything and takes the pod apart; true when nothing is left to do.
    fn stop(&mut self, stop: Stop) -> bool {
        if !self.end(stop.grace_seconds()) {
            return false;
        }
        if !self.memory.removed {
            self.teardown(Action::Remove);
            return false;
        }
        match stop {
            Stop::Gone { .. } => true,
            Stop::Deleted { .. } if self.memory.deleted => true,
            Stop::Deleted { .. } => {
                self.teardown(Action::DeleteObject);
                false
            }
        }
    }

    /// Stops the processes, then releases what the pod holds; true once both are done.
    fn end(&mut self, grace: i64) -> bool {
        let running: Vec<_> = self.observed.containers.iter().filter(|c| c.is_running()).map(|c| (c.id.clone(), c.name.clone())).collect();
        for (id, name) in &running {
            self.stop_container(id, name, grace, format!("Stopping container {name}"));
        }
        let busy = self.memory.in_flight.iter().any(|k| matches!(k, ActionKey::Start(_)));
        if !running.is_empty() || busy {
            return false;
        }
        if !self.memory.released {
            self.teardown(Action::Release);
            return false;
        }
        true
    }

    fn teardown(&mut self, action: Action) {
        match self.memory.teardown_retry_at {
            Some(at) if self.now.steady < at => self.wake(at),
            _ => self.actions.push(action),
        }
    }

    /// Signal, wait for the grace period, kill; kill again if that did not help.
    fn stop_container(&mut self, id: &ContainerId, name: &ContainerName, grace: i64, message: String) {
        let Some(signalled) = self.memory.signalled.get(id) else {
            self.actions.push(Action::Signal { id: id.clone(), container: name.clone(), message });
            return;
        };
        let deadline = signalled.checked_add(SignedDuration::from_secs(grace)).unwrap_or(*signalled);
        if self.now.steady < deadline {
            self.wake(deadline);
            return;
        }
        let again = self.memory.killed.get(id).and_then(|at| at.checked_add(KILL_AGAIN).ok());
        match again {
            Some(at) if self.now.steady < at => self.wake(at),
            _ => self.actions.push(Action::Kill { id: id.clone(), container: name.clone() }),
        }
    }
}

/// A process in uninterruptible sleep dies when it can; Podman may also have been away.
const KILL_AGAIN: SignedDuration = SignedDuration::from_secs(10);

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

/// Go's `time.Duration` text of whole seconds.
fn go_seconds(seconds: u32) -> String {
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
