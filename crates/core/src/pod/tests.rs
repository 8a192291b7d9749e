mod resize;
mod rounds;
mod simulation;
mod tables;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::*;
use crate::container_hash::container_hash;
use crate::ids::{ContainerId, ContainerName};
use crate::resources::is_sidecar;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(super) fn container(name: &str) -> Container {
    Container { name: name.into(), image: Some("busybox:1".into()), ..Container::default() }
}

pub(super) fn pod(policy: &str, init: &[&str], apps: &[&str]) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some("p".into());
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.uid = Some("u1".into());
    pod.metadata.generation = Some(1);
    pod.spec = Some(PodSpec {
        restart_policy: Some(policy.into()),
        init_containers: (!init.is_empty()).then(|| init.iter().map(|n| container(n)).collect()),
        containers: apps.iter().map(|n| container(n)).collect(),
        termination_grace_period_seconds: Some(30),
        ..PodSpec::default()
    });
    pod
}

pub(super) fn sandbox() -> SandboxFacts {
    SandboxFacts { id: "sb1".into(), pod_ips: vec!["10.244.0.7".parse().unwrap()] }
}

pub(super) fn seen(name: &str, attempt: u32, backoff_seconds: u32, state: ContainerState) -> ObservedContainer {
    ObservedContainer {
        id: ContainerId::new(format!("{name}-{attempt}")),
        name: ContainerName::from(name),
        attempt,
        spec_hash: container_hash(&container(name)),
        round: 0,
        backoff_seconds,
        sandbox: "sb1".into(),
        image: "docker.io/library/busybox:1".into(),
        image_id: "sha256:1".into(),
        amounts: None,
        created_at: at(0),
        state,
        user: None,
    }
}

pub(super) fn running() -> ContainerState {
    ContainerState::Running { started_at: at(0) }
}

pub(super) fn exited(code: i32, finished: i64) -> ContainerState {
    ContainerState::Exited(Exit { code, started_at: Some(at(finished - 1)), finished_at: at(finished), reason: None, message: None })
}

pub(super) fn observed(containers: Vec<ObservedContainer>) -> Observed {
    Observed { containers, sandbox: Some(sandbox()) }
}

/// A memory in which images are there already, so that starts follow at once.
pub(super) fn with_images(pod: &Pod, attempt: u32) -> Memory {
    let mut memory = Memory { admitted: true, start_time: Some(at(0)), ..Memory::default() };
    for (_, c) in containers(pod) {
        memory.images.insert(ContainerName::from(c.name.as_str()), attempt);
    }
    memory
}

pub(super) fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    decide(Desired { pod, stop: Stop::of(pod, true) }, observed, memory, &Rules::default(), Now { wall: now, steady: now })
}
