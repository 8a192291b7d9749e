//! A small, fast part of the official suite of Kubernetes. `make conformance` runs all of it.

use std::{path::PathBuf, time::Duration};

use kube_pet_lab::{
    NodeAgent, ServiceProxy, Topology,
    conformance::{self, Focus, Selection},
};

/// About twenty specs of a few seconds each, from all over what a node does.
const FAST: &[&str] = &[
    r"Containers should be able to override the image's default command and arguments",
    r"Containers should use the image defaults",
    r"Variable Expansion should allow substituting values in a container's command",
    r"Variable Expansion should allow composing env vars into new env vars",
    r"ConfigMap should be consumable via environment variable",
    r"ConfigMap should be consumable from pods in volume with mappings \[",
    r"Secrets should be consumable from pods in volume with defaultMode set",
    r"Secrets should be consumable via the environment",
    r"Projected combined should project all components that make up the projection API",
    r"Downward API should provide pod name, namespace and IP address as env vars",
    r"Downward API volume should provide container's memory limit",
    r"EmptyDir volumes should support \(root,0644,tmpfs\)",
    r"EmptyDir volumes should support \(non-root,0777,default\)",
    r"HostPath should give a volume the correct mode",
    r"Security Context When creating a container with runAsUser should run the container with uid 65534",
    r"Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false",
    r"Container Runtime blackbox test when starting a container that exits should run with the expected status",
    r"Container Runtime blackbox test on terminated container should report termination message if TerminationMessagePath is set",
    r"InitContainer should invoke init containers on a RestartNever pod",
    r"Pods should be updated",
    r"Pods should get a host IP",
    r"Kubelet when scheduling a busybox command in a pod should print the output to logs",
];

#[tokio::test]
async fn e2e_official_suite_fast_part() {
    let selection = Selection {
        focus: Focus::Matching(FAST.join("|")),
        skip: r"\[Serial\]|\[Slow\]|\[Disruptive\]|\[Flaky\]".into(),
        procs: 8,
        topology: Topology { pets: 1, agent: NodeAgent::KubePet, proxy: ServiceProxy::Agent, dns: false, tunnel: false },
        limit: Duration::from_secs(600),
    };
    let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("official-suite");
    let name = format!("suite-{}", std::process::id());
    let report = conformance::run(&name, &selection, &output).await.unwrap();
    let failures: Vec<_> = report.failures().collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(report.specs.len() >= 20, "only {} specs matched", report.specs.len());
}
