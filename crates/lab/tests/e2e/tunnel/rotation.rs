//! Another key under a connection.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube_pet_lab::{Lab, eventually};
use serde_json::json;

use super::Homes;
use crate::harness::{BUSYBOX, SOON, condition, pod_ip};

async fn key(lab: &Lab, field: &str) -> Result<String> {
    lab.kubectl(&["get", "pet", "home-a", "-o", &format!("jsonpath={{.{field}}}")]).await
}

/// The client's lines are `when number`; numbers come from the one connection that the server takes.
fn read(log: &str) -> Result<Vec<(u64, u64)>> {
    let line = |line: &str| -> Result<(u64, u64)> {
        let (when, number) = line.split_once(' ').context("when and what")?;
        Ok((when.parse()?, number.parse()?))
    };
    log.lines().map(|text| line(text).with_context(|| format!("{text:?}"))).collect()
}

#[tokio::test]
async fn e2e_a_pet_changes_its_key_and_a_connection_goes_on() -> Result<()> {
    let homes = Homes::start("rotation", &["gw1"], json!({"enabled": true})).await?;
    let Homes { bed, b, .. } = &homes;
    // Ten numbers in a second, to the first who comes and nobody else.
    let count = "n=0; (while :; do echo $n; n=$((n+1)); sleep 0.1; done) | nc -l -p 9000; sleep 1000";
    bed.create::<Pod>(json!({"metadata": {"name": "server"}, "spec": {
        "nodeName": b.name(), "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", count]}],
    }}))
    .await?;
    let pod = bed.until("server", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    let ip = pod_ip(&pod).context("a running pod has an address")?;
    let read_all = format!("sleep 2; nc {ip} 9000 | while read n; do echo $(date +%s) $n; done; echo the connection is closed");
    bed.pod(
        "client",
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", read_all]}]}),
    )
    .await?;
    eventually(SOON, "numbers come", || async {
        ensure!(read(&bed.logs("client").await?)?.len() > 20);
        Ok(())
    })
    .await?;

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
    let before = read(&bed.logs("client").await?)?.len();
    let all = eventually(SOON, "numbers go on", || async {
        let all = read(&bed.logs("client").await?)?;
        ensure!(all.len() > before + 50, "{} after {before}", all.len());
        Ok(all)
    })
    .await?;
    let gap = all.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
    kube_pet_lab::progress::say(format!("the longest pause was {gap} s"));
    ensure!(gap <= 3, "{gap} s without a number");
    ensure!(all.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1), "numbers are missing");

    // The next agent has the new key, too.
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    let now = all.len();
    eventually(SOON, "numbers go on by the next agent", || async {
        let all = read(&bed.logs("client").await?)?;
        ensure!(all.len() > now + 20, "{} after {now}", all.len());
        Ok(())
    })
    .await?;
    ensure!(key(&bed.lab, "status.publicKey").await? == new);

    homes.end(&["client", "server"]).await
}
