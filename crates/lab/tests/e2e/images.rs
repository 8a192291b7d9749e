//! Pulls that fail, recover, or need credentials.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube_pet_lab::registry::{PORT, PRIVATE, PRIVATE_LOGIN};
use serde_json::json;

use crate::harness::{BUSYBOX, Bed, SOON, phase_of, waiting};

impl Bed {
    /// A request to the registry's own interface for tests.
    async fn registry(&self, method: &str, path: &str) -> Result<String> {
        let address = self.lab.record().wire().control_plane();
        let url = format!("http://{address}:{PORT}{path}");
        let curl = ["curl", "-fsS", "-X", method, &url];
        kube_pet_lab::command::run(&curl).await
    }
}

#[e2e]
async fn e2e_a_pull_backs_off_and_recovers_when_the_image_appears() -> Result<()> {
    let bed = Bed::shared("late").await?;
    let image = format!("docker.io/test/{}:1", bed.namespace);
    let spec = json!({"containers": [{"name": "c", "image": image, "command": ["sleep", "3600"]}]});
    bed.pod("p", spec).await?;
    bed.until("p", SOON, "ErrImagePull", |pod| waiting(pod, "c") == "ErrImagePull").await?;
    bed.until("p", SOON, "ImagePullBackOff", |pod| waiting(pod, "c") == "ImagePullBackOff").await?;
    bed.event("p", "Warning Failed Failed to pull image").await?;
    bed.event("p", "Normal BackOff Back-off pulling image").await?;
    bed.registry("PUT", &format!("/lab/images?ref={image}&from={BUSYBOX}")).await?;
    bed.until("p", SOON, "Running", |pod| phase_of(pod) == "Running").await?;
    bed.done().await
}

#[e2e]
async fn e2e_never_pull_means_never() -> Result<()> {
    let bed = Bed::shared("neverpull").await?;
    let image = format!("docker.io/test/{}:1", bed.namespace);
    let spec = json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": "Never"}]});
    bed.pod("p", spec).await?;
    bed.until("p", SOON, "ErrImageNeverPull", |pod| waiting(pod, "c") == "ErrImageNeverPull").await?;
    bed.done().await
}

#[e2e]
async fn e2e_an_image_name_that_is_none_is_named() -> Result<()> {
    let bed = Bed::shared("badname").await?;
    let spec = json!({"containers": [{"name": "c", "image": "Not/A Name"}]});
    bed.pod("p", spec).await?;
    bed.until("p", SOON, "InvalidImageName", |pod| waiting(pod, "c") == "InvalidImageName").await?;
    bed.done().await
}

#[e2e]
async fn e2e_a_private_registry_wants_its_secret() -> Result<()> {
    let bed = Bed::shared("private").await?;
    let (user, password) = PRIVATE_LOGIN;
    let config = json!({"auths": {PRIVATE: {"username": user, "password": password}}});
    bed.create::<Secret>(json!({
        "metadata": {"name": "login"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config.to_string()},
    }))
    .await?;
    let container = json!({
        "name": "c",
        "image": format!("{PRIVATE}/e2e/busybox:1"),
        "imagePullPolicy": "Always",
        "command": ["sleep", "3600"],
    });
    bed.pod("without", json!({"containers": [container]})).await?;
    let with = json!({"containers": [container], "imagePullSecrets": [{"name": "login"}]});
    bed.pod("with", with).await?;
    bed.phase("with", "Running").await?;
    let pod = bed.until("without", SOON, "is refused", |pod| ["ErrImagePull", "ImagePullBackOff"].contains(&waiting(pod, "c"))).await?;
    ensure!(phase_of(&pod) == "Pending");
    ensure!(!bed.pet.agent_log().contains(password), "the password is in the log");
    bed.done().await
}
