//! Boots without the API server, and a boot with a disk that is full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::bed::{Bed, SOON, on_node, pod_ip, shell};

/// A line of `/var/tmp/disk/<name>` for each life.
fn living(name: &str, line: &str) -> Value {
    let mut container = shell("c", &format!("echo {line} >> /disk/{name}; sync; sleep 3600"));
    container["volumeMounts"] = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "given", "mountPath": "/given"}]);
    let disk = json!({"name": "disk", "hostPath": {"path": "/var/tmp/disk", "type": "DirectoryOrCreate"}});
    json!({"containers": [container], "volumes": [disk, null]})
}

async fn has_lives(bed: &Bed, name: &str, count: usize) -> Result<Vec<String>> {
    eventually(SOON, &format!("life {count} of {name}"), || async {
        let text = bed.vm.shell(&format!("cat /var/tmp/disk/{name} 2>/dev/null; true")).await?;
        let lives: Vec<_> = text.lines().map(str::to_owned).collect();
        ensure!(lives.len() == count, "{lives:?}");
        Ok(lives)
    })
    .await
}

async fn pods(bed: &Bed) -> Result<()> {
    bed.create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "from-the-map"}})).await?;
    bed.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"a": "from-the-secret"}})).await?;
    let mut map = living("map", "$(cat /given/a) $(hostname -i)");
    map["volumes"][1] = json!({"name": "given", "configMap": {"name": "m"}});
    bed.pod("map", map).await?;
    let mut secret = living("secret", "$(cat /given/a) $(hostname -i)");
    secret["volumes"][1] = json!({"name": "given", "secret": {"secretName": "s"}});
    bed.pod("secret", secret).await?;
    for name in ["map", "secret"] {
        bed.phase(name, "Running").await?;
        has_lives(bed, name, 1).await?;
    }
    Ok(())
}

/// A reboot in good order, with nobody to ask.
async fn reboot_offline(bed: &Bed) -> Result<()> {
    bed.vm.set_online(false).await?;
    // The connection ends with the machine.
    let _ = bed.vm.shell("systemctl reboot").await;
    bed.vm.off(SOON).await?;
    bed.vm.boot().await
}

async fn addresses(bed: &Bed) -> Result<[Option<String>; 2]> {
    Ok([pod_ip(&bed.get("map").await?).map(str::to_owned), pod_ip(&bed.get("secret").await?).map(str::to_owned)])
}

#[tokio::test]
async fn vm_pods_come_back_from_a_reboot_without_the_api_server() -> Result<()> {
    on_node(
        "reboot",
        |options| options,
        async |bed| {
            pods(bed).await?;
            let before = addresses(bed).await?;
            reboot_offline(bed).await?;
            let lives = has_lives(bed, "map", 2).await?;
            ensure!(lives[0] == lives[1], "{lives:?}");
            // Its Secret is on no disk, and it must not run without.
            has_lives(bed, "secret", 1).await?;
            bed.vm.set_online(true).await?;
            bed.vm.ready(SOON).await?;
            let lives = has_lives(bed, "secret", 2).await?;
            ensure!(lives[0] == lives[1], "{lives:?}");
            for name in ["map", "secret"] {
                bed.phase(name, "Running").await?;
            }
            ensure!(addresses(bed).await? == before && before[0].is_some());
            has_lives(bed, "map", 2).await.map(drop)
        },
    )
    .await
}

#[tokio::test]
async fn vm_secrets_at_rest_come_back_from_a_reboot_without_the_api_server() -> Result<()> {
    on_node(
        "sealed",
        |options| options.with("secretsAtRest", json!(true)),
        async |bed| {
            pods(bed).await?;
            let before = addresses(bed).await?;
            reboot_offline(bed).await?;
            for name in ["map", "secret"] {
                let lives = has_lives(bed, name, 2).await?;
                ensure!(lives[0] == lives[1], "{lives:?}");
            }
            bed.vm.set_online(true).await?;
            bed.vm.ready(SOON).await?;
            ensure!(addresses(bed).await? == before);
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn vm_a_full_disk_at_boot_is_told_and_got_over() -> Result<()> {
    on_node(
        "fulldisk",
        |options| options,
        async |bed| {
            bed.pod("p", json!({"containers": [shell("c", "sleep 3600")]})).await?;
            bed.phase("p", "Running").await?;
            // To the last block, root's reserve included: ext4 has some more for each file that is synced, and the machine writes, too.
            bed.vm.shell("mkdir /var/tmp/full; dd if=/dev/zero of=/var/tmp/full/most bs=1M conv=fsync 2>/dev/null; true").await?;
            let fill =
                "for i in $(seq 5000); do dd if=/dev/zero of=/var/tmp/full/$i bs=4k count=1 conv=fsync 2>&1 || break; done | tail -n 5";
            let last = bed.vm.shell(fill).await?;
            ensure!(last.contains("No space left on device"), "{last}");
            bed.vm.power_cut().await?;
            bed.vm.boot().await?;
            let boot_id = bed.vm.shell("cat /proc/sys/kernel/random/boot_id").await?;
            eventually(SOON, "the node tells of it, by the agent of this boot", || async {
                let status = bed.node().await?.status.unwrap_or_default();
                let told = status.node_info.as_ref().map(|info| info.boot_id.as_str());
                ensure!(told == Some(boot_id.trim()) && bed.node_condition("DiskPressure").await? == "True", "{status:?}");
                Ok(())
            })
            .await?;
            let starts = bed.vm.shell("systemctl show kube-pet --property=NRestarts --value").await?;
            ensure!(starts.trim() == "0", "the agent was started {starts} times again");
            bed.vm.shell("rm -r /var/tmp/full").await?;
            // The pressure is over once it has been for five minutes, as with the kubelet: `evictionPressureTransitionPeriod`.
            eventually(SOON + Duration::from_secs(300), "the pressure is over", || async {
                ensure!(bed.node_condition("DiskPressure").await? == "False");
                Ok(())
            })
            .await?;
            bed.vm.ready(SOON).await?;
            bed.pod("after", json!({"containers": [shell("c", "sleep 3600")]})).await?;
            bed.phase("after", "Running").await.map(drop).context("a pod after the pressure")
        },
    )
    .await
}
