use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

fn using(uid: &str, priority: i32, used: Option<u64>, requested: u64) -> PodUse {
    PodUse { uid: PodUid::new(uid), priority, critical: false, used, requested, containers: Vec::new() }
}

/// The pods in the order in which they go.
fn order_of(resource: Resource, mut pods: Vec<PodUse>) -> Vec<String> {
    let mut gone = Vec::new();
    while let Some(next) = first_to_go(resource, &pods).map(|pod| pod.uid.clone()) {
        pods.retain(|pod| pod.uid != next);
        gone.push(next.to_string());
    }
    gone
}

#[test]
fn who_exceeds_what_was_asked_for_goes_before_lower_priorities() {
    let pods = || {
        vec![
            using("modest", 0, Some(90), 100),
            using("important", 10, Some(200), 100),
            using("greedy", 0, Some(300), 100),
            using("large", 0, Some(1250), 1000),
            using("unmeasured", 10, None, 0),
            PodUse { critical: true, ..using("critical", 0, Some(9999), 0) },
        ]
    };
    for resource in [Resource::Memory, Resource::EphemeralStorage] {
        assert_eq!(order_of(resource, pods()), ["unmeasured", "large", "greedy", "important", "modest"], "{resource}");
    }
    assert_eq!(order_of(Resource::Pids, pods()), ["large", "greedy", "modest", "unmeasured", "important"]);
}

#[test]
fn memory_is_seen_to_first() {
    let all = [Resource::Pids, Resource::Inodes, Resource::Memory, Resource::EphemeralStorage];
    assert_eq!(all.into_iter().min(), Some(Resource::Memory));
}

#[test]
fn messages_are_in_the_kubelets_words() {
    let container = |name: &str, used, requested: &str| ContainerUse { name: name.into(), used, requested: requested.parse().unwrap() };
    let mut pod = using("u", 0, Some(1), 0);
    pod.containers = vec![
        container("a", Some(204_800), "100Ki"),
        container("b", Some(100), "1Mi"),
        container("c", None, "0"),
        container("d", Some(1 << 20), "0"),
    ];
    let short = |signal, limit, available| Shortage { signal, limit, available, grace: Duration::ZERO };
    assert_eq!(
        message(short(Signal::MemoryAvailable, 100 << 20, 96 << 10), &pod),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 96Ki. Container a was using 200Ki, request is 100Ki, \
         has larger consumption of memory. Container d was using 1Mi, request is 0, has larger consumption of memory. "
    );
    assert_eq!(
        message(short(Signal::NodefsInodesFree, 5000, 12), &pod),
        "The node was low on resource: inodes. Threshold quantity: 5k, available: 12. "
    );
    assert_eq!(threshold_met(Resource::EphemeralStorage), "Attempting to reclaim ephemeral-storage");
}

fn limited_pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {
            "containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "1Mi"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "2Mi"}}},
            ],
            "initContainers": [
                {"name": "once", "resources": {"limits": {"ephemeral-storage": "1Ki"}}},
                {"name": "stays", "restartPolicy": "Always", "resources": {"limits": {"ephemeral-storage": "1Mi"}}},
            ],
            "volumes": [
                {"name": "disk", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "free", "emptyDir": {}},
                {"name": "zero", "emptyDir": {"sizeLimit": "0"}},
            ],
        },
    }))
    .unwrap()
}

#[test]
fn a_pod_that_exceeds_its_own_limits_is_told_which() {
    let pod = limited_pod();
    assert!(has_storage_limits(&pod));
    assert!(!has_storage_limits(&Pod::default()));
    let used = |volumes: &[(&str, u64)], containers: &[(&str, u64)], total: u64| {
        let map = |list: &[(&str, u64)]| list.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        storage_excess(&pod, &StorageUse { volumes: map(volumes), containers: map(containers), total }).map(|excess| excess.message)
    };
    let mebi = 1 << 20;
    assert_eq!(used(&[("disk", mebi), ("memory", 9 * mebi), ("free", 9 * mebi), ("zero", 9 * mebi)], &[("a", mebi)], 4 * mebi), None);
    assert_eq!(
        used(&[("disk", mebi + 1)], &[("a", 9 * mebi)], 9 * mebi).as_deref(),
        Some("Usage of EmptyDir volume \"disk\" exceeds the limit \"1Mi\". ")
    );
    assert_eq!(
        used(&[], &[("a", 9 * mebi)], 4 * mebi + 1).as_deref(),
        Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ")
    );
    for name in ["a", "stays"] {
        let expected = format!("Container {name} exceeded its local ephemeral storage limit \"1Mi\". ");
        assert_eq!(used(&[], &[(name, mebi + 1)], 2 * mebi), Some(expected));
    }
    assert_eq!(used(&[], &[("once", 9 * mebi), ("b", mebi + 1)], 2 * mebi), None);
}

const SECOND: Duration = Duration::from_secs(1);

fn limit(signal: Signal, threshold: &str, grace: u64, reclaim: Option<&str>) -> Limit {
    Limit {
        signal,
        threshold: threshold.parse().unwrap(),
        grace: SECOND * u32::try_from(grace).unwrap(),
        reclaim: reclaim.map(|text| text.parse().unwrap()),
    }
}

/// A node of which one thing is measured, out of 1000.
struct Node {
    pressure: Pressure,
    signal: Signal,
}

impl Node {
    fn new(limits: Vec<Limit>) -> Self {
        let signal = limits[0].signal;
        Self { pressure: Pressure::new(limits, SECOND * 300), signal }
    }

    /// The conditions, and the limits that pods have to go for, at a moment.
    fn at(&mut self, second: u32, available: u64) -> (Vec<&'static str>, Vec<u64>) {
        let look = self.pressure.look(&Levels::from([(self.signal, Level { available, capacity: 1000 })]), SECOND * second);
        (look.conditions.into_iter().collect(), look.shortages.iter().map(|shortage| shortage.limit).collect())
    }
}

const NOTHING: Vec<u64> = Vec::new();
const PRESSED: &[&str] = &["MemoryPressure"];

#[test]
fn a_soft_limit_is_put_up_with_for_its_grace_period() {
    let mut node = Node::new(vec![limit(Signal::MemoryAvailable, "10%", 30, None)]);
    assert_eq!(node.at(0, 100), (vec![], vec![]));
    // The condition holds at once; pods go when the limit was met all the time.
    assert_eq!(node.at(10, 99), (PRESSED.to_vec(), vec![]));
    assert_eq!(node.at(39, 99), (PRESSED.to_vec(), vec![]));
    assert_eq!(node.at(40, 99), (PRESSED.to_vec(), vec![100]));
    // A moment above it, and the time begins anew.
    assert_eq!(node.at(50, 100), (PRESSED.to_vec(), vec![]));
    assert_eq!(node.at(60, 99), (PRESSED.to_vec(), vec![]));
    assert_eq!(node.at(89, 99), (PRESSED.to_vec(), vec![]));
    assert_eq!(node.at(90, 99), (PRESSED.to_vec(), vec![100]));
    // The condition stays for its transition period.
    assert_eq!(node.at(100, 500), (PRESSED.to_vec(), vec![]));
    assert_eq!(node.at(389, 500), (PRESSED.to_vec(), vec![]));
    assert_eq!(node.at(390, 500), (vec![], vec![]));
}

#[test]
fn hard_and_soft_limits_of_one_signal_are_watched_apart() {
    let soft = limit(Signal::MemoryAvailable, "200", 30, None);
    let mut node = Node::new(vec![soft, limit(Signal::MemoryAvailable, "100", 0, None)]);
    assert_eq!(node.at(0, 150).1, NOTHING);
    assert_eq!(node.at(10, 50).1, [100]);
    assert_eq!(node.at(20, 150).1, NOTHING);
    assert_eq!(node.at(30, 150).1, [200]);
    // The hard one comes first: there is no time.
    assert_eq!(node.at(40, 50).1, [100, 200]);
}

#[test]
fn pods_go_until_the_minimum_is_reclaimed_but_not_before_the_limit_is_met() {
    let mut node =
        Node::new(vec![limit(Signal::NodefsAvailable, "100", 0, Some("50")), limit(Signal::NodefsAvailable, "20%", 60, Some("5%"))]);
    assert_eq!(node.at(0, 210), (vec![], vec![]));
    assert_eq!(node.at(10, 99), (vec!["DiskPressure"], vec![100]));
    assert_eq!(node.at(20, 149).1, [100]);
    assert_eq!(node.at(30, 150).1, NOTHING);
    assert_eq!(node.at(70, 149).1, [200]);
    // 20 % and 5 % more.
    assert_eq!(node.at(80, 249).1, [200]);
    assert_eq!(node.at(90, 250).1, NOTHING);
    assert_eq!(node.at(100, 249).1, NOTHING);
}

#[test]
fn enough_means_above_all_limits_by_what_has_to_be_reclaimed() {
    let limits = vec![limit(Signal::NodefsAvailable, "100", 0, Some("50")), limit(Signal::ImagefsAvailable, "10%", 60, None)];
    let mut pressure = Pressure::new(limits, SECOND);
    let mut enough = |nodefs, imagefs| {
        let level = |available| Level { available, capacity: 1000 };
        let levels = [(Signal::NodefsAvailable, level(nodefs)), (Signal::ImagefsAvailable, level(imagefs))];
        pressure.look(&levels.into(), Duration::ZERO).enough
    };
    assert!(enough(150, 100));
    assert!(!enough(149, 100));
    // Also of a soft limit that is still put up with.
    assert!(!enough(150, 99));
}

#[test]
fn what_is_not_measured_or_not_limited_is_no_shortage() {
    let mut pressure =
        Pressure::new(vec![limit(Signal::NodefsInodesFree, "5%", 0, None), limit(Signal::PidAvailable, "1", 0, None)], SECOND);
    let look = pressure.look(&Levels::from([(Signal::NodefsInodesFree, Level { available: 0, capacity: 0 })]), Duration::ZERO);
    assert_eq!(look, Look { enough: true, ..Look::default() });
}

#[test]
fn memory_comes_before_disks_and_disks_before_processes() {
    let signals = [Signal::PidAvailable, Signal::ImagefsInodesFree, Signal::ImagefsAvailable, Signal::MemoryAvailable];
    let levels = signals.map(|signal| (signal, Level { available: 1, capacity: 1000 }));
    let mut pressure = Pressure::new(signals.map(|signal| limit(signal, "2", 0, None)).to_vec(), SECOND);
    let look = pressure.look(&levels.into(), Duration::ZERO);
    let order: Vec<_> = look.shortages.iter().map(|shortage| shortage.signal).collect();
    assert_eq!(order, [Signal::MemoryAvailable, Signal::ImagefsAvailable, Signal::ImagefsInodesFree, Signal::PidAvailable]);
    assert_eq!(look.conditions.into_iter().collect::<Vec<_>>(), ["DiskPressure", "MemoryPressure", "PIDPressure"]);
}

#[test]
fn a_pod_has_its_own_time_at_most_at_a_soft_limit_and_none_at_a_hard_one() {
    let short = |grace| Shortage { signal: Signal::MemoryAvailable, limit: 2, available: 1, grace };
    for (own, most, soft) in [(Some(30), 60, 30), (Some(90), 60, 60), (None, 60, 60), (Some(30), 0, 0)] {
        assert_eq!(short(SECOND).pod_grace(own, most), soft, "{own:?} {most}");
        assert_eq!(short(Duration::ZERO).pod_grace(own, most), 1, "{own:?} {most}");
    }
}
