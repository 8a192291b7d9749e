//! Which pods were admitted, and what each of them was given: who asks for more waits here until there is room.
//!
//! Admission and resizes count by what was given, one pod at a time: two never take the same last CPU. Whenever something may have
//! become free all that wait are looked at, in the kubelet's order.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::admission::Admission;
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::{Rejected, pod_uid};
use kube_pet_core::resize::{Actuated, Allocation, PendingResize, in_order};
use kube_pet_core::shutdown;
use tracing::{debug, info};

use super::checkpoint::Checkpoint;
use super::room::Room;
use super::runtime::PodRuntime;
use super::store::{PodStore, runs};

/// The admitted pods.
#[derive(Default)]
pub struct Ledger(BTreeMap<PodUid, Entry>);

#[derive(Default)]
struct Entry {
    /// As it was when this run has admitted it, or an earlier one has written it down, until its worker shows it a moment later.
    then: Option<Arc<Pod>>,
    /// `None`: all that it asks for, whatever that is.
    allocation: Option<Allocation>,
    /// `metadata.generation` of the spec that the allocation is of.
    generation: Option<i64>,
    /// Its source has it no more. As for the kubelet it makes room at once, although it still has to end.
    gone: bool,
    /// What it asks for beyond.
    pending: Option<Pending>,
    /// What an earlier run has told the kernel.
    restored: Actuated,
}

struct Pending {
    /// With the resources that it asks for.
    pod: Arc<Pod>,
    /// Why it does not get them. Nobody has looked yet where there is no reason.
    refusal: Option<PendingResize>,
    /// When it was first refused.
    since: Option<Timestamp>,
}

/// What a pod is given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Its resources.
    pub(super) allocation: Allocation,
    /// `metadata.generation` of the spec that they are of, if this run has given them.
    pub(super) generation: Option<i64>,
    /// It asks for something else.
    pub(super) waits: bool,
    /// Why it does not get it, once that was looked at.
    pub(super) refusal: Option<PendingResize>,
}

/// Whether there is room for a pod beside others.
type Judge<'a> = &'a dyn Fn(&Pod, &[Arc<Pod>]) -> Result<Admission, Rejected>;

impl Entry {
    fn given(&self, pod: &Pod) -> Given {
        Given {
            allocation: self.allocation.clone().unwrap_or_else(|| Allocation::of(pod)),
            generation: self.generation,
            waits: self.pending.is_some(),
            refusal: self.pending.as_ref().and_then(|pending| pending.refusal.clone()),
        }
    }
}

/// The pod with what it is given in the place of what it asks for.
pub(super) fn with_allocation(pod: &Arc<Pod>, allocation: &Allocation) -> Arc<Pod> {
    if !allocation.differs(pod) {
        return pod.clone();
    }
    let mut given = (**pod).clone();
    allocation.apply(&mut given);
    Arc::new(given)
}

impl Ledger {
    fn allocation(&self, uid: &PodUid) -> Option<&Allocation> {
        self.0.get(uid)?.allocation.as_ref()
    }

    /// The other pods that take up resources of the node, each with what it was given.
    fn others(&self, uid: &PodUid, pods: &PodStore) -> Vec<Arc<Pod>> {
        let others = self.0.iter().filter(|(other, entry)| *other != uid && !entry.gone);
        let shown = others.filter_map(|(other, entry)| Some((pods.by_uid(other).or_else(|| entry.then.clone())?, entry)));
        let active = shown.filter(|(pod, _)| is_active(pod));
        active.map(|(pod, entry)| entry.allocation.as_ref().map_or_else(|| pod.clone(), |given| with_allocation(&pod, given))).collect()
    }

    /// Notes what the pod asks for; true if nobody has decided on it yet.
    fn note_wish(&mut self, uid: &PodUid, pod: &Arc<Pod>) -> bool {
        let entry = self.0.entry(uid.clone()).or_default();
        if !entry.allocation.get_or_insert_with(|| Allocation::of(pod)).differs(pod) {
            entry.pending = None;
            return false;
        }
        match &mut entry.pending {
            Some(pending) if !Allocation::of(&pending.pod).differs(pod) => {
                pending.pod = pod.clone();
                false
            }
            pending => {
                *pending = Some(Pending { pod: pod.clone(), refusal: None, since: None });
                true
            }
        }
    }

    fn given(&self, uid: &PodUid, pod: &Pod) -> Given {
        self.0.get(uid).map(|entry| entry.given(pod)).unwrap_or_else(|| Entry::default().given(pod))
    }

    /// Decides on all that wait. Returns the pods about which something is new.
    fn try_pending(&mut self, pods: &PodStore, judge: Judge<'_>) -> Vec<PodUid> {
        let pending = self.0.iter().filter_map(|(uid, entry)| {
            let (pending, allocation) = (entry.pending.as_ref()?, entry.allocation.as_ref()?);
            Some((uid.clone(), pending.pod.clone(), allocation.clone(), pending.since))
        });
        let pending: Vec<_> = pending.collect();
        let by_reference: Vec<_> = pending.iter().map(|(_, pod, allocation, since)| (&**pod, allocation, *since)).collect();
        let mut changed = Vec::new();
        for place in in_order(&by_reference) {
            let (uid, pod, ..) = &pending[place];
            let verdict = judge(pod, &self.others(uid, pods));
            let Some(entry) = self.0.get_mut(uid) else { continue };
            match verdict {
                Ok(Admission::Fits) => {
                    info!(uid = uid.as_str(), generation = pod.metadata.generation, "a resize is given");
                    entry.allocation = Some(Allocation::of(pod));
                    entry.generation = pod.metadata.generation;
                    entry.pending = None;
                    changed.push(uid.clone());
                }
                // Others go for it, and it is looked at again when they have ended.
                Ok(Admission::After(_)) => {}
                Err(Rejected { reason, message }) => {
                    debug!(uid = uid.as_str(), reason, message, "a resize is not given now");
                    let refusal = Some(PendingResize { cause: reason, message, generation: pod.metadata.generation });
                    if let Some(pending) = entry.pending.as_mut().filter(|pending| pending.refusal != refusal) {
                        pending.refusal = refusal;
                        pending.since.get_or_insert_with(Timestamp::now);
                        changed.push(uid.clone());
                    }
                }
            }
        }
        changed
    }
}

impl PodRuntime {
    fn books(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier run has given a pod.
    pub(super) fn restore(&self, checkpoint: &Checkpoint) {
        let allocation = checkpoint.allocation.clone().unwrap_or_else(|| Allocation::of(&checkpoint.pod));
        let then = Some(Arc::new(checkpoint.pod.clone()));
        let entry = Entry { then, allocation: Some(allocation), restored: checkpoint.actuated.clone(), ..Entry::default() };
        self.books().0.insert(pod_uid(&checkpoint.pod), entry);
    }

    /// What an earlier run has told the kernel of a pod.
    pub(super) fn restored(&self, uid: &PodUid) -> Actuated {
        self.books().0.get(uid).map(|entry| entry.restored.clone()).unwrap_or_default()
    }

    /// Admits a pod against those that were admitted before it. A critical pod may be told to wait until others have gone for it; its
    /// room is kept for it from now on.
    pub(super) fn admit(&self, pod: &Arc<Pod>, uid: &PodUid) -> Result<Option<Room>, Rejected> {
        let mut ledger = self.books();
        let pod = &ledger.allocation(uid).map_or_else(|| pod.clone(), |allocation| with_allocation(pod, allocation));
        let others = ledger.others(uid, &self.store.reader());
        let admission = self.fits(pod, &others)?;
        for warning in super::admission::warnings(pod) {
            self.warn(pod, None, "UnsupportedField", warning);
        }
        let entry = ledger.0.entry(uid.clone()).or_default();
        entry.then = Some(pod.clone());
        entry.allocation = Some(Allocation::of(pod));
        Ok(match admission {
            Admission::Fits => None,
            Admission::After(preemption) => Some(Room::make(&preemption, &others, &self.subscribers, &self.store.reader())),
        })
    }

    fn fits(&self, pod: &Pod, others: &[Arc<Pod>]) -> Result<Admission, Rejected> {
        let refs: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        let node = self.node.borrow().clone();
        super::admission::admit(pod, &node, &refs, &self.settings, *self.shutdown.borrow())
    }

    /// Why a pod that had to wait does not come after all.
    pub(super) fn refusal_of_shutdown(&self) -> Option<Rejected> {
        let refusal = || Rejected { reason: shutdown::REFUSED.into(), message: shutdown::REFUSED_MESSAGE.into() };
        self.shutdown.borrow().then(refusal)
    }

    /// A pod that was admitted by an earlier run.
    pub(super) fn note_admitted(&self, uid: &PodUid, pod: &Pod) {
        let mut ledger = self.books();
        let entry = ledger.0.entry(uid.clone()).or_default();
        entry.allocation.get_or_insert_with(|| Allocation::of(pod));
    }

    pub(super) fn forget(&self, uid: &PodUid) {
        self.books().0.remove(uid);
        self.store.remove(uid);
        self.retry_resizes();
    }

    /// Whether the source of a pod still has it.
    pub(super) fn note_source(&self, uid: &PodUid, present: bool) {
        if let Some(entry) = self.books().0.get_mut(uid) {
            entry.gone = !present;
        }
        if !present {
            self.retry_resizes();
        }
    }

    /// What the pod is given of what it asks for. What was not asked for before is decided on now, and with it whatever waits.
    pub(super) fn ask(&self, uid: &PodUid, pod: &Arc<Pod>) -> Given {
        let mut ledger = self.books();
        if self.store.reader().by_uid(uid).is_some() {
            ledger.0.entry(uid.clone()).and_modify(|entry| entry.then = None);
        }
        let changed = if ledger.note_wish(uid, pod) { self.try_pending(&mut ledger) } else { Vec::new() };
        let given = ledger.given(uid, pod);
        drop(ledger);
        self.tell(changed.iter().filter(|other| *other != uid));
        given
    }

    /// Something may have become free.
    pub(super) fn retry_resizes(&self) {
        let changed = self.try_pending(&mut self.books());
        self.tell(changed.iter());
    }

    fn tell<'a>(&self, uids: impl Iterator<Item = &'a PodUid>) {
        uids.for_each(|uid| self.subscribers.reallocated(uid));
    }

    /// Before every pod of the node is known, nobody gets what others may have.
    fn try_pending(&self, ledger: &mut Ledger) -> Vec<PodUid> {
        if !*self.synced.borrow() {
            return Vec::new();
        }
        let pods = self.store.reader();
        let judge = |pod: &Pod, others: &[Arc<Pod>]| {
            let admission = self.fits(pod, others)?;
            if let Admission::After(preemption) = &admission {
                Room::make(preemption, others, &self.subscribers, &pods);
            }
            Ok(admission)
        };
        ledger.try_pending(&pods, &judge)
    }
}

/// Whether a pod takes up resources of the node: also one that has been given up, until it has ended.
pub(super) fn is_active(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded")) || runs(pod)
}

#[cfg(test)]
mod tests;
