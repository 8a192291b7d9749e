//! The pod's status on its way to the API server: one write at a time, and none that changes nothing.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PodStatus;
use kube_pet_core::pod::{is_starting, status_differs};
use tracing::{Instrument as _, warn};

use super::outcome::Outcome;
use super::{Wanted, Worker};
use crate::instruments;
use crate::pods::mirror::{newest_status, resource_version};
use crate::pods::runtime::StatusWriteError;
use crate::pods::sources::Source;

/// How long a new pod's first, passing states are kept back: most pods run by then, and one write says it all.
const SETTLE: Duration = Duration::from_millis(150);

/// The status as the API server has it.
#[derive(Default)]
pub(super) struct Writing {
    /// A passing state waits for this moment, or for a better one.
    pub(super) held_until: Option<Instant>,
    /// Since when the status differs from what is written.
    differs_since: Option<Instant>,
    pub(super) in_flight: bool,
    /// Resource version and status of our last write.
    known: Option<(u64, PodStatus)>,
    pub(super) retry_at: Option<Instant>,
    failures: u32,
}

impl Worker {
    /// Writes the status to the API server if it differs from what is there; one write at a time.
    pub(super) fn publish(&mut self, wanted: &Wanted, status: &PodStatus) {
        // Before the API server has told what it has, this would be a comparison with an old status.
        if self.writing.in_flight || !wanted.present || !wanted.named || self.memory.deleted {
            return;
        }
        let shown = match wanted.source {
            Source::Api => wanted.pod.status.as_ref().map(|status| (resource_version(&wanted.pod), status)),
            Source::File => wanted.mirror.as_ref().map(|mirror| (mirror.version, &mirror.status)),
        };
        let known = newest_status(self.writing.known.as_ref(), shown);
        if known.is_some_and(|known| !status_differs(known, status)) || self.writing.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let differs_since = *self.writing.differs_since.get_or_insert_with(Instant::now);
        let settled = self.began + SETTLE;
        self.writing.held_until = (is_starting(status) && Instant::now() < settled).then_some(settled);
        if self.writing.held_until.is_some() {
            return;
        }
        let Some(target) = self.runtime.status_target(wanted) else { return };
        self.writing.in_flight = true;
        self.writing.differs_since = None;
        let runtime = self.runtime.clone();
        let status = status.clone();
        self.operations.spawn(
            async move {
                let result = runtime.write_status(&target, &status).await;
                if result.is_ok() {
                    instruments::POD_STATUS_SYNC_DURATION.observe(&[], differs_since.elapsed());
                }
                (None, Outcome::StatusWritten(result.map(|version| (version, Box::new(status)))))
            }
            .in_current_span(),
        );
    }

    pub(super) fn apply_status_written(&mut self, result: Result<(u64, Box<PodStatus>), StatusWriteError>) {
        self.writing.in_flight = false;
        match result {
            Ok((version, status)) => {
                self.writing.known = Some((version, *status));
                self.writing.retry_at = None;
                self.writing.failures = 0;
            }
            Err(StatusWriteError::Gone) => {
                // The watch will say so; writing again would only repeat it.
                self.writing.retry_at = Some(Instant::now() + Duration::from_secs(5));
            }
            Err(StatusWriteError::Failed(error)) => {
                self.writing.failures += 1;
                if self.writing.failures == 1 {
                    warn!(error, "status not written; retrying");
                }
                let delay = Duration::from_millis(250 << self.writing.failures.min(5));
                self.writing.retry_at = Some(Instant::now() + delay);
            }
        }
    }
}
