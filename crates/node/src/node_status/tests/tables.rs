//! Resources, conditions and patches, without any task.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan as _};
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_pet_host::machine::{Filesystem, Memory, Pids};
use serde_json::json;

use super::super::conditions::{self, Health, Pressure};
use super::super::machine::Readings;
use super::super::{patch, resources};
use crate::config::{NodeConfiguration, Signal, Threshold};

const GIB: u64 = 1 << 30;

fn readings() -> Readings {
    let disk =
        |capacity: u64, available: u64| Filesystem { capacity, available, used: capacity - available, inodes: 1000, inodes_free: 900 };
    Readings {
        cpus: Some(4),
        memory: Some(Memory { total: 8 * GIB, available: 4 * GIB, swap_total: 0, swap_free: 0 }),
        pids: Some(Pids { max: 1000, used: 100 }),
        nodefs: Some(disk(100 * GIB, 50 * GIB)),
        imagefs: Some(disk(200 * GIB, 100 * GIB)),
        huge_pages: vec![(2 << 20, 512), (1 << 30, 0)],
    }
}

fn text(resources: &BTreeMap<String, Quantity>) -> Vec<String> {
    resources.iter().map(|(name, quantity)| format!("{name}={}", quantity.0)).collect()
}

#[test]
fn allocatable_is_what_is_left_of_the_capacity() {
    let mut config = NodeConfiguration::defaults("/");
    let quantity = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
    config.system_reserved = [quantity("cpu", "500m"), quantity("memory", "1Gi")].into();
    config.kube_reserved = [quantity("cpu", "250m"), quantity("ephemeral-storage", "10Gi")].into();
    let capacity = resources::capacity(&readings(), 110);
    assert_eq!(text(&capacity), ["cpu=4", "ephemeral-storage=100Gi", "hugepages-1Gi=0", "hugepages-2Mi=1Gi", "memory=8Gi", "pods=110"]);
    // Memory: 8Gi - 1Gi - 100Mi (eviction) - 1Gi (huge pages); storage: 100Gi - 10Gi - 10 %.
    assert_eq!(
        text(&resources::allocatable(&capacity, &readings(), &config)),
        ["cpu=3250m", "ephemeral-storage=80Gi", "hugepages-1Gi=0", "hugepages-2Mi=1Gi", "memory=6044Mi", "pods=110"]
    );
    config.system_reserved = [quantity("memory", "1Ti")].into();
    let nothing_left = resources::allocatable(&capacity, &readings(), &config);
    assert_eq!(nothing_left["memory"].0, "0");
}

fn limits() -> BTreeMap<Signal, Threshold> {
    let mut limits = NodeConfiguration::defaults("/").eviction_hard;
    limits.insert(Signal::PidAvailable, Threshold::Percent(20.0));
    limits
}

struct Case {
    now: Timestamp,
    before: Vec<NodeCondition>,
    pressure: Pressure,
}

impl Case {
    fn new() -> Self {
        Self { now: "2026-01-01T00:00:00Z".parse().unwrap(), before: Vec::new(), pressure: Pressure::default() }
    }

    /// Computes, ten seconds later; returns type=status of what is True, and the events.
    fn step(&mut self, readings: &Readings, health: &Health) -> (Vec<String>, Vec<&'static str>) {
        self.now = self.now.checked_add(10.seconds()).unwrap();
        let transition = std::time::Duration::from_secs(300);
        let computed = conditions::compute(&self.before, readings, health, (&limits(), transition), &mut self.pressure, self.now);
        self.before = computed.conditions;
        let holding = self.before.iter().filter(|condition| condition.status == "True").map(|condition| condition.type_.clone()).collect();
        (holding, computed.events.into_iter().map(|(_, event)| event).collect())
    }
}

fn healthy() -> Health {
    Health { network: true, ..Health::default() }
}

#[test]
fn each_shortage_is_a_pressure() {
    let change = |change: &dyn Fn(&mut Readings)| {
        let mut readings = readings();
        change(&mut readings);
        readings
    };
    for (what, readings, pressure) in [
        ("memory", change(&|r| r.memory.as_mut().unwrap().available = 90 << 20), "MemoryPressure"),
        ("disk", change(&|r| r.nodefs.as_mut().unwrap().available = 9 * GIB), "DiskPressure"),
        ("inodes", change(&|r| r.nodefs.as_mut().unwrap().inodes_free = 40), "DiskPressure"),
        ("images' disk", change(&|r| r.imagefs.as_mut().unwrap().available = 29 * GIB), "DiskPressure"),
        ("processes", change(&|r| r.pids.as_mut().unwrap().used = 850), "PIDPressure"),
    ] {
        let (holding, _) = Case::new().step(&readings, &healthy());
        assert_eq!(holding, [pressure, "Ready"], "{what}");
    }
    // btrfs has no fixed number of inodes; a reading may fail.
    for readings in [
        change(&|r| {
            r.nodefs.as_mut().unwrap().inodes = 0;
            r.nodefs.as_mut().unwrap().inodes_free = 0;
        }),
        Readings { memory: None, pids: None, nodefs: None, imagefs: None, ..readings() },
    ] {
        assert_eq!(Case::new().step(&readings, &healthy()).0, ["Ready"]);
    }
}

#[test]
fn a_pressure_stays_for_its_transition_period_and_times_are_kept() {
    let mut case = Case::new();
    let (_, events) = case.step(&readings(), &healthy());
    assert_eq!(events, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
    let at_start = case.before[0].last_transition_time.clone();
    assert_eq!(case.step(&readings(), &healthy()).1, Vec::<&str>::new());
    assert_eq!(case.before[0].last_transition_time, at_start);
    assert_ne!(case.before[0].last_heartbeat_time, at_start);

    let mut short = readings();
    short.memory.as_mut().unwrap().available = 1;
    assert_eq!(case.step(&short, &healthy()).1, ["NodeHasInsufficientMemory"]);
    assert_ne!(case.before[0].last_transition_time, at_start);
    for _ in 0..29 {
        assert_eq!(case.step(&readings(), &healthy()).0, ["MemoryPressure", "Ready"]);
    }
    assert_eq!(case.step(&readings(), &healthy()), (vec!["Ready".to_owned()], vec!["NodeHasSufficientMemory"]));
}

#[test]
fn what_keeps_the_node_from_being_ready_is_said_as_the_kubelet_says_it() {
    let message = |health: &Health| {
        let mut case = Case::new();
        case.step(&readings(), health);
        case.before.last().unwrap().message.clone().unwrap()
    };
    let down = Health { runtime: Some("gone".into()), network: true, ..Health::default() };
    assert_eq!(message(&down), "container runtime is down: gone");
    let both = Health { runtime: Some("gone".into()), missing: vec!["cpu".into(), "memory".into()], network: true, cidr_conflict: None };
    assert_eq!(message(&both), "[container runtime is down: gone, missing node capacity for resources: cpu, memory]");

    let mut case = Case::new();
    case.step(&readings(), &healthy());
    assert_eq!(case.step(&readings(), &down).1, ["NodeNotReady"]);
    assert_eq!(case.step(&readings(), &healthy()).1, ["NodeReady"]);
}

fn status(value: serde_json::Value) -> NodeStatus {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_patch_holds_what_differs_and_nothing_of_others() {
    let condition = json!({ "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" });
    let foreign = json!({ "type": "Foreign", "status": "True" });
    let before = status(json!({
        "capacity": { "cpu": "4", "hugepages-2Mi": "0", "example.com/gpu": "2" },
        "conditions": [condition, foreign],
        "addresses": [{ "type": "InternalIP", "address": "10.0.0.1" }],
    }));
    let later = json!({ "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:05:00Z" });
    let mut now = before.clone();
    now.conditions = Some(vec![serde_json::from_value(later.clone()).unwrap()]);
    assert_eq!(patch::status(&before, &now, false), None);
    assert_eq!(patch::status(&before, &now, true), Some(json!({ "status": { "conditions": [later] } })));

    let ours = BTreeMap::from([("cpu".to_owned(), Quantity("8".into()))]);
    now.capacity = Some(patch::with_foreign(ours, before.capacity.as_ref()));
    now.addresses = Some(super::super::addresses::list(&["10.0.0.2".parse().unwrap()], &[], "a"));
    let body = patch::status(&before, &now, false).unwrap();
    assert_eq!(body["status"]["capacity"], json!({ "cpu": "8", "hugepages-2Mi": null }));
    let addresses =
        json!([{ "$patch": "replace" }, { "type": "InternalIP", "address": "10.0.0.2" }, { "type": "Hostname", "address": "a" }]);
    assert_eq!(body["status"]["addresses"], addresses);
}
