use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::ids::ContainerId;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "generation": 2}, "spec": spec})).unwrap()
}

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

/// Two containers with these resources, guaranteed.
fn two(a: (&str, &str), b: (&str, &str)) -> Pod {
    pod(json!({"containers": [
        {"name": "a", "resources": resources(a.0, a.1)}, {"name": "b", "resources": resources(b.0, b.1)},
    ]}))
}

/// The steps from one pod to the other, in short.
fn steps(from: &Pod, to: &Pod) -> (Vec<String>, Vec<MemoryCheck>) {
    let ids = ["id-a", "id-b"].map(ContainerId::from);
    let containers = &to.spec.as_ref().unwrap().containers;
    let updates: Vec<_> = containers
        .iter()
        .zip(&from.spec.as_ref().unwrap().containers)
        .zip(&ids)
        .map(|((new, old), id)| Update { id, container: new, from: ContainerAmounts::of(from, old), to: ContainerAmounts::of(to, new) })
        .collect();
    let was = PodAmounts::of(from);
    let resizing = Resizing::plan(to, &updates, Some((was, was.towards(PodAmounts::of(to)))));
    let mut actuated = Actuated { pod: Some(was), ..Actuated::default() };
    resizing.steps.iter().for_each(|step| actuated.apply(step));
    assert_eq!(actuated.pod, Some(was.towards(PodAmounts::of(to))));
    for update in updates.iter().filter(|update| update.from != update.to) {
        assert_eq!(actuated.containers[update.id], update.to);
    }
    let text = |step: &ResizeStep| match step {
        ResizeStep::PodMemory { limit } => format!("pod memory {}", limit >> 20),
        ResizeStep::PodCpuQuota { quota } => format!("pod quota {quota}"),
        ResizeStep::PodCpuShares { shares } => format!("pod shares {shares}"),
        ResizeStep::ContainerMemory { id, limit, .. } => format!("{id} memory {:?}", limit.map(|limit| limit >> 20)),
        ResizeStep::ContainerCpu { id, shares, quota, .. } => format!("{id} cpu {shares} {quota:?}"),
    };
    (resizing.steps.iter().map(text).collect(), resizing.checks)
}

#[test]
fn a_pod_grows_before_its_containers_and_shrinks_after_them() {
    let (small, large) = (two(("100m", "100Mi"), ("100m", "100Mi")), two(("200m", "150Mi"), ("100m", "100Mi")));
    assert_eq!(
        steps(&small, &large).0,
        ["pod memory 250", "id-a memory Some(150)", "pod quota 30000", "pod shares 307", "id-a cpu 204 Some(20000)"]
    );
    let (down, checks) = steps(&large, &small);
    assert_eq!(down, ["id-a memory Some(100)", "pod memory 200", "id-a cpu 102 Some(10000)", "pod shares 204", "pod quota 20000"]);
    let limits: Vec<_> = checks.iter().map(|check| (check.container.is_some(), check.limit >> 20)).collect();
    assert_eq!(limits, [(false, 200), (true, 100)]);
}

#[test]
fn containers_that_shrink_come_first() {
    let from = two(("100m", "100Mi"), ("300m", "300Mi"));
    let to = two(("200m", "200Mi"), ("200m", "200Mi"));
    assert_eq!(
        steps(&from, &to).0,
        ["id-b memory Some(200)", "id-a memory Some(200)", "id-b cpu 204 Some(20000)", "id-a cpu 204 Some(20000)"]
    );
}

#[test]
fn requests_alone_and_limits_that_come() {
    let burstable =
        |a: Value| pod(json!({"containers": [{"name": "a", "resources": a}, {"name": "b", "resources": resources("1", "1Gi")}]}));
    let requests = burstable(json!({"requests": {"cpu": "100m", "memory": "10Mi"}}));
    // The kernel knows no request of memory: what is given of it is only noted.
    let more = burstable(json!({"requests": {"cpu": "200m", "memory": "20Mi"}}));
    assert_eq!(steps(&requests, &more).0, ["id-a memory None", "pod shares 1228", "id-a cpu 204 None"]);
    // A new limit shrinks what was without one, of the pod too.
    let limited = burstable(json!({"requests": {"cpu": "100m", "memory": "10Mi"}, "limits": {"cpu": "500m", "memory": "50Mi"}}));
    let (added, checks) = steps(&requests, &limited);
    assert_eq!(added, ["id-a memory Some(50)", "pod memory 1074", "id-a cpu 102 Some(50000)", "pod quota 150000"]);
    assert_eq!(checks.len(), 2);
}

#[test]
fn a_limit_of_the_pod_alone_is_its_containers_too() {
    let with = |cpu: &str| {
        pod(json!({"resources": {"limits": {"cpu": cpu}, "requests": {"cpu": "100m"}}, "containers": [{"name": "a"}, {"name": "b"}]}))
    };
    let (found, _) = steps(&with("1"), &with("2"));
    assert_eq!(found, ["pod quota 200000", "id-a cpu 2048 Some(200000)", "id-b cpu 2048 Some(200000)"]);
}

#[test]
fn what_asks_for_a_restart() {
    let policy = |cpu: &str, memory: &str| json!([{"resourceName": "cpu", "restartPolicy": cpu}, {"resourceName": "memory", "restartPolicy": memory}]);
    let amounts = |cpu: i64, memory: i64| ContainerAmounts { cpu_request: cpu, cpu_limit: 500, memory_request: 1, memory_limit: memory };
    let (yes, no) = ("RestartContainer", "NotRequired");
    for (policies, to, restarts) in [
        (policy(no, no), amounts(2, 2), false),
        (policy(yes, no), amounts(2, 1), true),
        (policy(yes, no), amounts(1, 2), false),
        (policy(no, yes), amounts(1, 2), true),
        (policy(no, yes), amounts(2, 1), false),
        (json!([]), amounts(2, 2), false),
    ] {
        let container = serde_json::from_value(json!({"name": "a", "resizePolicy": policies})).unwrap();
        assert_eq!(amounts(1, 1).restarts(&to, &container), restarts, "{container:?} {to}");
    }
}

#[test]
fn amounts_as_text() {
    let amounts = ContainerAmounts { cpu_request: 100, cpu_limit: 0, memory_request: 1 << 40, memory_limit: 7 };
    assert_eq!(amounts.to_string(), "100/0/1099511627776/7");
    assert_eq!(amounts.to_string().parse(), Ok(amounts));
    for bad in ["", "1/2/3", "1/2/3/4/5", "a/b/c/d"] {
        assert!(bad.parse::<ContainerAmounts>().is_err(), "{bad}");
    }
}

#[test]
fn an_allocation_stands_in_for_the_spec_until_another_is_given() {
    let (before, after) = (two(("100m", "1Mi"), ("1", "1Mi")), two(("200m", "1Mi"), ("1", "1Mi")));
    let allocation = Allocation::of(&before);
    assert!(!allocation.differs(&before) && allocation.differs(&after));
    let mut given = after.clone();
    allocation.apply(&mut given);
    assert_eq!(given, before);
    let kept = serde_json::to_string(&allocation).unwrap();
    assert_eq!(serde_json::from_str::<Allocation>(&kept).unwrap(), allocation);
}

#[test]
fn what_is_written_down_again() {
    let pod = |quota| Some(PodAmounts { cpu_shares: 2, cpu_quota: quota, memory_limit: None });
    let of = |pod| Actuated { pod, ..Actuated::default() };
    assert!(!of(None).is_outdated(&of(pod(None))), "each pod's start would cost a write");
    assert!(of(pod(None)).is_outdated(&of(pod(Some(1)))));
    let mut restarts = of(None);
    restarts.restarts.insert("c".into());
    assert!(of(None).is_outdated(&restarts));
}

#[test]
fn memory_in_use_is_above_no_new_limit() {
    let check = MemoryCheck { container: Some((ContainerId::from("1"), "c".into())), limit: 100 };
    assert_eq!(check.verdict(99), None);
    let found = check.verdict(100).unwrap();
    assert_eq!(found, "attempting to set container \"c\" memory limit (100) below current usage (100)");
    let pod = MemoryCheck { container: None, limit: 1 }.verdict(2).unwrap();
    assert_eq!(
        below_usage(std::slice::from_ref(&pod)),
        "cannot decrease memory limits: attempting to set pod memory limit (1) below current usage (2)"
    );
    assert_eq!(below_usage(&[pod.clone(), found.clone()]), format!("cannot decrease memory limits: [{pod}, {found}]"));
}

#[test]
fn events_tell_of_all_containers() {
    let text = summary("Pod resize started", &two(("100m", "1Mi"), ("1", "1Mi")), Some(2), "");
    assert_eq!(
        text,
        r#"Pod resize started: {"containers":[{"name":"a","resources":{"limits":{"cpu":"100m","memory":"1Mi"},"requests":{"cpu":"100m","memory":"1Mi"}}},{"name":"b","resources":{"limits":{"cpu":"1","memory":"1Mi"},"requests":{"cpu":"1","memory":"1Mi"}}}],"generation":2}"#
    );
    let failed = summary("Pod resize error", &pod(json!({"initContainers": [{"name": "i"}], "containers": []})), None, "no");
    assert_eq!(failed, r#"Pod resize error: {"initContainers":[{"name":"i","resources":{}}],"generation":0,"error":"no"}"#);
}

#[test]
fn pending_resizes_have_an_order() {
    let at = |second| Some(jiff::Timestamp::from_second(second).unwrap());
    let allocation = Allocation::of(&two(("100m", "1Mi"), ("100m", "1Mi")));
    let asking = |cpu: &str, priority: i32, class: &str| {
        let mut pod = two((cpu, "1Mi"), ("100m", "1Mi"));
        pod.spec.as_mut().unwrap().priority = Some(priority);
        pod.status = serde_json::from_value(json!({"qosClass": class})).unwrap();
        pod
    };
    let pods = [
        (asking("200m", 0, "Burstable"), None),
        (asking("200m", 0, "Burstable"), at(20)),
        (asking("200m", 0, "Burstable"), at(10)),
        (asking("200m", 0, "Guaranteed"), at(30)),
        (asking("200m", 5, "Burstable"), at(40)),
        (asking("50m", -1, "Burstable"), None),
    ];
    let pending: Vec<_> = pods.iter().map(|(pod, since)| (pod, &allocation, *since)).collect();
    assert_eq!(in_order(&pending), [5, 4, 3, 2, 1, 0]);
}
