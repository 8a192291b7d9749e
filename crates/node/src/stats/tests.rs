use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_host::cgroups::{Cpu, DeviceIo, Memory, Pids, Pressure, Usage};
use kube_pet_host::disk_usage::DiskUsage;
use kube_pet_host::interfaces::{InterfaceCounters, Traffic};
use kube_pet_host::machine::{self, Filesystem};
use kube_pet_host::process::OneProcess;
use serde_json::json;

use super::snapshot::{ContainerSample, Group, PodSample, Process, Snapshot, VolumeSample};
use super::{cadvisor, resource, summary};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_760_000_000_000 + millis).unwrap()
}

fn group(id: &str, cpu: u64) -> Group {
    let memory = Memory {
        usage: 10 << 20,
        working_set: 8 << 20,
        rss: 4 << 20,
        cache: 2 << 20,
        limit: Some(64 << 20),
        page_faults: 77,
        ..Memory::default()
    };
    let cpu = Cpu {
        total_nanos: cpu,
        periods: 9,
        throttled_periods: 2,
        quota: Some(50_000),
        period: Some(100_000),
        shares: Some(102),
        ..Cpu::default()
    };
    let io = BTreeMap::from([("/dev/vda".to_owned(), DeviceIo { read_bytes: 4096, reads: 1, ..DeviceIo::default() })]);
    let usage = Usage {
        cpu: Some(cpu),
        memory: Some(memory),
        io: Some(io),
        pids: Some(Pids { current: 3, max: None }),
        pressure: Some(Pressure::default()),
    };
    Group { id: id.to_owned(), at: at(250), usage, nano_cores: Some(12_000_000) }
}

fn pod() -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {"containers": [{"name": "app"}], "volumes": [
            {"name": "data", "emptyDir": {}}, {"name": "keys", "secret": {"secretName": "s"}},
            {"name": "disk", "persistentVolumeClaim": {"claimName": "c"}}]},
        "status": {"startTime": "2025-10-09T08:53:00Z"},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn snapshot() -> Snapshot {
    let kib = |number: u64| DiskUsage { bytes: number << 10, inodes: 2 };
    let disk = Filesystem { capacity: 1 << 40, available: 1 << 39, used: 1 << 39, inodes: 1000, inodes_free: 900 };
    let link = InterfaceCounters {
        received: Traffic { bytes: 500, packets: 5, errors: 0, dropped: 1 },
        transmitted: Traffic { bytes: 700, packets: 7, errors: 0, dropped: 0 },
    };
    let container = ContainerSample {
        name: "app".into(),
        id: "abc".into(),
        image: "docker.io/library/nginx:1".into(),
        started_at: Some(at(-5_500)),
        group: group("/kubepods/podu-1/libpod-abc", 1_500_000_000),
        processes: Some(2),
        rootfs: Some(kib(16)),
        logs: Some(kib(4)),
    };
    let volume = |name: &str, size| VolumeSample { name: name.into(), usage: kib(size), filesystem: Some(disk) };
    let pod = PodSample {
        pod: pod(),
        group: Some(group("/kubepods/podu-1", 1_600_000_000)),
        containers: vec![container],
        link_name: "kp1234".into(),
        network: Some(link),
        volumes: vec![volume("data", 8), volume("keys", 1024), volume("disk", 2048)],
        logs: Some(kib(4)),
        etc_hosts: Some(kib(4)),
    };
    let one = OneProcess {
        cpu_nanos: 5_000_000_000,
        resident: 30 << 20,
        anonymous: 20 << 20,
        started_millis: at(-9000).as_millisecond(),
        ..OneProcess::default()
    };
    Snapshot {
        at: at(500),
        booted: at(-60_000),
        machine: Some(machine::Memory { total: 1 << 34, available: 1 << 33, swap_total: 1 << 20, swap_free: 1 << 19 }),
        cpus: Some(4),
        root: group("/", 90_000_000_000),
        pods_groups: vec![group("/kubepods", 3_000_000_000)],
        agent: Some(Process { at: at(300), used: one, nano_cores: None }),
        service: None,
        interfaces: BTreeMap::from([("eth0".to_owned(), link), ("lo".to_owned(), link), ("kp1234".to_owned(), link.reversed())]),
        default_interface: Some("eth0".to_owned()),
        pod_links: BTreeSet::from(["kp1234".to_owned()]),
        filesystems: vec![("/var/lib/kube-pet".to_owned(), disk)],
        nodefs: Some(disk),
        imagefs: Some(disk),
        image_bytes: Some(12_345),
        pids: Some(machine::Pids { max: 1000, used: 100 }),
        pods: vec![pod],
    }
}

/// Each family has one head, and its samples directly behind it; no sample comes twice.
fn check_form(text: &str) {
    let (mut families, mut samples, mut current) = (BTreeSet::new(), BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split(' ').next().unwrap().to_owned();
            assert!(families.insert(current.clone()), "{current} comes twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, current, "{line}");
            let series = line.rsplit_once('}').map_or(name, |(series, _)| series);
            assert!(samples.insert(series), "{line} comes twice");
        }
    }
}

fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|own| own == *line), "{line} is not in\n{text}");
    }
}

#[test]
fn cadvisors_series() {
    let text = cadvisor::write(Some(&snapshot()));
    check_form(&text);
    let container = "container=\"app\",id=\"/kubepods/podu-1/libpod-abc\",image=\"docker.io/library/nginx:1\",name=\"abc\",namespace=\"shop\",pod=\"web\"";
    let pod = "container=\"\",id=\"/kubepods/podu-1\",image=\"\",name=\"\",namespace=\"shop\",pod=\"web\"";
    let sandbox = "container=\"\",id=\"/kubepods/podu-1\",image=\"kube-pet.dev/sandbox\",name=\"kp1234\",namespace=\"shop\",pod=\"web\"";
    has(
        &text,
        &[
            &format!("container_cpu_usage_seconds_total{{{container},cpu=\"total\"}} 1.5 1760000000250"),
            &format!("container_memory_working_set_bytes{{{container}}} 8388608 1760000000250"),
            &format!("container_cpu_cfs_throttled_periods_total{{{container}}} 2 1760000000250"),
            &format!("container_fs_reads_bytes_total{{{container},device=\"/dev/vda\"}} 4096 1760000000250"),
            &format!("container_fs_usage_bytes{{{container},device=\"\"}} 16384 1760000000250"),
            &format!("container_spec_cpu_quota{{{container}}} 50000"),
            &format!("container_spec_memory_limit_bytes{{{container}}} 67108864"),
            &format!("container_processes{{{container}}} 2 1760000000250"),
            &format!("container_memory_rss{{{pod}}} 4194304 1760000000250"),
            &format!("container_network_receive_bytes_total{{{sandbox},interface=\"eth0\"}} 500 1760000000500"),
            "container_network_transmit_bytes_total{container=\"\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\",interface=\"eth0\"} 700 1760000000500",
            "container_scrape_error 0",
        ],
    );
    assert!(text.contains("machine_cpu_cores{boot_id=") && !text.contains("interface=\"kp1234\"") && !text.contains("interface=\"lo\""));
    assert!(!text.contains(&format!("container_memory_rss{{{sandbox}")), "nothing but the network is the sandbox's");
}

#[test]
fn without_a_measurement_the_pages_say_so() {
    let text = cadvisor::write(None);
    check_form(&text);
    has(&text, &["container_scrape_error 1", "machine_scrape_error 1"]);
    let text = resource::write(None);
    has(&text, &["resource_scrape_error 1", "scrape_error 1"]);
    assert!(!text.contains("node_cpu"));
}

/// metrics-server takes the first `pod="` and the like for the label of that name.
#[test]
fn metrics_servers_series() {
    let text = resource::write(Some(&snapshot()));
    check_form(&text);
    let labels = "container=\"app\",namespace=\"shop\",pod=\"web\"";
    has(
        &text,
        &[
            &format!("container_cpu_usage_seconds_total{{{labels}}} 1.5 1760000000250"),
            &format!("container_memory_working_set_bytes{{{labels}}} 8388608 1760000000250"),
            &format!("container_start_time_seconds{{{labels}}} 1759999994.5"),
            "node_cpu_usage_seconds_total 90 1760000000250",
            "node_memory_working_set_bytes 8388608 1760000000250",
            "node_swap_usage_bytes 524288 1760000000500",
            "pod_cpu_usage_seconds_total{namespace=\"shop\",pod=\"web\"} 1.6 1760000000250",
            "resource_scrape_error 0",
        ],
    );
}

#[test]
fn the_summary() {
    let summary = serde_json::to_value(summary::summary("n1", &snapshot(), false)).unwrap();
    let node = &summary["node"];
    assert_eq!(node["nodeName"], "n1");
    assert_eq!(node["cpu"]["usageNanoCores"], 12_000_000);
    assert_eq!(node["memory"]["availableBytes"], (64u64 << 20) - (8 << 20));
    assert_eq!(node["network"]["name"], "eth0");
    assert_eq!(node["network"]["interfaces"].as_array().unwrap().len(), 2, "all but lo");
    assert_eq!(node["fs"]["inodesUsed"], 100);
    assert_eq!(node["runtime"]["imageFs"]["usedBytes"], 12_345);
    assert_eq!(node["runtime"]["containerFs"]["usedBytes"], 16 << 10);
    assert_eq!(node["rlimit"], json!({"time": "2025-10-09T08:53:20Z", "maxpid": 1000, "curproc": 100}));
    assert_eq!(node["swap"]["swapUsageBytes"], 1 << 19);
    let names: Vec<_> = node["systemContainers"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["kubelet", "pods"]);
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "shop", "uid": "u-1"}));
    assert_eq!(pod["startTime"], "2025-10-09T08:53:00Z");
    assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 1_600_000_000);
    assert_eq!(pod["network"]["rxBytes"], 500);
    assert_eq!(pod["process_stats"]["process_count"], 2);
    // Its container's files, the emptyDir, logs and hosts file; neither the secret's, which are in memory, nor the claim's.
    assert_eq!(pod["ephemeral-storage"]["usedBytes"], (16 + 8 + 4 + 4) << 10);
    assert_eq!(pod["volume"][2]["pvcRef"], json!({"name": "c", "namespace": "shop"}));
    assert_eq!(pod["volume"][0]["pvcRef"], serde_json::Value::Null);
    let container = &pod["containers"][0];
    assert_eq!(container["startTime"], "2025-10-09T08:53:14Z");
    assert_eq!(container["rootfs"]["usedBytes"], 16 << 10);
    assert_eq!(container["memory"]["pageFaults"], 77);
    assert_eq!(container["cpu"]["psi"]["full"], json!({"total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0}));
    let short = serde_json::to_value(summary::summary("n1", &snapshot(), true)).unwrap();
    for left_out in ["network", "fs", "runtime", "rlimit"] {
        assert!(short["node"].get(left_out).is_none(), "{left_out}");
    }
    assert!(short["pods"][0].get("volume").is_none() && short["pods"][0]["containers"][0].get("rootfs").is_none());
    assert_eq!(short["pods"][0]["containers"][0]["memory"]["workingSetBytes"], 8 << 20);
}
