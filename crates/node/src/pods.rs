//! The pods of this node: where they come from, one worker each, their store.

pub mod checkpoint;
pub mod exits;
pub mod inventory;
pub mod mirror;
pub mod sources;
pub mod store;
