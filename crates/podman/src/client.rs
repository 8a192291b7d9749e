//! The client, and the calls about the service itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Method;
use serde::Deserialize;

use crate::Result;
use crate::capabilities::{Capabilities, Version};
use crate::error::Operation;
use crate::transport::{Call, Observer, Transport};
use crate::wire::nullable;

/// A client of one Podman service. Cheap to clone; clones share connections and the limit of calls in flight.
#[derive(Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &self.transport.socket()).finish()
    }
}

/// What the service says of itself when pinged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceVersion {
    /// Podman's version.
    pub version: Version,
    /// Podman's version as it gave it, suffix included; empty where it gave none.
    pub api_version: String,
}

/// `GET /info`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Info {
    /// The machine.
    #[serde(deserialize_with = "nullable")]
    pub host: InfoHost,
    /// Image and container storage.
    #[serde(deserialize_with = "nullable")]
    pub store: InfoStore,
}

/// The machine, as Podman sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InfoHost {
    /// Go's name of the architecture.
    pub arch: String,
    /// `systemd` or `cgroupfs`.
    pub cgroup_manager: String,
    /// `v1` or `v2`.
    pub cgroup_version: String,
    /// Controllers that containers can use.
    #[serde(deserialize_with = "nullable")]
    pub cgroup_controllers: Vec<String>,
    /// The operating system.
    #[serde(deserialize_with = "nullable")]
    pub distribution: InfoDistribution,
    /// `journald` or `file`.
    pub event_logger: String,
    /// Kernel release.
    pub kernel: String,
    /// The OCI runtime.
    #[serde(deserialize_with = "nullable")]
    pub oci_runtime: InfoRuntime,
    /// `linux`.
    pub os: String,
    /// Free locks of Podman's pool (one per container, pod and volume); absent in 4.3.
    pub free_locks: Option<u32>,
    /// Security modules.
    #[serde(deserialize_with = "nullable")]
    pub security: InfoSecurity,
}

/// `/etc/os-release`, as Podman read it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct InfoDistribution {
    /// `ID`.
    pub distribution: String,
    /// `VERSION_ID`.
    pub version: String,
}

/// The OCI runtime.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct InfoRuntime {
    /// `crun` or `runc`.
    pub name: String,
    /// Its own words, several lines.
    pub version: String,
    /// The program.
    pub path: String,
}

/// Security modules that containers can use.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InfoSecurity {
    /// AppArmor is on.
    pub apparmor_enabled: bool,
    /// SELinux is on.
    #[serde(rename = "selinuxEnabled")]
    pub selinux_enabled: bool,
    /// seccomp can be used.
    pub seccomp_enabled: bool,
    /// Default profile of Podman.
    #[serde(rename = "seccompProfilePath")]
    pub seccomp_profile_path: String,
    /// The service does not run as root.
    pub rootless: bool,
    /// Default capabilities of a container, separated by commas.
    pub capabilities: String,
}

/// Image and container storage.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InfoStore {
    /// Storage driver, normally `overlay`.
    pub graph_driver_name: String,
    /// Where images and containers are.
    pub graph_root: PathBuf,
    /// What ends with a reboot.
    pub run_root: PathBuf,
    /// Named volumes.
    pub volume_path: PathBuf,
    /// Where downloads are unpacked first.
    pub image_copy_tmp_dir: PathBuf,
}

impl Client {
    /// A client of the service at `socket`. Connects when it is first used.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { transport: Arc::new(Transport::new(socket.into())) }
    }

    /// Lets `observer` be told of every call of this client and its clones; for streams, when their reply begins. The first one stays.
    pub fn observe(&self, observer: Observer) {
        self.transport.observe(observer);
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.transport.socket()
    }

    /// What the running version can do, as of its newest reply. Before the first reply: nothing beyond 4.3.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.transport.capabilities()
    }

    /// Asks whether the service is there. Not held up by other calls in flight.
    pub async fn ping(&self) -> Result<ServiceVersion> {
        let call = Call::new(Operation::Ping, "", Method::GET, "/_ping".to_owned());
        let reply = self.transport.call_unlimited(&call).await?;
        let api_version = reply.headers.get("libpod-api-version").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        Ok(ServiceVersion { version: api_version.parse().unwrap_or_default(), api_version })
    }

    /// Reads what Podman knows of the machine and its storage. Slow (tens of milliseconds).
    pub async fn info(&self) -> Result<Info> {
        let call = Call::new(Operation::Info, "", Method::GET, "/info".to_owned());
        self.transport.json(&call).await
    }
}
