//! Which pods were isolated: after a reboot the kernel knows nothing, and the API server may be away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kube_pet_core::policies::Direction;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::json_file;
use crate::paths::Paths;

/// The isolated pods by UID, with their directions.
#[derive(Debug, Default)]
pub(super) struct Record {
    path: PathBuf,
    pods: BTreeMap<Arc<str>, Vec<Direction>>,
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    ingress: Vec<String>,
    #[serde(default)]
    egress: Vec<String>,
}

impl Record {
    /// What an earlier run has left.
    pub(super) fn read(paths: &Paths) -> Self {
        let mut record = Self { path: paths.network_policies(), pods: BTreeMap::new() };
        match json_file::read(&record.path, json_file::MAX_BYTES) {
            Ok(stored) => {
                let Stored { ingress, egress } = stored.unwrap_or_default();
                for (direction, uids) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
                    for uid in uids {
                        record.pods.entry(uid.into()).or_default().push(direction);
                    }
                }
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "which pods were isolated by NetworkPolicies cannot be read"),
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
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || json_file::write(&path, &stored)).await {
            warn!(error = &error as &dyn std::error::Error, "which pods are isolated by NetworkPolicies cannot be stored");
        }
    }
}
