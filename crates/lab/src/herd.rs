//! Simulated pets: as many as one wants, because they are objects without machines.

use std::{
    collections::BTreeSet,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{controller, daemon::Daemon, lab::Lab, patience::eventually};

/// Requests at a time.
const AT_ONCE: usize = 32;
const SOON: Duration = Duration::from_secs(60);

/// A namespace in which a second controller finds no Lease of another, and may make one.
const ELSEWHERE: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other-lease"}},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
     "metadata": {"name": "lease", "namespace": "other-lease"},
     "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit-leases"},
     "subjects": [{"kind": "ServiceAccount", "name": "kube-pet-controller", "namespace": "kube-pet"}]},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "edit-leases"},
     "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}]}]}"#;

/// All objects of a kind of `kube-pet.dev`.
pub fn objects(client: Client, kind: &str) -> Api<DynamicObject> {
    Api::all_with(client, &ApiResource::from_gvk(&GroupVersionKind::gvk("kube-pet.dev", "v1alpha1", kind)))
}

/// A Pet as a node creates it.
///
/// # Errors
/// Never.
pub fn pet(name: &str, machine: &str, key: &str) -> Result<DynamicObject> {
    let object = json!({
        "apiVersion": "kube-pet.dev/v1alpha1",
        "kind": "Pet",
        "metadata": {"name": name},
        "spec": {"publicKey": key, "machineID": machine},
    });
    serde_json::from_value(object).context("form of a Pet")
}

/// A public key of a number's own.
pub fn key(number: u16) -> String {
    use base64::Engine;
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A client with the identity of a node.
///
/// # Errors
/// When the administrator's kubeconfig cannot be used.
pub async fn as_node(lab: &Lab, name: &str) -> Result<Client> {
    let file = kube::config::Kubeconfig::read_from(lab.record().kubeconfig())?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some(format!("system:node:{name}"));
    config.auth_info.impersonate_groups = Some(vec!["system:nodes".into(), "system:authenticated".into()]);
    Client::try_from(config).context("make a client")
}

/// Creates a Pet as its node does.
///
/// # Errors
/// When the API server refuses it.
pub async fn create(lab: &Lab, name: &str, machine: &str, key: &str) -> Result<()> {
    let pets = objects(as_node(lab, name).await?, "Pet");
    pets.create(&PostParams::default(), &pet(name, machine, key)?).await.with_context(|| format!("create the Pet {name}")).map(drop)
}

/// The Pet of this number.
pub fn name(number: u16) -> String {
    format!("pet-{number}")
}

async fn create_all(lab: &Lab, numbers: Range<u16>) -> Result<()> {
    let one = |number| async move { create(lab, &name(number), &format!("machine-{number}"), &key(number)).await };
    futures::stream::iter(numbers).map(one).buffer_unordered(AT_ONCE).try_collect().await
}

/// What a race is to come to.
pub struct Course {
    /// How many Pets.
    pub pets: u16,
    /// Node addresses that each gets: one of each family that the PetNetwork has. Each gets one pod CIDR.
    pub node_addresses: usize,
    /// In which all have theirs, from the last one's creation on.
    pub limit: Duration,
}

/// How a race went.
pub struct Race {
    /// From the first Pet until all had addresses.
    pub took: Duration,
    /// How often one controller wanted what the other had, as the one that was there all the time counts.
    pub conflicts: f64,
    /// The controllers that are left.
    pub controllers: [Daemon; 2],
}

/// Creates Pets under two controllers that both work (their Leases are in different namespaces, as after a failed election); in the
/// middle the first, `leader`, is killed, and a third takes over. Then nothing is given twice, nor to nobody.
///
/// # Errors
/// When a Pet has no address in the end, too many of them, or another's.
pub async fn race(lab: &Lab, leader: &Daemon, course: &Course) -> Result<Race> {
    let Course { pets, node_addresses, limit } = *course;
    lab.kubectl_with_input(&["apply", "-f", "-"], ELSEWHERE).await?;
    let rival = controller::start(lab, 1, &["--namespace=other-lease"]).await?;
    let standby = controller::start(lab, 2, &[]).await?;
    rival.logged("leading", SOON).await?;
    standby.logged("standing by", SOON).await?;

    let begun = Instant::now();
    create_all(lab, 0..pets / 2).await?;
    // Both kinds of end: with the process, and with the Lease still held.
    leader.kill().await?;
    create_all(lab, pets / 2..pets).await?;
    let client = lab.client().await?;
    let all = eventually(limit, "all pets are allocated", || async {
        let list = objects(client.clone(), "Pet").list(&ListParams::default()).await?.items;
        let done = list.iter().filter(|pet| condition(&pet.data["status"], "Allocated") == "True").count();
        ensure!(done == usize::from(pets) && list.len() == done, "{done} of {pets}");
        Ok(list)
    })
    .await?;
    let took = begun.elapsed();
    standby.logged("leading", SOON).await?;

    for (field, each) in [("nodeAddresses", node_addresses), ("podCIDRs", 1)] {
        let values: Vec<_> = all.iter().flat_map(|pet| texts(&pet.data["status"][field])).collect();
        ensure!(values.len() == usize::from(pets) * each, "{} {field}", values.len());
        distinct(&values)?;
    }
    // What one of the two has claimed beside what the status says is given back.
    eventually(SOON, "the allocations are those that the pets' statuses have", || async {
        let told: BTreeSet<(String, String)> = all.iter().flat_map(told).collect();
        let list = objects(client.clone(), "PetAllocation").list(&ListParams::default()).await?.items;
        let spec = |of: &DynamicObject, field: &str| of.data["spec"][field].as_str().unwrap_or_default().to_owned();
        // A gateway's key is no machine's.
        let of_pets: Vec<_> = list.iter().filter(|one| !spec(one, "machineID").is_empty()).collect();
        let made: BTreeSet<(String, String)> = of_pets.iter().map(|one| (spec(one, "owner"), spec(one, "value"))).collect();
        ensure!(made.len() == of_pets.len(), "{} allocations of {} values", of_pets.len(), made.len());
        // Beside its addresses a pod CIDR and a key.
        ensure!(of_pets.len() == usize::from(pets) * (node_addresses + 2), "{} allocations", of_pets.len());
        let differences: Vec<_> = told.symmetric_difference(&made).collect();
        ensure!(differences.is_empty(), "{differences:?}");
        Ok(())
    })
    .await?;
    let conflicts = metric(&controller::page(lab, 1, "/metrics").await?, "kube_pet_allocation_conflicts_total", "");
    Ok(Race { took, conflicts, controllers: [rival, standby] })
}

/// What a Pet has by its status, with the Pet's name.
fn told(pet: &DynamicObject) -> Vec<(String, String)> {
    let status = &pet.data["status"];
    let key = status["publicKey"].as_str().map(str::to_owned);
    let values = [texts(&status["nodeAddresses"]), texts(&status["podCIDRs"]), key.into_iter().collect()].concat();
    values.into_iter().map(|value| (pet.metadata.name.clone().unwrap_or_default(), value)).collect()
}

/// The status of a condition; empty when it is not there.
pub fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
    let all = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

/// The texts of a list.
pub fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// The sum of a metric's samples that have this text in their labels.
pub fn metric(page: &str, name: &str, labels: &str) -> f64 {
    let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Whether all of these are different.
///
/// # Errors
/// When one is there twice.
pub fn distinct(values: &[String]) -> Result<()> {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = values.iter().filter(|value| !seen.insert(*value)).collect();
    ensure!(twice.is_empty(), "given twice: {twice:?}");
    Ok(())
}
