//! The pods of this node: where they come from, one worker each, their store.

mod actions;
mod admission;
pub mod checkpoint;
pub mod exits;
pub mod inventory;
mod ledger;
pub mod manager;
pub mod mirror;
pub mod oom;
mod orphans;
mod probes;
mod room;
pub mod runtime;
pub mod sources;
pub mod store;
mod worker;

pub(crate) use actions::catatonit;
