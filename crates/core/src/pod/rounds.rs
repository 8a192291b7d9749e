//! Restarts of all containers of a pod together, in place (KEP-5532, `RestartAllContainers`).
//!
//! The kubelet removes all containers, and they start as those of a new pod. Here they stay, for their logs and their last state: each
//! carries, as a label, the number of the *round* that it was made in. A container that asks for a restart of all by the way it ended
//! ends its round; what is of an earlier round is ended, and counts as not there when the next one begins with the init containers.
//! So where a restart stands is read off the containers, whoever died meanwhile (`docs/decisions/0010-rounds.md`).

use k8s_openapi::api::core::v1::{Container, Pod};

use super::memory::Memory;
use super::observed::{Observed, ObservedContainer};
use super::probes;
use super::replacement::is_replaced;
use super::spec::{ContainerKind, containers, restarts_after, restarts_all_after};

/// The round that a pod is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// 0 for the first.
    pub number: u32,
    /// A container of it is there, or it is the first.
    pub has_begun: bool,
}

impl Round {
    /// Where the restarts stand.
    pub fn find(pod: &Pod, observed: &Observed, memory: &Memory) -> Self {
        let newest: Vec<_> = containers(pod)
            .filter(|(kind, _)| *kind != ContainerKind::Ephemeral)
            .filter_map(|(_, container)| Some((observed.newest(&container.name)?, container)))
            .collect();
        let reached = newest.iter().map(|(seen, _)| seen.round).max().unwrap_or(0);
        let ended = |seen: &ObservedContainer| seen.exit().filter(|_| seen.round == reached).map(|exit| exit.code);
        let asks = newest.iter().any(|(seen, container)| ended(seen).is_some_and(|code| restarts_all_after(container, code)));
        // What was ended so that another follows, or has failed a probe that restarts it, is not done whatever its exit code.
        let followed = |seen: &ObservedContainer, container: &Container| {
            is_replaced(memory, observed, seen) || probes::restarts(memory, pod, container, seen)
        };
        let own_end = |container: &Container| ended(observed.newest(&container.name).filter(|seen| !followed(seen, container))?);
        let over = asks && !is_done(pod, own_end);
        Self { number: reached.saturating_add(u32::from(over)), has_begun: !over }
    }

    /// Whether a container is of an earlier round.
    pub fn is_over(self, seen: &ObservedContainer) -> bool {
        seen.round < self.number
    }
}

/// Whether all app containers have ended for good, by themselves: how the sidecars end that are stopped then is no reason to do everything again.
fn is_done(pod: &Pod, ended: impl Fn(&Container) -> Option<i32>) -> bool {
    let apps = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    apps.iter().all(|container| ended(container).is_some_and(|code| !restarts_after(pod, container, code)))
}
