//! The node's cache of the cluster's DNS: asked first, and alone where the cluster cannot be reached.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube_pet_lab::eventually;
use serde_json::json;

use crate::dns::coredns;
use crate::harness::{AGNHOST, Bed, SOON};

const CACHE: &str = "169.254.20.10";
const NAME: &str = "kubernetes.default.svc.cluster.local.";
const ADDRESS: &str = "10.96.0.1";

/// A command in the pod `asker`, beside the agent: it works without a cluster and without an agent.
async fn inside(bed: &Bed, command: &[&str]) -> Result<String> {
    let containers = bed.pet.podman(&["ps", "--format", "{{.ID}} {{.Names}}"]).await?;
    let line = containers.lines().find(|line| line.contains("asker")).with_context(|| format!("no asker in {containers}"))?;
    let id = line.split(' ').next().unwrap_or_default();
    bed.pet.podman(&[&["exec", id], command].concat()).await
}

/// What dig prints: answer, comments and the server that answered.
async fn dig(bed: &Bed, name: &str, options: &[&str]) -> Result<String> {
    let dig = ["dig", "+noall", "+answer", "+comments", "+stats", "+timeout=5", "+tries=1", "A", name];
    inside(bed, &[&dig, options].concat()).await
}

/// By the C library, through the search list: several names are asked for, most of which do not exist.
async fn resolves(bed: &Bed) -> Result<()> {
    let found = inside(bed, &["getent", "ahostsv4", "kubernetes.default"]).await?;
    ensure!(found.starts_with(&format!("{ADDRESS} ")), "{found}");
    Ok(())
}

/// The control plane's machine asks, with a route of its own to the address.
async fn stranger_is_not_answered(bed: &Bed) -> Result<()> {
    let machine = bed.lab.control_plane();
    let (to, via) = (format!("{CACHE}/32"), bed.pet.address().to_string());
    let route = |change: &'static str| {
        let mut command = machine.enter_network();
        command.args(["ip", "route", change, &to, "via", &via]);
        kube_pet_lab::command::output(command)
    };
    route("replace").await?;
    let answered = machine.in_network(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        // The address of the root: a question like any other.
        socket.send_to(&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1], (CACHE, 53))?;
        socket.recv(&mut [0; 512])
    });
    let answered = answered.await?;
    route("del").await?;
    let error = answered.err().context("a machine on the network was answered")?;
    ensure!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    Ok(())
}

/// A process of the node's own asks for [`NAME`], with neither a resolver nor a container.
async fn the_node_is_answered(bed: &Bed) -> Result<()> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.bytes());
    }
    question.extend([0, 1, 0, 1]);
    let answered = bed.pet.machine().in_network(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect((CACHE, 53))?;
        socket.send(&question)?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok::<_, std::io::Error>(buffer[..length].to_vec())
    });
    let answer = answered.await??;
    ensure!(answer.ends_with(&[0, 4, 10, 96, 0, 1]), "{answer:?}");
    Ok(())
}

#[e2e]
async fn e2e_dns_cache_answers_when_the_cluster_cannot_be_reached() -> Result<()> {
    coredns().await?;
    let mut bed = Bed::own_with("dnscache", |options| options.with("dnsCache", json!({"enabled": true}))).await?;
    bed.pod("asker", json!({"containers": [{"name": "c", "image": AGNHOST}]})).await?;
    bed.phase("asker", "Running").await?;
    let conf = inside(&bed, &["cat", "/etc/resolv.conf"]).await?;
    let servers: Vec<_> = conf.lines().filter(|line| line.starts_with("nameserver")).collect();
    ensure!(servers == [format!("nameserver {CACHE}"), "nameserver 10.96.0.10".to_owned()], "{conf}");

    // The cache answers, over UDP and TCP.
    for options in [[].as_slice(), &["+tcp"]] {
        let answer = eventually(SOON, "the cache knows the API server", || async {
            let answer = dig(&bed, NAME, options).await?;
            ensure!(answer.contains(ADDRESS), "{answer}");
            Ok(answer)
        });
        let answer = answer.await?;
        ensure!(answer.contains(&format!("SERVER: {CACHE}#53")), "{answer}");
    }
    resolves(&bed).await?;

    // Others on the network are not served, although the kernel takes their packets.
    stranger_is_not_answered(&bed).await?;
    let metrics = bed.lab.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/metrics", bed.pet.name())]).await?;
    for result in ["hit", "miss", "dropped"] {
        ensure!(metrics.contains(&format!("kube_pet_dns_cache_answers_total{{result=\"{result}\"}}")), "no {result}");
    }

    // Without the agent, the kernel refuses, and the cluster's DNS is asked.
    bed.pet.kill_agent().await?;
    resolves(&bed).await?;
    let answer = dig(&bed, NAME, &[]).await?;
    ensure!(answer.contains("SERVER: 10.96.0.10#53") && answer.contains(ADDRESS), "{answer}");
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    resolves(&bed).await?;

    // Without the network: as long as the answers hold, and when they are over.
    bed.pet.set_online(false).await?;
    resolves(&bed).await?;
    eventually(SOON, "an old answer", || async {
        let answer = dig(&bed, NAME, &[]).await?;
        ensure!(answer.contains(ADDRESS), "{answer}");
        ensure!(answer.contains("EDE: 3"), "{answer}");
        Ok(())
    })
    .await?;
    resolves(&bed).await?;

    // The next agent knows what this one did.
    bed.pet.stop_agent().await?;
    bed.pet.start_agent().await?;
    eventually(Duration::from_secs(30), "the next agent's cache answers", || async {
        let answer = dig(&bed, NAME, &[]).await?;
        ensure!(answer.contains(ADDRESS) && answer.contains(&format!("SERVER: {CACHE}#53")), "{answer}");
        Ok(())
    })
    .await?;
    resolves(&bed).await?;

    // So does the one after a reboot. Its pods wait for the API server, and what else runs on the machine can ask.
    let lab = bed.lab.clone();
    bed.pet.power_cycle(&lab).await?;
    bed.pet.set_online(false).await?;
    bed.pet.start_agent().await?;
    eventually(Duration::from_secs(30), "the cache of a machine that booted without network answers", || the_node_is_answered(&bed))
        .await?;
    bed.pet.set_online(true).await?;
    bed.pet.ready(SOON).await?;
    bed.done().await
}
