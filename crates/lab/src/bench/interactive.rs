//! What a person at `kubectl` waits for, and what an open session costs: kube-pet beside the kubelet with containerd, in the same
//! cluster, by turns.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use super::{BUSYBOX, quantiles};
use crate::{
    client, cluster, command, kubelet,
    lab::{Lab, LabOptions},
    patience::eventually,
    pet::{Pet, PetOptions},
    process,
    progress::say,
};

/// What the agent's node is made of; [`kubelet::PROGRAMS`] is the other's.
const PROGRAMS: [&str; 4] = ["kube-pet", "podman", "conmon", "crun"];
const MEBIBYTE: usize = 1 << 20;
/// What is sent through an exec session.
const SENT: usize = 200;
/// The size of the file that a port-forward fetches, in MiB.
const FETCHED: usize = 100;
const SESSIONS: usize = 40;
/// How long sessions are open before memory is looked at.
const SETTLE: Duration = Duration::from_secs(15);

/// How often things are done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Commands on each node.
    pub commands: usize,
    /// Transfers on each node, of each kind.
    pub transfers: usize,
}

/// Both nodes in a lab of their own.
///
/// # Errors
/// When the lab, a node or a session does not work.
pub async fn run(plan: &Plan) -> Result<()> {
    let lab = Lab::start(LabOptions::new("bench-interactive")).await?;
    let pet = lab.pet(PetOptions::new("pet1")).await?;
    pet.ready(Duration::from_secs(60)).await?;
    let peer = kubelet::start(&lab, PetOptions::new("kubelet1")).await?;
    let client = lab.client().await?;
    let nodes = [Subject::create(&lab, &client, "kube-pet", pet).await?, Subject::create(&lab, &client, "kubelet", peer).await?];
    say("\nInteractive: kube-pet beside the kubelet with containerd, by turns");
    commands(&lab, &nodes, plan.commands).await?;
    transfers(&nodes, plan.transfers).await?;
    forwarding(&nodes, plan).await?;
    for node in &nodes {
        node.sessions().await?;
    }
    lab.stop().await
}

async fn commands(lab: &Lab, nodes: &[Subject<'_>; 2], count: usize) -> Result<()> {
    let mut floor = Vec::new();
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..count + 2 {
        for (node, took) in nodes.iter().zip(&mut took) {
            let start = Instant::now();
            command::output(node.exec(&[], &["true"])?).await?;
            // Two to warm up.
            if round >= 2 {
                took.push(start.elapsed());
            }
        }
        let start = Instant::now();
        lab.kubectl(&["get", "pod", nodes[0].pod, "-o", "name"]).await?;
        floor.push(start.elapsed());
    }
    say("  kubectl exec POD -- true");
    for (node, took) in nodes.iter().zip(&mut took) {
        say(format!("    {:<10} {}", node.kind, quantiles(took)));
    }
    say(format!("    {:<10} {}", "(kubectl get)", quantiles(&mut floor)));
    Ok(())
}

async fn transfers(nodes: &[Subject<'_>; 2], count: usize) -> Result<()> {
    let mut rates = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..count {
        for (node, [out, into]) in nodes.iter().zip(&mut rates) {
            out.push(node.output().await?);
            into.push(node.input().await?);
        }
    }
    for (index, what) in ["output", "input"].iter().enumerate() {
        say(format!("  {what} of kubectl exec, {SENT} MiB"));
        for (node, rates) in nodes.iter().zip(&mut rates) {
            say(format!("    {:<10} {}", node.kind, spread(&mut rates[index])));
        }
    }
    Ok(())
}

async fn forwarding(nodes: &[Subject<'_>; 2], plan: &Plan) -> Result<()> {
    let forwards = [nodes[0].forward().await?, nodes[1].forward().await?];
    let mut took = [Vec::new(), Vec::new()];
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..plan.commands {
        for (forward, took) in forwards.iter().zip(&mut took) {
            let start = Instant::now();
            forward.get("/small", 3).await?;
            took.push(start.elapsed());
        }
    }
    for _ in 0..plan.transfers {
        for (forward, rates) in forwards.iter().zip(&mut rates) {
            let start = Instant::now();
            forward.get("/large", FETCHED * MEBIBYTE).await?;
            rates.push(rate(FETCHED, start.elapsed()));
        }
    }
    say("  kubectl port-forward: a new connection and a small answer");
    for (node, took) in nodes.iter().zip(&mut took) {
        say(format!("    {:<10} {}", node.kind, quantiles(took)));
    }
    say(format!("  kubectl port-forward, {FETCHED} MiB"));
    for (node, rates) in nodes.iter().zip(&mut rates) {
        say(format!("    {:<10} {}", node.kind, spread(rates)));
    }
    Ok(())
}

/// A node with a pod that sleeps and serves two files.
struct Subject<'a> {
    kind: &'static str,
    pod: &'static str,
    lab: &'a Lab,
    node: Pet,
}

impl<'a> Subject<'a> {
    async fn create(lab: &'a Lab, client: &Client, kind: &'static str, node: Pet) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        eventually(Duration::from_secs(20), "the default service account", || client::get(client, path)).await?;
        let script = format!(
            "mkdir /www; echo ok > /www/small; head -c {} /dev/zero > /www/large; exec httpd -f -p 8080 -h /www",
            FETCHED * MEBIBYTE
        );
        let pod = json!({
            "metadata": {"name": kind},
            "spec": {
                "nodeName": node.name(),
                "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]}],
                "terminationGracePeriodSeconds": 1,
            },
        });
        cluster::create(&pods, pod).await?;
        eventually(Duration::from_secs(60), "the pod serves", || async {
            let pod = pods.get(kind).await?;
            let phase = pod.status.and_then(|status| status.phase);
            ensure!(phase.as_deref() == Some("Running"), "{phase:?}");
            lab.kubectl(&["exec", kind, "--", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/large"]).await.map(drop)
        })
        .await?;
        Ok(Self { kind, pod: kind, lab, node })
    }

    fn exec(&self, options: &[&str], argv: &[&str]) -> Result<Command> {
        let arguments: Vec<&str> = ["exec"].iter().chain(options).chain(&[self.pod, "--"]).chain(argv).copied().collect();
        self.lab.kubectl_command(&arguments)
    }

    /// MiB per second.
    async fn output(&self) -> Result<f64> {
        let blocks = format!("count={}", SENT * MEBIBYTE / 65536);
        let start = Instant::now();
        let mut child = self
            .exec(&[], &["dd", "if=/dev/zero", "bs=65536", &blocks])?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start kubectl")?;
        let mut stdout = child.stdout.take().context("kubectl has an output")?;
        let (mut buffer, mut have) = (vec![0; 1 << 18], 0);
        loop {
            match stdout.read(&mut buffer).await.context("read kubectl's output")? {
                0 => break,
                count => have += count,
            }
        }
        ensure!(child.wait().await.context("wait for kubectl")?.success(), "kubectl exec failed on {}", self.kind);
        ensure!(have == SENT * MEBIBYTE, "{have} bytes of {SENT} MiB from {}", self.kind);
        Ok(rate(SENT, start.elapsed()))
    }

    /// MiB per second.
    async fn input(&self) -> Result<f64> {
        let start = Instant::now();
        let mut command = self.exec(&["-i"], &["wc", "-c"])?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has an input")?;
        let block = vec![0; MEBIBYTE];
        for _ in 0..SENT {
            stdin.write_all(&block).await.context("write to kubectl")?;
        }
        drop(stdin);
        let done = child.wait_with_output().await.context("wait for kubectl")?;
        let counted = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        ensure!(counted == (SENT * MEBIBYTE).to_string(), "{} counts {counted} bytes: {}", self.kind, done.status);
        Ok(rate(SENT, start.elapsed()))
    }

    async fn forward(&self) -> Result<Forward> {
        let mut command = self.lab.kubectl_command(&["port-forward", self.pod, ":8080"])?;
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().context("start kubectl")?;
        let mut stdout = child.stdout.take().context("kubectl has an output")?;
        let mut text = String::new();
        let port = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Some(port) = forwarded_port(&text) {
                    return Ok(port);
                }
                let mut buffer = [0; 256];
                let count = stdout.read(&mut buffer).await.context("read kubectl's output")?;
                ensure!(count > 0, "kubectl port-forward ended: {text}");
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        })
        .await
        .context("kubectl port-forward names no port")??;
        // It says a line for each connection: into a full pipe it would stop.
        let drained = tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
        Ok(Forward { port, _child: child, _drained: drained })
    }

    /// The node's memory for each of many sessions that wait.
    async fn sessions(&self) -> Result<()> {
        let before = self.memory()?;
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let mut command = self.exec(&["-i"], &["cat"])?;
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
            sessions.push(child.context("start kubectl")?);
        }
        for session in &mut sessions {
            echoed(session).await?;
        }
        tokio::time::sleep(SETTLE).await;
        let each = (self.memory()? - before) / SESSIONS as f64;
        say(format!("  an open session of kubectl exec -i ({SESSIONS} of them): {:<10} {each:.2} MB PSS of the node", self.kind));
        for session in &mut sessions {
            drop(session.stdin.take());
            session.wait().await.context("wait for kubectl")?;
        }
        Ok(())
    }

    /// PSS of the node's own processes, MB.
    fn memory(&self) -> Result<f64> {
        let known: Vec<&str> = PROGRAMS.iter().chain(&kubelet::PROGRAMS).copied().collect();
        let own = self.node.machine().processes().into_iter().filter(|pid| {
            let arguments = process::arguments(*pid);
            let program = arguments.first().map_or("", String::as_str);
            known.contains(&program.rsplit('/').next().unwrap_or(program))
        });
        let kib: u64 = own.map(process::pss_kib).sum();
        ensure!(kib > 0, "no process of the node {} is found", self.kind);
        Ok(kib as f64 / 1024.0)
    }
}

/// Waits until the session answers: it is open.
async fn echoed(session: &mut Child) -> Result<()> {
    let stdin = session.stdin.as_mut().context("kubectl has an input")?;
    stdin.write_all(b"x").await.context("write to kubectl")?;
    let stdout = session.stdout.as_mut().context("kubectl has an output")?;
    let mut answer = [0];
    let read = tokio::time::timeout(Duration::from_secs(60), stdout.read_exact(&mut answer));
    read.await.context("a session does not answer")?.context("read kubectl's output")?;
    Ok(())
}

/// A running `kubectl port-forward`.
struct Forward {
    port: u16,
    _child: Child,
    _drained: tokio::task::JoinHandle<std::io::Result<u64>>,
}

impl Forward {
    /// Fetches a file of `size` bytes over a connection of its own. It is there when its last byte is: containerd keeps a connection
    /// that the pod has closed open for a second.
    async fn get(&self, path: &str, size: usize) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.context("connect to kubectl")?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.context("write to kubectl")?;
        let (mut buffer, mut head) = (vec![0; 1 << 18], Vec::new());
        let body = loop {
            let count = stream.read(&mut buffer).await.context("read from kubectl")?;
            ensure!(count > 0, "{path}: no answer: {}", String::from_utf8_lossy(&head));
            head.extend_from_slice(&buffer[..count]);
            if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let mut have = head.len() - body;
        while have < size {
            let count = stream.read(&mut buffer).await.context("read from kubectl")?;
            ensure!(count > 0, "{path}: {have} of {size} bytes");
            have += count;
        }
        ensure!(have == size, "{path}: {have} bytes instead of {size}");
        Ok(())
    }
}

/// `Forwarding from 127.0.0.1:40123 -> 8080`.
fn forwarded_port(text: &str) -> Option<u16> {
    let (port, _) = text.split_once("127.0.0.1:")?.1.split_once(" ->")?;
    port.parse().ok()
}

fn rate(mebibytes: usize, took: Duration) -> f64 {
    mebibytes as f64 / took.as_secs_f64()
}

fn spread(rates: &mut [f64]) -> String {
    rates.sort_by(f64::total_cmp);
    let at = |index: usize| rates.get(index).copied().unwrap_or(0.0);
    format!("median {:.0} MiB/s, {:.0} to {:.0} (n={})", at(rates.len() / 2), at(0), at(rates.len().saturating_sub(1)), rates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_tells_its_port() {
        assert_eq!(forwarded_port("Forwarding from 127.0.0.1:40123 -> 8080\nForwarding from [::1]:4"), Some(40123));
        assert_eq!(forwarded_port("Forwarding from 127.0.0.1:401"), None);
    }

    #[test]
    fn rates_are_ordered() {
        assert_eq!(spread(&mut [30.0, 10.0, 20.0]), "median 20 MiB/s, 10 to 30 (n=3)");
        assert_eq!(spread(&mut []), "median 0 MiB/s, 0 to 0 (n=0)");
    }
}
