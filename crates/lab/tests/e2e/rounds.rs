//! Containers that are replaced or restarted while their pod goes on: new images, and restarts of all together (KEP-5532).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
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

async fn set_image(bed: &Bed, pod: &str, list: &str, name: &str, image: &str) -> Result<()> {
    let mut patch = json!({"spec": {}});
    patch["spec"][list] = json!([{"name": name, "image": image}]);
    bed.pods().patch(pod, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

/// The phases that a pod has shown since now, until this is aborted.
fn phases(bed: &Bed, pod: &str) -> (Arc<Mutex<BTreeSet<String>>>, tokio::task::AbortHandle) {
    let (seen, pods, name) = (Arc::<Mutex<BTreeSet<String>>>::default(), bed.pods(), pod.to_owned());
    let noted = seen.clone();
    let task = tokio::spawn(async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut states = std::pin::pin!(watcher(pods, config).default_backoff().applied_objects());
        while let Some(state) = states.next().await {
            if let Ok(pod) = state {
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(phase_of(&pod).to_owned());
            }
        }
    });
    (seen, task.abort_handle())
}

#[e2e]
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
    set_image(&bed, "p", "containers", "done", OTHER).await?;
    set_image(&bed, "p", "initContainers", "init", OTHER).await?;
    set_image(&bed, "p", "containers", "web", OTHER).await?;
    bed.event("p", "Normal Killing Container web definition changed, will be restarted").await?;
    let new = |name: &'static str| {
        move |pod: &k8s_openapi::api::core::v1::Pod| {
            restarts(pod, name) == 1 && started_at(pod, name).is_some() && container(pod, name).is_some_and(|status| status.image == OTHER)
        }
    };
    bed.until("p", SOON, "web runs the new image", new("web")).await?;
    set_image(&bed, "p", "initContainers", "side", OTHER).await?;
    let pod = bed.until("p", SOON, "the sidecar runs the new image", new("side")).await?;
    bed.event("p", "Normal Killing Init container side definition changed").await?;
    ensure!(started_at(&pod, "other") == started_at(&before, "other") && restarts(&pod, "other") == 0, "the other was disturbed");
    ensure!(ended(&pod, "done") == Some(("Completed", 0)) && restarts(&pod, "done") == 0, "{:?}", container(&pod, "done"));
    ensure!(restarts(&pod, "init") == 0 && phase_of(&pod) == "Running", "{:?}", pod.status);
    bed.done().await
}

#[e2e]
async fn e2e_a_pod_of_one_container_stays_running_while_that_is_replaced() -> Result<()> {
    let bed = Bed::shared("newimage").await?;
    for (name, script) in [("clean", IDLE), ("killed", "sleep 3600")] {
        bed.pod(name, json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [shell("c", script)]})).await?;
        bed.until(name, SOON, "runs", |pod| started_at(pod, "c").is_some()).await?;
        let (seen, watch) = phases(&bed, name);
        eventually(SOON, "the phase is watched", || async {
            ensure!(!seen.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
            Ok(())
        })
        .await?;
        set_image(&bed, name, "containers", "c", OTHER).await?;
        // Ended for good it would stay so: the pod would never run the new image.
        let pod = bed.until(name, SOON, "runs the new image", |pod| restarts(pod, "c") == 1 && started_at(pod, "c").is_some()).await?;
        let last = container(&pod, "c").and_then(|status| status.last_state.as_ref()?.terminated.as_ref()).context("a last state")?;
        ensure!((last.exit_code == 0) == (name == "clean"), "{last:?}");
        watch.abort();
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(seen == BTreeSet::from(["Running".to_owned()]), "{name} was {seen:?}");
    }
    bed.done().await
}

#[e2e]
async fn e2e_a_container_is_replaced_once_that_is_written_down() -> Result<()> {
    let bed = Bed::own("writeahead").await?;
    bed.pod("p", json!({"restartPolicy": "Never", "containers": [shell("c", IDLE)]})).await?;
    let before = bed.until("p", SOON, "runs", |pod| started_at(pod, "c").is_some()).await?;
    let uid = before.metadata.uid.clone().context("a UID")?;
    let checkpoint = bed.pet.path(format!("/var/lib/kube-pet/pods/{uid}/pod.json"));
    // Nothing can be written over a folder.
    std::fs::remove_file(&checkpoint).with_context(|| checkpoint.display().to_string())?;
    std::fs::create_dir(&checkpoint)?;
    set_image(&bed, "p", "containers", "c", OTHER).await?;
    eventually(SOON, "the agent cannot write", || async {
        ensure!(bed.pet.agent_log().contains("and replaces no container"), "nothing in the agent's log");
        Ok(())
    })
    .await?;
    // It goes on with what it has, while another pod comes and runs.
    bed.pod("q", json!({"restartPolicy": "Never", "containers": [shell("c", "sleep 2")]})).await?;
    bed.phase("q", "Succeeded").await?;
    let same = bed.get("p").await?;
    ensure!(started_at(&same, "c") == started_at(&before, "c"), "{:?}", same.status);
    std::fs::remove_dir(&checkpoint)?;
    bed.until("p", SOON, "runs the new image", |pod| restarts(pod, "c") == 1 && started_at(pod, "c").is_some()).await?;
    bed.done().await
}

#[e2e]
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

#[e2e]
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
