//! `make bench-services`: the agent's Services beside the real kube-proxy in nftables mode, in the same cluster, by the same events.

use std::{
    net::Ipv4Addr,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::seconds;
use crate::{
    cluster,
    daemon::Daemon,
    kube_proxy,
    lab::{Lab, LabOptions},
    patience::eventually,
    pet::{Pet, PetOptions},
    process,
    progress::say,
    topology::ServiceProxy,
};
use wire::{ENDPOINT_PORT, SERVICE_PORT, endpoint};

mod wire;

const SPACE: &str = "bench";
const PROBE: &str = "probe";
/// The Service whose only endpoint is changed.
const PROBE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 254);
/// Of each Service.
const ENDPOINTS: u32 = 3;
/// How many Services are looked at to know that all are there: spread over all.
const SAMPLE: usize = 100;
const CHANGES_A_SECOND: u32 = 10;
/// Between two changes that are timed: kube-proxy writes at most once a second, and each finds it with that time behind it.
const PAUSE: Duration = Duration::from_millis(1500);
/// Between changes that come close together, as those of a rollout do.
const CLOSE: Duration = Duration::from_millis(100);
/// How long a proxy may take for anything.
const LIMIT: Duration = Duration::from_secs(300);

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of Services, growing.
    pub sizes: Vec<u32>,
    /// Changes of one endpoint, one after the other.
    pub changes: u32,
    /// Seconds of ten changes each.
    pub busy: u32,
}

/// Both in a lab of their own.
///
/// # Errors
/// When the lab, a proxy or a Service does not work.
pub async fn run(plan: &Plan) -> Result<()> {
    let lab = Lab::start(LabOptions::new("bench-services")).await?;
    wire::serve(lab.control_plane()).await?;
    let own = ServiceProxy::Agent.pet(&lab, PetOptions::new("kube-pet")).await?;
    let other = ServiceProxy::KubeProxy.pet(&lab, PetOptions::new("kube-proxy")).await?;
    let client = lab.client().await?;
    let bench = Bench {
        services: Api::namespaced(client.clone(), SPACE),
        slices: Api::namespaced(client.clone(), SPACE),
        subjects: [Subject { proxy: ServiceProxy::Agent, pet: own }, Subject { proxy: ServiceProxy::KubeProxy, pet: other }],
    };
    bench.prepare(client).await?;
    say("\nServices: kube-pet beside kube-proxy (nftables mode): the same cluster, the same events");
    let mut made = 0;
    for size in &plan.sizes {
        bench.create(made..*size).await?;
        made = *size;
        bench.measure(&lab, made, plan).await?;
    }
    lab.stop().await
}

/// One of the two that are compared.
struct Subject {
    proxy: ServiceProxy,
    pet: Pet,
}

impl Subject {
    fn daemon(&self) -> Result<Daemon> {
        match self.proxy {
            ServiceProxy::Agent => self.pet.agent(),
            ServiceProxy::KubeProxy => Daemon::load(self.pet.machine(), kube_proxy::NAME),
        }
    }

    /// Stops it and takes what it wrote out of the kernel, starts it, and waits until Services work.
    async fn cold(&self, lab: &Lab, sample: Vec<Ipv4Addr>) -> Result<Duration> {
        self.daemon()?.stop(Duration::from_secs(10)).await?;
        self.pet.shell("nft flush ruleset").await?;
        let start = Instant::now();
        // Beside the start, which only returns when it is known that the program has not ended at once.
        let launched = async {
            match self.proxy {
                ServiceProxy::Agent => self.pet.start_agent().await,
                ServiceProxy::KubeProxy => kube_proxy::launch(lab, &self.pet).await.map(drop),
            }
        };
        let ((), answered) = tokio::try_join!(launched, wire::all_answered(self.pet.machine(), sample, LIMIT))?;
        Ok(answered.duration_since(start))
    }

    /// How long it has been at changing the kernel's rules since its start, and how often, by its own account: both have kube-proxy's
    /// metrics.
    async fn at_work(&self, syncs: Syncs) -> Result<Work> {
        let text = self.pet.shell("curl -sf http://127.0.0.1:10249/metrics").await?;
        // kube-proxy has a series of each address family, from the first sync of its kind on.
        let value = |suffix: &str| -> Option<f64> {
            let name = format!("kubeproxy_sync_{}proxy_rules_duration_seconds_{suffix}", syncs.infix());
            let mut series = text.lines().filter_map(|line| line.strip_prefix(&name)).filter(|rest| rest.starts_with(['{', ' ']));
            series.find(|rest| !rest.contains("\"IPv6\""))?.split_whitespace().last()?.parse().ok()
        };
        Ok(value("sum").zip(value("count")).map_or(Work { seconds: 0.0, times: 0.0 }, |(seconds, times)| Work { seconds, times }))
    }

    /// How long the first time took, all rules. It is told after the rules work.
    async fn first_sync(&self) -> Result<Duration> {
        let what = format!("what {} tells of its first sync", self.pet.name());
        let work = eventually(LIMIT, &what, || async {
            let work = self.at_work(Syncs::Full).await?;
            anyhow::ensure!(work.times > 0.0, "none has ended");
            Ok(work)
        });
        Ok(Duration::from_secs_f64(work.await?.seconds))
    }

    fn cpu(&self) -> Result<u64> {
        Ok(process::cpu_ticks_with_children(self.daemon()?.process.pid))
    }

    fn rss(&self) -> Result<f64> {
        Ok(process::rss_kib(self.daemon()?.process.pid) as f64 / 1024.0)
    }
}

/// Time spent at the kernel's rules of IPv4.
#[derive(Clone, Copy)]
struct Work {
    seconds: f64,
    times: f64,
}

/// What a proxy does to the kernel's rules.
#[derive(Clone, Copy)]
enum Syncs {
    /// All of them.
    Full,
    /// Those that have changed.
    Partial,
}

impl Syncs {
    fn infix(self) -> &'static str {
        match self {
            Self::Full => "full_",
            Self::Partial => "partial_",
        }
    }
}

struct Bench {
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    subjects: [Subject; 2],
}

impl Bench {
    async fn prepare(&self, client: Client) -> Result<()> {
        let spaces: Api<Namespace> = Api::all(client);
        cluster::create(&spaces, json!({"metadata": {"name": SPACE}})).await?;
        self.service(PROBE, Some(PROBE_IP), &[endpoint(1)]).await?;
        for subject in &self.subjects {
            wire::all_answered(subject.pet.machine(), vec![PROBE_IP], LIMIT).await?;
        }
        Ok(())
    }

    /// A Service without a selector, and its endpoints.
    async fn service(&self, name: &str, address: Option<Ipv4Addr>, endpoints: &[Ipv4Addr]) -> Result<()> {
        let service = json!({
            "metadata": {"name": name},
            "spec": {"clusterIP": address, "ports": [{"name": "p", "port": SERVICE_PORT, "targetPort": ENDPOINT_PORT}]},
        });
        cluster::create(&self.services, service).await?;
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": listed(endpoints),
            "ports": [{"name": "p", "port": ENDPOINT_PORT, "protocol": "TCP"}],
        });
        cluster::create(&self.slices, slice).await
    }

    async fn create(&self, numbers: Range<u32>) -> Result<()> {
        futures::stream::iter(numbers)
            .map(async |number| self.service(&format!("s{number}"), None, &endpoints(number)).await)
            .buffer_unordered(32)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    async fn change(&self, name: &str, endpoints: &[Ipv4Addr]) -> Result<()> {
        let patch = json!({"endpoints": listed(endpoints)});
        self.slices.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.with_context(|| format!("change {name}")).map(drop)
    }

    async fn measure(&self, lab: &Lab, size: u32, plan: &Plan) -> Result<()> {
        say("");
        row(&format!("{size} Services × {ENDPOINTS} endpoints"), &["kube-pet", "kube-proxy"]);
        let services = self.services.list(&ListParams::default()).await.context("list the Services")?.items;
        let addresses: Vec<Ipv4Addr> =
            services.iter().filter_map(|service| service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()).collect();
        let sample: Vec<Ipv4Addr> = addresses.iter().step_by(addresses.len().div_ceil(SAMPLE)).copied().collect();
        let (mut cold, mut full) = (Vec::new(), Vec::new());
        for subject in &self.subjects {
            // Before the clock starts it has seen them all: what is timed is a start, not the creation.
            wire::all_answered(subject.pet.machine(), sample.clone(), LIMIT).await?;
            cold.push(format!("{:.2} s", subject.cold(lab, sample.clone()).await?.as_secs_f64()));
            full.push(format!("{:.1} ms", subject.first_sync().await?.as_secs_f64() * 1e3));
        }
        row("start → all work", &cold);
        row("  of it at the kernel's rules, by its metrics", &full);
        let before = self.partial().await?;
        let changes = self.changes(plan.changes, PAUSE).await?;
        let after = self.partial().await?;
        row("one endpoint changed → traffic moves", &changes.map(|mut took| milliseconds(&mut took)));
        let mean = |index: usize| (after[index].seconds - before[index].seconds) / (after[index].times - before[index].times) * 1e3;
        row("  of it at the kernel's rules, mean", &[0, 1].map(mean).map(|mean: f64| format!("{mean:.2} ms")));
        let close = self.changes(plan.changes, CLOSE).await?;
        row("another one right after it → traffic moves", &close.map(|mut took| milliseconds(&mut took)));
        let mut connections = Vec::new();
        for subject in &self.subjects {
            connections.push(microseconds(&mut wire::connections(subject.pet.machine(), PROBE_IP, 2000).await?));
        }
        row("connection through a Service", &connections);
        row(&format!("CPU of a core at {CHANGES_A_SECOND} changes a second"), &self.busy(size, plan.busy).await?);
        let rss = [self.subjects[0].rss()?, self.subjects[1].rss()?];
        row("memory, RSS", &rss.map(|rss| format!("{rss:.1} MB")));
        Ok(())
    }

    async fn partial(&self) -> Result<[Work; 2]> {
        let [one, two] = &self.subjects;
        Ok([one.at_work(Syncs::Partial).await?, two.at_work(Syncs::Partial).await?])
    }

    /// How long each change takes, for each subject, from the moment that the API server is asked.
    async fn changes(&self, count: u32, pause: Duration) -> Result<[Vec<Duration>; 2]> {
        let [one, two] = &self.subjects;
        let mut took = [Vec::new(), Vec::new()];
        for number in 0..count {
            let wanted = endpoint(2 + number % 2);
            let start = Instant::now();
            let endpoints = [wanted];
            let ((), one, two) = tokio::try_join!(
                self.change(PROBE, &endpoints),
                wire::answered_by(one.pet.machine(), PROBE_IP, wanted, LIMIT),
                wire::answered_by(two.pet.machine(), PROBE_IP, wanted, LIMIT),
            )?;
            took[0].push(one.duration_since(start));
            took[1].push(two.duration_since(start));
            tokio::time::sleep(pause).await;
        }
        Ok(took)
    }

    /// One endpoint of some Service is replaced, ten times a second.
    async fn busy(&self, size: u32, period: u32) -> Result<Vec<String>> {
        let before = [self.subjects[0].cpu()?, self.subjects[1].cpu()?];
        let start = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES_A_SECOND);
        for number in 0..period * CHANGES_A_SECOND {
            ticks.tick().await;
            let service = number % size;
            let [first, second, _] = endpoints(service);
            self.change(&format!("s{service}"), &[first, second, endpoint(60_000 + number % 1000)]).await?;
        }
        let elapsed = start.elapsed().as_secs_f64();
        let share = |(subject, before): (&Subject, u64)| -> Result<String> {
            Ok(format!("{:.1} %", 100.0 * seconds(subject.cpu()?.saturating_sub(before)) / elapsed))
        };
        self.subjects.iter().zip(before).map(share).collect()
    }
}

fn endpoints(service: u32) -> [Ipv4Addr; 3] {
    [0, 1, 2].map(|number| endpoint(10 + (service * ENDPOINTS + number) % 50_000))
}

fn listed(endpoints: &[Ipv4Addr]) -> Value {
    endpoints.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect()
}

fn row(what: &str, values: &[impl AsRef<str>]) {
    let values: String = values.iter().map(|value| format!("{:>28}", value.as_ref())).collect();
    say(format!("  {what:<46}{values}"));
}

fn milliseconds(took: &mut [Duration]) -> String {
    let [half, most] = at(took, [50, 99]);
    format!("p50 {:.1}, p99 {:.1} ms", half * 1e3, most * 1e3)
}

fn microseconds(took: &mut [Duration]) -> String {
    let [half, most] = at(took, [50, 99]);
    format!("p50 {:.0}, p99 {:.0} µs", half * 1e6, most * 1e6)
}

fn at(took: &mut [Duration], percents: [usize; 2]) -> [f64; 2] {
    took.sort();
    percents.map(|percent| took.get((took.len().saturating_sub(1) * percent).div_ceil(100)).map_or(0.0, Duration::as_secs_f64))
}
