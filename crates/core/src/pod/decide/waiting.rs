//! Why containers wait, for their statuses.

use super::super::observed::ObservedContainer;
use super::super::status;
use super::start::Turn;
use super::{Draft, Waiting, format_pod};
use crate::ids::ContainerName;

impl Draft<'_> {
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
            let crash = self.observed.sandbox.as_ref().zip(newest).and_then(|(sandbox, newest)| match self.turn(&container, sandbox) {
                Turn::At(_) => Some(newest.backoff_seconds.min(self.rules.crash.max)),
                // The restart is under way: the reason stays until the new attempt runs.
                Turn::Now { .. }
                    if newest.backoff_seconds > 0 && newest.exit().is_some() && !self.memory.start_failures.contains_key(&name) =>
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
            } else if self.desired.stop.is_none()
                && self.memory.evicted.is_none()
                && newest.is_some_and(|newest| newest.exit().is_some() && self.is_resized_by_restart(newest))
            {
                // Where the policy leaves it ended, the API server would not let it come back.
                out.push((name, "ContainerCreating", format!("Container {} resize requires restart", container.name)));
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
