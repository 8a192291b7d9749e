//! `make bench`: how fast pods start and what the whole node costs, against Podman's own floor, in one run.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

mod crowd;
pub mod interactive;
pub mod pets;
pub mod services;
pub mod tunnel;

use crate::{
    cluster, command,
    lab::{Lab, LabOptions},
    patience::eventually,
    pet::{Pet, PetOptions},
    process,
    progress::say,
};

const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";
const SPACE: &str = "bench";
/// The benchmark of Podman alone, beside the agent's program as the pet sees it.
const FLOOR: &str = "/run/lab/bin/examples/floor";

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pods one after the other.
    pub sequence: usize,
    /// Pods at once.
    pub burst: usize,
    /// Pods with a probe each.
    pub crowd: usize,
    /// How long the idle node is watched, for each number of pods.
    pub idle: Duration,
}

/// Runs everything in a lab of its own and prints the figures.
///
/// # Errors
/// When the lab or a pod does not work.
pub async fn run(plan: &Plan) -> Result<()> {
    let lab = Lab::start(LabOptions::new("bench")).await?;
    let pet = lab.pet(PetOptions::new("pet1")).await?;
    pet.ready(Duration::from_secs(60)).await?;
    let client = lab.client().await?;
    let spaces: Api<Namespace> = Api::all(client.clone());
    cluster::create(&spaces, json!({"metadata": {"name": SPACE}})).await?;
    // The pods' default service account follows the namespace by a moment.
    let bench = Bench { pods: Api::namespaced(client.clone(), SPACE), client, pet };
    bench.wait_for_account().await?;
    say(command::run(&["podman", "--version"]).await?.trim_end());
    bench.start("warm-0", Instant::now()).await?;
    bench.resize(0).await?;
    bench.floor(plan.sequence).await?;
    // Each start is timed after a quiet while: ext4 looks for an inode among those that were freed in the last minutes, which makes
    // every file slower that is made after many deletions.
    bench.idle(0, plan.idle).await?;
    bench.burst(plan.burst).await?;
    bench.resize(30).await?;
    bench.idle(30, plan.idle).await?;
    bench.resize(10).await?;
    bench.idle(10, plan.idle).await?;
    bench.resize(0).await?;
    bench.sequence(plan.sequence).await?;
    bench.crowd(plan.crowd, plan.idle).await?;
    lab.stop().await
}

struct Bench {
    client: Client,
    pods: Api<Pod>,
    pet: Pet,
}

impl Bench {
    async fn wait_for_account(&self) -> Result<()> {
        let path = format!("/api/v1/namespaces/{SPACE}/serviceaccounts/default");
        eventually(Duration::from_secs(20), "the default service account", || crate::client::get(&self.client, &path)).await.map(drop)
    }

    /// Podman alone: one container in a pod without infra, through the API. The image is on the node by now.
    async fn floor(&self, count: usize) -> Result<()> {
        if !self.pet.path(FLOOR).exists() {
            say("\nPodman's own floor: not measured; build it first: \
                 cargo build --release -p kube-pet-podman --example floor");
            return Ok(());
        }
        // A socket of its own: the agent's service is not to be disturbed, and may be away while nothing changes.
        let script = format!(
            "podman system service -t 0 unix:///run/floor.sock & service=$!; \
             for i in $(seq 100); do [ -S /run/floor.sock ] && break; sleep 0.05; done; \
             {FLOOR} /run/floor.sock {IMAGE} {count}; code=$?; kill $service; wait $service; exit $code"
        );
        say("\nPodman's own floor");
        say(self.pet.shell(&script).await?.trim_end());
        Ok(())
    }

    fn pod(name: &str) -> Result<Pod> {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "containers": [{"name": "c", "image": IMAGE, "args": ["pause"]}],
                "terminationGracePeriodSeconds": 30,
            },
        }))
        .context("form of a pod")
    }

    async fn create(&self, name: &str) -> Result<()> {
        self.pods.create(&PostParams::default(), &Self::pod(name)?).await.with_context(|| format!("create pod {name}")).map(drop)
    }

    /// The times at which a watch first sees each pod Running, or gone.
    async fn seen(&self, names: &[String], gone: bool, version: &str) -> Result<HashMap<String, Instant>> {
        let parameters = WatchParams::default().timeout(290);
        let mut events = self.pods.watch(&parameters, version).await.context("watch the pods")?.boxed();
        let mut seen = HashMap::new();
        while seen.len() < names.len() {
            let Some(event) = events.try_next().await.context("watch the pods")? else {
                anyhow::bail!("only {} of {} pods within 290 s", seen.len(), names.len());
            };
            let now = Instant::now();
            let (pod, matches) = match event {
                WatchEvent::Deleted(pod) => (pod, gone),
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                    let running = phase == Some("Running");
                    (pod, running && !gone)
                }
                _ => continue,
            };
            let name = pod.metadata.name.unwrap_or_default();
            if matches && names.contains(&name) {
                seen.entry(name).or_insert(now);
            }
        }
        Ok(seen)
    }

    async fn version(&self) -> Result<String> {
        let list = self.pods.list(&ListParams::default().limit(1)).await.context("list the pods")?;
        list.metadata.resource_version.context("a list has a version")
    }

    /// Starts one pod; how long until it is seen Running.
    async fn start(&self, name: &str, start: Instant) -> Result<Duration> {
        let version = self.version().await?;
        let names = [name.to_owned()];
        let (seen, created) = tokio::join!(self.seen(&names, false, &version), self.create(name));
        created?;
        Ok(seen?.get(name).context("the pod was seen")?.duration_since(start))
    }

    async fn sequence(&self, count: usize) -> Result<()> {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for number in 0..count + 2 {
            let name = format!("seq-{number}");
            let took = self.start(&name, Instant::now()).await?;
            // The container needs a moment to install its SIGTERM handler: PID 1 without one takes the whole grace period.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (names, version) = ([name.clone()], self.version().await?);
            let start = Instant::now();
            let parameters = DeleteParams::default();
            let (seen, deleted) = tokio::join!(self.seen(&names, true, &version), self.pods.delete(&name, &parameters));
            deleted.context("delete a pod")?;
            let gone = seen?.get(&name).context("the pod was seen")?.duration_since(start);
            // Two to warm up.
            if number >= 2 {
                starts.push(took);
                ends.push(gone);
            }
        }
        say(format!("\n{count} pods, one after the other"));
        say(format!("  created → Running: {}", quantiles(&mut starts)));
        say(format!("  deleted → gone:    {}", quantiles(&mut ends)));
        Ok(())
    }

    async fn burst(&self, count: usize) -> Result<()> {
        let names: Vec<String> = (0..count).map(|number| format!("burst-{number}")).collect();
        let version = self.version().await?;
        let before = self.cpu();
        let start = Instant::now();
        let create = futures::stream::iter(&names).map(|name| self.create(name)).buffer_unordered(8).try_collect::<Vec<()>>();
        let (seen, created) = tokio::join!(self.seen(&names, false, &version), create);
        created?;
        let mut times: Vec<Duration> = seen?.values().map(|at| at.duration_since(start)).collect();
        let last = times.iter().max().copied().unwrap_or_default();
        say(format!("\n{count} pods at once"));
        say(format!("  all Running after {:.2} s; each: {}", last.as_secs_f64(), quantiles(&mut times)));
        for (kind, ticks) in self.cpu() {
            let spent = ticks.saturating_sub(before.get(&kind).copied().unwrap_or(0));
            say(format!("  CPU of {kind}: {:.2} s", seconds(spent)));
        }
        Ok(())
    }

    /// Brings the node to `count` pods, all running.
    async fn resize(&self, count: usize) -> Result<()> {
        let have = self.pods.list(&ListParams::default()).await.context("list the pods")?.items;
        for number in have.len()..count {
            self.create(&format!("idle-{number}")).await?;
        }
        for pod in have.iter().skip(count) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            self.pods.delete(name, &DeleteParams::default()).await.context("delete a pod")?;
        }
        eventually(Duration::from_secs(120), "as many pods run as should", || async {
            let pods = self.pods.list(&ListParams::default()).await?.items;
            let run = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            ensure!(pods.len() == count && pods.iter().filter(run).count() == count, "{} pods", pods.len());
            Ok(())
        })
        .await
    }

    /// The processes that make the node, by kind. A container's own processes (what conmon started) are the work, not the node.
    fn processes(&self) -> BTreeMap<String, Vec<i32>> {
        let mut kinds: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        let machine = self.pet.machine();
        let name = |pid: i32| {
            let arguments = process::arguments(pid);
            let program = arguments.first().map_or("", String::as_str);
            program.rsplit('/').next().unwrap_or(program).to_owned()
        };
        let all: Vec<(i32, String)> = machine.processes().into_iter().map(|pid| (pid, name(pid))).collect();
        let containers: Vec<i32> = all.iter().filter(|(_, name)| name == "conmon").flat_map(|(pid, _)| process::children(*pid)).collect();
        for (pid, name) in all {
            if pid != machine.keeper.pid && !name.is_empty() && !containers.contains(&pid) {
                kinds.entry(name).or_default().push(pid);
            }
        }
        kinds
    }

    fn cpu(&self) -> BTreeMap<String, u64> {
        let sum = |pids: &Vec<i32>| pids.iter().map(|pid| process::cpu_ticks(*pid)).sum();
        self.processes().iter().map(|(kind, pids)| (kind.clone(), sum(pids))).collect()
    }

    async fn idle(&self, pods: usize, period: Duration) -> Result<()> {
        // What starting the pods set off must not count.
        tokio::time::sleep((period / 4).min(Duration::from_secs(20))).await;
        let before = self.cpu();
        // A figure without them would look fine.
        ensure!(before.contains_key("kube-pet") && before.contains_key("podman"), "the node's processes are not all found: {before:?}");
        let start = Instant::now();
        tokio::time::sleep(period).await;
        let elapsed = start.elapsed().as_secs_f64();
        let after = self.cpu();
        say(format!("\nIdle with {pods} pods, over {elapsed:.0} s"));
        say("  process           count   PSS MB   RSS MB   % of a core");
        let (mut all_pss, mut all_cpu) = (0.0, 0.0);
        for (kind, pids) in self.processes() {
            let megabytes = |kib: u64| kib as f64 / 1024.0;
            let pss = megabytes(pids.iter().map(|pid| process::pss_kib(*pid)).sum());
            let rss = megabytes(pids.iter().map(|pid| process::rss_kib(*pid)).sum());
            let spent = after.get(&kind).copied().unwrap_or(0).saturating_sub(before.get(&kind).copied().unwrap_or(0));
            let cpu = 100.0 * seconds(spent) / elapsed;
            say(format!("  {kind:<16} {:>6} {pss:>8.1} {rss:>8.1} {cpu:>13.2}", pids.len()));
            all_pss += pss;
            all_cpu += cpu;
        }
        say(format!("  {:<16} {:>6} {all_pss:>8.1} {:>8} {all_cpu:>13.2}", "whole node", "", ""));
        Ok(())
    }
}

fn seconds(ticks: u64) -> f64 {
    // USER_HZ: part of the kernel's interface, 100 on the architectures that kube-pet is built for.
    ticks as f64 / 100.0
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| {
        let index = (times.len().saturating_sub(1) * percent).div_ceil(100);
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    format!("median {:.0} ms, p95 {:.0} ms, max {:.0} ms (n={})", at(50), at(95), at(100), times.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_values() {
        let mut times: Vec<Duration> = [30, 10, 20].map(Duration::from_millis).to_vec();
        assert_eq!(quantiles(&mut times), "median 20 ms, p95 30 ms, max 30 ms (n=3)");
        assert_eq!(quantiles(&mut []), "median 0 ms, p95 0 ms, max 0 ms (n=0)");
    }
}
