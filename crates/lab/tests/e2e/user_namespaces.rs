//! `hostUsers: false`: a pod's root is nobody on the machine.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::harness::{AGNHOST, BUSYBOX, Bed, SOON, phase_of, pod_ip, shell, started_at};

/// The first of the machine's users that a pod has, by the container's own word.
async fn first_id(bed: &Bed, pod: &str) -> Result<u32> {
    let map = bed.kubectl(&["exec", pod, "--", "cat", "/proc/self/uid_map"]).await?;
    let fields: Vec<&str> = map.split_ascii_whitespace().collect();
    let ["0", first, "65536"] = fields[..] else { anyhow::bail!("{map}") };
    Ok(first.parse()?)
}

/// The machine's user that the container's first process is.
async fn user_outside(bed: &Bed, pod: &str) -> Result<u32> {
    let filter = format!("label=io.kubernetes.pod.name={pod}");
    let pid = bed.pet.podman(&["ps", "--filter", &filter, "--format", "{{.Pid}}"]).await?;
    let status = bed.pet.shell(&format!("cat /proc/{}/status", pid.trim())).await?;
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no Uid")?;
    Ok(user.split_ascii_whitespace().next().context("no number")?.parse()?)
}

fn sleeping(host_users: bool) -> Value {
    json!({"hostUsers": host_users, "terminationGracePeriodSeconds": 0, "containers": [shell("c", "sleep 3600")]})
}

#[e2e]
async fn e2e_a_pods_root_is_nobody_on_the_machine() -> Result<()> {
    let bed = Bed::shared("userns").await?;
    for (name, host_users) in [("a", false), ("b", false), ("host", true)] {
        bed.pod(name, sleeping(host_users)).await?;
    }
    for name in ["a", "b", "host"] {
        bed.phase(name, "Running").await?;
    }
    let (a, b) = (first_id(&bed, "a").await?, first_id(&bed, "b").await?);
    ensure!(a >= 65_536 && b >= 65_536 && a.abs_diff(b) >= 65_536, "{a} {b}");
    ensure!(user_outside(&bed, "a").await? == a && user_outside(&bed, "b").await? == b && user_outside(&bed, "host").await? == 0);
    let inside = "id -u; cat /proc/sys/kernel/hostname; ls /sys/class/net; mkdir /m; mount -t tmpfs x /m 2>/dev/null || echo refused; \
                  touch /f && stat -c %u:%g /f /etc/hosts /etc/resolv.conf /dev/termination-log /dev/shm; \
                  ip addr add 10.99.0.1/32 dev lo 2>/dev/null || echo no-admin; ping -c1 127.0.0.1 >/dev/null && echo pings";
    let said = bed.kubectl(&["exec", "a", "--", "sh", "-c", inside]).await?;
    let owners = "0:0\n".repeat(5);
    ensure!(said == format!("0\na\neth0\nlo\nrefused\n{owners}no-admin\npings\n"), "{said}");
    let map = bed.kubectl(&["exec", "host", "--", "cat", "/proc/self/uid_map"]).await?;
    ensure!(map.contains("4294967295"), "{map}");
    bed.done().await
}

#[e2e]
async fn e2e_files_of_volumes_have_the_same_owners_in_a_user_namespace() -> Result<()> {
    let bed = Bed::shared("usernsvolumes").await?;
    bed.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"key": "secret"}})).await?;
    bed.create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"key": "map"}})).await?;
    let path = format!("/var/tmp/{}", bed.namespace);
    let host = bed.pet.path(&path);
    std::fs::create_dir_all(&host)?;
    std::fs::write(host.join("machine"), "x")?;
    std::os::unix::fs::chown(host.join("machine"), Some(1234), Some(1234))?;
    let projected = json!([
        {"serviceAccountToken": {"path": "token"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]);
    let names = ["disk", "memory", "secret", "map", "projected", "host", "image"];
    let mut mounts: Vec<Value> = names.iter().map(|name| json!({"name": name, "mountPath": format!("/v/{name}")})).collect();
    mounts.push(json!({"name": "disk", "mountPath": "/part", "subPath": "part"}));
    mounts.push(json!({"name": "host", "mountPath": "/read-only", "readOnly": true, "recursiveReadOnly": "Enabled"}));
    let spec = json!({
        "hostUsers": false,
        "securityContext": {"fsGroup": 2000},
        "container": {"volumeMounts": mounts, "securityContext": {"runAsUser": 0}},
        "volumes": [
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "map", "configMap": {"name": "m"}},
            {"name": "projected", "projected": {"sources": projected}},
            {"name": "host", "hostPath": {"path": path}},
            {"name": "image", "image": {"reference": BUSYBOX}},
        ],
    });
    let script = "set -e; cd /v; for f in secret/key map/key projected/token projected/name host/machine image/bin/busybox; do stat -Lc \"$f %u:%g\" $f; done; \
                  for d in disk memory host ../part; do touch $d/mine; chown 7:7 $d/mine; stat -c \"$d %u:%g\" $d/mine; done; \
                  cat secret/key map/key projected/name; echo; touch /read-only/no 2>/dev/null || echo read-only; \
                  stat -c %u:%g /read-only/machine; echo bye > /dev/termination-log";
    let log = bed.script("p", script, spec).await?;
    let expected = "secret/key 0:2000\nmap/key 0:2000\nprojected/token 0:2000\nprojected/name 0:2000\nhost/machine 1234:1234\n\
                    image/bin/busybox 0:0\ndisk 7:7\nmemory 7:7\nhost 7:7\n../part 7:7\nsecretmapp\nread-only\n1234:1234\n";
    ensure!(log == expected, "{log}");
    ensure!(std::fs::metadata(host.join("mine"))?.uid() == 7, "the machine sees the owner that the pod has given");
    let pod = bed.get("p").await?;
    let state = crate::harness::container(&pod, "c").and_then(|status| status.state.clone()).unwrap_or_default();
    ensure!(state.terminated.and_then(|ended| ended.message).as_deref() == Some("bye\n"));
    bed.done().await
}

#[e2e]
async fn e2e_a_pod_in_a_user_namespace_is_watched_and_reached_as_any_other() -> Result<()> {
    let bed = Bed::shared("usernspod").await?;
    let server = json!({
        "name": "c", "image": AGNHOST, "args": ["netexec", "--http-port=80"],
        "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["sh", "-c", "test $(id -u) = 1000"]}, "periodSeconds": 1},
    });
    let beside = json!({
        "name": "beside", "image": BUSYBOX, "command": ["sh", "-c", "sleep 3600"],
        "securityContext": {"privileged": true, "procMount": "Unmasked"},
    });
    let sysctls = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}, {"name": "kernel.shm_rmid_forced", "value": "1"}]);
    let spec = json!({
        "hostUsers": false, "shareProcessNamespace": true, "terminationGracePeriodSeconds": 0,
        "securityContext": {"sysctls": sysctls}, "containers": [server, beside],
    });
    bed.pod("p", spec).await?;
    let ready = |pod: &k8s_openapi::api::core::v1::Pod| crate::harness::condition(pod, "Ready") == "True";
    let pod = bed.until("p", SOON, "is ready", ready).await?;
    let address = pod_ip(&pod).context("no address")?.to_owned();
    let exec = |command: &'static str| ["exec", "p", "-c", "beside", "--", "sh", "-c", command];
    // Privileged in its own namespace: it may mount there, and is nobody outside.
    let said = bed
        .kubectl(&exec("cat /proc/sys/kernel/shm_rmid_forced; mkdir /m; mount -t tmpfs x /m && echo mounts; ps | grep -c '[n]etexec'"))
        .await?;
    ensure!(said == "1\nmounts\n1\n", "{said}");
    let said = bed.pet.shell(&format!("curl -s http://{address}/hostname || wget -qO- http://{address}/hostname")).await?;
    ensure!(said.trim() == "p", "{said}");
    bed.kubectl(&["cp", "-c", "beside", "p:/etc/hostname", "/dev/null"]).await?;
    let first = first_id(&bed, "p").await?;
    ensure!(first >= 65_536);
    bed.done().await
}

#[e2e]
async fn e2e_a_user_namespace_outlives_the_agent_and_ends_with_its_pod() -> Result<()> {
    let mut bed = Bed::own("usernsagent").await?;
    let mut again = sleeping(false);
    again["containers"] = json!([shell("c", "sleep 8; exit 1")]);
    bed.pod("keeps", sleeping(false)).await?;
    bed.pod("again", again).await?;
    bed.phase("keeps", "Running").await?;
    bed.phase("again", "Running").await?;
    let (first, other, since) = (first_id(&bed, "keeps").await?, first_id(&bed, "again").await?, started_at(&bed.get("keeps").await?, "c"));
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    bed.pod("new", sleeping(false)).await?;
    bed.phase("new", "Running").await?;
    let new = first_id(&bed, "new").await?;
    ensure!(first_id(&bed, "keeps").await? == first && started_at(&bed.get("keeps").await?, "c") == since);
    ensure!(new.abs_diff(first) >= 65_536 && new.abs_diff(other) >= 65_536, "{first} {other} {new}");
    // A restarted container is in the same one.
    bed.until("again", Duration::from_secs(90), "has run again", |pod| {
        crate::harness::restarts(pod, "c") > 0 && phase_of(pod) == "Running"
    })
    .await?;
    eventually(SOON, "the restarted container answers", || async {
        ensure!(first_id(&bed, "again").await? == other);
        Ok(())
    })
    .await?;
    let lab = bed.lab.clone();
    bed.pet.power_cycle(&lab).await?;
    bed.pet.start_agent().await?;
    bed.until("keeps", Duration::from_secs(120), "runs again", |pod| {
        started_at(pod, "c").is_some_and(|now| Some(now) != since) && phase_of(pod) == "Running"
    })
    .await?;
    eventually(SOON, "after a reboot the pod has the same users", || async {
        let now = first_id(&bed, "keeps").await?;
        ensure!(now == first, "{now} {first}");
        Ok(())
    })
    .await?;
    for name in ["keeps", "again", "new"] {
        bed.delete(name).await?;
        bed.gone(name, SOON).await?;
    }
    let left = "find /run/kube-pet/sandboxes -mindepth 1; grep /run/kube-pet/sandboxes/ /proc/self/mountinfo || true";
    eventually(SOON, "nothing is left of the pods' namespaces", || async {
        let left = bed.pet.shell(left).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await?;
    bed.done().await
}

/// Podman starts nothing while the program of a hook is missing, and the hook of these pods runs this very program.
#[e2e]
async fn e2e_only_pods_in_user_namespaces_miss_a_program_that_is_not_at_its_path() -> Result<()> {
    let bed = Bed::own("noprogram").await?;
    let folder = bed.pet.shell("readlink /proc/[0-9]*/exe | grep -m1 /kube-pet$ | xargs dirname").await?;
    let folder = folder.trim();
    bed.pet.shell(&format!("mount -t tmpfs none {folder}")).await?;
    ensure!(bed.pet.shell(&format!("ls {folder}")).await?.is_empty());
    ensure!(bed.script("other", "echo runs", json!({})).await? == "runs\n");
    bed.pod("own", sleeping(false)).await?;
    bed.event("own", &format!("user-namespace-hook {folder}/kube-pet]: exit status 127")).await?;
    bed.pet.shell(&format!("umount {folder}")).await?;
    bed.phase("own", "Running").await?;
    bed.done().await
}
