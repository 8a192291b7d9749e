//! Pods of several pets and the API server on one network.

use anyhow::{Context, Result, ensure};
use kube_pet_lab::{PetOptions, eventually};
use serde_json::json;

use crate::harness::{AGNHOST, Bed, SOON, pod_ip};

/// A server that tells its name and the address of who asks.
fn server(node: &str) -> serde_json::Value {
    json!({
        "nodeName": node,
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "c", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        }],
    })
}

#[e2e]
async fn e2e_pods_of_two_pets_reach_each_other_and_the_api_server() -> Result<()> {
    let bed = Bed::own("twopets").await?;
    let other = bed.lab.pet(PetOptions::new("twopets-b")).await?;
    other.ready(SOON).await?;
    let mut addresses = Vec::new();
    for (name, node) in [("a", bed.pet.name()), ("b", other.name())] {
        let pod = json!({"metadata": {"name": name}, "spec": server(node)});
        bed.create::<k8s_openapi::api::core::v1::Pod>(pod).await?;
        let pod = bed.until(name, SOON, "is ready", |pod| crate::harness::condition(pod, "Ready") == "True").await?;
        addresses.push(pod_ip(&pod).context("a running pod has an address")?.to_owned());
    }
    for (from, own, to) in [("a", &addresses[0], &addresses[1]), ("b", &addresses[1], &addresses[0])] {
        let url = format!("http://{to}:8080/clientip");
        let ask = ["exec", from, "--", "curl", "-sS", "-m", "5", url.as_str()];
        let answer = eventually(SOON, &url, || bed.kubectl(&ask)).await?;
        // Each pod is seen with its own address: nothing between the pets translates it.
        ensure!(answer.starts_with(&format!("{own}:")), "{from} ({own}) was seen as {answer}");
        let server = format!("https://{}:6443/readyz", bed.lab.record().wire().control_plane());
        let ready = bed.kubectl(&["exec", from, "--", "curl", "-ksS", "-m", "5", &server]).await?;
        ensure!(ready.contains("ok") || ready.contains("Unauthorized"), "{from}: {ready}");
        // The other way: the API server reaches every pod.
        let path = format!("/api/v1/namespaces/{}/pods/{from}:8080/proxy/hostname", bed.namespace);
        let name = kube_pet_lab::client::get(&bed.client, &path).await?;
        ensure!(name == from, "{from}: {name}");
    }
    bed.delete("b").await?;
    bed.gone("b", SOON).await?;
    other.remove().await?;
    bed.done().await
}
