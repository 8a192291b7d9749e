//! Folders of NFS servers. Kernels of the machines that this is tested on may lack NFS: a stand-in for `mount.nfs` binds folders of the machine
//! instead, refuses, hangs, or mounts a file system that nobody answers for. What runs it is real, mount(8) included.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::harness::{Bed, SOON, phase_of, restarts, shell};

/// `mount.nfs SOURCE TARGET -o OPTIONS`. What is mounted is `/var/tmp/exports/<path>`.
const STAND_IN: &str = r#"#!/bin/sh
case $1 in
refused:*) echo "mount.nfs: access denied by server while mounting $1" >&2; exit 32 ;;
hang:*) exec sleep 3600 ;;
esac
case ",$4," in *,ro,*) mode=,ro ;; esac
exec mount -o bind$mode "/var/tmp/exports${1##*:}" "$2"
"#;

/// Only for the machine of the test, whose mounts are its own.
async fn install(bed: &Bed) -> Result<()> {
    let exports = bed.pet.path("/var/tmp/exports/a");
    std::fs::create_dir_all(&exports)?;
    std::fs::write(exports.join("precious"), "x\n")?;
    std::fs::write(bed.pet.path("/var/tmp/mount.nfs"), STAND_IN)?;
    let script = "mkdir -p /run/nfs/upper /run/nfs/work
        mount -t overlay -o lowerdir=/usr/sbin,upperdir=/run/nfs/upper,workdir=/run/nfs/work sbin /usr/sbin
        install -m 755 /var/tmp/mount.nfs /usr/sbin/mount.nfs";
    bed.pet.shell(script).await.map(drop)
}

fn on(server: &str, read_only: bool) -> Value {
    json!([{"name": "data", "nfs": {"server": server, "path": "/a", "readOnly": read_only}}])
}

fn using(server: &str, script: &str) -> Value {
    let mut container = shell("c", script);
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    json!({"containers": [container], "volumes": on(server, false)})
}

#[e2e]
async fn e2e_nfs_volumes_are_mounted_and_their_data_stays() -> Result<()> {
    let bed = Bed::own("nfs").await?;
    install(&bed).await?;
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    let spec = |read_only| json!({"container": {"volumeMounts": mounts}, "volumes": on("server.example", read_only)});
    let log = bed.script("write", "cat /data/precious; echo y > /data/new", spec(false)).await?;
    ensure!(log == "x\n", "{log}");
    let log = bed.script("read", "cat /data/new; touch /data/x 2>&1 | grep -o 'Read-only file system'", spec(true)).await?;
    ensure!(log == "y\nRead-only file system\n", "{log}");
    bed.pod("refused", using("refused", "sleep 3600")).await?;
    let text = "MountVolume.SetUp failed for volume \"data\" : mount failed: exit status 32\nMounting command: mount\nMounting arguments: \
                -t nfs -- refused:/a";
    bed.event("refused", text).await?;
    bed.event("refused", "mount.nfs: access denied by server while mounting refused:/a").await?;
    for name in ["write", "read", "refused"] {
        bed.delete(name).await?;
        bed.gone(name, SOON).await?;
    }
    let left = bed.pet.shell("grep -c kubernetes.io~nfs /proc/self/mountinfo || true").await?;
    ensure!(left.trim() == "0", "{left} mounts are left");
    let exports = bed.pet.path("/var/tmp/exports/a");
    ensure!(std::fs::read_to_string(exports.join("precious"))? == "x\n" && exports.join("new").exists());
    bed.done().await
}

#[e2e]
async fn e2e_nfs_a_dead_server_harms_only_who_needs_it() -> Result<()> {
    let bed = Bed::own("nfsdead").await?;
    install(&bed).await?;
    // One whose mount never ends, and one whose server dies while it runs.
    bed.pod("hang", using("hang", "sleep 3600")).await?;
    bed.pod("dying", using("server.example", "while [ ! -e /tmp/die ]; do sleep 0.1; done")).await?;
    bed.phase("dying", "Running").await?;
    // Nobody reads the requests to this file system: whoever asks it waits.
    let dead = "target=$(grep -o '/var/lib/kube-pet/pods/[^ ]*kubernetes.io~nfs/data' /proc/self/mountinfo | head -1)
        exec 3<>/dev/fuse
        mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 dead \"$target\"
        setsid sleep 3600 >/dev/null 2>&1 </dev/null &";
    bed.pet.shell(dead).await?;
    bed.kubectl(&["exec", "dying", "--", "touch", "/tmp/die"]).await?;
    let waits = bed.until("dying", SOON, "waits for its server", |pod| {
        let message = crate::harness::container(pod, "c").and_then(|c| c.state.as_ref()?.waiting.as_ref()?.message.clone());
        message.is_some_and(|message| message == "volume \"data\" does not answer: no reply from its file system within 10 s")
    });
    waits.await?;
    // Beside them, everything goes on: pods, statistics, the node.
    let began = Instant::now();
    let log = bed.script("other", "echo fine", json!({})).await?;
    ensure!(log == "fine\n" && began.elapsed() < Duration::from_secs(20), "{log} after {:?}", began.elapsed());
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", bed.pet.name());
    // Longer than from one round of measurements to the next.
    for _ in 0..12 {
        let began = Instant::now();
        bed.lab.kubectl(&["get", "--raw", &path]).await?;
        ensure!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bed.pet.ready(SOON).await?;
    ensure!(phase_of(&bed.get("hang").await?) == "Pending");
    // The agent starts again, and adopts both.
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    let began = Instant::now();
    for name in ["hang", "dying"] {
        bed.delete(name).await?;
        bed.gone(name, SOON).await?;
    }
    ensure!(began.elapsed() < Duration::from_secs(45), "deleted after {:?}", began.elapsed());
    ensure!(restarts(&bed.get("other").await?, "c") == 0);
    let left = bed.pet.shell("grep -c kubernetes.io~nfs /proc/self/mountinfo; pgrep -fc '[m]ount.nfs' || true").await;
    ensure!(left.unwrap_or_default().trim().lines().all(|count| count == "0"));
    ensure!(std::fs::read_to_string(bed.pet.path("/var/tmp/exports/a/precious"))? == "x\n");
    bed.done().await
}
