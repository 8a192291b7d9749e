//! Containers that the agent has ended so that others follow.

use super::memory::Memory;
use super::observed::{Observed, ObservedContainer};

/// Whether another container follows this one whatever its restart policy: its definition had changed, its resources could not be
/// changed in place, or all of its pod are restarted. That holds in the sandbox that it was in. Where that is gone meanwhile, its end
/// counts as any other: the kubelet, too, makes nothing anew for what must not run twice (`computePodActions`).
pub(super) fn is_replaced(memory: &Memory, observed: &Observed, container: &ObservedContainer) -> bool {
    let marked = memory.actuated.replaced.contains(&container.id) || memory.actuated.restarts.contains(&container.id);
    marked && observed.sandbox.as_ref().is_some_and(|sandbox| sandbox.id == container.sandbox)
}
