//! `deploy/` as an operator applies it: the controller in pods of the cluster, and the chart by the real Helm.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use kube_pet_lab::{
    Lab, LabOptions, PetOptions,
    builds::Builds,
    command, controller, eventually,
    herd::{self, condition},
    registry,
};
use serde_json::Value;

use crate::harness::{Bed, SOON};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}

async fn in_space(lab: &Lab, arguments: &[&str]) -> Result<String> {
    lab.kubectl(&[["--namespace", controller::NAMESPACE].as_slice(), arguments].concat()).await
}

/// Waits until the Deployment's pods are Ready.
async fn rolled_out(lab: &Lab, deployment: &str) -> Result<()> {
    let name = format!("deployment/{deployment}");
    let Err(error) = in_space(lab, &["rollout", "status", &name, "--timeout=90s"]).await else { return Ok(()) };
    let pods = in_space(lab, &["describe", "pods"]).await.unwrap_or_default();
    let log = in_space(lab, &["logs", &name]).await.unwrap_or_default();
    Err(error.context(format!("{pods}\n{log}")))
}

/// The objects of manifests, as kubectl reads them, in an order of their own.
async fn objects(lab: &Lab, manifests: &str) -> Result<Vec<String>> {
    let text = lab.kubectl_with_input(&["create", "--dry-run=client", "-o", "json", "-f", "-"], manifests).await?;
    let all =
        serde_json::Deserializer::from_str(&text).into_iter::<Value>().collect::<Result<Vec<_>, _>>().context("objects of kubectl")?;
    let mut objects: Vec<String> = all
        .into_iter()
        .flat_map(|object| object["items"].as_array().cloned().unwrap_or_else(|| vec![object.clone()]))
        // Helm makes the namespace by a flag of its own.
        .filter(|object| object["kind"] != "Namespace")
        .map(|object| object.to_string())
        .collect();
    objects.sort();
    Ok(objects)
}

#[e2e]
async fn e2e_the_manifests_run_controller_and_gateway_and_are_what_helm_makes_of_the_chart() -> Result<()> {
    let mut options = LabOptions::new(format!("e2e-d-{}", std::process::id()));
    options.keep_logs = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("e2e-deploy-logs"));
    let lab = Arc::new(Lab::start(options).await?);
    registry::publish_kube_pet(lab.record(), "docker.io/library/kube-pet:latest").await?;
    let bed = Bed::on(lab.clone(), lab.pet(PetOptions::new("node1")).await?, "deploy").await?;

    let file = deploy("kube-pet.yaml").display().to_string();
    let plain = std::fs::read_to_string(&file).context("read the manifests")?;
    let helm = Builds::locate()?.program("helm")?.display().to_string();
    let chart = deploy("helm/kube-pet").display().to_string();
    let template = [helm.as_str(), "template", "kube-pet", &chart, "--namespace", "kube-pet", "--include-crds"];
    let (plain, made) = (objects(&lab, &plain).await?, objects(&lab, &command::run(&template).await?).await?);
    ensure!(plain.len() > 20, "only {} objects", plain.len());
    let differences: Vec<_> = plain.iter().filter(|o| !made.contains(o)).chain(made.iter().filter(|o| !plain.contains(o))).collect();
    ensure!(differences.is_empty(), "{differences:#?}");

    // As docs/controller.md says.
    lab.kubectl(&["apply", "-f", &file]).await?;
    rolled_out(&lab, "kube-pet-controller").await?;
    controller::network(&lab, "168h").await?;
    herd::create(&lab, "simulated", "machine-1", &herd::key(1)).await?;
    let pets = herd::objects(bed.client.clone(), "Pet");
    eventually(SOON, "the controller in the cluster gives a pet its addresses", || async {
        let pet = pets.get("simulated").await?;
        ensure!(condition(&pet.data["status"], "Allocated") == "True", "{:#}", pet.data["status"]);
        Ok(())
    })
    .await?;

    // As docs/tunnel.md says.
    let address = bed.pet.address().to_string();
    let endpoint = format!("gateway.endpoint={address}:51820");
    let settings = ["--set", "gateway.replicas=1", "--set", "gateway.node=node1", "--set", &endpoint];
    let made = command::run(&[template.as_slice(), &settings].concat()).await?;
    lab.kubectl_with_input(&["apply", "-f", "-"], &made).await?;
    rolled_out(&lab, "kube-pet-gateway").await?;
    let gateways = herd::objects(bed.client.clone(), "PetGateway");
    eventually(SOON, "the gateway on the node is the active one, and has the pet as a peer", || async {
        let gateway = gateways.get("node1").await?;
        ensure!(gateway.data["status"]["active"] == true, "{:#}", gateway.data);
        ensure!(gateway.data["spec"]["endpoints"][0]["host"] == address.as_str(), "{:#}", gateway.data["spec"]);
        let page = lab.control_plane().shell(&format!("curl --silent --max-time 5 http://{address}:8081/metrics")).await?;
        ensure!(herd::metric(&page, "kube_pet_gateway_peers{", "") == 1.0, "{page}");
        Ok(())
    })
    .await?;
    bed.pet.shell("/usr/sbin/ip link show pet-gateway").await.context("the node has the gateway's link")?;
    lab.kubectl(&["delete", "namespace", controller::NAMESPACE]).await?;
    bed.done().await
}
