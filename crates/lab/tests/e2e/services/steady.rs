//! Connections at a high rate while the agent is killed again and again and endpoints come and go.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::{client, cluster_ip, load, load::Load, service};
use crate::harness::{Bed, SOON, condition};

const KILLS: u32 = 20;
const A_SECOND: u32 = 1000;
/// Servers, between which the number changes.
const FEW: u32 = 2;
const MANY: u32 = 4;
/// How long servers go on that should end.
const GRACE: Duration = Duration::from_secs(12);

/// How often the agents have compared the kernel's rules for Services with what should be there.
fn compared(bed: &Bed) -> usize {
    let log = bed.pet.agent_log();
    log.lines().filter(|line| line.contains("the kernel's rules are as they should be") && line.contains("services")).count()
}

#[e2e]
async fn e2e_no_connection_is_lost_while_the_agent_is_killed_and_endpoints_change() -> Result<()> {
    let bed = Bed::own("steady").await?;
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": bed.pet.name()},
            // More than a loaded machine needs until an agent has programmed that they end.
            "terminationGracePeriodSeconds": GRACE.as_secs(),
            "containers": [load::server()],
        },
    });
    let web =
        json!({"metadata": {"name": "web"}, "spec": {"replicas": MANY, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    bed.create::<Deployment>(web).await?;
    client(&bed).await?;
    let web = service(&bed, "web", json!({})).await?;
    let target = format!("{}:80", cluster_ip(&web)?).parse()?;
    let deployments = bed.api::<Deployment>();
    let ready = async |wanted: i32| {
        kube_pet_lab::eventually(SOON, &format!("{wanted} are ready"), || async {
            let status = deployments.get("web").await?.status;
            let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
            ensure!(ready == wanted, "{ready}");
            Ok(())
        })
        .await
    };
    ready(MANY.try_into()?).await?;

    let namespaces = [load::of_pet(&bed), load::of_pod(&bed, "client").await?];
    let began = Instant::now();
    let clients = Load::start(&namespaces, target, A_SECOND, Duration::from_secs(3))?;
    let (mut ended, mut before) = (0, 0);
    for kill in 0..KILLS {
        if kill % 3 == 0 {
            let replicas = if kill % 2 == 0 { FEW } else { MANY };
            // The pods that the last change has added: agents are killed in the middle of their starts.
            if kill > 0 && replicas == FEW {
                ready(MANY.try_into()?).await?;
            }
            let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            deployments.patch("web", &PatchParams::default(), &scale).await.context("scale")?;
        }
        // Now in the middle of its start, now at work.
        if kill % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(600)).await;
        } else {
            kube_pet_lab::eventually(SOON, "the rules are compared", || async {
                ensure!(compared(&bed) > before);
                Ok(())
            })
            .await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        bed.pet.kill_agent().await?;
        let pods = bed.pods().list(&ListParams::default().labels("app=web")).await?;
        ended += pods.iter().filter(|pod: &&Pod| pod.metadata.deletion_timestamp.is_some() && condition(pod, "Ready") == "True").count();
        tokio::time::sleep(Duration::from_millis(200)).await;
        before = compared(&bed);
        bed.pet.start_agent().await?;
    }
    // What the last change has begun.
    tokio::time::sleep(GRACE + Duration::from_secs(2)).await;
    let seen = clients.stop().await?;
    let (took, connections) = (began.elapsed(), seen.answered + u32::try_from(seen.failed.len())?);
    let rate = f64::from(connections) / took.as_secs_f64();
    println!(
        "{connections} connections in {took:.1?}, {rate:.0} a second, to {} servers; {} failed; the slowest took {:?}; {ended} times pods that end",
        seen.servers.len(),
        seen.failed.len(),
        seen.slowest
    );
    ensure!(seen.failed.is_empty(), "{} of {connections} failed: {:?}", seen.failed.len(), &seen.failed[..seen.failed.len().min(20)]);
    ensure!(rate > 100.0, "only {rate:.0} connections a second");
    ensure!(seen.servers.len() > MANY as usize, "no server came: {:?}", seen.servers);
    let compared = compared(&bed);
    ensure!(compared >= KILLS as usize / 2, "the rules were compared {compared} times");
    bed.pet.ready(SOON).await?;
    bed.done().await
}
