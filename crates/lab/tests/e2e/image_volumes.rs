//! Images as volumes.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube_pet_lab::eventually;
use kube_pet_lab::registry::{PRIVATE, PRIVATE_LOGIN};
use serde_json::{Value, json};

use crate::harness::{BUSYBOX, Bed, SOON, container, shell, waiting};

const LONG: Duration = Duration::from_secs(120);

fn image(reference: &str) -> Value {
    json!({"name": "v", "image": {"reference": reference}})
}

fn mounting(mut container: Value, mount: &Value) -> Value {
    container["volumeMounts"] = mount.clone();
    container
}

fn message<'a>(pod: &'a Pod, name: &str) -> &'a str {
    container(pod, name).and_then(|status| status.state.as_ref()?.waiting.as_ref()?.message.as_deref()).unwrap_or("")
}

#[e2e]
async fn e2e_an_image_is_mounted_as_a_volume() -> Result<()> {
    let bed = Bed::shared("imagevolume").await?;
    let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/part", "subPath": "bin"}]);
    let spec = |volume: Value| json!({"container": {"volumeMounts": mounts}, "volumes": [volume, {"name": "unused", "image": {"reference": "docker.io/test/none:1"}}]});
    let script = "cmp /v/bin/busybox /bin/busybox && cmp /part/busybox /bin/busybox && /v/bin/busybox echo same; \
                  touch /v/f 2>/dev/null || echo read-only; touch /part/f 2>/dev/null || echo read-only";
    let log = bed.script("p", script, spec(image(BUSYBOX))).await?;
    ensure!(log == "same\nread-only\nread-only\n", "{log}");

    // With the pod's own credentials.
    let (user, password) = PRIVATE_LOGIN;
    let config = json!({"auths": {PRIVATE: {"username": user, "password": password}}});
    bed.create::<Secret>(json!({
        "metadata": {"name": "login"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config.to_string()},
    }))
    .await?;
    let mut private = spec(image(&format!("{PRIVATE}/e2e/busybox:1")));
    private["volumes"][0]["image"]["pullPolicy"] = json!("Always");
    let without = json!({
        "containers": [mounting(shell("c", "sleep 3600"), &mounts)],
        "volumes": private["volumes"].clone(),
    });
    bed.pod("without", without).await?;
    private["imagePullSecrets"] = json!([{"name": "login"}]);
    let log = bed.script("private", script, private).await?;
    ensure!(log.starts_with("same\n"), "{log}");
    bed.until("without", SOON, "is refused", |pod| ["ErrImagePull", "ImagePullBackOff"].contains(&waiting(pod, "c"))).await?;
    bed.done().await
}

#[e2e]
async fn e2e_an_image_volume_that_cannot_be_had_is_told_of_as_a_containers_image() -> Result<()> {
    let bed = Bed::shared("badimagevolume").await?;
    let missing = format!("docker.io/test/{}:1", bed.namespace);
    let whole = json!([{"name": "v", "mountPath": "/v"}]);
    let part = json!([{"name": "v", "mountPath": "/v", "subPath": "no/such"}]);
    let never = json!({"name": "v", "image": {"reference": missing, "pullPolicy": "Never"}});
    for (name, volume, mounts) in [
        ("missing", image(&missing), &whole),
        ("never", never, &whole),
        ("name", image("Not/A Name"), &whole),
        ("part", image(BUSYBOX), &part),
    ] {
        // Only the one that mounts it waits.
        let spec = json!({"containers": [mounting(shell("c", "sleep 3600"), mounts), shell("other", "sleep 3600")], "volumes": [volume]});
        bed.pod(name, spec).await?;
    }
    bed.until("missing", SOON, "ErrImagePull", |pod| waiting(pod, "c") == "ErrImagePull").await?;
    let pod = bed.until("missing", SOON, "ImagePullBackOff", |pod| waiting(pod, "c") == "ImagePullBackOff").await?;
    ensure!(message(&pod, "c").starts_with(&format!("Back-off pulling image \"{missing}\"")), "{}", message(&pod, "c"));
    bed.until("missing", SOON, "the other one runs", |pod| container(pod, "other").is_some_and(|status| status.ready)).await?;
    bed.event("missing", &format!("Warning Failed Failed to pull image \"{missing}\"")).await?;
    bed.until("never", SOON, "ErrImageNeverPull", |pod| waiting(pod, "c") == "ErrImageNeverPull").await?;
    bed.until("name", SOON, "InvalidImageName", |pod| waiting(pod, "c") == "InvalidImageName").await?;
    let pod = bed.until("part", SOON, "CreateContainerError", |pod| waiting(pod, "c") == "CreateContainerError").await?;
    ensure!(message(&pod, "c").starts_with("ImageVolumeMountFailed"), "{}", message(&pod, "c"));
    bed.done().await
}

#[e2e]
async fn e2e_an_image_volume_survives_the_agent_and_a_reboot() -> Result<()> {
    let mut bed = Bed::own("imageboot").await?;
    let script = "[ -e /v/bin/busybox ] || exit 1; sleep 3600";
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let containers = [mounting(shell("c", script), &mounts), mounting(shell("d", script), &mounts)];
    bed.pod("p", json!({"containers": containers, "volumes": [image(BUSYBOX)]})).await?;
    let before = bed.phase("p", "Running").await?;
    bed.kubectl(&["exec", "p", "-c", "d", "--", "test", "-e", "/v/bin/busybox"]).await?;
    let held = bed.pet.podman(&["ps", "--all", "--quiet", "--filter", "label=kube-pet.dev/container-kind=image-volume"]).await?;
    ensure!(held.lines().count() == 1, "{held}");

    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    let after = bed.get("p").await?;
    ensure!(container(&before, "c").map(|c| &c.container_id) == container(&after, "c").map(|c| &c.container_id));

    let lab = bed.lab.clone();
    bed.pet.power_cycle(&lab).await?;
    bed.pet.start_agent().await?;
    // Not by the count of restarts: Podman 4.3 says of containers from before a boot that they never ran.
    bed.until("p", LONG, "both containers run again", |pod| {
        let id = |pod: &Pod, name| container(pod, name).and_then(|status| status.container_id.clone());
        ["c", "d"].iter().all(|name| id(pod, name) != id(&before, name) && container(pod, name).is_some_and(|status| status.ready))
    })
    .await?;
    eventually(SOON, "the image is mounted in the new container", || async {
        bed.kubectl(&["exec", "p", "-c", "c", "--", "test", "-e", "/v/bin/busybox"]).await
    })
    .await?;

    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    eventually(SOON, "nothing of it is left", || async {
        let left = bed.pet.podman(&["ps", "--all", "--quiet"]).await?;
        let mounts = bed.pet.shell("grep -c '/kubernetes.io~image/' /proc/self/mountinfo || true").await?;
        ensure!(left.trim().is_empty() && mounts.trim() == "0", "{left}\n{mounts} mounts\n{}", bed.pet.agent_log());
        Ok(())
    })
    .await?;
    bed.done().await
}
