//! Containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use crate::Result;
use crate::client::Client;
use crate::error::{Error, Operation};
use crate::resources::LinuxResources;
use crate::spec::SpecGenerator;
use crate::transport::Call;
use crate::wire::{encode, label_filters, name_or_number, nullable, time, words};

/// A container that was made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreatedContainer {
    /// Its ID.
    pub id: String,
    /// What Podman could not honour.
    #[serde(deserialize_with = "nullable")]
    pub warnings: Vec<String>,
}

/// One entry of the list of containers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSummary {
    /// ID.
    pub id: String,
    /// Names; the first is the container's own.
    #[serde(deserialize_with = "nullable")]
    pub names: Vec<String>,
    /// Labels, the image's included.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// `created`, `initialized`, `running`, `stopping`, `stopped`, `exited`, `paused`, `removing`, `configured`.
    pub state: String,
    /// Has run and ended.
    pub exited: bool,
    /// Exit code; meaningful when `exited`.
    pub exit_code: i32,
    /// Main process; 0 when none.
    pub pid: i32,
    /// When it was made.
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// When it was started last (whole seconds).
    #[serde(deserialize_with = "time")]
    pub started_at: Option<Timestamp>,
    /// When it ended last (whole seconds).
    #[serde(deserialize_with = "time")]
    pub exited_at: Option<Timestamp>,
    /// ID of its Podman pod; empty when none.
    #[serde(rename = "Pod")]
    pub pod_id: String,
    /// Image as it was given.
    pub image: String,
    /// ID of the image.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// It is a pod's infra container.
    pub is_infra: bool,
}

impl ContainerSummary {
    /// The container's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// All that is known of one container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerInspect {
    /// ID.
    pub id: String,
    /// Name.
    pub name: String,
    /// When it was made.
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// What it does now.
    #[serde(deserialize_with = "nullable")]
    pub state: ContainerState,
    /// ID of the image.
    pub image: String,
    /// Name of the image as it was given.
    pub image_name: String,
    /// Digest of the image.
    pub image_digest: String,
    /// ID of its Podman pod; empty when none.
    pub pod: String,
    /// How it was set up.
    #[serde(deserialize_with = "nullable")]
    pub config: ContainerConfig,
    /// Mounts.
    #[serde(deserialize_with = "nullable")]
    pub mounts: Vec<ContainerMount>,
    /// Podman's folder for it: `ctl` (conmon's control pipe), `config.json` …
    pub static_dir: PathBuf,
    /// The runtime specification's file.
    #[serde(rename = "OCIConfigPath")]
    pub oci_config_path: PathBuf,
    /// File with conmon's process ID.
    pub conmon_pid_file: PathBuf,
    /// Exec sessions that are known.
    #[serde(rename = "ExecIDs", deserialize_with = "nullable")]
    pub exec_ids: Vec<String>,
    /// SELinux label of its processes.
    pub process_label: String,
    /// How often Podman itself restarted it; 0, since the agent restarts.
    pub restart_count: u32,
}

/// What a container does now.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "Podman's own shape")]
pub struct ContainerState {
    /// `created`, `initialized`, `running`, `stopping`, `stopped`, `exited`, `paused`, `removing`.
    pub status: String,
    /// It runs.
    pub running: bool,
    /// It is paused.
    pub paused: bool,
    /// The kernel killed it for memory. Not reliable before Podman 5.0.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Main process; 0 when none.
    pub pid: i32,
    /// Its conmon; 0 when none.
    pub conmon_pid: i32,
    /// Exit code of the last run; 0 also for a container that never started.
    pub exit_code: i32,
    /// What the runtime said.
    pub error: String,
    /// Start of the last run.
    #[serde(deserialize_with = "time")]
    pub started_at: Option<Timestamp>,
    /// End of the last run.
    #[serde(deserialize_with = "time")]
    pub finished_at: Option<Timestamp>,
    /// Its cgroup, where it runs.
    pub cgroup_path: String,
}

/// How a container was set up.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Labels, the image's included.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// Environment. May carry secrets: not shown by `Debug`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// Command.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Entrypoint; one string before Podman 5.0.
    #[serde(deserialize_with = "words")]
    pub entrypoint: Vec<String>,
    /// User.
    pub user: String,
    /// Working directory.
    pub working_dir: String,
    /// Signal that `stop` sends: its name, or its number before Podman 5.0.
    #[serde(deserialize_with = "name_or_number")]
    pub stop_signal: Option<String>,
    /// It has a terminal.
    pub tty: bool,
    /// Its standard input is kept open.
    pub open_stdin: bool,
}

impl std::fmt::Debug for ContainerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerConfig")
            .field("labels", &self.labels)
            .field("entrypoint", &self.entrypoint)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// One mount of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerMount {
    /// `bind`, `volume`, `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Path on the host.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Writable.
    #[serde(rename = "RW")]
    pub rw: bool,
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    /// It has ended (or never started and was removed).
    Stopped,
    /// It runs.
    Running,
}

fn path(id: &str, action: &str) -> String {
    format!("/containers/{}{action}", encode(id))
}

impl Client {
    /// Makes a container; it does not run yet.
    ///
    /// # Errors
    /// [`Error::is_name_in_use`], [`Error::is_image_unknown`] and [`Error::is_not_found`] (the pod) tell the usual refusals
    /// apart. After a broken connection or a missed deadline the container may exist.
    pub async fn create_container(&self, spec: &SpecGenerator) -> Result<CreatedContainer> {
        let call = Call::new(Operation::ContainerCreate, &spec.name, Method::POST, "/containers/create".to_owned()).json(spec)?;
        self.transport.json(&call).await
    }

    /// Starts a container; one that runs already is fine.
    ///
    /// # Errors
    /// A program that does not exist or cannot be executed is refused here, with the runtime's words in
    /// [`Error::podman_message`]; the container then stays `created` with exit code 0.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let call = Call::new(Operation::ContainerStart, id, Method::POST, path(id, "/start"));
        self.transport.call(&call).await.map(drop)
    }

    /// Sends `signal` (a name, with or without `SIG`, or a number) to the main process.
    ///
    /// # Errors
    /// [`Error::is_wrong_state`] when it does not run.
    pub async fn kill_container(&self, id: &str, signal: &str) -> Result<()> {
        let call = Call::new(Operation::ContainerKill, id, Method::POST, path(id, "/kill")).query("signal", &encode(signal));
        self.transport.call(&call).await.map(drop)
    }

    /// Sends the stop signal, and SIGKILL after `timeout` (whole seconds). One that does not run is fine.
    ///
    /// Meanwhile Podman refuses exec sessions in the container.
    pub async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        let call = Call::new(Operation::ContainerStop, id, Method::POST, path(id, "/stop"))
            .query("timeout", &timeout.as_secs().to_string())
            .deadline(timeout + Operation::ContainerStop.deadline());
        // It may hold its place for as long as the container takes, so it does not count as a call in flight.
        self.transport.call_unlimited(&call).await.map(drop)
    }

    /// Removes a container with its anonymous volumes; one that does not exist is fine. With `force` one that runs is
    /// killed first, without grace.
    pub async fn remove_container(&self, id: &str, force: bool) -> Result<()> {
        let mut call = Call::new(Operation::ContainerRemove, id, Method::DELETE, path(id, ""))
            .query("ignore", "true")
            // 4.3 reads `volumes`, its documentation and later versions say `v`.
            .query("v", "true")
            .query("volumes", "true");
        if force {
            call = call.query("force", "true").query("timeout", "0");
        }
        match self.transport.call(&call).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// All that is known of one container, by ID or name.
    pub async fn inspect_container(&self, id: &str) -> Result<ContainerInspect> {
        let call = Call::new(Operation::ContainerInspect, id, Method::GET, path(id, "/json"));
        self.transport.json(&call).await
    }

    /// All containers, running or not, that have every one of `labels`; an empty value means any.
    pub async fn list_containers(&self, labels: &[(&str, &str)]) -> Result<Vec<ContainerSummary>> {
        let mut call = Call::new(Operation::ContainerList, "", Method::GET, "/containers/json".to_owned()).query("all", "true");
        if let Some(filters) = label_filters(labels) {
            call = call.query("filters", &filters);
        }
        let list: Option<Vec<ContainerSummary>> = self.transport.json(&call).await?;
        Ok(list.unwrap_or_default())
    }

    /// Waits until a container is in a state, at most `limit`, and gives its exit code. Does not count as a call in flight.
    ///
    /// Podman polls for this (every 250 ms by itself; every 20 ms here).
    pub async fn wait_container(&self, id: &str, condition: WaitCondition, limit: Duration) -> Result<i32> {
        let condition = match condition {
            WaitCondition::Stopped => "stopped",
            WaitCondition::Running => "running",
        };
        let call = Call::new(Operation::ContainerWait, id, Method::POST, path(id, "/wait"))
            .query("condition", condition)
            .query("interval", "20ms")
            .deadline(limit);
        let reply = self.transport.call_unlimited(&call).await?;
        let text = String::from_utf8_lossy(&reply.body);
        text.trim().parse().map_err(|_| Error::Decode {
            operation: Operation::ContainerWait,
            object: id.to_owned(),
            source: serde::de::Error::custom(format!("{:?} is not an exit code", text.trim())),
        })
    }

    /// Mounts a container's root file system on this machine and gives its path; it need not run. One that is mounted already is fine. The
    /// mount lasts until the container is removed, or the machine goes down.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such container.
    pub async fn mount_container(&self, id: &str) -> Result<PathBuf> {
        let call = Call::new(Operation::ContainerMount, id, Method::POST, path(id, "/mount"));
        let reply = self.transport.call(&call).await?;
        // The bare path, where the documentation promises JSON.
        let text = String::from_utf8_lossy(&reply.body);
        let path = PathBuf::from(text.trim().trim_matches('"'));
        if path.is_absolute() {
            return Ok(path);
        }
        let source = serde::de::Error::custom(format!("{:?} is not a path", text.trim()));
        Err(Error::Decode { operation: Operation::ContainerMount, object: id.to_owned(), source })
    }

    /// Changes the limits of a running container. Give all limits, not only the changed ones: before Podman 5.4 what is
    /// left out falls back to a default.
    pub async fn update_container(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let call = Call::new(Operation::ContainerUpdate, id, Method::POST, path(id, "/update")).json(resources)?;
        self.transport.call(&call).await.map(drop)
    }
}
