//! A machine with systemd becomes a node, is one, and leaves.

use anyhow::{Context, Result, ensure};
use kube_pet_lab::eventually;
use serde_json::json;

use crate::bed::{Bed, SOON, on_vm, shell};

#[tokio::test]
async fn vm_a_machine_with_systemd_joins_works_and_leaves() -> Result<()> {
    on_vm(
        "joiner",
        |options| options.with("enableSystemLogQuery", json!(true)),
        async |bed| {
            let text = bed.join("--set maxPods=77").await?;
            for step in ["wrote /etc/systemd/system/kube-pet.service", "kube-pet.service is enabled and started", "accepts the token"] {
                ensure!(text.contains(step), "{step}: {text}");
            }
            the_service_is_well(bed).await?;
            the_node_is_the_machine(bed).await?;
            pods_and_logs(bed).await?;
            leave(bed).await
        },
    )
    .await
}

async fn the_service_is_well(bed: &Bed) -> Result<()> {
    let state = bed.vm.shell("systemctl is-enabled kube-pet; systemctl is-active kube-pet; systemctl --failed --no-legend").await?;
    ensure!(state == "enabled\nactive\n", "{state}");
    let status = bed.vm.shell("systemctl status --no-pager kube-pet").await?;
    ensure!(status.contains("kube-pet, a Kubernetes node agent") && status.contains("kube-pet node --config"), "{status}");
    // The agent does not live in its own unit's group only: pods are beside systemd's slices.
    let warnings = bed.vm.shell("journalctl --no-pager --unit=kube-pet --priority=warning --output=cat").await?;
    ensure!(!warnings.contains("panicked"), "{warnings}");
    Ok(())
}

async fn the_node_is_the_machine(bed: &Bed) -> Result<()> {
    for (kind, wanted) in [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")] {
        ensure!(bed.node_condition(kind).await? == wanted, "{kind}: {:?}", bed.node().await?.status);
    }
    let status = bed.node().await?.status.context("a status")?;
    let info = status.node_info.context("information about the machine")?;
    let said = bed
        .vm
        .shell("uname -r; cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id; podman version --format '{{.Client.Version}}'")
        .await?;
    let said: Vec<_> = said.lines().collect();
    let told =
        [info.kernel_version, info.machine_id, info.boot_id, info.container_runtime_version.trim_start_matches("podman://").to_owned()];
    ensure!(told == said.as_slice(), "{told:?} {said:?}");
    ensure!(info.os_image.starts_with("Debian GNU/Linux 12"), "{}", info.os_image);
    let capacity = status.capacity.context("a capacity")?;
    ensure!(capacity["pods"].0 == "77" && capacity["cpu"].0 == "2", "{capacity:?}");
    let addresses = status.addresses.unwrap_or_default();
    ensure!(addresses.iter().any(|one| one.type_ == "InternalIP" && one.address == bed.vm.address().to_string()), "{addresses:?}");
    let cgroups = bed.vm.shell("stat --file-system --format=%T /sys/fs/cgroup").await?;
    ensure!(cgroups.trim() == "cgroup2fs", "{cgroups}");
    Ok(())
}

async fn pods_and_logs(bed: &Bed) -> Result<()> {
    bed.pod("p", json!({"containers": [shell("c", "echo from the pod; sleep 3600")]})).await?;
    bed.phase("p", "Running").await?;
    let log = eventually(SOON, "kubectl logs", || bed.kubectl(&["logs", "p"])).await?;
    ensure!(log == "from the pod\n", "{log}");
    let said = bed.kubectl(&["exec", "p", "--", "sh", "-c", "echo $HOSTNAME"]).await?;
    ensure!(said == "p\n", "{said}");
    bed.vm.shell("systemd-cat --identifier=lamp echo the lamp is on").await?;
    let lines = bed.page("/logs/?query=kube-pet&tailLines=50").await?;
    ensure!(lines.contains("kube-pet") && lines.lines().count() > 5, "{lines}");
    let boot = bed.page("/logs/?query=systemd-networkd&boot=0&pattern=eth0").await?;
    ensure!(boot.contains("eth0"), "{boot}");
    // systemd reads its units again: groups that it does not know of stay as they are.
    bed.vm.shell("systemctl daemon-reload && systemctl restart kube-pet").await?;
    bed.vm.ready(SOON).await?;
    // The node is Ready in the eyes of the cluster before the new agent answers.
    let again = eventually(SOON, "kubectl logs of the new agent", || bed.kubectl(&["logs", "p"])).await?;
    ensure!(again == log, "the pod did not run on: {again}");
    Ok(())
}

async fn leave(bed: &Bed) -> Result<()> {
    let text = bed.vm.shell(&format!("{} leave --yes 2>&1", kube_pet_lab::vm::PROGRAM)).await?;
    for step in [
        "kube-pet.service is stopped",
        "the pods have ended",
        "removed /etc/systemd/system/kube-pet.service",
        "this machine is no node any more",
    ] {
        ensure!(text.contains(step), "{step}: {text}");
    }
    let left = bed
        .vm
        .shell(
            "ls -d /var/lib/kube-pet /run/kube-pet /etc/systemd/system/kube-pet.service /etc/systemd/system/*/kube-pet.service \
             /sys/fs/cgroup/kubepods/*/pod* 2>/dev/null; podman ps --all --quiet; systemctl is-active kube-pet; ip -oneline link | grep -c kp; true",
        )
        .await?;
    ensure!(left == "inactive\n0\n", "{left}");
    bed.pods().delete("p", &kube::api::DeleteParams::default().grace_period(0)).await.context("delete the pod")?;
    Ok(())
}
