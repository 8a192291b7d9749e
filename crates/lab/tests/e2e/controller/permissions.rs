//! Who may write what, and what the API server refuses.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use kube_pet_lab::controller;
use serde_json::{Value, json};

use super::{Cluster, condition, key, objects, pet, refusal};

#[e2e]
async fn e2e_a_pet_writes_its_own_pet_and_no_other() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    cluster.create_pet("mine", "machine-mine", &key(1)).await?;
    cluster.create_pet("yours", "machine-yours", &key(2)).await?;
    let own_word = "a node may write its own Pet only: system:node:mine is not ";
    let as_mine = objects(cluster.as_node("mine").await?, "Pet");
    let refused = refusal(as_mine.create(&PostParams::default(), &pet("third", "machine-third", &key(3))?).await)?;
    ensure!(refused.starts_with("403") && refused.contains(&format!("{own_word}third")), "{refused}");
    let patch = |key: &str| Patch::Merge(json!({"spec": {"publicKey": key}}));
    let refused = refusal(as_mine.patch("yours", &PatchParams::default(), &patch(&key(9))).await)?;
    ensure!(refused.starts_with("403") && refused.contains(&format!("{own_word}yours")), "{refused}");
    let refused = refusal(as_mine.delete("yours", &DeleteParams::default()).await)?;
    ensure!(refused.starts_with("403") && refused.contains(&format!("{own_word}yours")), "{refused}");
    // Its addresses are not its own to write.
    let status = Patch::Merge(json!({"status": {"nodeAddresses": ["10.210.0.1"]}}));
    let refused = refusal(as_mine.patch_status("mine", &PatchParams::default(), &status).await)?;
    ensure!(refused.starts_with("403"), "{refused}");
    for kind in ["PetAllocation", "PetGateway", "PetNetwork"] {
        let others = objects(cluster.as_node("mine").await?, kind);
        let refused = refusal(others.delete("default", &DeleteParams::default()).await)?;
        ensure!(refused.starts_with("403"), "{kind}: {refused}");
    }

    // The key of another is refused by the controller, and peers keep the one that was accepted.
    cluster.allocated("mine").await?;
    cluster.allocated("yours").await?;
    as_mine.patch("mine", &PatchParams::default(), &patch(&key(2))).await?;
    let status = cluster.status("mine", "the key is refused", |status| condition(status, "KeyAccepted") == "False").await?;
    ensure!(status["publicKey"] == key(1).as_str(), "{status}");
    ensure!(status.to_string().contains("yours has this public key"), "{status}");
    ensure!(cluster.metric("kube_pet_public_keys_refused_total", "").await? > 0.0);
    // A key of its own is accepted again.
    as_mine.patch("mine", &PatchParams::default(), &patch(&key(5))).await?;
    cluster.status("mine", "the new key is accepted", |status| status["publicKey"] == key(5).as_str()).await?;
    as_mine.delete("mine", &DeleteParams::default()).await.context("delete the own Pet")?;
    cluster.done().await
}

#[e2e]
async fn e2e_a_gateway_writes_what_it_sees_and_nothing_else() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    cluster.create_pet("seen", "machine-seen", &key(1)).await?;
    let kubeconfig = controller::kubeconfig(&cluster.lab, "kube-pet-gateway", "gateway-permissions").await?;
    let client = kube_pet_lab::client::connect(&kubeconfig).await?;
    let of = |kind: &str| objects(client.clone(), kind);

    let gateway = json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": "PetGateway", "metadata": {"name": "gw"},
        "spec": {"publicKey": key(2), "endpoints": [{"host": "192.0.2.1", "port": 51820}]}});
    of("PetGateway").create(&PostParams::default(), &serde_json::from_value(gateway)?).await.context("create its PetGateway")?;
    let seen = Patch::Merge(json!({"status": {"gateway": "gw"}}));
    of("Pet").patch_status("seen", &PatchParams::default(), &seen).await.context("write what it sees")?;
    of("PetNetwork").list(&ListParams::default()).await.context("read the network")?;

    let spec = Patch::Merge(json!({"spec": {"publicKey": key(3)}}));
    let mut refused = Vec::new();
    for kind in ["Pet", "PetNetwork"] {
        refused.push((kind, refusal(of(kind).patch("seen", &PatchParams::default(), &spec).await)?));
    }
    for kind in ["Pet", "PetGateway", "PetNetwork", "PetAllocation"] {
        refused.push((kind, refusal(of(kind).delete("seen", &DeleteParams::default()).await)?));
    }
    refused.push(("Pet", refusal(of("Pet").create(&PostParams::default(), &pet("other", "machine-other", &key(4))?).await)?));
    refused.push(("PetAllocation", refusal(of("PetAllocation").list(&ListParams::default()).await)?));
    for namespace in ["kube-system", controller::NAMESPACE] {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        refused.push(("Secret", refusal(secrets.list(&ListParams::default()).await)?));
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), controller::NAMESPACE);
    refused.push(("Lease", refusal(leases.get("kube-pet-controller").await)?));
    for (kind, text) in refused {
        ensure!(text.starts_with("403"), "{kind}: {text}");
    }
    cluster.all("PetGateway").delete("gw", &DeleteParams::default()).await?;
    cluster.done().await
}

#[e2e]
async fn e2e_invalid_objects_are_refused_with_a_clear_text() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    let network = json!({"nodeCIDRs": ["10.0.0.0/16"], "podCIDRs": ["10.1.0.0/16"]});
    let with = |field: &str, value: Value| {
        let mut spec = network.clone();
        spec[field] = value;
        spec
    };
    let pet = |field: &str, value: Value| {
        let mut spec = json!({"publicKey": key(1), "machineID": "machine-1"});
        spec[field] = value;
        spec
    };
    let cases = [
        ("PetNetwork", "other", network.clone(), "there is one PetNetwork, and its name is default"),
        ("PetNetwork", "default", with("nodeCIDRs", json!(["10.0.0.1/16"])), "not a range: write its first address"),
        ("PetNetwork", "default", with("podCIDRs", json!(["ten"])), "not a range: write its first address"),
        ("PetNetwork", "default", with("podCIDRs", json!(["10.0.128.0/20"])), "nodeCIDRs and podCIDRs must not overlap"),
        ("PetNetwork", "default", with("serviceCIDRs", json!(["10.0.0.0/8"])), "serviceCIDRs must not overlap"),
        ("PetNetwork", "default", with("podCIDRs", json!(["10.1.0.0/25"])), "smaller than one node's share"),
        ("PetNetwork", "default", with("mtu", json!(500)), "spec.mtu"),
        ("PetNetwork", "default", with("reclaimAfter", json!("a week")), "reclaimAfter must be a duration"),
        ("Pet", "p", pet("publicKey", json!("short")), "must be a WireGuard public key: 32 bytes in base64"),
        ("Pet", "p", pet("machineID", json!("with blank")), "machineID may have letters"),
        ("Pet", "p", pet("endpoints", json!([{"host": "no_name", "port": 1}])), "host must be an IP address or a DNS name"),
        ("Pet", "p", pet("endpoints", json!([{"host": "a.example", "port": 0}])), "spec.endpoints[0].port"),
        (
            "Pet",
            "p",
            pet("localEndpoints", json!([{"host": "10.0.0.5", "port": 1}, {"host": "a.example", "port": 1}])),
            "hosts of localEndpoints must be IP addresses",
        ),
        ("Pet", "p", pet("mtu", json!(1279)), "spec.mtu"),
        ("PetGateway", "g", json!({"publicKey": key(1), "endpoints": []}), "spec.endpoints"),
        ("PetGateway", "g", json!({"publicKey": "x", "endpoints": [{"host": "a", "port": 1}]}), "must be a WireGuard public key"),
    ];
    for (kind, name, spec, text) in cases {
        let object = json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let api: Api<DynamicObject> = cluster.all(kind);
        let refused = refusal(api.create(&dry, &serde_json::from_value(object.clone())?).await).with_context(|| object.to_string())?;
        ensure!(refused.starts_with("422") && refused.contains(text), "{object}: {refused}");
    }
    // What cannot be changed.
    cluster.create_pet("p", "machine-1", &key(1)).await?;
    let change = |field: &str, value: Value| Patch::Merge(json!({"spec": {field: value}}));
    let refused = refusal(cluster.all("Pet").patch("p", &PatchParams::default(), &change("machineID", json!("machine-2"))).await)?;
    ensure!(refused.contains("machineID cannot be changed: delete the Pet of the old machine first"), "{refused}");
    let length = change("nodePodPrefixLength", json!({"ipv4": 25}));
    let refused = refusal(cluster.all("PetNetwork").patch("default", &PatchParams::default(), &length).await)?;
    ensure!(refused.contains("nodePodPrefixLength cannot be changed"), "{refused}");
    cluster.done().await
}
