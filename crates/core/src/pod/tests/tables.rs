//! One situation, one decision.

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
fn a_changed_image_stops_the_container_and_starts_it_whatever_the_policy() {
    let p = pod("Never", &[], &["a"]);
    let mut old = seen("a", 0, 0, running());
    old.spec_hash = "other".into();
    let result = plan(&p, &observed(vec![old.clone()]), &with_images(&p, 1), at(1));
    assert!(
        matches!(&result.actions[..], [Action::Signal { message, .. }] if message == "Container a definition changed, will be restarted")
    );
    old.state = exited(143, 2);
    let result = plan(&p, &observed(vec![old]), &with_images(&p, 1), at(3));
    assert_eq!(starts(&result), [("a".to_owned(), 1, 0)]);
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
    assert!(matches!(plan(&p, &live, &memory, at(11)).actions[..], [Action::Kill { .. }]));
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
    let mut memory = Memory { admitted: true, start_time: Some(at(0)), ..Memory::default() };
    memory.image_failures.insert(
        "a".into(),
        ImageFailure {
            image: "busybox:1".into(),
            reason: "ErrImagePull".into(),
            message: "no such host".into(),
            at: at(10),
            backoff_seconds: 20,
        },
    );
    let reason = |now| {
        let result = plan(&p, &observed(vec![]), &memory, at(now));
        let status = result.status.container_statuses.as_ref().unwrap()[0].clone();
        let waiting = status.state.unwrap().waiting.unwrap();
        (waiting.reason.unwrap(), waiting.message.unwrap_or_default(), result.actions.len())
    };
    assert_eq!(reason(11), ("ErrImagePull".to_owned(), "no such host".to_owned(), 0));
    assert_eq!(
        reason(20),
        ("ImagePullBackOff".to_owned(), "Back-off pulling image \"busybox:1\": ErrImagePull: no such host".to_owned(), 0)
    );
    assert_eq!(reason(30).2, 1, "tried again after the back-off");
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
    assert!(patch["status"]["conditions"].as_array().unwrap().iter().all(|c| c.get("$patch").is_none() && c.get("reason").is_some()));
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
