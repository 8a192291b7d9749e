//! What a cluster's administrator and its cloud provide to joining nodes: bootstrap tokens, approvals, routes to the pods.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, Secret},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{machine::Machine, network, patience::eventually, record::LabRecord};

/// The signer of the certificates with which nodes serve.
const SERVING: &str = "kubernetes.io/kubelet-serving";
/// Who holds a bootstrap token of the lab.
const BOOTSTRAPPERS: &str = "system:bootstrappers:kube-pet-lab";

/// Grants what joining nodes need: to ask for a certificate, to have it approved, first and at each renewal, to serve Services,
/// and to enforce NetworkPolicies.
///
/// # Errors
/// When the API server refuses.
pub async fn admit_nodes(client: &Client) -> Result<()> {
    let bindings = [
        ("kube-pet-lab:bootstrap", "system:node-bootstrapper", group(BOOTSTRAPPERS)),
        ("kube-pet-lab:approve-first", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", group(BOOTSTRAPPERS)),
        ("kube-pet-lab:approve-renewal", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", group("system:nodes")),
        ("kube-pet-lab:node-proxiers", "system:node-proxier", group("system:nodes")),
        ("kube-pet-lab:network-policies", "kube-pet:network-policies", group("system:nodes")),
        ("kube-pet-lab:kubelet-api", "system:kubelet-api-admin", user("kube-apiserver-kubelet-client")),
    ];
    let role = json!({
        "metadata": {"name": "kube-pet:network-policies"},
        "rules": [
            {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["namespaces", "pods"], "verbs": ["list", "watch"]},
        ],
    });
    create::<ClusterRole>(&Api::all(client.clone()), role).await?;
    let api: Api<ClusterRoleBinding> = Api::all(client.clone());
    for (name, role, subject) in bindings {
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        });
        create(&api, binding).await?;
    }
    Ok(())
}

fn group(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name})
}

fn user(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name})
}

/// Creates an object; one that exists already is left as it is.
///
/// # Errors
/// When the API server refuses, or `object` is not of this kind.
pub async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let shown = format!("{}", object["metadata"]["name"]);
    let object: K = serde_json::from_value(object).with_context(|| format!("form of {shown}"))?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("create {shown}")),
    }
}

/// Makes a bootstrap token of the lab's group, `id.secret`.
///
/// # Errors
/// When the API server refuses.
pub async fn bootstrap_token(client: &Client) -> Result<String> {
    let (id, secret) = (random_text(6)?, random_text(16)?);
    let object = json!({
        "metadata": {"name": format!("bootstrap-token-{id}")},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": BOOTSTRAPPERS,
        },
    });
    let api: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    // kube-system itself appears shortly after the API server is ready.
    eventually(Duration::from_secs(10), "a bootstrap token can be made", || create(&api, object.clone())).await?;
    Ok(format!("{id}.{secret}"))
}

/// Waits until a node is Ready.
///
/// # Errors
/// When it is not within `limit`; the error has what it says itself.
pub async fn node_ready(client: &Client, name: &str, limit: Duration) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    eventually(limit, &format!("node {name} is Ready"), || async {
        let node = nodes.get(name).await.context("get the node")?;
        let conditions = node.status.and_then(|status| status.conditions);
        match conditions.iter().flatten().find(|condition| condition.type_ == "Ready") {
            Some(condition) if condition.status == "True" => Ok(()),
            Some(condition) => bail!("Ready is {}: {:?}", condition.status, condition.message),
            None => bail!("no Ready condition"),
        }
    })
    .await
}

/// Deletes a node; one that does not exist is not an error.
///
/// # Errors
/// When the API server refuses.
pub async fn forget_node(client: &Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.context("delete the node").map(drop),
    }
}

fn random_text(length: usize) -> Result<String> {
    use std::io::Read;
    let mut bytes = vec![0_u8; length];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("read random bytes")?;
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    Ok(bytes.iter().map(|byte| char::from(alphabet[usize::from(byte % 32)])).collect())
}

/// Approves nodes' requests for serving certificates, as an operator or a cloud's controller would; never returns.
pub async fn approve_serving_certificates(client: Client, lab: LabRecord) {
    let api: Api<CertificateSigningRequest> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.signerName={SERVING}"));
    let mut events = watcher(api.clone(), config).boxed();
    loop {
        match events.next().await {
            Some(Ok(watcher::Event::Apply(request) | watcher::Event::InitApply(request))) => {
                wait_for_switch(&lab).await;
                if let Err(error) = approve(&api, &request).await {
                    tracing::warn!(?error, "a serving certificate is not approved");
                }
            }
            Some(Ok(_)) => {}
            // The watcher starts over by itself; an API server that a test has stopped is no reason to end.
            Some(Err(_)) => tokio::time::sleep(Duration::from_millis(300)).await,
            None => return,
        }
    }
}

async fn wait_for_switch(lab: &LabRecord) {
    while lab.approval_switch().exists() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn approve(api: &Api<CertificateSigningRequest>, request: &CertificateSigningRequest) -> Result<()> {
    let decided = request.status.as_ref().and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| !conditions.is_empty());
    let Some(name) = request.metadata.name.as_deref().filter(|_| !decided) else {
        return Ok(());
    };
    let patch = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "LabApproves", "message": "approved by the lab",
    }]}});
    api.patch_approval(name, &PatchParams::default(), &Patch::Merge(patch)).await.with_context(|| format!("approve {name}")).map(drop)
}

/// Keeps a route to each node's pods in the control plane's namespace, as a cloud's route controller would; never returns.
pub async fn route_pods(client: Client, control_plane: Machine) {
    let mut events = watcher(Api::<Node>::all(client), watcher::Config::default()).boxed();
    let mut routes: HashMap<String, (String, Ipv4Addr)> = HashMap::new();
    loop {
        match events.next().await {
            Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                let Some((name, wanted)) = node_route(&node) else {
                    continue;
                };
                if routes.get(&name) == Some(&wanted) {
                    continue;
                }
                match network::route(&control_plane, &wanted.0, wanted.1).await {
                    Ok(()) => drop(routes.insert(name, wanted)),
                    Err(error) => tracing::warn!(?error, name, "no route to the node's pods"),
                }
            }
            Some(Ok(watcher::Event::Delete(node))) => {
                let name = node.metadata.name.unwrap_or_default();
                if let Some((pods, _)) = routes.remove(&name) {
                    network::unroute(&control_plane, &pods).await;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => tokio::time::sleep(Duration::from_millis(300)).await,
            None => return,
        }
    }
}

fn node_route(node: &Node) -> Option<(String, (String, Ipv4Addr))> {
    let name = node.metadata.name.clone()?;
    let pods = node.spec.as_ref()?.pod_cidr.clone()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok())?;
    Some((name, (pods, internal)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_a_route_once_it_has_both_ends() {
        let mut node = json!({
            "metadata": {"name": "pet1"},
            "spec": {"podCIDR": "10.244.3.0/24"},
            "status": {"addresses": [
                {"type": "Hostname", "address": "pet1"},
                {"type": "InternalIP", "address": "fd00::2"},
                {"type": "InternalIP", "address": "10.201.0.11"},
            ]},
        });
        let parse = |node: &Value| node_route(&serde_json::from_value(node.clone()).unwrap());
        assert_eq!(parse(&node), Some(("pet1".into(), ("10.244.3.0/24".into(), Ipv4Addr::new(10, 201, 0, 11)))));
        node["spec"] = json!({});
        assert_eq!(parse(&node), None);
    }

    #[test]
    fn tokens_have_the_form_that_the_api_server_accepts() {
        let text = random_text(16).unwrap();
        assert_eq!(text.len(), 16);
        assert!(text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
        assert_ne!(text, random_text(16).unwrap());
    }
}
