//! The cloud's own node is what others have: the real kubelet with containerd and kube-proxy.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube_pet_lab::{Lab, LabOptions, NodeAgent, eventually, world};
use serde_json::json;

use super::{home, server};
use crate::harness::{Bed, SOON, condition, pod_ip};

#[e2e]
async fn e2e_pods_at_home_and_of_a_kubelet_reach_each_other_and_each_others_services() -> Result<()> {
    let mut options = LabOptions::new(format!("e2e-kubelet-{}", std::process::id()));
    options.keep_logs = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("e2e-kubelet-logs"));
    options.control_plane.verify_kubelets = true;
    let lab = Arc::new(Lab::start(options).await?);
    let _cloud = world::cloud(&lab).await?;
    let worker = world::worker(&lab, NodeAgent::Kubelet).await?;
    let pet = lab.pet(home("home", json!({"enabled": true}))).await?;
    let bed = Bed::on(lab, pet, "kubelet").await?;

    let mut sides = Vec::new();
    for (name, node) in [("at-home", bed.pet.name()), ("in-cloud", worker.name())] {
        let mut pod = server(name, node);
        pod["metadata"]["labels"] = json!({"app": name});
        bed.create::<Pod>(pod).await?;
        let service = json!({
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        bed.create::<Service>(service).await?;
        let pod = bed.until(name, SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
        let address = pod_ip(&pod).context("a running pod has an address")?.to_owned();
        let service = bed.api::<Service>().get(name).await?.spec.and_then(|spec| spec.cluster_ip).context("a Service has an address")?;
        sides.push((name, address, service));
    }
    let (home, cloud) = (&sides[0], &sides[1]);
    ensure!(home.1.starts_with("10.211.") && cloud.1.starts_with("10.244."), "{sides:?}");

    for ((from, own, _), (to, address, service)) in [(home, cloud), (cloud, home)] {
        let ask = async |url: &str| {
            let command = ["exec", from, "--", "curl", "-sS", "-m", "5", url];
            eventually(SOON, &format!("{from} asks {url}"), || bed.kubectl(&command)).await
        };
        let seen = ask(&format!("http://{address}:8080/clientip")).await?;
        ensure!(seen.starts_with(&format!("{own}:")), "{from} ({own}) was seen as {seen} by {to}");
        let answer = ask(&format!("http://{service}/hostname")).await?;
        ensure!(answer == *to, "{from} asked the Service of {to} and was answered by {answer}");
    }

    for (name, ..) in &sides {
        bed.delete(name).await?;
        bed.gone(name, SOON).await?;
    }
    worker.remove().await?;
    bed.done().await
}
