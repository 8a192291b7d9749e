//! Services and host ports, as clients see them: from pods, from the node, from another machine.

mod beside;
mod load;
mod reloads;
mod steady;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use kube_pet_lab::{eventually, machine::Machine, network::API_SERVICE_IP};
use serde_json::{Value, json};

use crate::harness::{AGNHOST, Bed, SOON, condition, pod_ip, shell};

/// How long a server goes on when its pod is deleted. It is told to end when its endpoint is taken away, not after that: who wants to lose no
/// request waits until all have heard of it, here and with the kubelet.
const SERVES_ON: u64 = 5;

/// A server that tells its pod's name.
async fn server(bed: &Bed, name: &str, ports: Value) -> Result<()> {
    let ready = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1});
    let args = ["netexec", "--http-port=8080", "--udp-port=8081"];
    let mut container = json!({"name": "c", "image": AGNHOST, "args": args, "ports": ports, "readinessProbe": ready});
    container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": SERVES_ON}}});
    bed.pod(name, json!({"containers": [container], "terminationGracePeriodSeconds": 2 * SERVES_ON})).await?;
    bed.kubectl(&["label", "pod", name, "app=web"]).await?;
    bed.until(name, SOON, "is ready", |pod| condition(pod, "Ready") == "True").await.map(drop)
}

/// A Service of the servers: TCP 80 and UDP 90. Returns it as the API server has it.
async fn service(bed: &Bed, name: &str, mut spec: Value) -> Result<Service> {
    spec["selector"] = json!({"app": "web"});
    spec["ports"] = json!([
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "udp", "port": 90, "targetPort": 8081, "protocol": "UDP"},
    ]);
    bed.create::<Service>(json!({"metadata": {"name": name}, "spec": spec})).await?;
    bed.api::<Service>().get(name).await.context("get the service")
}

fn cluster_ip(service: &Service) -> Result<&str> {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).context("the service has a ClusterIP")
}

/// A pod that asks.
async fn client(bed: &Bed) -> Result<()> {
    bed.pod("client", json!({"containers": [shell("c", "sleep 3600")]})).await?;
    bed.until("client", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await.map(drop)
}

/// When the pod's condition Ready last changed.
async fn ready_since(bed: &Bed, name: &str) -> Result<String> {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].lastTransitionTime}";
    bed.kubectl(&["get", "pod", name, "-o", path]).await
}

/// What a server answers to the client; its error text if it does not.
async fn from_pod(bed: &Bed, place: &str) -> Result<String> {
    let ask = format!("wget -q -O- -T 3 http://{place}/hostname 2>&1 || true");
    bed.kubectl(&["exec", "client", "--", "sh", "-c", &ask]).await
}

/// The same from a machine, which has no wget.
async fn from_machine(machine: &Machine, address: &str, port: i32) -> Result<String> {
    let ask = format!("exec 3<>/dev/tcp/{address}/{port} && printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' >&3 && tail -n1 <&3");
    machine.shell(&format!("timeout 3 bash -c \"{}\"", ask.replace('"', "\\\""))).await
}

/// Asks until one server after the other has answered.
async fn all_answer(names: &[&str], ask: impl AsyncFn() -> Result<String>) -> Result<()> {
    for name in names {
        eventually(SOON, &format!("{name} answers"), || async {
            let answer = ask().await?;
            ensure!(answer.trim() == *name, "{answer}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[e2e]
async fn e2e_services_lead_to_their_endpoints() -> Result<()> {
    let bed = Bed::own("services").await?;
    tokio::try_join!(server(&bed, "web-0", json!([])), server(&bed, "web-1", json!([])), client(&bed))?;
    let web = service(&bed, "web", json!({"type": "NodePort"})).await?;
    let ip = cluster_ip(&web)?;
    let ports = web.spec.as_ref().and_then(|spec| spec.ports.as_ref()).context("ports")?;
    let node_port = ports.first().and_then(|port| port.node_port).context("a node port")?;
    let address = bed.pet.address().to_string();
    let both = ["web-0", "web-1"];

    all_answer(&both, async || from_pod(&bed, ip).await).await.context("from a pod")?;
    all_answer(&both, async || from_machine(bed.pet.machine(), ip, 80).await).await.context("from the node")?;
    all_answer(&both, async || from_pod(&bed, &format!("{address}:{node_port}")).await).await.context("the node port from a pod")?;
    all_answer(&both, async || from_machine(bed.pet.machine(), &address, node_port).await).await.context("the node port from the node")?;
    all_answer(&both, async || from_machine(bed.lab.control_plane(), &address, node_port).await)
        .await
        .context("the node port from elsewhere")?;
    let udp = format!("echo hostname | nc -u -w 2 {ip} 90");
    all_answer(&both, async || bed.kubectl(&["exec", "client", "--", "sh", "-c", &udp]).await).await.context("by UDP")?;
    let api = format!("{API_SERVICE_IP}:443");
    bed.kubectl(&["exec", "web-0", "--", "/agnhost", "connect", &api, "--timeout=3s"]).await.context("the API server from a pod")?;
    // A server that asks its own Service may be answered by itself.
    bed.kubectl(&["exec", "web-0", "--", "/agnhost", "connect", &format!("{ip}:80"), "--timeout=3s"]).await?;

    bed.kubectl(&["delete", "pod", "web-0", "--wait=false"]).await?;
    let mut after = 0;
    while after < 20 {
        let answer = from_pod(&bed, ip).await?;
        ensure!(both.contains(&answer.trim()), "while an endpoint goes: {answer}");
        after += i32::from(bed.pods().get_opt("web-0").await?.is_none());
    }
    bed.kubectl(&["delete", "pod", "web-1"]).await?;
    eventually(SOON, "no endpoint: refused", || async {
        let answer = from_pod(&bed, ip).await?;
        ensure!(answer.contains("refused"), "{answer}");
        Ok(())
    })
    .await?;
    let began = Instant::now();
    ensure!(from_pod(&bed, ip).await?.contains("refused"));
    ensure!(began.elapsed() < Duration::from_secs(2), "a refusal took {:?}", began.elapsed());
    bed.done().await
}

#[e2e]
async fn e2e_services_survive_the_agent() -> Result<()> {
    let bed = Bed::own("restarts").await?;
    tokio::try_join!(server(&bed, "web-0", json!([])), server(&bed, "web-1", json!([])), client(&bed))?;
    // Nor does a restart of the agent make a pod unready, which would take its endpoint away.
    let web = service(&bed, "web", json!({})).await?;
    let ready = ["web-0", "web-1", "client"].map(|name| ready_since(&bed, name));
    let ready = futures::future::try_join_all(ready).await?;
    let ip = cluster_ip(&web)?;
    all_answer(&["web-0", "web-1"], async || from_pod(&bed, ip).await).await?;

    let count = format!(
        "ok=0; bad=0; end=$(($(date +%s) + 15)); while [ $(date +%s) -lt $end ]; do \
         if wget -q -O /dev/null -T 2 http://{ip}/hostname; then ok=$((ok + 1)); else bad=$((bad + 1)); fi; done; echo $ok $bad"
    );
    // A pod of its own: a session of exec would end with the agent.
    bed.pod("counter", json!({"restartPolicy": "Never", "containers": [shell("c", &count)]})).await?;
    bed.phase("counter", "Running").await?;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        bed.pet.kill_agent().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        bed.pet.start_agent().await?;
    }
    bed.phase("counter", "Succeeded").await?;
    let counted = bed.logs("counter").await?;
    let numbers: Vec<u32> = counted.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [answered, failed] = numbers[..] else { bail!("{counted}") };
    ensure!(answered > 100 && failed == 0, "answered {answered}, failed {failed}");

    let after = futures::future::try_join_all(["web-0", "web-1", "client"].map(|name| ready_since(&bed, name))).await?;
    ensure!(after == ready, "ready since {ready:?}, now since {after:?}");
    bed.pet.ready(SOON).await?;
    bed.done().await
}

#[e2e]
async fn e2e_host_ports_lead_into_their_pod() -> Result<()> {
    let bed = Bed::own("hostports").await?;
    let ports = json!([
        {"containerPort": 8080, "hostPort": 18080},
        {"containerPort": 8080, "hostPort": 18081, "hostIP": "127.0.0.1"},
    ]);
    tokio::try_join!(server(&bed, "web-0", ports), client(&bed))?;
    let address = bed.pet.address().to_string();
    let reach = async || -> Result<()> {
        all_answer(&["web-0"], async || from_machine(bed.lab.control_plane(), &address, 18080).await).await.context("from elsewhere")?;
        all_answer(&["web-0"], async || from_machine(bed.pet.machine(), &address, 18080).await).await.context("from the node")?;
        all_answer(&["web-0"], async || from_machine(bed.pet.machine(), "127.0.0.1", 18080).await)
            .await
            .context("from the node by its loopback")?;
        all_answer(&["web-0"], async || from_machine(bed.pet.machine(), "127.0.0.1", 18081).await)
            .await
            .context("the loopback's own port")?;
        all_answer(&["web-0"], async || from_pod(&bed, &format!("{address}:18080")).await).await.context("from a pod")
    };
    reach().await?;
    ensure!(from_machine(bed.lab.control_plane(), &address, 18081).await.is_err(), "the loopback's port is open to others");
    bed.pet.kill_agent().await?;
    ensure!(from_machine(bed.lab.control_plane(), &address, 18080).await?.trim() == "web-0", "while the agent is away");
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    reach().await?;
    let ip = pod_ip(&bed.get("web-0").await?).context("an address")?.to_owned();
    bed.kubectl(&["delete", "pod", "web-0"]).await?;
    bed.gone("web-0", SOON).await?;
    let answer = from_machine(bed.lab.control_plane(), &address, 18080).await;
    ensure!(answer.is_err(), "{answer:?} although the pod {ip} is gone");
    bed.done().await
}
