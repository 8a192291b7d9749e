//! `kube-pet gateway`

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use kube_pet_api::Endpoint;
use kube_pet_cluster::connection;
use kube_pet_cluster::gateway::{self, Options, TIMING};
use kube_pet_node::config::{LogFormat, Logging};
use kube_pet_tunnel::Mode;
use tracing::info;

use crate::VERSION;
use crate::commands::{end_on_signal, runtime};
use crate::logging;

#[derive(Args, Debug)]
pub struct GatewayOptions {
    /// The name of its PetGateway [default: the host name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where pets reach it, as host:port; several times, the best first.
    #[arg(long = "endpoint", value_name = "HOST:PORT", required = true, value_parser = endpoint)]
    endpoints: Vec<Endpoint>,
    /// An address of its own in the tunnel.
    #[arg(long = "tunnel-address", value_name = "IP")]
    tunnel_addresses: Vec<IpAddr>,
    /// The UDP port.
    #[arg(long, value_name = "PORT", default_value_t = 51820, value_parser = clap::value_parser!(u16).range(1..))]
    listen_port: u16,
    /// Where pets reach it over TCP if UDP does not get through, as host:port; empty: they do not.
    #[arg(long, value_name = "HOST:PORT", default_value = "", value_parser = relay)]
    relay: RelayPlace,
    /// Where it listens for them [default: all addresses, at the port of --relay].
    #[arg(long, value_name = "ADDRESS")]
    relay_listen: Option<SocketAddr>,
    /// The file of its private key, which is made if it is not there.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/kube-pet-gateway/key")]
    key: PathBuf,
    /// The name of its link.
    #[arg(long, value_name = "NAME", default_value = "pet-gateway")]
    link: String,
    /// Who does WireGuard's work.
    #[arg(long, value_enum, default_value_t = Wireguard::Auto)]
    wireguard: Wireguard,
    /// Gives pets' packets the gateway's own address on their way to the cluster: for networks without a route back.
    #[arg(long)]
    masquerade: bool,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    probes: SocketAddr,
    /// The namespace of the Lease by which one of several gateways is active.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-pet")]
    namespace: String,
    /// Credentials for the API server [default: the pod's service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// error, warn, info, debug, trace, or directives.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wireguard {
    /// The kernel's, else this process's own.
    Auto,
    /// The kernel's only.
    Kernel,
    /// This process's only.
    Userspace,
}

/// Runs until it is told to end.
pub fn run(options: &GatewayOptions) -> Result<ExitCode> {
    logging::start(&Logging { level: options.log_level.clone(), format: LogFormat::Text })?;
    anyhow::ensure!(
        options.relay.0.is_some() || options.relay_listen.is_none(),
        "--relay-listen needs --relay, the place that pets are told"
    );
    let name = options.name.clone().unwrap_or_else(|| kube_pet_node::config::NodeConfiguration::defaults("/").node_name);
    if let Some(folder) = options.key.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    }
    let settings = Options {
        name,
        namespace: options.namespace.clone(),
        endpoints: options.endpoints.clone(),
        tunnel_addresses: options.tunnel_addresses.clone(),
        listen_port: options.listen_port,
        relay: options.relay.0.clone().map(|relay| {
            let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), relay.port);
            (relay, options.relay_listen.unwrap_or(everywhere))
        }),
        key: options.key.clone(),
        link: options.link.clone(),
        mode: match options.wireguard {
            Wireguard::Auto => Mode::Auto,
            Wireguard::Kernel => Mode::Kernel,
            Wireguard::Userspace => Mode::Userspace,
        },
        masquerade: options.masquerade,
        probes: options.probes,
        timing: TIMING,
    };
    info!(version = VERSION, gateway = settings.name, "starting");
    runtime()?.block_on(async {
        let shutdown = end_on_signal("ending; a tunnel of this process ends with it")?;
        let client = connection::client(connection::configuration(options.kubeconfig.as_deref()).await?)?;
        gateway::run(client, settings, shutdown).await.map_err(anyhow::Error::from)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// None if it is empty: a chart's value is always there.
#[derive(Clone, Debug)]
struct RelayPlace(Option<Endpoint>);

fn relay(text: &str) -> Result<RelayPlace, String> {
    if text.is_empty() { Ok(RelayPlace(None)) } else { endpoint(text).map(|relay| RelayPlace(Some(relay))) }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let kube_pet_tunnel::Endpoint { host, port } = text.parse().map_err(|error: kube_pet_tunnel::InvalidEndpoint| error.to_string())?;
    Ok(Endpoint { host, port })
}
