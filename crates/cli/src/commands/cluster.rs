//! `kube-pet controller` and what belongs to it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use kube_pet_cluster::controller::{self, Options, ranges::Range};
use kube_pet_cluster::lease::Timing;
use kube_pet_cluster::{connection, tokens};
use kube_pet_node::config::{LogFormat, Logging};
use tracing::info;

use super::{end_on_signal, print, runtime};
use crate::VERSION;
use crate::arguments::cluster::{ClusterOptions, ControllerCommand, ControllerOptions, CreateTokenOptions, TokenCommand};
use crate::logging;

/// `kube-pet controller`
pub fn controller(options: ControllerOptions) -> Result<ExitCode> {
    let ControllerOptions { command, cluster, namespace, identity, probes, believe_node_addresses, log_level } = options;
    if let Some(ControllerCommand::Token(TokenCommand::Create(options))) = command {
        return create_token(&cluster, &options);
    }
    logging::start(&Logging { level: log_level, format: LogFormat::Text })?;
    let believed = believe_node_addresses.split(',').map(str::trim).filter(|text| !text.is_empty());
    let believed = believed.map(str::parse).collect::<Result<Vec<Range>, _>>().context("--believe-node-addresses")?;
    let identity = identity.unwrap_or_else(kube_pet_cluster::lease::own_identity);
    info!(version = VERSION, identity, "starting");
    runtime()?.block_on(async {
        let shutdown = end_on_signal("ending")?;
        let client = connection::client(connection::configuration(cluster.kubeconfig.as_deref()).await?)?;
        let options = Options { namespace, identity, probes, believed, timing: Timing::default() };
        controller::run(client, options, shutdown).await.map_err(anyhow::Error::from)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn create_token(cluster: &ClusterOptions, options: &CreateTokenOptions) -> Result<ExitCode> {
    let CreateTokenOptions { ttl, server, ca_hash } = options;
    let ttl = tokens::ttl(ttl)?;
    let token = runtime()?.block_on(async {
        let config = connection::configuration(cluster.kubeconfig.as_deref()).await?;
        let server = server.clone().unwrap_or_else(|| config.cluster_url.to_string().trim_end_matches('/').to_owned());
        let ca = config.root_cert.clone().unwrap_or_default();
        let client = connection::client(config)?;
        anyhow::Ok(tokens::create(client, &tokens::TokenOptions { ttl, server, ca, hash: *ca_hash }).await?)
    })?;
    print(&format!("{token}\n"))
}
