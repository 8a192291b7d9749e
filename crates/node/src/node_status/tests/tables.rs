//! Resources, conditions and patches, without any task.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_pet_core::eviction::Pressure;
use kube_pet_host::machine::{Filesystem, Memory, Pids};
use serde_json::json;

use super::super::conditions::{self, Health};
use super::super::machine::Readings;
use super::super::{patch, pressure, resources};
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

struct Case {
    now: Timestamp,
    before: Vec<NodeCondition>,
}

impl Case {
    fn new() -> Self {
        Self { now: "2026-01-01T00:00:00Z".parse().unwrap(), before: Vec::new() }
    }

    /// Computes, ten seconds later; returns the types of what is True, and the events.
    fn step(&mut self, pressures: &[&'static str], health: &Health) -> (Vec<String>, Vec<&'static str>) {
        self.now = self.now.checked_add(10.seconds()).unwrap();
        let pressures: BTreeSet<_> = pressures.iter().copied().collect();
        let computed = conditions::compute(&self.before, &pressures, health, self.now);
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
    let mut config = NodeConfiguration::defaults("/");
    config.eviction_hard.insert(Signal::PidAvailable, Threshold::Percent(20.0));
    let conditions = |readings: &Readings| -> Vec<_> {
        let mut pressure = Pressure::new(config.eviction_limits(), Duration::ZERO);
        pressure.look(&pressure::levels(readings), Duration::ZERO).conditions.into_iter().collect()
    };
    for (what, readings, expected) in [
        ("memory", change(&|r| r.memory.as_mut().unwrap().available = 90 << 20), "MemoryPressure"),
        ("disk", change(&|r| r.nodefs.as_mut().unwrap().available = 9 * GIB), "DiskPressure"),
        ("inodes", change(&|r| r.nodefs.as_mut().unwrap().inodes_free = 40), "DiskPressure"),
        ("images' disk", change(&|r| r.imagefs.as_mut().unwrap().available = 29 * GIB), "DiskPressure"),
        ("processes", change(&|r| r.pids.as_mut().unwrap().used = 850), "PIDPressure"),
    ] {
        assert_eq!(conditions(&readings), [expected], "{what}");
    }
    // btrfs has no fixed number of inodes; a reading may fail.
    for readings in [
        change(&|r| {
            r.nodefs.as_mut().unwrap().inodes = 0;
            r.nodefs.as_mut().unwrap().inodes_free = 0;
        }),
        Readings { memory: None, pids: None, nodefs: None, imagefs: None, ..readings() },
    ] {
        assert_eq!(conditions(&readings), [""; 0]);
    }
}

#[test]
fn a_pressure_is_a_condition_and_an_event_and_times_are_kept() {
    let mut case = Case::new();
    let (holding, events) = case.step(&[], &healthy());
    assert_eq!((holding, events.len()), (vec!["Ready".to_owned()], 3));
    assert_eq!(events, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
    let at_start = case.before[0].last_transition_time.clone();
    assert_eq!(case.step(&[], &healthy()).1, Vec::<&str>::new());
    assert_eq!(case.before[0].last_transition_time, at_start);
    assert_ne!(case.before[0].last_heartbeat_time, at_start);

    let (holding, events) = case.step(&["MemoryPressure"], &healthy());
    assert_eq!((holding, events), (vec!["MemoryPressure".into(), "Ready".into()], vec!["NodeHasInsufficientMemory"]));
    assert_ne!(case.before[0].last_transition_time, at_start);
    assert_eq!(case.step(&[], &healthy()), (vec!["Ready".to_owned()], vec!["NodeHasSufficientMemory"]));
}

#[test]
fn what_keeps_the_node_from_being_ready_is_said_as_the_kubelet_says_it() {
    let message = |health: &Health| {
        let mut case = Case::new();
        case.step(&[], health);
        case.before.last().unwrap().message.clone().unwrap()
    };
    let down = Health { runtime: Some("gone".into()), network: true, ..Health::default() };
    assert_eq!(message(&down), "container runtime is down: gone");
    let both = Health { runtime: Some("gone".into()), missing: vec!["cpu".into(), "memory".into()], network: true, ..Health::default() };
    assert_eq!(message(&both), "[container runtime is down: gone, missing node capacity for resources: cpu, memory]");
    let going = Health { shutting_down: true, ..healthy() };
    assert_eq!(message(&going), "node is shutting down");
    let all = "[container runtime is down: gone, node is shutting down, missing node capacity for resources: cpu, memory]";
    assert_eq!(message(&Health { shutting_down: true, ..both }), all);

    let mut case = Case::new();
    case.step(&[], &healthy());
    assert_eq!(case.step(&[], &down).1, ["NodeNotReady"]);
    assert_eq!(case.step(&[], &healthy()).1, ["NodeReady"]);
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
