//! The plug is pulled while pods come and go.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use kube::api::DeleteParams;
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::bed::{Bed, SOON, on_node, phase_of, shell};

/// Pods by name; containers and links of the machine by the UID of their pod.
async fn converged(bed: &Bed, names: &[String]) -> Result<()> {
    let pods = bed.pods().list(&Default::default()).await?.items;
    let mut found: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    found.sort();
    ensure!(found == names, "{found:?}");
    let uids: BTreeMap<_, _> = pods.iter().filter_map(|pod| Some((pod.metadata.uid.clone()?, pod.metadata.name.clone()?))).collect();
    for pod in &pods {
        ensure!(phase_of(pod) == "Running", "{:?}: {:?}", pod.metadata.name, pod.status);
    }
    let containers: Value = serde_json::from_str(&bed.vm.shell("podman ps --all --format json").await?)?;
    let containers = containers.as_array().cloned().unwrap_or_default();
    let running = containers.iter().filter(|one| one["State"] == "running");
    let mut of_pods: Vec<_> =
        running.filter_map(|one| one["Labels"]["io.kubernetes.pod.uid"].as_str()).filter_map(|uid| uids.get(uid)).collect();
    of_pods.sort();
    ensure!(of_pods.iter().copied().eq(names), "running: {of_pods:?}");
    let strangers: Vec<_> =
        containers.iter().filter(|one| one["Labels"]["io.kubernetes.pod.uid"].as_str().is_none_or(|uid| !uids.contains_key(uid))).collect();
    ensure!(strangers.is_empty(), "containers of nobody: {strangers:?}");
    for folder in ["/var/lib/kube-pet/pods", "/run/kube-pet/sandboxes"] {
        let mut left: Vec<_> = bed.vm.shell(&format!("ls {folder}")).await?.lines().map(str::to_owned).collect();
        left.sort();
        ensure!(left.iter().eq(uids.keys()), "{folder}: {left:?}, not {uids:?}");
    }
    let groups = bed.vm.shell("ls -d /sys/fs/cgroup/kubepods/besteffort/pod* | wc -l").await?;
    ensure!(groups.trim() == names.len().to_string(), "{groups} cgroups");
    Ok(())
}

#[tokio::test]
async fn vm_a_power_cut_amid_changes_loses_no_pod_and_leaves_none() -> Result<()> {
    on_node(
        "powercut",
        |options| options,
        async |bed| {
            let sleeper = || json!({"containers": [shell("c", "sleep 3600")]});
            let create = async |name: &str| bed.pod(name, sleeper()).await;
            let delete = async |name: &str| bed.pods().delete(name, &DeleteParams::default()).await.map(drop).map_err(anyhow::Error::from);
            for name in ["a0", "a1", "stays"] {
                create(name).await?;
                bed.phase(name, "Running").await?;
            }
            for round in 0..2 {
                // Some go and some come, and the power goes in the middle of it: a bit later each time.
                let (old, new) = (format!("a{round}"), format!("b{round}"));
                delete(&old).await?;
                create(&new).await?;
                create(&format!("c{round}")).await?;
                tokio::time::sleep(std::time::Duration::from_millis(1500 * round)).await;
                bed.vm.power_cut().await?;
                // The world goes on while it is dark.
                delete(&new).await?;
                create(&format!("d{round}")).await?;
                bed.vm.boot().await?;
                let mut names: Vec<_> = (0..=round).flat_map(|r| [format!("c{r}"), format!("d{r}")]).collect();
                names.extend((round + 1..2).map(|r| format!("a{r}")));
                names.push("stays".to_owned());
                names.sort();
                eventually(SOON, &format!("all is well after power cut {round}"), || converged(bed, &names)).await?;
            }
            Ok(())
        },
    )
    .await
}
