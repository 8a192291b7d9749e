//! Nodes that are short of something, pods that take more than they may, images that nobody uses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::json;

use crate::harness::{BUSYBOX, Bed, PAUSE, SOON, condition, ended, phase_of, shell};

/// Folders are counted once a minute, and looked at every ten seconds.
const COUNTED: Duration = Duration::from_secs(120);

fn told(pod: &Pod) -> (&str, &str) {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    (reason, status.and_then(|status| status.message.as_deref()).unwrap_or_default())
}

impl Bed {
    /// Puts the agent's state on a disk of this size. No pod may be there yet.
    async fn small_disk(&self, mebibytes: u32) -> Result<()> {
        self.pet.stop_agent().await?;
        let script = format!(
            "cp -a /var/lib/kube-pet /tmp/state
mount -t tmpfs -o size={mebibytes}m,mode=755 nodefs /var/lib/kube-pet
cp -a /tmp/state/. /var/lib/kube-pet/"
        );
        self.pet.shell(&script).await?;
        self.pet.start_agent().await?;
        self.pet.ready(SOON).await
    }

    async fn pressure(&self, kind: &str) -> Result<String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let conditions = nodes.get(self.pet.name()).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind);
        found.map(|condition| condition.status).with_context(|| format!("no {kind}"))
    }
}

#[e2e]
async fn e2e_a_full_disk_costs_the_pod_that_filled_it() -> Result<()> {
    let limits = json!({"memory.available": "100Mi", "nodefs.available": "64Mi"});
    let bed = Bed::own_with("fulldisk", |options| options.with("evictionHard", limits)).await?;
    bed.small_disk(256).await?;
    let mut modest = shell("c", "sleep 3600");
    modest["resources"] = json!({"requests": {"ephemeral-storage": "50Mi"}});
    bed.pod("modest", json!({"containers": [modest]})).await?;
    bed.phase("modest", "Running").await?;
    ensure!(bed.pressure("DiskPressure").await? == "False");
    let mut greedy = shell("c", "dd if=/dev/zero of=/v/x bs=1M count=240; sleep 3600");
    greedy["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    bed.pod("greedy", json!({"containers": [greedy], "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 600}))
        .await?;
    let pod = bed.until("greedy", COUNTED, "is evicted", |pod| phase_of(pod) == "Failed").await?;
    let (reason, message) = told(&pod);
    ensure!(reason == "Evicted", "{:?}", pod.status);
    ensure!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "), "{message}");
    ensure!(condition(&pod, "DisruptionTarget") == "True", "{:?}", pod.status);
    bed.event("greedy", "Warning Evicted The node was low on resource: ephemeral-storage.").await?;
    kube_pet_lab::eventually(SOON, "the node says so", || async {
        ensure!(bed.pressure("DiskPressure").await? == "True");
        Ok(())
    })
    .await?;
    // The scheduler would keep it away.
    bed.pod("late", json!({"containers": [shell("c", "sleep 3600")], "nodeName": bed.pet.name()})).await?;
    let late = bed.phase("late", "Failed").await?;
    ensure!(told(&late) == ("Evicted", "Pod was rejected: The node had condition: [DiskPressure]. "), "{:?}", late.status);
    kube_pet_lab::eventually(SOON, "the space is given back", || async {
        let left = bed.pet.shell("df --output=avail -m /var/lib/kube-pet | tail -1").await?;
        ensure!(left.trim().parse::<u32>()? > 200, "{left}");
        Ok(())
    })
    .await?;
    ensure!(phase_of(&bed.get("modest").await?) == "Running");
    bed.done().await
}

#[e2e]
async fn e2e_a_soft_limit_is_put_up_with_for_a_while_and_gives_pods_time() -> Result<()> {
    const GRACE: Duration = Duration::from_secs(15);
    let bed = Bed::own_with("softdisk", |options| {
        options
            .with("evictionHard", json!({"nodefs.available": "4Mi"}))
            .with("evictionSoft", json!({"nodefs.available": "64Mi"}))
            .with("evictionSoftGracePeriod", json!({"nodefs.available": format!("{}s", GRACE.as_secs())}))
            .with("evictionMaxPodGracePeriod", json!(5))
    })
    .await?;
    bed.small_disk(256).await?;
    // It takes no notice of its signal.
    let mut greedy = shell("c", "trap '' TERM; dd if=/dev/zero of=/v/x bs=1M count=220; while true; do sleep 1; done");
    greedy["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    bed.pod("greedy", json!({"containers": [greedy], "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 600}))
        .await?;
    kube_pet_lab::eventually(SOON, "the node tells of the pressure", || async {
        ensure!(bed.pressure("DiskPressure").await? == "True");
        Ok(())
    })
    .await?;
    let pressed = Instant::now();
    let pod = bed.until("greedy", SOON, "is evicted", |pod| phase_of(pod) == "Failed").await?;
    // The condition may be seen a little late.
    ensure!(pressed.elapsed() >= GRACE - Duration::from_secs(3), "after {:?}", pressed.elapsed());
    let failed = Instant::now();
    let (reason, message) = told(&pod);
    ensure!(reason == "Evicted", "{:?}", pod.status);
    ensure!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 64Mi, available: "), "{message}");
    // Five seconds, not ten minutes, and not one.
    let pod = bed.until("greedy", SOON, "has ended", |pod| ended(pod, "c").is_some()).await?;
    ensure!(ended(&pod, "c") == Some(("Error", 137)), "{:?}", pod.status);
    ensure!(failed.elapsed() >= Duration::from_secs(3), "killed after {:?}", failed.elapsed());
    bed.done().await
}

#[e2e]
async fn e2e_a_pod_that_exceeds_its_own_storage_is_evicted() -> Result<()> {
    let bed = Bed::shared("storage").await?;
    let mut writes = shell("c", "dd if=/dev/zero of=/v/x bs=1M count=5; sleep 3600");
    writes["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volume = |limit: &str| json!([{"name": "v", "emptyDir": {"sizeLimit": limit}}]);
    bed.pod("volume", json!({"containers": [writes], "volumes": volume("1Mi")})).await?;
    bed.pod("within", json!({"containers": [writes], "volumes": volume("50Mi")})).await?;
    let mut layer = shell("c", "dd if=/dev/zero of=/x bs=1M count=5; sleep 3600");
    layer["resources"] = json!({"limits": {"ephemeral-storage": "2Mi"}});
    bed.pod("layer", json!({"containers": [layer]})).await?;
    for (name, expected) in [
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "),
    ] {
        let pod = bed.until(name, COUNTED, "is evicted", |pod| phase_of(pod) == "Failed").await?;
        ensure!(told(&pod) == ("Evicted", expected), "{:?}", pod.status);
    }
    ensure!(phase_of(&bed.get("within").await?) == "Running");
    bed.done().await
}

#[e2e]
async fn e2e_only_our_own_unused_images_are_collected() -> Result<()> {
    let bed = Bed::own_with("imagegc", |options| {
        options
            .with("imageGCHighThresholdPercent", json!(1))
            .with("imageGCLowThresholdPercent", json!(0))
            .with("imageMinimumGCAge", json!("0s"))
    })
    .await?;
    bed.pod("used", json!({"containers": [shell("c", "sleep 3600")]})).await?;
    bed.phase("used", "Running").await?;
    // An image of the user's own, and one that the agent pulls and nobody uses any more.
    let container = bed.pet.podman(&["ps", "--quiet", "--filter", "label=io.kubernetes.pod.name=used"]).await?;
    let container = container.lines().next().context("a container")?;
    bed.pet.podman(&["commit", "--pause=false", container, "localhost/mine:1"]).await?;
    bed.pod("other", json!({"containers": [{"name": "c", "image": PAUSE}]})).await?;
    bed.phase("other", "Running").await?;
    bed.delete("other").await?;
    bed.gone("other", SOON).await?;
    let images = || async { bed.pet.podman(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).await };
    let before = images().await?;
    ensure!(before.contains(PAUSE) && before.contains(BUSYBOX) && before.contains("localhost/mine:1"), "{before}");
    // The first round comes with the agent's start.
    bed.pet.stop_agent().await?;
    bed.pet.start_agent().await?;
    kube_pet_lab::eventually(SOON, "the unused image is gone", || async {
        let left = images().await?;
        ensure!(!left.contains(PAUSE), "{left}");
        Ok(())
    })
    .await?;
    let left = images().await?;
    ensure!(left.contains(BUSYBOX) && left.contains("localhost/mine:1"), "{left}");
    ensure!(phase_of(&bed.get("used").await?) == "Running");
    bed.done().await
}
