//! What tests of several crates share. Development only.

pub mod api;
pub mod capability;
pub mod logind;
pub mod pod;
pub mod podman;

pub use pod::PodBuilder;
