//! The command line of what runs in the cluster.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// How the cluster is reached.
#[derive(Args, Debug)]
pub struct ClusterOptions {
    /// Credentials for the API server [default: KUBECONFIG, the user's own, or the pod's service account].
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ControllerOptions {
    #[command(subcommand)]
    pub command: Option<ControllerCommand>,
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// The namespace of the Lease by which one of several controllers works.
    #[arg(long, default_value = "kube-pet")]
    pub namespace: String,
    /// Unique among the controllers [default: the host name and the process ID].
    #[arg(long)]
    pub identity: Option<String>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080")]
    pub probes: SocketAddr,
    /// Ranges, separated by commas, in which a node's word for its own address is taken when it asks for a serving certificate.
    /// Without any, only addresses that the controller has allocated are certified.
    #[arg(long, value_name = "CIDRS", default_value = "")]
    pub believe_node_addresses: String,
    /// How much is logged: error, warn, info, debug, trace.
    #[arg(long, default_value = "info")]
    pub log_level: String,
}

#[derive(Debug, Subcommand)]
pub enum ControllerCommand {
    /// Join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a bootstrap token in the cluster and prints what `kube-pet join` takes.
    Create(CreateTokenOptions),
}

#[derive(Args, Debug)]
pub struct CreateTokenOptions {
    /// How long it can be used, such as 30m or 24h.
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    pub ttl: String,
    /// The API server's URL as pets reach it [default: that of the kubeconfig].
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Names the cluster's CA by its hash only: a shorter token, for clusters with cluster-info in kube-public (kubeadm's have it).
    #[arg(long)]
    pub ca_hash: bool,
}
