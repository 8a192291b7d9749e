//! When the last shutdown began and ended: metrics tell of it after the machine is up again.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{instruments, json_file};

/// The file.
pub(super) struct Record {
    path: PathBuf,
}

/// Its content, in the kubelet's words (`graceful_node_shutdown_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Times {
    start_time: Option<Timestamp>,
    end_time: Option<Timestamp>,
}

impl Record {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Tells metrics of the last one.
    pub(super) async fn show(&self) {
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || json_file::read::<Times>(&path, json_file::MAX_BYTES)).await {
            Ok(Ok(times)) => tell(times.unwrap_or_default()),
            Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "when the last shutdown was is not known"),
            Err(_) => {}
        }
    }

    pub(super) async fn began(&self, start: Timestamp) {
        self.keep(Times { start_time: Some(start), end_time: None }).await;
    }

    pub(super) async fn ended(&self, start: Timestamp, end: Timestamp) {
        self.keep(Times { start_time: Some(start), end_time: Some(end) }).await;
    }

    async fn keep(&self, times: Times) {
        tell(times);
        let path = self.path.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || json_file::write_durable(&path, &times)).await {
            warn!(error = &error as &dyn std::error::Error, "the time of the shutdown is not kept");
        }
    }
}

fn tell(times: Times) {
    #[allow(clippy::cast_precision_loss, reason = "seconds of the Unix time")]
    let seconds = |time: Option<Timestamp>| time.map_or(0.0, |time| time.as_second() as f64);
    instruments::SHUTDOWN_START.set(seconds(times.start_time));
    instruments::SHUTDOWN_END.set(seconds(times.end_time));
}
