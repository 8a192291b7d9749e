//! A machine that is shut down waits for its pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube_pet_lab::eventually;
use kube_pet_testkit::logind::FakeLogind;
use serde_json::json;

use crate::harness::{Bed, SOON, condition, container, phase_of, shell};

impl Bed {
    /// The node's readiness, and why.
    async fn is_ready(&self, expected: (&str, &str)) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        eventually(SOON, &format!("the node is {expected:?}"), || async {
            let conditions = nodes.get(self.pet.name()).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").context("Ready")?;
            ensure!((ready.status.as_str(), ready.message.as_deref().unwrap_or_default()) == expected, "{ready:?}");
            Ok(())
        })
        .await
    }
}

fn told(pod: &Pod) -> (&str, &str) {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    (reason, status.and_then(|status| status.message.as_deref()).unwrap_or_default())
}

#[e2e]
async fn e2e_a_shutdown_waits_for_pods_and_critical_ones_end_last() -> Result<()> {
    let bed = Bed::own_with("poweroff", |options| {
        options.with("shutdownGracePeriod", json!("40s")).with("shutdownGracePeriodCriticalPods", json!("10s"))
    })
    .await?;
    bed.pet.shell("mkdir -p /run/dbus").await?;
    let logind = FakeLogind::serve(&bed.pet.path("/run/dbus/system_bus_socket"), 5, Some(40))?;
    logind.locked(SOON).await?;
    let settings = bed.pet.shell("cat /etc/systemd/logind.conf.d/99-kube-pet.conf").await?;
    ensure!(settings.contains("InhibitDelayMaxSec=40"), "{settings}");

    let here = bed.pet.name().to_owned();
    let slow = "trap 'sleep 3; exit 0' TERM; while true; do sleep 0.2; done";
    bed.pod("plain", json!({"containers": [shell("c", slow)], "terminationGracePeriodSeconds": 30})).await?;
    let critical =
        json!({"containers": [shell("c", slow)], "terminationGracePeriodSeconds": 30, "priorityClassName": "system-cluster-critical"});
    bed.pod("critical", critical).await?;
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "fixed", "namespace": bed.namespace},
        "spec": {"containers": [shell("c", "sleep 3600")], "terminationGracePeriodSeconds": 1},
    });
    std::fs::write(bed.pet.path("/etc/kube-pet/manifests/fixed.yaml"), manifest.to_string()).context("write the manifest")?;
    let fixed = format!("fixed-{here}");
    for name in ["plain", "critical", &fixed] {
        bed.until(name, SOON, "Running", |pod| phase_of(pod) == "Running").await?;
    }
    // The end of the agent is not the end of the machine.
    bed.pet.stop_agent().await?;
    bed.pet.start_agent().await?;
    eventually(SOON, "the new agent delays the shutdown", || async { logind.lock().context("no lock").map(drop) }).await?;
    for name in ["plain", "critical"] {
        ensure!(phase_of(&bed.get(name).await?) == "Running", "{name}");
    }

    logind.shut_down(true).await?;
    bed.is_ready(("False", "node is shutting down")).await?;
    bed.pod("late", json!({"containers": [shell("c", "sleep 3600")], "nodeName": here})).await?;
    let late = bed.phase("late", "Failed").await?;
    ensure!(told(&late) == ("NodeShutdown", "Pod was rejected: Pod was rejected as the node is shutting down."), "{:?}", late.status);
    eventually(SOON, "the machine may go down", || async {
        ensure!(logind.lock().is_none());
        Ok(())
    })
    .await?;
    bed.phase(&fixed, "Failed").await?;
    let mut ends = Vec::new();
    for name in ["plain", "critical"] {
        let has_ended = |pod: &Pod| ended_at(pod).is_some();
        let pod = bed.until(name, SOON, "has ended", has_ended).await?;
        let expected = ("Terminated", "Pod was terminated in response to imminent node shutdown.");
        ensure!(phase_of(&pod) == "Failed" && told(&pod) == expected, "{name}: {:?}", pod.status);
        ensure!(condition(&pod, "DisruptionTarget") == "True", "{name}: {:?}", pod.status);
        ends.push(ended_at(&pod));
    }
    let apart = ends[1].zip(ends[0]).map(|(critical, plain)| critical.duration_since(plain)).context("both have ended")?;
    ensure!(apart.as_secs() >= 2, "the critical pod ended {apart} after the other");
    let events = ["--namespace", "default", "get", "events", "--field-selector", &format!("involvedObject.name={here},reason=Shutdown")];
    let events = bed.lab.kubectl(&events).await?;
    ensure!(events.contains("Shutdown manager detected shutdown event"), "{events}");
    let metrics = bed.lab.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{here}/proxy/metrics")]).await?;
    let time = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_default();
    let (began, ended) = (time("kubelet_graceful_shutdown_start_time_seconds "), time("kubelet_graceful_shutdown_end_time_seconds "));
    ensure!(began > 1e9 && ended > began, "{began} {ended}");

    logind.shut_down(false).await?;
    bed.is_ready(("True", "kubelet is posting ready status")).await?;
    logind.locked(Duration::from_secs(10)).await?;
    bed.pod("again", json!({"containers": [shell("c", "sleep 3600")], "nodeName": here})).await?;
    bed.phase("again", "Running").await?;
    // As with the machine, the static pod starts again with the agent; the others stay Failed.
    bed.pet.stop_agent().await?;
    bed.pet.start_agent().await?;
    bed.phase(&fixed, "Running").await?;
    ensure!(phase_of(&bed.get("plain").await?) == "Failed");
    bed.done().await
}

fn ended_at(pod: &Pod) -> Option<jiff::Timestamp> {
    container(pod, "c")?.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
}
