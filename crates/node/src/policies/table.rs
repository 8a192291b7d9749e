//! The seam to the kernel: what the enforcer needs of it.

use std::collections::BTreeSet;

use kube_pet_core::policies::{Direction, Element};
use kube_pet_net::policies as kernel;

use crate::kernel_tables::{Condition, OwnChanges, SharedTable, TableError};

/// Where tables are. Calls are synchronous and short.
pub(super) trait Kernel: Send + Sync + 'static {
    type Table: Table;

    /// Opens the table; changes nothing yet.
    fn open(&self) -> Result<Self::Table, TableError>;

    /// Takes it away. Whether it was there.
    fn remove(&self) -> Result<bool, TableError>;
}

/// Rules in the kernel. Calls are synchronous and short.
pub(super) trait Table: SharedTable {
    /// Changes elements, all or none of them. [`Table::reconcile`] or [`Table::adopt`] comes first.
    fn apply(&mut self, changes: &[(Element, bool)]) -> Result<(), TableError>;

    /// Makes the elements these, touching only what is different. Returns how much that was.
    fn reconcile(&mut self, elements: &BTreeSet<Element>) -> Result<usize, TableError>;

    /// Takes what is there for what should be.
    fn adopt(&mut self) -> Result<(), TableError>;

    /// Whether the pod behind the link is isolated.
    fn isolates(&self, link: &str, direction: Direction) -> bool;
}

/// The kernel's own.
pub(super) struct NfTables {
    name: String,
    changes: OwnChanges,
}

impl NfTables {
    pub(super) fn new(link_prefix: &str, changes: OwnChanges) -> Self {
        Self { name: format!("{link_prefix}-policies"), changes }
    }
}

impl Kernel for NfTables {
    type Table = kernel::PolicyTable;

    fn open(&self) -> Result<Self::Table, TableError> {
        Ok(kernel::PolicyTable::open(&self.name, self.changes.clone())?)
    }

    fn remove(&self) -> Result<bool, TableError> {
        Ok(self.open()?.remove()?)
    }
}

impl Table for kernel::PolicyTable {
    fn apply(&mut self, changes: &[(Element, bool)]) -> Result<(), TableError> {
        Ok(self.apply(changes)?)
    }

    fn reconcile(&mut self, elements: &BTreeSet<Element>) -> Result<usize, TableError> {
        Ok(self.reconcile(elements)?.count())
    }

    fn adopt(&mut self) -> Result<(), TableError> {
        Ok(self.adopt()?)
    }

    fn isolates(&self, link: &str, direction: Direction) -> bool {
        self.isolates(link, direction)
    }
}

impl SharedTable for kernel::PolicyTable {
    fn verify(&mut self) -> Result<Condition, TableError> {
        Ok(self.verify()?)
    }

    fn repair(&mut self) -> Result<usize, TableError> {
        Ok(self.repair()?.count())
    }
}
