//! `lab`: a whole cluster on one machine, from the command line.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kube_pet_lab::{
    Lab, LabOptions, NodeAgent, ServiceProxy, Topology,
    bench::{self, Plan, interactive, services},
    cleanup,
    conformance::{self, Focus, Selection, SpecList, Surroundings},
    demo,
    progress::say,
    record, supervisor,
};

/// A whole Kubernetes cluster on one machine: real control plane, registry, pet hosts.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What makes names and ClusterIPs work.
#[derive(clap::Args)]
struct Network {
    /// CoreDNS as the cluster's DNS.
    #[arg(long)]
    dns: bool,
    /// The real kube-proxy in place of the agent's own Services.
    #[arg(long)]
    kube_proxy: bool,
    /// The real kubelet with containerd, and kube-proxy, in place of kube-pet.
    #[arg(long, conflicts_with = "tunnel")]
    kubelet: bool,
    /// Every pet at a home of its own, behind NAT, joined by the tunnel; with the controller and a gateway.
    #[arg(long)]
    tunnel: bool,
}

impl Network {
    fn topology(&self, pets: u8) -> Topology {
        let proxy = if self.kube_proxy { ServiceProxy::KubeProxy } else { ServiceProxy::Agent };
        let agent = if self.kubelet { NodeAgent::Kubelet } else { NodeAgent::KubePet };
        Topology { pets, agent, proxy, dns: self.dns, tunnel: self.tunnel }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Start a lab that stays until `lab down`.
    Up {
        /// Name of the lab.
        #[arg(long, default_value = "dev")]
        name: String,
        /// How many pets to start: pet1, pet2, …
        #[arg(long, default_value_t = 1)]
        pets: u8,
        #[command(flatten)]
        network: Network,
        /// The API server verifies the nodes' serving certificates.
        #[arg(long)]
        verify_kubelets: bool,
    },
    /// Remove a lab and all that it made.
    Down {
        /// Name of the lab.
        #[arg(long, default_value = "dev")]
        name: String,
    },
    /// Show the labs that run.
    List,
    /// Remove what crashed labs left behind.
    Gc,
    /// Run a command on a machine of a lab: a pet, or `control-plane`.
    Exec {
        /// Name of the lab.
        #[arg(long, default_value = "dev")]
        name: String,
        /// The machine.
        machine: String,
        /// The command.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Show a cluster with one pet at work; it stays up.
    Demo {
        /// Name of the lab.
        #[arg(long, default_value = demo::DEMO)]
        name: String,
    },
    /// Show pets at home and elsewhere that are nodes of a cluster in a cloud by the tunnel; it stays up.
    DemoTunnel {
        /// Name of the lab.
        #[arg(long, default_value = demo::tunnel::DEMO)]
        name: String,
    },
    /// Run the official suite of Kubernetes.
    Conformance {
        /// Name of the lab.
        #[arg(long, default_value = "conformance")]
        name: String,
        /// Regular expression that a spec's name must match.
        #[arg(long, default_value = r"\[NodeConformance\]")]
        focus: String,
        /// In place of --focus: a file with whole names, one a line, all of which must run.
        #[arg(long)]
        list: Option<PathBuf>,
        /// Regular expression that it must not match.
        #[arg(long, default_value = r"\[Serial\]|\[Slow\]|\[Disruptive\]|\[Flaky\]")]
        skip: String,
        /// How many specs run at once.
        #[arg(long, default_value_t = 8)]
        procs: u16,
        /// How many pets the cluster has.
        #[arg(long, default_value_t = 1)]
        nodes: u8,
        #[command(flatten)]
        network: Network,
        /// Write this page.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Measure pod start, memory and CPU.
    Bench {
        /// Pods one after the other.
        #[arg(long, default_value_t = 30)]
        sequence: usize,
        /// Pods at once.
        #[arg(long, default_value_t = 30)]
        burst: usize,
        /// Pods with a probe each, all of them asked for their numbers.
        #[arg(long, default_value_t = 100)]
        crowd: usize,
        /// Seconds for which the idle node is watched.
        #[arg(long, default_value_t = 120)]
        idle: u64,
    },
    /// Measure exec, port-forward and the memory of open sessions beside the kubelet with containerd
    BenchInteractive {
        /// Commands on each node.
        #[arg(long, default_value_t = 30)]
        commands: usize,
        /// Transfers on each node, of each kind.
        #[arg(long, default_value_t = 5)]
        transfers: usize,
    },
    /// Measure Services beside the real kube-proxy
    BenchServices {
        /// Numbers of Services, growing.
        #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
        sizes: Vec<u32>,
        /// Changes of one endpoint, one after the other, for each number.
        #[arg(long, default_value_t = 100)]
        changes: u32,
        /// Seconds of ten changes each, for each number.
        #[arg(long, default_value_t = 30)]
        busy: u32,
    },
    /// Measure what many pets cost the controller and a gateway
    BenchPets {
        /// Simulated pets, at most 1024.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1024))]
        pets: u16,
        /// Pets that get another key, one after the other.
        #[arg(long, default_value_t = 50)]
        changes: u16,
        /// Seconds for which nothing happens.
        #[arg(long, default_value_t = 60)]
        idle: u64,
    },
    /// Measure the tunnel beside wireguard-go and plain links
    BenchTunnel {
        /// Turns.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of each transfer.
        #[arg(long, default_value_t = 5)]
        transfer: u64,
        /// Round trips in each turn.
        #[arg(long, default_value_t = 2000)]
        trips: usize,
    },
    /// The process that owns a lab; started by the other commands.
    #[command(hide = true)]
    Supervise {
        /// The lab's folder.
        dir: PathBuf,
        /// End with standard input.
        #[arg(long)]
        lifeline: bool,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // A client that polls until the API server is up is no error.
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn,kube_client=off"))
        .init();
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { name, pets, network, verify_kubelets } => up(name, network.topology(pets), verify_kubelets).await?,
        Command::Down { name } => down(&name).await?,
        Command::List => {
            for lab in record::live()? {
                say(format!("{}\t{}\t{}", lab.name, lab.wire().control_plane(), lab.dir.display()));
            }
        }
        Command::Gc => cleanup::collect_dead().await?,
        Command::Exec { name, machine, command } => return exec(&name, &machine, &command).await,
        Command::Demo { name } => demo::run(&name).await?,
        Command::DemoTunnel { name } => demo::tunnel::run(&name).await?,
        Command::Conformance { name, focus, list, skip, procs, nodes, network, report } => {
            let focus = match list {
                Some(file) => Focus::Listed(SpecList::read(&file)?),
                None => Focus::Matching(focus),
            };
            let selection = Selection { focus, skip, procs, topology: network.topology(nodes), limit: Duration::from_secs(3 * 3600) };
            conform(&name, &selection, report).await?;
        }
        Command::Bench { sequence, burst, crowd, idle } => {
            let idle = Duration::from_secs(idle);
            bench::run(&Plan { sequence, burst, crowd, idle }).await?;
        }
        Command::BenchInteractive { commands, transfers } => bench::interactive::run(&interactive::Plan { commands, transfers }).await?,
        Command::BenchServices { sizes, changes, busy } => services::run(&services::Plan { sizes, changes, busy }).await?,
        Command::BenchPets { pets, changes, idle } => {
            bench::pets::run(&bench::pets::Plan { pets, changes, idle: Duration::from_secs(idle) }).await?;
        }
        Command::BenchTunnel { rounds, transfer, trips } => {
            bench::tunnel::run(&bench::tunnel::Plan { rounds, transfer: Duration::from_secs(transfer), trips }).await?;
        }
        Command::Supervise { dir, lifeline } => supervisor::supervise(&dir, lifeline).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn up(name: String, topology: Topology, verify_kubelets: bool) -> Result<()> {
    let mut options = LabOptions::new(name);
    options.control_plane.verify_kubelets = verify_kubelets;
    let lab = Lab::start_detached(options).await?;
    say(format!("export KUBECONFIG={}", lab.record().kubeconfig().display()));
    topology.build(&lab).await?;
    Ok(())
}

async fn conform(name: &str, selection: &Selection, page: Option<PathBuf>) -> Result<()> {
    let output = conformance::default_output(name);
    let report = conformance::run(name, selection, &output).await?;
    for spec in report.failures() {
        say(format!("FAILED {}\n       {}", spec.name, spec.failure));
    }
    say(format!(
        "{} of {} passed in {} s; everything is in {}",
        report.passed(),
        report.specs.len(),
        report.took.as_secs(),
        output.display()
    ));
    if let Some(page) = page {
        let surroundings = Surroundings::find(selection.topology.agent).await?;
        conformance::write_page(&page, selection, &report, &surroundings)?;
        say(format!("wrote {}", page.display()));
    }
    Ok(())
}

async fn down(name: &str) -> Result<()> {
    match Lab::find(name) {
        Ok(lab) => lab.stop().await,
        // Nothing runs under this name; a crashed lab of this name goes with all other crashed ones.
        Err(_) => cleanup::collect_dead().await,
    }
}

async fn exec(name: &str, machine: &str, arguments: &[String]) -> Result<ExitCode> {
    let lab = Lab::find(name)?;
    let machine = kube_pet_lab::machine::Machine::load(&lab.record().machine_dir(machine))?;
    let status = machine.enter().args(arguments).stdin(std::process::Stdio::inherit()).status().await.context("start `nsenter`")?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
