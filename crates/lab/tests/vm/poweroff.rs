//! A shutdown by systemd, whose logind waits for the agent, which waits for its pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::bed::{SOON, container, on_node, phase_of, shell, told};

/// Says on the machine's disk when it is told to end and when it has ended, in seconds.
fn slow(name: &str) -> Value {
    let script = format!(
        "trap 'echo {name} told $(date +%s) >> /disk/ends; sleep 3; echo {name} ended $(date +%s) >> /disk/ends; sync; exit 0' TERM
         while true; do sleep 0.2; done"
    );
    let mut container = shell("c", &script);
    container["volumeMounts"] = json!([{"name": "disk", "mountPath": "/disk"}]);
    let disk = json!({"name": "disk", "hostPath": {"path": "/var/tmp/disk", "type": "DirectoryOrCreate"}});
    json!({"containers": [container], "volumes": [disk], "terminationGracePeriodSeconds": 60})
}

fn ended_at(pod: &Pod) -> Option<jiff::Timestamp> {
    container(pod, "c")?.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
}

#[tokio::test]
async fn vm_a_poweroff_waits_for_pods_in_the_order_of_their_priority() -> Result<()> {
    let periods = |options: kube_pet_lab::VmOptions| {
        options.with("shutdownGracePeriod", json!("120s")).with("shutdownGracePeriodCriticalPods", json!("60s"))
    };
    on_node("poweroff", periods, async |bed| {
        eventually(SOON, "logind knows of the lock", || async {
            let locks = bed.vm.shell("systemd-inhibit --list --no-pager --no-legend").await?;
            ensure!(locks.contains("kube-pet") && locks.contains("delay"), "{locks}");
            let longest = bed
                .vm
                .shell(
                    "busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager InhibitDelayMaxUSec",
                )
                .await?;
            ensure!(longest.trim() == "t 120000000", "{longest}");
            Ok(())
        })
        .await?;
        bed.pod("plain", slow("plain")).await?;
        let mut critical = slow("critical");
        critical["priorityClassName"] = json!("system-cluster-critical");
        bed.pod("critical", critical).await?;
        for name in ["plain", "critical"] {
            bed.phase(name, "Running").await?;
        }
        let _ = bed.vm.shell("systemctl poweroff").await;
        bed.vm.off(SOON + Duration::from_secs(120)).await?;
        let mut ends = Vec::new();
        for name in ["plain", "critical"] {
            let pod = bed.until(name, "has ended", |pod| ended_at(pod).is_some()).await?;
            let expected = ("Terminated", "Pod was terminated in response to imminent node shutdown.");
            ensure!(phase_of(&pod) == "Failed" && told(&pod) == expected, "{name}: {:?}", pod.status);
            ends.push(ended_at(&pod));
        }
        let apart = ends[1].zip(ends[0]).map(|(critical, plain)| critical.duration_since(plain)).context("both have ended")?;
        ensure!(apart.as_secs() >= 2, "the critical pod ended {apart} after the other");
        // As the pods themselves saw it.
        bed.vm.boot().await?;
        let lines = bed.vm.shell("cat /var/tmp/disk/ends").await?;
        let said: Vec<_> = lines.lines().filter_map(|line| line.rsplit_once(' ').map(|(what, _)| what)).collect();
        ensure!(said == ["plain told", "plain ended", "critical told", "critical ended"], "{lines}");
        bed.vm.ready(SOON).await?;
        // Neither of them runs again.
        for name in ["plain", "critical"] {
            ensure!(phase_of(&bed.get(name).await?) == "Failed");
        }
        let running = bed.vm.shell("podman ps --quiet").await?;
        ensure!(running.is_empty(), "{running}");
        Ok(())
    })
    .await
}
