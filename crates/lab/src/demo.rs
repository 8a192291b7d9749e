//! `make demo`: a cluster with one pet, doing its job in front of a person. Every command shown is a real one.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    command,
    lab::{Lab, LabOptions},
    patience::eventually,
    pet::PetOptions,
    progress::say,
};

pub mod tunnel;

/// The name that `make demo` and `make demo-down` use.
pub const DEMO: &str = "demo";
const DEPLOYMENT: &str = include_str!("demo/hello.yaml");

/// Starts a lab of this name and shows it at work. The lab stays up.
///
/// # Errors
/// When anything does not work as it should; what runs stays up, to be looked at.
pub async fn run(name: &str) -> Result<()> {
    say("Starting a Kubernetes control plane and one pet node, each in namespaces of its own …");
    let lab = Lab::start_detached(LabOptions::new(name)).await?;
    let pet = lab.pet(PetOptions::new("pet1")).await?;
    pet.ready(Duration::from_secs(60)).await?;
    let demo = Demo { lab };
    demo.finish(demo.show().await, name)
}

struct Demo {
    lab: Lab,
}

impl Demo {
    /// Tells how to go on, or where to look.
    fn finish(&self, shown: Result<()>, name: &str) -> Result<()> {
        let record = self.lab.record();
        shown.with_context(|| format!("the demo's lab is still up; its logs are in {}", record.logs_dir().display()))?;
        let programs = crate::builds::Builds::locate()?.bin();
        say("\nThe cluster stays up. Go on with");
        say(format!("  export KUBECONFIG={} PATH={}:$PATH; kubectl get pods -o wide", record.kubeconfig().display(), programs.display()));
        say(if [DEMO, tunnel::DEMO].contains(&name) { format!("  make {name}-down") } else { format!("  lab down --name {name}") });
        Ok(())
    }

    async fn show(&self) -> Result<()> {
        self.kubectl("get nodes -o wide").await?;
        say("\n# A Deployment of three replicas");
        say("$ kubectl apply -f hello.yaml");
        say(self.lab.kubectl_with_input(&["apply", "-f", "-"], DEPLOYMENT).await?.trim_end());
        self.rolled_out().await?;
        self.kubectl("get pods -o wide").await?;
        say("\n# Each pod answers under its own address");
        self.call_each().await?;
        say("\n# Logs and Events");
        let pod = self.pods().await?.remove(0).0;
        self.kubectl(&format!("logs {pod} --tail 3")).await?;
        self.started_is_told(&pod).await?;
        self.kubectl(&format!("describe pod {pod}")).await?;
        say("\n# Up to ten replicas, and back");
        self.kubectl("scale deployment hello --replicas 10").await?;
        self.rolled_out().await?;
        self.kubectl("get deployment hello").await?;
        self.call_each().await?;
        self.kubectl("scale deployment hello --replicas 3").await?;
        self.settled(3).await?;
        self.kubectl("get pods").await?;
        say("\n# A rolling update");
        self.kubectl("set env deployment/hello GREETING=again").await?;
        self.rolled_out().await?;
        self.settled(3).await?;
        self.kubectl("get pods -o wide").await
    }

    /// Shows a kubectl command and what it prints.
    async fn kubectl(&self, line: &str) -> Result<()> {
        say(format!("$ kubectl {line}"));
        let arguments: Vec<&str> = line.split(' ').collect();
        let status = self.lab.kubectl_command(&arguments)?.stdout(Stdio::inherit()).status().await.context("start kubectl")?;
        ensure!(status.success(), "kubectl {line}: {status}");
        Ok(())
    }

    async fn rolled_out(&self) -> Result<()> {
        self.kubectl("rollout status deployment/hello --timeout 120s").await
    }

    /// Waits until exactly this many pods are left, the ones on their way out gone.
    async fn settled(&self, count: usize) -> Result<()> {
        eventually(Duration::from_secs(90), "old pods are gone", || async {
            let pods = self.pods().await?;
            ensure!(pods.len() == count, "{} pods", pods.len());
            Ok(())
        })
        .await
    }

    /// Waits for the Event of a pod's start, which is on its way for a moment after the pod is ready.
    async fn started_is_told(&self, pod: &str) -> Result<()> {
        let selector = format!("involvedObject.name={pod},reason=Started");
        eventually(Duration::from_secs(30), &format!("the start of {pod} is told"), || async {
            let events = self.lab.kubectl(&["get", "events", "-o", "name", "--field-selector", &selector]).await?;
            ensure!(!events.trim().is_empty(), "no such Event");
            Ok(())
        })
        .await
    }

    /// Name and address of each pod.
    async fn pods(&self) -> Result<Vec<(String, String)>> {
        let format = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
        let text = self.lab.kubectl(&["get", "pods", "-l", "app=hello", "-o", format]).await?;
        Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(name, address)| (name.to_owned(), address.to_owned())).collect())
    }

    /// Calls each pod from the API server's side of the network.
    async fn call_each(&self) -> Result<()> {
        for (name, address) in self.pods().await? {
            let url = format!("http://{address}:8080/hostname");
            let answer = eventually(Duration::from_secs(10), &format!("{name} answers"), || {
                let mut curl = self.lab.control_plane().enter_network();
                curl.args(["curl", "--silent", "--show-error", "--max-time", "2", &url]);
                command::output(curl)
            })
            .await?;
            say(format!("$ curl {url}\n{answer}"));
            ensure!(answer == name, "{url} is answered by {answer}, not by {name}");
        }
        Ok(())
    }
}
