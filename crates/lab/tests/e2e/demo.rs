//! What a newcomer sees: `make demo`, and that `make demo-down` leaves nothing of it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use kube_pet_lab::{Lab, cleanup, command, process};

/// Processes, by PID and start, of all machines of a lab.
fn processes(lab: &Lab) -> Vec<process::ProcessId> {
    let machines = cleanup::machines(lab.record());
    machines.iter().flat_map(|machine| machine.processes()).filter_map(|pid| process::ProcessId::of(pid).ok()).collect()
}

/// Places below the cgroup hierarchies that this lab may have.
fn cgroups(lab: &Lab) -> Vec<PathBuf> {
    let own = lab.record().cgroup(None);
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let places = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(own.trim_start_matches('/')));
    places.filter(|path| path.exists()).collect()
}

#[e2e]
async fn e2e_the_demo_shows_a_cluster_at_work_and_leaves_nothing() -> Result<()> {
    let (program, name) = (env!("CARGO_BIN_EXE_lab"), format!("demo-{}", std::process::id()));
    let shown = command::run(&[program, "demo", "--name", &name]).await?;
    for part in [
        "pet1   Ready",
        "deployment.apps/hello created",
        "# Each pod answers under its own address",
        "Started HTTP server on port 8080",
        "Successfully assigned default/hello-",
        "spec.containers{web}: Container started",
        "10/10",
        "deployment.apps/hello env updated",
        "export KUBECONFIG=",
    ] {
        ensure!(shown.contains(part), "no `{part}` in {shown}");
    }
    let rolled_out = shown.matches("deployment \"hello\" successfully rolled out").count();
    ensure!(rolled_out == 3, "{rolled_out} rollouts in {shown}");
    down(program, &name).await
}

#[e2e]
async fn e2e_the_demo_of_the_tunnel_shows_pets_elsewhere_as_nodes_and_leaves_nothing() -> Result<()> {
    let (program, name) = (env!("CARGO_BIN_EXE_lab"), format!("demo-tunnel-{}", std::process::id()));
    let shown = command::run(&[program, "demo-tunnel", "--name", &name]).await?;
    for part in ["home1$ kube-pet join", "accepts the token", "home2 is Ready", "public is Ready", "10.210.0.0/20 via 10.212.0.", "GET /"] {
        ensure!(shown.contains(part), "no `{part}` in {shown}");
    }
    for (of, times) in [
        (":8080/clientip\n", 12),
        (":8080/hostname\n", 12),
        ("/livez\nok\n", 3),
        ("$ kubectl logs on-", 3),
        ("Forwarding from", 3),
        ("$ curl http://127.0.0.1:", 3),
    ] {
        let found = shown.matches(of).count();
        ensure!(found == times, "{found} of `{of}` in {shown}");
    }
    let gateway = fs::read_to_string(Lab::find(&name)?.record().log("gateway")).context("read the gateway's log")?;
    ensure!(!gateway.contains("forbidden"), "the gateway lacks a permission: {gateway}");
    down(program, &name).await
}

/// `make demo-down`, after which nothing is left.
async fn down(program: &str, name: &str) -> Result<()> {
    let lab = Lab::find(name)?;
    let (dir, link, before) = (lab.record().dir.clone(), lab.record().wire().host_link(), processes(&lab));
    ensure!(before.len() > 10, "only {before:?}");
    ensure!(!cgroups(&lab).is_empty() && dir.exists(), "there is something to leave behind");
    command::run(&[program, "down", "--name", name]).await?;
    let alive: Vec<_> = before.iter().filter(|process| process.is_alive()).map(|process| process::arguments(process.pid)).collect();
    ensure!(alive.is_empty(), "still running: {alive:?}");
    ensure!(cgroups(&lab).is_empty(), "left: {:?}", cgroups(&lab));
    ensure!(!dir.exists(), "{} is left", dir.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    ensure!(!mounts.contains(&format!("{}/", dir.display())), "a mount is left: {mounts}");
    ensure!(!std::path::Path::new("/sys/class/net").join(&link).exists(), "{link} is left");
    ensure!(Lab::find(name).is_err());
    Ok(())
}
