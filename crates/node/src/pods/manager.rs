//! Sources in, workers out: one worker per pod UID, for as long as there is anything to do for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::{PodUid, labels};
use kube_pet_core::pod::{is_mirror, pod_uid};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use super::checkpoint::{self, Checkpoint};
use super::inventory::{Orphans, Subscribers};
use super::mirror::Mirrors;
use super::runtime::PodRuntime;
use super::sources::{PodUpdate, Source};
use super::worker::{self, Inbox, Wanted};

/// How often leftovers are looked for.
const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(120);

/// Everything that the manager listens to.
pub struct ManagerInputs {
    /// Changes of what is wanted.
    pub updates: mpsc::Receiver<PodUpdate>,
    /// Pods in Podman without a worker.
    pub orphans: mpsc::UnboundedReceiver<Orphans>,
    /// The sources that will report `Synced`.
    pub sources: BTreeSet<Source>,
}

/// Runs until its inputs end.
pub struct PodManager {
    runtime: Arc<PodRuntime>,
    subscribers: Subscribers,
    workers: BTreeMap<PodUid, watch::Sender<Wanted>>,
    running: JoinSet<PodUid>,
    /// Pods that are finished while their source still shows them (the watch is behind).
    finished: BTreeSet<PodUid>,
    unsynced: BTreeSet<Source>,
    /// Pods known from checkpoints that no source has named yet.
    remembered: BTreeMap<PodUid, Checkpoint>,
    named: BTreeSet<PodUid>,
    mirrors: Mirrors,
}

impl PodManager {
    /// A manager of no pods yet.
    pub fn new(runtime: Arc<PodRuntime>, subscribers: Subscribers, mirrors: Mirrors) -> Self {
        Self {
            runtime,
            subscribers,
            workers: BTreeMap::new(),
            running: JoinSet::new(),
            finished: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            remembered: BTreeMap::new(),
            named: BTreeSet::new(),
            mirrors,
        }
    }

    /// Starts with what was checkpointed, so that pods are looked after before the API server answers.
    pub async fn run(mut self, mut inputs: ManagerInputs) {
        self.unsynced.clone_from(&inputs.sources);
        let paths = self.runtime.paths().clone();
        let checkpoints = tokio::task::spawn_blocking(move || checkpoint::read_all(&paths)).await.unwrap_or_default();
        for checkpoint in checkpoints {
            let uid = pod_uid(&checkpoint.pod);
            self.runtime.restore(&checkpoint);
            // At once, not when its worker comes to it: whoever asks for all pods must not miss it.
            self.runtime.store.put(uid.clone(), Arc::new(checkpoint.pod.clone()));
            self.want(uid.clone(), checkpoint.source(), Arc::new(checkpoint.pod.clone()), true, false);
            self.remembered.insert(uid, checkpoint);
        }
        self.runtime.store.restored();
        if !self.remembered.is_empty() {
            info!(pods = self.remembered.len(), "pods known from an earlier run are looked after");
        }
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                update = inputs.updates.recv() => match update {
                    Some(update) => self.update(update),
                    None => return,
                },
                Some(orphans) = inputs.orphans.recv() => self.orphans(orphans),
                Some(done) = self.running.join_next() => self.ended(done),
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn update(&mut self, update: PodUpdate) {
        match update {
            PodUpdate::Put(source, pod) => {
                if source == Source::Api && is_mirror(&pod) {
                    self.mirrors.seen(&pod);
                    self.refresh_mirror(&pod);
                    return;
                }
                let uid = pod_uid(&pod);
                if uid.as_str().is_empty() || uid.as_str().contains(['/', '\0']) || uid.as_str().starts_with('.') {
                    error!(uid = uid.as_str(), "a pod without a usable UID is ignored");
                    return;
                }
                self.named.insert(uid.clone());
                if source == Source::File {
                    self.mirrors.want(pod.clone());
                }
                self.want(uid, source, pod, true, true);
            }
            PodUpdate::Gone(source, uid) => {
                self.mirrors.gone(source, &uid);
                self.finished.remove(&uid);
                if let Some(worker) = self.workers.get(&uid) {
                    worker.send_modify(|w| w.present = false);
                }
                self.runtime.note_source(&uid, false);
            }
            PodUpdate::Synced(source) => {
                self.unsynced.remove(&source);
                // What the source did not name is gone; before it had told everything, nothing was touched.
                let gone: Vec<_> = self
                    .remembered
                    .iter()
                    .filter(|(uid, c)| c.source() == source && !self.named.contains(*uid))
                    .map(|(uid, _)| uid.clone())
                    .collect();
                for uid in gone {
                    info!(uid = uid.as_str(), "the pod was deleted while the agent was away");
                    if let Some(worker) = self.workers.get(&uid) {
                        worker.send_modify(|w| w.present = false);
                    }
                    self.runtime.note_source(&uid, false);
                }
                self.remembered.retain(|_, c| c.source() != source);
                if self.unsynced.is_empty() {
                    self.runtime.sources_synced();
                    self.sweep();
                }
                self.mirrors.synced(source);
            }
        }
    }

    /// A static pod's worker learns what the API server has of it.
    fn refresh_mirror(&self, mirror: &Pod) {
        if let Some(pod) = self.mirrors.static_pod_of(mirror)
            && let Some(worker) = self.workers.get(&pod_uid(&pod))
            && let Some(mirror) = self.mirrors.of(&pod)
        {
            worker.send_if_modified(|w| {
                let changed = w.mirror.as_ref() != Some(&mirror);
                w.mirror = Some(mirror);
                changed
            });
        }
    }

    fn want(&mut self, uid: PodUid, source: Source, pod: Arc<Pod>, present: bool, admission: bool) {
        if self.finished.contains(&uid) {
            return;
        }
        let mirror = (source == Source::File).then(|| self.mirrors.of(&pod)).flatten();
        let named = self.named.contains(&uid);
        let wanted = Wanted { pod, source, present, named, mirror };
        if let Some(worker) = self.workers.get(&uid) {
            self.runtime.note_source(&uid, present);
            worker.send_replace(wanted);
            return;
        }
        debug!(uid = uid.as_str(), "new worker");
        let (tx, rx) = watch::channel(wanted);
        let (sightings_tx, sightings) = mpsc::unbounded_channel();
        self.subscribers.add(uid.clone(), sightings_tx);
        self.workers.insert(uid.clone(), tx);
        let inbox = Inbox { wanted: rx, sightings };
        self.running.spawn(Box::pin(worker::run(self.runtime.clone(), uid, inbox, admission)));
    }

    /// Containers of pods that nobody knows: only once every source has told everything are they stopped.
    fn orphans(&mut self, orphans: Orphans) {
        if !self.unsynced.is_empty() {
            return;
        }
        for (uid, labels) in orphans {
            if self.workers.contains_key(&uid) || self.finished.contains(&uid) {
                continue;
            }
            warn!(uid = uid.as_str(), "containers of a pod that no longer exists; stopping them");
            self.want(uid.clone(), Source::Api, Arc::new(stand_in(&uid, &labels)), false, false);
        }
    }

    /// Takes away what no pod has any more: folders, namespaces, links, Podman pods.
    fn sweep(&mut self) {
        if !self.unsynced.is_empty() {
            return;
        }
        let runtime = self.runtime.clone();
        tokio::spawn(async move { runtime.sweep().await });
    }

    fn ended(&mut self, done: Result<PodUid, tokio::task::JoinError>) {
        match done {
            Ok(uid) => {
                self.subscribers.remove(&uid);
                let still_shown = self.workers.remove(&uid).is_some_and(|w| w.borrow().present);
                if still_shown {
                    self.finished.insert(uid);
                }
            }
            Err(error) => {
                // The supervisor restarts the agent; containers are not touched, and everything is looked at anew.
                error!(%error, "a pod worker broke down; the agent ends and starts again");
                std::process::exit(70);
            }
        }
    }
}

/// Enough of a pod to stop its containers by: nothing else of it is known.
fn stand_in(uid: &PodUid, container_labels: &HashMap<String, String>) -> Pod {
    let label = |key: &str| container_labels.get(key).cloned();
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.to_string());
    pod.metadata.name = label(labels::POD_NAME);
    pod.metadata.namespace = label(labels::POD_NAMESPACE);
    pod
}
