//! One table of the kernel's and what should be in it.

use std::sync::Arc;
use std::time::Duration;

use kube_pet_core::services::{Changes, Compiler, Event};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::table::{Networks, Table};
use crate::instruments::service_proxy as instruments;
use crate::kernel_tables::{TableError, TableSlot};

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// A proxy that has failed for so long counts as broken.
const BROKEN: Duration = Duration::from_secs(60);

/// Opens the kernel's table, for a node with these networks.
pub(super) type Open<T> = Arc<dyn Fn(&Networks) -> Result<T, TableError> + Send + Sync>;

/// Compiles events and programs what they change. Once nothing is known of what the kernel has, all of it is compared.
pub(super) struct Programmer<T> {
    /// For people.
    name: &'static str,
    open: Open<T>,
    networks: Networks,
    table: TableSlot<T>,
    compiler: Compiler,
    /// Whether the kernel has what the compiler has, but for `pending`.
    in_step: bool,
    pending: Changes,
    failing: Option<Failing>,
}

struct Failing {
    since: Instant,
    retry: Instant,
}

impl<T: Table> Programmer<T> {
    pub(super) fn new(name: &'static str, open: Open<T>) -> Self {
        Self {
            name,
            open,
            networks: Networks::default(),
            table: TableSlot::new(),
            compiler: Compiler::default(),
            in_step: false,
            pending: Changes::new(),
            failing: None,
        }
    }

    pub(super) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    pub(super) fn take(&mut self, event: Event) {
        let changes = self.compiler.apply(event);
        if self.in_step {
            self.pending.extend(changes);
        }
    }

    /// The table depends on the node's networks: with others it is opened anew.
    pub(super) fn use_networks(&mut self, networks: Networks) {
        if self.networks != networks {
            self.networks = networks;
            self.table.close();
            self.in_step = false;
            self.pending.clear();
        }
    }

    /// When to try again.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.failing.as_ref().map(|failing| failing.retry)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.since.elapsed() >= BROKEN)
    }

    /// Brings the kernel up to date. Whether there was something to do.
    ///
    /// # Errors
    /// When the kernel refuses. It has been told; the next call after [`Self::retry`] compares everything.
    pub(super) async fn program(&mut self) -> Result<bool, TableError> {
        if self.in_step && self.pending.is_empty() {
            return Ok(false);
        }
        let began = Instant::now();
        let result = if self.in_step {
            let changes: Vec<_> = std::mem::take(&mut self.pending).into_iter().collect();
            debug!(table = self.name, changes = changes.len(), "programming");
            let result = self.with_table(move |table| table.apply(&changes)).await;
            instruments::SYNC_PARTIAL.observe(&[], began.elapsed());
            result
        } else {
            let rules = self.compiler.rules();
            let count = rules.len();
            let result = self.with_table(move |table| table.reconcile(rules)).await;
            instruments::SYNC_FULL.observe(&[], began.elapsed());
            if let Ok(changed) = &result {
                info!(table = self.name, rules = count, changed, took = ?began.elapsed(), "the kernel's rules are as they should be");
            }
            result.map(drop)
        };
        instruments::SYNC.observe(&[], began.elapsed());
        match &result {
            Ok(()) => {
                self.in_step = true;
                if self.failing.take().is_some() {
                    info!(table = self.name, "the kernel's rules can be changed again");
                }
            }
            Err(error) => self.failed(error),
        }
        result.map(|()| true)
    }

    /// Whether [`Self::program`] should wait.
    pub(super) fn waits(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| Instant::now() < failing.retry)
    }

    /// Looks whether somebody else has changed the kernel's rules, and puts that right.
    pub(super) async fn verify(&mut self) {
        if !self.in_step {
            return;
        }
        match self.table.look().await {
            Ok(0) => {}
            Ok(changed) => {
                warn!(table = self.name, changed, "somebody has changed the kernel's rules; they are put right");
                instruments::REPAIRS.add(&[]);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// What is in the kernel now is not known: next time all of it is compared.
    fn failed(&mut self, error: &TableError) {
        self.in_step = false;
        self.pending.clear();
        instruments::SYNC_FAILURES.add(&[]);
        let since = match &self.failing {
            Some(failing) => failing.since,
            None => {
                warn!(table = self.name, error = error as &dyn std::error::Error, "the kernel's rules cannot be changed; retrying");
                Instant::now()
            }
        };
        self.failing = Some(Failing { since, retry: Instant::now() + RETRY });
    }

    async fn with_table<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut T) -> Result<R, TableError> + Send + 'static,
    ) -> Result<R, TableError> {
        let (open, networks) = (self.open.clone(), self.networks.clone());
        self.table.work(move || open(&networks), work).await
    }
}
