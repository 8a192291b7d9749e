//! Joining by a token, and leaving.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use kube_pet_lab::{
    PetOptions, eventually,
    joining::{self, CONFIG, PROGRAM, join},
};
use serde_json::{Value, json};

use super::Cluster;
use crate::harness::{PAUSE, SOON};

#[e2e]
async fn e2e_a_machine_joins_by_a_token_and_leaves() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    let pet = joining::machine(&cluster.lab, PetOptions::new("joiner")).await?;
    let token = joining::token(&cluster.lab, &["--ttl", "1h"]).await?;
    let (done, text) = join(&pet, &token, "--set maxPods=77").await?;
    ensure!(done && text.contains("accepts the token") && text.contains("start the agent"), "{text}");
    let secret = pet.shell("stat -c %a /etc/kube-pet/bootstrap.kubeconfig").await?;
    ensure!(secret.trim() == "600", "{secret}");
    pet.start_agent().await?;
    // Again: it goes on where it was, and waits.
    let (done, text) = join(&pet, &token, "").await?;
    ensure!(done && text.ends_with("joiner is Ready"), "{text}\n{}", pet.agent_log());
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = nodes.get("joiner").await?;
    let pods = node.status.and_then(|status| status.capacity?.get("pods").cloned()).context("a capacity")?;
    ensure!(pods.0 == "77", "the flag was written down: {pods:?}");

    // The serving certificate was approved by the controller: the API server verifies it. A node without a tunnel says itself what
    // its address is, and this controller is told to believe the lab's.
    let spec = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {
        "nodeName": "joiner", "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": PAUSE}],
    }});
    let all: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    eventually(SOON, "the default service account", || cluster.lab.kubectl(&["get", "serviceaccount", "default"])).await?;
    all.create(&PostParams::default(), &serde_json::from_value(spec)?).await?;
    eventually(SOON, "the pod runs", || async {
        let pod = all.get("p").await?;
        ensure!(crate::harness::phase_of(&pod) == "Running", "{:?}", pod.status);
        Ok(())
    })
    .await?;
    eventually(SOON, "kubectl logs", || cluster.lab.kubectl(&["logs", "p"])).await?;
    ensure!(cluster.metric("kube_pet_serving_certificates_total", "approved").await? >= 1.0);

    // Leaving: not while the agent runs; then pods, state and credentials are gone, and the configuration stays.
    let leave = format!("{PROGRAM} leave --yes {CONFIG} 2>&1; echo $?");
    let text = pet.shell(&leave).await?;
    ensure!(text.contains("the agent is running: stop it first"), "{text}");
    pet.stop_agent().await?;
    let text = pet.shell(&leave).await?;
    ensure!(text.contains("this machine is no node any more") && text.trim_end().ends_with("\n0"), "{text}");
    let left = pet.shell("ls -d /var/lib/kube-pet /run/kube-pet /etc/kube-pet/* 2>/dev/null; true").await?;
    let left: Vec<_> = left.lines().filter(|line| !line.ends_with("/manifests")).collect();
    ensure!(left == ["/etc/kube-pet/node.yaml", "/etc/kube-pet/node.yaml.d"], "{left:?}");
    let containers = pet.podman(&["ps", "--all", "--quiet"]).await?;
    ensure!(containers.is_empty() && pet.podman_services().is_empty(), "{containers}");
    let text = pet.shell(&leave).await?;
    ensure!(text.trim_end().ends_with("\n0"), "twice is harmless: {text}");
    all.delete("p", &DeleteParams::default().grace_period(0)).await?;
    nodes.delete("joiner", &DeleteParams::default()).await?;

    // And back again.
    let (done, text) = join(&pet, &token, "").await?;
    ensure!(done, "{text}");
    pet.remove().await?;
    cluster.done().await
}

#[e2e]
async fn e2e_tokens_that_are_not_good_are_refused_with_a_clear_text() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    let pet = joining::machine(&cluster.lab, PetOptions::new("refused")).await?;

    let expired = joining::token(&cluster.lab, &["--ttl", "1s"]).await?;
    eventually(SOON, "the token expires", || async {
        let (done, text) = join(&pet, &expired, "").await?;
        ensure!(!done && text.contains("does not accept the token: it has expired or was deleted"), "{text}");
        Ok(())
    })
    .await?;
    // A first try may have been in time.
    pet.shell("rm -f /etc/kube-pet/bootstrap.kubeconfig").await?;
    let damaged = joining::token(&cluster.lab, &[]).await?;
    let (done, text) = join(&pet, &damaged[..damaged.len() - 5], "").await?;
    ensure!(!done && text.contains("the join token is damaged; copy the whole line"), "{text}");

    // Another cluster answers at the address: it does not get to see the token.
    let foreign = rcgen::CertificateParams::new([]).and_then(|mut params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate()?)
    })?;
    let (done, text) = join(&pet, &changed(&joining::token(&cluster.lab, &[]).await?, "c", &foreign.pem())?, "").await?;
    ensure!(!done && text.contains("is not the cluster of the join token: its certificate is not signed by that cluster's CA"), "{text}");

    // The CA by its hash, from cluster-info as kubeadm publishes it.
    let short = joining::token(&cluster.lab, &["--ca-hash"]).await?;
    let (done, text) = join(&pet, &short, "").await?;
    ensure!(!done && text.contains("reading the ConfigMap cluster-info in kube-public"), "{text}");
    publish_cluster_info(&cluster).await?;
    let wrong = changed(&short, "h", &format!("sha256:{}", "0".repeat(64)))?;
    let (done, text) = join(&pet, &wrong, "").await?;
    ensure!(!done && text.contains("no CA of its cluster-info has the hash sha256:0000"), "{text}");
    let nothing = pet.shell("ls /etc/kube-pet/bootstrap.kubeconfig 2>&1 || true").await?;
    ensure!(nothing.contains("No such file"), "nothing was written by what was refused: {nothing}");
    let (done, text) = join(&pet, &short, "").await?;
    ensure!(done && text.contains("accepts the token"), "{text}");
    pet.remove().await?;
    cluster.done().await
}

/// The token with another value in one of its fields.
fn changed(token: &str, field: &str, value: &str) -> Result<String> {
    use base64::Engine;
    let coder = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let (prefix, encoded) = token.split_once('.').context("a prefix")?;
    let mut content: Value = serde_json::from_slice(&coder.decode(encoded)?)?;
    ensure!(content.get(field).is_some(), "{field} in {content}");
    content[field] = json!(value);
    Ok(format!("{prefix}.{}", coder.encode(content.to_string())))
}

async fn publish_cluster_info(cluster: &Cluster) -> Result<()> {
    let ca = std::fs::read(cluster.lab.record().pki_dir().join("ca.crt"))?;
    let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca);
    let kubeconfig =
        json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": {"certificate-authority-data": ca}}]});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
         "data": {"kubeconfig": kubeconfig.to_string()}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
         "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "cluster-info"},
         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}]},
    ]});
    cluster.lab.kubectl_with_input(&["apply", "-f", "-"], &list.to_string()).await.map(drop)
}
