//! Probes, hooks, sidecars and ephemeral containers against real Podman: what the official suite does not look at.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{Bed, SOON, condition, container, ended, phase_of, restarts, shell};

#[e2e]
async fn e2e_readiness_follows_its_probe_and_liveness_restarts() -> Result<()> {
    let bed = Bed::shared("probes").await?;
    // Ready while /tmp/ready is there; dead once /tmp/dead is.
    let mut probed = shell("c", "touch /tmp/ready; trap 'exit 0' TERM; while true; do sleep 0.1; done");
    probed["readinessProbe"] = json!({"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    probed["livenessProbe"] = json!({"exec": {"command": ["sh", "-c", "! test -e /tmp/dead"]}, "periodSeconds": 1, "failureThreshold": 2});
    bed.pod("p", json!({"containers": [probed], "terminationGracePeriodSeconds": 20})).await?;
    bed.until("p", SOON, "Ready", |pod| condition(pod, "Ready") == "True").await?;
    bed.kubectl(&["exec", "p", "--", "rm", "/tmp/ready"]).await?;
    let pod = bed.until("p", SOON, "not ready", |pod| condition(pod, "Ready") == "False").await?;
    ensure!(restarts(&pod, "c") == 0 && container(&pod, "c").is_some_and(|c| c.started == Some(true) && !c.ready));
    bed.event("p", "Warning Unhealthy Readiness probe failed").await?;
    bed.kubectl(&["exec", "p", "--", "touch", "/tmp/dead"]).await?;
    let pod = bed.until("p", SOON, "restarted and ready", |pod| restarts(pod, "c") == 1 && condition(pod, "Ready") == "True").await?;
    let last = container(&pod, "c").and_then(|c| c.last_state.as_ref()?.terminated.as_ref()).map(|t| t.exit_code);
    ensure!(last == Some(0), "{last:?}");
    bed.event("p", "Normal Killing Container c failed liveness probe, will be restarted").await?;
    bed.done().await
}

#[e2e]
async fn e2e_exec_probes_leave_nothing_behind_in_podman() -> Result<()> {
    let bed = Bed::shared("probe-sessions").await?;
    let mut probed = shell("c", "sleep 3600");
    probed["livenessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    // Each try ends by the time limit: its process has to go.
    probed["readinessProbe"] = json!({"exec": {"command": ["sleep", "1000"]}, "periodSeconds": 1, "timeoutSeconds": 1});
    bed.pod("p", json!({"containers": [probed]})).await?;
    bed.event("p", "Readiness probe failed: command timed out").await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let processes = bed.kubectl(&["exec", "p", "--", "ps"]).await?;
    let sleeping = processes.lines().filter(|line| line.contains("sleep 1000")).count();
    ensure!(sleeping <= 2, "{processes}");
    ensure!(restarts(&bed.get("p").await?, "c") == 0);
    bed.done().await
}

#[e2e]
async fn e2e_sidecars_start_before_and_end_after_the_app() -> Result<()> {
    let bed = Bed::shared("sidecars").await?;
    let script = |name: &str| {
        format!(
            "trap 'echo end {name} >> /d/log; exit 0' TERM; sleep 0.5; echo begin {name} >> /d/log; touch /tmp/up; while true; do sleep 0.1; done"
        )
    };
    let mut sidecars = Vec::new();
    for name in ["s1", "s2"] {
        let mut sidecar = shell(name, &script(name));
        sidecar["restartPolicy"] = json!("Always");
        sidecar["startupProbe"] = json!({"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 30});
        sidecar["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
        sidecars.push(sidecar);
    }
    let mut app = shell("app", "echo begin app >> /d/log; sleep 2; echo end app >> /d/log");
    app["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    let folder = bed.pet.path(format!("/var/tmp/sidecars-{}", bed.namespace));
    std::fs::create_dir_all(&folder)?;
    bed.pod(
        "p",
        json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 20,
            "initContainers": sidecars,
            "containers": [app],
            "volumes": [{"name": "d", "hostPath": {"path": format!("/var/tmp/sidecars-{}", bed.namespace)}}],
        }),
    )
    .await?;
    let pod = bed.phase("p", "Succeeded").await?;
    ensure!(ended(&pod, "app") == Some(("Completed", 0)));
    let log = std::fs::read_to_string(folder.join("log"))?;
    let lines: Vec<_> = log.lines().collect();
    ensure!(lines == ["begin s1", "begin s2", "begin app", "end app", "end s2", "end s1"], "{lines:?}");
    bed.done().await
}

#[e2e]
async fn e2e_hooks_run_around_the_container() -> Result<()> {
    let bed = Bed::shared("hooks").await?;
    let mut hooked = shell("c", "trap 'echo term >> /d/log; exit 0' TERM; while true; do sleep 0.1; done");
    hooked["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "sleep 1; echo started >> /d/log"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo stopping >> /d/log; sleep 1; echo stopped >> /d/log"]}},
    });
    hooked["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    let mut failing = shell("f", "sleep 3600");
    failing["lifecycle"] = json!({"postStart": {"exec": {"command": ["false"]}}});
    let path = format!("/var/tmp/hooks-{}", bed.namespace);
    let folder = bed.pet.path(&path);
    std::fs::create_dir_all(&folder)?;
    let volume = json!([{"name": "d", "hostPath": {"path": path}}]);
    bed.pod("p", json!({"containers": [hooked], "volumes": volume, "terminationGracePeriodSeconds": 20})).await?;
    bed.until("p", SOON, "Ready", |pod| condition(pod, "Ready") == "True").await?;
    ensure!(std::fs::read_to_string(folder.join("log"))? == "started\n", "ready before its hook was done");
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    let log = std::fs::read_to_string(folder.join("log"))?;
    ensure!(log == "started\nstopping\nstopped\nterm\n", "{log}");

    bed.pod("f", json!({"containers": [failing], "terminationGracePeriodSeconds": 1})).await?;
    bed.event("f", "Warning FailedPostStartHook PostStartHook failed").await?;
    bed.until("f", SOON, "restarted", |pod| restarts(pod, "f") >= 1).await?;
    bed.done().await
}

#[e2e]
async fn e2e_kubectl_debug_looks_into_a_container() -> Result<()> {
    let bed = Bed::shared("debug").await?;
    bed.pod("p", json!({"containers": [shell("c", "exec sleep 123456")]})).await?;
    bed.phase("p", "Running").await?;
    let image = shell("x", "")["image"].as_str().unwrap_or_default().to_owned();
    let debug = |name: &'static str| {
        let image = format!("--image={image}");
        let bed = &bed;
        async move { bed.kubectl(&["debug", "p", &image, "--target=c", "-c", name, "--", "sh", "-c", "ps; exit 3"]).await }
    };
    for name in ["d1", "d2"] {
        debug(name).await?;
        let pod = bed
            .until("p", SOON, "the ephemeral container ends", |pod| {
                let statuses = pod.status.as_ref().and_then(|s| s.ephemeral_container_statuses.as_deref()).unwrap_or_default();
                let state = statuses.iter().find(|s| s.name == name).and_then(|s| s.state.as_ref());
                state.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 3)
            })
            .await?;
        ensure!(phase_of(&pod) == "Running" && restarts(&pod, "c") == 0);
        let seen = bed.kubectl(&["logs", "p", "-c", name]).await?;
        ensure!(seen.contains("sleep 123456"), "the target's processes are not seen:\n{seen}");
    }
    bed.done().await
}
