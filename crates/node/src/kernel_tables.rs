//! The agent's tables of nf_tables: work on one of them is done on a blocking thread, and what somebody else has changed is put right.

use std::time::Duration;

use kube_pet_net::tables as kernel;
pub use kube_pet_net::tables::{Condition, OwnChanges};
use tokio::time::Instant;

/// A look at all of a table is followed by so many times its own duration without one: somebody who changes other tables all the time
/// costs no more than a twentieth of a processor.
const REST: u32 = 20;

/// Rules in the kernel could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel said no.
    #[error(transparent)]
    Kernel(#[from] kernel::TableError),
    /// The work ended in a panic.
    #[error("work on the kernel's rules was interrupted")]
    Interrupted,
    #[cfg(test)]
    #[error("the kernel refuses")]
    Refused,
}

/// A table that others may change. Calls are synchronous and short.
pub trait SharedTable: Send + 'static {
    /// Whether somebody else has changed it, as far as that costs next to nothing.
    ///
    /// # Errors
    /// When the kernel refuses; what it has then is not known.
    fn verify(&mut self) -> Result<Condition, TableError>;

    /// Reads it and puts right what somebody else has changed. Returns how much that was.
    ///
    /// # Errors
    /// As [`SharedTable::verify`].
    fn repair(&mut self) -> Result<usize, TableError>;
}

/// A table, once it is open.
pub(crate) struct TableSlot<T> {
    table: Option<T>,
    /// Not before is all of it read only because somebody has changed something in nf_tables.
    next_look: Instant,
}

impl<T: SharedTable> TableSlot<T> {
    /// Not open.
    pub(crate) fn new() -> Self {
        Self { table: None, next_look: Instant::now() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.table.is_some()
    }

    pub(crate) fn close(&mut self) {
        self.table = None;
    }

    /// Work of the kernel's, on a blocking thread; the table is opened if it is not.
    pub(crate) async fn work<O: Send + 'static>(
        &mut self,
        open: impl FnOnce() -> Result<T, TableError> + Send + 'static,
        work: impl FnOnce(&mut T) -> Result<O, TableError> + Send + 'static,
    ) -> Result<O, TableError> {
        let table = self.table.take();
        self.keep(move || {
            let mut table = match table {
                Some(table) => table,
                None => open()?,
            };
            let result = work(&mut table);
            Ok((table, result))
        })
        .await
    }

    /// Looks whether somebody else has changed an open table, and puts that right: at once if it is gone, and if it may be as it was,
    /// when the time for a look has come. Returns how much that was.
    pub(crate) async fn look(&mut self) -> Result<usize, TableError> {
        let Some(mut table) = self.table.take() else { return Ok(0) };
        let resting = Instant::now() < self.next_look;
        let looked = self.keep(move || {
            let result = look(&mut table, resting);
            Ok((table, result))
        });
        let (changed, took) = looked.await?;
        self.next_look = self.next_look.max(Instant::now() + took * REST);
        Ok(changed)
    }

    /// Does work, and keeps the table that comes back from it.
    async fn keep<O: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<(T, Result<O, TableError>), TableError> + Send + 'static,
    ) -> Result<O, TableError> {
        let (table, result) = blocking(work).await?;
        self.table = Some(table);
        result
    }
}

/// How much was put right, and how long that took.
fn look(table: &mut impl SharedTable, resting: bool) -> Result<(usize, Duration), TableError> {
    match table.verify()? {
        Condition::Intact => Ok((0, Duration::ZERO)),
        Condition::Touched if resting => Ok((0, Duration::ZERO)),
        Condition::Touched | Condition::Gone => {
            let began = Instant::now();
            Ok((table.repair()?, began.elapsed()))
        }
    }
}

/// Work of the kernel's that is not on an open table.
///
/// # Errors
/// Those of the work, and [`TableError::Interrupted`] after a panic in it.
pub(crate) async fn blocking<O: Send + 'static>(work: impl FnOnce() -> Result<O, TableError> + Send + 'static) -> Result<O, TableError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(TableError::Interrupted))
}

#[cfg(test)]
mod tests;
