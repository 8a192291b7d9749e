//! The agent, put together: one paragraph per component, in the order in which they depend on each other.

mod error;
mod settings;
mod tasks;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rustls::server::ResolvesServerCert;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::error::StartError;
use self::settings::{collection_policy, log_policy, pod_settings};
use self::tasks::{Tasks, after, follow_networks, hold_open, return_memory};
use crate::config::{AuthorizationMode, NodeConfiguration};
use crate::dns_cache::{DnsCache, DnsCacheOptions};
use crate::events::{EventRate, EventRecorder, EventType};
use crate::eviction::{EvictionManager, EvictionOptions};
use crate::exec::Executor;
use crate::flusher::Flusher;
use crate::handlers::Handlers;
use crate::host_pod::HostPod;
use crate::identity::{self, IdentityOptions, ServingNames, ServingOptions};
use crate::images::collection::ImageCollector;
use crate::images::{ImageManager, ImageManagerOptions, PullLimits};
use crate::kernel_tables::OwnChanges;
use crate::log_rotation::LogRotator;
use crate::masquerade::Masquerade;
use crate::node_status::{NodeManager, NodeManagerOptions};
use crate::objects::{Copies, ObjectFetcher};
use crate::podman_service::PodmanService;
use crate::podman_store::PodmanStore;
use crate::pods::inventory::{Inventory, InventoryHealth, Subscribers};
use crate::pods::manager::{ManagerInputs, PodManager};
use crate::pods::mirror::Mirrors;
use crate::pods::runtime::{PodRuntime, PodRuntimeParts};
use crate::pods::sources::{self, Source};
use crate::pods::store::PodStoreWriter;
use crate::policies::{Policies, PoliciesOptions};
use crate::sandboxes::{SandboxConfig, SandboxManager};
use crate::server::{self, BuildVersion, ClientCa, Server, ServerOptions, ServerState};
use crate::services::{HostPorts, Services, ServicesOptions};
use crate::shutdown::{ShutdownManager, ShutdownOptions};
use crate::stats::{StatsOptions, StatsProvider};
use crate::tunnel::{Tunnel, TunnelOptions};
use crate::volumes::VolumeManager;

/// Where this run's pods come from.
enum Mode {
    Cluster,
    Standalone(Vec<Pod>),
    /// There are none: all that is left of earlier ones ends.
    Leaving,
}

/// `kube-pet node`: runs as a node of a cluster until `shutdown`. Containers are left as they are. `version` is the build's name,
/// `v<Kubernetes>+kube-pet.<version>.g<commit>`.
///
/// # Errors
/// When it cannot start, or when a part of it ended: both are for the supervisor.
pub async fn run_node(config: NodeConfiguration, version: &str, shutdown: CancellationToken) -> Result<(), StartError> {
    run(config, version, Mode::Cluster, shutdown).await
}

/// `kube-pet run FILE…`: runs the pods of these manifests with no cluster until `shutdown`. They run on after it.
///
/// # Errors
/// When a manifest cannot be used; otherwise as [`run_node`].
pub async fn run_files(
    config: NodeConfiguration,
    version: &str,
    files: Vec<PathBuf>,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let pods: Result<Vec<_>, _> = files.iter().map(|file| sources::files::read_manifest(file, &config.node_name)).collect();
    run(config, version, Mode::Standalone(pods?), shutdown).await
}

/// `kube-pet leave`: ends and removes all pods, those of the API server and static ones, as if they had been deleted; the caller sees
/// when they are gone, and cancels `shutdown`.
///
/// # Errors
/// As [`run_node`].
pub async fn run_nothing(config: NodeConfiguration, version: &str, shutdown: CancellationToken) -> Result<(), StartError> {
    run(config, version, Mode::Leaving, shutdown).await
}

async fn run(config: NodeConfiguration, version: &str, mode: Mode, shutdown: CancellationToken) -> Result<(), StartError> {
    let paths = config.paths();
    make_folders(&paths)?;
    let mut tasks = Tasks::new(shutdown.clone());
    let boot_id = kube_pet_host::machine::boot_id().unwrap_or_default();

    // Podman: our own service, watched and replaced when it hangs.
    let (podman_service, podman_health) = PodmanService::new(&config.podman, &paths.run_dir())?;
    let podman = podman_service.client();
    podman.observe(Box::new(crate::instruments::runtime_operation));
    let stop = shutdown.clone();
    tasks.spawn("the Podman keeper", async move { podman_service.run(stop).await });

    // The cluster: our client certificate, and a client that follows its renewals.
    let cluster = match &mode {
        Mode::Standalone(_) | Mode::Leaving => None,
        Mode::Cluster => Some(
            identity::establish(IdentityOptions {
                node_name: config.node_name.clone(),
                kubeconfig: config.kubeconfig.clone(),
                bootstrap_kubeconfig: Some(config.bootstrap_kubeconfig.clone()),
                pki_dir: paths.pki_dir(),
            })
            .await?,
        ),
    };
    let mut identified = watch::channel(true).1;
    let (api, cluster_ca) = match cluster {
        None => (None, Vec::new()),
        Some(identity) => {
            let stop = shutdown.clone();
            tasks.spawn("the client certificate", async move { identity.task.run(stop).await });
            identified = identity.ready;
            (Some(identity.api), identity.cluster_ca)
        }
    };

    // Events, objects: what the API server tells and is told.
    let events = match &api {
        None => EventRecorder::disabled(),
        Some(api) => {
            let (events, writer) = EventRecorder::new(
                api.clone(),
                &config.node_name,
                EventRate { per_second: config.event_record_qps, burst: config.event_burst },
            );
            tasks.spawn("events", writer);
            events
        }
    };
    // What came of it before, for when it does not answer.
    let copies = {
        let (paths, secrets) = (paths.clone(), config.secrets_at_rest);
        let opened = tokio::task::spawn_blocking(move || Copies::open(&paths, secrets)).await;
        opened.map_err(|_| StartError::Ended("the reading of copies of objects"))??
    };
    let objects = ObjectFetcher::with_copies(api.clone(), Some(copies));
    // The machine: images, sandboxes, volumes.
    let podman_store = PodmanStore::new(podman.clone());
    let images = ImageManager::new(
        podman.clone(),
        ImageManagerOptions {
            limits: PullLimits { parallel: Some(config.max_parallel_image_pulls as usize), ..PullLimits::default() },
            records: Some(paths.image_pulls()),
            store: Some(podman_store.clone()),
        },
    );
    let (host_ports, host_port_requests) = HostPorts::channel();
    let (collector, reclaimer) = ImageCollector::new(images.clone(), collection_policy(&config), config.podman.store(), events.clone());
    tasks.spawn("image garbage collection", collector.run());
    let sandboxes = SandboxManager::new(
        paths.clone(),
        SandboxConfig {
            link_prefix: config.link_prefix.clone(),
            max_pods: config.max_pods,
            mtu: config.mtu.map(u32::from).or_else(kube_pet_host::routes::uplink_mtu).unwrap_or(1500),
            ..SandboxConfig::default()
        },
        host_ports,
    );
    let recovered = sandboxes.recover().await;
    let recursive_read_only = kube_pet_host::read_only::is_supported();
    let volumes = VolumeManager::new(paths.clone(), objects.clone()).with_recursive_read_only(recursive_read_only);

    // Pods with user namespaces: whether they can be had is found out once.
    let tried = config.clone();
    let asked = tokio::task::spawn_blocking(move || crate::user_namespaces::missing(&tried)).await;
    let no_user_namespaces = asked.map_err(|_| StartError::Ended("the look for user namespaces"))?;
    if let Some(reason) = &no_user_namespaces {
        tracing::info!(reason, "no pods with user namespaces");
    }

    // The tunnel to the cluster: where it is on, the node's addresses and pod networks come from there.
    let own_changes = OwnChanges::default();
    let tunnel = Tunnel::new(TunnelOptions {
        settings: config.tunnel.clone(),
        node_name: config.node_name.clone(),
        api: api.clone(),
        link_prefix: config.link_prefix.clone(),
        paths: paths.clone(),
        own_changes: own_changes.clone(),
    })?;
    for (name, watch) in tunnel.watches {
        tasks.spawn(name, after(identified.clone(), watch));
    }
    tasks.spawn("the tunnel", tunnel.task);
    let masquerade = Masquerade::new(&config, api.is_none(), tunnel.allocation.clone());

    // The Node object, and what the rest needs to know of it.
    let (store_writer, store) = PodStoreWriter::new();
    let conflict = sandboxes.clone();
    let (shutting_down, shutdown_of_machine) = watch::channel(false);
    let (node_manager, node) = NodeManager::new(NodeManagerOptions {
        config: config.clone(),
        paths: paths.clone(),
        build_version: version.to_owned(),
        api: api.clone(),
        podman: podman_health,
        pods: store.clone(),
        images: images.clone(),
        cidr_conflict: Arc::new(move || conflict.cidr_conflict()),
        events: events.clone(),
        shutdown: shutdown_of_machine.clone(),
        tunnel: tunnel.allocation,
        user_namespaces: no_user_namespaces.is_none(),
    });
    let gauge = node_manager.gauge();
    tasks.spawn("the node's status", node_manager.run());
    tasks.spawn("the pod networks", follow_networks(sandboxes.clone(), node.clone()));

    // Services: their environment variables, the way to their endpoints, and host ports.
    let services = Services::new(ServicesOptions {
        api: api.clone(),
        proxy: config.service_proxy.clone(),
        node_name: config.node_name.clone(),
        node: node.clone(),
        host_ports: host_port_requests,
        link_prefix: config.link_prefix.clone(),
        masquerade,
        own_changes: own_changes.clone(),
        paths: paths.clone(),
    });
    for (name, watch) in services.watches {
        tasks.spawn(name, after(identified.clone(), watch));
    }
    tasks.spawn("the service proxy", services.proxy);

    // NetworkPolicies: in force before the first container of a pod that they select.
    let policies = Policies::new(PoliciesOptions {
        api: api.clone(),
        enabled: config.network_policy.enabled,
        link_prefix: config.link_prefix.clone(),
        paths: paths.clone(),
        sandboxes: sandboxes.clone(),
        pods: store.clone(),
        recovered,
        own_changes,
    });
    for (name, watch) in policies.watches {
        tasks.spawn(name, after(identified.clone(), watch));
    }
    tasks.spawn("network policies", policies.enforcer);

    // The cluster's DNS, kept on the node where that is wanted.
    let dns = DnsCache::new(DnsCacheOptions {
        settings: config.dns_cache.clone(),
        servers: config.cluster_dns.clone(),
        domain: config.cluster_domain.clone(),
        link_prefix: config.link_prefix.clone(),
        paths: paths.clone(),
        sandboxes: sandboxes.clone(),
        node: node.clone(),
    });
    tasks.spawn("the DNS cache", dns.task);

    // Pods: inventory, sources, one worker each.
    let subscribers = Subscribers::default();
    let (inventory, orphans, inventory_health) = Inventory::new(podman.clone(), config.node_name.clone(), subscribers.clone());
    tasks.spawn("the inventory", inventory.run());
    let executor = Executor::new(podman.clone(), config.podman.exec, &paths.run_dir());
    let handlers = Handlers::new(executor.clone(), version)?;
    let flusher = Flusher::default();
    let runtime = Arc::new(PodRuntime::new(PodRuntimeParts {
        settings: pod_settings(&config, no_user_namespaces),
        paths: paths.clone(),
        podman: podman.clone(),
        images,
        sandboxes: sandboxes.clone(),
        volumes: volumes.clone(),
        objects,
        services: services.reader,
        policies: policies.guard,
        events: events.clone(),
        api: api.clone(),
        node: node.clone(),
        subscribers: subscribers.clone(),
        boot_id: boot_id.clone(),
        store: store_writer,
        handlers: handlers.clone(),
        shutdown: shutdown_of_machine,
        flusher: flusher.clone(),
    }));
    tasks.spawn("the disk", flusher.run(paths.pods_dir(), podman_store));
    // The machine as a pod, whose name no static pod may have.
    let host_pod = config.host_pod.enabled.then(|| {
        let (namespace, boot_time) = (config.host_pod.namespace.clone(), kube_pet_host::machine::boot_time().ok());
        HostPod::new(namespace, config.node_name.clone(), boot_id.clone(), boot_time, node.clone())
    });
    let (updates_tx, updates) = mpsc::channel(256);
    let mirrors = Mirrors::default();
    let sources = match mode {
        Mode::Standalone(pods) => {
            tasks.spawn("the given pods", hold_open(updates_tx, |tx| sources::files::once(pods, tx)));
            BTreeSet::from([Source::File])
        }
        Mode::Leaving => {
            tasks.spawn("the given pods", hold_open(updates_tx, sources::files::nothing));
            BTreeSet::from([Source::Api, Source::File])
        }
        Mode::Cluster => {
            let (folder, reserved) = (config.static_pod_path.clone(), host_pod.as_ref().map(HostPod::key));
            tasks.spawn("static pods", sources::files::watch(folder, config.node_name.clone(), reserved, updates_tx.clone()));
            if let Some(api) = &api {
                let pods = sources::api::watch(api.clone(), config.node_name.clone(), updates_tx);
                tasks.spawn("the pod watch", after(identified.clone(), pods));
                tasks.spawn("mirror pods", mirrors.clone().run(api.clone(), node.clone()));
            }
            BTreeSet::from([Source::Api, Source::File])
        }
    };
    let workers = subscribers.clone();
    let manager = PodManager::new(runtime, subscribers, mirrors.clone());
    tasks.spawn("the pods", manager.run(ManagerInputs { updates, orphans, sources }));
    if let Some(policy) = log_policy(&config) {
        tasks.spawn("container logs", LogRotator::new(podman.clone(), paths.clone(), store.clone(), policy).run());
    }

    if let Some((host_pod, api)) = host_pod.clone().zip(api.clone()) {
        tasks.spawn("the host's pod", host_pod.run(api, mirrors));
    }

    // The machine goes down only when its pods have ended, if it is to wait for them.
    let machine = ShutdownManager::new(ShutdownOptions {
        groups: config.shutdown_groups(),
        pods: store.clone(),
        workers: workers.clone(),
        events: events.clone(),
        shutting_down,
        drop_in: paths.logind_drop_in(),
        record: paths.shutdown_record(),
        bus: None,
    });
    tasks.spawn("the machine's shutdown", machine.run());

    tasks.spawn("memory", return_memory());
    // 10250 and 10248, and what they tell of the node's use.
    if api.is_some() {
        let stats = StatsProvider::new(StatsOptions {
            node_name: config.node_name.clone(),
            paths: paths.clone(),
            pods_cgroup: config.pods_cgroup(),
            pods: store.clone(),
            sandboxes: sandboxes.clone(),
            volumes: volumes.clone(),
            podman: podman.clone(),
            image_store: config.podman.store(),
        });
        tasks.spawn("statistics", stats.clone().run());
        let eviction = EvictionManager::new(EvictionOptions {
            stats: stats.clone(),
            pods: store.clone(),
            node: node.clone(),
            workers,
            events: events.clone(),
            gauge,
            max_pod_grace_seconds: i64::from(config.eviction_max_pod_grace_period),
            state: paths.state_dir(),
            store: config.podman.store(),
            images: reclaimer,
        });
        tasks.spawn("eviction", eviction.run());
        let serving = identity::serving(ServingOptions {
            node_name: config.node_name.clone(),
            pki_dir: paths.pki_dir(),
            files: config.tls_cert_file.clone().zip(config.tls_private_key_file.clone()),
            bootstrap: config.server_tls_bootstrap,
            api: api.clone(),
            names: serving_names(&mut tasks, &config, node.clone()),
        })?;
        let stop = shutdown.clone();
        tasks.spawn("the serving certificate", async move { serving.task.run(stop).await });
        let mut options = ServerOptions::new((config.address, config.port).into(), serving.certificate as Arc<dyn ResolvesServerCert>);
        options.health_addr = (config.healthz_port != 0).then(|| (config.healthz_bind_address, config.healthz_port).into());
        options.anonymous = config.authentication.anonymous.enabled;
        let tokens = &config.authentication.webhook;
        options.token_life = tokens.enabled.then_some(tokens.cache_ttl);
        options.client_ca = match config.authentication.x509.client_ca_file.clone() {
            Some(path) => ClientCa::File(path),
            None => ClientCa::Certificates(cluster_ca),
        };
        options.authorization = match config.authorization.mode {
            AuthorizationMode::AlwaysAllow => server::Authorization::AlwaysAllow,
            AuthorizationMode::Webhook => server::Authorization::Webhook {
                allowed_life: config.authorization.webhook.cache_authorized_ttl,
                denied_life: config.authorization.webhook.cache_unauthorized_ttl,
            },
        };
        options.streaming_idle = config.streaming_connection_idle_timeout;
        let state = ServerState {
            store,
            paths,
            podman,
            executor,
            host_pod,
            sandboxes,
            api,
            stats,
            flags: server::flags(std::env::args()),
            node_name: config.node_name.clone(),
            configz: serde_json::to_value(&config).unwrap_or_default(),
            system_logs: server::SystemLogs { files: config.enable_system_log_handler, query: config.enable_system_log_query },
            health: Arc::new(move || health(&inventory_health)),
            version: BuildVersion {
                git_version: version.to_owned(),
                git_commit: commit(version).to_owned(),
                architecture: architecture().into(),
            },
        };
        let server = Server::bind(options, state).await?;
        let stop = shutdown.clone();
        tasks.spawn("the node's API", async move { server.run(stop).await });
    }
    info!(version, node = config.node_name, "kube-pet runs");
    events.node_event(EventType::Normal, "Starting", "Starting kubelet.".into());

    // A task that ends by itself ends the agent: nothing is lost, and the supervisor starts it again.
    let ended = tokio::select! {
        // First: tasks that end because they were told to may be seen as soon as the order itself.
        biased;
        () = shutdown.cancelled() => None,
        ended = tasks.set.join_next() => Some(match ended {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                error!(%error, "a task of the agent broke down");
                "a task"
            }
            None => "everything",
        }),
    };
    shutdown.cancel();
    let end = async {
        if let Some(record) = &dns.record {
            record.save().await;
        }
        while tasks.set.join_next().await.is_some() {}
        handlers.idle().await;
    };
    if tokio::time::timeout(Duration::from_secs(5), end).await.is_err() {
        warn!("not all work of the agent ended within 5 s; it is given up");
    }
    match ended {
        None => Ok(()),
        Some(name) => Err(StartError::Ended(name)),
    }
}

/// The names of the serving certificate follow the node's addresses.
fn serving_names(
    tasks: &mut Tasks,
    config: &NodeConfiguration,
    mut node: watch::Receiver<Arc<kube_pet_core::node::NodeInfo>>,
) -> watch::Receiver<ServingNames> {
    let dns = BTreeSet::from([config.node_name.clone()]);
    let names = move |node: &kube_pet_core::node::NodeInfo| ServingNames { dns: dns.clone(), ips: node.host_ips.iter().copied().collect() };
    let (tx, rx) = watch::channel(names(&node.borrow()));
    tasks.spawn("names of the serving certificate", async move {
        while node.changed().await.is_ok() {
            let new = names(&node.borrow());
            tx.send_if_modified(|old| {
                let changed = *old != new;
                old.clone_from(&new);
                changed
            });
        }
    });
    rx
}

/// The agent is healthy while it gets complete lists from Podman, or has just started.
fn health(inventory: &InventoryHealth) -> Result<(), String> {
    match inventory.age() {
        Some(age) if age > Duration::from_secs(180) => Err(format!("no complete list of containers for {} s", age.as_secs())),
        _ => Ok(()),
    }
}

/// The commit in `v1.37.1+kube-pet.0.1.0.g1234567`.
fn commit(version: &str) -> &str {
    version.rsplit_once(".g").map_or("", |(_, commit)| commit)
}

/// The architecture in Go's spelling.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn make_folders(paths: &crate::paths::Paths) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    for (path, mode) in [
        (paths.state_dir(), 0o755),
        (paths.pods_dir(), 0o755),
        (paths.pki_dir(), 0o700),
        (paths.run_dir(), 0o755),
        (paths.sandboxes_dir(), 0o755),
        (paths.pod_logs_dir(), 0o755),
        (paths.container_logs_dir(), 0o755),
    ] {
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(|source| StartError::Folder { path, source })?;
    }
    Ok(())
}
