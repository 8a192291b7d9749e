//! The seam to the kernel: what the enforcer needs of it.

use std::collections::BTreeSet;

use kube_pet_core::policies::{Direction, Element};
use kube_pet_net::policies as kernel;

/// Where tables are. Calls are synchronous and short.
pub(super) trait Kernel: Send + Sync + 'static {
    type Table: Table;

    /// Opens the table; changes nothing yet.
    fn open(&self) -> Result<Self::Table, TableError>;

    /// Takes it away. Whether it was there.
    fn remove(&self) -> Result<bool, TableError>;
}

/// Rules in the kernel. Calls are synchronous and short.
pub(super) trait Table: Send + 'static {
    /// Changes elements, all or none of them. [`Table::reconcile`] or [`Table::adopt`] comes first.
    fn apply(&mut self, changes: &[(Element, bool)]) -> Result<(), TableError>;

    /// Makes the elements these, touching only what is different. Returns how much that was.
    fn reconcile(&mut self, elements: &BTreeSet<Element>) -> Result<usize, TableError>;

    /// Takes what is there for what should be.
    fn adopt(&mut self) -> Result<(), TableError>;

    /// Whether the pod behind the link is isolated.
    fn isolates(&self, link: &str, direction: Direction) -> bool;

    /// Looks whether somebody else has changed the rules, and puts that right. Returns how much that was.
    fn repair(&mut self) -> Result<usize, TableError>;
}

/// Rules in the kernel could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel said no.
    #[error(transparent)]
    Kernel(#[from] kernel::PolicyTableError),
    /// The work ended in a panic.
    #[error("work on the kernel's rules for NetworkPolicies was interrupted")]
    Interrupted,
    #[cfg(test)]
    #[error("the kernel refuses")]
    Refused,
}

/// The kernel's own.
pub(super) struct NfTables {
    name: String,
}

impl NfTables {
    pub(super) fn new(link_prefix: &str) -> Self {
        Self { name: format!("{link_prefix}-policies") }
    }
}

impl Kernel for NfTables {
    type Table = kernel::PolicyTable;

    fn open(&self) -> Result<Self::Table, TableError> {
        Ok(kernel::PolicyTable::open(&self.name)?)
    }

    fn remove(&self) -> Result<bool, TableError> {
        Ok(kernel::PolicyTable::open(&self.name)?.remove()?)
    }
}

impl Table for kernel::PolicyTable {
    fn apply(&mut self, changes: &[(Element, bool)]) -> Result<(), TableError> {
        Ok(self.apply(changes)?)
    }

    fn reconcile(&mut self, elements: &BTreeSet<Element>) -> Result<usize, TableError> {
        Ok(count(self.reconcile(elements)?))
    }

    fn adopt(&mut self) -> Result<(), TableError> {
        Ok(self.adopt()?)
    }

    fn isolates(&self, link: &str, direction: Direction) -> bool {
        self.isolates(link, direction)
    }

    fn repair(&mut self) -> Result<usize, TableError> {
        match self.verify()? {
            kernel::Condition::Intact => Ok(0),
            kernel::Condition::Touched | kernel::Condition::Gone => Ok(count(self.repair()?)),
        }
    }
}

fn count(repaired: kernel::Repaired) -> usize {
    let kernel::Repaired { rebuilt, added, removed } = repaired;
    usize::from(rebuilt) + added + removed
}
