//! Podman's `SpecGenerator`: what a container and a pod are made from. Names and types are those of Podman's JSON, checked
//! against 4.3.1 to 6.0. Podman ignores fields that it does not know.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resources::LinuxResources;

/// A namespace: its mode, and the path or container that the mode needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `private`, `host`, `path`, `container`, `pod`, `none`, `auto` …
    pub nsmode: String,
    /// A path for `path`, an ID for `container`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

impl Namespace {
    /// A namespace pinned as a file.
    #[must_use]
    pub fn path(path: impl Into<String>) -> Self {
        Self { nsmode: "path".to_owned(), value: path.into() }
    }
    /// The host's own.
    #[must_use]
    pub fn host() -> Self {
        Self { nsmode: "host".to_owned(), value: String::new() }
    }
    /// A new one for this container alone.
    #[must_use]
    pub fn private() -> Self {
        Self { nsmode: "private".to_owned(), value: String::new() }
    }
    /// That of another container.
    #[must_use]
    pub fn container(id: impl Into<String>) -> Self {
        Self { nsmode: "container".to_owned(), value: id.into() }
    }
}

/// A mount, as in the OCI runtime specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path in the container.
    pub destination: String,
    /// `bind` or `tmpfs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path on the host; `tmpfs` for a tmpfs.
    pub source: String,
    /// `rbind`, `ro`, `rslave`, `size=…` …
    pub options: Vec<String>,
}

impl Mount {
    /// A recursive bind mount.
    pub fn bind(source: impl Into<String>, destination: impl Into<String>, read_only: bool) -> Self {
        Self {
            destination: destination.into(),
            kind: "bind".to_owned(),
            source: source.into(),
            options: vec!["rbind".to_owned(), if read_only { "ro" } else { "rw" }.to_owned(), "rprivate".to_owned()],
        }
    }
}

/// A volume that Podman manages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NamedVolume {
    /// Its name; empty makes an anonymous one.
    pub name: String,
    /// Path in the container.
    pub dest: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// A device node. With only `path` set, Podman reads the rest from the host's node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// `/dev/x`, or `/dev/x:/dev/y:rwm`.
    pub path: String,
    /// `c` or `b`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Mode bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A process limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` …
    #[serde(rename = "type")]
    pub kind: String,
    /// Hard limit.
    pub hard: u64,
    /// Soft limit.
    pub soft: u64,
}

/// Where the container's output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfiguration {
    /// `k8s-file` writes CRI lines.
    pub driver: String,
    /// The file; its folder must exist.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Driver's options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl LogConfiguration {
    /// CRI lines in a file of ours, without Podman's own size limit (which truncates).
    #[must_use]
    pub fn k8s_file(path: impl Into<String>) -> Self {
        Self { driver: "k8s-file".to_owned(), path: path.into(), options: BTreeMap::new() }
    }
}

/// A health check; only the off switch is used here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// The command, Docker's way.
    #[serde(rename = "Test")]
    pub test: Vec<String>,
}

impl HealthConfig {
    /// The image's HEALTHCHECK is not run (a kubelet ignores it; Podman would make a systemd timer).
    #[must_use]
    pub fn disabled() -> Self {
        Self { test: vec!["NONE".to_owned()] }
    }
}

/// Which IDs of the host those of a user namespace are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IdMappings {
    /// Users are the host's.
    #[serde(rename = "HostUIDMapping")]
    pub host_uid_mapping: bool,
    /// Groups are the host's.
    #[serde(rename = "HostGIDMapping")]
    pub host_gid_mapping: bool,
    /// Users.
    #[serde(rename = "UIDMap")]
    pub uid_map: Vec<IdMap>,
    /// Groups.
    #[serde(rename = "GIDMap")]
    pub gid_map: Vec<IdMap>,
}

impl IdMappings {
    /// `count` users and groups from 0 on, which are the host's from `first` on.
    #[must_use]
    pub fn range(first: u32, count: u32) -> Self {
        let map = vec![IdMap { container_id: 0, host_id: first, size: count }];
        Self { host_uid_mapping: false, host_gid_mapping: false, uid_map: map.clone(), gid_map: map }
    }
}

/// A range of [`IdMappings`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The first one in the container.
    pub container_id: u32,
    /// And on the host.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What a container is made from. [`SpecGenerator::new`] has the defaults that a pod's container needs; `Default` has
/// Podman's own.
///
/// `Debug` shows neither environment nor mounts: they may carry secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "Podman's own shape")]
pub struct SpecGenerator {
    /// Unique name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Image name or ID. An ID is never pulled or resolved.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// A folder to use as the root instead of an image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs: String,
    /// Replaces the image's CMD (a pod's `args`). With an entrypoint set, the image's CMD is not used in any case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's ENTRYPOINT (a pod's `command`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Environment, over the image's. Podman adds `HOSTNAME` (the host's name where the UTS namespace is given by path),
    /// `TERM` and `container` where they are not set here or in `unsetenv`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Variables of the image or of Podman's defaults that are dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsetenv: Vec<String>,
    /// Pass the service's environment in. Always sent: the default differs by version.
    pub env_host: bool,
    /// Pass the service's proxy variables in. Always sent: later versions default to true.
    pub httpproxy: bool,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the OCI specification.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name or ID of the Podman pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// `user`, `uid`, `uid:gid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Supplementary groups, by number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub work_dir: String,
    /// Make the working directory if the image has none.
    #[serde(skip_serializing_if = "is_false")]
    pub create_working_dir: bool,
    /// Keep standard input open.
    #[serde(skip_serializing_if = "is_false")]
    pub stdin: bool,
    /// Give it a terminal.
    #[serde(skip_serializing_if = "is_false")]
    pub terminal: bool,
    /// Bind mounts and tmpfs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Podman's volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<NamedVolume>,
    /// What becomes of the image's VOLUMEs: `anonymous`, `tmpfs` or `ignore`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_volume_mode: String,
    /// Network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<Namespace>,
    /// IPC namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipcns: Option<Namespace>,
    /// UTS namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utsns: Option<Namespace>,
    /// PID namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pidns: Option<Namespace>,
    /// User namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userns: Option<Namespace>,
    /// How the IDs of a private user namespace are mapped; the files of its root have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idmappings: Option<IdMappings>,
    /// Cgroup namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroupns: Option<Namespace>,
    /// Hostname; refused unless the UTS namespace is private.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Cgroup below which the container's is made.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_parent: String,
    /// `enabled`, `disabled`, `no-conmon`, `split`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroups_mode: String,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<LinuxResources>,
    /// Files of cgroup v2 by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
    /// Process limits.
    #[serde(skip_serializing_if = "Vec::is_empty", rename = "r_limits")]
    pub rlimits: Vec<Rlimit>,
    /// −1000 to 1000. Lowering it below the service's own needs CAP_SYS_RESOURCE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Capabilities to add (`CAP_…` or without the prefix, or `all`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// All devices, all capabilities, no confinement.
    #[serde(skip_serializing_if = "is_false")]
    pub privileged: bool,
    /// Mount the root read-only. Podman then puts a tmpfs on /run, /tmp and /var/tmp unless `read_write_tmpfs` is false (4.4+).
    #[serde(skip_serializing_if = "is_false")]
    pub read_only_filesystem: bool,
    /// See `read_only_filesystem`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_write_tmpfs: Option<bool>,
    /// `no_new_privs`.
    #[serde(skip_serializing_if = "is_false")]
    pub no_new_privileges: bool,
    /// A profile's path, or `unconfined`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seccomp_profile_path: String,
    /// A profile's name, or `unconfined`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// `level:s0:c1,c2`, `type:…`, `disable`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub selinux_opts: Vec<String>,
    /// Sysctls; refused where the namespace is not the container's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Paths below /proc and /sys to hide.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<String>,
    /// Paths that are not hidden, or `ALL`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmask: Vec<String>,
    /// Mount options of /proc.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub procfs_opts: Vec<String>,
    /// Octal umask.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub umask: String,
    /// Device nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// The devices as the user gave them; only recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_device_list: Vec<Device>,
    /// Size of a private /dev/shm in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<i64>,
    /// `private`, `slave`, `shared`, …: propagation of the container's root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_propagation: String,
    /// Number of the signal that `stop` sends; the image's otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// Seconds that `stop` waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
    /// Where the output goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_configuration: Option<LogConfiguration>,
    /// `no`, `always`, `on-failure`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restart_policy: String,
    /// Podman leaves /etc/hosts alone. Always sent: the default comes from containers.conf.
    pub use_image_hosts: bool,
    /// Podman leaves /etc/resolv.conf alone.
    #[serde(skip_serializing_if = "is_false")]
    pub use_image_resolve_conf: bool,
    /// Podman adds the user to /etc/passwd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manage_password: Option<bool>,
    /// Put an init process in front. Always sent: the default differs by version.
    pub init: bool,
    /// `true`, `false` or `always`: set the container up for systemd inside.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd: String,
    /// `container`, `conmon`, `ignore`.
    #[serde(skip_serializing_if = "String::is_empty", rename = "sdnotifyMode")]
    pub sdnotify_mode: String,
    /// Health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthconfig: Option<HealthConfig>,
    /// Where conmon writes its process ID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub conmon_pid_file: String,
    /// OCI runtime; ignored by the API before 6.0.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub oci_runtime: String,
    /// Time zone, or `local`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timezone: String,
    /// The container's layer is not flushed to disk; it is lost in a power cut.
    #[serde(skip_serializing_if = "is_false")]
    pub volatile: bool,
}

impl SpecGenerator {
    /// A specification with what every container of a pod has in common: the agent restarts, probes and logs, and nothing
    /// of the host's environment gets in.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            restart_policy: "no".to_owned(),
            systemd: "false".to_owned(),
            sdnotify_mode: "ignore".to_owned(),
            healthconfig: Some(HealthConfig::disabled()),
            image_volume_mode: "anonymous".to_owned(),
            // A user that the image does not know stays unknown, as with other runtimes.
            manage_password: Some(false),
            use_image_hosts: true,
            use_image_resolve_conf: true,
            ..Self::default()
        }
    }
}

impl fmt::Debug for SpecGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpecGenerator")
            .field("name", &self.name)
            .field("image", &self.image)
            .field("pod", &self.pod)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// What a pod is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSpecGenerator {
    /// Unique name.
    pub name: String,
    /// No infra container: the agent holds the namespaces.
    pub no_infra: bool,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Cgroup of the pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_parent: String,
    /// Containers' cgroups are made below the pod's; Podman's default is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_parent: Option<bool>,
    /// Namespaces to share through an infra container; none here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_namespaces: Option<Vec<String>>,
    /// `continue` or `stop`: what the pod does when its last container exits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub exit_policy: String,
}

impl PodSpecGenerator {
    /// A pod without infra container.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), no_infra: true, ..Self::default() }
    }
}
