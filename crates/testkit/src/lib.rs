//! What tests of several crates share. Development only.

pub mod capability;
pub mod pod;

pub use pod::PodBuilder;
