//! Claims, bound by the real controller to PersistentVolumes that this node has.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::harness::{Bed, SOON, phase_of, pod_ip, restarts, shell, waiting};

impl Bed {
    /// A PersistentVolume of the test's own class; its name begins with the namespace's.
    async fn volume(&self, name: &str, source: Value) -> Result<()> {
        let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": self.namespace,
            "persistentVolumeReclaimPolicy": "Retain"});
        spec.as_object_mut().into_iter().for_each(|spec| spec.extend(source.as_object().cloned().unwrap_or_default()));
        let volume = json!({"metadata": {"name": format!("{}-{name}", self.namespace)}, "spec": spec});
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        volumes.create(&PostParams::default(), &serde_json::from_value(volume)?).await.context("create a PersistentVolume")?;
        Ok(())
    }

    async fn no_volume(&self, name: &str) -> Result<()> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        volumes.delete(&format!("{}-{name}", self.namespace), &DeleteParams::default()).await.context("delete a PersistentVolume")?;
        Ok(())
    }

    async fn claim(&self, name: &str, volume: &str) -> Result<()> {
        self.create::<PersistentVolumeClaim>(json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": self.namespace, "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": format!("{}-{volume}", self.namespace)},
        }))
        .await
    }

    fn local(&self, folder: &str) -> Value {
        let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [self.pet.name()]}]}]);
        json!({"local": {"path": folder}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}})
    }
}

/// One container, with the claim at `/data`.
fn using(claim: &str, script: &str) -> Value {
    let mut container = shell("c", script);
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    json!({"containers": [container], "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]})
}

fn scripted(claim: Value) -> Value {
    json!({"container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        "volumes": [{"name": "data", "persistentVolumeClaim": claim}]})
}

#[e2e]
async fn e2e_claim_is_waited_for_shared_and_its_data_stays() -> Result<()> {
    let bed = Bed::own("claims").await?;
    let disk = bed.pet.path("/var/tmp/disk");
    std::fs::create_dir_all(&disk)?;
    // Past the scheduler, which waits for the claim, too.
    let mut early = using("c", "cat /data/old; echo new > /data/new; sleep 3600");
    early["nodeName"] = json!(bed.pet.name());
    early["securityContext"] = json!({"fsGroup": 4321});
    bed.pod("early", early).await?;
    let failed = format!("failed to process volumes=[data]: error processing PVC {}/c: ", bed.namespace);
    bed.event("early", "Warning FailedMount Unable to attach or mount volumes: unmounted volumes=[data]").await?;
    bed.event("early", &format!("{failed}failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found")).await?;
    bed.claim("c", "disk").await?;
    bed.event("early", &format!("{failed}PVC is not bound")).await?;
    let pod = bed.get("early").await?;
    ensure!(phase_of(&pod) == "Pending" && waiting(&pod, "c") == "ContainerCreating", "{:?}", pod.status);

    bed.volume("disk", bed.local("/var/tmp/disk")).await?;
    bed.phase("early", "Running").await?;
    eventually(SOON, "the pod has written", || async { Ok(std::fs::read_to_string(disk.join("new"))?) }).await?;
    ensure!(std::fs::metadata(disk.join("new"))?.gid() == 4321, "files get the pod's group");

    let log = bed.script("second", "cat /data/new; echo more > /data/more", scripted(json!({"claimName": "c"}))).await?;
    ensure!(log == "new\n", "{log}");
    let script = "cat /data/more; touch /data/x 2>&1 | grep -o 'Read-only file system'";
    let log = bed.script("reader", script, scripted(json!({"claimName": "c", "readOnly": true}))).await?;
    ensure!(log == "more\nRead-only file system\n", "{log}");
    // The volume's size is told with the claim's name.
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", bed.pet.name());
    eventually(SOON, "the claim is in the statistics", || async {
        let summary: Value = serde_json::from_str(&bed.lab.kubectl(&["get", "--raw", &path]).await?)?;
        let found =
            summary["pods"].as_array().into_iter().flatten().flat_map(|pod| pod["volume"].as_array().into_iter().flatten()).any(|volume| {
                volume["pvcRef"]["name"] == "c" && volume["pvcRef"]["namespace"] == bed.namespace.as_str() && volume["capacityBytes"] != 0
            });
        ensure!(found, "{summary:#}");
        Ok(())
    })
    .await?;

    for name in ["early", "second", "reader"] {
        bed.delete(name).await?;
        bed.gone(name, SOON).await?;
    }
    ensure!(std::fs::read_to_string(disk.join("more"))? == "more\n", "the data is gone with its pods");
    let mounts = bed.pet.shell("grep -c local-volume /proc/self/mountinfo || true").await?;
    ensure!(mounts.trim() == "0", "{mounts} mounts are left");
    bed.no_volume("disk").await?;
    bed.done().await
}

#[e2e]
async fn e2e_claim_of_a_host_path_and_of_what_this_node_cannot_use() -> Result<()> {
    let bed = Bed::shared("claimkinds").await?;
    let folder = format!("/var/tmp/{}", bed.namespace);
    bed.volume("path", json!({"hostPath": {"path": folder, "type": "DirectoryOrCreate"}})).await?;
    bed.claim("path", "path").await?;
    bed.script("write", "echo x > /data/f", scripted(json!({"claimName": "path"}))).await?;
    let part = json!({"container": {"volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "part"}]},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "path"}}]});
    bed.script("part", "echo y > /data/f", part).await?;
    let host = bed.pet.path(&folder);
    ensure!(std::fs::read_to_string(host.join("f"))? == "x\n" && std::fs::read_to_string(host.join("part/f"))? == "y\n");

    bed.volume("csi", json!({"csi": {"driver": "none.example", "volumeHandle": "h"}})).await?;
    bed.claim("csi", "csi").await?;
    bed.pod("csi", using("csi", "sleep 3600")).await?;
    bed.event("csi", &format!("PV {}-csi is a volume of type csi, which is not supported by this node", bed.namespace)).await?;
    // A pod past the scheduler meets a volume of another node.
    let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["elsewhere"]}]}]);
    bed.volume("far", json!({"local": {"path": "/var/tmp"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}})).await?;
    bed.claim("far", "far").await?;
    let mut far = using("far", "sleep 3600");
    far["nodeName"] = json!(bed.pet.name());
    bed.pod("far", far).await?;
    let text = format!("MountVolume.NodeAffinity check failed for volume \"{}-far\" : no matching NodeSelectorTerms", bed.namespace);
    bed.event("far", &text).await?;
    for name in ["csi", "far", "write", "part"] {
        bed.delete(name).await?;
        bed.gone(name, SOON).await?;
    }
    for name in ["path", "csi", "far"] {
        bed.no_volume(name).await?;
    }
    bed.done().await
}

#[e2e]
async fn e2e_claim_of_an_ephemeral_volume() -> Result<()> {
    let bed = Bed::shared("ephemeral").await?;
    let folder = format!("/var/tmp/{}", bed.namespace);
    std::fs::create_dir_all(bed.pet.path(&folder))?;
    bed.volume("disk", bed.local(&folder)).await?;
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": bed.namespace,
        "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        "volumes": [{"name": "data", "ephemeral": {"volumeClaimTemplate": template}}]});
    bed.script("p", "echo x > /data/f", spec).await?;
    ensure!(std::fs::read_to_string(bed.pet.path(&folder).join("f"))? == "x\n");
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    bed.no_volume("disk").await?;
    bed.done().await
}

#[e2e]
async fn e2e_claim_survives_the_agent_and_a_reboot_without_the_api_server() -> Result<()> {
    let mut bed = Bed::own("claimboot").await?;
    let disk = bed.pet.path("/var/tmp/disk");
    std::fs::create_dir_all(&disk)?;
    bed.volume("disk", bed.local("/var/tmp/disk")).await?;
    bed.claim("c", "disk").await?;
    let script = "echo $(($(cat /data/lives 2>/dev/null) + 1)) > /data/lives; while [ ! -e /data/die ]; do sleep 0.1; done; rm /data/die";
    bed.pod("p", using("c", script)).await?;
    let before = bed.phase("p", "Running").await?;
    let lives = |bed: &Bed| std::fs::read_to_string(bed.pet.path("/var/tmp/disk/lives")).unwrap_or_default();
    eventually(SOON, "the first life", || async {
        ensure!(lives(&bed) == "1\n");
        Ok(())
    })
    .await?;

    // A restart of the container, by an agent that did not mount the volume itself, and while nobody can be asked.
    bed.pet.kill_agent().await?;
    bed.pet.set_online(false).await?;
    bed.pet.start_agent().await?;
    std::fs::write(disk.join("die"), "")?;
    eventually(SOON, "the second life", || async {
        ensure!(lives(&bed) == "2\n", "{}", lives(&bed));
        Ok(())
    })
    .await?;
    bed.pet.set_online(true).await?;
    let after = bed.until("p", SOON, "has its second life", |pod| restarts(pod, "c") == 1).await?;
    ensure!(pod_ip(&before) == pod_ip(&after));

    let lab = bed.lab.clone();
    bed.pet.power_cycle(&lab).await?;
    bed.pet.set_online(false).await?;
    bed.pet.start_agent().await?;
    eventually(Duration::from_secs(120), "the volume is mounted again", || async {
        let mounts = bed.pet.shell("grep -c ' /var/lib/kube-pet/pods/.*/kubernetes.io~local-volume/' /proc/self/mountinfo || true").await?;
        ensure!(mounts.trim() == "1", "{mounts} mounts\n{}", bed.pet.agent_log());
        Ok(())
    })
    .await?;
    ensure!(bed.pet.agent_log().contains("a claim is taken for bound as before"), "{}", bed.pet.agent_log());
    eventually(Duration::from_secs(120), "the third life", || async {
        ensure!(lives(&bed) == "3\n", "{}", lives(&bed));
        Ok(())
    })
    .await?;
    bed.pet.set_online(true).await?;
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    ensure!(lives(&bed) == "3\n", "the data is gone with its pod");
    bed.no_volume("disk").await?;
    bed.done().await
}
