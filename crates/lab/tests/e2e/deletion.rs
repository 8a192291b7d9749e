//! Graceful, forced and offline deletion.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::DeleteParams;
use serde_json::json;

use crate::harness::{Bed, SOON, shell};

/// Ends two seconds after SIGTERM, and says so on the node's disk.
const GRACEFUL: &str = "trap 'sleep 2; echo ended > /d/word; exit 0' TERM; echo up; while :; do sleep 0.1; done";

fn spec(script: &str, folder: &str, grace: u32) -> serde_json::Value {
    let mut container = shell("c", script);
    container["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    json!({
        "terminationGracePeriodSeconds": grace,
        "containers": [container],
        "volumes": [{"name": "d", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
    })
}

#[e2e]
async fn e2e_a_graceful_deletion_lets_the_pod_finish() -> Result<()> {
    let bed = Bed::shared("graceful").await?;
    let folder = format!("/var/tmp/{}", bed.namespace);
    bed.pod("p", spec(GRACEFUL, &folder, 30)).await?;
    bed.phase("p", "Running").await?;
    kube_pet_lab::eventually(SOON, "the trap is set", || async {
        ensure!(bed.logs("p").await? == "up\n");
        Ok(())
    })
    .await?;
    let start = Instant::now();
    bed.delete("p").await?;
    bed.until("p", SOON, "is being deleted", |pod| pod.metadata.deletion_timestamp.is_some()).await?;
    bed.gone("p", SOON).await?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(2), "gone after {took:?}");
    ensure!(took < Duration::from_secs(20), "gone after {took:?}");
    let word = std::fs::read_to_string(bed.pet.path(&folder).join("word"))?;
    ensure!(word == "ended\n", "{word}");
    bed.event("p", "Normal Killing Stopping container c").await?;
    bed.done().await
}

#[e2e]
async fn e2e_the_grace_period_ends_a_pod_that_does_not() -> Result<()> {
    let bed = Bed::shared("stubborn").await?;
    let script = "trap '' TERM; while :; do sleep 0.1; done";
    let spec = json!({"terminationGracePeriodSeconds": 3, "containers": [shell("c", script)]});
    bed.pod("p", spec).await?;
    bed.phase("p", "Running").await?;
    let start = Instant::now();
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    let took = start.elapsed();
    ensure!((Duration::from_secs(3)..Duration::from_secs(12)).contains(&took), "gone after {took:?}");
    bed.done().await
}

#[e2e]
async fn e2e_a_forced_deletion_still_ends_the_containers() -> Result<()> {
    let bed = Bed::own("forced").await?;
    bed.pod("p", json!({"containers": [shell("c", "sleep 3600")]})).await?;
    bed.phase("p", "Running").await?;
    let now = DeleteParams::default().grace_period(0);
    bed.pods().delete("p", &now).await?;
    ensure!(bed.pods().get_opt("p").await?.is_none(), "the object goes at once");
    nothing_left(&bed).await?;
    bed.done().await
}

#[e2e]
async fn e2e_a_pod_deleted_while_the_agent_was_down_is_ended() -> Result<()> {
    let bed = Bed::own("offline").await?;
    for name in ["graceful", "forced"] {
        bed.pod(name, json!({"containers": [shell("c", "sleep 3600")]})).await?;
    }
    bed.phase("graceful", "Running").await?;
    bed.phase("forced", "Running").await?;
    bed.pet.kill_agent().await?;
    bed.delete("graceful").await?;
    let now = DeleteParams::default().grace_period(0);
    bed.pods().delete("forced", &now).await?;
    bed.pet.start_agent().await?;
    bed.gone("graceful", SOON).await?;
    nothing_left(&bed).await?;
    bed.done().await
}

/// No container, no pinned namespace, no mount, no link, no cgroup and no folder of any pod on the test's own pet.
pub async fn nothing_left(bed: &Bed) -> Result<()> {
    kube_pet_lab::eventually(SOON, "nothing is left of the pod", || async {
        let containers = bed.pet.podman(&["ps", "--all", "--quiet"]).await?;
        ensure!(containers.is_empty(), "containers: {containers}");
        let pods = bed.pet.podman(&["pod", "ps", "--quiet"]).await?;
        ensure!(pods.is_empty(), "Podman pods: {pods}");
        let left = bed
            .pet
            .shell(
                "grep -E '/run/kube-pet/(sandboxes|pods)/|/var/lib/kube-pet/pods/' /proc/self/mounts || true; \
                 ip -o link show type veth | grep -v ' eth0' || true; \
                 ls -A /run/kube-pet/sandboxes /var/lib/kube-pet/pods 2>/dev/null | grep -v ':$' | grep . || true",
            )
            .await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await
}

/// With `shareProcessNamespace` there is a container of the agent's own, on which the pod's depend.
#[e2e]
async fn e2e_pods_that_share_a_process_namespace_run_end_and_go() -> Result<()> {
    let bed = Bed::shared("pids").await?;
    let looks = "until pgrep -f 'sleep 4711' >/dev/null; do sleep 0.1; done; echo seen";
    for (name, other, phase) in [("runs", "sleep 4711", "Running"), ("ends", "sleep 4711 & sleep 4; kill %1", "Succeeded")] {
        let spec = json!({
            "shareProcessNamespace": true,
            "restartPolicy": "Never",
            "containers": [shell("other", other), shell("looks", looks)],
        });
        bed.pod(name, spec).await?;
        bed.phase(name, phase).await?;
        kube_pet_lab::eventually(SOON, "the other container's process is seen", || async {
            ensure!(bed.kubectl(&["logs", name, "-c", "looks"]).await? == "seen\n");
            Ok(())
        })
        .await?;
        bed.delete(name).await?;
        bed.gone(name, SOON).await?;
        let list = format!("podman ps --all --format '{{{{.Names}}}}' | grep _{name}_{} || true", bed.namespace);
        kube_pet_lab::eventually(SOON, "no container is left", || async {
            let left = bed.pet.shell(&list).await?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
        .await?;
    }
    bed.done().await
}

/// What watched an exec session is there for seconds after its end, in the pod's cgroup: nothing waits for it.
#[e2e]
async fn e2e_a_pod_goes_at_once_after_an_exec() -> Result<()> {
    let bed = Bed::shared("afterexec").await?;
    let pod = bed.pod("p", json!({"containers": [shell("c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")]})).await?;
    bed.phase("p", "Running").await?;
    bed.kubectl(&["exec", "p", "--", "true"]).await?;
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    let uid = pod.metadata.uid.unwrap_or_default();
    let log = bed.pet.agent_log();
    let waited: Vec<_> = log.lines().filter(|line| line.contains(&uid) && line.contains("were left in the pod's cgroup")).collect();
    ensure!(!uid.is_empty() && waited.is_empty(), "{waited:?}");
    bed.done().await
}
