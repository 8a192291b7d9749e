//! The command line.

pub mod cluster;
pub mod joining;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kube_pet_node::config::{ConfigSource, Override};

/// Makes a machine that you own a full Kubernetes node, with Podman.
#[derive(Debug, Parser)]
#[command(name = "kube-pet", version = crate::VERSION, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the agent: joins the cluster and runs its pods.
    Node(NodeOptions),
    /// Runs pods from files, without any cluster.
    Run(RunOptions),
    /// Looks for what would keep this machine from being a node: each finding with its cause and its fix.
    Doctor(DoctorOptions),
    /// Makes this machine a node: by one line of text that `kube-pet controller token create` prints.
    Join(joining::JoinOptions),
    /// Undoes `join`: ends the pods, removes what the agent has made.
    Leave(joining::LeaveOptions),
    /// Runs in the cluster: gives pets their addresses, approves their serving certificates, makes join tokens.
    Controller(cluster::ControllerOptions),
    /// Joins pets and the cluster's network: the other end of the pets' tunnels.
    Gateway(crate::gateway::GatewayOptions),
    /// Podman's hook for containers of pods with user namespaces: changes the OCI configuration on standard input.
    #[command(name = kube_pet_node::user_namespaces::hook::COMMAND, hide = true)]
    UserNamespaceHook,
    /// Prints the version.
    Version,
}

/// Where the configuration comes from; flags override the file.
#[derive(Args, Debug)]
pub struct ConfigOptions {
    /// The configuration file [default: /etc/kube-pet/node.yaml below the root].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder that /etc, /var and /run are below [default: /].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The Node's name [default: the host name].
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Complete credentials for the API server.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Credentials that may request the node's own.
    #[arg(long, value_name = "FILE")]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// Sets any field of the configuration, such as authentication.anonymous.enabled=true.
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = assignment)]
    settings: Vec<Override>,
}

impl ConfigOptions {
    /// What to load.
    pub fn source(&self) -> std::io::Result<ConfigSource> {
        let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
        let mut overrides = Vec::new();
        if let Some(name) = &self.node_name {
            overrides.push(Override::text("--node-name", "nodeName", name));
        }
        let paths = [
            ("--kubeconfig", "kubeconfig", &self.kubeconfig),
            ("--bootstrap-kubeconfig", "bootstrapKubeconfig", &self.bootstrap_kubeconfig),
        ];
        for (flag, field, path) in paths {
            if let Some(path) = absolute(path)? {
                overrides.push(Override::text(flag, field, path.display().to_string()));
            }
        }
        overrides.extend(self.settings.iter().cloned());
        Ok(ConfigSource { file: self.config.clone(), root: absolute(&self.root)?, overrides })
    }
}

fn assignment(text: &str) -> Result<Override, String> {
    Override::assignment(text).ok_or_else(|| "write FIELD=VALUE, such as maxPods=50".to_owned())
}

#[derive(Args, Debug)]
pub struct NodeOptions {
    #[command(flatten)]
    pub config: ConfigOptions,
    /// Prints the effective configuration as YAML and ends.
    #[arg(long)]
    pub print_config: bool,
}

#[derive(Args, Debug)]
pub struct RunOptions {
    #[command(flatten)]
    pub config: ConfigOptions,
    /// Pod manifests, YAML or JSON; a folder stands for the files in it.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub struct DoctorOptions {
    #[command(flatten)]
    pub config: ConfigOptions,
    /// Applies the fixes that are safe: nothing is taken away, and a reboot undoes them.
    #[arg(long)]
    pub fix: bool,
    /// Does not ask the API server.
    #[arg(long)]
    pub offline: bool,
    /// How the findings are printed.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_become_overrides() {
        let arguments =
            Arguments::try_parse_from(["kube-pet", "node", "--root", "r", "--node-name", "a", "--kubeconfig", "k", "--set", "port=1"])
                .unwrap();
        let Command::Node(options) = arguments.command else { panic!("not node") };
        let source = options.config.source().unwrap();
        assert_eq!(source.overrides.len(), 3);
        assert!(source.root.unwrap().is_absolute());
        assert!(Arguments::try_parse_from(["kube-pet", "node", "--set", "port"]).is_err());
        assert!(Arguments::try_parse_from(["kube-pet", "run"]).is_err());
    }
}
