//! One pod's worker: the loop of observe → decide → act. Never concurrent with itself; operations run beside it and report back.

mod observation;
mod outcome;
mod publishing;
mod resize;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube_pet_core::ids::{ContainerName, PodUid};
use kube_pet_core::pod::{
    Action, ActionKey, Desired, Eviction, Memory, Now, Plan, Rejected, Stop, Verdict, decide, is_own_condition, status_differs,
};
use kube_pet_core::resize::{Actuated, Allocation};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Instrument as _, debug, error_span, info};

use self::observation::Observation;
use self::outcome::Outcome;
use self::publishing::Writing;
use super::inventory::Sighting;
use super::ledger::is_active;
use super::mirror::Mirror;
use super::probes::{ProbeId, Probers};
use super::room::{self, Room};
use super::runtime::PodRuntime;
use super::sources::Source;
use crate::instruments;

/// What is wanted of a pod, newest first come.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The newest object.
    pub pod: Arc<Pod>,
    /// Where it came from.
    pub source: Source,
    /// The source still has it.
    pub present: bool,
    /// The source has named it since the agent started. Until then it is what an earlier run remembered: its status is old.
    pub named: bool,
    /// For a static pod: its mirror, which carries the status in the API.
    pub mirror: Option<Arc<Mirror>>,
}

/// The worker's channels.
pub struct Inbox {
    /// What is wanted.
    pub wanted: watch::Receiver<Wanted>,
    /// What was seen.
    pub sightings: mpsc::UnboundedReceiver<Sighting>,
}

/// Runs until the pod is gone for good.
pub async fn run(runtime: Arc<PodRuntime>, uid: PodUid, inbox: Inbox, admission: bool) -> PodUid {
    let pod = inbox.wanted.borrow().pod.clone();
    let span = error_span!(
        "pod",
        namespace = pod.metadata.namespace.as_deref().unwrap_or_default(),
        name = pod.metadata.name.as_deref().unwrap_or_default(),
        uid = uid.as_str()
    );
    let mut worker = Worker::new(runtime, uid.clone(), inbox, admission);
    worker.run().instrument(span).await;
    uid
}

struct Worker {
    runtime: Arc<PodRuntime>,
    uid: PodUid,
    inbox: Inbox,
    memory: Memory,
    observation: Observation,
    /// The status last computed, for transition times and offline continuity.
    status: Option<PodStatus>,
    writing: Writing,
    operations: JoinSet<(Option<ActionKey>, Outcome)>,
    /// Hooks under way: they are given up when they have lost their sense.
    hooks: BTreeMap<ActionKey, AbortHandle>,
    probers: Probers,
    verdicts: mpsc::UnboundedReceiver<(ProbeId, Verdict)>,
    /// When an event was last recorded, by reason and container: conditions that persist are told again only now and then.
    told: BTreeMap<(&'static str, Option<ContainerName>), Instant>,
    checkpointed: Option<(Arc<Pod>, Option<Allocation>, Actuated)>,
    checkpoint_failed: bool,
    /// What the pod was given, as far as it is dealt with.
    allocation: Option<Allocation>,
    /// When all pending resizes were last looked at because this one waits.
    resize_retried: Instant,
    /// The pod takes up resources of the node.
    active: bool,
    needs_admission: bool,
    /// Critical, and others have to go first.
    room: Option<Room>,
    /// The pod's surroundings are being made, and nobody has asked to give that up.
    preparing: bool,
    /// [`Wanted::named`], as far as it is dealt with.
    named: bool,
    began: Instant,
    /// Whether the pod has run before, or how long that took has been counted.
    start_counted: bool,
    /// When the contents of volumes are next compared with the API's objects, and tokens renewed.
    refresh_at: Instant,
    refreshing: bool,
}

/// How often volumes are refreshed (the kubelet's `syncFrequency`).
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// Seconds until it is tried again to write down which containers are to be replaced.
const WRITE_AGAIN: i64 = 2;

/// A condition that persists is recorded as an event this often.
const TELL_AGAIN: Duration = Duration::from_secs(14);

impl Worker {
    fn new(runtime: Arc<PodRuntime>, uid: PodUid, inbox: Inbox, needs_admission: bool) -> Self {
        let (probers, verdicts) = Probers::new();
        Self {
            hooks: BTreeMap::new(),
            probers,
            verdicts,
            observation: Observation::new(),
            runtime,
            uid,
            inbox,
            memory: Memory::default(),
            status: None,
            writing: Writing::default(),
            operations: JoinSet::new(),
            told: BTreeMap::new(),
            checkpointed: None,
            checkpoint_failed: false,
            allocation: None,
            resize_retried: Instant::now(),
            active: true,
            needs_admission,
            room: None,
            preparing: false,
            named: false,
            began: Instant::now(),
            start_counted: false,
            refresh_at: Instant::now() + REFRESH_EVERY,
            refreshing: false,
        }
    }

    async fn run(&mut self) {
        self.adopt().await;
        let mut operation = "create";
        loop {
            let began = Instant::now();
            if operation != "create" {
                operation = if self.inbox.wanted.has_changed().unwrap_or(false) { "update" } else { "sync" };
            }
            let asked = self.inbox.wanted.borrow_and_update().clone();
            self.recognize(&asked);
            self.admit(&asked);
            if self.room.is_some() {
                self.wait(None).await;
                continue;
            }
            let wanted = self.allocate(&asked);
            self.checkpoint(&asked).await;
            let mut plan = self.decide(&wanted, &asked.pod);
            let ahead = !plan.replaces().is_empty() || plan.resizes();
            if ahead && !self.checkpoint(&asked).await {
                plan.replace_nothing();
                let again = outcome::after(WRITE_AGAIN);
                plan.wake_at = Some(plan.wake_at.map_or(again, |at| at.min(again)));
            }
            self.publish(&wanted, &plan.status);
            self.tell(&wanted, &plan);
            if plan.finished && !self.writing.in_flight {
                self.runtime.forget(&self.uid);
                let meta = &wanted.pod.metadata;
                let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
                instruments::forget_pod(namespace, name, self.uid.as_str());
                debug!("worker ends");
                return;
            }
            // What comes next waits for the end of the preparation, which may wait for a server.
            if self.preparing && Stop::of(&wanted.pod, wanted.present).is_some() {
                self.preparing = false;
                self.runtime.volumes.give_up(&self.uid);
            }
            let live = !plan.finished && Stop::of(&wanted.pod, wanted.present).is_none() && self.observation.sandbox.is_some();
            if live && !self.refreshing && Instant::now() >= self.refresh_at {
                self.refresh(&wanted);
            }
            self.give_up(&plan.abandoned);
            self.probers.keep(&self.runtime, &wanted.pod, self.observation.facts(), &plan.probes);
            for action in plan.actions {
                self.launch(&wanted, action);
            }
            instruments::POD_WORKER_DURATION.observe(&[operation], began.elapsed());
            operation = "sync";
            self.wait(plan.wake_at).await;
        }
    }

    /// Finds what is already there: containers of an earlier run of the agent, and their sandbox.
    async fn adopt(&mut self) {
        let wanted = self.inbox.wanted.borrow().clone();
        self.named = wanted.named;
        self.memory.start_time = wanted.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        self.status.clone_from(&wanted.pod.status);
        self.memory.adopt_resize(&wanted.pod);
        self.memory.actuated = self.runtime.restored(&self.uid);
        let mut delay = Duration::from_millis(100);
        while let Err(error) = self.observation.load(&self.runtime, &wanted.pod, &self.uid).await {
            debug!(%error, "cannot list the pod's containers yet");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(5));
        }
        self.resume_resize(&wanted.pod).await;
        let terminal = matches!(wanted.pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded"));
        let has_containers = !self.observation.facts().containers.is_empty();
        self.start_counted = has_containers || terminal;
        if has_containers {
            self.memory.adopt_verdicts(&wanted.pod, self.observation.facts());
            self.observation.sandbox = self.runtime.existing_sandbox(&wanted.pod).await;
        }
        if has_containers || terminal || self.memory.start_time.is_some() {
            self.memory.admitted = true;
            self.runtime.note_admitted(&self.uid, &wanted.pod);
        }
    }

    /// A pod that was looked after by its checkpoint is named by the API server: the status there is the newest that an earlier run
    /// has written. What this run has found out itself is newer still.
    fn recognize(&mut self, wanted: &Wanted) {
        if self.named || !wanted.named {
            return;
        }
        self.named = true;
        if wanted.source == Source::Api && wanted.pod.status.is_some() {
            self.status.clone_from(&wanted.pod.status);
            self.memory.adopt_resize(&wanted.pod);
            self.memory.adopt_verdicts(&wanted.pod, self.observation.facts());
        }
    }

    /// Admission happens once, before anything is made; a pod that already has containers or a start time was admitted before.
    fn admit(&mut self, wanted: &Wanted) {
        self.memory.start_time.get_or_insert_with(Timestamp::now);
        if self.memory.admitted || self.memory.rejected.is_some() {
            return;
        }
        if let Some(room) = &self.room {
            let moot = self.memory.evicted.is_some() || Stop::of(&wanted.pod, wanted.present).is_some();
            if moot || room.is_made() {
                self.room = None;
                self.memory.admitted = true;
                if !moot && let Some(rejected) = self.runtime.refusal_of_shutdown() {
                    self.reject(wanted, rejected);
                }
            }
            return;
        }
        if Stop::of(&wanted.pod, wanted.present).is_some() || !self.needs_admission {
            self.memory.admitted = true;
            self.runtime.note_admitted(&self.uid, &wanted.pod);
            return;
        }
        match self.runtime.admit(&wanted.pod, &self.uid) {
            Ok(None) => self.memory.admitted = true,
            Ok(room) => self.room = room,
            Err(rejected) => self.reject(wanted, rejected),
        }
    }

    fn reject(&mut self, wanted: &Wanted, rejected: Rejected) {
        info!(reason = rejected.reason, message = rejected.message, "the pod is rejected");
        self.runtime.warn(&wanted.pod, None, &rejected.reason, rejected.message.clone());
        self.memory.rejected = Some(Rejected { message: format!("Pod was rejected: {}", rejected.message), reason: rejected.reason });
    }

    /// The pod with the best status known: our own, foreign conditions from the API server, and its terminal phase.
    fn current(&self, wanted: &Wanted) -> Pod {
        let mut pod = (*wanted.pod).clone();
        if wanted.mirror.is_none() && wanted.source == Source::File {
            pod.status = None;
        }
        let Some(own) = &self.status else { return pod };
        let api = pod.status.take().unwrap_or_default();
        let mut status = own.clone();
        if matches!(api.phase.as_deref(), Some("Failed" | "Succeeded")) {
            status.phase.clone_from(&api.phase);
            status.reason.clone_from(&api.reason);
            status.message.clone_from(&api.message);
        }
        if status.start_time.is_none() {
            status.start_time.clone_from(&api.start_time);
        }
        let foreign = api.conditions.unwrap_or_default().into_iter().filter(|c| !is_own_condition(&c.type_));
        let mut conditions: Vec<_> = foreign.collect();
        conditions.extend(status.conditions.take().unwrap_or_default().into_iter().filter(|c| is_own_condition(&c.type_)));
        status.conditions = Some(conditions);
        pod.status = Some(status);
        pod
    }

    /// `asked`: the pod as its source has it, which others are shown.
    fn decide(&mut self, wanted: &Wanted, asked: &Arc<Pod>) -> Plan {
        let pod = self.current(wanted);
        let rules = self.runtime.rules();
        let desired = Desired { pod: &pod, stop: Stop::of(&pod, wanted.present) };
        self.memory.keep_only(self.observation.facts());
        let plan = decide(desired, self.observation.facts(), &self.memory, &rules, Now { wall: Timestamp::now(), steady: steady_now() });
        if plan.status.phase.as_deref() == Some("Running") && !std::mem::replace(&mut self.start_counted, true) {
            instruments::POD_START_DURATION.observe(&[], self.began.elapsed());
        }
        // A pod whose status is written is kept once, not once more for those who ask this node: it is most of what a pod costs in memory.
        let written = asked.status.as_ref().is_some_and(|written| !status_differs(written, &plan.status));
        let pod = if written { asked.clone() } else { Arc::new(Pod { status: Some(plan.status.clone()), ..(**asked).clone() }) };
        instruments::terminations(self.status.as_ref(), &plan.status);
        self.status = Some(plan.status.clone());
        let active = is_active(&pod);
        self.runtime.store.put(self.uid.clone(), pod);
        if std::mem::replace(&mut self.active, active) && !active {
            self.runtime.retry_resizes();
        }
        self.follow_resize(wanted, &plan);
        plan
    }

    fn tell(&mut self, wanted: &Wanted, plan: &Plan) {
        for event in &plan.events {
            let key = (event.reason, event.container.as_ref().map(|(_, name)| name.clone()));
            let now = Instant::now();
            if self.told.get(&key).is_some_and(|at| now.duration_since(*at) < TELL_AGAIN) {
                continue;
            }
            self.told.insert(key, now);
            self.runtime.record(&wanted.pod, event);
        }
    }

    fn refresh(&mut self, wanted: &Wanted) {
        self.refreshing = true;
        let (runtime, pod) = (self.runtime.clone(), wanted.pod.clone());
        let work = async move {
            runtime.refresh_volumes(&pod).await;
            (None, Outcome::Refreshed)
        };
        self.operations.spawn(work.in_current_span());
    }

    fn launch(&mut self, wanted: &Wanted, action: Action) {
        let key = action.key();
        if !self.memory.in_flight.insert(key.clone()) {
            return;
        }
        debug!(?action, "acting");
        self.note_launch(&action);
        let runtime = self.runtime.clone();
        let pod = wanted.pod.clone();
        let wanted = wanted.clone();
        let sandbox = self.observation.sandbox.clone();
        let status = self.status.clone();
        let hook = matches!(key, ActionKey::PostStart(_) | ActionKey::PreStop(_)).then(|| key.clone());
        let task = self
            .operations
            .spawn(async move { (Some(key), outcome::act(&runtime, &wanted, &pod, sandbox, status, action).await) }.in_current_span());
        if let Some(hook) = hook {
            self.hooks.insert(hook, task);
        }
    }

    fn give_up(&mut self, abandoned: &[ActionKey]) {
        for key in abandoned {
            if let Some(task) = self.hooks.remove(key) {
                task.abort();
                self.memory.in_flight.remove(key);
            }
        }
    }

    async fn wait(&mut self, wake_at: Option<Timestamp>) {
        let until_wake = wake_at.map(|at| Duration::try_from(at.duration_since(steady_now())).unwrap_or_default());
        let due = [self.writing.retry_at, self.writing.held_until, self.room.as_ref().map(|room| room.deadline)];
        let until_write = due.into_iter().flatten().map(|at| at.saturating_duration_since(Instant::now())).min();
        let until_refresh = Some(self.refresh_at.saturating_duration_since(Instant::now())).filter(|_| !self.refreshing);
        let sleep =
            until_wake.into_iter().chain(until_write).chain(until_refresh).min().unwrap_or(REFRESH_EVERY).max(Duration::from_millis(5));
        tokio::select! {
            changed = self.inbox.wanted.changed() => {
                // The manager is gone: the agent is being shut down, and containers stay as they are.
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Some(sighting) = self.inbox.sightings.recv() => self.sighted(sighting).await,
            Some(done) = self.operations.join_next() => match done {
                Ok((key, outcome)) => {
                    if let Some(key) = key {
                        self.memory.in_flight.remove(&key);
                        self.hooks.remove(&key);
                    }
                    self.apply(outcome);
                }
                Err(error) if error.is_cancelled() => {}
                Err(error) => {
                    tracing::error!(%error, "an operation of the pod broke down; everything is looked at again");
                    self.memory.in_flight.clear();
                    self.writing.in_flight = false;
                }
            },
            Some((probe, verdict)) = self.verdicts.recv() => {
                self.memory.probes.insert(probe, verdict);
            }
            () = room::changed(&mut self.room) => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }

    async fn sighted(&mut self, sighting: Sighting) {
        let pod = self.inbox.wanted.borrow().pod.clone();
        match sighting {
            Sighting::Evicted(eviction) => self.evict(&pod, eviction),
            sighting => self.observation.sighted(&self.runtime, &pod, sighting).await,
        }
    }

    /// A pod that has ended is let be. One that was given up before keeps the words, and its grace period shrinks.
    fn evict(&mut self, pod: &Pod, eviction: Eviction) {
        if let Some(before) = &mut self.memory.evicted {
            let shorter = [before.grace_seconds, eviction.grace_seconds].into_iter().flatten().min();
            before.grace_seconds = shorter;
            return;
        }
        if matches!(self.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded")) {
            return;
        }
        info!(reason = eviction.failed.reason, message = eviction.failed.message, "the pod has to go");
        if eviction.event {
            self.runtime.warn(pod, None, &eviction.failed.reason, eviction.failed.message.clone());
        }
        self.memory.evicted = Some(eviction);
    }
}

/// The clock of everything that this run remembers: it starts as the wall clock and then only runs forward.
fn steady_now() -> Timestamp {
    static ORIGIN: std::sync::LazyLock<(Timestamp, Instant)> = std::sync::LazyLock::new(|| (Timestamp::now(), Instant::now()));
    let (wall, instant) = *ORIGIN;
    SignedDuration::try_from(instant.elapsed()).ok().and_then(|elapsed| wall.checked_add(elapsed).ok()).unwrap_or(wall)
}
