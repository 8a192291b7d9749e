//! `kill -9` at any moment is a normal way to stop.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::api::ListParams;
use kube_pet_lab::Lab;
use serde_json::json;

use crate::harness::{Bed, PAUSE, SOON, condition, container, ended, phase_of, restarts, shell};

/// Start time and restart count of each pod that runs.
async fn lives(bed: &Bed) -> Result<BTreeMap<String, (String, i32)>> {
    let pods = bed.pods().list(&ListParams::default().labels("keep=yes")).await?;
    pods.items
        .iter()
        .map(|pod| {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let started = crate::harness::started_at(pod, "c").with_context(|| format!("{name} does not run: {:?}", pod.status))?;
            Ok((name, (started, restarts(pod, "c"))))
        })
        .collect()
}

/// Numbers from a fixed seed: a failure can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % below
    }
}

#[e2e]
async fn e2e_ten_crashes_during_churn_disturb_no_pod() -> Result<()> {
    let bed = Bed::own("crash").await?;
    let container = json!({"name": "c", "image": PAUSE});
    let spec = json!({"containers": [container]});
    for number in 0..20 {
        let name = format!("keep-{number}");
        bed.pod(&name, spec.clone()).await?;
        bed.kubectl(&["label", "pod", &name, "keep=yes"]).await?;
    }
    for number in 0..20 {
        bed.until(&format!("keep-{number}"), SOON, "Running", |pod| phase_of(pod) == "Running").await?;
    }
    let before = lives(&bed).await?;
    // Another history than the usual one: KUBE_PET_SEED=7 cargo test …
    let seed = std::env::var("KUBE_PET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    let mut dice = Dice(seed);
    for round in 0..10 {
        let churn = format!("churn-{round}");
        bed.pod(&churn, spec.clone()).await?;
        tokio::time::sleep(Duration::from_millis(dice.roll(1500))).await;
        match dice.roll(3) {
            0 => bed.pet.kill_agent().await?,
            1 => bed.pet.kill_podman().await?,
            _ => {
                // In this order: the agent may still be about to start the service that the round before has killed.
                bed.pet.kill_podman().await?;
                bed.pet.kill_agent().await?;
            }
        }
        if !bed.pet.agent()?.is_running() {
            bed.pet.start_agent().await?;
        }
        if round % 2 == 1 {
            bed.delete(&churn).await?;
        }
    }
    for round in 0..10 {
        let churn = format!("churn-{round}");
        if round % 2 == 1 {
            bed.gone(&churn, SOON).await?;
        } else {
            bed.phase(&churn, "Running").await?;
        }
    }
    bed.pet.ready(SOON).await?;
    let after = lives(&bed).await?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    // Nothing leaked, nothing doubled: as many running containers and network links as pods.
    // Those that only the storage knows count too. What a pod leaves goes a moment after its object.
    kube_pet_lab::eventually(Duration::from_secs(20), "nothing is left over", || async {
        let all = bed.pet.podman(&["ps", "--all", "--external", "--format", "{{.Names}} {{.Status}}"]).await?;
        let running = all.lines().filter(|line| line.contains(" Up ")).count();
        ensure!(running == 25 && all.lines().count() == 25, "{running} containers run of\n{all}");
        let links = bed.pet.shell("ip -o link show type veth").await?;
        let count = links.lines().filter(|line| !line.contains(" eth0")).count();
        ensure!(count == 25, "{count} links:\n{links}");
        Ok(())
    })
    .await?;
    let pods = bed.pods().list(&ListParams::default()).await?;
    let mut addresses: Vec<_> = pods.items.iter().filter_map(crate::harness::pod_ip).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ensure!(addresses.len() == 25, "{addresses:?}");
    bed.done().await
}

#[e2e]
async fn e2e_an_exit_while_the_agent_was_dead_is_seen() -> Result<()> {
    let bed = Bed::own("deadexit").await?;
    let spec = json!({"restartPolicy": "Never", "containers": [
        shell("c", "while [ ! -e /v/go ]; do sleep 0.1; done; exit 7"),
    ]});
    let mut spec = spec;
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    spec["volumes"] = json!([{"name": "v", "hostPath": {"path": "/var/tmp/signal", "type": "DirectoryOrCreate"}}]);
    bed.pod("p", spec).await?;
    bed.phase("p", "Running").await?;
    bed.pet.kill_agent().await?;
    bed.pet.kill_podman().await?;
    std::fs::write(bed.pet.path("/var/tmp/signal/go"), "")?;
    kube_pet_lab::eventually(SOON, "the container has ended", || async {
        let running = bed.pet.podman(&["ps", "--quiet"]).await?;
        ensure!(running.is_empty());
        Ok(())
    })
    .await?;
    bed.pet.start_agent().await?;
    let pod = bed.until("p", Duration::from_secs(15), "Failed", |pod| phase_of(pod) == "Failed").await?;
    ensure!(ended(&pod, "c") == Some(("Error", 7)), "{:?}", pod.status);
    bed.done().await
}

/// Podman hears of an end by conmon, which is a part of the pod: the OOM killer may choose it.
#[e2e]
async fn e2e_a_container_whose_conmon_was_killed_ends_as_others_do() -> Result<()> {
    let bed = Bed::shared("conmon").await?;
    bed.pod("p", json!({"terminationGracePeriodSeconds": 1, "containers": [shell("c", "sleep 3600 & wait")]})).await?;
    let kill = |pod: &k8s_openapi::api::core::v1::Pod| {
        let id = container(pod, "c").and_then(|status| Some(status.container_id.as_deref()?.trim_start_matches("podman://").to_owned()));
        // The brackets keep the shell from finding itself.
        let script = id.map(|id| format!("monitor=$(pgrep -f '[c]onmon.* {id} ') && kill -9 $monitor $(pgrep -P $monitor)"));
        async { bed.pet.shell(&script.context("a running container has an ID")?).await }
    };
    kill(&bed.phase("p", "Running").await?).await?;
    let again = bed.until("p", SOON, "runs again", |pod| restarts(pod, "c") == 1 && condition(pod, "Ready") == "True").await?;
    let last = container(&again, "c").and_then(|status| status.last_state.as_ref()?.terminated.as_ref());
    ensure!(last.map(|end| (end.reason.as_deref(), end.exit_code)) == Some((Some("Error"), 255)), "{last:?}");
    kill(&again).await?;
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    bed.done().await
}

#[e2e]
async fn e2e_a_pet_cut_off_keeps_its_pods() -> Result<()> {
    let bed = Bed::own("cutoff").await?;
    bed.pod("p", json!({"containers": [shell("c", "sleep 3600")]})).await?;
    let before = bed.phase("p", "Running").await?;
    bed.pet.set_online(false).await?;
    // Long enough for the lease to lapse would be 40 s; the point is what the agent does, not what the cluster says.
    tokio::time::sleep(Duration::from_secs(12)).await;
    // Restarted while there is no API server to ask.
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    bed.pet.set_online(true).await?;
    bed.pet.ready(SOON).await?;
    let after = bed.until("p", SOON, "Ready", |pod| condition(pod, "Ready") == "True").await?;
    let id = |pod| container(pod, "c").and_then(|status| status.container_id.clone());
    ensure!(id(&before) == id(&after) && restarts(&after, "c") == 0);
    bed.done().await
}

/// A service that accepts and never answers is the worst kind: nothing ends, nothing fails.
#[e2e]
async fn e2e_a_hung_podman_service_is_replaced_and_disturbs_no_pod() -> Result<()> {
    let bed = Bed::own("hung").await?;
    let spec = json!({"containers": [{"name": "c", "image": PAUSE}]});
    bed.pod("old", spec.clone()).await?;
    let before = bed.phase("old", "Running").await?;
    let services = bed.pet.podman_services();
    ensure!(services.len() == 1, "{services:?}");
    for service in &services {
        service.freeze()?;
    }
    bed.pod("new", spec).await?;
    let limit = Duration::from_secs(120);
    bed.until("new", limit, "Running", |pod| phase_of(pod) == "Running").await?;
    ensure!(services.iter().all(|service| !service.is_alive()), "the hung service is still there");
    bed.pet.ready(SOON).await?;
    let after = bed.get("old").await?;
    ensure!(crate::harness::started_at(&before, "c") == crate::harness::started_at(&after, "c") && restarts(&after, "c") == 0);
    bed.done().await
}

/// A lab of its own: its API server is stopped.
#[e2e]
async fn e2e_an_api_server_that_is_away_costs_nothing() -> Result<()> {
    if std::env::var_os("E2E_KUBECONFIG").is_some() {
        return Ok(());
    }
    let options = kube_pet_lab::LabOptions::new(format!("away-{}", std::process::id()));
    let lab = Lab::start(options).await?;
    let pet = lab.pet(kube_pet_lab::PetOptions::new("pet1")).await?;
    pet.ready(SOON).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": PAUSE}]},
    });
    kube_pet_lab::eventually(SOON, "the pod is accepted", || async {
        lab.kubectl_with_input(&["apply", "-f", "-"], &pod.to_string()).await
    })
    .await?;
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]).await?;
    let before = pet.podman(&["ps", "--quiet", "--no-trunc"]).await?;
    lab.daemon("kube-apiserver")?.stop(Duration::from_secs(1)).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    ensure!(pet.agent()?.is_running(), "{}", pet.agent_log());
    ensure!(pet.podman(&["ps", "--quiet", "--no-trunc"]).await? == before);
    lab.restart("kube-apiserver").await?;
    pet.ready(SOON).await?;
    lab.kubectl(&["delete", "pod", "p", "--timeout=60s"]).await?;
    lab.stop().await
}
