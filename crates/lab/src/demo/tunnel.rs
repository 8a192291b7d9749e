//! `make demo-tunnel`: pets at two homes and with a public address, nodes of a cluster in a cloud by the tunnel alone.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::Demo;
use crate::{
    command, gateway, joining, kubelet,
    lab::{Lab, LabOptions},
    patience::eventually,
    pet::Pet,
    progress::say,
    topology::NodeAgent,
    world::{self, PETS, READY, WORKER},
};

/// The name that `make demo-tunnel` and `make demo-down` use.
pub const DEMO: &str = "demo-tunnel";
const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";

/// Starts a lab of this name and shows it at work. The lab stays up.
///
/// # Errors
/// When anything does not work as it should; what runs stays up, to be looked at.
pub async fn run(name: &str) -> Result<()> {
    say("Starting a cloud: a Kubernetes control plane, kube-pet's controller and gateway, and an ordinary node with CoreDNS …");
    let mut options = LabOptions::new(name);
    options.control_plane.verify_kubelets = true;
    let demo = Demo { lab: Lab::start_detached(options).await? };
    demo.finish(demo.show_tunnel().await, name)
}

/// A pod that is called.
struct Server {
    name: String,
    address: String,
}

impl Demo {
    async fn show_tunnel(&self) -> Result<()> {
        let lab = &self.lab;
        let _cloud = world::cloud(lab).await?;
        // What a cloud has, where it is prepared: a node that is not kube-pet's.
        let agent = if kubelet::is_prepared() { NodeAgent::Kubelet } else { NodeAgent::KubePet };
        world::worker(lab, agent).await?;
        self.kubectl("get nodes -o wide").await?;

        say(
            "\n# Three machines join, with a command each: two at home behind NAT, one of which is symmetric, and one with a public address",
        );
        say("$ kube-pet controller token create --ttl 1h");
        let token = joining::token(lab, &["--ttl", "1h"]).await?;
        let shown = format!("{}…", token.get(..24).context("a join token is long")?);
        say(&shown);
        for name in PETS {
            let pet = joining::machine(lab, world::pet(name)?).await?;
            self.where_it_is(&pet).await?;
            self.join(&pet, &token, &shown).await?;
        }
        self.kubectl("get nodes -o wide").await?;
        self.kubectl("wait --for=condition=Connected pet --all --timeout=60s").await?;
        self.kubectl("get pets").await?;

        say("\n# The control plane has no way to a pet but by the gateway");
        for network in [gateway::NODE_NETWORK, gateway::PET_POD_NETWORK] {
            let mut ip = lab.control_plane().enter_network();
            ip.args(["ip", "route", "show", network]);
            say(format!("control-plane$ ip route show {network}\n{}", command::output(ip).await?.trim_end()));
        }

        say("\n# A pod on each of them and on the cloud's own node, and a Service for each pod");
        let names = [[WORKER].as_slice(), &PETS].concat();
        let objects: Vec<Value> = names.iter().flat_map(|node| server(node)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        say(lab.kubectl_with_input(&["apply", "-f", "-"], &list.to_string()).await?.trim_end());
        self.kubectl("wait --for=condition=Ready pod --all --timeout=120s").await?;
        self.kubectl("get pods -o wide").await?;
        let mut servers = Vec::new();
        for node in names {
            let name = pod(node);
            let address = lab.kubectl(&["get", "pod", &name, "-o", "jsonpath={.status.podIP}"]).await?;
            servers.push(Server { name, address });
        }

        let pets: Vec<&Server> = servers.iter().filter(|server| server.name != pod(WORKER)).collect();
        say("\n# Each calls each, by address, where it is seen with its own, and by the Service's name");
        for from in &servers {
            for to in servers.iter().filter(|to| to.name != from.name) {
                self.call(from, to).await?;
            }
        }

        say("\n# What is outside of the cluster they reach from where they are, with the pet's address: here the API server's is public");
        for server in &pets {
            let line = format!("exec {} -- curl -s -k --max-time 5 https://kubernetes/livez", server.name);
            let answer = self.lab.kubectl(&line.split(' ').collect::<Vec<_>>()).await?;
            say(format!("$ kubectl {line}\n{answer}"));
            ensure!(answer == "ok", "{line}: {answer}");
        }

        say("\n# kubectl logs, exec and port-forward reach the pets through the tunnel");
        for server in pets {
            self.kubectl(&format!("logs {} --tail 2", server.name)).await?;
            self.kubectl(&format!("exec {} -- hostname", server.name)).await?;
            self.forward(&server.name).await?;
        }
        Ok(())
    }

    async fn where_it_is(&self, pet: &Pet) -> Result<()> {
        let address = pet.shell("ip -4 -brief address show dev eth0").await?;
        say(format!("\n{}$ ip -4 -brief address show dev eth0\n{}", pet.name(), address.trim_end()));
        Ok(())
    }

    /// Joins, and starts the agent as systemd would: the lab's machines have none.
    async fn join(&self, pet: &Pet, token: &str, shown: &str) -> Result<()> {
        say(format!("{}$ kube-pet join {shown} --set tunnel.enabled=true", pet.name()));
        let (done, text) = joining::join(pet, token, "--set tunnel.enabled=true").await?;
        say(&text);
        ensure!(done, "{} does not join", pet.name());
        pet.start_agent().await?;
        pet.ready(READY).await?;
        say(format!("(without systemd the lab has started it)  {} is Ready", pet.name()));
        Ok(())
    }

    async fn call(&self, from: &Server, to: &Server) -> Result<()> {
        for (url, wanted) in
            [(format!("http://{}:8080/clientip", to.address), &from.address), (format!("http://{}:8080/hostname", to.name), &to.name)]
        {
            let line = format!("exec {} -- curl -s --max-time 5 {url}", from.name);
            let answer = eventually(READY, &line, || async {
                let answer = self.lab.kubectl(&line.split(' ').collect::<Vec<_>>()).await?;
                // Its name, or its address with the port.
                let told = answer.rsplit_once(':').map_or(answer.as_str(), |(address, _)| address);
                ensure!(told == wanted, "{answer}, not {wanted}");
                Ok(answer)
            });
            say(format!("$ kubectl {line}\n{}", answer.await?));
        }
        Ok(())
    }

    async fn forward(&self, name: &str) -> Result<()> {
        let line = format!("port-forward {name} :8080");
        let mut command = self.lab.kubectl_command(&line.split(' ').collect::<Vec<_>>())?;
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().context("start kubectl")?;
        let mut told = String::new();
        // Kept until the end: kubectl ends when nobody reads what it says.
        let mut output = BufReader::new(child.stdout.take().context("what kubectl says")?);
        output.read_line(&mut told).await.context("read what kubectl says")?;
        say(format!("$ kubectl {line} &\n{}", told.trim_end()));
        let address = told.split(' ').find(|word| word.starts_with("127.0.0.1:")).with_context(|| format!("no port in {told}"))?;
        let url = format!("http://{address}/hostname");
        let answer = command::run(&["curl", "--silent", "--show-error", "--max-time", "10", &url]).await?;
        say(format!("$ curl {url}\n{answer}"));
        ensure!(answer == name, "{url} is answered by {answer}, not by {name}");
        child.kill().await.context("end kubectl")
    }
}

fn pod(node: &str) -> String {
    format!("on-{node}")
}

/// A server that tells its name and who asks, and its Service.
fn server(node: &str) -> [Value; 2] {
    let name = pod(node);
    [
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "web", "image": IMAGE, "args": ["netexec", "--http-port=8080"],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
                }],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 8080}]},
        }),
    ]
}
