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

pub use crate::services::{Condition, Repaired};
pub use kube_pet_rules::policies::{Direction, Element, Grant, Ports};

use crate::nft::batch::{Batch, Element as Written};
use crate::nft::socket::NetfilterSocket;
use crate::nft::{INET, attribute, find, message, table, text};
use elements::{Place, Set, isolated};
use model::Model;

/// The kernel refused a request.
#[derive(Debug, thiserror::Error)]
#[error("{doing} of nf_tables {table:?}: {source}")]
pub struct PolicyTableError {
    doing: &'static str,
    table: String,
    #[source]
    source: io::Error,
}

type Content = BTreeSet<Place>;

/// The table, and what it should hold. Every call is synchronous, and is made in the network namespace in which it was opened.
pub struct PolicyTable {
    socket: NetfilterSocket,
    table: String,
    model: Model,
    wanted: Content,
    /// That of the last reading or writing, if nobody else has changed anything since.
    generation: u32,
    handle: Option<u64>,
    /// Whether what the kernel has is known.
    known: bool,
}

impl PolicyTable {
    /// Changes nothing: [`Self::reconcile`] or [`Self::adopt`] is first.
    ///
    /// # Errors
    /// When the kernel cannot be talked to.
    pub fn open(table: &str) -> Result<Self, PolicyTableError> {
        let failed = |source| PolicyTableError { doing: "opening the netlink socket", table: table.to_owned(), source };
        let socket = NetfilterSocket::open().map_err(failed)?;
        Ok(Self {
            socket,
            table: table.to_owned(),
            model: Model::default(),
            wanted: Content::new(),
            generation: 0,
            handle: None,
            known: false,
        })
    }

    /// Makes the kernel have exactly these elements, and changes only what differs. In one step, or not at all.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reconcile(&mut self, elements: &BTreeSet<Element>) -> Result<Repaired, PolicyTableError> {
        self.model = Model::default();
        let elements: Vec<_> = elements.iter().map(|element| (element.clone(), true)).collect();
        self.wanted = self.model.apply(&elements).into_keys().collect();
        self.repair()
    }

    /// Takes what an earlier run has left as what should be there. Until [`Self::reconcile`], elements can only be added.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt(&mut self) -> Result<(), PolicyTableError> {
        self.model = Model::default();
        self.wanted = self.read()?.unwrap_or_default();
        self.repair().map(drop)
    }

    /// [`Self::reconcile`] with the elements of before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn repair(&mut self) -> Result<Repaired, PolicyTableError> {
        self.known = false;
        // Before reading: what others change meanwhile makes another repair due.
        self.generation = table::generation(&mut self.socket).map_err(|e| self.failed("asking for the generation", e))?;
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
    pub fn apply(&mut self, changes: &[(Element, bool)]) -> Result<(), PolicyTableError> {
        let (mut remove, mut add) = (Vec::new(), Vec::new());
        for (place, there) in self.model.apply(changes) {
            if there && self.wanted.insert(place.clone()) {
                add.push(place);
            } else if !there && self.wanted.remove(&place) {
                remove.push(place);
            }
        }
        if self.known {
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
    pub fn verify(&mut self) -> Result<Condition, PolicyTableError> {
        let generation = table::generation(&mut self.socket).map_err(|e| self.failed("asking for the generation", e))?;
        if self.known && self.generation == generation {
            return Ok(Condition::Intact);
        }
        let handle = table::handle(&mut self.socket, &self.table).map_err(|e| self.failed("asking for the table", e))?;
        Ok(if handle.is_none() || handle != self.handle { Condition::Gone } else { Condition::Touched })
    }

    /// Whether the pod behind the link should be isolated in the direction.
    pub fn isolates(&self, link: &str, direction: Direction) -> bool {
        self.wanted.contains(&isolated(direction, link))
    }

    /// Takes the table away, and with it every rule. Whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(mut self) -> Result<bool, PolicyTableError> {
        let there = table::handle(&mut self.socket, &self.table).map_err(|e| self.failed("asking for the table", e))?;
        if there.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::new(&self.table);
        batch.delete_table();
        self.socket.commit(batch).map_err(|e| self.failed("removal", e))
    }

    /// The table's content; if it is not one that this version makes, whether there is another one of its name.
    fn read(&mut self) -> Result<Result<Content, bool>, PolicyTableError> {
        self.try_read().map_err(|e| self.failed("reading", e))
    }

    fn try_read(&mut self) -> io::Result<Result<Content, bool>> {
        let Some(there) = table::table(&mut self.socket, &self.table)? else { return Ok(Err(false)) };
        if !table::is_as_made(&there, &skeleton::userdata()) {
            return Ok(Err(true));
        }
        let name = &self.table;
        let sets = self.socket.dump(table::kind(message::GET_SET), INET, |w| w.name(attribute::SET_TABLE, name))?;
        let mut names: Vec<String> = sets.iter().map(|set| find(set, attribute::SET_NAME).map(text).unwrap_or_default()).collect();
        names.sort();
        let mut expected: Vec<String> = Set::all().iter().map(|set| set.name()).collect();
        expected.sort();
        let rules = self.socket.dump(table::kind(message::GET_RULE), INET, |w| w.name(attribute::RULE_TABLE, name))?.len();
        let mut fresh = Batch::new(&self.table);
        skeleton::build(&mut fresh);
        if names != expected || rules != fresh.rules() {
            return Ok(Err(true));
        }
        let mut found = Content::new();
        for set in Set::all() {
            let elements = table::elements(&mut self.socket, &self.table, &set.name())?;
            found.extend(elements.into_iter().map(|((key, end), _)| Place { set, key, end }));
        }
        self.handle = table::handle_of(&there);
        Ok(Ok(found))
    }

    /// `rebuild`: make the table; `true` if there is another one in its place.
    fn commit(&mut self, remove: &[Place], add: &[Place], rebuild: Option<bool>) -> Result<(), PolicyTableError> {
        self.known = false;
        let mut batch = Batch::new(&self.table);
        if let Some(there) = rebuild {
            if there {
                batch.delete_table();
            }
            skeleton::build(&mut batch);
        }
        // Sorted: elements of the same set share a message.
        for place in remove {
            batch.delete(&place.set.name(), Written { key: &place.key, end: &place.end, value: &[] });
        }
        for place in add {
            batch.add(&place.set.name(), Written { key: &place.key, end: &place.end, value: &[] });
        }
        // Each batch is one generation: if others' lie between, the number that is expected is not the kernel's.
        if self.socket.commit(batch).map_err(|e| self.failed("change", e))? {
            self.generation = self.generation.wrapping_add(1).max(1);
        }
        if rebuild.is_some() {
            self.handle = table::handle(&mut self.socket, &self.table).map_err(|e| self.failed("asking for the table", e))?;
        }
        self.known = true;
        Ok(())
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> PolicyTableError {
        PolicyTableError { doing, table: self.table.clone(), source }
    }
}

#[cfg(test)]
mod tests;
