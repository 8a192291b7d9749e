//! Creating and starting one attempt of a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube_pet_core::container_env::{EnvSources, ObjectKind, build_env, container_object_refs, expand_command};
use kube_pet_core::container_hash::container_hash;
use kube_pet_core::ids::labels;
use kube_pet_core::ids::{ContainerId, ContainerName, PodUid};
use kube_pet_core::pod::{ContainerKind, ObservedContainer, SandboxFacts, find_container, pod_uid, target_container};
use kube_pet_core::resources::{container_limits, hugepage_unit_of};
use kube_pet_core::security::{effective, verify_non_root};
use kube_pet_podman::SpecGenerator;
use tracing::warn;

use super::observe::is_created;
use super::prepare::{give_to, has_user_namespace, host_network, pause_name, pod_name, shares_pid};
use super::{Start, StartError};
use crate::containers::{Joined, Parts, Place, spec_generator};
use crate::images::Reference;
use crate::instruments;
use crate::paths::Paths;
use crate::pods::runtime::PodRuntime;

impl PodRuntime {
    /// Creates and starts an attempt. One that is already there under its name (the agent died in between) is taken over.
    pub(in crate::pods) async fn start_container(
        &self,
        pod: &Arc<Pod>,
        sandbox: &SandboxFacts,
        start: Start<'_>,
    ) -> Result<ObservedContainer, StartError> {
        let started = self.start_attempt(pod, sandbox, start).await;
        if started.is_err() && start.attempt == 0 && has_user_namespace(pod) {
            instruments::STARTED_USER_NAMESPACED_PODS_ERRORS.add(&[]);
        }
        started
    }

    async fn start_attempt(&self, pod: &Arc<Pod>, sandbox: &SandboxFacts, start: Start<'_>) -> Result<ObservedContainer, StartError> {
        let Start { kind, container: name, attempt, backoff_seconds, round } = start;
        let Some((_, container)) = find_container(pod, name.as_str()) else {
            return Err(StartError::config(format!("container {name} is not in the spec")));
        };
        let container = container.as_ref();
        let hash = container_hash(container);
        let place = Place {
            node_name: self.node_name(),
            container: name,
            kind,
            attempt,
            backoff_seconds,
            round,
            spec_hash: &hash,
            sandbox_id: &sandbox.id,
        };
        let event_place = Some((kind, name.as_str()));
        let parts = self.parts(pod, container, sandbox, attempt).await.inspect_err(|error| {
            self.warn(pod, event_place, "Failed", format!("Error: {}", error.message));
        })?;
        let log = parts.log.clone();
        self.make_log_places(pod, name, &log).await;
        let spec = spec_generator(&place, parts);
        let created = match self.podman.create_container(&spec).await {
            Ok(created) => created.id,
            Err(error) if error.is_name_in_use() => self.take_over(pod, &spec).await.map_err(StartError::create)?,
            Err(error) => {
                if error.is_image_unknown() {
                    self.images.forget(&spec.image);
                }
                let message = error.podman_message().map_or_else(|| error.to_string(), str::to_owned);
                self.warn(pod, event_place, "Failed", format!("Error: {message}"));
                return Err(StartError::create(message));
            }
        };
        let id = ContainerId::new(created);
        self.note(pod, event_place, "Created", "Container created".to_owned());
        self.link_log(pod, name, &id, &log).await;
        self.start_created(pod, &id, name).await
    }

    /// The container that already has the name of a new one, if it has run: its start was not told of. One that has not is removed,
    /// and made anew. Podman may know the name only from its storage: a service that is killed while it creates a container leaves
    /// it there, where nothing but a removal by that name takes it away.
    async fn take_over(&self, pod: &Pod, spec: &SpecGenerator) -> Result<String, String> {
        let existing = match self.podman.inspect_container(&spec.name).await {
            Ok(existing) if !is_created(&existing.state) => return Ok(existing.id),
            Ok(existing) => existing.id,
            Err(error) if error.is_not_found() => spec.name.clone(),
            Err(error) => return Err(error.to_string()),
        };
        warn!(container = spec.name, "removing what a start that was cut short has left");
        self.remove_container(pod, &ContainerId::new(existing)).await?;
        self.podman.create_container(spec).await.map(|made| made.id).map_err(|error| error.to_string())
    }

    /// Starts a container that exists.
    async fn start_created(&self, pod: &Arc<Pod>, id: &ContainerId, name: &ContainerName) -> Result<ObservedContainer, StartError> {
        let kind = find_container(pod, name.as_str()).map_or(ContainerKind::App, |(kind, _)| kind);
        let started = self.podman.start_container(id.as_str()).await;
        self.flusher.soon();
        let observed = match self.observe(pod, id).await {
            Ok(Some(observed)) => observed,
            Ok(None) => return Err(StartError::create(format!("container {name} vanished while it was being started"))),
            Err(error) => return Err(StartError::create(error.to_string())),
        };
        match started {
            Ok(()) => {
                self.note(pod, Some((kind, name.as_str())), "Started", "Container started".to_owned());
                Ok(observed)
            }
            // A deadline or a lost connection says nothing about the container; what was observed does.
            Err(_) if observed.state != kube_pet_core::pod::ContainerState::Created => Ok(observed),
            Err(error) if error.is_connection() || error.is_retryable() => Err(StartError::create(error.to_string())),
            Err(error) => {
                let message = error.podman_message().map_or_else(|| error.to_string(), str::to_owned);
                self.warn(pod, Some((kind, name.as_str())), "Failed", format!("Error: {message}"));
                Err(StartError::run(message, observed))
            }
        }
    }

    async fn parts<'a>(
        &self,
        pod: &'a Arc<Pod>,
        container: &'a Container,
        sandbox: &SandboxFacts,
        attempt: u32,
    ) -> Result<Parts<'a>, StartError> {
        let uid = pod_uid(pod);
        let image = container.image.as_deref().unwrap_or_default();
        let reference = Reference::parse(image).map_err(|e| StartError::config(e.to_string()))?;
        let inspect = match self.images.inspect(&reference.to_string()).await {
            Ok(Some(inspect)) => inspect,
            Ok(None) => return Err(StartError::create(format!("image {image:?} is no longer there"))),
            Err(error) => return Err(StartError::create(error.to_string())),
        };
        verify_non_root(pod, container, &inspect.config.user).map_err(|e| StartError::config(e.to_string()))?;
        let env = self.environment(pod, container, sandbox).await?;
        let (command, args) = expand_command(container, &env);
        let volumes = self.volumes_of(pod).await.map_err(StartError::config)?;
        let volumes = self.with_images(pod, container, volumes).await?;
        let groups = volumes.groups();
        let record = self.sandboxes.get(&uid).ok_or_else(|| StartError::config("the sandbox is gone"))?;
        let user_namespace = record.userns.as_ref().map(|user| user.path.clone());
        let mounts = self.volumes.container_mounts(pod, container, volumes, env.clone(), user_namespace).await;
        let mounts = mounts.map_err(|error| match error.is_of_image() {
            true => StartError::create(error.to_string()),
            false => StartError::config(error.to_string()),
        })?;
        let node = self.node.borrow().clone();
        let memory = node.capacity.get("memory").and_then(|q| kube_pet_core::quantity::Amount::of(q).ok()).map_or(0, |a| a.value());
        let mut security = effective(pod, container);
        let more: Vec<_> = groups.into_iter().filter(|group| !security.groups.contains(group)).collect();
        security.groups.extend(more);
        let user = self.user(pod, container, &inspect, &mut security).await?;
        let mut files = Vec::new();
        let mounted = |path: &str| mounts.iter().any(|m| m.destination.trim_end_matches('/') == path);
        if !mounted("/etc/hosts") && (!host_network(pod) || has_aliases(pod)) {
            files.push((self.name_file(pod, "etc-hosts"), "/etc/hosts".to_owned()));
        } else if !mounted("/etc/hosts") {
            files.push((PathBuf::from("/etc/hosts"), "/etc/hosts".to_owned()));
        }
        if !mounted("/etc/resolv.conf") {
            files.push((self.name_file(pod, "resolv.conf"), "/etc/resolv.conf".to_owned()));
        }
        if !mounted("/etc/hostname") {
            files.push((self.name_file(pod, "hostname"), "/etc/hostname".to_owned()));
        }
        if let Some(shm) = record.shm.clone().filter(|_| !mounted("/dev/shm")) {
            files.push((shm, "/dev/shm".to_owned()));
        }
        let termination = self.termination_file(pod, &container.name, attempt);
        let owner = record.userns.as_ref().map(|user| user.ids.first);
        make_termination_file(&termination, owner)
            .map_err(|e| StartError::config(format!("cannot make {}: {e}", termination.display())))?;
        let termination_path =
            container.termination_message_path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/dev/termination-log".into());
        files.push((termination, termination_path));
        let shared_pid = match target_container(pod, &container.name) {
            _ if shares_pid(pod) => Some(pause_name(pod)),
            Some(target) => Some(self.running_container(&uid, target).await?),
            None => None,
        };
        let hostname = if host_network(pod) { self.node_name().to_owned() } else { self.hostname_of(pod).map_err(StartError::config)? };
        let meta = &pod.metadata;
        Ok(Parts {
            pod,
            spec: container,
            podman_pod: pod_name(pod),
            image_id: inspect.id.clone(),
            image_name: reference.to_string(),
            image_status_id: crate::images::status_image_id(&reference, &inspect),
            security,
            user,
            seccomp_dir: self.settings.seccomp_dir.clone(),
            limits: container_limits(pod, container, memory),
            huge_pages: countable_huge_pages(),
            oom_group: self.settings.oom_group,
            lowest_oom_score_adj: kube_pet_host::privileges::lowest_oom_score_adj(),
            cgroup_parent: self.pod_cgroup(pod),
            env,
            command,
            args,
            mounts,
            files,
            joined: Joined {
                net: record.netns,
                ipc: record.ipcns,
                uts: record.utsns,
                user: record.userns,
                host_pid: pod.spec.as_ref().and_then(|s| s.host_pid).unwrap_or(false),
                shared_pid,
            },
            log: self.paths.container_log(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
                &uid,
                &container.name,
                attempt,
            ),
            hostname,
        })
    }

    /// Podman's ID of the container that an ephemeral one looks into.
    async fn running_container(&self, uid: &PodUid, name: &str) -> Result<String, StartError> {
        let labels = [(labels::NODE, self.node_name()), (labels::POD_UID, uid.as_str()), (labels::CONTAINER_NAME, name)];
        let found = self.podman.list_containers(&labels).await.map_err(|e| StartError::create(e.to_string()))?;
        found
            .into_iter()
            .find(|c| c.state == "running")
            .map(|c| c.id)
            .ok_or_else(|| StartError::config(format!("unable to find target container {name}")))
    }

    async fn environment(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        sandbox: &SandboxFacts,
    ) -> Result<Vec<(String, String)>, StartError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut config_maps = BTreeMap::new();
        let mut secrets = BTreeMap::new();
        for reference in container_object_refs(container) {
            let problem = |e: crate::objects::FetchError| StartError::config(e.to_string());
            match reference.kind {
                ObjectKind::ConfigMap => {
                    config_maps.insert(reference.name.clone(), self.objects.config_map(namespace, &reference.name).await.map_err(problem)?);
                }
                ObjectKind::Secret => {
                    secrets.insert(reference.name.clone(), self.objects.secret(namespace, &reference.name).await.map_err(problem)?);
                }
            }
        }
        // As the kubelet: a container that lacks its Services' variables would run on without them for good.
        let services = self
            .services
            .for_pods_in(namespace)
            .await
            .ok_or_else(|| StartError::config("services have not yet been read at least once, cannot construct envvars"))?;
        let files = self.env_files(pod, container).await?;
        let node = self.node.borrow().clone();
        let sources = EnvSources {
            config_maps: config_maps.iter().map(|(name, object)| (name.clone(), object.as_deref())).collect(),
            secrets: secrets.iter().map(|(name, object)| (name.clone(), object.as_ref().map(|s| &***s))).collect(),
            files,
            node: Some(&node),
            pod_ips: &sandbox.pod_ips,
            host_ips: &node.host_ips,
            services: &services,
        };
        build_env(container, pod, &sources).map_err(|e| StartError::config(e.to_string()))
    }

    /// The file behind `terminationMessagePath`.
    pub(in crate::pods) fn termination_file(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        self.paths.pod_dir(&pod_uid(pod)).join("containers").join(container).join(format!("{attempt}.termination"))
    }

    async fn make_log_places(&self, pod: &Pod, name: &ContainerName, log: &Path) {
        let (log, links) = (log.to_owned(), self.paths.container_logs_dir());
        let made = tokio::task::spawn_blocking(move || {
            if let Some(dir) = log.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::create_dir_all(links)
        })
        .await;
        if let Ok(Err(error)) = made {
            warn!(%error, container = name.as_str(), pod = pod.metadata.name, "cannot make the log folder");
        }
    }

    /// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`, which log shippers read.
    async fn link_log(&self, pod: &Pod, name: &ContainerName, id: &ContainerId, log: &Path) {
        let meta = &pod.metadata;
        let link = self.paths.container_logs_dir().join(format!(
            "{}_{}_{name}-{id}.log",
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default()
        ));
        let log = log.to_owned();
        let linked = tokio::task::spawn_blocking(move || match std::os::unix::fs::symlink(&log, &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        })
        .await;
        if let Ok(Err(error)) = linked {
            warn!(%error, "cannot link the log file for log shippers");
        }
    }
}

/// Sizes of huge pages that cgroups count.
fn countable_huge_pages() -> Vec<String> {
    if !kube_pet_host::cgroups::layout().is_ok_and(|layout| layout.has("hugetlb")) {
        return Vec::new();
    }
    kube_pet_host::machine::huge_pages().into_iter().filter_map(|(size, _)| hugepage_unit_of(size)).collect()
}

fn has_aliases(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_aliases.as_ref()).is_some_and(|a| !a.is_empty())
}

fn make_termination_file(path: &Path, owner: Option<u32>) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, b"")?;
    // The container's user, whoever that is, must be able to write it.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    give_to(path, owner)
}

/// Removes the links of `/var/log/containers` that point into a pod's log folder.
pub(super) fn remove_log_links(paths: &Paths, logs: &Path) {
    let Ok(entries) = std::fs::read_dir(paths.container_logs_dir()) else { return };
    for entry in entries.filter_map(Result::ok) {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(logs)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Removes logs of attempts before the last but one.
pub(super) fn remove_old_logs(folder: &Path, newest: u32) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let attempt = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('.').next()).and_then(|n| n.parse::<u32>().ok());
        if attempt.is_some_and(|attempt| attempt + 1 < newest) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
