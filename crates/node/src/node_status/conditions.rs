//! The node's conditions, from measurements, with the kubelet's reasons and messages.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_pet_core::shutdown;

/// The condition that tells of a pod network that is not taken over while pods use the old one.
pub(super) const CIDR_CHANGE_REFUSED: &str = "PodCIDRChangeRefused";

/// What the conditions depend on, beside the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// What is wrong with Podman.
    pub(super) runtime: Option<String>,
    /// Whether a pod network is known.
    pub(super) network: bool,
    /// Why a new pod network is not used.
    pub(super) cidr_conflict: Option<String>,
    /// Resources whose capacity could not be read.
    pub(super) missing: Vec<String>,
    /// The machine is being shut down.
    pub(super) shutting_down: bool,
}

struct Wording {
    kind: &'static str,
    yes: (&'static str, &'static str),
    no: (&'static str, &'static str),
    events: (&'static str, &'static str),
}

const MEMORY: Wording = Wording {
    kind: "MemoryPressure",
    yes: ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    no: ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    events: ("NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
};
const DISK: Wording = Wording {
    kind: "DiskPressure",
    yes: ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    no: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    events: ("NodeHasDiskPressure", "NodeHasNoDiskPressure"),
};
const PID: Wording = Wording {
    kind: "PIDPressure",
    yes: ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    no: ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    events: ("NodeHasInsufficientPID", "NodeHasSufficientPID"),
};

/// New conditions, and the reasons of the events that tell of the changes.
pub(super) struct Computed {
    pub(super) conditions: Vec<NodeCondition>,
    /// The condition's type and the event's reason.
    pub(super) events: Vec<(String, &'static str)>,
}

/// Computes the conditions; `before` are those of the Node, whose transition times are kept where nothing changed.
pub(super) fn compute(before: &[NodeCondition], pressures: &BTreeSet<&'static str>, health: &Health, now: Timestamp) -> Computed {
    let mut computed = Computed { conditions: Vec::new(), events: Vec::new() };
    for wording in [MEMORY, DISK, PID] {
        let holds = pressures.contains(wording.kind);
        let ((reason, message), event) = if holds { (wording.yes, wording.events.0) } else { (wording.no, wording.events.1) };
        if computed.push(before, condition(wording.kind, holds, reason, message, now)) {
            computed.events.push((wording.kind.to_owned(), event));
        }
    }
    if health.network {
        let up = condition("NetworkUnavailable", false, "PodNetworkReady", "the pod network of this node is known", now);
        computed.push(before, up);
    }
    if let Some(conflict) = &health.cidr_conflict {
        computed.push(before, condition(CIDR_CHANGE_REFUSED, true, "PodsUseOldNetwork", conflict, now));
    } else if before.iter().any(|condition| condition.type_ == CIDR_CHANGE_REFUSED) {
        let done = "the pods are on the network that the Node names";
        computed.push(before, condition(CIDR_CHANGE_REFUSED, false, "PodsUseCurrentNetwork", done, now));
    }
    // The kubelet's comes last, and tools have come to count on it.
    let ready = match not_ready(health) {
        None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status", now),
        Some(why) => condition("Ready", false, "KubeletNotReady", &why, now),
    };
    let was_there = before.iter().any(|condition| condition.type_ == "Ready");
    let event = if ready.status == "True" { "NodeReady" } else { "NodeNotReady" };
    if computed.push(before, ready) && was_there {
        computed.events.push(("Ready".to_owned(), event));
    }
    computed
}

/// The reasons, as the kubelet orders, words and joins them.
fn not_ready(health: &Health) -> Option<String> {
    let mut reasons = Vec::new();
    if let Some(runtime) = &health.runtime {
        reasons.push(format!("container runtime is down: {runtime}"));
    }
    if !health.network {
        reasons.push(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no pod CIDR is assigned to this node"
                .to_owned(),
        );
    }
    if health.shutting_down {
        reasons.push(shutdown::NOT_READY.to_owned());
    }
    if !health.missing.is_empty() {
        reasons.push(format!("missing node capacity for resources: {}", health.missing.join(", ")));
    }
    match reasons.len() {
        0 => None,
        1 => reasons.pop(),
        _ => Some(format!("[{}]", reasons.join(", "))),
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str, now: Timestamp) -> NodeCondition {
    // The API keeps whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    NodeCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

impl Computed {
    /// Adds a condition; its transition time is the old one's unless its status is new. Returns whether it is.
    fn push(&mut self, before: &[NodeCondition], mut new: NodeCondition) -> bool {
        let old = before.iter().find(|old| old.type_ == new.type_ && old.status == new.status);
        if let Some(old) = old {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
        self.conditions.push(new);
        old.is_none()
    }
}

/// Whether anything but heartbeats differs between the Node's conditions and those of them that are ours.
pub(super) fn differ(before: &[NodeCondition], ours: &[NodeCondition]) -> bool {
    ours.iter().any(|new| {
        !before.iter().any(|old| {
            old.type_ == new.type_
                && old.status == new.status
                && old.reason == new.reason
                && old.message == new.message
                && old.last_transition_time == new.last_transition_time
        })
    })
}
