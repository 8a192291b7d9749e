//! Addresses and pod CIDRs: nobody's twice, and the same again for the same machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, ListParams};
use kube_pet_lab::{
    eventually,
    herd::{self, condition, distinct, key, texts},
};

use super::Cluster;
use crate::harness::SOON;

#[e2e]
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

#[e2e]
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

#[e2e]
async fn e2e_200_pets_at_once_and_a_killed_controller_make_no_double() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    let course = herd::Course { pets: 200, node_addresses: 2, limit: Duration::from_secs(120) };
    let race = herd::race(&cluster.lab, &cluster.controller, &course).await?;
    // No other Pet or gateway is there: nothing else is allocated.
    let allocations = cluster.all("PetAllocation").list(&ListParams::default()).await?.items;
    ensure!(allocations.len() == 800, "{}", allocations.len());
    println!("all have addresses after {:?}; conflicts: {}", race.took, race.conflicts);
    for controller in race.controllers {
        controller.stop(Duration::from_secs(10)).await?;
    }
    cluster.done().await
}
