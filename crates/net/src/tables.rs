//! What the agent's tables of nf_tables have in common: that others may change them, and that their owner notices.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::nft::batch::Batch;
use crate::nft::socket::NetfilterSocket;
use crate::nft::table::{generation, handle, handle_of, is_as_made, table};

/// The kernel refused a request.
#[derive(Debug, thiserror::Error)]
#[error("{doing} of nf_tables {table:?}: {source}")]
pub struct TableError {
    doing: &'static str,
    table: String,
    #[source]
    source: io::Error,
}

/// What a look at a whole table found to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The table was not there, or another one was.
    pub rebuilt: bool,
    /// Elements that were missing or wrong.
    pub added: usize,
    /// Elements that did not belong there.
    pub removed: usize,
}

impl Repaired {
    /// How much that was.
    pub fn count(self) -> usize {
        let Self { rebuilt, added, removed } = self;
        usize::from(rebuilt) + added + removed
    }
}

/// What somebody else did to a table, as far as it can be told at no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nobody has changed anything in nf_tables since this table was written or read.
    Intact,
    /// Somebody has changed something, most likely elsewhere: a repair looks.
    Touched,
    /// The table is gone: a repair makes it again.
    Gone,
}

/// The changes that an agent makes itself, counted for all tables that it has in one network namespace: the kernel has a single number
/// for changes of all tables, and a change to one of ours is nobody else's doing to another one.
#[derive(Clone, Debug, Default)]
pub struct OwnChanges(Arc<Mutex<u32>>);

impl OwnChanges {
    /// Held while the kernel is asked or told: its number and this one belong together.
    fn count(&self) -> MutexGuard<'_, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why what is there cannot be changed element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// There is no such table.
    Missing,
    /// There is one of this name that was made another way, or that somebody has changed.
    Different,
}

/// A table of ours, with what the agent knows of the kernel's.
pub(crate) struct OwnTable {
    pub(crate) socket: NetfilterSocket,
    name: String,
    changes: OwnChanges,
    /// How many changes were others', when the table was read.
    others: u32,
    handle: Option<u64>,
    known: bool,
}

impl OwnTable {
    /// Changes nothing.
    pub(crate) fn open(name: &str, changes: OwnChanges) -> Result<Self, TableError> {
        let failed = |source| TableError { doing: "opening the netlink socket", table: name.to_owned(), source };
        let socket = NetfilterSocket::open().map_err(failed)?;
        Ok(Self { socket, name: name.to_owned(), changes, others: 0, handle: None, known: false })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the kernel has what it was told last.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// What it has is to be read, or is of no interest any more.
    pub(crate) fn forget(&mut self) {
        self.known = false;
    }

    /// Before reading: what others change from now on makes another look due.
    pub(crate) fn begin_reading(&mut self) -> Result<(), TableError> {
        self.known = false;
        self.others = self.count_others()?;
        Ok(())
    }

    /// Whether the table is there, and made with this user data.
    pub(crate) fn find(&mut self, userdata: &[u8]) -> io::Result<Result<(), Unusable>> {
        let Some(there) = table(&mut self.socket, &self.name)? else { return Ok(Err(Unusable::Missing)) };
        if !is_as_made(&there, userdata) {
            return Ok(Err(Unusable::Different));
        }
        self.handle = handle_of(&there);
        Ok(Ok(()))
    }

    /// All of what is built, in one step, or nothing. With `rebuild`, it makes the table, in the place of another one that may be there.
    pub(crate) fn commit(&mut self, rebuild: Option<Unusable>, build: impl FnOnce(&mut Batch<'_>)) -> Result<(), TableError> {
        self.known = false;
        let written = self.write(|batch| {
            if rebuild == Some(Unusable::Different) {
                batch.delete_table();
            }
            build(batch);
        });
        written.map_err(|e| self.failed("change", e))?;
        if rebuild.is_some() {
            self.handle = self.kernels_handle()?;
        }
        self.known = true;
        Ok(())
    }

    /// A change that makes no difference to what is known. Whether there was anything to do.
    pub(crate) fn write(&mut self, build: impl FnOnce(&mut Batch<'_>)) -> io::Result<bool> {
        let mut batch = Batch::new(&self.name);
        build(&mut batch);
        let mut count = self.changes.count();
        let written = self.socket.commit(batch)?;
        if written {
            *count = count.wrapping_add(1);
        }
        Ok(written)
    }

    /// Whether somebody else has changed it. Costs two requests to the kernel.
    pub(crate) fn condition(&mut self) -> Result<Condition, TableError> {
        if self.known && self.count_others()? == self.others {
            return Ok(Condition::Intact);
        }
        let handle = self.kernels_handle()?;
        Ok(if handle.is_none() || handle != self.handle { Condition::Gone } else { Condition::Touched })
    }

    /// Takes it away. Whether it was there.
    pub(crate) fn remove(mut self) -> Result<bool, TableError> {
        if self.kernels_handle()?.is_none() {
            return Ok(false);
        }
        self.write(|batch| batch.delete_table()).map_err(|e| self.failed("removal", e))
    }

    pub(crate) fn failed(&self, doing: &'static str, source: io::Error) -> TableError {
        TableError { doing, table: self.name.clone(), source }
    }

    fn kernels_handle(&mut self) -> Result<Option<u64>, TableError> {
        handle(&mut self.socket, &self.name).map_err(|e| self.failed("asking for the table", e))
    }

    /// Each batch is one generation, and what is not ours is others'. When the kernel's number begins anew, it leaves out zero, which looks
    /// like a change of somebody's.
    fn count_others(&mut self) -> Result<u32, TableError> {
        let count = self.changes.count();
        let all = generation(&mut self.socket);
        let own = *count;
        drop(count);
        all.map(|all| all.wrapping_sub(own)).map_err(|e| self.failed("asking for the generation", e))
    }
}

#[cfg(test)]
mod tests;
