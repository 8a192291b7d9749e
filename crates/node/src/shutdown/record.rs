//! When the last shutdown began and ended: metrics tell of it after the machine is up again.

use std::io::ErrorKind;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::instruments;

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
        let read = match tokio::fs::read(&self.path).await {
            Ok(bytes) => serde_json::from_slice::<Times>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Times::default()),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(times) => tell(times),
            Err(error) => warn!(path = %self.path.display(), error, "when the last shutdown was is not known"),
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
        let written = tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&times).map_err(|error| error.to_string())?;
            kube_pet_host::files::write_durable(&path, &bytes, 0o644).map_err(|error| error.to_string())
        });
        if let Ok(Err(error)) = written.await {
            warn!(path = %self.path.display(), error, "the time of the shutdown is not kept");
        }
    }
}

fn tell(times: Times) {
    #[allow(clippy::cast_precision_loss, reason = "seconds of the Unix time")]
    let seconds = |time: Option<Timestamp>| time.map_or(0.0, |time| time.as_second() as f64);
    instruments::SHUTDOWN_START.set(seconds(times.start_time));
    instruments::SHUTDOWN_END.set(seconds(times.end_time));
}
