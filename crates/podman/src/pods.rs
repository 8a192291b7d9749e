//! Podman pods: here only a way to show which containers belong together.

use std::collections::BTreeMap;

use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use crate::Result;
use crate::client::Client;
use crate::error::Operation;
use crate::spec::PodSpecGenerator;
use crate::transport::Call;
use crate::wire::{encode, label_filters, nullable, time};

/// One entry of the list of pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PodSummary {
    /// ID.
    pub id: String,
    /// Name.
    pub name: String,
    /// `Created`, `Running`, `Degraded`, `Exited`, …
    pub status: String,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Containers in it.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<PodContainer>,
    /// Its cgroup's parent.
    pub cgroup: String,
    /// When it was made.
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// ID of the infra container; empty without one.
    pub infra_id: String,
}

/// A container in a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PodContainer {
    /// ID.
    pub id: String,
    /// Name.
    #[serde(rename = "Names")]
    pub name: String,
    /// State.
    pub status: String,
}

impl Client {
    /// Makes a pod and gives its ID.
    ///
    /// # Errors
    /// [`crate::Error::is_name_in_use`] when it exists already.
    pub async fn create_pod(&self, spec: &PodSpecGenerator) -> Result<String> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase", default)]
        struct Created {
            id: String,
        }
        let call = Call::new(Operation::PodCreate, &spec.name, Method::POST, "/pods/create".to_owned()).json(spec)?;
        let created: Created = self.transport.json(&call).await?;
        Ok(created.id)
    }

    /// Removes a pod; one that does not exist is fine. With `force` its containers are killed and removed too.
    pub async fn remove_pod(&self, id_or_name: &str, force: bool) -> Result<()> {
        let mut call = Call::new(Operation::PodRemove, id_or_name, Method::DELETE, format!("/pods/{}", encode(id_or_name)));
        if force {
            call = call.query("force", "true").query("timeout", "0");
        }
        match self.transport.call(&call).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// All pods that have every one of `labels`; an empty value means any.
    pub async fn list_pods(&self, labels: &[(&str, &str)]) -> Result<Vec<PodSummary>> {
        let mut call = Call::new(Operation::PodList, "", Method::GET, "/pods/json".to_owned());
        if let Some(filters) = label_filters(labels) {
            call = call.query("filters", &filters);
        }
        let list: Option<Vec<PodSummary>> = self.transport.json(&call).await?;
        Ok(list.unwrap_or_default())
    }

    /// Whether a pod exists.
    pub async fn pod_exists(&self, id_or_name: &str) -> Result<bool> {
        let call = Call::new(Operation::PodExists, id_or_name, Method::GET, format!("/pods/{}/exists", encode(id_or_name)));
        match self.transport.call(&call).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
