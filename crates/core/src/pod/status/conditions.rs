//! `status.conditions`, after the kubelet's `status/generate.go`.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{View, resize};
use crate::pod::resizing::{RESIZE_IN_PROGRESS, RESIZE_PENDING};
use crate::pod::spec::may_restart_all;
use crate::resources::is_sidecar;

/// All containers of the pod are being restarted (KEP-5532).
const ALL_RESTARTING: &str = "AllContainersRestarting";

/// Condition types that a kubelet writes; all others are left as they are.
const OWN: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    ALL_RESTARTING,
    RESIZE_PENDING,
    RESIZE_IN_PROGRESS,
];

/// Whether a condition is the node's to write.
pub fn is_own_condition(kind: &str) -> bool {
    OWN.contains(&kind)
}

/// Tells what cares for the pod that it did not fail by itself.
const DISRUPTION_TARGET: &str = "DisruptionTarget";

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes(kind: &'static str) -> Self {
        Self { kind, holds: true, reason: None, message: None }
    }
    fn no(kind: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self { kind, holds: false, reason: Some(reason), message }
    }
}

/// Foreign conditions first, then the kubelet's in its order. A transition time changes only with the status.
pub(super) fn conditions(view: &View<'_>, phase: &str, init: &[ContainerStatus], apps: &[ContainerStatus]) -> Vec<PodCondition> {
    let pod = view.desired.pod;
    let old = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut out: Vec<_> = old.iter().filter(|c| !OWN.contains(&c.type_.as_str())).cloned().collect();
    if !matches!(phase, "Failed" | "Succeeded") {
        out.extend(resize::conditions(view, old));
    }
    if let Some(disruption) = view.memory.evicted.as_ref().and_then(|eviction| eviction.disruption.as_ref()) {
        out.retain(|condition| condition.type_ != DISRUPTION_TARGET);
        out.push(PodCondition {
            type_: DISRUPTION_TARGET.to_owned(),
            status: "True".to_owned(),
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(disruption.message.clone()),
            last_transition_time: Some(Time(disruption.since)),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        });
    }
    let sidecars: Vec<_> = sidecar_names(pod);
    let containers = containers_ready(&sidecars, init, apps, phase);
    let ready = ready(view, &containers, &out);
    let sandbox = if view.observed.sandbox.is_some() && !view.memory.released {
        Verdict::yes("PodReadyToStartContainers")
    } else {
        Verdict::no("PodReadyToStartContainers", "PodSandboxNotReady", None)
    };
    let restarting = may_restart_all(pod).then(|| all_restarting(view, phase));
    let usual = [sandbox, initialized(&sidecars, phase, init, apps), ready, containers, Verdict::yes("PodScheduled")];
    for verdict in usual.into_iter().chain(restarting) {
        let status = if verdict.holds { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == verdict.kind);
        let unchanged = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        out.push(PodCondition {
            type_: verdict.kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_transition_time: Some(unchanged.unwrap_or(Time(view.now.wall))),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        });
    }
    out
}

fn sidecar_names(pod: &Pod) -> Vec<&str> {
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    init.iter().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect()
}

fn initialized(sidecars: &[&str], phase: &str, init: &[ContainerStatus], apps: &[ContainerStatus]) -> Verdict {
    const KIND: &str = "Initialized";
    let done = |s: &ContainerStatus| if sidecars.contains(&s.name.as_str()) { s.started == Some(true) } else { s.ready };
    let incomplete: Vec<_> = init.iter().filter(|s| !done(s)).map(|s| s.name.as_str()).collect();
    if phase == "Succeeded" {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::yes(KIND) };
    }
    let started = apps.iter().any(|s| {
        s.started == Some(true)
            || s.state.as_ref().is_some_and(|s| s.terminated.is_some())
            || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    });
    if started || incomplete.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ContainersNotInitialized", Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))))
}

fn containers_ready(sidecars: &[&str], init: &[ContainerStatus], apps: &[ContainerStatus], phase: &str) -> Verdict {
    const KIND: &str = "ContainersReady";
    match phase {
        "Succeeded" => return Verdict::no(KIND, "PodCompleted", None),
        "Failed" => return Verdict::no(KIND, "PodFailed", None),
        _ => {}
    }
    let sidecars = init.iter().filter(|s| sidecars.contains(&s.name.as_str()));
    let unready: Vec<_> = sidecars.chain(apps).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" "))))
}

/// True from the end that asks for the restart until the next round begins.
fn all_restarting(view: &View<'_>, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => Verdict::no(ALL_RESTARTING, "PodCompleted", None),
        "Failed" => Verdict::no(ALL_RESTARTING, "PodFailed", None),
        _ if view.round.has_begun => Verdict { holds: false, ..Verdict::yes(ALL_RESTARTING) },
        _ => Verdict {
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
            ..Verdict::yes(ALL_RESTARTING)
        },
    }
}

fn ready(view: &View<'_>, containers: &Verdict, foreign: &[PodCondition]) -> Verdict {
    const KIND: &str = "Ready";
    if !containers.holds {
        return Verdict { kind: KIND, holds: false, reason: containers.reason, message: containers.message.clone() };
    }
    let gates = view.desired.pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let unmet: Vec<_> = gates
        .iter()
        .filter_map(|gate| match foreign.iter().find(|c| c.type_ == gate.condition_type) {
            None => Some(format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type)),
            Some(c) if c.status != "True" => {
                Some(format!("the status of pod readiness gate {:?} is not \"True\", but {}", gate.condition_type, c.status))
            }
            Some(_) => None,
        })
        .collect();
    if unmet.is_empty() { Verdict::yes(KIND) } else { Verdict::no(KIND, "ReadinessGatesNotReady", Some(unmet.join(", "))) }
}
