//! NetworkPolicies, as pods see them.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::harness::{AGNHOST, BUSYBOX, Bed, SOON, condition, pod_ip, shell};

/// A server on the named port `http`, ready as long as the node reaches it.
async fn server(bed: &Bed) -> Result<String> {
    let ready = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    let container =
        json!({"name": "c", "image": AGNHOST, "args": ["netexec", "--http-port=8080"], "ports": ports, "readinessProbe": ready});
    bed.pod("web", json!({"containers": [container]})).await?;
    bed.kubectl(&["label", "pod", "web", "app=web"]).await?;
    let pod = bed.until("web", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    Ok(pod_ip(&pod).context("the server's address")?.to_owned())
}

async fn client(bed: &Bed, name: &str) -> Result<()> {
    bed.pod(name, json!({"containers": [shell("c", "sleep 3600")]})).await?;
    bed.kubectl(&["label", "pod", name, &format!("role={name}")]).await?;
    bed.until(name, SOON, "is ready", |pod| condition(pod, "Ready") == "True").await.map(drop)
}

async fn policy(bed: &Bed, name: &str, spec: Value) -> Result<()> {
    bed.create::<NetworkPolicy>(json!({"metadata": {"name": name}, "spec": spec})).await
}

/// Whether the client gets an answer from the place.
async fn reaches(bed: &Bed, client: &str, place: &str) -> Result<bool> {
    let ask = format!("wget -q -O- -T 1 http://{place}/hostname >/dev/null 2>&1 && echo yes || echo no");
    match bed.kubectl(&["exec", client, "--", "sh", "-c", &ask]).await?.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => bail!("{other}"),
    }
}

async fn until(bed: &Bed, client: &str, place: &str, expected: bool) -> Result<()> {
    eventually(SOON, &format!("{client} → {place}: {expected}"), || async {
        ensure!(reaches(bed, client, place).await? == expected);
        Ok(())
    })
    .await
}

#[e2e]
async fn e2e_network_policies_hold_for_pods_and_services_without_the_agent_too() -> Result<()> {
    let bed = Bed::own("policies").await?;
    let (web, (), ()) = tokio::try_join!(server(&bed), client(&bed, "friend"), client(&bed, "stranger"))?;
    let ports = json!([{"port": 80, "targetPort": "http"}]);
    bed.create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}})).await?;
    let service = bed.api::<Service>().get("web").await?.spec.and_then(|spec| spec.cluster_ip).context("a ClusterIP")?;
    let direct = format!("{web}:8080");
    for client in ["friend", "stranger"] {
        until(&bed, client, &direct, true).await?;
        until(&bed, client, &service, true).await?;
    }
    ensure!(bed.pet.shell("nft list tables").await?.matches("policies").count() == 0, "nothing for nobody");

    let from = json!([{"podSelector": {"matchLabels": {"role": "friend"}}}]);
    let ingress = json!([{"from": from, "ports": [{"port": "http"}]}]);
    policy(&bed, "web", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": ingress})).await?;
    for place in [&direct, &service] {
        until(&bed, "stranger", place, false).await?;
        until(&bed, "friend", place, true).await?;
    }
    // The labels of who asks are followed.
    bed.kubectl(&["label", "pod", "stranger", "--overwrite", "role=friend"]).await?;
    until(&bed, "stranger", &direct, true).await?;
    bed.kubectl(&["label", "pod", "stranger", "--overwrite", "role=stranger"]).await?;
    until(&bed, "stranger", &direct, false).await?;

    bed.pet.kill_agent().await?;
    // The kernel is asked on the machine: exec needs the agent.
    ensure!(bed.pet.shell("nft list tables").await?.contains("policies"));
    let before = bed.pet.shell("nft list ruleset inet").await?;
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    until(&bed, "friend", &direct, true).await?;
    for _ in 0..5 {
        ensure!(!reaches(&bed, "stranger", &direct).await? && reaches(&bed, "friend", &direct).await?, "after the restart");
    }
    let after = bed.pet.shell("nft list ruleset inet").await?;
    ensure!(policies_of(&before) == policies_of(&after), "{before}\n\n{after}");
    let pod = bed.get("web").await?;
    ensure!(condition(&pod, "Ready") == "True", "the node reaches its pods");

    bed.kubectl(&["delete", "networkpolicy", "web"]).await?;
    until(&bed, "stranger", &direct, true).await?;
    bed.done().await
}

/// The lines of the table, without those of others.
fn policies_of(ruleset: &str) -> String {
    let from = ruleset.find("-policies {").unwrap_or(ruleset.len());
    let table = ruleset.get(from..).unwrap_or_default();
    table.split("\ntable ").next().unwrap_or_default().to_owned()
}

#[e2e]
async fn e2e_network_policies_are_in_force_before_the_first_container() -> Result<()> {
    let bed = Bed::own("policies-first").await?;
    let web = server(&bed).await?;
    policy(&bed, "closed", json!({"podSelector": {"matchLabels": {"app": "closed"}}, "policyTypes": ["Egress"]})).await?;
    policy(
        &bed,
        "open",
        json!({"podSelector": {"matchLabels": {"app": "open"}}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]},
        ]}),
    )
    .await?;
    // Asked as the first thing that the pod's first container does.
    let ask = format!("wget -q -O- -T 1 http://{web}:8080/hostname >/dev/null 2>&1 && echo reached || echo cut");
    for (app, expected) in [("closed", "cut"), ("open", "reached")] {
        for n in 0..4 {
            let name = format!("{app}-{n}");
            let container = json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", ask]});
            let spec =
                json!({"restartPolicy": "Never", "nodeSelector": {"kubernetes.io/hostname": bed.pet.name()}, "containers": [container]});
            bed.create::<Pod>(json!({"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})).await?;
            bed.phase(&name, "Succeeded").await?;
            let log = bed.logs(&name).await?;
            ensure!(log.trim() == expected, "{name}: {log}");
        }
    }
    bed.done().await
}
