//! Everything that has to be there before a pod's first container: cgroup, sandbox, volumes, name files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::labels;
use kube_pet_core::pod::{SandboxFacts, pod_uid};
use kube_pet_core::resources::{pod_cgroup, pod_cgroup_path, qos_class};
use kube_pet_core::security::sysctls;
use kube_pet_core::services::host_ports;
use kube_pet_core::{dns, hosts_file};
use kube_pet_podman::{Mount, Namespace, PodSpecGenerator, SpecGenerator};

use crate::containers::{PAUSE_KIND, join_user_namespace, pod_labels};
use crate::instruments;
use crate::pods::runtime::PodRuntime;
use crate::sandboxes::{Sandbox, SandboxSpec};
use crate::volumes::{PodVolumes, VolumeContext};

/// The Podman pod's name: `<pod>_<namespace>_<uid>`.
pub(super) fn pod_name(pod: &Pod) -> String {
    let m = &pod.metadata;
    format!(
        "k8s_{}_{}_{}",
        m.name.as_deref().unwrap_or_default(),
        m.namespace.as_deref().unwrap_or_default(),
        m.uid.as_deref().unwrap_or_default()
    )
}

/// The name of the container that holds a shared PID namespace.
pub(super) fn pause_name(pod: &Pod) -> String {
    pod_name(pod).replacen("k8s_", "k8s_POD_", 1)
}

impl PodRuntime {
    /// Makes whatever is missing of the pod's surroundings. The message of an error has been recorded as an event.
    pub(in crate::pods) async fn prepare(&self, pod: &Arc<Pod>) -> Result<SandboxFacts, String> {
        let (sandbox, volumes, cgroup) = tokio::join!(self.make_sandbox(pod), self.make_volumes(pod), self.make_cgroup(pod));
        if let Err(error) = cgroup {
            self.warn(pod, None, "FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"));
            return Err(error);
        }
        let sandbox = match sandbox {
            Ok(sandbox) => sandbox,
            Err(error) => {
                self.warn(pod, None, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
                return Err(error);
            }
        };
        self.write_name_files(pod, &sandbox).await?;
        volumes?;
        if shares_pid(pod) {
            self.ensure_pause(pod, &sandbox).await.map_err(|error| {
                self.warn(pod, None, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
                error
            })?;
        }
        Ok(self.facts_of(pod, &sandbox))
    }

    /// The sandbox that containers of an earlier run are in.
    pub(in crate::pods) async fn existing_sandbox(&self, pod: &Arc<Pod>) -> Option<SandboxFacts> {
        let sandbox = self.sandboxes.get(&pod_uid(pod))?;
        Some(self.facts_of(pod, &sandbox))
    }

    fn facts_of(&self, pod: &Pod, sandbox: &Sandbox) -> SandboxFacts {
        let pod_ips = if host_network(pod) { self.node.borrow().host_ips.clone() } else { sandbox.ips.clone() };
        let inode = [&sandbox.netns, &sandbox.utsns, &sandbox.ipcns]
            .into_iter()
            .flatten()
            .find_map(|path| kube_pet_host::namespaces::inode(path).ok())
            .unwrap_or(0);
        SandboxFacts { id: format!("{}-{inode}", self.boot_id), pod_ips }
    }

    async fn make_sandbox(&self, pod: &Arc<Pod>) -> Result<Sandbox, String> {
        self.check_runtime_class(pod).await?;
        let node = self.node.borrow().clone();
        let uid = pod_uid(pod);
        let spec = pod.spec.as_ref();
        let hostname = self.hostname_of(pod)?;
        let sandbox = SandboxSpec {
            uid: uid.clone(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            hostname,
            domainname: None,
            host_network: host_network(pod),
            host_ipc: spec.and_then(|s| s.host_ipc).unwrap_or(false),
            host_pid: spec.and_then(|s| s.host_pid).unwrap_or(false),
            host_users: !has_user_namespace(pod),
            sysctls: sysctls(pod),
            pod_cidrs: node.pod_cidrs.clone(),
            host_ports: host_ports(pod),
        };
        let mut podman_pod = PodSpecGenerator::new(pod_name(pod));
        podman_pod.labels = pod_labels(pod, self.node_name());
        podman_pod.share_parent = Some(false);
        podman_pod.exit_policy = "continue".to_owned();
        let made = async {
            match self.podman.create_pod(&podman_pod).await {
                Err(error) if !error.is_name_in_use() => Err(error.to_string()),
                _ => Ok(()),
            }
        };
        let began = Instant::now();
        let (sandbox, made) = tokio::join!(self.sandboxes.ensure(&sandbox), made);
        let user_namespace = has_user_namespace(pod);
        match &sandbox {
            Ok(sandbox) if sandbox.created => {
                instruments::RUN_PODSANDBOX_DURATION.observe(&[""], began.elapsed());
                if user_namespace {
                    instruments::STARTED_USER_NAMESPACED_PODS.add(&[]);
                }
            }
            Ok(_) => {}
            Err(_) => {
                instruments::RUN_PODSANDBOX_ERRORS.add(&[""]);
                if user_namespace {
                    instruments::STARTED_USER_NAMESPACED_PODS.add(&[]);
                    instruments::STARTED_USER_NAMESPACED_PODS_ERRORS.add(&[]);
                }
            }
        }
        made?;
        let sandbox = sandbox.map_err(|error| describe(&error))?;
        if sandbox.netns.is_some() {
            self.policies.hold(pod, &self.sandboxes.link_name(&uid)).await.map_err(|error| describe(&error))?;
        }
        Ok(sandbox)
    }

    pub(super) fn hostname_of(&self, pod: &Pod) -> Result<String, String> {
        hosts_file::pod_hostname(pod, &self.settings.cluster_domain).map(|name| name.hostname).map_err(|e| e.to_string())
    }

    async fn make_volumes(&self, pod: &Arc<Pod>) -> Result<(), String> {
        self.volumes_of(pod).await.map(|_| ())
    }

    /// The pod's volumes, made if they are not known to be there.
    pub(super) async fn volumes_of(&self, pod: &Arc<Pod>) -> Result<Arc<PodVolumes>, String> {
        let uid = pod_uid(pod);
        if let Some(known) = self.known_volumes(&uid) {
            return Ok(known);
        }
        match self.volumes.prepare(pod, &self.volume_context(pod)).await {
            Ok(volumes) => {
                for (reason, text) in volumes.warnings() {
                    self.warn(pod, None, reason, text.clone());
                }
                let volumes = Arc::new(volumes);
                self.remember_volumes(uid, volumes.clone());
                Ok(volumes)
            }
            Err(errors) => {
                let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
                for text in &texts {
                    self.warn(pod, None, "FailedMount", text.clone());
                }
                Err(texts.join("; "))
            }
        }
    }

    /// Brings the contents of the pod's volumes up to date, and renews its tokens. What cannot be had now stays as it is.
    pub(in crate::pods) async fn refresh_volumes(&self, pod: &Arc<Pod>) {
        if self.known_volumes(&pod_uid(pod)).is_none() {
            let _ = self.volumes_of(pod).await;
            return;
        }
        if let Err(errors) = self.volumes.refresh(pod, &self.volume_context(pod)).await {
            for error in errors {
                tracing::debug!(%error, "volume not refreshed");
            }
        }
    }

    pub(in crate::pods) fn volume_context(&self, pod: &Pod) -> VolumeContext {
        let node = self.node.borrow().clone();
        let sandbox = self.sandboxes.get(&pod_uid(pod));
        let pod_ips = if host_network(pod) { node.host_ips.clone() } else { sandbox.map(|s| s.ips).unwrap_or_default() };
        VolumeContext { host_ips: node.host_ips.clone(), pod_ips, node, returning: false }
    }

    /// The cgroup that all of the pod's containers are in.
    pub(in crate::pods) fn pod_cgroup(&self, pod: &Pod) -> String {
        pod_cgroup_path(&self.settings.cgroup_root, qos_class(pod), &pod_uid(pod))
    }

    async fn make_cgroup(&self, pod: &Arc<Pod>) -> Result<(), String> {
        let path = self.pod_cgroup(pod);
        let values = pod_cgroup(pod);
        let limits = kube_pet_host::cgroups::Limits {
            cpu_shares: Some(values.cpu_shares),
            cpu_quota: values.cpu_quota.and_then(|q| u64::try_from(q).ok()),
            memory: values.memory_limit.and_then(|m| u64::try_from(m).ok()),
            pids: self.settings.pod_pids_limit.and_then(|p| u64::try_from(p).ok()),
        };
        let huge_pages = values.hugepages.into_iter().filter_map(|(size, limit)| Some((size, u64::try_from(limit).ok()?))).collect();
        let make = move || {
            kube_pet_host::cgroups::ensure(&path, &limits)?;
            kube_pet_host::cgroups::limit_huge_pages(&path, &huge_pages)
        };
        let made = tokio::task::spawn_blocking(move || instruments::cgroup_operation("create", make)).await;
        made.map_err(|e| e.to_string())?.map_err(|e| describe(&e))
    }

    /// Where the pod's /etc/hosts and resolv.conf are kept.
    pub(super) fn name_file(&self, pod: &Pod, name: &str) -> PathBuf {
        self.paths.pod_dir(&pod_uid(pod)).join(name)
    }

    async fn write_name_files(&self, pod: &Arc<Pod>, sandbox: &Sandbox) -> Result<(), String> {
        let node = self.node.borrow().clone();
        let ips = if host_network(pod) { node.host_ips.clone() } else { sandbox.ips.clone() };
        let host = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let hosts =
            hosts_file::content(pod, &ips, &self.settings.cluster_domain, || host(Path::new("/etc/hosts"))).map_err(|e| e.to_string())?;
        // Over IPv6 alone the cache's address cannot be reached.
        let reachable = host_network(pod) || ips.iter().any(IpAddr::is_ipv4);
        let cluster = dns::ClusterDns {
            servers: self.settings.cluster_dns.clone(),
            domain: self.settings.cluster_domain.clone(),
            cache: self.settings.dns_cache.clone().filter(|_| reachable),
        };
        let resolv = dns::pod_resolv_conf(pod, &host(&self.settings.resolv_conf), &cluster);
        for warning in &resolv.warnings {
            self.warn(pod, None, "DNSConfigForming", warning.clone());
        }
        if let Some(missing) = &resolv.missing_cluster_dns {
            self.warn(pod, None, "MissingClusterDNS", missing.clone());
        }
        let hostname = if host_network(pod) { self.node_name().to_owned() } else { self.hostname_of(pod)? };
        let files = [
            (self.name_file(pod, "etc-hosts"), hosts),
            (self.name_file(pod, "resolv.conf"), resolv.text),
            (self.name_file(pod, "hostname"), format!("{hostname}\n")),
        ];
        let owner = sandbox.userns.as_ref().map(|user| user.ids.first);
        tokio::task::spawn_blocking(move || {
            for (path, text) in files {
                // Written in place: containers have the file itself mounted.
                let current = std::fs::read(&path).unwrap_or_default();
                if current == text.as_bytes() && is_owned_by(&path, owner) {
                    continue;
                }
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
                }
                std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                std::fs::set_permissions(&path, mode).map_err(|e| format!("cannot set the mode of {}: {e}", path.display()))?;
                give_to(&path, owner).map_err(|e| format!("cannot set the owner of {}: {e}", path.display()))?;
            }
            Ok(())
        })
        .await
        .map_err(|e| e.to_string())?
    }

    /// A process that holds the PID namespace which the pod's containers share.
    async fn ensure_pause(&self, pod: &Arc<Pod>, sandbox: &Sandbox) -> Result<(), String> {
        let name = pause_name(pod);
        if let Ok(existing) = self.podman.inspect_container(&name).await {
            if !existing.state.running {
                self.podman.start_container(&existing.id).await.map_err(|e| e.to_string())?;
            }
            return Ok(());
        }
        let program =
            catatonit().ok_or_else(|| format!("shareProcessNamespace needs catatonit; it is in none of {}", CATATONIT.join(", ")))?;
        let root = self.paths.pod_dir(&pod_uid(pod)).join("pause-root");
        let owner = sandbox.userns.as_ref().map(|user| user.ids.first);
        // Podman would make its /etc, as the machine's root's, where the pod's root could not make a file.
        for folder in [root.clone(), root.join("etc")] {
            std::fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
            give_to(&folder, owner).map_err(|e| format!("cannot set the owner of {}: {e}", folder.display()))?;
        }
        let mut spec = SpecGenerator::new(name, String::new());
        spec.rootfs = root.display().to_string();
        spec.pod = pod_name(pod);
        spec.labels = pod_labels(pod, self.node_name());
        spec.labels.insert(labels::KIND.to_owned(), PAUSE_KIND.to_owned());
        spec.entrypoint = vec!["/catatonit".to_owned(), "-P".to_owned()];
        spec.mounts = vec![Mount::bind(program.display().to_string(), "/catatonit", true)];
        let joined =
            |path: &Option<PathBuf>| Some(path.as_ref().map_or_else(Namespace::host, |p| Namespace::path(p.display().to_string())));
        spec.netns = joined(&sandbox.netns);
        spec.ipcns = joined(&sandbox.ipcns);
        spec.utsns = joined(&sandbox.utsns);
        spec.pidns = Some(Namespace::private());
        if let Some(user) = &sandbox.userns {
            join_user_namespace(&mut spec, user);
        }
        spec.read_only_filesystem = false;
        spec.cgroup_parent = self.pod_cgroup(pod);
        spec.oom_score_adj = None;
        let made = self.podman.create_container(&spec).await.map_err(|e| e.to_string())?;
        self.podman.start_container(&made.id).await.map_err(|e| e.to_string())
    }
}

/// Where distributions put catatonit.
const CATATONIT: [&str; 5] = [
    "/usr/libexec/podman/catatonit",
    "/usr/local/libexec/podman/catatonit",
    "/usr/lib/podman/catatonit",
    "/usr/bin/catatonit",
    "/usr/libexec/catatonit/catatonit",
];

/// The first process of pods with `shareProcessNamespace`.
pub(crate) fn catatonit() -> Option<&'static Path> {
    CATATONIT.into_iter().map(Path::new).find(|path| path.exists())
}

/// Gives a file of the agent's to the root of a pod's user namespace.
pub(super) fn give_to(path: &Path, owner: Option<u32>) -> std::io::Result<()> {
    std::os::unix::fs::chown(path, owner.or(Some(0)), owner.or(Some(0)))
}

fn is_owned_by(path: &Path, owner: Option<u32>) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == owner.unwrap_or(0))
}

/// `hostUsers: false`
pub(super) fn has_user_namespace(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_users) == Some(false)
}

pub(super) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// `shareProcessNamespace` without `hostPID`.
pub(super) fn shares_pid(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.share_process_namespace).unwrap_or(false) && !spec.and_then(|s| s.host_pid).unwrap_or(false)
}

/// An error with its causes.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        source = cause.source();
    }
    out
}
