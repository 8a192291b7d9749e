//! Taking a pod apart: volumes, cgroup and sandbox once nothing runs; containers, logs and records once it is deleted.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::{ContainerId, ContainerName, PodUid, labels};
use kube_pet_core::pod::pod_uid;
use kube_pet_podman::ContainerSummary;
use tracing::{debug, warn};

use super::prepare::{pause_name, pod_name, shares_pid};
use crate::containers::{PAUSE_KIND, container_name};
use crate::instruments;
use crate::pods::runtime::PodRuntime;

impl PodRuntime {
    /// Volumes, cgroup, sandbox. Every part is tried; the errors of all are reported.
    pub(in crate::pods) async fn release(&self, pod: &Arc<Pod>) -> Result<(), String> {
        let uid = pod_uid(pod);
        let mut errors: Vec<String> = Vec::new();
        // Only ended: Podman does not remove it before the containers that share its PID namespace.
        if shares_pid(pod)
            && let Err(error) = self.podman.stop_container(&pause_name(pod), Duration::ZERO).await
            && !error.is_not_found()
        {
            errors.push(error.to_string());
        }
        self.forget_volumes(&uid);
        if let Err(failed) = self.volumes.teardown(&uid).await {
            errors.extend(failed.iter().map(ToString::to_string));
        }
        if let Err(error) = self.sandboxes.teardown(&uid).await {
            errors.push(error.to_string());
        }
        let cgroup = self.pod_cgroup(pod);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || remove_cgroup(&cgroup)).await {
            errors.push(error.to_string());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    /// Containers, Podman pod, logs, checkpoint.
    pub(in crate::pods) async fn remove(&self, pod: &Arc<Pod>) -> Result<(), String> {
        let uid = pod_uid(pod);
        let mine = [(labels::NODE, self.node_name()), (labels::POD_UID, uid.as_str())];
        let mut containers = self.podman.list_containers(&mine).await.map_err(|e| e.to_string())?;
        containers.sort_by_key(|container| container.labels.get(labels::KIND).is_some_and(|kind| kind == PAUSE_KIND));
        let mut errors: Vec<String> = self.remove_cut_short(pod, &containers).await;
        for container in containers {
            if container.state == "running" {
                errors.push(format!("container {} still runs", container.id));
                continue;
            }
            if let Err(error) = self.podman.remove_container(&container.id, false).await
                && !error.is_not_found()
            {
                errors.push(error.to_string());
            }
        }
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        if let Err(error) = self.podman.remove_pod(&pod_name(pod), false).await
            && !error.is_not_found()
        {
            errors.push(error.to_string());
        }
        // Again: a mount that was under way at the release may have come to its end since.
        if let Err(failed) = self.volumes.teardown(&uid).await {
            errors.extend(failed.iter().map(ToString::to_string));
        }
        let (paths, pod) = (self.paths.clone(), pod.clone());
        let folders = tokio::task::spawn_blocking(move || {
            let meta = &pod.metadata;
            let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
            let logs = paths.pod_log_dir(namespace, name, &uid);
            super::start::remove_log_links(&paths, &logs);
            let mut errors = Vec::new();
            for folder in [logs, paths.pod_run_dir(&uid), paths.pod_dir(&uid)] {
                errors.extend(remove_folder(folder).err());
            }
            errors
        })
        .await;
        errors.extend(folders.unwrap_or_default());
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    /// What a creation that was cut short may have left in Podman's storage without a container that could be listed: the attempt
    /// after the newest. Returns what failed.
    async fn remove_cut_short(&self, pod: &Pod, listed: &[ContainerSummary]) -> Vec<String> {
        let mut errors = Vec::new();
        for (_, container) in kube_pet_core::pod::containers(pod) {
            let label = |summary: &ContainerSummary, key: &str| summary.labels.get(key).cloned().unwrap_or_default();
            let own = listed.iter().filter(|summary| label(summary, labels::CONTAINER_NAME) == container.name);
            let next = own.filter_map(|summary| label(summary, labels::ATTEMPT).parse::<u32>().ok()).max().map_or(0, |newest| newest + 1);
            if let Err(error) = self.podman.remove_container(&container_name(pod, &container.name, next), true).await {
                errors.push(error.to_string());
            }
        }
        errors
    }

    /// Leftovers of pods without a worker: only what carries this node's label or lies in its folders. Who has a worker is asked
    /// after things are listed, never before: Podman may take seconds to answer, and a pod that comes meanwhile is no leftover.
    pub(in crate::pods) async fn sweep(&self) {
        self.objects.keep_only(self.store.reader().list().iter().map(|pod| &**pod));
        let Ok(pods) = self.podman.list_pods(&[(labels::NODE, self.node_name())]).await else { return };
        let known: HashSet<PodUid> = self.subscribers.uids().into_iter().collect();
        let in_podman: HashSet<PodUid> = pods.iter().filter_map(|p| p.labels.get(labels::POD_UID)).map(PodUid::new).collect();
        for pod in &pods {
            let Some(uid) = pod.labels.get(labels::POD_UID).map(PodUid::new) else { continue };
            if !known.contains(&uid) && pod.containers.is_empty() {
                debug!(pod = pod.name, "removing an empty Podman pod");
                let _ = self.podman.remove_pod(&pod.id, false).await;
            }
        }
        let kept: HashSet<PodUid> = known.union(&in_podman).cloned().collect();
        for error in self.sandboxes.remove_orphans(&kept).await {
            warn!(%error, "a leftover sandbox stays");
        }
        match self.volumes.orphans(kept).await {
            Ok(orphans) => {
                for uid in orphans {
                    if self.subscribers.has(&uid) {
                        continue;
                    }
                    let torn = self.volumes.teardown(&uid).await;
                    if let Err(errors) = torn {
                        warn!(uid = uid.as_str(), error = errors.first().map(ToString::to_string), "leftover volumes stay");
                        continue;
                    }
                    for folder in [self.paths.pod_run_dir(&uid), self.paths.pod_dir(&uid)] {
                        if let Err(error) = remove_folder(folder) {
                            warn!(error, "a leftover folder stays");
                        }
                    }
                }
            }
            Err(error) => warn!(%error, "cannot look for leftover volumes"),
        }
    }

    /// One container that never ran, by ID or name. Podman forgets it; what its runtime had begun ends with it.
    pub(in crate::pods) async fn remove_container(&self, pod: &Pod, id: &ContainerId) -> Result<(), String> {
        match self.podman.remove_container(id.as_str(), true).await {
            Err(error) if !error.is_not_found() => return Err(error.to_string()),
            _ => {}
        }
        let (parent, id) = (self.pod_cgroup(pod), id.clone());
        let ended = tokio::task::spawn_blocking(move || {
            for group in kube_pet_host::cgroups::children(&parent)?.iter().filter(|group| group.contains(id.as_str())) {
                kube_pet_host::cgroups::kill(&format!("{parent}/{group}"))?;
            }
            Ok::<_, kube_pet_host::cgroups::CgroupError>(())
        });
        match ended.await {
            Ok(Err(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Attempts that neither status nor `--previous` needs any more, with their logs.
    pub(in crate::pods) async fn remove_attempts(&self, pod: &Arc<Pod>, name: &ContainerName, ids: &[ContainerId], newest: u32) {
        for id in ids {
            if let Err(error) = self.podman.remove_container(id.as_str(), false).await {
                debug!(id = id.as_str(), %error, "an old attempt stays for now");
            }
        }
        let uid = pod_uid(pod);
        let meta = &pod.metadata;
        let (namespace, pod_name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let folder = self.paths.pod_log_dir(namespace, pod_name, &uid).join(name.as_str());
        let removed = tokio::task::spawn_blocking(move || super::start::remove_old_logs(&folder, newest)).await;
        if let Ok(Err(error)) = removed {
            warn!(%error, container = name.as_str(), "old log files stay");
        }
    }
}

/// Removes the pod's cgroup. What still runs in it is known to no runtime: a Podman service that is killed while it starts a
/// container leaves crun's first process behind, waiting for a start that never comes (seen with 4.3.1). What watched an exec
/// session or a probe is there for seconds after its end (`exit_command_delay`), to clean up what is removed already.
fn remove_cgroup(cgroup: &str) -> Result<(), kube_pet_host::cgroups::CgroupError> {
    use kube_pet_host::cgroups;
    // Not a container's own conmon, which may be cleaning up after the container.
    cgroups::kill_with_argument(cgroup, "--exec-process-spec")?;
    match instruments::cgroup_operation("destroy", || cgroups::remove(cgroup)) {
        Err(error) if error.is_busy() => {
            let killed = cgroups::kill(cgroup)?;
            warn!(cgroup, killed, "processes that Podman does not know were left in the pod's cgroup, and are killed");
            cgroups::remove(cgroup)
        }
        done => done,
    }
}

/// Removes a folder of ours, unless something is mounted below it: a mount is never deleted through.
fn remove_folder(folder: PathBuf) -> Result<(), String> {
    let mounts = kube_pet_host::mounts::below(&folder).map_err(|e| e.to_string())?;
    if let Some(mount) = mounts.first() {
        return Err(format!("{} is still mounted; {} stays", mount.display(), folder.display()));
    }
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot remove {}: {error}", folder.display())),
        _ => Ok(()),
    }
}
