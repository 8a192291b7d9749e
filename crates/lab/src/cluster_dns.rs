//! The cluster's DNS: CoreDNS in pods behind the ClusterIP that pets tell their pods.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::{lab::Lab, network::DNS_SERVICE_IP};

const MANIFEST: &str = include_str!("cluster_dns/coredns.yaml");

/// Deploys CoreDNS and returns when it is ready to answer. Its pods reach the API server by its ClusterIP: some service proxy must
/// run on the pets.
///
/// On `node` only, for labs whose other nodes come and go; without one, `replicas` are spread over all nodes.
///
/// # Errors
/// When it does not become ready within two minutes; the error has what its pods say.
pub async fn start(lab: &Lab, node: Option<&str>, replicas: u8) -> Result<()> {
    lab.kubectl_with_input(&["apply", "-f", "-"], &manifest(node, replicas)).await.context("deploy CoreDNS")?;
    let ready = lab.kubectl(&["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s"]).await;
    if let Err(error) = ready {
        let pods = lab.kubectl(&["-n", "kube-system", "describe", "pods", "-l", "k8s-app=kube-dns"]).await.unwrap_or_default();
        let log = lab.kubectl(&["-n", "kube-system", "logs", "-l", "k8s-app=kube-dns", "--tail=5"]).await.unwrap_or_default();
        return Err(error.context(format!("CoreDNS is not ready: {log}\n{pods}")));
    }
    // Deployed and ready is not yet behind the ClusterIP: the endpoints have the proxies' and the controller's way before them.
    lab.kubectl(&[
        "-n",
        "kube-system",
        "wait",
        "endpointslice",
        "-l",
        "kubernetes.io/service-name=kube-dns",
        "--for=jsonpath={.endpoints[0].conditions.ready}=true",
    ])
    .await
    .map(drop)
    .map_err(|error| error.context(format!("no endpoint of CoreDNS after {:?}", Duration::from_secs(30))))
}

fn manifest(node: Option<&str>, replicas: u8) -> String {
    let nodes = node.map_or(json!({"kubernetes.io/os": "linux"}), |node| json!({"kubernetes.io/hostname": node}));
    MANIFEST
        .replace("nodeSelector: NODES", &format!("nodeSelector: {nodes}"))
        .replace("replicas: REPLICAS", &format!("replicas: {replicas}"))
        .replace("clusterIP: CLUSTER_IP", &format!("clusterIP: {DNS_SERVICE_IP}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_no_gap_left() {
        let text = manifest(Some("pet1"), 1);
        for filled in ["nodeSelector: {\"kubernetes.io/hostname\":\"pet1\"}", "replicas: 1", "clusterIP: 10.96.0.10"] {
            assert!(text.contains(filled), "{filled} is not in {text}");
        }
    }
}
