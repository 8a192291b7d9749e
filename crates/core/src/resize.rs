//! In-place resize of pods (KEP-1287; of their common resources: KEP-5419), as the kubelet 1.37 does it.
//!
//! Three answers to "how much?": what the spec asks for, what the node has given ([`Allocation`]: admission counts by it, and all
//! that is done for the pod follows it), and what the kernel was told ([`Actuated`]). The first becomes the second where there is
//! room, else the resize is pending; the second becomes the third by [`ResizeStep`]s, or by a restart where `resizePolicy` says so.

mod actuation;
mod allocation;
mod queue;
mod steps;

pub use actuation::{Actuated, ContainerAmounts, ParseAmountsError, PodAmounts};
pub use allocation::{Allocation, PendingResize, summary};
pub use queue::in_order;
pub use steps::{MemoryCheck, ResizeStep, Resizing, Update, below_usage};

#[cfg(test)]
mod tests;
