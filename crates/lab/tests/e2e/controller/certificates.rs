//! Serving certificates of nodes.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus},
        core::v1::Node,
    },
};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use kube_pet_lab::eventually;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::json;

use super::{Cluster, key};
use crate::harness::SOON;

fn request(node: &str, dns: &[&str], addresses: &[&str]) -> Result<CertificateSigningRequest> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name = subject;
    for name in dns {
        params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
    }
    for address in addresses {
        params.subject_alt_names.push(SanType::IpAddress(address.parse()?));
    }
    let pem = params.serialize_request(&KeyPair::generate()?)?.pem()?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("e2e-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: "kubernetes.io/kubelet-serving".into(),
            usages: Some(vec!["digital signature".into(), "server auth".into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

impl Cluster {
    /// What becomes of a node's request.
    async fn decided(&self, node: &str, request: &CertificateSigningRequest) -> Result<CertificateSigningRequestStatus> {
        let as_node: Api<CertificateSigningRequest> = Api::all(self.as_node(node).await?);
        let made = as_node.create(&PostParams::default(), request).await.context("create the request")?;
        let name = made.metadata.name.context("a name")?;
        let all: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        eventually(SOON, "the request is decided", || async {
            let status = all.get(&name).await?.status.unwrap_or_default();
            let denied = status.conditions.iter().flatten().any(|condition| condition.type_ == "Denied");
            if denied || status.certificate.is_some() {
                return Ok(status);
            }
            bail!("{status:?}")
        })
        .await
    }
}

#[e2e]
async fn e2e_serving_certificates_are_for_the_nodes_own_names_only() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    cluster.create_pet("served", "machine-served", &key(1)).await?;
    let status = cluster.allocated("served").await?;
    let address = status["nodeAddresses"][0].as_str().context("an address")?.to_owned();
    let approved = cluster.decided("served", &request("served", &["served"], &[&address])?).await?;
    ensure!(approved.certificate.is_some(), "{approved:?}");

    for (dns, addresses, reason, text) in [
        (&["served"][..], &[address.as_str(), "10.210.9.9"][..], "ForeignAddress", "the address 10.210.9.9 is not one of served's"),
        (
            &["served", "kubernetes.default.svc"],
            &[address.as_str()],
            "ForeignName",
            "the DNS name \"kubernetes.default.svc\" is not the node's",
        ),
        (&["other"], &[address.as_str()], "ForeignName", "the DNS name \"other\" is not the node's"),
    ] {
        let request = request("served", dns, addresses)?;
        let refused = cluster.decided("served", &request).await?;
        let denied = refused.conditions.iter().flatten().find(|condition| condition.type_ == "Denied").context("denied")?;
        ensure!(denied.reason.as_deref() == Some(reason), "{denied:?}");
        ensure!(denied.message.as_deref().is_some_and(|message| message.contains(text)), "{denied:?}");
        ensure!(cluster.metric("kube_pet_serving_certificates_total", reason).await? > 0.0, "{reason} is not counted");
    }
    cluster.done().await
}

#[e2e]
async fn e2e_a_pets_node_gets_its_role_and_its_pod_cidr() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    cluster.create_pet("labelled", "machine-labelled", &key(1)).await?;
    cluster.allocated("labelled").await?;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({"metadata": {"name": "labelled"}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
    let label = "node-role.kubernetes.io/pet";
    let node = eventually(SOON, "the Node has its role and a pod CIDR", || async {
        let node = nodes.get("labelled").await?;
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.clone().unwrap_or_default();
        ensure!(labels.contains_key(label) && spec.pod_cidr.is_some(), "{labels:?} {spec:?}");
        Ok(spec)
    })
    .await?;
    // The lab's controller manager allocates pod CIDRs too; whoever was first, the Pet says how it is.
    let status = cluster.status("labelled", "its Node is seen", |status| super::condition(status, "NodePresent") == "True").await?;
    let same = status["podCIDRs"][0].as_str() == node.pod_cidr.as_deref();
    let wanted = if same { "True" } else { "False" };
    cluster.status("labelled", "the pod CIDR is told", |status| super::condition(status, "PodCIDRSet") == wanted).await?;
    nodes.delete("labelled", &DeleteParams::default()).await?;
    cluster.status("labelled", "its Node's end is seen", |status| super::condition(status, "NodePresent") == "False").await?;
    cluster.done().await
}
