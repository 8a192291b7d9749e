use serde_json::{Value, json};

use super::*;

fn pod(spec: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap()
}

fn c(name: &str, requests: &Value, limits: &Value) -> Value {
    json!({"name": name, "resources": {"requests": requests, "limits": limits}})
}

#[test]
fn classes() {
    let class = |spec: &Value| qos_class(&pod(spec)).as_str();
    let full = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(class(&json!({"containers": [{"name": "a"}]})), "BestEffort");
    assert_eq!(class(&json!({"containers": [c("a", &full, &full)]})), "Guaranteed");
    assert_eq!(class(&json!({"containers": [c("a", &json!({}), &full)]})), "Guaranteed");
    assert_eq!(class(&json!({"containers": [c("a", &json!({"cpu": "1000m", "memory": "1024Mi"}), &full)]})), "Guaranteed");
    assert_eq!(class(&json!({"containers": [c("a", &full, &full), {"name": "b"}]})), "Burstable");
    assert_eq!(class(&json!({"containers": [c("a", &json!({"cpu": "1m"}), &json!({}))]})), "Burstable");
    assert_eq!(class(&json!({"containers": [c("a", &full, &full)], "initContainers": [{"name": "i"}]})), "Burstable");
}

#[test]
fn a_pod_counts_for_its_containers_or_its_largest_init_container() {
    let p = pod(&json!({
        "containers": [c("a", &json!({"cpu": "1"}), &json!({})), c("b", &json!({"cpu": "500m"}), &json!({}))],
        "initContainers": [c("i", &json!({"cpu": "2"}), &json!({}))],
        "overhead": {"cpu": "100m"},
    }));
    assert_eq!(pod_requests(&p)["cpu"].milli_value(), 2100);
}

#[test]
fn cgroup_values() {
    assert_eq!([cpu_shares(0), cpu_shares(100), cpu_shares(1000), cpu_shares(10_000_000)], [2, 102, 1024, 262_144]);
    assert_eq!([cpu_weight(2), cpu_weight(102), cpu_weight(1024), cpu_weight(262_144)], [1, 17, 100, 10_000]);
    let p = pod(&json!({"containers": [c("a", &json!({"cpu": "100m"}), &json!({"cpu": "200m", "memory": "64Mi"})), {"name": "b"}]}));
    let spec = p.spec.as_ref().unwrap();
    let a = container_cgroup(&spec.containers[0]);
    assert_eq!((a.cpu_shares, a.cpu_quota, a.memory_limit), (Some(102), Some(20_000), Some(64 << 20)));
    let whole = pod_cgroup(&p, Some(100));
    assert_eq!((whole.cpu_quota, whole.memory_limit, whole.pids_limit), (None, None, Some(100)), "b is unlimited, so the pod is");
    assert_eq!(pod_cgroup_path("/kubepods/", &p), "/kubepods/burstable/podu");
}

#[test]
fn oom_scores() {
    let gi = 1_i64 << 30;
    let score = |requests: &Value, limits: &Value| {
        let p = pod(&json!({"containers": [c("a", requests, limits)]}));
        oom_score_adj(&p, &p.spec.as_ref().unwrap().containers[0], 8 * gi)
    };
    let full = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(score(&full, &full), -997);
    assert_eq!(score(&json!({}), &json!({})), 1000);
    assert_eq!(score(&json!({"memory": "4Gi"}), &json!({})), 500);
    assert_eq!(score(&json!({"cpu": "1"}), &json!({})), 999);
    assert_eq!(score(&json!({"memory": "8Gi"}), &json!({})), 3);
}
