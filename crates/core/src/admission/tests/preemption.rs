//! Who goes so that a critical pod has room.

use super::*;

const CRITICAL: i32 = 2_000_000_000;

/// Burstable, unless it asks for nothing.
fn burstable(uid: &str, requests: Value) -> Pod {
    requesting(uid, requests)
}

fn guaranteed(uid: &str, cpu: &str, memory: &str) -> Pod {
    let amounts = json!({"cpu": cpu, "memory": memory});
    let container = json!({"name": "c", "resources": {"requests": amounts, "limits": amounts}});
    with(json!({"uid": uid}), json!({"containers": [container]}))
}

fn prioritized(mut pod: Pod, priority: i32) -> Pod {
    pod.spec.as_mut().unwrap().priority = Some(priority);
    pod
}

fn critical(requests: Value) -> Pod {
    prioritized(requesting("u1", requests), CRITICAL)
}

/// Who goes, and for what; there are places enough.
fn preempted(pod: &Pod, others: &[Pod]) -> Result<(Vec<String>, String), (String, String)> {
    preempted_with(pod, others, 10)
}

fn preempted_with(pod: &Pod, others: &[Pod], places: u32) -> Result<(Vec<String>, String), (String, String)> {
    let others: Vec<&Pod> = others.iter().collect();
    let mut node = node();
    node.allocatable.insert("pods".into(), from(json!(places.to_string())));
    match admit(pod, &node, &others, &AdmissionConfig::default()) {
        Ok(Admission::Fits) => Ok((Vec::new(), String::new())),
        Ok(Admission::After(preemption)) => Ok((preemption.victims.iter().map(ToString::to_string).collect(), preemption.resource)),
        Err(rejection) => Err((rejection.reason, rejection.message)),
    }
}

fn victims(pod: &Pod, others: &[Pod]) -> Vec<String> {
    preempted(pod, others).unwrap().0
}

#[test]
fn pods_that_ask_for_least_go_first_and_only_as_many_as_needed() {
    let others =
        [guaranteed("guaranteed", "1", "10Mi"), burstable("large", json!({"cpu": "2"})), burstable("small", json!({"cpu": "500m"}))];
    // 3.5 of 4 are taken.
    assert_eq!(victims(&critical(json!({"cpu": "500m"})), &others), [""; 0]);
    assert_eq!(preempted(&critical(json!({"cpu": "1"})), &others), Ok((vec!["small".into()], "cpu".into())));
    // 600m are missing: the one that is enough, not two.
    assert_eq!(victims(&critical(json!({"cpu": "1100m"})), &others), ["large"]);
    assert_eq!(victims(&critical(json!({"cpu": "3"})), &others), ["large", "small"]);
    assert_eq!(victims(&critical(json!({"cpu": "4"})), &others), ["large", "small", "guaranteed"]);
}

#[test]
fn several_resources_count_alike() {
    let others = [
        burstable("cpu", json!({"cpu": "2"})),
        burstable("memory", json!({"memory": "500Mi"})),
        burstable("both", json!({"cpu": "1900m", "memory": "500Mi"})),
    ];
    assert_eq!(preempted(&critical(json!({"cpu": "2", "memory": "400Mi"})), &others), Ok((vec!["both".into()], "cpu".into())));
}

#[test]
fn equals_are_told_apart_by_memory_then_cpu_then_the_last() {
    let pods = |first: Value, second: Value| {
        [burstable("a", first), burstable("b", second), burstable("rest", json!({"cpu": "2", "memory": "3Mi"}))]
    };
    let pod = critical(json!({"cpu": "1"}));
    assert_eq!(victims(&pod, &pods(json!({"cpu": "1", "memory": "1Mi"}), json!({"cpu": "1", "memory": "2Mi"}))), ["a"]);
    assert_eq!(victims(&pod, &pods(json!({"cpu": "1", "memory": "2Mi"}), json!({"cpu": "1", "memory": "1Mi"}))), ["b"]);
    assert_eq!(victims(&pod, &pods(json!({"cpu": "1"}), json!({"cpu": "1"}))), ["b"]);
}

#[test]
fn a_place_is_made_by_a_pod_that_asks_for_nothing() {
    let others = [guaranteed("guaranteed", "1", "10Mi"), burstable("nothing", json!({})), burstable("some", json!({"cpu": "1m"}))];
    let pod = critical(json!({"cpu": "1"}));
    assert_eq!(preempted_with(&pod, &others, 4).unwrap().0, [""; 0]);
    assert_eq!(preempted_with(&pod, &others, 3), Ok((vec!["nothing".into()], "pods".into())));
}

#[test]
fn only_lesser_pods_go() {
    let others = [
        prioritized(burstable("critical", json!({"cpu": "3500m"})), CRITICAL),
        prioritized(burstable("other", json!({"cpu": "100m"})), 1000),
    ];
    let pod = critical(json!({"cpu": "1"}));
    let nobody = "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: \
                  no set of running pods found to reclaim resources: [(res: cpu, q: 500), ]";
    assert_eq!(preempted(&pod, &others), Err(("UnexpectedAdmissionError".into(), nobody.into())));
    // A higher priority is enough, also among critical ones.
    assert_eq!(victims(&prioritized(pod, CRITICAL + 1000), &others), ["critical"]);
    // A static pod has none, and goes for nobody.
    let mut fixed = burstable("static", json!({"cpu": "3500m"}));
    fixed.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    assert!(preempted(&critical(json!({"cpu": "1"})), &[fixed.clone()]).is_err());
    let mut pod = fixed;
    pod.metadata.uid = Some("u1".into());
    assert_eq!(victims(&pod, &[burstable("plain", json!({"cpu": "1"}))]), ["plain"]);
}

#[test]
fn pods_that_are_not_critical_push_nobody_out() {
    let others = [burstable("a", json!({"cpu": "4"}))];
    let pod = prioritized(requesting("u1", json!({"cpu": "1"})), CRITICAL - 1);
    assert_eq!(preempted(&pod, &others).unwrap_err().0, "OutOfcpu");
}

#[test]
fn nobody_goes_for_a_pod_that_would_not_come_all_the_same() {
    let others = [burstable("a", json!({"cpu": "4"}))];
    let mut pod = critical(json!({"cpu": "1"}));
    pod.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "b".to_owned())].into());
    assert_eq!(preempted(&pod, &others), Err((NO_MATCH.0.into(), NO_MATCH.1.into())));
}
