//! Addresses and pod CIDRs: nobody's twice, and the same again for the same machine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use kube::api::{DeleteParams, ListParams};
use kube_pet_lab::{controller, eventually};
use serde_json::Value;

use super::{Cluster, condition, distinct, key};
use crate::harness::SOON;

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn e2e_each_pet_has_addresses_of_its_own_and_gets_them_again() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    for (number, name) in [(1, "one"), (2, "two")] {
        cluster.create_pet(name, &format!("machine-{name}"), &key(number)).await?;
    }
    let (one, two) = (cluster.allocated("one").await?, cluster.allocated("two").await?);
    for status in [&one, &two] {
        let addresses = texts(&status["nodeAddresses"]);
        ensure!(addresses.len() == 2 && addresses[0].starts_with("10.210.") && addresses[1].starts_with("fd00:210::"), "{status}");
        let pods = texts(&status["podCIDRs"]);
        ensure!(pods.len() == 1 && pods[0].starts_with("10.211.") && pods[0].ends_with("/26"), "{status}");
    }
    ensure!(one["publicKey"] == key(1).as_str());
    distinct(&[texts(&one["nodeAddresses"]), texts(&two["nodeAddresses"]), texts(&one["podCIDRs"]), texts(&two["podCIDRs"])].concat())?;
    let shown = cluster.lab.kubectl(&["get", "pets"]).await?;
    ensure!(shown.contains(&texts(&one["nodeAddresses"])[0]) && shown.contains("ALLOCATED"), "{shown}");

    // Gone and here again: the same machine has the same addresses, another one of its name has not.
    let pets = cluster.all("Pet");
    pets.delete("one", &DeleteParams::default()).await?;
    cluster.create_pet("one", "machine-one", &key(3)).await?;
    let again = cluster.allocated("one").await?;
    ensure!(again["nodeAddresses"] == one["nodeAddresses"] && again["podCIDRs"] == one["podCIDRs"], "{again}");
    pets.delete("one", &DeleteParams::default()).await?;
    cluster.create_pet("one", "machine-other", &key(4)).await?;
    let other = cluster.allocated("one").await?;
    ensure!(other["nodeAddresses"] != one["nodeAddresses"] && other["podCIDRs"] != one["podCIDRs"], "{other}");

    // The counts in the PetNetwork: what is kept for the first machine is counted too.
    let networks = cluster.all("PetNetwork");
    eventually(SOON, "the PetNetwork counts", || async {
        let status = networks.get("default").await?.data["status"].clone();
        let counts = &status["allocated"];
        ensure!(counts["pets"] == 2 && counts["podCIDRs"] == 3 && counts["nodeAddresses"] == 6, "{status}");
        ensure!(condition(&status, "Ready") == "True", "{status}");
        Ok(())
    })
    .await?;
    cluster.done().await
}

#[tokio::test]
async fn e2e_addresses_are_free_again_after_the_time_of_reclaim_after() -> Result<()> {
    let cluster = Cluster::start("3s").await?;
    cluster.create_pet("short", "machine-short", &key(1)).await?;
    cluster.allocated("short").await?;
    // Its Node never comes: the Pet goes after the time, and with it what it had.
    let (pets, allocations) = (cluster.all("Pet"), cluster.all("PetAllocation"));
    eventually(SOON, "the Pet and its allocations are gone", || async {
        let left = pets.list(&ListParams::default()).await?.items.len() + allocations.list(&ListParams::default()).await?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    ensure!(cluster.metric("kube_pet_reclaimed_total", "").await? >= 4.0);
    cluster.done().await
}

/// Two controllers that both work (their Leases are in different namespaces, as after a failed election), a third that takes over
/// when one is killed in the middle.
#[tokio::test]
async fn e2e_200_pets_at_once_and_a_killed_controller_make_no_double() -> Result<()> {
    const PETS: u16 = 200;
    let cluster = Cluster::start("168h").await?;
    let lab = &cluster.lab;
    let elsewhere = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other-lease"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
         "metadata": {"name": "lease", "namespace": "other-lease"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit-leases"},
         "subjects": [{"kind": "ServiceAccount", "name": "kube-pet-controller", "namespace": "kube-pet"}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "edit-leases"},
         "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}]}]}"#;
    lab.kubectl_with_input(&["apply", "-f", "-"], elsewhere).await?;
    let rival = controller::start(lab, 1, &["--namespace=other-lease"]).await?;
    let standby = controller::start(lab, 2, &[]).await?;
    rival.logged("leading", SOON).await?;
    standby.logged("standing by", SOON).await?;

    let create = |number: u16| {
        let cluster = &cluster;
        async move { cluster.create_pet(&format!("pet-{number}"), &format!("machine-{number}"), &key(number)).await }
    };
    let (first, rest) = (0..PETS / 2, PETS / 2..PETS);
    futures::stream::iter(first).map(create).buffer_unordered(32).try_collect::<()>().await?;
    // Both kinds of end: with the process, and with the Lease still held.
    cluster.controller.kill().await?;
    futures::stream::iter(rest).map(create).buffer_unordered(32).try_collect::<()>().await?;
    standby.logged("leading", SOON).await?;

    let pets = cluster.all("Pet");
    let all = eventually(Duration::from_secs(120), "all pets are allocated", || async {
        let list = pets.list(&ListParams::default()).await?.items;
        let done = list.iter().filter(|pet| condition(&pet.data["status"], "Allocated") == "True").count();
        ensure!(done == usize::from(PETS) && list.len() == done, "{done} of {PETS}");
        Ok(list)
    })
    .await?;
    let given = |field: &str| all.iter().flat_map(|pet| texts(&pet.data["status"][field])).collect::<Vec<_>>();
    for (field, each) in [("nodeAddresses", 2), ("podCIDRs", 1)] {
        let values = given(field);
        ensure!(values.len() == usize::from(PETS) * each, "{} {field}", values.len());
        distinct(&values)?;
    }
    // What one of the two has claimed beside what the status says is given back.
    let allocations = cluster.all("PetAllocation");
    eventually(SOON, "each pet has its four allocations and no more", || async {
        let list = allocations.list(&ListParams::default()).await?.items;
        ensure!(list.len() == usize::from(PETS) * 4, "{}", list.len());
        for allocation in list {
            let spec = &allocation.data["spec"];
            let owner = all.iter().find(|pet| pet.metadata.name.as_deref() == spec["owner"].as_str()).context("an owner")?;
            let status = &owner.data["status"];
            let told =
                [texts(&status["nodeAddresses"]), texts(&status["podCIDRs"]), vec![status["publicKey"].to_string().replace('"', "")]];
            ensure!(told.concat().iter().any(|value| spec["value"] == value.as_str()), "{spec} is not in {status}");
        }
        Ok(())
    })
    .await?;
    println!(
        "conflicts of the rival: {}",
        controller::page(lab, 1, "/metrics").await?.lines().filter(|line| line.contains("conflicts_total{")).collect::<Vec<_>>().join("; ")
    );
    rival.stop(Duration::from_secs(10)).await?;
    standby.stop(Duration::from_secs(10)).await?;
    cluster.done().await
}
