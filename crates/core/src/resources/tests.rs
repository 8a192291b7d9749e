use serde_json::{Value, json};

use super::*;

const GI: i64 = 1 << 30;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn container(name: &str, requests: Value, limits: Value) -> Value {
    json!({"name": name, "resources": {"requests": requests, "limits": limits}})
}

fn first(pod: &Pod) -> &k8s_openapi::api::core::v1::Container {
    &pod.spec.as_ref().unwrap().containers[0]
}

#[test]
fn qos_classes() {
    let both = json!({"cpu": "1", "memory": "1Gi"});
    for (containers, class) in [
        (json!([{"name": "a"}]), QosClass::BestEffort),
        (json!([container("a", json!({"cpu": "0"}), json!({}))]), QosClass::BestEffort),
        (json!([container("a", json!({"ephemeral-storage": "1Gi"}), json!({}))]), QosClass::BestEffort),
        (json!([container("a", both.clone(), both.clone())]), QosClass::Guaranteed),
        (json!([container("a", json!({"cpu": "1000m", "memory": "1024Mi"}), both.clone())]), QosClass::Guaranteed),
        (json!([container("a", json!({}), both.clone())]), QosClass::Guaranteed),
        (json!([container("a", both.clone(), json!({}))]), QosClass::Burstable),
        (json!([container("a", json!({"cpu": "1"}), json!({"cpu": "1"}))]), QosClass::Burstable),
        (json!([container("a", both.clone(), both.clone()), {"name": "b"}]), QosClass::Burstable),
    ] {
        assert_eq!(qos_class(&pod(json!({"containers": containers}))), class, "{containers}");
    }
    let init = pod(json!({"initContainers": [{"name": "i"}], "containers": [container("a", both.clone(), both.clone())]}));
    assert_eq!(qos_class(&init), QosClass::Burstable);
    let pod_level = pod(json!({"resources": {"requests": both, "limits": both}, "containers": [{"name": "a"}]}));
    assert_eq!(qos_class(&pod_level), QosClass::Guaranteed);
    let mut recorded = pod_level;
    recorded.status = serde_json::from_value(json!({"qosClass": "BestEffort"})).unwrap();
    assert_eq!(qos_class(&recorded), QosClass::BestEffort);
}

#[test]
fn requests_of_init_containers_and_sidecars() {
    // KEP-753's example of how they add up.
    let cpu = |name: &str, n: &str, always: bool| {
        let mut c = container(name, json!({"cpu": n}), json!({}));
        if always {
            c["restartPolicy"] = json!("Always");
        }
        c
    };
    let pod = pod(json!({
        "initContainers": [cpu("i1", "2", false), cpu("s1", "1", true), cpu("i2", "5", false), cpu("s2", "1", true)],
        "containers": [cpu("a", "1", false), cpu("b", "500m", false)],
        "overhead": {"cpu": "250m"},
    }));
    // i2 runs beside s1: 6; all running: 1 + 0.5 + 1 + 1 = 3.5.
    assert_eq!(pod_requests(&pod)["cpu"].to_string(), "6250m");
    assert!(pod_limits(&pod).is_empty());
}

#[test]
fn pod_level_values_replace_the_sum() {
    let pod = pod(json!({
        "resources": {"requests": {"cpu": "3", "ephemeral-storage": "9Gi"}, "limits": {"memory": "2Gi"}},
        "containers": [container("a", json!({"cpu": "1", "memory": "1Gi"}), json!({}))],
    }));
    let requests = pod_requests(&pod);
    assert_eq!((requests["cpu"].to_string(), requests["memory"].to_string()), ("3".into(), "1Gi".into()));
    assert!(!requests.contains_key("ephemeral-storage"));
    let limits = container_limits(&pod, first(&pod), 8 * GI);
    assert_eq!(limits.memory_limit, Some(2 * GI));
    assert_eq!(pod_cgroup(&pod).memory_limit, Some(2 * GI));
    assert_eq!(pod_cgroup(&pod).cpu_shares, 3072);
}

#[test]
fn cpu_conversions() {
    for (milli, shares, quota) in [
        (0, 2, None),
        (1, 2, Some(1000)),
        (10, 10, Some(1000)),
        (100, 102, Some(10_000)),
        (1000, 1024, Some(100_000)),
        (2500, 2560, Some(250_000)),
    ] {
        assert_eq!((cpu_shares(milli), cpu_quota(milli)), (shares, quota), "{milli}");
    }
    assert_eq!(cpu_shares(i64::MAX), 262_144);
    // From the tests of github.com/opencontainers/cgroups.
    for (shares, weight) in [(0, 0), (1, 1), (2, 1), (1024, 100), (3, 2), (262_143, 10_000), (262_144, 10_000), (1 << 40, 10_000)] {
        assert_eq!(cpu_weight(shares), weight, "{shares}");
    }
}

#[test]
fn container_and_pod_cgroups() {
    let pod = pod(json!({"containers": [
        container("a", json!({"cpu": "100m", "memory": "64Mi"}), json!({"cpu": "500m", "memory": "128Mi", "hugepages-2Mi": "4Mi"})),
        container("b", json!({}), json!({"cpu": "1"})),
    ]}));
    let a = container_limits(&pod, first(&pod), 4 * GI);
    assert_eq!((a.cpu_shares, a.cpu_quota, a.memory_limit), (102, Some(50_000), Some(128 << 20)));
    assert_eq!(a.hugepages, [("2MB".to_owned(), 4 << 20)].into());
    let b = container_limits(&pod, &pod.spec.as_ref().unwrap().containers[1], 4 * GI);
    assert_eq!((b.cpu_shares, b.cpu_quota, b.memory_limit), (1024, Some(100_000), None));
    // b has no memory limit: the pod must have none either.
    let cgroup = pod_cgroup(&pod);
    assert_eq!((cgroup.cpu_shares, cgroup.cpu_quota, cgroup.memory_limit), (1126, Some(150_000), None));
    let nothing = self::pod(json!({"containers": [{"name": "a"}]}));
    assert_eq!(pod_cgroup(&nothing).cpu_shares, 2);
    assert_eq!(container_limits(&nothing, first(&nothing), GI).cpu_shares, 2);
}

#[test]
fn hugepage_names() {
    for (resource, unit) in [
        ("hugepages-2Mi", Some("2MB")),
        ("hugepages-1Gi", Some("1GB")),
        ("hugepages-64Ki", Some("64KB")),
        ("memory", None),
        ("hugepages-x", None),
        ("hugepages-0", None),
    ] {
        assert_eq!(hugepage_unit(resource).as_deref(), unit, "{resource}");
    }
}

#[test]
fn oom_scores() {
    let request = |memory: &str| pod(json!({"containers": [container("a", json!({"memory": memory}), json!({}))]}));
    let score = |pod: &Pod, capacity| oom_score_adj(pod, first(pod), capacity);
    // The values of the kubelet's own test.
    assert_eq!(score(&pod(json!({"containers": [{"name": "a"}]})), 4_000_000_000), 1000);
    assert_eq!(score(&request("0"), 4_000_000_000), 1000);
    assert_eq!(score(&request("10M"), 4_000_000_000), 998);
    assert_eq!(score(&request("2M"), 40_000_000_000), 999);
    assert_eq!(score(&request("3200M"), 4_000_000_000), 200);
    assert_eq!(score(&request("8000M"), 4_000_000_000), 3);
    let both = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(score(&pod(json!({"containers": [container("a", both.clone(), both)]})), 4 * GI), -997);
    let mut critical = request("10M");
    critical.spec.as_mut().unwrap().priority_class_name = Some("system-node-critical".into());
    critical.spec.as_mut().unwrap().priority = Some(2_000_001_000);
    assert_eq!(score(&critical, GI), -997);
    assert_eq!(score(&request("1Gi"), 0), 3);
}

#[test]
fn a_sidecar_outlives_what_it_serves() {
    let mut sidecar = container("s", json!({"memory": "1M"}), json!({}));
    sidecar["restartPolicy"] = json!("Always");
    let pod = pod(json!({"initContainers": [sidecar], "containers": [container("a", json!({"memory": "1000M"}), json!({}))]}));
    let init = &pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap()[0];
    assert_eq!(oom_score_adj(&pod, init, 4_000_000_000), 750);
}

#[test]
fn unclaimed_pod_memory_is_shared() {
    let pod = pod(json!({
        "resources": {"requests": {"memory": "1000M"}},
        "containers": [container("a", json!({"memory": "200M"}), json!({})), {"name": "b"}],
    }));
    // (1000 - 200) / 2 = 400 each: a 600 of 4000, b 400 of 4000.
    assert_eq!(oom_score_adj(&pod, first(&pod), 4_000_000_000), 850);
}
