//! The Node object: registration, lease, conditions, deletion behind the agent's back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::harness::{Bed, SOON, started_at};

impl Bed {
    async fn node(&self) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.get(self.pet.name()).await.context("get the node")
    }
}

#[e2e]
async fn e2e_a_node_registers_like_a_kubelet() -> Result<()> {
    let bed = Bed::shared("node").await?;
    let node = bed.node().await?;
    let labels = node.metadata.labels.unwrap_or_default();
    for (label, value) in [("kubernetes.io/hostname", bed.pet.name()), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", "amd64")] {
        ensure!(labels.get(label).map(String::as_str) == Some(value), "{label}: {labels:?}");
    }
    let status = node.status.context("a status")?;
    let addresses: Vec<(String, String)> =
        status.addresses.unwrap_or_default().into_iter().map(|address| (address.type_, address.address)).collect();
    ensure!(addresses.contains(&("InternalIP".into(), bed.pet.address().to_string())), "{addresses:?}");
    ensure!(addresses.contains(&("Hostname".into(), bed.pet.name().to_owned())), "{addresses:?}");
    for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
        for amounts in [&status.capacity, &status.allocatable] {
            let amount = amounts.as_ref().and_then(|amounts| amounts.get(resource));
            ensure!(amount.is_some_and(|amount| amount.0 != "0"), "{resource}: {amount:?}");
        }
    }
    let info = status.node_info.context("nodeInfo")?;
    ensure!(info.kubelet_version.starts_with("v1.37."), "{}", info.kubelet_version);
    ensure!(info.kubelet_version.contains("kube-pet"), "{}", info.kubelet_version);
    ensure!(info.container_runtime_version.starts_with("podman://"));
    let port = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint);
    ensure!(port.is_some_and(|endpoint| endpoint.port == 10250));
    let conditions = status.conditions.unwrap_or_default();
    for (kind, wanted) in [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")] {
        let found = conditions.iter().find(|condition| condition.type_ == kind);
        ensure!(found.is_some_and(|found| found.status == wanted), "{kind}: {found:?}");
    }
    bed.done().await
}

#[e2e]
async fn e2e_the_lease_is_renewed() -> Result<()> {
    let bed = Bed::shared("lease").await?;
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), "kube-node-lease");
    let renewed = || async {
        let lease = leases.get(bed.pet.name()).await?;
        let spec = lease.spec.context("a spec")?;
        ensure!(spec.lease_duration_seconds == Some(40));
        spec.renew_time.map(|time| time.0).context("a time")
    };
    let first = renewed().await?;
    kube_pet_lab::eventually(Duration::from_secs(20), "the lease is renewed", || async {
        ensure!(renewed().await? > first);
        Ok(())
    })
    .await?;
    bed.done().await
}

#[e2e]
async fn e2e_a_node_deleted_behind_its_back_comes_again_and_keeps_its_pods() -> Result<()> {
    let bed = Bed::own_with("reborn", |options| {
        options
            .with("nodeLabels", json!({"node.kubernetes.io/colour": "green"}))
            .with("registerWithTaints", json!([{"key": "kube-pet.dev/test", "value": "yes", "effect": "PreferNoSchedule"}]))
    })
    .await?;
    bed.pod("p", json!({"containers": [crate::harness::shell("c", "sleep 3600")]})).await?;
    let before = bed.phase("p", "Running").await?;
    let containers = bed.pet.podman(&["ps", "--quiet", "--no-trunc"]).await?;
    let old = bed.node().await?;
    let nodes: Api<Node> = Api::all(bed.client.clone());
    nodes.delete(bed.pet.name(), &DeleteParams::default()).await?;
    let node = kube_pet_lab::eventually(SOON, "the node is there again", || async {
        let node = bed.node().await?;
        ensure!(node.metadata.uid != old.metadata.uid, "still the old one");
        Ok(node)
    })
    .await?;
    let labels = node.metadata.labels.unwrap_or_default();
    ensure!(labels.get("node.kubernetes.io/colour").map(String::as_str) == Some("green"));
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    ensure!(taints.iter().any(|taint| taint.key == "kube-pet.dev/test"), "{taints:?}");
    bed.pet.ready(SOON).await?;
    let after = bed.pet.podman(&["ps", "--quiet", "--no-trunc"]).await?;
    ensure!(after == containers, "other containers: {after} instead of {containers}");
    // The control plane's own garbage collector may take the pod with the node; while it is there it is the same one.
    if let Some(pod) = bed.pods().get_opt("p").await? {
        ensure!(started_at(&pod, "c") == started_at(&before, "c"));
    }
    bed.done().await
}

#[e2e]
async fn e2e_the_node_restriction_is_never_met() -> Result<()> {
    let bed = Bed::own("clean").await?;
    bed.create::<k8s_openapi::api::core::v1::Secret>(json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}})).await?;
    let spec = json!({
        "container": {"volumeMounts": [{"name": "s", "mountPath": "/s"}]},
        "volumes": [{"name": "s", "secret": {"secretName": "s"}}],
    });
    ensure!(bed.script("p", "cat /s/k", spec).await? == "v");
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    let log = bed.pet.agent_log();
    for line in log.lines() {
        let refused = line.contains("orbidden") || line.contains(" 403");
        ensure!(!refused, "{line}");
    }
    bed.done().await
}
