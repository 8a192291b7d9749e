//! What the kernel is to do with packets, in plain words: what `kube-pet-core` decides and `kube-pet-net` programs. Types only, so that
//! neither of the two knows the other.

pub mod networks;
pub mod packed;
pub mod policies;
pub mod services;

pub use networks::{Family, InvalidNetwork, Network};
pub use services::Protocol;
