//! `/stats/summary`: `k8s.io/kubelet/pkg/apis/stats/v1alpha1`, field by field.

use jiff::Timestamp;
use kube_pet_host::cgroups::{self, PressureLine};
use kube_pet_host::disk_usage::DiskUsage;
use kube_pet_host::interfaces::InterfaceCounters;
use kube_pet_host::machine::{Filesystem, Pids};
use serde::{Serialize, Serializer};

use super::Parts;
use super::snapshot::{ContainerSample, Group, PodSample, Process, Snapshot};

/// A moment as the API writes it: whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }
}

/// The document.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    node: Node,
    pods: Vec<Pod>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    node_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system_containers: Vec<Container>,
    start_time: Time,
    #[serde(flatten)]
    used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<Runtime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rlimit: Option<Rlimit>,
}

/// What a cgroup uses.
#[derive(Debug, Default, Serialize)]
struct Used {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<Io>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<Swap>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    pod_ref: PodReference,
    start_time: Time,
    containers: Vec<Container>,
    #[serde(flatten)]
    used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volume: Vec<Volume>,
    #[serde(rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<Fs>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    process_stats: Option<ProcessStats>,
}

#[derive(Debug, Serialize)]
struct PodReference {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    start_time: Option<Time>,
    #[serde(flatten)]
    used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Fs>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_nano_cores: Option<u64>,
    usage_core_nano_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    rss_bytes: u64,
    page_faults: u64,
    major_page_faults: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct Io {
    time: Time,
    psi: Psi,
}

#[derive(Debug, Serialize)]
struct Psi {
    full: PsiLine,
    some: PsiLine,
}

#[derive(Debug, Serialize)]
struct PsiLine {
    total: u64,
    avg10: f64,
    avg60: f64,
    avg300: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Swap {
    time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_available_bytes: Option<u64>,
    swap_usage_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Network {
    time: Time,
    #[serde(flatten)]
    default: Option<Interface>,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    name: String,
    rx_bytes: u64,
    rx_errors: u64,
    tx_bytes: u64,
    tx_errors: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    #[serde(flatten)]
    fs: Fs,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pvc_ref: Option<PvcReference>,
}

#[derive(Debug, Serialize)]
struct PvcReference {
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fs {
    time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes_free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes_used: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    #[serde(skip_serializing_if = "Option::is_none")]
    image_fs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_fs: Option<Fs>,
}

#[derive(Debug, Serialize)]
struct Rlimit {
    time: Time,
    maxpid: u64,
    curproc: u64,
}

#[derive(Debug, Serialize)]
struct ProcessStats {
    process_count: u64,
}

/// The document of a measurement; without networks and disks if `only_cpu_and_memory`.
pub(super) fn summary(node_name: &str, snapshot: &Snapshot, only_cpu_and_memory: bool) -> Summary {
    let all = !only_cpu_and_memory;
    let at = Time(snapshot.at);
    let machine_memory = snapshot.machine.map(|memory| memory.total);
    let pods_group = snapshot.pods_groups.first();
    let mut system_containers = Vec::new();
    system_containers.extend(snapshot.agent.as_ref().map(|process| system_container("kubelet", process)));
    system_containers.extend(snapshot.service.as_ref().map(|process| system_container("runtime", process)));
    system_containers.extend(pods_group.map(|group| Container {
        name: "pods".to_owned(),
        start_time: Some(Time(snapshot.booted)),
        used: used(group, machine_memory),
        rootfs: None,
        logs: None,
    }));
    let node = Node {
        node_name: node_name.to_owned(),
        system_containers,
        start_time: Time(snapshot.booted),
        used: Used {
            swap: snapshot.machine.map(|memory| Swap {
                time: at,
                swap_available_bytes: Some(memory.swap_free),
                swap_usage_bytes: memory.swap_total.saturating_sub(memory.swap_free),
            }),
            ..used(&snapshot.root, machine_memory)
        },
        network: all.then(|| node_network(snapshot)),
        fs: snapshot.nodefs.filter(|_| all).map(|disk| whole(at, disk)),
        runtime: all.then(|| runtime(snapshot)),
        rlimit: snapshot.pids.filter(|_| all).map(|Pids { max, used }| Rlimit { time: at, maxpid: max, curproc: used }),
    };
    Summary { node, pods: snapshot.pods.iter().filter_map(|sample| pod(snapshot, sample, all)).collect() }
}

/// A pod shows once it has a start time, as with the kubelet.
fn pod(snapshot: &Snapshot, sample: &PodSample, all: bool) -> Option<Pod> {
    let at = Time(snapshot.at);
    let namespace = sample.namespace().to_owned();
    let containers: Vec<_> = sample.containers.iter().map(|container| self::container(snapshot, container, all)).collect();
    let volumes: Vec<_> = sample
        .volumes
        .iter()
        .map(|volume| Volume {
            fs: part(at, volume.filesystem, Some(volume.usage)),
            name: volume.name.clone(),
            pvc_ref: sample.claim(&volume.name).map(|claim| PvcReference { name: claim, namespace: namespace.clone() }),
        })
        .collect();
    let ephemeral = all.then(|| {
        let sum = sample.files(Parts { layers: true, volumes_and_logs: true });
        part(at, snapshot.nodefs, Some(sum))
    });
    Some(Pod {
        pod_ref: PodReference { name: sample.name().to_owned(), uid: sample.pod.metadata.uid.clone().unwrap_or_default(), namespace },
        start_time: Time(sample.started_at()?),
        containers,
        used: sample.group.as_ref().map(|group| used(group, None)).unwrap_or_default(),
        network: sample.network.filter(|_| all).map(|link| {
            let eth0 = interface("eth0", link);
            Network { time: at, default: Some(eth0.clone()), interfaces: vec![eth0] }
        }),
        volume: if all { volumes } else { Vec::new() },
        ephemeral_storage: ephemeral,
        process_stats: sample.processes().filter(|_| all).map(|process_count| ProcessStats { process_count }),
    })
}

fn container(snapshot: &Snapshot, sample: &ContainerSample, all: bool) -> Container {
    let at = Time(snapshot.at);
    Container {
        name: sample.name.clone(),
        start_time: sample.started_at.map(Time),
        used: used(&sample.group, None),
        rootfs: all.then(|| part(at, snapshot.imagefs, sample.rootfs)),
        logs: all.then(|| part(at, snapshot.nodefs, sample.logs)),
    }
}

/// What a cgroup uses. `limit` stands in where it has none.
fn used(group: &Group, limit: Option<u64>) -> Used {
    let time = Time(group.at);
    let pressure = group.usage.pressure.as_ref();
    let cpu = group.usage.cpu.map(|cpu| Cpu {
        time,
        // The kubelet gives 0, too, while there is nothing to compute a rate from.
        usage_nano_cores: Some(group.nano_cores.unwrap_or(0)),
        usage_core_nano_seconds: cpu.total_nanos,
        psi: pressure.map(|pressure| psi(pressure.cpu)),
    });
    let memory = group.usage.memory.map(|memory| Memory {
        time,
        available_bytes: memory.limit.or(limit).map(|limit| limit.saturating_sub(memory.working_set)),
        usage_bytes: memory.usage,
        working_set_bytes: memory.working_set,
        rss_bytes: memory.rss,
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
        psi: pressure.map(|pressure| psi(pressure.memory)),
    });
    let swap = group.usage.memory.map(|cgroups::Memory { swap, swap_limit, .. }| Swap {
        time,
        swap_available_bytes: swap_limit.map(|limit| limit.saturating_sub(swap)),
        swap_usage_bytes: swap,
    });
    Used { cpu, memory, io: pressure.map(|pressure| Io { time, psi: psi(pressure.io) }), swap }
}

fn system_container(name: &str, process: &Process) -> Container {
    let time = Time(process.at);
    let one = process.used;
    Container {
        name: name.to_owned(),
        start_time: Timestamp::from_millisecond(one.started_millis).ok().map(Time),
        used: Used {
            cpu: Some(Cpu {
                time,
                usage_nano_cores: Some(process.nano_cores.unwrap_or(0)),
                usage_core_nano_seconds: one.cpu_nanos,
                psi: None,
            }),
            memory: Some(Memory {
                time,
                available_bytes: None,
                usage_bytes: one.resident,
                working_set_bytes: one.resident,
                rss_bytes: one.anonymous,
                page_faults: one.page_faults,
                major_page_faults: one.major_page_faults,
                psi: None,
            }),
            io: None,
            swap: None,
        },
        rootfs: None,
        logs: None,
    }
}

fn node_network(snapshot: &Snapshot) -> Network {
    let interfaces: Vec<_> =
        snapshot.interfaces.iter().filter(|(name, _)| *name != "lo").map(|(name, link)| interface(name, *link)).collect();
    let default = snapshot.default_interface.as_ref();
    let default = interfaces.iter().find(|interface| Some(&interface.name) == default).cloned();
    Network { time: Time(snapshot.at), default, interfaces }
}

fn runtime(snapshot: &Snapshot) -> Runtime {
    let at = Time(snapshot.at);
    let of_images = |used_bytes: Option<u64>| snapshot.imagefs.map(|disk| Fs { used_bytes, ..whole(at, disk) });
    let containers = snapshot.pods.iter().flat_map(|pod| &pod.containers).filter_map(|container| container.rootfs);
    Runtime { image_fs: of_images(snapshot.image_bytes), container_fs: of_images(Some(containers.map(|usage| usage.bytes).sum())) }
}

/// A whole file system.
fn whole(time: Time, disk: Filesystem) -> Fs {
    let used = Some(disk.inodes.saturating_sub(disk.inodes_free)).filter(|_| disk.inodes > 0);
    Fs { used_bytes: Some(disk.used), inodes_used: used, ..part(time, Some(disk), None) }
}

/// Something on a file system.
fn part(time: Time, disk: Option<Filesystem>, usage: Option<DiskUsage>) -> Fs {
    Fs {
        time,
        available_bytes: disk.map(|disk| disk.available),
        capacity_bytes: disk.map(|disk| disk.capacity),
        used_bytes: usage.map(|usage| usage.bytes),
        inodes_free: disk.map(|disk| disk.inodes_free),
        inodes: disk.map(|disk| disk.inodes),
        inodes_used: usage.map(|usage| usage.inodes),
    }
}

fn interface(name: &str, link: InterfaceCounters) -> Interface {
    Interface {
        name: name.to_owned(),
        rx_bytes: link.received.bytes,
        rx_errors: link.received.errors,
        tx_bytes: link.transmitted.bytes,
        tx_errors: link.transmitted.errors,
    }
}

fn psi((some, full): (PressureLine, PressureLine)) -> Psi {
    let line = |line: PressureLine| PsiLine { total: line.total, avg10: line.avg10, avg60: line.avg60, avg300: line.avg300 };
    Psi { full: line(full), some: line(some) }
}
