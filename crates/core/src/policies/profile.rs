//! What pods share that the same policies select.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::compiler::Changes;
use super::grants::Counts;
use super::objects::NamedPort;
use super::ranges::disjoint;
use kube_pet_rules::policies::{Direction, Element, Grant};

/// What pods have in common that have the same rules in a direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProfileKey {
    pub(super) direction: Direction,
    /// None for a pod that is sealed.
    pub(super) policies: Box<[Arc<str>]>,
    /// The numbers of named ports that the policies ask for: those of pods that receive.
    pub(super) named: Box<[NamedPort]>,
}

#[derive(Debug)]
pub(super) struct Profile {
    pub(super) id: u32,
    pub(super) users: usize,
    pub(super) needs_peers: bool,
    /// With those of [`Self::ranges`] that are exact.
    counts: Counts,
    /// What of [`Self::counts`] is not exact, without overlaps.
    ranges: BTreeSet<Grant>,
}

impl Profile {
    pub(super) fn new(id: u32, counts: Counts, needs_peers: bool) -> Self {
        let mut profile = Self { id, users: 0, needs_peers, counts, ranges: BTreeSet::new() };
        profile.settle_ranges();
        profile
    }

    pub(super) fn elements(&self) -> impl Iterator<Item = Grant> {
        self.counts.keys().filter(|grant| grant.is_exact()).chain(self.ranges.iter().filter(|grant| !grant.is_exact())).copied()
    }

    /// Allows this instead.
    pub(super) fn replace(&mut self, key: &ProfileKey, counts: Counts, changes: &mut Changes) {
        let new = Self::new(self.id, counts, self.needs_peers);
        let (before, after): (BTreeSet<Grant>, BTreeSet<Grant>) = (self.elements().collect(), new.elements().collect());
        changes.extend(before.difference(&after).map(|grant| (allowed(key, self.id, *grant), false)));
        changes.extend(after.difference(&before).map(|grant| (allowed(key, self.id, *grant), true)));
        (self.counts, self.ranges) = (new.counts, new.ranges);
    }

    /// Allows some instead of others.
    pub(super) fn change(&mut self, key: &ProfileKey, remove: &[Grant], add: &[Grant], changes: &mut Changes) {
        let inexact = remove.iter().chain(add).any(|grant| !grant.is_exact());
        let ranges = if inexact { self.ranges.clone() } else { BTreeSet::new() };
        let touched = remove.iter().chain(add).chain(&ranges);
        let mut before: BTreeMap<Grant, bool> = touched.map(|grant| (*grant, self.has(grant))).collect();
        for grant in add {
            *self.counts.entry(*grant).or_default() += 1;
        }
        for grant in remove {
            self.uncount(grant);
        }
        if inexact {
            for piece in self.settle_ranges() {
                before.entry(piece).or_insert(false);
            }
        }
        for (grant, was) in before {
            if was != self.has(&grant) {
                changes.insert(allowed(key, self.id, grant), !was);
            }
        }
    }

    /// Whether it is an element.
    fn has(&self, grant: &Grant) -> bool {
        if grant.is_exact() { self.counts.contains_key(grant) } else { self.ranges.contains(grant) }
    }

    fn uncount(&mut self, grant: &Grant) {
        let Some(count) = self.counts.get_mut(grant) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(grant);
        }
    }

    /// Returns the pieces that were not elements before.
    fn settle_ranges(&mut self) -> Vec<Grant> {
        let after = disjoint(self.counts.keys().filter(|grant| !grant.is_exact()));
        let new: Vec<Grant> = after.iter().filter(|grant| !self.has(grant)).copied().collect();
        // A piece that is one address and one port lies where the exact ones do.
        for piece in after.iter().filter(|grant| grant.is_exact()) {
            *self.counts.entry(*piece).or_default() += 1;
        }
        for piece in std::mem::replace(&mut self.ranges, after).iter().filter(|grant| grant.is_exact()) {
            self.uncount(piece);
        }
        new
    }
}

pub(super) fn allowed(key: &ProfileKey, profile: u32, grant: Grant) -> Element {
    Element::Allowed { direction: key.direction, profile, grant }
}

/// The same for the same key after a restart, unless another profile has it: so what the kernel has is right already.
pub(super) fn new_id(key: &ProfileKey, used: &mut HashSet<u32>) -> u32 {
    let mut hash = Sha256::new();
    hash.update([u8::from(key.direction == Direction::Egress)]);
    for policy in &key.policies {
        hash.update(policy.as_bytes());
        hash.update([0]);
    }
    for NamedPort { name, protocol, number } in &key.named {
        hash.update(name.as_bytes());
        hash.update(protocol.name().as_bytes());
        hash.update(number.to_be_bytes());
    }
    let mut id = hash.finalize().iter().take(4).fold(0, |id, byte| id << 8 | u32::from(*byte));
    while !used.insert(id) {
        id = id.wrapping_add(1);
    }
    id
}
