//! A home whose router lets no UDP through.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube_pet_lab::{Pet, eventually, gateway::Gateway};
use serde_json::json;

use super::{Homes, server};
use crate::harness::{SOON, condition, pod_ip};

/// Whether the pet's router lets UDP through.
async fn let_udp_through(pet: &Pet, lets: bool) -> Result<()> {
    let router = pet.router()?;
    let rules = if lets {
        "delete table ip no-udp"
    } else {
        "table ip no-udp { chain forward { type filter hook forward priority -1; meta l4proto udp drop; }; }"
    };
    router.shell(&format!("/usr/sbin/nft '{rules}'")).await.map(drop)
}

/// How many pets are connected over TCP.
async fn relayed(gateway: &Gateway) -> Result<String> {
    let page = gateway.page("/metrics").await?;
    let name = "kube_pet_gateway_relayed_connections ";
    page.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned).context("the gateway counts relayed connections")
}

#[e2e]
async fn e2e_a_pet_whose_network_lets_no_udp_through_is_reached_over_tcp() -> Result<()> {
    let homes = Homes::start("relay", &["gw1"], json!({"enabled": true})).await?;
    let Homes { bed, b, gateways, .. } = &homes;
    let gateway = &gateways[0];
    ensure!(relayed(gateway).await? == "0", "nobody needs it while UDP gets through");
    for (name, node) in [("a", bed.pet.name()), ("b", b.name())] {
        bed.create::<Pod>(server(name, node)).await?;
    }
    let pod = bed.until("a", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    let ip = pod_ip(&pod).context("a running pod has an address")?.to_owned();
    bed.until("b", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;

    let_udp_through(&bed.pet, false).await?;
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    eventually(SOON, "the pet comes over TCP", || async {
        let count = relayed(gateway).await?;
        ensure!(count == "1", "{count} relayed connections\n{}", bed.pet.agent_log());
        Ok(())
    })
    .await?;
    // The API server reaches the node, and pods each other.
    let answer = eventually(SOON, "exec", || bed.kubectl(&["exec", "a", "--", "echo", "over TCP"])).await?;
    ensure!(answer.trim() == "over TCP", "{answer}");
    ensure!(bed.logs("a").await?.contains("8080"));
    let url = format!("http://{ip}:8080/hostname");
    let ask = ["exec", "b", "--", "curl", "-sS", "-m", "5", url.as_str()];
    ensure!(eventually(SOON, &url, || bed.kubectl(&ask)).await? == "a");
    let send = format!("head -c 20000000 /dev/zero | curl -sS -m 60 -F file=@- -o /dev/null -w '%{{size_upload}}' http://{ip}:8080/upload");
    let big = ["exec", "b", "--", "sh", "-c", &send];
    let size: u64 = bed.kubectl(&big).await?.parse().context("bytes")?;
    ensure!(size > 20_000_000, "{size} bytes have passed");
    eventually(SOON, "the Pet says so", || async {
        let arguments = ["get", "pet", bed.pet.name(), "-o", "jsonpath={.status.conditions[?(@.type==\"Connected\")].reason}"];
        let reason = bed.lab.kubectl(&arguments).await?;
        ensure!(reason == "Relay", "{reason}");
        Ok(())
    })
    .await?;

    // Elsewhere, UDP is used again.
    let_udp_through(&bed.pet, true).await?;
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    eventually(SOON, "the pet comes over UDP", || async {
        let count = relayed(gateway).await?;
        ensure!(count == "0", "{count} relayed connections");
        Ok(())
    })
    .await?;
    ensure!(eventually(SOON, &url, || bed.kubectl(&ask)).await? == "a");

    homes.end(&["a", "b"]).await
}
