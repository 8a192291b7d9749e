//! Waiting for the node to be Ready, with a line for each step.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{JoinError, Say};
use crate::config::NodeConfiguration;
use crate::identity;

const PAUSE: Duration = Duration::from_millis(500);

/// Whether an agent runs here: its health check answers, if it has one.
pub(super) async fn agent_answers(config: &NodeConfiguration) -> bool {
    let address = (config.healthz_bind_address, config.healthz_port);
    config.healthz_port != 0 && matches!(timeout(Duration::from_secs(2), TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// Waits, and says what is missing whenever that changes.
pub(super) async fn until_ready(config: &NodeConfiguration, wait: Duration, say: Say<'_>) -> Result<(), JoinError> {
    let end = Instant::now() + wait;
    let mut told = String::new();
    loop {
        let Some(stage) = stage(config).await else {
            say(&format!("{} is Ready", config.node_name));
            return Ok(());
        };
        if stage != told {
            say(&stage);
            told = stage;
        }
        if Instant::now() >= end {
            return Err(JoinError::NotReady { waited: wait, stage: told });
        }
        sleep(PAUSE).await;
    }
}

/// What is missing; `None`: nothing.
async fn stage(config: &NodeConfiguration) -> Option<String> {
    let stored = identity::stored_kubeconfig(&config.paths().pki_dir());
    if !identity::is_current(&stored).await {
        return Some("waiting for the client certificate".to_owned());
    }
    let client = match super::identity::load_config(&stored).await.and_then(|config| Client::try_from(config).ok()) {
        Some(client) => client,
        None => return Some(format!("waiting for {}", stored.display())),
    };
    let nodes: Api<Node> = Api::all(client);
    match nodes.get_opt(&config.node_name).await {
        Ok(None) => Some("waiting for the Node to be registered".to_owned()),
        Ok(Some(node)) => {
            let ready = node.status.and_then(|status| status.conditions?.into_iter().find(|condition| condition.type_ == "Ready"));
            match ready {
                Some(condition) if condition.status == "True" => None,
                Some(condition) => Some(format!("the Node is not Ready: {}", condition.message.unwrap_or_default())),
                None => Some("waiting for the Node's conditions".to_owned()),
            }
        }
        Err(error) => Some(format!("asking for the Node fails: {error}")),
    }
}
