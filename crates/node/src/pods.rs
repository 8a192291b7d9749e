//! The pods of this node: where they come from, one worker each, their store.

pub mod store;
