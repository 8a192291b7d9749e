//! The seam to the kernel: what the proxy needs of it.

use kube_pet_core::services::{Frontend, Network, Rule, Rules};
use kube_pet_net::services as kernel;

use crate::kernel_tables::{Condition, OwnChanges, SharedTable, TableError};

/// Rules in the kernel. Calls are synchronous and short.
pub trait Table: SharedTable {
    /// Changes rules, all or none of them. [`Table::reconcile`] comes first.
    ///
    /// # Errors
    /// When the kernel refuses; what it has then is not known.
    fn apply(&mut self, changes: &[(Frontend, Option<Rule>)]) -> Result<(), TableError>;

    /// Makes the rules these, touching only what is different. Returns how much that was.
    ///
    /// # Errors
    /// As [`Table::apply`].
    fn reconcile(&mut self, rules: Rules) -> Result<usize, TableError>;
}

/// The node's networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Its own for pods.
    pub pods: Vec<Network>,
    /// Pods' traffic to elsewhere than here, and than pods of this node, gets the node's address; none does if `None`.
    pub masquerade_except: Option<Vec<Network>>,
}

/// How a table is to be.
#[derive(Clone, Debug, Default)]
pub struct TableOptions {
    /// Its name.
    pub name: String,
    /// How the names of the node's ends of pods' links begin.
    pub link_prefix: String,
    /// Whether the node's loopback is among its addresses.
    pub loopback: bool,
    /// Of two tables the one with the lower rank is asked first.
    pub rank: u8,
    /// What the rules depend on beside Services.
    pub networks: Networks,
    /// Shared by all tables of the agent's.
    pub changes: OwnChanges,
}

/// The kernel's own.
pub struct KernelTable(kernel::ServiceTable);

impl KernelTable {
    /// Changes nothing yet.
    ///
    /// # Errors
    /// When the kernel cannot be talked to.
    pub fn open(options: &TableOptions) -> Result<Self, TableError> {
        Ok(Self(open(options)?))
    }

    /// Takes a table of an earlier run away, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(options: &TableOptions) -> Result<(), TableError> {
        open(options)?.remove()?;
        Ok(())
    }
}

fn open(options: &TableOptions) -> Result<kernel::ServiceTable, TableError> {
    let TableOptions { name, link_prefix, networks: Networks { pods, masquerade_except }, loopback, rank, changes } = options;
    let config = kernel::Config {
        table: name.clone(),
        pod_links: link_prefix.clone(),
        local_pods: pods.clone(),
        masquerade_except: masquerade_except.as_ref().map(|except| [&**except, pods].concat()),
        node_addresses: None,
        loopback: *loopback,
        rank: *rank,
    };
    Ok(kernel::ServiceTable::open(config, changes.clone())?)
}

impl Table for KernelTable {
    fn apply(&mut self, changes: &[(Frontend, Option<Rule>)]) -> Result<(), TableError> {
        Ok(self.0.apply(changes)?)
    }

    fn reconcile(&mut self, rules: Rules) -> Result<usize, TableError> {
        Ok(self.0.reconcile(rules)?.count())
    }
}

impl SharedTable for KernelTable {
    fn verify(&mut self) -> Result<Condition, TableError> {
        Ok(self.0.verify()?)
    }

    fn repair(&mut self) -> Result<usize, TableError> {
        Ok(self.0.repair()?.count())
    }
}
