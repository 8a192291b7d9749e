//! Two homes whose pets send to each other past the gateway.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube_pet_lab::{Pet, eventually, gateway};
use serde_json::json;

use super::{Homes, server};
use crate::harness::{BUSYBOX, Bed, SOON, condition, pod_ip};

const SILENT: &str = "kube_pet_tunnel_path_changes_total{to=\"silent\"} ";

/// A number of the agent's metrics; `None` if they do not have it (yet).
async fn metric(bed: &Bed, pet: &Pet, name: &str) -> Result<Option<f64>> {
    let text = bed.lab.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/metrics", pet.name())]).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map(|line| line.trim().parse().with_context(|| format!("{name}{line}"))).transpose()
}

/// Until it has a path to the other.
async fn sends_directly(bed: &Bed, pet: &Pet) -> Result<()> {
    eventually(SOON, &format!("{} sends directly", pet.name()), || async {
        let paths = metric(bed, pet, "kube_pet_tunnel_direct_paths ").await?;
        ensure!(paths.is_some_and(|paths| paths >= 1.0), "{paths:?} paths\n{}", pet.agent_log());
        Ok(())
    })
    .await
}

/// How many answers the pod has had. Read on its machine: nothing of that goes through the tunnel.
async fn answers(pet: &Pet) -> Result<usize> {
    let count = pet.shell("cat /var/log/pods/*_a_*/c/*.log | grep -c ' b$' || true").await?;
    count.trim().parse().with_context(|| count)
}

/// Until the pod has had so many more.
async fn hears(pet: &Pet, more: usize) -> Result<()> {
    let before = answers(pet).await?;
    eventually(SOON, &format!("{more} more answers"), || async {
        let now = answers(pet).await?;
        ensure!(now >= before + more, "{before}, {now}");
        Ok(())
    })
    .await
}

/// Bytes that the gateway has had from pets.
async fn received(gateway: &gateway::Gateway) -> Result<f64> {
    let page = gateway.page("/metrics").await?;
    let name = "kube_pet_gateway_bytes{direction=\"received\"} ";
    let number = page.lines().find_map(|line| line.strip_prefix(name)).context("the gateway counts bytes")?;
    number.parse().with_context(|| format!("{name}{number}"))
}

/// When each answer came, and the longest time between two of them, in seconds.
fn longest_gap(log: &str) -> Result<u64> {
    let times: Vec<u64> = log.lines().filter_map(|line| line.strip_suffix(" b")?.parse().ok()).collect();
    ensure!(times.len() > 10, "{log}");
    Ok(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
}

/// Which addresses the router lets through to another one, on its way in and out.
async fn block(pet: &Pet, other: &Pet) -> Result<()> {
    let router = pet.router()?;
    for way in ["saddr", "daddr"] {
        router.shell(&format!("/usr/sbin/nft insert rule ip home filter ip {way} {} drop", other.address())).await?;
    }
    Ok(())
}

#[e2e]
async fn e2e_pets_behind_nat_send_to_each_other_past_the_gateway_while_they_can() -> Result<()> {
    let homes = Homes::start("direct", &["gw1"], json!({"enabled": true})).await?;
    let Homes { bed, b, gateways, .. } = &homes;
    let gateway = &gateways[0];
    bed.create::<Pod>(server("b", b.name())).await?;
    let pod = bed.until("b", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    let ip = pod_ip(&pod).context("a running pod has an address")?.to_owned();
    // Asks several times a second who is there, and says when it was told.
    let ask = format!("while :; do echo $(date +%s) $(wget -q -T 1 -O - http://{ip}:8080/hostname); sleep 0.2; done");
    bed.pod("a", json!({"containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", ask]}]})).await?;
    bed.phase("a", "Running").await?;
    for pet in [&bed.pet, b] {
        sends_directly(bed, pet).await?;
    }

    // Forty questions and answers are some 40 kB. The gateway has nothing of them but what keeps the ways open. It counts once a second, in
    // which four are asked: what it cost to ask for the numbers above is counted when so many have made no difference.
    eventually(SOON, "the gateway has nothing of the conversation", || async {
        let before = received(gateway).await?;
        hears(&bed.pet, 12).await?;
        let passed = received(gateway).await? - before;
        ensure!(passed < 1200.0, "{passed} bytes");
        Ok(())
    })
    .await?;
    let before = received(gateway).await?;
    hears(&bed.pet, 40).await?;
    let passed = received(gateway).await? - before;
    ensure!(passed < 4000.0, "{passed} bytes have passed the gateway");
    let gap = longest_gap(&bed.logs("a").await?)?;
    ensure!(gap <= 2, "{gap} s without an answer, before anything was cut");

    // An agent that is started again goes on by the same path.
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    sends_directly(bed, &bed.pet).await?;
    hears(&bed.pet, 10).await?;
    let silent = metric(bed, b, SILENT).await?;
    ensure!(silent.is_none(), "the other side has noticed a restart:\n{}", b.agent_log());

    block(&bed.pet, b).await?;
    for pet in [&bed.pet, b] {
        let what = format!("{} sends through the gateway again", pet.name());
        eventually(SOON, &what, || async {
            let silent = metric(bed, pet, SILENT).await?;
            ensure!(silent.is_some_and(|times| times > 0.0), "{silent:?}");
            Ok(())
        })
        .await?;
    }
    hears(&bed.pet, 10).await?;
    let log = bed.logs("a").await?;
    let gap = longest_gap(&log)?;
    kube_pet_lab::progress::say(format!("the longest time without an answer was {gap} s"));
    ensure!(gap <= 6, "{gap} s without an answer\n{log}");
    let last = log.lines().last().unwrap_or_default();
    ensure!(last.ends_with(" b"), "{last}");

    homes.end(&["b"]).await
}
