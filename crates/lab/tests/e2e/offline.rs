//! A reboot while the API server cannot be reached.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::harness::{Bed, SOON, pod_ip, shell};

/// With five other tests beside it, and each start waits for the first list of Services.
const LONG: Duration = Duration::from_secs(150);
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A line of `/disk/<name>` for each life.
fn living(name: &str, line: &str) -> Value {
    let mut container = shell("c", &format!("echo {line} >> /disk/{name}; sleep 3600"));
    container["volumeMounts"] = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "given", "mountPath": "/given"}]);
    let disk = json!({"name": "disk", "hostPath": {"path": "/var/tmp/disk", "type": "DirectoryOrCreate"}});
    json!({"containers": [container], "volumes": [disk, null]})
}

fn lives(bed: &Bed, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(bed.pet.path("/var/tmp/disk").join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn has_lives(bed: &Bed, name: &str, count: usize) -> Result<Vec<String>> {
    eventually(LONG, &format!("life {count} of {name}"), || async {
        ensure!(lives(bed, name).len() == count, "{:?}\n{}", lives(bed, name), bed.pet.agent_log());
        Ok(())
    })
    .await?;
    Ok(lives(bed, name))
}

/// A pod that uses a ConfigMap in all ways, and one that uses a Secret.
async fn pods(bed: &Bed) -> Result<()> {
    bed.create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "from-the-map"}})).await?;
    bed.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"a": "from-the-secret"}})).await?;
    let line = format!("$A $(cat /given/a) $KUBERNETES_SERVICE_HOST $(hostname -i) $(test -e {TOKEN} && echo token || echo none)");
    let mut map = living("map", &line);
    map["containers"][0]["env"] = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}}]);
    map["volumes"][1] = json!({"name": "given", "configMap": {"name": "m"}});
    bed.pod("map", map).await?;
    let mut secret = living("secret", "$A $(cat /given/a)");
    secret["containers"][0]["env"] = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}}]);
    secret["volumes"][1] = json!({"name": "given", "secret": {"secretName": "s"}});
    bed.pod("secret", secret).await?;
    bed.phase("map", "Running").await?;
    bed.phase("secret", "Running").await?;
    Ok(())
}

#[e2e]
async fn e2e_pods_come_back_after_a_reboot_without_the_api_server() -> Result<()> {
    let mut bed = Bed::own("offlineboot").await?;
    pods(&bed).await?;
    bed.pod("doomed", json!({"containers": [shell("c", "sleep 3600")]})).await?;
    bed.phase("doomed", "Running").await?;
    let first = has_lives(&bed, "map", 1).await?;
    ensure!(first[0].starts_with("from-the-map from-the-map 10.") && first[0].ends_with(" token"), "{first:?}");
    has_lives(&bed, "secret", 1).await?;
    let address = pod_ip(&bed.get("map").await?).map(str::to_owned);

    let lab = bed.lab.clone();
    bed.pet.power_cycle(&lab).await?;
    bed.pet.set_online(false).await?;
    bed.pet.start_agent().await?;
    let second = has_lives(&bed, "map", 2).await?;
    ensure!(second[1] == first[0].replace(" token", " none"), "{second:?}");
    // Deleted while its node cannot be told.
    bed.kubectl(&["delete", "pod", "doomed", "--force", "--grace-period=0"]).await?;
    // Its Secret is not on a disk, and it must not run without.
    ensure!(lives(&bed, "secret").len() == 1);
    let kept = bed.pet.shell("find /var/lib/kube-pet/objects /var/lib/kube-pet/pki -name 'secret*'").await?;
    ensure!(kept.trim().is_empty(), "{kept}");

    bed.pet.set_online(true).await?;
    bed.pet.ready(SOON).await?;
    let secret = has_lives(&bed, "secret", 2).await?;
    ensure!(secret[1] == "from-the-secret from-the-secret", "{secret:?}");
    eventually(LONG, "the token follows", || async {
        let token = bed.kubectl(&["exec", "map", "--", "cat", TOKEN]).await?;
        ensure!(token.starts_with("ey"), "{token}");
        Ok(())
    })
    .await?;
    ensure!(pod_ip(&bed.get("map").await?).map(str::to_owned) == address);
    eventually(LONG, "the pod that was deleted goes", || async {
        let names = bed.pet.podman(&["ps", "--format", "{{.Names}}"]).await?;
        ensure!(!names.contains("k8s_c_doomed"), "{names}");
        Ok(())
    })
    .await?;
    ensure!(lives(&bed, "map").len() == 2, "{:?}", lives(&bed, "map"));
    bed.done().await
}

#[e2e]
async fn e2e_secrets_at_rest_bring_their_pods_back_without_the_api_server() -> Result<()> {
    let mut bed = Bed::own_with("offlinesecret", |options| options.with("secretsAtRest", json!(true))).await?;
    pods(&bed).await?;
    has_lives(&bed, "secret", 1).await?;
    let lab = bed.lab.clone();
    bed.pet.power_cycle(&lab).await?;
    bed.pet.set_online(false).await?;
    let told = bed.pet.shell("grep -rl from-the-secret /var/lib/kube-pet || true").await?;
    ensure!(told.trim().is_empty(), "a Secret can be read in {told}");
    bed.pet.start_agent().await?;
    let lives = has_lives(&bed, "secret", 2).await?;
    ensure!(lives[1] == "from-the-secret from-the-secret", "{lives:?}");
    bed.pet.set_online(true).await?;
    bed.pet.ready(SOON).await?;
    bed.done().await
}
