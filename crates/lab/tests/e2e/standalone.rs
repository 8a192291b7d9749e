//! `kube-pet run`: pods without any cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube_pet_lab::eventually;
use serde_json::json;

use crate::harness::{Bed, PAUSE, SOON, shell};

#[e2e]
async fn e2e_pods_from_files_run_without_a_cluster() -> Result<()> {
    let bed = Bed::own("standalone").await?;
    bed.pet.stop_agent().await?;
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "alone"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": PAUSE},
            shell("failing", "echo once more; exit 3"),
        ]},
    });
    std::fs::write(bed.pet.path("/etc/kube-pet/alone.yaml"), manifest.to_string()).context("write the manifest")?;
    let run = bed.pet.run_files(&["/etc/kube-pet/alone.yaml"]).await?;
    let names = |all: &'static str| {
        let podman =
            bed.pet.podman(if all.is_empty() { &["ps", "--format", "{{.Names}}"] } else { &["ps", "--all", "--format", "{{.Names}}"] });
        async move { anyhow::Ok(podman.await?.lines().map(str::to_owned).collect::<Vec<_>>()) }
    };
    eventually(SOON, "the container runs", || async {
        let running = names("").await?;
        ensure!(running.iter().any(|name| name.starts_with("k8s_c_alone")), "{running:?}");
        Ok(())
    })
    .await?;
    // The first restart is at once.
    eventually(SOON, "the failing container is restarted", || async {
        let all = names("all").await?;
        ensure!(all.iter().any(|name| name.starts_with("k8s_failing_alone") && name.ends_with("_1")), "{all:?}");
        Ok(())
    })
    .await?;
    // Its end leaves the pods alone.
    run.stop(Duration::from_secs(10)).await?;
    let running = names("").await?;
    ensure!(running.iter().any(|name| name.starts_with("k8s_c_alone")), "{running:?}");
    bed.done().await
}
