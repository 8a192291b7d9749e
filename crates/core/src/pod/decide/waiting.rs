//! Why containers wait, for their statuses.

use super::super::observed::ObservedContainer;
use super::super::replacement::is_replaced;
use super::super::status;
use super::start::Turn;
use super::{Draft, Waiting, format_pod};
use crate::ids::ContainerName;

impl Draft<'_> {
    /// Nothing ends the pod.
    fn lives(&self) -> bool {
        let phase = self.pod().status.as_ref().and_then(|status| status.phase.as_deref());
        self.desired.stop.is_none() && !self.failed && !matches!(phase, Some("Failed" | "Succeeded"))
    }

    /// What a container that has ended was ended for, if another follows whatever the policy.
    fn replacement(&self, ended: &ObservedContainer) -> Option<&'static str> {
        let resized = self.memory.actuated.restarts.contains(&ended.id);
        is_replaced(self.memory, self.observed, ended).then_some(if resized { "resize requires restart" } else { "definition changed" })
    }

    /// Reasons to wait that are not in the observation: failures, and restarts that are backed off.
    pub(super) fn waiting(&self) -> Waiting {
        let mut out = Waiting::new();
        for (_, container) in super::super::containers(self.pod()) {
            let name = ContainerName::from(container.name.as_str());
            let newest = self.observed.newest(&container.name);
            if newest.is_some_and(ObservedContainer::is_running) {
                continue;
            }
            let image = container.image.as_deref().unwrap_or_default();
            if let Some(f) = self.memory.image_failures.get(&name).filter(|f| f.image == image) {
                let fresh = self.now.steady.duration_since(f.at) < status::ERR_IMAGE_PULL_SHOWN;
                if fresh || !f.backs_off {
                    out.push((name, status::known_reason(&f.reason), f.message.clone()));
                } else {
                    out.push((name, "ImagePullBackOff", format!("Back-off pulling image {:?}: {}: {}", f.missing, f.reason, f.message)));
                }
                continue;
            }
            let over = newest.filter(|newest| newest.exit().is_some() && self.round.is_over(newest));
            let crash = self.observed.sandbox.as_ref().zip(newest).and_then(|(sandbox, newest)| match self.turn(&container, sandbox) {
                Turn::At(_) => Some(newest.backoff_seconds.min(self.rules.crash.max)),
                // The restart is under way: the reason stays until the new attempt runs.
                Turn::Now { .. }
                    if newest.backoff_seconds > 0
                        && newest.exit().is_some()
                        && over.is_none()
                        && !self.memory.start_failures.contains_key(&name) =>
                {
                    Some(newest.backoff_seconds.min(self.rules.crash.max))
                }
                _ => None,
            });
            if let Some(delay) = crash {
                let message =
                    format!("back-off {} restarting failed container={} pod={}", go_seconds(delay), container.name, format_pod(self.pod()));
                out.push((name, "CrashLoopBackOff", message));
            } else if let Some(f) = self.memory.start_failures.get(&name) {
                out.push((name, status::known_reason(&f.reason), f.message.clone()));
            } else if over.is_some() && self.lives() {
                out.push((name, status::RESTARTING_ALL, "The container is restarted with all containers of its pod".to_owned()));
            } else if let Some(cause) =
                newest.filter(|newest| newest.exit().is_some() && self.lives()).and_then(|ended| self.replacement(ended))
            {
                // Where the policy leaves it ended, the API server would not let it come back.
                out.push((name, "ContainerCreating", format!("Container {} {cause}", container.name)));
            }
        }
        out
    }
}

/// Go's `time.Duration` text of whole seconds.
fn go_seconds(seconds: u32) -> String {
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
