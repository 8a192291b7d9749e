//! A hundred pods with a readiness probe each: what the node costs then, and what numbers cost that somebody asks for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use serde_json::json;

use super::{BUSYBOX, Bench, quantiles, seconds};
use crate::{client, patience::eventually, progress::say};

/// What metrics-server and Prometheus ask for, as often as Prometheus does.
const EVERY: Duration = Duration::from_secs(15);
const ASKED: [&str; 5] = ["metrics/resource", "metrics/cadvisor", "metrics/probes", "metrics", "stats/summary"];

impl Bench {
    /// Starts them and watches the node for `period`, twice: once alone, once asked.
    pub(super) async fn crowd(&self, count: usize, period: Duration) -> Result<()> {
        for number in 0..count {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": format!("crowd-{number}")},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "c",
                        "image": BUSYBOX,
                        "command": ["sh", "-c", "echo ok > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
                        "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 10},
                    }],
                },
            }))
            .context("form of a pod")?;
            self.pods.create(&PostParams::default(), &pod).await.context("create a pod")?;
        }
        eventually(Duration::from_secs(180), "all pods are ready", || async {
            let pods = self.pods.list(&ListParams::default()).await?.items;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(ready == count, "{ready} of {}", pods.len());
            Ok(())
        })
        .await?;
        say("\nEach with a readiness probe (HTTP, every 10 s)");
        self.idle(count, period).await?;
        let before = self.cpu();
        let start = Instant::now();
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); ASKED.len()];
        let mut sizes = [0; ASKED.len()];
        while start.elapsed() < period {
            let round = Instant::now();
            for ((times, size), path) in times.iter_mut().zip(&mut sizes).zip(ASKED) {
                let asked = Instant::now();
                *size = client::get(&self.client, &format!("/api/v1/nodes/pet1/proxy/{path}")).await?.len();
                times.push(asked.elapsed());
            }
            tokio::time::sleep(EVERY.saturating_sub(round.elapsed())).await;
        }
        let elapsed = start.elapsed().as_secs_f64();
        say(format!("\nThe same, asked for its numbers every {} s, through the API server", EVERY.as_secs()));
        for (kind, ticks) in self.cpu() {
            let spent = ticks.saturating_sub(before.get(&kind).copied().unwrap_or(0));
            say(format!("  CPU of {kind}: {:.2} % of a core", 100.0 * seconds(spent) / elapsed));
        }
        for ((times, size), path) in times.iter_mut().zip(sizes).zip(ASKED) {
            say(format!("  /{path}: {} kB, {}", size / 1000, quantiles(times)));
        }
        Ok(())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
