//! Critical pods for which others go.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::harness::{Bed, condition, container, phase_of, shell};

#[e2e]
async fn e2e_a_pod_goes_for_a_critical_one_and_is_gone_before_it_comes() -> Result<()> {
    let bed = Bed::own_with("preempt", |options| options.with("maxPods", json!(2))).await?;
    // All of them name their node: the scheduler would make room itself.
    let here = bed.pet.name().to_owned();
    let amounts = json!({"cpu": "10m", "memory": "10Mi"});
    let mut guaranteed = shell("c", "sleep 3600");
    guaranteed["resources"] = json!({"requests": amounts, "limits": amounts});
    bed.pod("guaranteed", json!({"containers": [guaranteed], "nodeName": here})).await?;
    let slow = shell("c", "trap 'sleep 4; exit 0' TERM; while true; do sleep 0.2; done");
    bed.pod("slow", json!({"containers": [slow], "nodeName": here, "terminationGracePeriodSeconds": 30})).await?;
    for name in ["guaranteed", "slow"] {
        bed.phase(name, "Running").await?;
    }
    bed.pod("plain", json!({"containers": [shell("c", "sleep 3600")], "nodeName": here})).await?;
    let plain = bed.phase("plain", "Failed").await?;
    ensure!(plain.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("OutOfpods"), "{:?}", plain.status);

    let critical = json!({"containers": [shell("c", "sleep 3600")], "nodeName": here, "priorityClassName": "system-node-critical"});
    bed.pod("critical", critical).await?;
    let slow = bed.phase("slow", "Failed").await?;
    let status = slow.status.as_ref().context("a status")?;
    ensure!(status.reason.as_deref() == Some("Preempting"), "{status:?}");
    ensure!(status.message.as_deref() == Some("Preempted in order to admit critical pod"), "{status:?}");
    ensure!(condition(&slow, "DisruptionTarget") == "True", "{status:?}");
    ensure!(phase_of(&bed.get("critical").await?) == "Pending", "it comes before the other has gone");
    bed.event("slow", "Warning Preempting Preempted in order to admit critical pod").await?;
    let critical = bed.phase("critical", "Running").await?;
    let slow = bed.get("slow").await?;
    let began = |pod: &Pod| container(pod, "c")?.state.as_ref()?.running.as_ref()?.started_at.clone();
    let ended = |pod: &Pod| container(pod, "c")?.state.as_ref()?.terminated.as_ref()?.finished_at.clone();
    let (ended, began) = (ended(&slow).context("it has ended")?, began(&critical).context("it has begun")?);
    ensure!(ended <= began, "{ended:?}, {began:?}");
    ensure!(phase_of(&bed.get("guaranteed").await?) == "Running");
    bed.done().await
}
