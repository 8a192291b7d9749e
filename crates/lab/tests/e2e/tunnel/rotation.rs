//! Another key under a connection.

use anyhow::{Result, ensure};
use kube_pet_lab::{Lab, daemon::Daemon, eventually};
use serde_json::json;

use super::{Homes, numbers};
use crate::harness::SOON;

async fn key(lab: &Lab, field: &str) -> Result<String> {
    lab.kubectl(&["get", "pet", "home-a", "-o", &format!("jsonpath={{.{field}}}")]).await
}

#[e2e]
async fn e2e_a_pet_changes_its_key_and_a_connection_goes_on() -> Result<()> {
    let homes = Homes::start("rotation", &["gw1"], json!({"enabled": true})).await?;
    let Homes { bed, b, .. } = &homes;
    numbers::begin(bed, b).await?;

    let old = key(&bed.lab, "status.publicKey").await?;
    bed.lab.kubectl(&["annotate", "pet", "home-a", "kube-pet.dev/rotate-key=now"]).await?;
    let new = eventually(SOON, "the pet has another key", || async {
        let new = key(&bed.lab, "status.publicKey").await?;
        ensure!(new != old, "{}", bed.pet.agent_log());
        Ok(new)
    })
    .await?;
    ensure!(key(&bed.lab, "spec.publicKey").await? == new && key(&bed.lab, "status.nextPublicKey").await?.is_empty());
    ensure!(!key(&bed.lab, "metadata.annotations").await?.contains("rotate-key"), "the wish is fulfilled");

    // The old key is nobody's, the gateway hears the pet by the new one, and what is said goes on.
    let now = numbers::go_on_after(bed, numbers::read(bed).await?.len() + 50, 3).await?;

    // The next agent has the new key, too.
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    numbers::go_on_after(bed, now + 20, u64::MAX).await?;
    ensure!(key(&bed.lab, "status.publicKey").await? == new);

    homes.end(&["client", "server"]).await
}

/// The only gateway is away when the key changes: nobody answers to the new one.
#[e2e]
async fn e2e_a_key_that_no_gateway_answers_to_gives_way_to_the_one_before() -> Result<()> {
    let homes = Homes::start("unproved", &["gw1"], json!({"enabled": true, "direct": false})).await?;
    let Homes { bed, b, gateways, .. } = &homes;
    numbers::begin(bed, b).await?;
    let old = key(&bed.lab, "spec.publicKey").await?;
    bed.lab.kubectl(&["annotate", "pet", "home-a", "kube-pet.dev/rotate-key=now"]).await?;
    eventually(SOON, "the next key is accepted", || async {
        ensure!(!key(&bed.lab, "status.nextPublicKey").await?.is_empty());
        Ok(())
    })
    .await?;
    let before = numbers::read(bed).await?.len();
    let gateway = &gateways[0];
    gateway.daemon.kill().await?;
    for is_old in [false, true] {
        eventually(SOON, if is_old { "the key before is used again" } else { "the next key is used" }, || async {
            ensure!((key(&bed.lab, "spec.publicKey").await? == old) == is_old, "{}", bed.pet.agent_log());
            Ok(())
        })
        .await?;
    }
    ensure!(bed.pet.agent_log().contains("no gateway has shaken hands with the tunnel's key"), "and the log says why");

    // Each second has ten numbers, and these are more than half a minute's: the connection has outlived all that.
    let _next = Daemon::start(&gateway.machine, gateway.daemon.spec.clone()).await?;
    numbers::go_on_after(bed, before + 350, u64::MAX).await?;
    eventually(SOON, "the other key is forgotten", || async {
        ensure!(!bed.pet.path("/var/lib/kube-pet/pki/tunnel.key.before").exists());
        Ok(())
    })
    .await?;
    ensure!(key(&bed.lab, "spec.publicKey").await? == old);
    homes.end(&["client", "server"]).await
}
