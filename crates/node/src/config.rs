//! `NodeConfiguration`: what an operator may decide. Fields have KubeletConfiguration's names and defaults wherever they mean
//! the same.
//!
//! Strict: a field that is not known, a value that cannot hold, a file that is no YAML are errors, all reported at once, each
//! with its file, line, field and what to do. Files in `<config>.d/` are laid over the configuration in the order of their
//! names, flags over both.

mod dns_cache;
mod duration;
mod hints;
mod host_pod;
mod labels;
mod podman;
mod pressure;
mod problem;
mod schema;
mod section;
mod shutdown;
mod source;
mod tree;
mod tunnel;
mod values;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_pet_core::shutdown::ShutdownGrace;
use serde::Serialize;

pub use dns_cache::DnsCacheSettings;
pub use host_pod::HostPodSettings;
pub use kube_pet_core::eviction::{Signal, Threshold};
pub use podman::{ExecBy, PodmanSettings};
pub use problem::{ConfigErrors, Problem};
pub use source::{ConfigSource, Override};
pub use tree::Origin;
pub use tunnel::TunnelSettings;
pub use values::{ExternalIpSource, IpNet, LogFormat};

use crate::paths::Paths;

/// `apiVersion` of the configuration.
pub const API_VERSION: &str = "kube-pet.dev/v1alpha1";
/// `kind` of the configuration.
pub const KIND: &str = "NodeConfiguration";

/// The effective configuration of one agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfiguration {
    /// Always [`API_VERSION`].
    pub api_version: &'static str,
    /// Always [`KIND`].
    pub kind: &'static str,
    /// The Node's name. Default: the host name in lower case.
    pub node_name: String,
    /// The folder that `/etc`, `/var` and `/run` are below.
    pub root_dir: PathBuf,
    /// Complete credentials; when absent, or not there, those of the bootstrap are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Credentials that may request the node's own.
    pub bootstrap_kubeconfig: PathBuf,

    /// Where the node's API listens.
    pub address: IpAddr,
    /// The port of the node's API.
    pub port: u16,
    /// Where `/healthz` is served without authentication.
    pub healthz_bind_address: IpAddr,
    /// Its port; 0 turns it off.
    pub healthz_port: u16,
    /// Who may ask the node's API.
    pub authentication: Authentication,
    /// And for what.
    pub authorization: Authorization,
    /// Serving certificate (PEM), instead of a requested or self-signed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// The key of [`Self::tls_cert_file`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Whether to request the serving certificate from the cluster.
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    /// After how long without a byte a session of exec, attach or port-forward is closed.
    #[serde(serialize_with = "duration::serialize")]
    pub streaming_connection_idle_timeout: Duration,
    /// Whether `/logs/` shows the machine's `/var/log`.
    pub enable_system_log_handler: bool,
    /// Whether `/logs/?query=` reads the logs of services.
    pub enable_system_log_query: bool,

    /// The machine itself as a pod.
    pub host_pod: HostPodSettings,

    /// Name servers of pods with `dnsPolicy: ClusterFirst`.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, for search lists.
    pub cluster_domain: String,
    /// A cache of the cluster's DNS on the node.
    pub dns_cache: DnsCacheSettings,
    /// The resolv.conf that pods with `dnsPolicy: Default` get; empty for none.
    pub resolv_conf: PathBuf,
    /// The node's InternalIPs, primary first; at most one of each family. Default: the default route's.
    #[serde(rename = "nodeIP", skip_serializing_if = "Vec::is_empty")]
    pub node_ip: Vec<IpAddr>,
    /// Where the ExternalIP comes from: the first source that knows one wins, per address family.
    #[serde(rename = "externalIPSources")]
    pub external_ip_sources: Vec<ExternalIpSource>,
    /// Pod networks, primary first, instead of the Node's `spec.podCIDRs`.
    #[serde(rename = "podCIDR", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidr: Vec<IpNet>,
    /// MTU of pod interfaces. Default: that of the node's own interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// How the names of the host's ends of pod interfaces begin.
    pub link_prefix: String,

    /// Pods' traffic to elsewhere than these networks, and to other than pods of this node, gets the node's address.
    #[serde(rename = "nonMasqueradeCIDRs", skip_serializing_if = "Option::is_none")]
    pub non_masquerade_cidrs: Option<Vec<IpNet>>,
    /// Services.
    pub service_proxy: ServiceProxySettings,
    /// NetworkPolicies.
    pub network_policy: NetworkPolicySettings,
    /// The tunnel to the cluster.
    pub tunnel: TunnelSettings,

    /// Whether the agent creates its Node object.
    pub register_node: bool,
    /// Labels of the Node beside the well-known ones.
    pub node_labels: BTreeMap<String, String>,
    /// Taints that the Node is created with.
    pub register_with_taints: Vec<Taint>,
    /// `spec.providerID` that the Node is created with.
    #[serde(rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// How often the node's status is computed.
    #[serde(serialize_with = "duration::serialize")]
    pub node_status_update_frequency: Duration,
    /// How often it is written when nothing changed.
    #[serde(serialize_with = "duration::serialize")]
    pub node_status_report_frequency: Duration,
    /// How many images it names; -1 for all.
    pub node_status_max_images: i32,
    /// After how many seconds without renewal the node counts as lost.
    pub node_lease_duration_seconds: i32,
    /// Events per second that may be written.
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: u32,
    /// Events that may be written at once.
    pub event_burst: u32,

    /// Static pods.
    pub static_pod_path: PathBuf,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// Processes per pod; -1 for no limit.
    pub pod_pids_limit: i64,
    /// Whether the kernel's OOM killer ends one process of a container and not all; `None`: as the machine's cgroups can.
    #[serde(rename = "singleProcessOOMKill")]
    pub single_process_oom_kill: Option<bool>,
    /// The cgroup that `kubepods` is made in.
    pub cgroup_root: String,
    /// Whether Secrets that pods use are kept on disk, sealed, for a start without the API server.
    pub secrets_at_rest: bool,
    /// Sysctls (or patterns ending in `*`) that pods may set beside the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How many images are pulled at a time.
    pub max_parallel_image_pulls: u32,
    /// From which use of the disk on, in percent, unused images are removed.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u32,
    /// Until the disk is used this much.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u32,
    /// Younger images are not removed to make room.
    #[serde(rename = "imageMinimumGCAge", serialize_with = "duration::serialize")]
    pub image_minimum_gc_age: Duration,
    /// Images that are unused for longer are removed; zero for never.
    #[serde(rename = "imageMaximumGCAge", serialize_with = "duration::serialize")]
    pub image_maximum_gc_age: Duration,
    /// Delays of restarts.
    pub crash_loop_back_off: CrashLoopBackOff,
    /// Bytes from which on a container's log is put aside; negative for never.
    pub container_log_max_size: Quantity,
    /// Files of a container's log.
    pub container_log_max_files: u32,
    /// Logs that are worked on at a time.
    pub container_log_max_workers: u32,
    /// How often logs are looked at.
    #[serde(serialize_with = "duration::serialize")]
    pub container_log_monitor_interval: Duration,

    /// Kept back for the system, from allocatable.
    pub system_reserved: BTreeMap<String, Quantity>,
    /// Kept back for the agent and Podman, from allocatable.
    pub kube_reserved: BTreeMap<String, Quantity>,
    /// Below which remainders the node is under pressure, and pods have to go at once.
    pub eviction_hard: BTreeMap<Signal, Threshold>,
    /// Below which remainders it is under pressure, and pods have to go after a while.
    pub eviction_soft: BTreeMap<Signal, Threshold>,
    /// After which while: one for each of [`Self::eviction_soft`].
    #[serde(serialize_with = "duration::serialize_map")]
    pub eviction_soft_grace_period: BTreeMap<Signal, Duration>,
    /// How much more than the limit has to be there again once pods had to go.
    pub eviction_minimum_reclaim: BTreeMap<Signal, Threshold>,
    /// The most seconds that a pod has to end at a soft limit.
    pub eviction_max_pod_grace_period: u32,
    /// How long a pressure condition stays after the pressure has ended.
    #[serde(serialize_with = "duration::serialize")]
    pub eviction_pressure_transition_period: Duration,

    /// How long a shutdown of the machine waits for pods; zero for not at all.
    #[serde(serialize_with = "duration::serialize")]
    pub shutdown_grace_period: Duration,
    /// How much of it is for critical pods, at the end.
    #[serde(serialize_with = "duration::serialize")]
    pub shutdown_grace_period_critical_pods: Duration,
    /// Instead of both: times by priority.
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGrace>,

    /// The Podman service.
    pub podman: PodmanSettings,
    /// The log.
    pub logging: Logging,
}

/// `authentication`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// Client certificates.
    pub x509: X509Authentication,
    /// Bearer tokens.
    pub webhook: WebhookAuthentication,
    /// Neither.
    pub anonymous: AnonymousAuthentication,
}

/// `authentication.x509`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct X509Authentication {
    /// CA certificates (PEM) of clients. Default: the cluster's CA as the kubeconfig names it.
    #[serde(rename = "clientCAFile", skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// `authentication.webhook`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookAuthentication {
    /// Whether bearer tokens are accepted, by TokenReview.
    pub enabled: bool,
    /// How long an answer holds.
    #[serde(rename = "cacheTTL", serialize_with = "duration::serialize")]
    pub cache_ttl: Duration,
}

/// `authentication.anonymous`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnonymousAuthentication {
    /// Whether requests without credentials are let through to authorization, as `system:anonymous`.
    pub enabled: bool,
}

/// `authorization`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Authorization {
    /// Who decides.
    pub mode: AuthorizationMode,
    /// For [`AuthorizationMode::Webhook`].
    pub webhook: WebhookAuthorization,
}

/// `authorization.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AuthorizationMode {
    /// The API server, by SubjectAccessReview.
    Webhook,
    /// Nobody: everything is allowed to whoever is authenticated.
    AlwaysAllow,
}

/// `authorization.webhook`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WebhookAuthorization {
    /// How long a yes holds.
    #[serde(rename = "cacheAuthorizedTTL", serialize_with = "duration::serialize")]
    pub cache_authorized_ttl: Duration,
    /// How long a no holds.
    #[serde(rename = "cacheUnauthorizedTTL", serialize_with = "duration::serialize")]
    pub cache_unauthorized_ttl: Duration,
}

/// `crashLoopBackOff`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CrashLoopBackOff {
    /// The longest delay.
    #[serde(serialize_with = "duration::serialize")]
    pub max_container_restart_period: Duration,
}

/// `serviceProxy`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceProxySettings {
    /// Whether the agent leads traffic to Services to their endpoints. Host ports are opened in any case.
    pub enabled: bool,
    /// Where `/healthz` and `/livez` tell whether it works, without authentication; nowhere if `None`.
    #[serde(rename = "healthzBindAddress", serialize_with = "address_or_nothing")]
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where `/proxyMode` and its metrics are, without authentication; nowhere if `None`.
    #[serde(rename = "metricsBindAddress", serialize_with = "address_or_nothing")]
    pub metrics_bind_address: Option<SocketAddr>,
}

impl Default for ServiceProxySettings {
    /// kube-proxy's.
    fn default() -> Self {
        Self {
            enabled: true,
            healthz_bind_address: Some((Ipv4Addr::UNSPECIFIED, 10256).into()),
            metrics_bind_address: Some((Ipv4Addr::LOCALHOST, 10249).into()),
        }
    }
}

/// Nothing is written as empty text: the default is an address.
fn address_or_nothing<S: serde::Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    address.map(|address| address.to_string()).unwrap_or_default().serialize(serializer)
}

/// `networkPolicy`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkPolicySettings {
    /// Whether the agent enforces NetworkPolicies on its pods.
    pub enabled: bool,
}

/// `logging`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,kube_pet_node::pods=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl NodeConfiguration {
    /// Reads the files and flags.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn load(source: &ConfigSource) -> Result<Self, ConfigErrors> {
        source.load()
    }

    /// The defaults below `root`, for this machine's host name.
    pub fn defaults(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let paths = Paths::new(&root);
        Self {
            api_version: API_VERSION,
            kind: KIND,
            node_name: host_name(),
            kubeconfig: None,
            bootstrap_kubeconfig: paths.config_dir().join("bootstrap.kubeconfig"),
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            healthz_bind_address: IpAddr::from([127, 0, 0, 1]),
            healthz_port: 10248,
            authentication: Authentication {
                x509: X509Authentication { client_ca_file: None },
                webhook: WebhookAuthentication { enabled: true, cache_ttl: Duration::from_secs(120) },
                anonymous: AnonymousAuthentication { enabled: false },
            },
            authorization: Authorization {
                mode: AuthorizationMode::Webhook,
                webhook: WebhookAuthorization {
                    cache_authorized_ttl: Duration::from_secs(300),
                    cache_unauthorized_ttl: Duration::from_secs(30),
                },
            },
            tls_cert_file: None,
            tls_private_key_file: None,
            server_tls_bootstrap: true,
            streaming_connection_idle_timeout: Duration::from_secs(4 * 3600),
            enable_system_log_handler: true,
            enable_system_log_query: false,
            host_pod: HostPodSettings::default(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            dns_cache: DnsCacheSettings::default(),
            resolv_conf: "/etc/resolv.conf".into(),
            node_ip: Vec::new(),
            external_ip_sources: Vec::new(),
            pod_cidr: Vec::new(),
            mtu: None,
            link_prefix: "kp".into(),
            non_masquerade_cidrs: None,
            service_proxy: ServiceProxySettings::default(),
            network_policy: NetworkPolicySettings { enabled: true },
            tunnel: TunnelSettings::default(),
            register_node: true,
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            provider_id: None,
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            node_status_max_images: 50,
            node_lease_duration_seconds: 40,
            event_record_qps: 50,
            event_burst: 100,
            static_pod_path: paths.config_dir().join("manifests"),
            max_pods: 110,
            pod_pids_limit: -1,
            single_process_oom_kill: None,
            cgroup_root: "/".into(),
            secrets_at_rest: false,
            allowed_unsafe_sysctls: Vec::new(),
            max_parallel_image_pulls: 4,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: Duration::from_secs(120),
            image_maximum_gc_age: Duration::ZERO,
            crash_loop_back_off: CrashLoopBackOff { max_container_restart_period: Duration::from_secs(300) },
            container_log_max_size: Quantity("10Mi".to_owned()),
            container_log_max_files: 5,
            container_log_max_workers: 1,
            container_log_monitor_interval: Duration::from_secs(10),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            eviction_hard: values::default_thresholds(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_max_pod_grace_period: 0,
            eviction_pressure_transition_period: Duration::from_secs(300),
            shutdown_grace_period: Duration::ZERO,
            shutdown_grace_period_critical_pods: Duration::ZERO,
            shutdown_grace_period_by_pod_priority: Vec::new(),
            podman: PodmanSettings::default(),
            logging: Logging { level: "info".into(), format: LogFormat::Text },
            root_dir: root,
        }
    }

    /// Where everything lives on disk.
    pub fn paths(&self) -> Paths {
        Paths::new(&self.root_dir)
    }

    /// The cgroup that all pods are below: `kubepods` in [`Self::cgroup_root`].
    pub fn pods_cgroup(&self) -> String {
        format!("{}/kubepods", self.cgroup_root.trim_end_matches('/'))
    }

    /// The whole configuration as YAML, as `--print-config` shows it. It holds no secrets: credentials are in the files that it
    /// names, and a password in a URL is left out.
    ///
    /// # Errors
    /// When a value cannot be written as YAML.
    pub fn to_yaml(&self) -> Result<String, PrintError> {
        serde_saphyr::to_string(self).map_err(|error| PrintError { reason: error.to_string() })
    }
}

/// The configuration could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("writing the configuration as YAML: {reason}")]
pub struct PrintError {
    reason: String,
}

/// Whether a node may give itself this label (NodeRestriction), and the agent does not compute it.
pub(crate) fn may_set_label(key: &str, value: &str) -> bool {
    labels::check(key, value).is_ok()
}

/// The kernel's host name in lower case, as the kubelet names its Node.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase()
}

#[cfg(test)]
mod tests;
