//! One situation, one decision.

use k8s_openapi::api::core::v1::{
    ContainerRestartRule, ContainerRestartRuleOnExitCodes, EphemeralContainer, Lifecycle, LifecycleHandler, Probe,
};

use super::*;

fn starts(plan: &Plan) -> Vec<(String, u32, u32)> {
    plan.actions
        .iter()
        .filter_map(|a| match a {
            Action::StartContainer { container, attempt, backoff_seconds, .. } => Some((container.to_string(), *attempt, *backoff_seconds)),
            _ => None,
        })
        .collect()
}

fn phase(plan: &Plan) -> &str {
    plan.status.phase.as_deref().unwrap()
}

#[test]
fn a_new_pod_is_prepared_and_its_images_are_fetched_meanwhile() {
    let pod = pod("Always", &[], &["a", "b"]);
    let plan = plan(&pod, &Observed::default(), &Memory::default(), at(0));
    assert_eq!(plan.actions[0], Action::Prepare);
    assert!(matches!(&plan.actions[1], Action::EnsureImage { container, attempt: 0 } if container.as_str() == "a"));
    assert_eq!(plan.actions.len(), 3);
    assert_eq!(phase(&plan), "Pending");
}

#[test]
fn init_containers_run_one_after_the_other_and_before_the_app() {
    let p = pod("Always", &["i1", "i2"], &["a"]);
    let memory = with_images(&p, 0);
    assert_eq!(starts(&plan(&p, &observed(vec![]), &memory, at(1))), [("i1".to_owned(), 0, 0)]);
    let first_runs = observed(vec![seen("i1", 0, 0, running())]);
    assert!(plan(&p, &first_runs, &memory, at(1)).actions.is_empty());
    let first_done = observed(vec![seen("i1", 0, 0, exited(0, 1))]);
    assert_eq!(starts(&plan(&p, &first_done, &memory, at(2))), [("i2".to_owned(), 0, 0)]);
    let both = observed(vec![seen("i1", 0, 0, exited(0, 1)), seen("i2", 0, 0, exited(0, 2))]);
    let last = plan(&p, &both, &memory, at(3));
    assert_eq!(starts(&last), [("a".to_owned(), 0, 0)]);
    assert_eq!(phase(&last), "Pending");
    let initialized = last.status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Initialized").unwrap();
    assert_eq!(initialized.status, "True");
}

#[test]
fn a_failed_init_container_fails_the_pod_only_where_it_may_not_run_again() {
    let failed = |policy: &str| {
        let p = pod(policy, &["i"], &["a"]);
        let result = plan(&p, &observed(vec![seen("i", 0, 0, exited(1, 1))]), &with_images(&p, 1), at(2));
        (phase(&result).to_owned(), starts(&result))
    };
    assert_eq!(failed("Never"), ("Failed".to_owned(), vec![]));
    assert_eq!(failed("Always"), ("Pending".to_owned(), vec![("i".to_owned(), 1, 10)]));
}

#[test]
fn restart_policy_times_exit_code() {
    for (policy, code, wanted_phase, restarts) in [
        ("Always", 0, "Running", true),
        ("Always", 1, "Running", true),
        ("OnFailure", 0, "Succeeded", false),
        ("OnFailure", 1, "Running", true),
        ("Never", 0, "Succeeded", false),
        ("Never", 1, "Failed", false),
    ] {
        let p = pod(policy, &[], &["a"]);
        let result = plan(&p, &observed(vec![seen("a", 0, 0, exited(code, 10))]), &with_images(&p, 1), at(11));
        assert_eq!(phase(&result), wanted_phase, "{policy} {code}");
        assert_eq!(!starts(&result).is_empty(), restarts, "{policy} {code}");
    }
}

#[test]
fn crash_back_off_doubles_to_its_cap_and_starts_anew_after_a_long_life() {
    let p = pod("Always", &[], &["a"]);
    let mut label = 0;
    let mut delays = Vec::new();
    for attempt in 0..8 {
        let end = observed(vec![seen("a", attempt, label, exited(1, 100))]);
        let delay = (0..400).find(|s| !starts(&plan(&p, &end, &with_images(&p, attempt + 1), at(100 + s))).is_empty()).unwrap();
        delays.push(delay);
        label = starts(&plan(&p, &end, &with_images(&p, attempt + 1), at(100 + delay)))[0].2;
    }
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    let long = ContainerState::Exited(Exit { code: 1, started_at: Some(at(0)), finished_at: at(601), reason: None, message: None });
    assert_eq!(starts(&plan(&p, &observed(vec![seen("a", 7, 300, long)]), &with_images(&p, 8), at(601))), [("a".to_owned(), 8, 10)]);
}

#[test]
fn a_backed_off_container_says_so_as_the_kubelet_does() {
    let p = pod("Always", &[], &["a"]);
    let end = observed(vec![seen("a", 1, 80, exited(3, 100))]);
    let result = plan(&p, &end, &with_images(&p, 0), at(101));
    let status = &result.status.container_statuses.as_ref().unwrap()[0];
    let waiting = status.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 1m20s restarting failed container=a pod=p_ns(u1)"));
    assert_eq!(status.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!(status.restart_count, 1);
    assert_eq!(result.events[0].message, "Back-off restarting failed container a in pod p_ns(u1)");
    assert_eq!(result.wake_at, Some(at(180)));
    assert_eq!(phase(&result), "Running");
}

#[test]
fn deletion_signals_then_kills_then_takes_apart_then_deletes() {
    let mut p = pod("Always", &[], &["a"]);
    p.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(40)));
    p.metadata.deletion_grace_period_seconds = Some(30);
    let live = observed(vec![seen("a", 0, 0, running())]);
    let mut memory = with_images(&p, 0);
    assert!(matches!(plan(&p, &live, &memory, at(10)).actions[..], [Action::Signal { .. }]));
    memory.signalled.insert(ContainerId::new("a-0"), at(10));
    let waiting = plan(&p, &live, &memory, at(39));
    assert_eq!((waiting.actions.len(), waiting.wake_at), (0, Some(at(40))));
    assert!(matches!(plan(&p, &live, &memory, at(40)).actions[..], [Action::Kill { .. }]));
    memory.killed.insert(ContainerId::new("a-0"), at(40));
    assert!(plan(&p, &live, &memory, at(45)).actions.is_empty());
    assert!(matches!(plan(&p, &live, &memory, at(50)).actions[..], [Action::Kill { .. }]), "killed again");
    let dead = observed(vec![seen("a", 0, 0, exited(137, 41))]);
    assert_eq!(plan(&p, &dead, &memory, at(42)).actions, [Action::Release]);
    assert_eq!(phase(&plan(&p, &dead, &memory, at(42))), "Failed");
    memory.released = true;
    assert_eq!(plan(&p, &dead, &memory, at(42)).actions, [Action::Remove]);
    memory.removed = true;
    assert_eq!(plan(&p, &dead, &memory, at(42)).actions, [Action::DeleteObject]);
    memory.deleted = true;
    assert!(plan(&p, &dead, &memory, at(42)).finished);
}

#[test]
fn a_shorter_grace_period_takes_effect_at_once() {
    let mut p = pod("Always", &[], &["a"]);
    p.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(40)));
    p.metadata.deletion_grace_period_seconds = Some(0);
    let mut memory = with_images(&p, 0);
    memory.signalled.insert(ContainerId::new("a-0"), at(10));
    let live = observed(vec![seen("a", 0, 0, running())]);
    assert!(matches!(plan(&p, &live, &memory, at(12)).actions[..], [Action::Kill { .. }]));
}

#[test]
fn the_active_deadline_fails_the_pod() {
    let mut p = pod("Always", &[], &["a"]);
    p.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
    let live = observed(vec![seen("a", 0, 0, running())]);
    let before = plan(&p, &live, &with_images(&p, 0), at(4));
    assert_eq!((phase(&before), before.wake_at), ("Running", Some(at(5))));
    let after = plan(&p, &live, &with_images(&p, 0), at(5));
    assert_eq!(phase(&after), "Failed");
    assert_eq!(after.status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(after.status.message.as_deref(), Some("Pod was active on the node longer than the specified deadline"));
    assert!(matches!(after.actions[..], [Action::Signal { .. }]));
}

#[test]
fn a_phase_that_the_api_server_calls_final_is_obeyed_and_never_left() {
    let mut p = pod("Always", &[], &["a"]);
    p.status =
        Some(k8s_openapi::api::core::v1::PodStatus { phase: Some("Failed".into()), reason: Some("Mine".into()), ..Default::default() });
    let result = plan(&p, &observed(vec![seen("a", 0, 0, running())]), &with_images(&p, 0), at(1));
    assert_eq!((phase(&result), result.status.reason.as_deref()), ("Failed", Some("Mine")));
    assert!(matches!(result.actions[..], [Action::Signal { .. }]));
}

#[test]
fn image_failures_back_off() {
    let p = pod("Always", &[], &["a"]);
    let failures =
        [("ErrImagePull", true), ("RegistryUnavailable", true), ("SignatureValidationFailed", true), ("ErrImageNeverPull", false)];
    for (failed, backs_off) in failures {
        let mut memory = Memory { admitted: true, start_time: Some(at(0)), ..Memory::default() };
        memory.image_failures.insert(
            "a".into(),
            ImageFailure {
                image: "busybox:1".into(),
                missing: "data:1".into(),
                reason: failed.into(),
                message: "no such host".into(),
                at: at(10),
                backoff_seconds: 20,
                backs_off,
            },
        );
        let reason = |now| {
            let result = plan(&p, &observed(vec![]), &memory, at(now));
            let status = result.status.container_statuses.as_ref().unwrap()[0].clone();
            let waiting = status.state.unwrap().waiting.unwrap();
            (waiting.reason.unwrap(), waiting.message.unwrap_or_default(), result.actions.len())
        };
        let told = (failed.to_owned(), "no such host".to_owned(), 0);
        assert_eq!(reason(11), told);
        let backing_off = ("ImagePullBackOff".to_owned(), format!("Back-off pulling image \"data:1\": {failed}: no such host"), 0);
        let later = if backs_off { backing_off } else { told };
        assert_eq!(reason(20), later);
        assert_eq!(reason(30).2, 1, "tried again after the back-off");
    }
}

#[test]
fn a_lost_sandbox_runs_init_containers_again_and_restarts_the_app() {
    let p = pod("Always", &["i"], &["a"]);
    let mut i = seen("i", 0, 0, exited(0, 1));
    let mut a = seen("a", 2, 10, exited(137, 50));
    i.sandbox = "old".into();
    a.sandbox = "old".into();
    let result = plan(&p, &observed(vec![i.clone(), a.clone()]), &with_images(&p, 1), at(100));
    assert_eq!(starts(&result), [("i".to_owned(), 1, 10)]);
    let mut again = seen("i", 1, 10, exited(0, 101));
    again.sandbox = "sb1".into();
    let result = plan(&p, &observed(vec![i, again, a]), &with_images(&p, 3), at(102));
    assert_eq!(starts(&result), [("a".to_owned(), 3, 20)]);
}

#[test]
fn a_container_that_vanished_counts_as_a_restart() {
    let mut p = pod("Always", &[], &["a"]);
    let first = plan(&p, &observed(vec![seen("a", 4, 0, running())]), &with_images(&p, 0), at(1));
    p.status = Some(first.status);
    assert_eq!(starts(&plan(&p, &observed(vec![]), &with_images(&p, 5), at(2))), [("a".to_owned(), 5, 0)]);
}

#[test]
fn a_rejected_pod_is_failed_and_nothing_else() {
    let p = pod("Always", &[], &["a"]);
    let rejected = Rejected { reason: "OutOfcpu".into(), message: "Pod was rejected: no".into() };
    let memory = Memory { rejected: Some(rejected), ..Memory::default() };
    let result = plan(&p, &Observed::default(), &memory, at(1));
    assert_eq!((phase(&result), result.status.reason.as_deref()), ("Failed", Some("OutOfcpu")));
    assert!(result.status.container_statuses.is_none());
}

#[test]
fn a_patch_replaces_lists_of_ours_and_merges_conditions() {
    let p = pod("Always", &[], &["a"]);
    let result = plan(&p, &observed(vec![seen("a", 0, 0, running())]), &with_images(&p, 0), at(1));
    let patch = status_patch("u1", &result.status);
    assert_eq!(patch["metadata"]["uid"], "u1");
    // An atomic list: a directive in it would become a container without a name.
    assert_eq!(patch["status"]["containerStatuses"].as_array().unwrap().len(), 1);
    assert_eq!(patch["status"]["containerStatuses"][0]["name"], "a");
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    let (gone, there): (Vec<_>, Vec<_>) = conditions.iter().partition(|c| c.get("$patch").is_some());
    assert!(there.len() == 5 && there.iter().all(|c| c.get("reason").is_some()));
    // Of those that may have been there before.
    let deleted = |kind: &str| serde_json::json!({"type": kind, "$patch": "delete"});
    assert_eq!(gone, [&deleted("PodResizePending"), &deleted("PodResizeInProgress")]);
    assert!(patch["status"]["reason"].is_null());
    assert!(!status_differs(&result.status, &result.status));
    let mut other = result.status.clone();
    other.phase = Some("Failed".into());
    assert!(status_differs(&result.status, &other));
}

#[test]
fn foreign_conditions_and_readiness_gates() {
    let mut p = pod("Always", &[], &["a"]);
    p.spec.as_mut().unwrap().readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "example.com/lb".into() }]);
    let live = observed(vec![seen("a", 0, 0, running())]);
    let ready = |p: &Pod| {
        let result = plan(p, &live, &with_images(p, 0), at(1));
        result.status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap()
    };
    assert_eq!(ready(&p).reason.as_deref(), Some("ReadinessGatesNotReady"));
    p.status = Some(k8s_openapi::api::core::v1::PodStatus {
        conditions: Some(vec![k8s_openapi::api::core::v1::PodCondition {
            type_: "example.com/lb".into(),
            status: "True".into(),
            ..Default::default()
        }]),
        ..Default::default()
    });
    assert_eq!(ready(&p).status, "True");
    assert!(plan(&p, &live, &with_images(&p, 0), at(1)).status.conditions.unwrap().iter().any(|c| c.type_ == "example.com/lb"));
}

#[test]
fn a_status_that_only_says_starting() {
    let status = |phase: &str, state: serde_json::Value| -> k8s_openapi::api::core::v1::PodStatus {
        let container = serde_json::json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        serde_json::from_value(serde_json::json!({"phase": phase, "containerStatuses": [container]})).unwrap()
    };
    let waiting = |reason: &str| serde_json::json!({"waiting": {"reason": reason}});
    for (phase, state, starting) in [
        ("Pending", waiting("ContainerCreating"), true),
        ("Pending", waiting("PodInitializing"), true),
        ("Pending", waiting("ErrImagePull"), false),
        ("Pending", waiting("CreateContainerConfigError"), false),
        ("Pending", serde_json::json!({"running": {}}), false),
        ("Pending", serde_json::json!({}), false),
        ("Running", waiting("ContainerCreating"), false),
        ("Failed", waiting("ContainerCreating"), false),
    ] {
        assert_eq!(crate::pod::is_starting(&status(phase, state.clone())), starting, "{phase} {state}");
    }
}

fn sidecar(name: &str) -> Container {
    Container { restart_policy: Some("Always".into()), ..container(name) }
}

/// A pod with the sidecars s1 and s2 and the app a.
fn with_sidecars() -> Pod {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().init_containers = Some(vec![sidecar("s1"), sidecar("s2")]);
    pod
}

fn seen_as(spec: &Container, state: ContainerState) -> ObservedContainer {
    ObservedContainer { spec_hash: container_hash(spec), ..seen(&spec.name, 0, 0, state) }
}

fn started(plan: &Plan) -> Vec<&str> {
    let names = plan.actions.iter().filter_map(|a| match a {
        Action::StartContainer { container, .. } => Some(container.as_str()),
        _ => None,
    });
    names.collect()
}

fn signalled(plan: &Plan) -> Vec<&str> {
    let names = plan.actions.iter().filter_map(|a| match a {
        Action::Signal { container, .. } => Some(container.as_str()),
        _ => None,
    });
    names.collect()
}

#[test]
fn a_sidecar_holds_the_next_container_until_it_has_come_up() {
    let mut pod = with_sidecars();
    let probed = Container { startup_probe: Some(Probe::default()), ..sidecar("s1") };
    pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0] = probed.clone();
    let mut memory = with_images(&pod, 0);
    assert_eq!(started(&plan(&pod, &observed(vec![]), &memory, at(1))), ["s1"]);
    let coming = observed(vec![seen_as(&probed, running())]);
    let waits = plan(&pod, &coming, &memory, at(1));
    assert_eq!(started(&waits), Vec::<&str>::new());
    assert_eq!(waits.status.phase.as_deref(), Some("Pending"));
    assert_eq!(waits.probes.into_iter().collect::<Vec<_>>(), [(ContainerId::new("s1-0".to_owned()), ProbeKind::Startup)]);
    memory.probes.insert((ContainerId::new("s1-0".to_owned()), ProbeKind::Startup), Verdict::Success);
    assert_eq!(started(&plan(&pod, &coming, &memory, at(1))), ["s2"]);
}

#[test]
fn sidecars_run_beside_the_apps_restart_and_go_last_in_reverse() {
    let pod = with_sidecars();
    let memory = with_images(&pod, 1);
    let (s1, s2) = (seen_as(&sidecar("s1"), running()), seen_as(&sidecar("s2"), running()));
    let all = observed(vec![s1.clone(), s2.clone(), seen("a", 0, 0, running())]);
    let steady = plan(&pod, &all, &memory, at(1));
    assert!(steady.actions.is_empty(), "{:?}", steady.actions);
    assert_eq!(steady.status.phase.as_deref(), Some("Running"));
    let ended = ObservedContainer { state: exited(0, 1), ..s1.clone() };
    assert_eq!(started(&plan(&pod, &observed(vec![ended, s2.clone(), seen("a", 0, 0, running())]), &memory, at(60))), ["s1"]);

    let stop = |observed: &Observed, memory: &Memory, now: i64| {
        let desired = Desired { pod: &pod, stop: Some(Stop::Deleted { grace_seconds: 30 }) };
        decide(desired, observed, memory, &Rules::default(), Now { wall: at(now), steady: at(now) })
    };
    let mut memory = memory;
    let first = stop(&all, &memory, 10);
    assert_eq!(signalled(&first), ["a"]);
    for c in &all.containers {
        memory.stopping.insert(c.id.clone(), at(10));
        memory.pre_stopped.insert(c.id.clone());
    }
    memory.signalled.insert(all.containers[2].id.clone(), at(10));
    assert!(stop(&all, &memory, 12).actions.is_empty());
    let a_ended = observed(vec![s1.clone(), s2.clone(), seen("a", 0, 0, exited(0, 12))]);
    assert_eq!(signalled(&stop(&a_ended, &memory, 12)), ["s2"]);
    let s2_ended = observed(vec![s1, ObservedContainer { state: exited(0, 13), ..s2 }, seen("a", 0, 0, exited(0, 12))]);
    assert_eq!(signalled(&stop(&s2_ended, &memory, 13)), ["s1"]);
    // The grace period is everybody's.
    assert_eq!(signalled(&stop(&all, &memory, 41)), ["s1", "s2"]);
}

#[test]
fn apps_that_are_done_end_the_sidecars() {
    let mut pod = with_sidecars();
    pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let memory = with_images(&pod, 0);
    let (s1, s2) = (seen_as(&sidecar("s1"), running()), seen_as(&sidecar("s2"), running()));
    let done = observed(vec![s1, s2, seen("a", 0, 0, exited(0, 5))]);
    let ending = plan(&pod, &done, &memory, at(6));
    assert_eq!(signalled(&ending), ["s2"]);
    assert_eq!(ending.status.phase.as_deref(), Some("Running"));
    // What waits for its turn goes on waiting, whatever wakes the worker.
    let mut waits = memory.clone();
    waits.stopping.insert(done.containers[0].id.clone(), at(6));
    waits.pre_stopped.insert(done.containers[0].id.clone());
    waits.stopping.insert(done.containers[1].id.clone(), at(6));
    waits.signalled.insert(done.containers[1].id.clone(), at(6));
    assert_eq!(signalled(&plan(&pod, &done, &waits, at(7))), Vec::<&str>::new());
    let mut gone = done;
    gone.containers.iter_mut().for_each(|c| c.state = exited(0, 6));
    assert_eq!(plan(&pod, &gone, &memory, at(7)).status.phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_failed_liveness_probe_ends_the_container_with_its_own_grace() {
    let mut pod = pod("OnFailure", &[], &["a"]);
    let probe = Probe { termination_grace_period_seconds: Some(5), ..Probe::default() };
    let spec = Container { liveness_probe: Some(probe), ..container("a") };
    pod.spec.as_mut().unwrap().containers[0] = spec.clone();
    let mut memory = with_images(&pod, 1);
    let live = observed(vec![seen_as(&spec, running())]);
    let id = live.containers[0].id.clone();
    assert_eq!(plan(&pod, &live, &memory, at(1)).probes.len(), 1);
    memory.probes.insert((id.clone(), ProbeKind::Liveness), Verdict::Failure);
    let failing = plan(&pod, &live, &memory, at(1));
    assert!(failing.probes.is_empty());
    assert!(
        matches!(&failing.actions[..], [Action::Signal { message: Some(m), .. }] if m == "Container a failed liveness probe, will be restarted")
    );
    memory.stopping.insert(id.clone(), at(1));
    memory.signalled.insert(id, at(1));
    assert!(plan(&pod, &live, &memory, at(5)).actions.is_empty());
    assert!(matches!(plan(&pod, &live, &memory, at(6)).actions[..], [Action::Kill { .. }]));
    // It is restarted although it ended well.
    let ended = observed(vec![seen_as(&spec, exited(0, 6))]);
    assert_eq!(started(&plan(&pod, &ended, &memory, at(60))), ["a"]);
}

#[test]
fn a_pre_stop_hook_runs_before_the_signal_and_within_the_grace() {
    let mut pod = pod("Always", &[], &["a"]);
    let hook = Lifecycle { pre_stop: Some(LifecycleHandler::default()), ..Lifecycle::default() };
    let spec = Container { lifecycle: Some(hook), ..container("a") };
    pod.spec.as_mut().unwrap().containers[0] = spec.clone();
    let live = observed(vec![seen_as(&spec, running())]);
    let id = live.containers[0].id.clone();
    let mut memory = with_images(&pod, 0);
    let stop = |memory: &Memory, grace_seconds: i64, now: i64| {
        let desired = Desired { pod: &pod, stop: Some(Stop::Deleted { grace_seconds }) };
        decide(desired, &live, memory, &Rules::default(), Now { wall: at(now), steady: at(now) })
    };
    assert!(matches!(&stop(&memory, 30, 0).actions[..], [Action::PreStop { message, .. }] if message == "Stopping container a"));
    memory.stopping.insert(id.clone(), at(0));
    memory.in_flight.insert(ActionKey::PreStop(id.clone()));
    assert!(stop(&memory, 30, 10).actions.is_empty());
    // A shorter grace, told meanwhile, holds at once: the hook is given up.
    let cut = stop(&memory, 5, 10);
    assert!(matches!(cut.actions[..], [Action::Signal { message: None, .. }]));
    assert_eq!(cut.abandoned, [ActionKey::PreStop(id.clone())]);
    memory.signalled.insert(id.clone(), at(10));
    // Two seconds are left to it whatever the hook took.
    assert!(stop(&memory, 5, 11).actions.is_empty());
    assert!(matches!(stop(&memory, 5, 12).actions[..], [Action::Kill { .. }]));
}

#[test]
fn a_post_start_hook_holds_the_status_and_the_next_container() {
    let mut pod = pod("Always", &[], &["a", "b"]);
    let hook = Lifecycle { post_start: Some(LifecycleHandler::default()), ..Lifecycle::default() };
    let spec = Container { lifecycle: Some(hook), ..container("a") };
    pod.spec.as_mut().unwrap().containers[0] = spec.clone();
    let mut memory = with_images(&pod, 0);
    assert_eq!(started(&plan(&pod, &observed(vec![]), &memory, at(0))), ["a"]);
    let live = observed(vec![seen_as(&spec, running())]);
    let id = live.containers[0].id.clone();
    memory.post_start.insert(id.clone(), PostStart::Due);
    let hooking = plan(&pod, &live, &memory, at(0));
    assert!(matches!(hooking.actions[..], [Action::PostStart { .. }]));
    assert!(hooking.status.container_statuses.unwrap()[0].state.as_ref().unwrap().waiting.is_some());
    memory.post_start.insert(id.clone(), PostStart::Failed);
    let failed = plan(&pod, &live, &memory, at(0));
    assert!(failed.actions.iter().any(|a| matches!(a, Action::Signal { message: Some(m), .. } if m == "FailedPostStartHook")));
    // Its state says so until the next attempt runs.
    let failure = StartFailure { attempt: 0, reason: "PostStartHookError".into(), message: "m".into(), retry_at: at(0) };
    memory.start_failures.insert(ContainerName::from("a"), failure);
    let over = observed(vec![seen_as(&spec, exited(137, 1))]);
    let statuses = plan(&pod, &over, &memory, at(1)).status.container_statuses.unwrap();
    let waiting = statuses[0].state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!((waiting.reason.as_deref(), waiting.message.as_deref()), (Some("PostStartHookError"), Some("m")));
    memory.start_failures.clear();
    memory.post_start.remove(&id);
    assert_eq!(started(&plan(&pod, &live, &memory, at(0))), ["b"]);
}

#[test]
fn a_restart_rule_comes_before_the_policy() {
    let mut pod = pod("Never", &[], &["a"]);
    let rule = ContainerRestartRule {
        action: "Restart".into(),
        exit_codes: Some(ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(vec![42]) }),
    };
    let spec = Container { restart_policy: Some("Never".into()), restart_policy_rules: Some(vec![rule]), ..container("a") };
    pod.spec.as_mut().unwrap().containers[0] = spec.clone();
    let memory = with_images(&pod, 1);
    let after = |code| plan(&pod, &observed(vec![seen_as(&spec, exited(code, 5))]), &memory, at(60));
    assert_eq!(started(&after(42)), ["a"]);
    assert_eq!(after(42).status.phase.as_deref(), Some("Running"));
    assert_eq!(after(1).status.phase.as_deref(), Some("Failed"));
}

#[test]
fn an_ephemeral_container_is_started_once() {
    let mut pod = pod("Always", &[], &["a"]);
    let debug = EphemeralContainer { name: "debug".into(), image: Some("busybox:1".into()), ..EphemeralContainer::default() };
    pod.spec.as_mut().unwrap().ephemeral_containers = Some(vec![debug]);
    let memory = with_images(&pod, 0);
    assert_eq!(started(&plan(&pod, &observed(vec![seen("a", 0, 0, running())]), &memory, at(1))), ["debug"]);
    let ended = plan(&pod, &observed(vec![seen("a", 0, 0, running()), seen("debug", 0, 0, exited(1, 5))]), &memory, at(60));
    assert!(ended.actions.is_empty(), "{:?}", ended.actions);
    assert_eq!(ended.status.phase.as_deref(), Some("Running"));
    assert!(ended.status.ephemeral_container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn an_evicted_pod_fails_with_the_nodes_words_and_ends_in_the_grace_that_the_node_gives_it() {
    let p = pod("Always", &[], &["a"]);
    let failed = Rejected { reason: "Evicted".into(), message: "The node was low on resource: memory. ".into() };
    let mut memory = with_images(&p, 0);
    let disruption = Disruption { since: at(5), message: failed.message.clone() };
    memory.evicted = Some(Eviction { failed, grace_seconds: Some(1), disruption: Some(disruption), event: true });
    let runs = observed(vec![seen("a", 0, 0, running())]);
    let first = plan(&p, &runs, &memory, at(6));
    assert!(matches!(&first.actions[..], [Action::Signal { .. }]), "{:?}", first.actions);
    assert_eq!((phase(&first), first.status.reason.as_deref()), ("Failed", Some("Evicted")));
    assert_eq!(first.status.message.as_deref(), Some("The node was low on resource: memory. "));
    let target = |plan: &Plan| plan.status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "DisruptionTarget").cloned();
    let condition = target(&first).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    assert_eq!(condition.message, first.status.message);
    assert_eq!(condition.last_transition_time.map(|time| time.0), Some(at(5)));

    memory.stopping.insert(ContainerId::new("a-0"), at(6));
    memory.signalled.insert(ContainerId::new("a-0"), at(6));
    assert!(plan(&p, &runs, &memory, at(7)).actions.is_empty(), "two seconds at least");
    let late = plan(&p, &runs, &memory, at(8));
    assert!(matches!(&late.actions[..], [Action::Kill { .. }]), "not the pod's own 30 s: {:?}", late.actions);
    let ended = plan(&p, &observed(vec![seen("a", 0, 0, exited(137, 8))]), &memory, at(9));
    assert_eq!((phase(&ended), &ended.actions[..]), ("Failed", &[Action::Release][..]), "it does not start again");

    memory.evicted.as_mut().unwrap().disruption = None;
    assert_eq!(target(&plan(&p, &runs, &memory, at(6))), None);

    // Where the node gives it none, it has its own.
    memory.evicted.as_mut().unwrap().grace_seconds = None;
    assert!(plan(&p, &runs, &memory, at(35)).actions.is_empty());
    assert!(matches!(&plan(&p, &runs, &memory, at(36)).actions[..], [Action::Kill { .. }]));
}

#[test]
fn what_a_deletion_gives_shrinks_to_what_the_node_has() {
    let mut p = pod("Always", &[], &["a"]);
    p.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(5)));
    p.metadata.deletion_grace_period_seconds = Some(600);
    let runs = observed(vec![seen("a", 0, 0, running())]);
    for (given, kill_at) in [(None, 606), (Some(20), 26), (Some(900), 606), (Some(0), 8)] {
        let mut memory = with_images(&p, 0);
        let failed = Rejected { reason: "Terminated".into(), message: String::new() };
        memory.evicted = Some(Eviction { failed, grace_seconds: given, disruption: None, event: false });
        memory.stopping.insert(ContainerId::new("a-0"), at(6));
        memory.signalled.insert(ContainerId::new("a-0"), at(6));
        let early = plan(&p, &runs, &memory, at(kill_at - 1));
        assert!(early.actions.is_empty(), "{given:?}: {:?}", early.actions);
        let late = plan(&p, &runs, &memory, at(kill_at));
        assert!(matches!(&late.actions[..], [Action::Kill { .. }]), "{given:?}: {:?}", late.actions);
    }
}
