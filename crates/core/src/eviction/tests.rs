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
    let short = |resource| Shortage { resource, limit: 100 << 20, available: 96 << 10 };
    assert_eq!(
        message(short(Resource::Memory), &pod),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 96Ki. Container a was using 200Ki, request is 100Ki, \
         has larger consumption of memory. Container d was using 1Mi, request is 0, has larger consumption of memory. "
    );
    assert_eq!(
        message(Shortage { resource: Resource::Inodes, limit: 5000, available: 12 }, &pod),
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
