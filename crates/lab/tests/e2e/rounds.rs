//! Containers that are replaced or restarted while their pod goes on: new images, and restarts of all together (KEP-5532).

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::harness::{BUSYBOX, Bed, SOON, condition, container, ended, phase_of, pod_ip, restarts, shell, started_at, waiting};

const IDLE: &str = "trap 'exit 0' TERM; while true; do sleep 0.2; done";
/// The same shell in another image.
const OTHER: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";

fn sidecar(name: &str, script: &str) -> Value {
    let mut container = shell(name, script);
    container["restartPolicy"] = json!("Always");
    container
}

async fn set_image(bed: &Bed, list: &str, name: &str, image: &str) -> Result<()> {
    let mut patch = json!({"spec": {}});
    patch["spec"][list] = json!([{"name": name, "image": image}]);
    bed.pods().patch("p", &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

#[tokio::test]
async fn e2e_a_new_image_replaces_one_container_whatever_the_restart_policy() -> Result<()> {
    let bed = Bed::shared("newimages").await?;
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [shell("init", "true"), sidecar("side", IDLE)],
        "containers": [shell("web", IDLE), shell("other", IDLE), shell("done", "true")],
    });
    bed.pod("p", spec).await?;
    let before = bed.until("p", SOON, "runs", |pod| ended(pod, "done").is_some() && started_at(pod, "other").is_some()).await?;
    // What has ended for good stays so.
    set_image(&bed, "containers", "done", OTHER).await?;
    set_image(&bed, "initContainers", "init", OTHER).await?;
    set_image(&bed, "containers", "web", OTHER).await?;
    bed.event("p", "Normal Killing Container web definition changed, will be restarted").await?;
    let new = |name: &'static str| {
        move |pod: &k8s_openapi::api::core::v1::Pod| {
            restarts(pod, name) == 1 && started_at(pod, name).is_some() && container(pod, name).is_some_and(|status| status.image == OTHER)
        }
    };
    bed.until("p", SOON, "web runs the new image", new("web")).await?;
    set_image(&bed, "initContainers", "side", OTHER).await?;
    let pod = bed.until("p", SOON, "the sidecar runs the new image", new("side")).await?;
    bed.event("p", "Normal Killing Init container side definition changed").await?;
    ensure!(started_at(&pod, "other") == started_at(&before, "other") && restarts(&pod, "other") == 0, "the other was disturbed");
    ensure!(ended(&pod, "done") == Some(("Completed", 0)) && restarts(&pod, "done") == 0, "{:?}", container(&pod, "done"));
    ensure!(restarts(&pod, "init") == 0 && phase_of(&pod) == "Running", "{:?}", pod.status);
    bed.done().await
}

#[tokio::test]
async fn e2e_one_container_restarts_all_of_its_pod() -> Result<()> {
    let bed = Bed::shared("rounds").await?;
    let with_volume = |mut container: Value| {
        container["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
        container
    };
    let mut source = with_volume(shell("source", &format!("if [ -f /d/again ]; then {IDLE}; fi; sleep 3; touch /d/again; exit 42")));
    source["restartPolicy"] = json!("Never");
    source["restartPolicyRules"] = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut other = shell("other", "trap '' TERM; while true; do sleep 0.2; done");
    other["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 30}}});
    let spec = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "initContainers": [with_volume(shell("init", "echo init >> /d/order")), sidecar("side", IDLE)],
        "containers": [source, other],
        "volumes": [{"name": "d", "emptyDir": {}}],
    });
    bed.pod("p", spec).await?;
    let first = bed.until("p", SOON, "runs", |pod| started_at(pod, "other").is_some() && pod_ip(pod).is_some()).await?;
    ensure!(condition(&first, "AllContainersRestarting") == "False");
    let restarting = || async {
        let pod = bed.get("p").await?;
        ensure!(condition(&pod, "AllContainersRestarting") == "True" || restarts(&pod, "init") == 1, "{:?}", pod.status);
        Ok(pod)
    };
    eventually(SOON, "all are being restarted", restarting).await?;
    let names = ["init", "side", "source", "other"];
    let again = bed
        .until("p", SOON, "all have been restarted", |pod| {
            names.iter().all(|name| restarts(pod, name) == 1) && started_at(pod, "other").is_some() && started_at(pod, "source").is_some()
        })
        .await?;
    for name in names {
        let last = container(&again, name).and_then(|status| status.last_state.as_ref()?.terminated.as_ref());
        ensure!(last.is_some(), "{name} has no last state");
    }
    let last = container(&again, "source").and_then(|status| status.last_state.as_ref()?.terminated.clone()).context("a last state")?;
    ensure!(last.exit_code == 42, "{last:?}");
    ensure!(condition(&again, "AllContainersRestarting") == "False" && condition(&again, "Initialized") == "True");
    ensure!(pod_ip(&again) == pod_ip(&first) && phase_of(&again) == "Running");
    let order = bed.kubectl(&["exec", "p", "-c", "source", "--", "cat", "/d/order"]).await?;
    ensure!(order == "init\ninit\n", "{order:?}");
    // Neither its hook nor its grace period held the others up.
    let took = last.finished_at.context("an end")?.0;
    let began = started_at(&again, "other").context("a start")?.parse::<jiff::Timestamp>()?;
    ensure!(began.duration_since(took).as_secs() < 20, "{took} to {began}");
    bed.kubectl(&["delete", "pod", "p", "--force", "--grace-period=0"]).await?;
    bed.done().await
}

#[tokio::test]
async fn e2e_a_restart_of_all_survives_the_agent() -> Result<()> {
    let bed = Bed::own("roundsagent").await?;
    let mut source = shell("source", "if [ -f /d/again ]; then sleep 3600; fi; touch /d/again; sleep 8; exit 42");
    source["restartPolicy"] = json!("Never");
    source["restartPolicyRules"] = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
    source["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [source, {"name": "other", "image": BUSYBOX, "command": ["sleep", "3600"]}, {"name": "b", "image": BUSYBOX, "command": ["sleep", "3600"]}],
        "volumes": [{"name": "d", "emptyDir": {}}],
    });
    bed.pod("p", spec).await?;
    bed.until("p", SOON, "runs", |pod| ["source", "other", "b"].iter().all(|name| started_at(pod, name).is_some())).await?;
    bed.pet.kill_agent().await?;
    eventually(SOON, "the source has ended", || async {
        let ended = bed.pet.podman(&["ps", "--all", "--filter", "status=exited", "--format", "{{.Names}}"]).await?;
        ensure!(ended.contains("k8s_source_"), "{ended}");
        Ok(())
    })
    .await?;
    bed.pet.start_agent().await?;
    let pod = bed
        .until("p", SOON, "all have been restarted", |pod| {
            ["source", "other", "b"].iter().all(|name| restarts(pod, name) == 1 && started_at(pod, name).is_some())
        })
        .await?;
    ensure!(phase_of(&pod) == "Running" && waiting(&pod, "source").is_empty());
    bed.done().await
}
