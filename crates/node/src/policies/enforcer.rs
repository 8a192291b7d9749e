//! The task `network policies`: the only one that changes the kernel's rules for NetworkPolicies.
//!
//! After a start the rules of an earlier run stay in force until all that they depend on is known; then they are compared with what should
//! be, and only what differs is changed. From then on a change is a few elements. What somebody else has changed in the kernel is found by
//! a look every second and put right.
//!
//! A pod that starts waits until the kernel has what the policies ask for it. If nothing is known of policies for a while, a pod that an
//! earlier run has isolated starts closed, one that it has left open starts, and another one waits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube_pet_core::ids::PodUid;
use kube_pet_core::policies::{Changes, Compiler, Direction, Event, LocalPod};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::guard::{Command, PolicyError};
use super::record::Record;
use super::residents::Residents;
use super::table::{Kernel, Table};
use super::watch::{List, Update};
use crate::kernel_tables::{TableError, TableSlot, blocking};

/// How often the kernel's rules are looked at.
const VERIFY: Duration = Duration::from_secs(1);
/// Updates that are programmed together, if so many wait.
const BATCH: usize = 1000;
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long a pod that starts waits for the policies: an API server that answers tells them within it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long policies wait for the pods and namespaces that they select: until then nothing is cut that may be allowed.
const PEERS_PATIENCE: Duration = Duration::from_secs(10);

/// What the enforcer is made of.
pub(super) struct Parts<K, R> {
    pub(super) kernel: K,
    pub(super) residents: R,
    pub(super) record: Record,
    pub(super) updates: mpsc::Receiver<Update>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    /// Told when pods and namespaces make a difference.
    pub(super) peers_wanted: watch::Sender<bool>,
    /// Pods that an earlier run has left.
    pub(super) recovered: Vec<PodUid>,
}

/// What is known of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    None,
    Complete,
    /// The node may not read it, and goes on without.
    Refused,
}

struct Waiting {
    pod: LocalPod,
    done: oneshot::Sender<Result<(), PolicyError>>,
    until: Instant,
}

pub(super) struct Enforcer<K: Kernel, R> {
    kernel: Arc<K>,
    table: TableSlot<K::Table>,
    residents: R,
    record: Record,
    updates: mpsc::Receiver<Update>,
    commands: mpsc::UnboundedReceiver<Command>,
    peers_wanted: watch::Sender<bool>,
    recovered: HashSet<Arc<str>>,
    compiler: Compiler,
    policies: Knowledge,
    namespaces: Knowledge,
    peers: Knowledge,
    /// Until when policies wait for their peers.
    peers_until: Option<Instant>,
    /// Whether this node's pods are to be looked through.
    look: bool,
    /// Whether the kernel has what the compiler has, but for `pending`.
    in_step: bool,
    pending: Changes,
    retry: Option<Instant>,
    waiting: Vec<Waiting>,
}

impl<K: Kernel, R: Residents> Enforcer<K, R> {
    pub(super) fn new(parts: Parts<K, R>) -> Self {
        let Parts { kernel, residents, record, updates, commands, peers_wanted, recovered } = parts;
        Self {
            kernel: Arc::new(kernel),
            table: TableSlot::new(),
            residents,
            record,
            updates,
            commands,
            peers_wanted,
            recovered: recovered.iter().map(|uid| uid.as_str().into()).collect(),
            compiler: Compiler::default(),
            policies: Knowledge::None,
            namespaces: Knowledge::None,
            peers: Knowledge::None,
            peers_until: None,
            look: true,
            in_step: false,
            pending: Changes::new(),
            retry: None,
            waiting: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut residents = self.residents.changes();
        let mut verify = tokio::time::interval(VERIFY);
        verify.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.advance().await;
            // Once policies are known, pods wait for what has a moment of its own.
            let patience = self.waiting.iter().map(|waiting| waiting.until).filter(|_| self.policies == Knowledge::None);
            let wake = patience.chain(self.retry).chain(self.peers_until).min();
            tokio::select! {
                Some(command) = self.commands.recv() => self.command(command),
                Some(update) = self.updates.recv() => {
                    self.update(update);
                    for _ in 1..BATCH {
                        let Ok(update) = self.updates.try_recv() else { break };
                        self.update(update);
                    }
                }
                Ok(()) = residents.changed() => self.look = true,
                _ = verify.tick() => self.verify().await,
                () = at(wake) => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        let Command { pod, done } = command;
        self.waiting.push(Waiting { pod, done, until: Instant::now() + PATIENCE });
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Changed(event) => self.take(event),
            Update::Known(list) => *self.knowledge(list) = Knowledge::Complete,
            // What is known stays known.
            Update::Refused(list) => match self.knowledge(list) {
                Knowledge::Complete => {}
                other => *other = Knowledge::Refused,
            },
        }
    }

    fn knowledge(&mut self, list: List) -> &mut Knowledge {
        match list {
            List::Policies => &mut self.policies,
            List::Namespaces => &mut self.namespaces,
            List::Peers => &mut self.peers,
        }
    }

    fn take(&mut self, event: Event) {
        let changes = self.compiler.apply(event);
        if self.in_step {
            self.pending.extend(changes);
        }
    }

    /// Goes on as far as is possible now.
    async fn advance(&mut self) {
        match self.policies {
            Knowledge::None => self.without_policies().await,
            // Told already; what is in the kernel stays.
            Knowledge::Refused => self.answer(|_| Ok(())),
            Knowledge::Complete => self.with_policies().await,
        }
    }

    async fn with_policies(&mut self) {
        self.follow_residents();
        let wants_peers = self.compiler.needs_peers();
        if wants_peers && !*self.peers_wanted.borrow() {
            self.peers_wanted.send_replace(true);
            self.peers_until = Some(Instant::now() + PEERS_PATIENCE);
        }
        let known = self.namespaces != Knowledge::None && self.peers != Knowledge::None;
        if wants_peers && !known && self.peers_until.is_some_and(|until| Instant::now() < until) {
            self.retry = None;
            return;
        }
        self.peers_until = None;
        if self.retry.is_some_and(|retry| Instant::now() < retry) && self.waiting.is_empty() {
            return;
        }
        match self.program().await {
            Ok(()) => {
                if self.retry.take().is_some() {
                    info!("the kernel's rules for NetworkPolicies can be changed again");
                }
                self.record.keep(self.compiler.isolated()).await;
                self.answer(|_| Ok(()));
            }
            Err(error) => {
                if self.retry.is_none() {
                    warn!(error = &error as &dyn std::error::Error, "the kernel's rules for NetworkPolicies cannot be changed; retrying");
                }
                self.in_step = false;
                self.pending.clear();
                self.retry = Some(Instant::now() + RETRY);
                let mut error = Some(error);
                self.answer(|uid| Err(PolicyError::Table { uid, source: error.take().unwrap_or(TableError::Interrupted) }));
            }
        }
    }

    /// Which pods are here: only policies make that interesting.
    fn follow_residents(&mut self) {
        if !self.compiler.has_policies() {
            let uids: Vec<_> = self.compiler.locals().map(|pod| pod.uid.clone()).collect();
            for uid in uids {
                self.take(Event::LocalGone(uid));
            }
            self.look = true;
            return;
        }
        if std::mem::take(&mut self.look) {
            let gone: Vec<_> = self.compiler.locals().map(|pod| pod.uid.clone()).filter(|uid| !self.residents.has(uid)).collect();
            for uid in gone {
                self.take(Event::LocalGone(uid));
            }
            for pod in self.residents.list() {
                self.take(Event::Local(Arc::new(pod)));
            }
        }
        let waiting: Vec<LocalPod> = self.waiting.iter().map(|waiting| waiting.pod.clone()).collect();
        for pod in waiting {
            self.take(Event::Local(Arc::new(pod)));
        }
    }

    /// The API server has not told anything yet.
    async fn without_policies(&mut self) {
        let now = Instant::now();
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.until <= now);
        self.waiting = waiting;
        for Waiting { pod, done, .. } in due {
            // A pod that does not wait any more asks again, or is gone.
            let _ = done.send(self.start_without_policies(pod).await);
        }
    }

    async fn start_without_policies(&mut self, pod: LocalPod) -> Result<(), PolicyError> {
        let uid = PodUid::new(&*pod.uid);
        let directions: Vec<Direction> = self.record.directions(&pod.uid).into();
        if directions.is_empty() {
            return if self.recovered.contains(&pod.uid) { Ok(()) } else { Err(PolicyError::Unknown { uid }) };
        }
        let link = pod.link.clone();
        let closed = LocalPod { sealed: directions.clone().into(), ..pod };
        let changes: Vec<_> = Compiler::default().apply(Event::Local(Arc::new(closed))).into_iter().collect();
        let done = self.with_table(move |table| {
            table.adopt()?;
            if directions.iter().all(|direction| table.isolates(&link, *direction)) {
                return Ok(());
            }
            table.apply(&changes)
        });
        done.await.map_err(|source| PolicyError::Table { uid: uid.clone(), source })?;
        info!(%uid, "the API server has told no NetworkPolicies yet: the pod starts isolated as it was");
        Ok(())
    }

    /// Tells all who wait.
    fn answer(&mut self, mut result: impl FnMut(PodUid) -> Result<(), PolicyError>) {
        for Waiting { pod, done, .. } in self.waiting.drain(..) {
            let _ = done.send(result(PodUid::new(&*pod.uid)));
        }
    }

    /// Brings the kernel up to date.
    async fn program(&mut self) -> Result<(), TableError> {
        if self.in_step && self.pending.is_empty() {
            return Ok(());
        }
        let isolated = self.compiler.isolated();
        if isolated.is_empty() {
            let kernel = self.kernel.clone();
            self.table.close();
            let removed = blocking(move || kernel.remove()).await?;
            if removed {
                info!("no pod is isolated by NetworkPolicies any more");
            }
        } else if self.in_step && self.table.is_open() {
            let changes: Vec<_> = std::mem::take(&mut self.pending).into_iter().collect();
            debug!(changes = changes.len(), "programming NetworkPolicies");
            self.with_table(move |table| table.apply(&changes)).await?;
        } else {
            let began = Instant::now();
            let elements = self.compiler.elements();
            let count = elements.len();
            let changed = self.with_table(move |table| table.reconcile(&elements)).await?;
            info!(pods = isolated.len(), elements = count, changed, took = ?began.elapsed(), "NetworkPolicies are in force");
        }
        self.pending.clear();
        self.in_step = true;
        Ok(())
    }

    /// Looks whether somebody else has changed the kernel's rules, and puts that right.
    async fn verify(&mut self) {
        if !self.in_step {
            return;
        }
        match self.table.look().await {
            Ok(0) => {}
            Ok(changed) => warn!(changed, "somebody has changed the kernel's rules for NetworkPolicies; they are put right"),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the kernel's rules for NetworkPolicies cannot be read");
                self.in_step = false;
                self.pending.clear();
            }
        }
    }

    async fn with_table<O: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut K::Table) -> Result<O, TableError> + Send + 'static,
    ) -> Result<O, TableError> {
        let kernel = self.kernel.clone();
        self.table.work(move || kernel.open(), work).await
    }
}

/// Never without a moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
