//! What was last known of the Node object, on disk: with it the node starts when the API server is away, and a Node that was
//! deleted comes back as it was.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Node, Taint};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::json_file;
use crate::paths::Paths;

/// The remembered parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Remembered {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<Taint>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Vec<String>,
    pub(super) internal_ips: Vec<IpAddr>,
}

impl Remembered {
    /// Takes over what a Node says.
    pub(super) fn learn(&mut self, node: &Node) {
        let spec = node.spec.clone().unwrap_or_default();
        self.name = node.metadata.name.clone().unwrap_or_default();
        self.uid = node.metadata.uid.clone().unwrap_or_default();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = spec.taints.unwrap_or_default();
        let cidrs = spec.pod_cidrs.filter(|cidrs| !cidrs.is_empty()).or_else(|| Some(vec![spec.pod_cidr.filter(|cidr| !cidr.is_empty())?]));
        // A Node that has just been made again has no network yet; its pods still do.
        if let Some(cidrs) = cidrs {
            self.pod_cidrs = cidrs;
        }
    }
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Record {
    path: PathBuf,
    written: Remembered,
}

impl Record {
    /// Reads what was known of the Node of this name. A file that cannot be read costs an offline start, nothing else.
    pub(super) fn open(paths: &Paths, node_name: &str) -> (Self, Remembered) {
        let path = paths.node_record();
        let read = json_file::read(&path, json_file::MAX_BYTES).unwrap_or_else(|error| {
            warn!(
                error = &error as &dyn std::error::Error,
                "what was known of the Node cannot be read; it is learned anew from the API server"
            );
            None
        });
        let remembered: Remembered = read.unwrap_or_default();
        let remembered = if remembered.name == node_name { remembered } else { Remembered::default() };
        (Self { path, written: remembered.clone() }, remembered)
    }

    /// Writes what is new.
    pub(super) async fn save(&mut self, remembered: &Remembered) {
        if self.written == *remembered {
            return;
        }
        let (path, content) = (self.path.clone(), remembered.clone());
        let written = tokio::task::spawn_blocking(move || json_file::write(&path, &content));
        match written.await {
            Ok(Ok(())) => self.written = remembered.clone(),
            Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "what is known of the Node is not kept for an offline start"),
            Err(_) => {}
        }
    }
}
