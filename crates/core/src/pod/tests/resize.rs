//! Resources that change.

use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::{Value, json};

use super::*;
use crate::pod::resizing::Differences;
use crate::resize::{Actuated, ContainerAmounts, PendingResize, PodAmounts, ResizeStep};

fn resized(policy: &str, cpu: &str, resize_policy: Value) -> Pod {
    let mut pod = pod(policy, &[], &["a"]);
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.resources =
        serde_json::from_value(json!({"requests": {"cpu": cpu, "memory": "10Mi"}, "limits": {"cpu": "1", "memory": "50Mi"}})).unwrap();
    container.resize_policy = serde_json::from_value(resize_policy).unwrap();
    pod.metadata.generation = Some(3);
    pod
}

fn amounts(pod: &Pod) -> ContainerAmounts {
    ContainerAmounts::of(pod, &pod.spec.as_ref().unwrap().containers[0])
}

/// A container that runs with what `before` says, and what the agent knows of it.
fn runs_with(before: &Pod) -> (Observed, Memory) {
    let mut container = seen("a", 0, 0, running());
    container.amounts = Some(amounts(before));
    let actuated = Actuated { pod: Some(PodAmounts::of(before)), ..Actuated::default() };
    let memory = Memory { actuated, resize: ResizeMemory::default(), ..with_images(before, 1) };
    (observed(vec![container]), memory)
}

fn status(plan: &Plan) -> &ContainerStatus {
    &plan.status.container_statuses.as_ref().unwrap()[0]
}

fn condition<'a>(plan: &'a Plan, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    plan.status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind)
}

fn cpu(list: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> &str {
    &list.unwrap()["cpu"].0
}

#[test]
fn limits_change_in_place_and_the_status_follows() {
    let (before, after) = (resized("Always", "100m", json!([])), resized("Always", "200m", json!([])));
    let (seen, mut memory) = runs_with(&before);
    let settled = plan(&before, &seen, &memory, at(1));
    assert!(settled.actions.is_empty() && !settled.resize.busy && condition(&settled, RESIZE_IN_PROGRESS).is_none());

    let due = plan(&after, &seen, &memory, at(1));
    let [Action::Resize(resizing)] = &due.actions[..] else { panic!("{:?}", due.actions) };
    assert!(due.resize.busy && due.resize.restarts.is_empty());
    let told = condition(&due, RESIZE_IN_PROGRESS).unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_deref(), told.observed_generation), ("True", None, Some(3)));
    assert_eq!(cpu(status(&due).allocated_resources.as_ref()), "200m");
    assert_eq!(cpu(status(&due).resources.as_ref().unwrap().requests.as_ref()), "100m");
    assert_eq!(cpu(due.status.allocated_resources.as_ref()), "200m");
    // From the shares of the cgroup, which are coarser.
    assert_eq!(cpu(due.status.resources.as_ref().unwrap().requests.as_ref()), "99m");

    resizing.steps.iter().for_each(|step| memory.actuated.apply(step));
    let done = plan(&after, &seen, &memory, at(2));
    assert!(done.actions.is_empty() && !done.resize.busy && condition(&done, RESIZE_IN_PROGRESS).is_none());
    assert_eq!(cpu(status(&done).resources.as_ref().unwrap().requests.as_ref()), "200m");
    assert_eq!(cpu(done.status.resources.as_ref().unwrap().requests.as_ref()), "200m");
    assert_eq!(cpu(done.status.resources.as_ref().unwrap().limits.as_ref()), "1");
}

#[test]
fn a_change_that_fails_is_told_and_tried_again() {
    let (before, after) = (resized("Always", "100m", json!([])), resized("Always", "200m", json!([])));
    let (seen, mut memory) = runs_with(&before);
    memory.resize.in_progress = Some(ResizeInProgress { generation: Some(2), error: Some("no".into()) });
    memory.resize.retry_at = Some(at(11));
    let failed = plan(&after, &seen, &memory, at(1));
    assert!(failed.actions.is_empty());
    assert_eq!(failed.wake_at, Some(at(11)));
    let told = condition(&failed, RESIZE_IN_PROGRESS).unwrap();
    assert_eq!((told.reason.as_deref(), told.message.as_deref(), told.observed_generation), (Some("Error"), Some("no"), Some(2)));
    assert!(matches!(plan(&after, &seen, &memory, at(11)).actions[..], [Action::Resize(_)]));
}

#[test]
fn what_is_pending_is_told_with_its_transition() {
    let pod = resized("Always", "100m", json!([]));
    let (seen, mut memory) = runs_with(&pod);
    memory.resize.pending = Some(PendingResize { cause: "OutOfcpu".into(), message: "no room".into(), generation: Some(3) });
    let first = plan(&pod, &seen, &memory, at(1));
    let told = condition(&first, RESIZE_PENDING).unwrap();
    assert_eq!((told.reason.as_deref(), told.message.as_deref(), told.observed_generation), (Some("Deferred"), Some("no room"), Some(3)));
    let mut later = pod.clone();
    later.status = Some(first.status.clone());
    memory.resize.pending.as_mut().unwrap().message = "less room".into();
    let second = plan(&later, &seen, &memory, at(9));
    let again = condition(&second, RESIZE_PENDING).unwrap();
    assert_eq!(again.last_transition_time, told.last_transition_time);
    assert_ne!(again.last_probe_time, told.last_probe_time);
    memory.resize.pending = None;
    assert!(condition(&plan(&later, &seen, &memory, at(10)), RESIZE_PENDING).is_none());
}

#[test]
fn what_the_kernel_is_told_next_is_written_down_before() {
    let (before, after) = (resized("Always", "100m", Value::Null), resized("Always", "200m", Value::Null));
    let (seen, mut memory) = runs_with(&before);
    let steady = memory.actuated.clone();
    let due = plan(&after, &seen, &memory, at(1));
    assert!(due.resizes());
    due.note_ahead(&mut memory.actuated);
    assert!(steady.is_outdated(&memory.actuated), "it has to be written");
    let written: Actuated = serde_json::from_value(serde_json::to_value(&memory.actuated).unwrap()).unwrap();
    let [Action::Resize(resizing)] = &due.actions[..] else { panic!("{:?}", due.actions) };
    assert_eq!(written.begun, resizing.steps);
    assert!(!plan(&before, &seen, &memory, at(1)).resizes());
}

#[test]
fn a_container_restarts_where_its_policy_says_so() {
    let restart = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    // Not even `OnFailure` and a clean end keep it from coming back.
    let (before, after) = (resized("OnFailure", "100m", restart.clone()), resized("OnFailure", "200m", restart));
    let (seen, mut memory) = runs_with(&before);
    let killed = plan(&after, &seen, &memory, at(1));
    let [Action::Signal { message: Some(message), .. }] = &killed.actions[..] else { panic!("{:?}", killed.actions) };
    assert_eq!(message, "Container a resize requires restart");
    memory.actuated.restarts.extend(killed.resize.restarts);

    let mut ended = seen;
    ended.containers[0].state = exited(0, 2);
    // The pod's cgroup grows before the container comes back.
    let grows = plan(&after, &ended, &memory, at(3));
    let [Action::Resize(resizing)] = &grows.actions[..] else { panic!("{:?}", grows.actions) };
    assert_eq!(resizing.steps, [ResizeStep::PodCpuShares { shares: 204 }]);
    assert_eq!(grows.status.phase.as_deref(), Some("Running"));
    // The API server takes a container that has ended for good as ended for good.
    let state = |plan: &Plan| (status(plan).state.clone().unwrap(), status(plan).last_state.clone().unwrap());
    let (now, last) = state(&grows);
    assert_eq!(now.waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
    assert_eq!(last.terminated.unwrap().exit_code, 0);
    // But not in a pod that ends.
    let mut deleted = after.clone();
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(40)));
    let (now, _) = state(&plan(&deleted, &ended, &memory, at(3)));
    assert!(now.waiting.is_none() && now.terminated.is_some());
    resizing.steps.iter().for_each(|step| memory.actuated.apply(step));
    let starts = plan(&after, &ended, &memory, at(3));
    assert!(matches!(&starts.actions[..], [Action::StartContainer { attempt: 1, .. }]), "{:?}", starts.actions);
    assert!(starts.resize.busy);

    let mut new = super::seen("a", 1, 0, running());
    new.amounts = Some(amounts(&after));
    ended.containers.push(new);
    assert!(!plan(&after, &ended, &memory, at(4)).resize.busy);
}

#[test]
fn what_has_ended_or_ends_is_not_resized() {
    let (before, mut after) = (resized("Never", "100m", json!([])), resized("Never", "200m", json!([])));
    let (seen, memory) = runs_with(&before);
    let mut ended = seen.clone();
    ended.containers[0].state = exited(0, 2);
    let succeeded = plan(&after, &ended, &memory, at(3));
    assert!(!succeeded.resize.busy && condition(&succeeded, RESIZE_IN_PROGRESS).is_none());
    after.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(40)));
    let deleted = plan(&after, &seen, &memory, at(3));
    assert!(deleted.actions.iter().all(|action| !matches!(action, Action::Resize(_))));
}

#[test]
fn a_restarted_agent_goes_on_with_what_it_has_told() {
    let mut pod = resized("Always", "100m", json!([]));
    pod.status = serde_json::from_value(json!({"conditions": [
        {"type": "PodResizeInProgress", "status": "True", "reason": "Error", "message": "no", "observedGeneration": 2},
    ]}))
    .unwrap();
    let mut memory = Memory::default();
    memory.adopt_resize(&pod);
    assert_eq!(memory.resize.in_progress, Some(ResizeInProgress { generation: Some(2), error: Some("no".into()) }));
}

#[test]
fn a_restart_for_resources_is_over_when_nothing_follows_any_more() {
    let restart = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    let (before, after) = (resized("OnFailure", "100m", restart.clone()), resized("OnFailure", "200m", restart));
    let (mut seen, mut memory) = runs_with(&before);
    plan(&after, &seen, &memory, at(1)).note_ahead(&mut memory.actuated);
    for (code, sandbox, expected) in [(0, "sb1", true), (0, "sb2", false), (1, "sb2", true)] {
        seen.containers[0].state = exited(code, 2);
        seen.sandbox.as_mut().unwrap().id = sandbox.into();
        assert_eq!(Differences::find(&after, &seen, &memory).unfollowed, expected, "{code} in {sandbox}");
    }
}
