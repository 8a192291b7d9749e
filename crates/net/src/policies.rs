//! NetworkPolicies in the kernel: one nf_tables table in which policies are elements of sets that never change their rules.
//!
//! The link of a pod that is isolated in a direction lies in a set; what it is allowed lies in others: link . address,
//! link . address . protocol . port, and ranges. So a change is a handful of elements. See [`skeleton`] for the chains.
//!
//! Every packet is looked at, not only the first of a connection, and replies are judged as the connection that they belong to: a policy
//! that changes ends what it does not allow any more. A link tells which pod a packet is of, not the address that it claims to come from.
//! Packets of the node itself to its pods pass. Needs Linux 5.10.

mod elements;
mod model;
mod skeleton;

use std::collections::BTreeSet;
use std::io;

use tracing::warn;

pub use kube_pet_rules::policies::{Direction, Element, Grant, Ports};

use crate::nft::batch::{Batch, Element as Written};
use crate::nft::{INET, attribute, find, message, table, text};
use crate::tables::{Condition, OwnChanges, OwnTable, Repaired, TableError, Unusable};
use elements::{Place, Set, isolated};
use model::Model;

type Content = BTreeSet<Place>;

/// The table, and what it should hold. Every call is synchronous, and is made in the network namespace in which it was opened.
pub struct PolicyTable {
    table: OwnTable,
    model: Model,
    wanted: Content,
}

impl PolicyTable {
    /// Changes nothing: [`Self::reconcile`] or [`Self::adopt`] is first.
    ///
    /// # Errors
    /// When the kernel cannot be talked to.
    pub fn open(table: &str, changes: OwnChanges) -> Result<Self, TableError> {
        Ok(Self { table: OwnTable::open(table, changes)?, model: Model::default(), wanted: Content::new() })
    }

    /// Makes the kernel have exactly these elements, and changes only what differs. In one step, or not at all.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reconcile(&mut self, elements: &BTreeSet<Element>) -> Result<Repaired, TableError> {
        self.model = Model::default();
        let elements: Vec<_> = elements.iter().map(|element| (element.clone(), true)).collect();
        self.wanted = self.model.apply(&elements).into_keys().collect();
        self.repair()
    }

    /// Takes what an earlier run has left as what should be there. Until [`Self::reconcile`], elements can only be added.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt(&mut self) -> Result<(), TableError> {
        self.model = Model::default();
        self.wanted = self.read()?.unwrap_or_default();
        self.repair().map(drop)
    }

    /// [`Self::reconcile`] with the elements of before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn repair(&mut self) -> Result<Repaired, TableError> {
        self.table.begin_reading()?;
        let read = self.read()?;
        let rebuild = read.as_ref().err().copied();
        let found = read.unwrap_or_default();
        let remove: Vec<Place> = found.difference(&self.wanted).cloned().collect();
        let add: Vec<Place> = self.wanted.difference(&found).cloned().collect();
        let repaired = Repaired { rebuilt: rebuild.is_some(), added: add.len(), removed: remove.len() };
        self.commit(&remove, &add, rebuild)?;
        Ok(repaired)
    }

    /// Changes some elements, in one step or not at all; `false` takes one away. If the kernel has something else than expected, all of
    /// it is put right.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn apply(&mut self, changes: &[(Element, bool)]) -> Result<(), TableError> {
        let (mut remove, mut add) = (Vec::new(), Vec::new());
        for (place, there) in self.model.apply(changes) {
            if there && self.wanted.insert(place.clone()) {
                add.push(place);
            } else if !there && self.wanted.remove(&place) {
                remove.push(place);
            }
        }
        if self.table.is_known() {
            match self.commit(&remove, &add, None) {
                Ok(()) => return Ok(()),
                Err(error) => warn!(%error, "the table is not as it was left; it is read again"),
            }
        }
        self.repair().map(drop)
    }

    /// Whether somebody else has changed the table. Costs two requests to the kernel.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn verify(&mut self) -> Result<Condition, TableError> {
        self.table.condition()
    }

    /// Whether the pod behind the link should be isolated in the direction.
    pub fn isolates(&self, link: &str, direction: Direction) -> bool {
        self.wanted.contains(&isolated(direction, link))
    }

    /// Takes the table away, and with it every rule. Whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(self) -> Result<bool, TableError> {
        self.table.remove()
    }

    /// The table's content, if it is one that this version makes.
    fn read(&mut self) -> Result<Result<Content, Unusable>, TableError> {
        self.try_read().map_err(|e| self.table.failed("reading", e))
    }

    fn try_read(&mut self) -> io::Result<Result<Content, Unusable>> {
        if let Err(unusable) = self.table.find(&skeleton::userdata())? {
            return Ok(Err(unusable));
        }
        let name = self.table.name().to_owned();
        let socket = &mut self.table.socket;
        let sets = socket.dump(table::kind(message::GET_SET), INET, |w| w.name(attribute::SET_TABLE, &name))?;
        let mut names: Vec<String> = sets.iter().map(|set| find(set, attribute::SET_NAME).map(text).unwrap_or_default()).collect();
        names.sort();
        let mut expected: Vec<String> = Set::all().iter().map(|set| set.name()).collect();
        expected.sort();
        let rules = socket.dump(table::kind(message::GET_RULE), INET, |w| w.name(attribute::RULE_TABLE, &name))?.len();
        let mut fresh = Batch::new(&name);
        skeleton::build(&mut fresh);
        if names != expected || rules != fresh.rules() {
            return Ok(Err(Unusable::Different));
        }
        let mut found = Content::new();
        for set in Set::all() {
            let elements = table::elements(socket, &name, &set.name())?;
            found.extend(elements.into_iter().map(|((key, end), _)| Place { set, key, end }));
        }
        Ok(Ok(found))
    }

    fn commit(&mut self, remove: &[Place], add: &[Place], rebuild: Option<Unusable>) -> Result<(), TableError> {
        self.table.commit(rebuild, |batch| {
            if rebuild.is_some() {
                skeleton::build(batch);
            }
            // Sorted: elements of the same set share a message.
            for place in remove {
                batch.delete(&place.set.name(), Written { key: &place.key, end: &place.end, value: &[] });
            }
            for place in add {
                batch.add(&place.set.name(), Written { key: &place.key, end: &place.end, value: &[] });
            }
        })
    }
}

#[cfg(test)]
mod tests;
