//! Restarts of all containers together, and containers whose definition changes.

use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler, PodCondition};
use serde_json::json;

use super::*;
use crate::pod::rounds::Round;

/// A container whose end with 42 restarts all.
fn source(name: &str, policy: &str) -> Container {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    Container { restart_policy: Some(policy.into()), restart_policy_rules: serde_json::from_value(rules).unwrap(), ..container(name) }
}

/// An init container, a sidecar, the source, and one with a preStop hook; none of them restarts by itself.
fn restartable() -> Pod {
    let mut pod = pod("Never", &["i", "s"], &["a", "b"]);
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers.as_mut().unwrap()[1].restart_policy = Some("Always".into());
    spec.containers[0] = source("a", "Never");
    spec.containers[1].lifecycle = Some(Lifecycle { pre_stop: Some(LifecycleHandler::default()), ..Lifecycle::default() });
    pod
}

fn in_round(round: u32, seen: ObservedContainer) -> ObservedContainer {
    ObservedContainer { round, ..seen }
}

fn starts(plan: &Plan) -> Vec<(&str, u32, u32, u32)> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::StartContainer { container, attempt, backoff_seconds, round, .. } => {
                Some((container.as_str(), *attempt, *backoff_seconds, *round))
            }
            _ => None,
        })
        .collect()
}

fn restarting(plan: &Plan) -> PodCondition {
    plan.status.conditions.iter().flatten().find(|c| c.type_ == "AllContainersRestarting").unwrap().clone()
}

fn phase(plan: &Plan) -> &str {
    plan.status.phase.as_deref().unwrap()
}

fn waits(plan: &Plan, name: &str) -> String {
    let all = [&plan.status.init_container_statuses, &plan.status.container_statuses];
    let status = all.into_iter().flatten().flatten().find(|status| status.name == name).unwrap();
    status.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.clone()).unwrap_or_default()
}

#[test]
fn the_end_of_one_ends_all_at_once_and_they_begin_anew_with_the_init_containers() {
    let pod = restartable();
    let memory = with_images(&pod, 1);
    let init = seen("i", 0, 0, exited(0, 1));
    let runs = |name: &str| seen(name, 0, 0, running());
    let before = plan(&pod, &observed(vec![init.clone(), runs("s"), runs("a"), runs("b")]), &memory, at(5));
    assert!(before.actions.is_empty(), "{:?}", before.actions);
    assert_eq!((restarting(&before).status.as_str(), phase(&before)), ("False", "Running"));

    let source = seen("a", 0, 0, exited(42, 9));
    let ended = plan(&pod, &observed(vec![init.clone(), runs("s"), source.clone(), runs("b")]), &memory, at(10));
    let signalled: Vec<_> = ended.actions.iter().map(|action| matches!(action, Action::Signal { message: Some(_), .. })).collect();
    assert_eq!(signalled, [true, true], "neither the sidecar's turn nor the hook is waited for: {:?}", ended.actions);
    let condition = restarting(&ended);
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("RestartAllContainersStarted")));
    assert_eq!(ended.replaced.len(), 2);
    assert_eq!(phase(&ended), "Running");

    let mut memory = memory;
    memory.actuated.replaced.extend(ended.replaced);
    let killed = |name: &str| seen(name, 0, 0, exited(137, 11));
    let all = vec![init, killed("s"), source, killed("b")];
    let mut busy = memory.clone();
    busy.in_flight.insert(ActionKey::Start(ContainerName::from("b")));
    assert!(plan(&pod, &observed(all.clone()), &busy, at(12)).actions.is_empty(), "what is being started is of the old round");
    let next = plan(&pod, &observed(all.clone()), &memory, at(12));
    assert_eq!(starts(&next), [("i", 1, 0, 1)]);
    assert_eq!((restarting(&next).status.as_str(), phase(&next)), ("True", "Running"));
    for name in ["i", "s", "a", "b"] {
        assert_eq!(waits(&next, name), "RestartingAllContainers");
    }

    let mut all = all;
    all.push(in_round(1, seen("i", 1, 0, running())));
    let begun = plan(&pod, &observed(all.clone()), &memory, at(13));
    assert!(begun.actions.is_empty(), "{:?}", begun.actions);
    assert_eq!((restarting(&begun).status.as_str(), phase(&begun)), ("False", "Pending"));
    all.last_mut().unwrap().state = exited(0, 14);
    assert_eq!(starts(&plan(&pod, &observed(all.clone()), &memory, at(15))), [("s", 1, 0, 1)]);
    all.push(in_round(1, seen("s", 1, 0, running())));
    let apps = plan(&pod, &observed(all.clone()), &memory, at(16));
    assert_eq!(starts(&apps), [("a", 1, 10, 1), ("b", 1, 0, 1)]);
    all.extend(["a", "b"].map(|name| in_round(1, seen(name, 1, 0, running()))));
    let again = plan(&pod, &observed(all), &memory, at(17));
    assert!(again.actions.is_empty(), "{:?}", again.actions);
    let counts: Vec<_> = again.status.container_statuses.iter().flatten().map(|status| status.restart_count).collect();
    assert_eq!((counts, phase(&again)), (vec![1, 1], "Running"));
}

#[test]
fn what_restarts_all_again_and_again_is_backed_off() {
    let mut pod = pod("Never", &[], &["a", "b"]);
    pod.spec.as_mut().unwrap().containers[0] = source("a", "Never");
    let memory = with_images(&pod, 4);
    let all = observed(vec![in_round(3, seen("a", 3, 20, exited(42, 100))), in_round(3, seen("b", 3, 0, exited(137, 101)))]);
    let early = plan(&pod, &all, &memory, at(102));
    assert_eq!(starts(&early), [("b", 4, 0, 4)]);
    assert_eq!((waits(&early, "a").as_str(), waits(&early, "b").as_str()), ("CrashLoopBackOff", "RestartingAllContainers"));
    assert_eq!(starts(&plan(&pod, &all, &memory, at(121))), [("a", 4, 40, 4), ("b", 4, 0, 4)]);
}

#[test]
fn a_pod_that_is_failed_meanwhile_does_not_restart() {
    let mut pod = restartable();
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
    let memory = with_images(&pod, 1);
    let all = observed(vec![seen("i", 0, 0, exited(0, 1)), seen("a", 0, 0, exited(42, 3)), seen("b", 0, 0, exited(137, 4))]);
    let late = plan(&pod, &all, &memory, at(6));
    assert_eq!((phase(&late), starts(&late)), ("Failed", vec![]));
    let condition = restarting(&late);
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("PodFailed")));
    assert_eq!(waits(&late, "b"), "", "it has ended for good");
}

#[test]
fn how_sidecars_end_with_their_pod_restarts_nothing() {
    let mut pod = pod("Never", &["s"], &["a"]);
    pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0] = source("s", "Always");
    let memory = with_images(&pod, 1);
    let done = plan(&pod, &observed(vec![seen("s", 0, 0, exited(42, 9)), seen("a", 0, 0, exited(0, 5))]), &memory, at(10));
    assert_eq!((phase(&done), starts(&done), restarting(&done).reason.as_deref()), ("Succeeded", vec![], Some("PodCompleted")));
    // The same end while the app works restarts all, also once the app has been ended for it.
    let mut memory = memory;
    let working = plan(&pod, &observed(vec![seen("s", 0, 0, exited(42, 9)), seen("a", 0, 0, running())]), &memory, at(10));
    assert_eq!((restarting(&working).status.as_str(), &working.replaced), ("True", &[ContainerId::new("a-0")].into()));
    memory.actuated.replaced.extend(working.replaced);
    let ended = plan(&pod, &observed(vec![seen("s", 0, 0, exited(42, 9)), seen("a", 0, 0, exited(143, 11))]), &memory, at(12));
    assert_eq!((phase(&ended), starts(&ended)), ("Running", vec![("s", 1, 10, 1)]));
}

#[test]
fn pods_without_such_a_rule_have_no_such_condition() {
    let pod = pod("Always", &[], &["a"]);
    let plan = plan(&pod, &observed(vec![seen("a", 0, 0, exited(42, 3))]), &with_images(&pod, 1), at(4));
    assert!(plan.status.conditions.iter().flatten().all(|c| c.type_ != "AllContainersRestarting"));
    assert_eq!(starts(&plan), [("a", 1, 10, 0)]);
}

#[test]
fn a_changed_image_replaces_what_runs_whatever_the_policy() {
    let p = pod("Never", &[], &["a", "b"]);
    let mut old = ObservedContainer { spec_hash: "other".into(), ..seen("a", 0, 0, running()) };
    let other = seen("b", 0, 0, running());
    let mut memory = with_images(&p, 1);
    let result = plan(&p, &observed(vec![old.clone(), other.clone()]), &memory, at(1));
    assert!(
        matches!(&result.actions[..], [Action::Signal { message: Some(m), .. }] if m == "Container a definition changed, will be restarted"),
        "{:?}",
        result.actions
    );
    assert_eq!(result.replaced, [old.id.clone()].into());
    memory.actuated.replaced.extend(result.replaced);
    old.state = exited(143, 2);
    let result = plan(&p, &observed(vec![old, other]), &memory, at(3));
    assert_eq!((starts(&result), phase(&result)), (vec![("a", 1, 0, 0)], "Running"));
    assert_eq!(waits(&result, "a"), "ContainerCreating", "the API server lets nothing come back that it was told has ended for good");
}

#[test]
fn a_changed_image_does_not_bring_back_what_had_ended_for_good() {
    for (policy, code) in [("Never", 0), ("Never", 1), ("OnFailure", 0)] {
        let p = pod(policy, &[], &["a", "b"]);
        let old = ObservedContainer { spec_hash: "other".into(), ..seen("a", 0, 0, exited(code, 2)) };
        let result = plan(&p, &observed(vec![old.clone(), seen("b", 0, 0, running())]), &with_images(&p, 1), at(3));
        assert!(result.actions.is_empty(), "{policy} {code}: {:?}", result.actions);
        let alone = plan(&p, &observed(vec![old, seen("b", 0, 0, exited(code, 2))]), &with_images(&p, 1), at(3));
        assert_eq!(phase(&alone), if code == 0 { "Succeeded" } else { "Failed" }, "{policy}");
    }
    // What runs again anyway does so with the new image, without waiting.
    let p = pod("Always", &[], &["a"]);
    let old = ObservedContainer { spec_hash: "other".into(), ..seen("a", 3, 160, exited(1, 2)) };
    assert_eq!(starts(&plan(&p, &observed(vec![old]), &with_images(&p, 4), at(3))), [("a", 4, 0, 0)]);
}

#[test]
fn init_containers_that_run_are_let_end_and_sidecars_are_replaced() {
    let mut pod = pod("Always", &["i", "s"], &["a"]);
    pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[1].restart_policy = Some("Always".into());
    let memory = with_images(&pod, 1);
    let init = ObservedContainer { spec_hash: "other".into(), ..seen("i", 0, 0, running()) };
    assert!(plan(&pod, &observed(vec![init.clone()]), &memory, at(1)).actions.is_empty());
    let ended = ObservedContainer { state: exited(0, 1), ..init };
    let sidecar = ObservedContainer { spec_hash: "other".into(), ..seen("s", 0, 0, running()) };
    let result = plan(&pod, &observed(vec![ended, sidecar, seen("a", 0, 0, running())]), &memory, at(2));
    assert!(
        matches!(&result.actions[..], [Action::Signal { container, message: Some(m), .. }]
            if container.as_str() == "s" && m == "Init container s definition changed"),
        "{:?}",
        result.actions
    );
}

#[test]
fn what_was_ended_for_the_others_is_not_backed_off_by_its_own_rules() {
    let mut pod = pod("Never", &[], &["a", "b"]);
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
    for container in &mut pod.spec.as_mut().unwrap().containers {
        container.restart_policy = Some("Never".into());
        container.restart_policy_rules = serde_json::from_value(rules.clone()).unwrap();
    }
    let source = in_round(1, seen("a", 1, 20, exited(42, 100)));
    let mut memory = with_images(&pod, 2);
    let working = plan(&pod, &observed(vec![source.clone(), in_round(1, seen("b", 1, 20, running()))]), &memory, at(100));
    memory.actuated.replaced.extend(working.replaced);
    let both = observed(vec![source.clone(), in_round(1, seen("b", 1, 20, exited(137, 101)))]);
    assert_eq!(starts(&plan(&pod, &both, &memory, at(102))), [("b", 2, 0, 2)]);
    // One that ends by itself at the same time asks for a restart as well.
    assert_eq!(starts(&plan(&pod, &both, &with_images(&pod, 2), at(102))), []);
}

#[test]
fn a_container_that_failed_its_probe_is_not_done_when_a_restart_of_all_is_asked_for() {
    let mut pod = pod("OnFailure", &["s"], &["a"]);
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = pod.spec.as_mut().unwrap();
    spec.containers[0].startup_probe = serde_json::from_value(json!({"tcpSocket": {"port": 80}})).unwrap();
    let sidecar = &mut spec.init_containers.as_mut().unwrap()[0];
    sidecar.restart_policy = Some("Always".into());
    sidecar.restart_policy_rules = serde_json::from_value(rules).unwrap();
    let ended = observed(vec![seen("s", 0, 0, exited(42, 100)), seen("a", 0, 0, exited(0, 101))]);
    let round = |memory: &Memory| Round::find(&pod, &ended, memory).number;
    let mut memory = with_images(&pod, 1);
    assert_eq!(round(&memory), 0, "the pod is done");
    memory.probes.insert((ended.newest("a").unwrap().id.clone(), ProbeKind::Startup), Verdict::Failure);
    assert_eq!(round(&memory), 1, "what the probe has failed is started again");
}

/// The only container of a pod that restarts nothing by itself, ended because its image has changed, and what is remembered of that.
fn replaced_alone(code: i32) -> (Pod, ObservedContainer, Memory) {
    let pod = pod("Never", &[], &["a"]);
    let old = ObservedContainer { spec_hash: "other".into(), ..seen("a", 0, 0, running()) };
    let mut memory = with_images(&pod, 1);
    let ends = plan(&pod, &observed(vec![old.clone()]), &memory, at(1));
    assert_eq!(ends.replaces(), [old.id.clone()].into());
    ends.note_ahead(&mut memory.actuated);
    (pod, ObservedContainer { state: exited(code, 2), ..old }, memory)
}

#[test]
fn a_pod_goes_on_while_its_only_container_is_replaced() {
    for code in [0, 143] {
        let (pod, old, memory) = replaced_alone(code);
        let result = plan(&pod, &observed(vec![old]), &memory, at(3));
        assert_eq!((starts(&result), phase(&result)), (vec![("a", 1, 0, 0)], "Running"));
    }
}

#[test]
fn what_was_replaced_in_a_sandbox_that_is_gone_has_ended_as_anything_else() {
    for (code, end) in [(0, "Succeeded"), (143, "Failed")] {
        let (pod, old, memory) = replaced_alone(code);
        let gone = Observed { containers: vec![old.clone()], sandbox: None };
        let other = Observed { containers: vec![old], sandbox: Some(SandboxFacts { id: "sb2".into(), ..sandbox() }) };
        for seen in [gone, other] {
            let result = plan(&pod, &seen, &memory, at(3));
            assert_eq!((phase(&result), starts(&result)), (end, vec![]));
            assert_eq!(waits(&result, "a"), "");
        }
    }
}

#[test]
fn what_cannot_be_written_down_is_not_replaced() {
    let p = pod("Never", &[], &["a", "b"]);
    let old = ObservedContainer { spec_hash: "other".into(), ..seen("a", 0, 0, running()) };
    let mut result = plan(&p, &observed(vec![old]), &with_images(&p, 0), at(1));
    assert_eq!((result.actions.len(), starts(&result)), (2, vec![("b", 0, 0, 0)]));
    result.replace_nothing();
    assert_eq!((result.actions.len(), starts(&result)), (1, vec![("b", 0, 0, 0)]), "only that is left alone");
}
