//! Static pods and their mirrors.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::harness::{Bed, PAUSE, SOON, is_ready_again, phase_of};

#[e2e]
async fn e2e_a_static_pod_runs_and_has_a_mirror() -> Result<()> {
    let bed = Bed::own("static").await?;
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "s", "namespace": bed.namespace},
        "spec": {"containers": [{"name": "c", "image": PAUSE}], "terminationGracePeriodSeconds": 1},
    });
    let file = bed.pet.path("/etc/kube-pet/manifests/s.yaml");
    std::fs::write(&file, manifest.to_string()).context("write the manifest")?;
    let mirror = format!("s-{}", bed.pet.name());
    let running = || bed.until(&mirror, SOON, "Running", |pod| phase_of(pod) == "Running");
    let pods: Api<Pod> = bed.pods();
    // Until the agent has made it there is nothing to get; `until` waits for that too.
    let pod = running().await?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    for name in ["mirror", "source", "hash"] {
        let name = format!("kubernetes.io/config.{name}");
        ensure!(annotations.contains_key(&name), "{name}: {annotations:?}");
    }
    let owner = pod.metadata.owner_references.unwrap_or_default();
    ensure!(owner.iter().any(|owner| owner.kind == "Node" && owner.name == bed.pet.name()));
    let containers = bed.pet.podman(&["ps", "--quiet"]).await?;
    is_ready_again(&pods, &mirror).await?;
    // The mirror is only a mirror: deleting it ends nothing, and it comes again.
    let old = pod.metadata.uid;
    pods.delete(&mirror, &DeleteParams::default().grace_period(0)).await?;
    bed.until(&mirror, SOON, "the mirror is there again", |pod| pod.metadata.uid != old).await?;
    running().await?;
    ensure!(bed.pet.podman(&["ps", "--quiet"]).await? == containers);
    std::fs::remove_file(&file).context("remove the manifest")?;
    bed.gone(&mirror, SOON).await?;
    crate::deletion::nothing_left(&bed).await?;
    bed.done().await
}
