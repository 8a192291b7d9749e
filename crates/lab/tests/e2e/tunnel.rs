//! Pets behind NAT that have nothing but the tunnel: a lab of its own, whose control plane has routes to the gateways only.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube_pet_lab::{
    Lab, LabOptions, Pet, PetOptions, controller,
    daemon::Daemon,
    eventually,
    gateway::{self, Gateway},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::{AGNHOST, Bed, SOON, condition, pod_ip};

mod direct;
mod kubelet;
mod moving;
mod numbers;
mod relay;
mod rotation;
mod transfers;

/// A server that tells its name and the address of who asks.
pub(crate) fn server(name: &str, node: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "c", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
            }],
        },
    })
}

/// A lab whose control plane reaches pets by gateways only, and two pets in homes of their own.
pub(crate) struct Homes {
    /// With the first pet.
    pub(crate) bed: Bed,
    pub(crate) b: Pet,
    gateways: Vec<Gateway>,
    routes: JoinHandle<()>,
    _controller: Daemon,
}

impl Homes {
    async fn start(name: &str, gateways: &[&str], tunnel: serde_json::Value) -> Result<Self> {
        Self::start_with(name, gateways, [home("home-a", tunnel.clone()), home("home-b", tunnel)]).await
    }

    pub(crate) async fn start_with(name: &str, gateways: &[&str], [a, b]: [PetOptions; 2]) -> Result<Self> {
        let mut options = LabOptions::new(format!("e2e-{name}-{}", std::process::id()));
        options.keep_logs = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("e2e-{name}-logs")));
        options.control_plane.verify_kubelets = true;
        let lab = Arc::new(Lab::start(options).await?);
        lab.approve_serving_certificates(false)?;
        controller::deploy(&lab).await?;
        gateway::network(&lab).await?;
        let _controller = controller::start(&lab, 0, &[]).await?;
        let mut started = Vec::new();
        for gateway in gateways {
            started.push(gateway::start(&lab, gateway).await?);
        }
        let addresses: Vec<_> = started.iter().map(|gateway| (gateway.name().to_owned(), gateway.inner)).collect();
        let cloud = lab.clone();
        let routes = tokio::spawn(async move { gateway::follow_active(&cloud, &addresses).await });
        let a = lab.pet(a).await?;
        let b = lab.pet(b).await?;
        let bed = Bed::on(lab, a, name).await?;
        b.ready(SOON).await?;
        Ok(Self { bed, b, gateways: started, routes, _controller })
    }

    /// Ends it in order: these pods go while their nodes are still there to end them.
    pub(crate) async fn end(self, pods: &[&str]) -> Result<()> {
        for pod in pods {
            self.bed.delete(pod).await?;
            self.bed.gone(pod, SOON).await?;
        }
        self.b.remove().await?;
        self.bed.done().await?;
        self.routes.abort();
        Ok(())
    }
}

/// A pet behind a router of its own, whose inner addresses are those of all other homes.
pub(crate) fn home(name: &str, tunnel: serde_json::Value) -> PetOptions {
    PetOptions::new(name).at_home().with("tunnel", tunnel).with("nodeLabels", json!({"example.com/home": name}))
}

#[e2e]
async fn e2e_pets_behind_nat_are_nodes_by_the_tunnel_alone_and_outlive_a_gateway() -> Result<()> {
    // All that they say goes through a gateway.
    let homes = Homes::start("tunnel", &["gw1", "gw2"], json!({"enabled": true, "direct": false})).await?;
    let Homes { bed, b, gateways, .. } = &homes;
    let [one, two] = gateways.as_slice() else { bail!("two gateways were started") };
    let nodes: Api<Node> = Api::all(bed.client.clone());
    for name in [bed.pet.name(), b.name()] {
        let node = nodes.get(name).await?;
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let internal: Vec<_> = addresses.iter().filter(|a| a.type_ == "InternalIP").map(|a| a.address.as_str()).collect();
        ensure!(internal.len() == 1 && internal[0].starts_with("10.210."), "{name}: {addresses:?}");
    }

    // Pods of one reach pods of the other, each seen with its own address; the API server reaches both, and their logs.
    let mut ips = Vec::new();
    for (name, node) in [("a", bed.pet.name()), ("b", b.name())] {
        bed.create::<Pod>(server(name, node)).await?;
        let pod = bed.until(name, SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
        let ip = pod_ip(&pod).context("a running pod has an address")?.to_owned();
        ensure!(ip.starts_with("10.211."), "{name}: {ip}");
        ips.push(ip);
    }
    for (from, own, to) in [("a", &ips[0], &ips[1]), ("b", &ips[1], &ips[0])] {
        let url = format!("http://{to}:8080/clientip");
        let ask = ["exec", from, "--", "curl", "-sS", "-m", "5", url.as_str()];
        let answer = eventually(SOON, &url, || bed.kubectl(&ask)).await?;
        ensure!(answer.starts_with(&format!("{own}:")), "{from} ({own}) was seen as {answer}");
        let path = format!("/api/v1/namespaces/{}/pods/{from}:8080/proxy/hostname", bed.namespace);
        ensure!(kube_pet_lab::client::get(&bed.client, &path).await? == from, "{from} by the API server");
        let log = bed.logs(from).await?;
        ensure!(log.contains("8080"), "{from}: {log}");
    }

    // The API server's address is not of the cluster's networks: there they go from home, with their pet's address.
    for pod in ["a", "b"] {
        let ask = ["exec", pod, "--", "sh", "-c", "curl -sSk -m 5 https://$KUBERNETES_SERVICE_HOST/livez"];
        let answer = eventually(SOON, "the world beside the tunnel", || bed.kubectl(&ask)).await?;
        ensure!(answer == "ok", "{pod}: {answer}");
    }

    // What the gateway sees of them.
    let seen = eventually(SOON, "both are connected", || async {
        let pets = bed
            .lab
            .kubectl(&[
                "get",
                "pets",
                "-o",
                "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Connected\")].status} {.status.observedEndpoint.host} {end}",
            ])
            .await?;
        ensure!(pets.matches("True").count() == 2, "{pets}");
        Ok(pets)
    });
    let seen = seen.await?;
    for home in [&bed.pet, b] {
        ensure!(seen.contains(&home.address().to_string()), "{seen}: not the address of {}'s router", home.name());
    }
    let first = gateway::active(&bed.lab, None).await?;
    let (active, standby) = if first == one.name() { (one, two) } else { (two, one) };
    ensure!(active.page("/metrics").await?.contains("kube_pet_gateway_active 1"), "{first}");
    ensure!(standby.page("/readyz").await?.contains("ok"), "the standby is ready");

    // The active one dies. The other one carries everything within seconds.
    let url = format!("http://{}:8080/hostname", ips[1]);
    let ask = ["exec", "a", "--", "curl", "-sS", "-m", "1", url.as_str()];
    let begun = Instant::now();
    active.daemon.kill().await?;
    let answer = eventually(Duration::from_secs(30), "a pod reaches the other by the other gateway", || bed.kubectl(&ask));
    ensure!(answer.await? == "b", "by the other gateway");
    let took = begun.elapsed();
    kube_pet_lab::progress::say(format!("the standby has taken over after {took:?}"));
    ensure!(took < Duration::from_secs(10), "the standby has taken over after {took:?}");

    // They have done all that with the permissions of deploy/.
    for gateway in [one, two] {
        let log = gateway.daemon.log();
        ensure!(!log.contains("forbidden"), "{} lacks a permission: {log}", gateway.name());
    }

    // An agent that is started again has its tunnel at once, and its pods are not disturbed.
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    let answer = eventually(SOON, "the tunnel of the next agent", || bed.kubectl(&ask));
    ensure!(answer.await? == "b", "after a restart of the agent");

    homes.end(&["b"]).await
}
