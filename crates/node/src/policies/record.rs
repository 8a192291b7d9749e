//! Which pods were isolated: after a reboot the kernel knows nothing, and the API server may be away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kube_pet_core::policies::Direction;
use kube_pet_host::files;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::paths::Paths;

/// A hundred bytes for each pod.
const MAX_BYTES: u64 = 1 << 20;

/// The isolated pods by UID, with their directions.
#[derive(Debug, Default)]
pub(super) struct Record {
    path: PathBuf,
    pods: BTreeMap<Arc<str>, Vec<Direction>>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    ingress: Vec<String>,
    #[serde(default)]
    egress: Vec<String>,
}

impl Record {
    /// What an earlier run has left.
    pub(super) fn read(paths: &Paths) -> Self {
        let path = paths.state_dir().join("network-policies.json");
        let mut record = Self { path, pods: BTreeMap::new() };
        let stored = match files::read_limited(&record.path, MAX_BYTES) {
            Ok(bytes) => serde_json::from_slice::<Stored>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.is_not_found() => return record,
            Err(error) => Err(error.to_string()),
        };
        match stored {
            Ok(Stored { ingress, egress }) => {
                for (direction, uids) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
                    for uid in uids {
                        record.pods.entry(uid.into()).or_default().push(direction);
                    }
                }
            }
            Err(error) => warn!(path = %record.path.display(), error, "which pods were isolated by NetworkPolicies cannot be read"),
        }
        record
    }

    /// The directions in which the pod was isolated; none if it was not.
    pub(super) fn directions(&self, uid: &str) -> &[Direction] {
        self.pods.get(uid).map_or(&[], Vec::as_slice)
    }

    /// Remembers this from now on.
    pub(super) async fn keep(&mut self, pods: BTreeMap<Arc<str>, Vec<Direction>>) {
        if self.pods == pods {
            return;
        }
        self.pods = pods;
        let of = |direction| self.pods.iter().filter(|(_, all)| all.contains(&direction)).map(|(uid, _)| uid.to_string()).collect();
        let stored = Stored { ingress: of(Direction::Ingress), egress: of(Direction::Egress) };
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&stored).map_err(|error| error.to_string())?;
            files::write_atomic(&path, &bytes, 0o600).map_err(|error| error.to_string())
        });
        if let Ok(Err(error)) = written.await {
            warn!(error, "which pods are isolated by NetworkPolicies cannot be stored");
        }
    }
}
