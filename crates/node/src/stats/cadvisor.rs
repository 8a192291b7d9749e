//! `/metrics/cadvisor`: names, labels, help texts and units as in cAdvisor's `metrics/prometheus.go` with what a kubelet includes
//! (CPU, memory, disks, network, processes, OOM kills, pressure).
//!
//! | Series | `id` | `name` | `image` | `container`, `pod`, `namespace` |
//! | --- | --- | --- | --- | --- |
//! | the machine, groups of pods | the cgroup | | | |
//! | a pod | its cgroup | | | `pod`, `namespace` |
//! | a container | its cgroup | its ID | its image | all three |
//! | a pod's network | the pod's cgroup | the pod's link | [`SANDBOX_IMAGE`] | `pod`, `namespace` |
//!
//! Other runtimes have a container for the sandbox, whose image shows where dashboards ask for `image!=""`. There is none here, and
//! so nothing but the network is told of it.

mod families;

use jiff::Timestamp;
use kube_pet_host::cgroups::DeviceIo;
use kube_pet_host::interfaces::InterfaceCounters;
use kube_pet_host::machine::{self, Filesystem};

use super::snapshot::{ContainerSample, Group, Snapshot};
use super::text::{Kind, Labels, Text};
use families::{FAMILIES, number, seconds};

/// Stands where other runtimes have the pause image.
const SANDBOX_IMAGE: &str = "kube-pet.dev/sandbox";

/// The page. Without a measurement it says that there was none.
pub(super) fn write(snapshot: Option<&Snapshot>) -> String {
    let mut text = Text::default();
    if let Some(snapshot) = snapshot {
        version(&mut text);
        let subjects = subjects(snapshot);
        groups(&mut text, &subjects);
        disks(&mut text, &subjects);
        network(&mut text, snapshot);
        machine_metrics(&mut text, snapshot);
    }
    let error = Some(if snapshot.is_some() { 0.0 } else { 1.0 });
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    text.single("container_scrape_error", Kind::Gauge, help, error);
    text.single("machine_scrape_error", Kind::Gauge, "1 if there was an error while getting machine metrics, 0 otherwise.", error);
    text.into_string()
}

/// A cgroup with its labels.
struct Subject<'a> {
    labels: Labels,
    group: &'a Group,
    container: Option<&'a ContainerSample>,
    started_at: Option<Timestamp>,
}

fn labels(container: &str, id: &str, image: &str, name: &str, namespace: &str, pod: &str) -> Labels {
    Labels::new(&[("container", container), ("id", id), ("image", image), ("name", name), ("namespace", namespace), ("pod", pod)])
}

fn subjects(snapshot: &Snapshot) -> Vec<Subject<'_>> {
    let groups = std::iter::once(&snapshot.root).chain(&snapshot.pods_groups);
    let plain =
        |group| Subject { labels: labels("", Group::id(group), "", "", "", ""), group, container: None, started_at: Some(snapshot.booted) };
    let mut subjects: Vec<_> = groups.map(plain).collect();
    for pod in &snapshot.pods {
        let (namespace, name) = (pod.namespace(), pod.name());
        subjects.extend(pod.group.as_ref().map(|group| Subject {
            labels: labels("", &group.id, "", "", namespace, name),
            group,
            container: None,
            started_at: pod.started_at(),
        }));
        subjects.extend(pod.containers.iter().map(|container| Subject {
            labels: labels(&container.name, &container.group.id, &container.image, &container.id, namespace, name),
            group: &container.group,
            container: Some(container),
            started_at: container.started_at,
        }));
    }
    subjects
}

impl Group {
    fn id(&self) -> &str {
        &self.id
    }
}

/// What has one number for each cgroup, then the CPU time, which has a label more.
fn groups(text: &mut Text, subjects: &[Subject<'_>]) {
    for family in FAMILIES {
        let mut samples = subjects.iter().filter_map(|subject| Some((subject, (family.value)(subject)?))).peekable();
        if samples.peek().is_none() {
            continue;
        }
        text.family(family.name, family.kind, family.help);
        for (subject, value) in samples {
            text.sample_at(family.name, &subject.labels, value, family.timed.then_some(subject.group.at));
        }
    }
    let name = "container_cpu_usage_seconds_total";
    text.family(name, Kind::Counter, "Cumulative cpu time consumed in seconds.");
    for subject in subjects {
        if let Some(cpu) = subject.group.usage.cpu.filter(|cpu| cpu.total_nanos > 0) {
            text.sample_at(name, &subject.labels.and(&[("cpu", "total")]), seconds(cpu.total_nanos), Some(subject.group.at));
        }
    }
    let name = "container_memory_failures_total";
    text.family(name, Kind::Counter, "Cumulative count of memory allocation failures.");
    for subject in subjects {
        let Some(memory) = subject.group.usage.memory else { continue };
        for (kind, count) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
            for scope in ["container", "hierarchy"] {
                let labels = subject.labels.and(&[("failure_type", kind), ("scope", scope)]);
                text.sample_at(name, &labels, number(count), Some(subject.group.at));
            }
        }
    }
}

/// A family of input and output: its name, help text, and what it takes from a device.
type IoFamily = (&'static str, &'static str, fn(&DeviceIo) -> u64);

const IO: [IoFamily; 4] = [
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |io| io.read_bytes),
    ("container_fs_reads_total", "Cumulative count of reads completed", |io| io.reads),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |io| io.write_bytes),
    ("container_fs_writes_total", "Cumulative count of writes completed", |io| io.writes),
];

/// Input and output by device, and what the containers' own files take up.
fn disks(text: &mut Text, subjects: &[Subject<'_>]) {
    for (name, help, value) in IO {
        let devices = |subject: &'_ Subject<'_>| subject.group.usage.io.clone().unwrap_or_default();
        if subjects.iter().all(|subject| devices(subject).is_empty()) {
            continue;
        }
        text.family(name, Kind::Counter, help);
        for subject in subjects {
            for (device, io) in devices(subject) {
                text.sample_at(name, &subject.labels.and(&[("device", &device)]), number(value(&io)), Some(subject.group.at));
            }
        }
    }
    let usage = "container_fs_usage_bytes";
    text.family(usage, Kind::Gauge, "Number of bytes that are consumed by the container on this filesystem.");
    for subject in subjects {
        if let Some(rootfs) = subject.container.and_then(|container| container.rootfs) {
            text.sample_at(usage, &subject.labels.and(&[("device", "")]), number(rootfs.bytes), Some(subject.group.at));
        }
    }
}

/// A family of the machine's file systems.
type FilesystemFamily = (&'static str, &'static str, fn(&Filesystem) -> u64);

/// Of the machine's file systems that the node uses.
const FILESYSTEMS: [FilesystemFamily; 3] = [
    ("container_fs_inodes_free", "Number of available Inodes", |disk| disk.inodes_free),
    ("container_fs_inodes_total", "Number of Inodes", |disk| disk.inodes),
    ("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", |disk| disk.capacity),
];

type NetworkFamily = (&'static str, &'static str, fn(&InterfaceCounters) -> u64);

const NETWORK: [NetworkFamily; 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |link| link.received.bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |link| link.received.packets),
    ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", |link| {
        link.received.dropped
    }),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |link| link.received.errors),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |link| link.transmitted.bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |link| link.transmitted.packets),
    ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", |link| {
        link.transmitted.dropped
    }),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |link| {
        link.transmitted.errors
    }),
];

/// The machine's interfaces but the pods' links, and each pod's one interface.
fn network(text: &mut Text, snapshot: &Snapshot) {
    let root = labels("", "/", "", "", "", "");
    let machine = snapshot.interfaces.iter().filter(|(name, _)| *name != "lo" && !snapshot.pod_links.contains(*name));
    let machine: Vec<_> = machine.map(|(name, link)| (root.and(&[("interface", name)]), *link)).collect();
    let pods = snapshot.pods.iter().filter_map(|pod| {
        let id = pod.group.as_ref().map_or("", |group| group.id.as_str());
        let labels = labels("", id, SANDBOX_IMAGE, &pod.link_name, pod.namespace(), pod.name());
        Some((labels.and(&[("interface", "eth0")]), pod.network?))
    });
    let links: Vec<_> = machine.into_iter().chain(pods).collect();
    for (name, help, value) in NETWORK {
        text.family(name, Kind::Counter, help);
        for (labels, link) in &links {
            text.sample_at(name, labels, number(value(link)), Some(snapshot.at));
        }
    }
}

fn machine_metrics(text: &mut Text, snapshot: &Snapshot) {
    let root = labels("", "/", "", "", "", "");
    for (name, help, value) in FILESYSTEMS {
        text.family(name, Kind::Gauge, help);
        for (path, disk) in &snapshot.filesystems {
            text.sample_at(name, &root.and(&[("device", path)]), number(value(disk)), Some(snapshot.at));
        }
    }
    let (machine_id, system_uuid, boot_id) = (machine::machine_id(), machine::system_uuid(), machine::boot_id().unwrap_or_default());
    let labels = Labels::new(&[("boot_id", &boot_id), ("machine_id", &machine_id), ("system_uuid", &system_uuid)]);
    let mut gauge = |name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            text.family(name, Kind::Gauge, help);
            text.sample_at(name, &labels, number(value), None);
        }
    };
    gauge("machine_cpu_cores", "Number of logical CPU cores.", snapshot.cpus.map(u64::from));
    gauge("machine_memory_bytes", "Amount of memory installed on the machine.", snapshot.machine.map(|memory| memory.total));
    gauge("machine_swap_bytes", "Amount of swap memory available on the machine.", snapshot.machine.map(|memory| memory.swap_total));
}

fn version(text: &mut Text) {
    let name = "cadvisor_version_info";
    let help =
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.";
    text.family(name, Kind::Gauge, help);
    let (kernel, os) = (machine::kernel_release(), machine::os_name());
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", kernel.as_str()),
        ("osVersion", os.as_str()),
    ];
    text.sample(name, &labels, 1.0);
}
