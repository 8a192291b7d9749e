//! `make bench-pets`: what a thousand pets cost the controller and a gateway, and how fast they are served.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::seconds;
use crate::{
    controller,
    daemon::Daemon,
    gateway::{self, Gateway},
    herd,
    lab::{Lab, LabOptions},
    patience::eventually,
    process,
    progress::say,
};

/// Numbers from here on are those of keys that pets get later.
const CHANGED: u16 = 10_000;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Simulated pets, at most 1024: a pod CIDR each.
    pub pets: u16,
    /// Pets that get another key, one after the other.
    pub changes: u16,
    /// How long nothing happens.
    pub idle: Duration,
}

/// Runs everything in a lab of its own and prints the figures.
///
/// # Errors
/// When the lab does not work, or a pet does not get what it should.
pub async fn run(plan: &Plan) -> Result<()> {
    let lab = Lab::start(LabOptions::new("bench-pets")).await?;
    controller::deploy(&lab).await?;
    gateway::network(&lab).await?;
    let leader = controller::start(&lab, 0, &[]).await?;
    let gateway = gateway::start(&lab, "gateway").await?;
    gateway.daemon.logged("this gateway is active", Duration::from_secs(30)).await?;
    say(format!("\n{} pets at once, two controllers that both work, one of which is killed in the middle and replaced", plan.pets));
    let course = herd::Course { pets: plan.pets, node_addresses: 1, limit: Duration::from_secs(300) };
    let race = herd::race(&lab, &leader, &course).await?;
    let rate = f64::from(plan.pets) / race.took.as_secs_f64();
    row("all have addresses after", &format!("{:.1} s, {rate:.0} a second, creation included", race.took.as_secs_f64()));
    row("conflicts, none of which became a double", &format!("{:.0}", race.conflicts));
    let [rival, controller] = &race.controllers;
    rival.stop(Duration::from_secs(10)).await?;
    let peers = |page: &str| herd::metric(page, "kube_pet_gateway_peers{", "");
    eventually(Duration::from_secs(120), "the gateway has all pets as peers, and has said so of each", || async {
        let page = gateway.page("/metrics").await?;
        ensure!(peers(&page) == f64::from(plan.pets), "{} peers", peers(&page));
        Ok(())
    })
    .await?;
    let (mut whole, mut own) = (Vec::new(), Vec::new());
    for number in 0..plan.changes {
        let (took, gateway_took) = change(&lab, &gateway, number).await?;
        whole.push(took);
        own.push(gateway_took);
    }
    row("from a new key in a Pet to the peer at the gateway", &spread(&mut whole));
    row("  of it the gateway's own change", &spread(&mut own));
    let before = [cpu(controller), cpu(&gateway.daemon)];
    tokio::time::sleep(plan.idle).await;
    for ((name, daemon), before) in [("controller", controller), ("gateway", &gateway.daemon)].into_iter().zip(before) {
        let share = 100.0 * seconds(cpu(daemon).saturating_sub(before)) / plan.idle.as_secs_f64();
        let rss = process::rss_kib(daemon.process.pid) as f64 / 1024.0;
        row(&format!("{name} when nothing happens"), &format!("{share:.1} % of a core, {rss:.1} MB RSS"));
    }
    let answer = lab.kubectl(&["get", "petnetwork", "default", "-o", "jsonpath={.status.allocated}"]).await?;
    row("the PetNetwork's own count", &answer);
    lab.stop().await
}

/// Gives a pet another key: how long it takes until the gateway has it, and how long the gateway itself, by its own account.
async fn change(lab: &Lab, gateway: &Gateway, number: u16) -> Result<(Duration, Duration)> {
    let done = "kube_pet_gateway_changes_total";
    let before = herd::metric(&gateway.page("/metrics").await?, done, "");
    let name = herd::name(number);
    let pets = herd::objects(herd::as_node(lab, &name).await?, "Pet");
    let patch = json!({"spec": {"publicKey": herd::key(CHANGED + number)}});
    let begun = Instant::now();
    pets.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.with_context(|| format!("change the key of {name}"))?;
    let page = eventually(Duration::from_secs(30), "the gateway's peers change", || async {
        let page = gateway.page("/metrics").await?;
        ensure!(herd::metric(&page, done, "") > before, "{before} changes");
        Ok(page)
    })
    .await?;
    let own = Duration::from_secs_f64(herd::metric(&page, "kube_pet_gateway_last_change_seconds", ""));
    Ok((begun.elapsed(), own))
}

fn cpu(daemon: &Daemon) -> u64 {
    process::cpu_ticks(daemon.process.pid)
}

fn spread(took: &mut [Duration]) -> String {
    took.sort();
    let at = |percent: usize| took.get(took.len().saturating_sub(1) * percent / 100).map_or(0.0, |took| took.as_secs_f64() * 1e3);
    format!("median {:.1} ms, p95 {:.1} ms, max {:.1} ms (n={})", at(50), at(95), at(100), took.len())
}

fn row(what: &str, value: &str) {
    say(format!("  {what:<54}{value}"));
}
