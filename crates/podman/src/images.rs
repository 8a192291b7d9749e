//! Images.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use crate::Result;
use crate::client::Client;
use crate::error::{Error, Operation};
use crate::events::json_lines;
use crate::registry_auth::RegistryAuth;
use crate::transport::Call;
use crate::wire::{encode, nullable, time};

/// All that is known of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageInspect {
    /// ID: the digest of its configuration, without `sha256:`.
    pub id: String,
    /// Digest of its manifest, with `sha256:`.
    pub digest: String,
    /// Names with tags.
    #[serde(deserialize_with = "nullable")]
    pub repo_tags: Vec<String>,
    /// Names with digests.
    #[serde(deserialize_with = "nullable")]
    pub repo_digests: Vec<String>,
    /// When it was built.
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// What a container of it runs.
    #[serde(deserialize_with = "nullable")]
    pub config: ImageConfig,
    /// Architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Bytes on disk.
    pub size: u64,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// What a container of an image runs by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// USER: a name or number, optionally with a group.
    pub user: String,
    /// ENTRYPOINT.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// CMD.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// ENV, as `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// WORKDIR.
    pub working_dir: String,
    /// STOPSIGNAL: a name or number; empty when not set.
    pub stop_signal: String,
    /// EXPOSE, as `80/tcp`.
    #[serde(deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// VOLUME: paths.
    #[serde(deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// LABEL.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// One entry of the list of images.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageSummary {
    /// ID, without `sha256:`.
    pub id: String,
    /// Names with tags.
    #[serde(deserialize_with = "nullable")]
    pub repo_tags: Vec<String>,
    /// Names with digests.
    #[serde(deserialize_with = "nullable")]
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// When it was built.
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// Containers made of it, running or not.
    pub containers: i64,
    /// It has no name.
    #[serde(deserialize_with = "nullable")]
    pub dangling: bool,
    /// It is in an additional, read-only store.
    #[serde(deserialize_with = "nullable")]
    pub read_only: bool,
}

/// One line of a pull's progress, as Podman words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// `Trying to pull …`, `Getting image source signatures`, `Copying blob sha256:…`, …
    pub line: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PullReport {
    stream: String,
    error: String,
    #[serde(deserialize_with = "nullable")]
    images: Vec<String>,
    id: String,
    // A refusal that came as an HTTP error after the stream began.
    cause: String,
    message: String,
}

impl Client {
    /// Pulls an image and gives its ID. `on_progress` sees each line that Podman writes; between two of them may be as long
    /// as the largest layer takes.
    ///
    /// Without `auth` Podman uses the machine's own credentials, if it has any. There is no deadline on the transfer: the
    /// caller drops the future to end it, which closes the connection and makes Podman give up.
    ///
    /// # Errors
    /// [`Error::Status`] with the registry's words; its status is 500 for what Podman reported within a reply of 200.
    pub async fn pull_image(
        &self,
        reference: &str,
        auth: Option<&RegistryAuth>,
        mut on_progress: impl FnMut(PullProgress),
    ) -> Result<String> {
        let mut call = Call::new(Operation::ImagePull, reference, Method::POST, "/images/pull".to_owned())
            .query("reference", &encode(reference))
            .query("policy", "always");
        if let Some(auth) = auth {
            let header = auth.header().map_err(|source| Error::Encode {
                operation: Operation::ImagePull,
                object: reference.to_owned(),
                source: source.into(),
            })?;
            call = call.header("x-registry-auth", header);
        }
        let response = self.transport.stream(&call).await?;
        let refused = |cause: String, message: String| Error::Status {
            operation: Operation::ImagePull,
            object: reference.to_owned(),
            status: StatusCode::INTERNAL_SERVER_ERROR,
            cause,
            message,
        };
        let mut reports = json_lines::<PullReport>(response.into_body(), Operation::ImagePull, reference);
        let mut id = String::new();
        while let Some(report) = reports.next().await {
            let report = report?;
            if !report.error.is_empty() {
                return Err(refused(String::new(), report.error));
            }
            if !report.message.is_empty() {
                return Err(refused(report.cause, report.message));
            }
            if !report.stream.is_empty() {
                on_progress(PullProgress { line: report.stream.trim_end().to_owned() });
            }
            if !report.id.is_empty() {
                id = report.id;
            } else if let Some(last) = report.images.into_iter().next_back() {
                id = last;
            }
        }
        if id.is_empty() {
            return Err(Error::Connection {
                operation: Operation::ImagePull,
                object: reference.to_owned(),
                source: "the stream ended without a result".into(),
            });
        }
        Ok(id)
    }

    /// All that is known of one image, by name or ID.
    ///
    /// # Errors
    /// [`Error::is_image_unknown`] when it is not in the store.
    pub async fn inspect_image(&self, reference: &str) -> Result<ImageInspect> {
        let call = Call::new(Operation::ImageInspect, reference, Method::GET, format!("/images/{}/json", encode(reference)));
        self.transport.json(&call).await
    }

    /// All images with a name, and those without.
    pub async fn list_images(&self) -> Result<Vec<ImageSummary>> {
        let call = Call::new(Operation::ImageList, "", Method::GET, "/images/json".to_owned());
        let list: Option<Vec<ImageSummary>> = self.transport.json(&call).await?;
        Ok(list.unwrap_or_default())
    }

    /// Removes an image; one that does not exist is fine. One that a container uses is refused
    /// ([`Error::is_conflict`]) and never forced.
    pub async fn remove_image(&self, reference: &str) -> Result<()> {
        let call = Call::new(Operation::ImageRemove, reference, Method::DELETE, format!("/images/{}", encode(reference)));
        match self.transport.call(&call).await {
            Err(error) if error.is_image_unknown() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether an image is in the store. Cheaper than inspecting it.
    pub async fn image_exists(&self, reference: &str) -> Result<bool> {
        let call = Call::new(Operation::ImageExists, reference, Method::GET, format!("/images/{}/exists", encode(reference)));
        match self.transport.call(&call).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_image_unknown() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
