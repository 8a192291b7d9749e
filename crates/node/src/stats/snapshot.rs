//! One look at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube_pet_core::pod::pod_uid;
use kube_pet_core::resources::{pod_cgroup_path, qos_class};
use kube_pet_core::volumes::claim_reference;
use kube_pet_host::cgroups::{self, CgroupError, Detail, Usage};
use kube_pet_host::disk_usage::{DiskUsage, disk_usage};
use kube_pet_host::interfaces::{self, InterfaceCounters};
use kube_pet_host::machine::{self, Filesystem, Pids};
use kube_pet_host::process::{self, OneProcess};

use super::{Inner, StatsOptions, VolumeSizes, lock};

/// Everything, as of one moment.
pub(super) struct Snapshot {
    pub(super) at: Timestamp,
    pub(super) booted: Timestamp,
    pub(super) machine: Option<machine::Memory>,
    pub(super) cpus: Option<u32>,
    pub(super) root: Group,
    /// All pods, then the classes of quality of service that exist.
    pub(super) pods_groups: Vec<Group>,
    /// This process, and that of the Podman service.
    pub(super) agent: Option<Process>,
    pub(super) service: Option<Process>,
    pub(super) interfaces: BTreeMap<String, InterfaceCounters>,
    pub(super) default_interface: Option<String>,
    /// Those of the interfaces that are pods' links.
    pub(super) pod_links: BTreeSet<String>,
    /// The file systems that the node uses, by the folder that it uses there.
    pub(super) filesystems: Vec<(String, Filesystem)>,
    pub(super) nodefs: Option<Filesystem>,
    pub(super) imagefs: Option<Filesystem>,
    pub(super) image_bytes: Option<u64>,
    pub(super) pids: Option<Pids>,
    pub(super) pods: Vec<PodSample>,
}

/// A cgroup.
pub(super) struct Group {
    pub(super) id: String,
    pub(super) at: Timestamp,
    pub(super) usage: Usage,
    pub(super) nano_cores: Option<u64>,
}

/// A process of the node's own.
pub(super) struct Process {
    pub(super) at: Timestamp,
    pub(super) used: OneProcess,
    pub(super) nano_cores: Option<u64>,
}

/// A pod that has running containers.
pub(super) struct PodSample {
    pub(super) pod: Arc<Pod>,
    /// Missing if it has just ended.
    pub(super) group: Option<Group>,
    pub(super) containers: Vec<ContainerSample>,
    /// The node's end of its link.
    pub(super) link_name: String,
    /// As the pod sees it; missing for pods in the host's network.
    pub(super) network: Option<InterfaceCounters>,
    pub(super) volumes: Vec<VolumeSample>,
    /// Log files of ended containers are in it too.
    pub(super) logs: Option<DiskUsage>,
    pub(super) etc_hosts: Option<DiskUsage>,
}

/// A running container.
pub(super) struct ContainerSample {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) image: String,
    pub(super) started_at: Option<Timestamp>,
    pub(super) group: Group,
    pub(super) processes: Option<u64>,
    /// What it wrote; missing until it has been counted.
    pub(super) rootfs: Option<DiskUsage>,
    pub(super) logs: Option<DiskUsage>,
}

/// A volume whose folder has been counted, or whose file system has told.
pub(super) struct VolumeSample {
    pub(super) name: String,
    pub(super) usage: DiskUsage,
    pub(super) filesystem: Option<Filesystem>,
}

/// A pod with running containers, before anything of it is measured.
pub(super) struct Running {
    pub(super) pod: Arc<Pod>,
    pub(super) cgroup: String,
    pub(super) containers: Vec<ContainerStatus>,
}

/// The pods that have running containers.
pub(super) fn running(options: &StatsOptions) -> Vec<Running> {
    let with_containers = |pod: Arc<Pod>| {
        let containers: Vec<_> = statuses(&pod).filter(|status| is_running(status)).cloned().collect();
        let cgroup = pod_cgroup_path(&options.pods_cgroup, qos_class(&pod), &pod_uid(&pod));
        (!containers.is_empty()).then_some(Running { pod, cgroup, containers })
    };
    options.pods.list().into_iter().filter_map(with_containers).collect()
}

/// Every container status of a pod.
pub(crate) fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let lists = status.map(|s| [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses]);
    lists.into_iter().flatten().flatten().flatten()
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn container_id(status: &ContainerStatus) -> Option<&str> {
    Some(status.container_id.as_deref()?.split_once("://")?.1)
}

/// The IDs of a pod's running containers.
pub(super) fn running_ids(running: &Running) -> impl Iterator<Item = &str> {
    running.containers.iter().filter_map(container_id)
}

/// The cgroup of a container: Podman's with the cgroupfs manager, `libpod-<ID>` in the pod's.
fn container_cgroup(pod_cgroup: &str, id: &str) -> String {
    format!("{pod_cgroup}/libpod-{id}")
}

/// The groups whose CPU counters are kept, with the counters. Groups that have just ended are missing.
pub(super) fn groups(options: &StatsOptions, pods: &[Running], service: Option<u32>) -> Vec<(String, u64)> {
    let mut names = vec!["/".to_owned(), options.pods_cgroup.clone()];
    for pod in pods {
        names.extend(pod.containers.iter().filter_map(container_id).map(|id| container_cgroup(&pod.cgroup, id)));
        names.push(pod.cgroup.clone());
    }
    let counter = |name: String| cgroups::cpu_nanos(&name).ok().map(|nanos| (name, nanos));
    let mut found: Vec<_> = names.into_iter().filter_map(counter).collect();
    for (name, pid) in [(AGENT, Some(std::process::id())), (SERVICE, service)] {
        found.extend(pid.and_then(process::process).map(|used| (name.to_owned(), used.cpu_nanos)));
    }
    found
}

/// Stand for processes among the names of groups, which begin with `/`.
const AGENT: &str = "agent";
const SERVICE: &str = "service";

/// The process at the other end of Podman's socket.
pub(super) async fn podman_service(socket: &Path) -> Option<u32> {
    let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
    u32::try_from(stream.peer_cred().ok()?.pid()?).ok()
}

/// Measures. Blocking; some 45 reads of small files for each pod of one container, or 10 without the details.
pub(super) fn measure(inner: &Inner, detail: Detail, service: Option<u32>) -> Result<Snapshot, CgroupError> {
    let options = &inner.options;
    let pods = running(options);
    let interfaces = interfaces::interfaces();
    let root = group(inner, "/", detail)?;
    let class = |class: &str| group(inner, &format!("{}/{class}", options.pods_cgroup), detail).ok();
    let pods_groups =
        group(inner, &options.pods_cgroup, detail).ok().into_iter().chain(class("burstable")).chain(class("besteffort")).collect();
    let (image_store, image_bytes) = inner.image_store();
    let samples: Vec<_> = pods.into_iter().map(|pod| pod_sample(inner, pod, &interfaces, detail)).collect();
    let state_dir = options.paths.state_dir();
    let (nodefs, imagefs) = (machine::filesystem(&state_dir).ok(), machine::filesystem(&image_store).ok());
    let named = |path: &Path, disk: Option<Filesystem>| disk.map(|disk| (path.display().to_string(), disk));
    Ok(Snapshot {
        at: Timestamp::now(),
        booted: machine::boot_time().ok().and_then(|at| Timestamp::from_second(i64::try_from(at).ok()?).ok()).unwrap_or_default(),
        machine: machine::memory().ok(),
        cpus: machine::cpu_count().ok(),
        root,
        pods_groups,
        agent: process_sample(inner, AGENT, std::process::id()),
        service: service.filter(|pid| *pid != std::process::id()).and_then(|pid| process_sample(inner, SERVICE, pid)),
        default_interface: interfaces::default_interface(),
        pod_links: samples.iter().map(|pod| pod.link_name.clone()).collect(),
        filesystems: named(&state_dir, nodefs).into_iter().chain(named(&image_store, imagefs)).collect(),
        interfaces,
        nodefs,
        imagefs,
        image_bytes,
        pids: machine::pids().ok(),
        pods: samples,
    })
}

fn group(inner: &Inner, id: &str, detail: Detail) -> Result<Group, CgroupError> {
    let usage = cgroups::usage(id, detail)?;
    let at = Timestamp::now();
    let nano_cores = usage.cpu.and_then(|cpu| lock(&inner.rates).nano_cores(id, cpu.total_nanos, Instant::now()));
    Ok(Group { id: id.to_owned(), at, usage, nano_cores })
}

fn process_sample(inner: &Inner, name: &str, pid: u32) -> Option<Process> {
    let used = process::process(pid)?;
    let nano_cores = lock(&inner.rates).nano_cores(name, used.cpu_nanos, Instant::now());
    Some(Process { at: Timestamp::now(), used, nano_cores })
}

fn pod_sample(inner: &Inner, running: Running, interfaces: &BTreeMap<String, InterfaceCounters>, detail: Detail) -> PodSample {
    let all = detail == Detail::All;
    let counted = |path: &Path| all.then(|| disk_usage(path).ok()).flatten();
    let Running { pod, cgroup, containers: statuses } = running;
    let options = &inner.options;
    let uid = pod_uid(&pod);
    let meta = &pod.metadata;
    let log_dir = options.paths.pod_log_dir(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default(), &uid);
    let (rootfs, volume_sizes): (BTreeMap<String, DiskUsage>, VolumeSizes) = lock(&inner.disks).of_pod(&uid);
    let container = |status: &ContainerStatus| {
        let id = container_id(status)?;
        let cgroup = container_cgroup(&cgroup, id);
        Some(ContainerSample {
            name: status.name.clone(),
            id: id.to_owned(),
            image: status.image.clone(),
            started_at: status.state.as_ref()?.running.as_ref()?.started_at.as_ref().map(|at| at.0),
            group: group(inner, &cgroup, detail).ok()?,
            processes: all.then(|| cgroups::processes_in(&cgroup)).flatten(),
            rootfs: rootfs.get(id).copied(),
            logs: counted(&log_dir.join(&status.name)),
        })
    };
    let filesystem = |name: &str| super::disks::volume_folder(&options.paths, &uid, name).and_then(|path| machine::filesystem(&path).ok());
    let link_name = options.sandboxes.link_name(&uid);
    let in_host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    PodSample {
        group: group(inner, &cgroup, detail).ok(),
        containers: statuses.iter().filter_map(container).collect(),
        // The node's end of the pod's link counts the same packets, the other way round.
        network: (!in_host_network).then(|| interfaces.get(&link_name)).flatten().map(|link| link.reversed()),
        link_name,
        volumes: volume_sizes
            .into_iter()
            .map(|(name, usage)| VolumeSample { filesystem: filesystem(&name), name, usage })
            .chain(lock(&inner.mounts).of_pod(&uid).into_iter().map(|(name, filesystem)| {
                let usage = DiskUsage { bytes: filesystem.used, inodes: filesystem.inodes.saturating_sub(filesystem.inodes_free) };
                VolumeSample { name, usage, filesystem: Some(filesystem) }
            }))
            .collect(),
        logs: counted(&log_dir),
        etc_hosts: counted(&options.paths.pod_dir(&uid).join("etc-hosts")),
        pod,
    }
}

impl PodSample {
    pub(super) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn started_at(&self) -> Option<Timestamp> {
        Some(self.pod.status.as_ref()?.start_time.as_ref()?.0)
    }

    /// Processes in all of its containers.
    pub(super) fn processes(&self) -> Option<u64> {
        self.containers.iter().map(|container| container.processes).sum()
    }

    /// Whether a volume counts towards the pod's ephemeral storage: emptyDir on disk, configMap, as in the kubelet.
    pub(super) fn is_ephemeral(&self, volume: &str) -> bool {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut named = volumes.filter(|candidate| candidate.name == volume);
        named.any(|volume| {
            let on_disk = |medium: Option<&str>| medium.is_none_or(str::is_empty);
            volume.config_map.is_some() || volume.empty_dir.as_ref().is_some_and(|dir| on_disk(dir.medium.as_deref()))
        })
    }

    /// The claim of a volume.
    pub(super) fn claim(&self, volume: &str) -> Option<String> {
        claim_of(&self.pod, volume)
    }
}

/// The claim of a pod's volume.
pub(super) fn claim_of(pod: &Pod, volume: &str) -> Option<String> {
    let volumes = pod.spec.as_ref()?.volumes.as_deref().unwrap_or_default();
    let volume = volumes.iter().find(|candidate| candidate.name == volume)?;
    Some(claim_reference(pod, volume)?.claim)
}
