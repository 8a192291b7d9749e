//! The end of a round: all containers of the pod are restarted together (KEP-5532).

use super::super::plan::ActionKey;
use super::super::spec::{ContainerKind, find_container};
use super::Draft;

impl Draft<'_> {
    /// Ends what still runs of a round that is over; true if anything does. All at once and without preStop hooks: such an end has no
    /// grace period. Ephemeral containers stay. What is just being started when a round ends is of that round, and waited for.
    pub(super) fn end_round(&mut self) -> bool {
        let (observed, round) = (self.observed, self.round);
        let mut any = !round.has_begun && self.memory.in_flight.iter().any(|key| matches!(key, ActionKey::Start(_)));
        for container in observed.containers.iter().filter(|c| c.is_running() && round.is_over(c)) {
            if find_container(self.pod(), container.name.as_str()).is_some_and(|(kind, _)| kind == ContainerKind::Ephemeral) {
                continue;
            }
            any = true;
            self.replaced.insert(container.id.clone());
            self.stop_container(container, 0, format!("Container {} is restarted with all containers of its pod", container.name), false);
        }
        any
    }
}
