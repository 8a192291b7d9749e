//! Restart policies, crash loops, init containers, deadlines, updates.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::harness::{AGNHOST, Bed, PAUSE, SOON, condition, container, ended, phase_of, pod_ip, restarts, shell, waiting};

#[e2e]
async fn e2e_a_pod_runs_and_is_reachable_from_the_control_plane() -> Result<()> {
    let bed = Bed::shared("runs").await?;
    let spec = json!({"containers": [
        {"name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"]},
    ]});
    bed.pod("web", spec).await?;
    let pod = bed.until("web", SOON, "Ready", |pod| condition(pod, "Ready") == "True").await?;
    ensure!(phase_of(&pod) == "Running");
    let url = format!("http://{}:8080/hostname", pod_ip(&pod).unwrap_or_default());
    let answer = kube_pet_lab::eventually(SOON, "the pod answers", || {
        let mut curl = bed.lab.control_plane().enter_network();
        curl.args(["curl", "-sS", "--max-time", "2", &url]);
        kube_pet_lab::command::output(curl)
    })
    .await?;
    ensure!(answer == "web", "{answer}");
    let status = container(&pod, "web").expect("a status");
    ensure!(status.ready && status.started == Some(true) && status.restart_count == 0);
    let id = status.container_id.as_deref().unwrap_or_default();
    ensure!(id.starts_with("podman://"), "{id}");
    ensure!(status.image_id.contains("sha256:"), "{}", status.image_id);
    for reason in ["Normal Pulled", "Normal Created", "Normal Started"] {
        bed.event("web", reason).await?;
    }
    bed.done().await
}

/// The script fails once, then succeeds, then stays: what a restart policy does shows in count and phase.
const THREE_LIVES: &str = "n=$(cat /d/n 2>/dev/null || echo 0); echo $((n + 1)) > /d/n; \
     case $n in 0) exit 1;; 1) exit 0;; *) sleep 3600;; esac";

async fn three_lives(policy: &str, phase: &str, restarted: i32) -> Result<()> {
    let bed = Bed::shared("restart").await?;
    let mut container = shell("c", THREE_LIVES);
    container["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    let spec = json!({
        "restartPolicy": policy,
        "containers": [container],
        "volumes": [{"name": "d", "emptyDir": {}}],
    });
    bed.pod("p", spec).await?;
    let pod = bed
        .until("p", Duration::from_secs(90), phase, |pod| {
            phase_of(pod) == phase && restarts(pod, "c") == restarted && waiting(pod, "c").is_empty()
        })
        .await?;
    match policy {
        "Always" => ensure!(condition(&pod, "Ready") == "True"),
        "OnFailure" => ensure!(ended(&pod, "c") == Some(("Completed", 0))),
        _ => ensure!(ended(&pod, "c") == Some(("Error", 1))),
    }
    bed.done().await
}

#[e2e]
async fn e2e_restart_always() -> Result<()> {
    three_lives("Always", "Running", 2).await
}

#[e2e]
async fn e2e_restart_on_failure() -> Result<()> {
    three_lives("OnFailure", "Succeeded", 1).await
}

#[e2e]
async fn e2e_restart_never() -> Result<()> {
    three_lives("Never", "Failed", 0).await
}

#[e2e]
async fn e2e_crash_loop_waits_ten_seconds_then_twenty() -> Result<()> {
    let bed = Bed::shared("crashloop").await?;
    bed.pod("p", json!({"containers": [shell("c", "exit 3")]})).await?;
    let limit = Duration::from_secs(90);
    // The first restart is immediate.
    bed.until("p", SOON, "first restart", |pod| restarts(pod, "c") >= 1).await?;
    let first = Instant::now();
    let pod = bed.until("p", SOON, "CrashLoopBackOff", |pod| waiting(pod, "c") == "CrashLoopBackOff").await?;
    let status = container(&pod, "c").expect("a status");
    let state = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    let message = state.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
    ensure!(message.starts_with("back-off 10s restarting failed container=c pod=p_"), "{message}");
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    ensure!(last.is_some_and(|last| last.exit_code == 3 && last.reason.as_deref() == Some("Error")));
    bed.until("p", limit, "second restart", |pod| restarts(pod, "c") >= 2).await?;
    let second = first.elapsed();
    ensure!((Duration::from_secs(8)..Duration::from_secs(16)).contains(&second), "second restart {second:?} after the first");
    let start = Instant::now();
    bed.until("p", limit, "third restart", |pod| restarts(pod, "c") >= 3).await?;
    let third = start.elapsed();
    ensure!((Duration::from_secs(18)..Duration::from_secs(28)).contains(&third), "third restart {third:?} after the second");
    bed.event("p", "Warning BackOff Back-off restarting failed container c in pod p_").await?;
    bed.done().await
}

#[e2e]
async fn e2e_init_containers_run_in_order() -> Result<()> {
    let bed = Bed::shared("init").await?;
    let with_volume = |name: &str, script: &str| {
        let mut container = shell(name, script);
        container["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
        container
    };
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [
            with_volume("one", "sleep 1; echo one >> /d/order"),
            with_volume("two", "echo two >> /d/order"),
        ],
        "containers": [with_volume("app", "echo app >> /d/order; cat /d/order")],
        "volumes": [{"name": "d", "emptyDir": {}}],
    });
    bed.pod("p", spec).await?;
    let pod = bed.phase("p", "Succeeded").await?;
    ensure!(bed.logs("p").await? == "one\ntwo\napp\n");
    ensure!(condition(&pod, "Initialized") == "True");
    ensure!(ended(&pod, "one") == Some(("Completed", 0)));
    bed.done().await
}

#[e2e]
async fn e2e_a_failing_init_container_fails_the_pod_that_never_restarts() -> Result<()> {
    let bed = Bed::shared("initfail").await?;
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [shell("bad", "exit 4"), shell("never", "true")],
        "containers": [shell("app", "true")],
    });
    bed.pod("p", spec).await?;
    let pod = bed.phase("p", "Failed").await?;
    ensure!(ended(&pod, "bad") == Some(("Error", 4)));
    ensure!(waiting(&pod, "app") == "PodInitializing", "{:?}", pod.status);
    ensure!(condition(&pod, "Initialized") == "False");
    bed.done().await
}

#[e2e]
async fn e2e_a_failing_init_container_is_retried_where_the_policy_says_so() -> Result<()> {
    let bed = Bed::shared("initretry").await?;
    let spec = json!({
        "restartPolicy": "Always",
        "initContainers": [shell("bad", "exit 4")],
        "containers": [shell("app", "sleep 3600")],
    });
    bed.pod("p", spec).await?;
    let pod = bed.until("p", Duration::from_secs(90), "two retries", |pod| restarts(pod, "bad") >= 2).await?;
    ensure!(phase_of(&pod) == "Pending");
    ensure!(waiting(&pod, "app") == "PodInitializing");
    bed.done().await
}

#[e2e]
async fn e2e_a_pod_does_not_outlive_its_active_deadline() -> Result<()> {
    let bed = Bed::shared("deadline").await?;
    let spec = json!({"activeDeadlineSeconds": 3, "containers": [shell("c", "sleep 3600")]});
    bed.pod("p", spec).await?;
    let pod = bed.phase("p", "Failed").await?;
    let status = pod.status.expect("a status");
    ensure!(status.reason.as_deref() == Some("DeadlineExceeded"));
    ensure!(status.message.as_deref() == Some("Pod was active on the node longer than the specified deadline"), "{:?}", status.message);
    bed.done().await
}

#[e2e]
async fn e2e_a_new_image_replaces_the_container() -> Result<()> {
    let bed = Bed::shared("newimage").await?;
    let spec = json!({"containers": [{"name": "c", "image": PAUSE}]});
    bed.pod("p", spec).await?;
    bed.phase("p", "Running").await?;
    let image = "registry.k8s.io/pause:3.9";
    let patch = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
    bed.pods().patch("p", &PatchParams::default(), &Patch::Strategic(patch)).await?;
    bed.until("p", SOON, "runs the new image", |pod| {
        restarts(pod, "c") == 1
            && waiting(pod, "c").is_empty()
            && container(pod, "c").is_some_and(|status| status.image.ends_with("pause:3.9"))
    })
    .await?;
    bed.done().await
}

#[e2e]
async fn e2e_a_pod_that_asks_too_much_is_refused() -> Result<()> {
    let bed = Bed::shared("toomuch").await?;
    // Past the scheduler, straight to the node.
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": bed.pet.name(),
        "containers": [{"name": "c", "image": PAUSE, "resources": {"requests": {"cpu": "1000"}}}],
    }});
    bed.pods().create(&Default::default(), &serde_json::from_value(pod)?).await?;
    let pod = bed.phase("p", "Failed").await?;
    let status = pod.status.expect("a status");
    ensure!(status.reason.as_deref() == Some("OutOfcpu"), "{status:?}");
    bed.done().await
}

#[e2e]
async fn e2e_out_of_memory_is_named() -> Result<()> {
    let bed = Bed::shared("oom").await?;
    let mut container = shell("c", "tail /dev/zero");
    container["resources"] = json!({"limits": {"memory": "16Mi"}});
    let spec = json!({"restartPolicy": "Never", "containers": [container]});
    bed.pod("p", spec).await?;
    let pod = bed.phase("p", "Failed").await?;
    ensure!(ended(&pod, "c") == Some(("OOMKilled", 137)), "{:?}", ended(&pod, "c"));
    bed.done().await
}
