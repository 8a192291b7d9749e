//! One connection from a pod to another, in which numbers come: whether it goes on is seen by them.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube_pet_lab::{Pet, eventually};
use serde_json::json;

use crate::harness::{BUSYBOX, Bed, SOON, condition, pod_ip};

/// From the pod `server` on that pet, to the pod `client` on the bed's.
pub(super) async fn begin(bed: &Bed, on: &Pet) -> Result<()> {
    // Ten numbers in a second, to the first who comes and nobody else.
    let count = "n=0; (while :; do echo $n; n=$((n+1)); sleep 0.1; done) | nc -l -p 9000; sleep 1000";
    bed.create::<Pod>(json!({"metadata": {"name": "server"}, "spec": {
        "nodeName": on.name(), "terminationGracePeriodSeconds": 1,
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
        ensure!(read(bed).await?.len() > 20);
        Ok(())
    })
    .await
}

/// When each came, in seconds. Nothing else is in the log while the connection is open.
pub(super) async fn read(bed: &Bed) -> Result<Vec<(u64, u64)>> {
    let line = |line: &str| -> Result<(u64, u64)> {
        let (when, number) = line.split_once(' ').context("when and what")?;
        Ok((when.parse()?, number.parse()?))
    };
    bed.logs("client").await?.lines().map(|text| line(text).with_context(|| format!("{text:?}"))).collect()
}

/// Until there are more than so many: all of them, and without a longer pause. How many there are then.
pub(super) async fn go_on_after(bed: &Bed, count: usize, longest: u64) -> Result<usize> {
    let all = eventually(SOON, "numbers go on", || async {
        let all = read(bed).await?;
        ensure!(all.len() > count, "{}, and {count} are not enough", all.len());
        Ok(all)
    })
    .await?;
    ensure!(all.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1), "numbers are missing");
    let gap = all.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
    kube_pet_lab::progress::say(format!("the longest pause was {gap} s"));
    ensure!(gap <= longest, "{gap} s without a number");
    Ok(all.len())
}
