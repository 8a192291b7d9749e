//! A cluster whose pets are elsewhere: a cloud with control plane, controller, gateway and an ordinary node, the internet, and homes.
//!
//! ```text
//!  home1 ─ NAT ───────────┐                    ┌─ control plane, controller
//!  home2 ─ symmetric NAT ─┼─ internet ─ gateway ┤
//!  public ────────────────┘     (the wire)     └─ worker: CoreDNS, on kube-pet or on the real kubelet
//! ```

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    client, cluster_dns, controller,
    daemon::Daemon,
    gateway::{self, Gateway},
    lab::Lab,
    network::{Nat, cloud},
    patience::eventually,
    pet::{Pet, PetOptions},
    topology::{self, NodeAgent},
};

/// The cloud's ordinary node.
pub const WORKER: &str = "worker";
/// Pets at home, behind NAT of both kinds, and one with a public address.
pub const PETS: [&str; 3] = ["home1", "home2", "public"];
/// Time for a node to become Ready.
pub const READY: Duration = Duration::from_secs(60);

/// The cloud's side of the tunnel.
pub struct Cloud {
    /// `kube-pet controller`.
    pub controller: Daemon,
    /// `kube-pet gateway`, to which the cloud's routes lead.
    pub gateway: Gateway,
}

/// Makes the cloud's side of the tunnel. From now on nobody but the controller approves serving certificates.
///
/// # Errors
/// When a part of it does not come up.
pub async fn cloud(lab: &Lab) -> Result<Cloud> {
    lab.approve_serving_certificates(false)?;
    controller::deploy(lab).await?;
    gateway::network(lab).await?;
    // The cloud's own nodes have no Pet: in its network their word counts.
    let controller = controller::start(lab, 0, &[&format!("--believe-node-addresses={}", cloud::NETWORK)]).await?;
    let gateway = gateway::start(lab, "gateway").await?;
    gateway::route(lab, gateway.inner).await?;
    Ok(Cloud { controller, gateway })
}

/// Adds the cloud's ordinary node, and DNS on it.
///
/// # Errors
/// When it does not become Ready, or DNS does not.
pub async fn worker(lab: &Lab, agent: NodeAgent) -> Result<Pet> {
    let options = PetOptions::new(WORKER).in_cloud();
    let worker = match agent {
        NodeAgent::KubePet => {
            let worker = lab.pet(options).await?;
            worker.ready(READY).await?;
            worker
        }
        NodeAgent::Kubelet => {
            let worker = topology::kubelet_node(lab, options).await?;
            approve(lab).await?;
            worker
        }
    };
    cluster_dns::start(lab, Some(WORKER), 1).await?;
    Ok(worker)
}

/// The controller leaves requests of other nodes to whoever decides them: the cloud, and here the lab, until the worker has its certificate.
async fn approve(lab: &Lab) -> Result<()> {
    let client = lab.client().await?;
    lab.approve_serving_certificates(true)?;
    let path = format!("/api/v1/nodes/{WORKER}/proxy/healthz");
    eventually(READY, "the API server reaches the worker's kubelet", || client::get(&client, &path)).await?;
    lab.approve_serving_certificates(false)
}

/// The pet of this name, as it is before it joins.
///
/// # Errors
/// When it is none of [`PETS`].
pub fn pet(name: &str) -> Result<PetOptions> {
    let options = PetOptions::new(name);
    match PETS.iter().position(|pet| *pet == name).with_context(|| format!("there is no pet {name}"))? {
        0 => Ok(options.at_home()),
        1 => Ok(options.behind(Nat::Symmetric)),
        _ => Ok(options),
    }
}

/// A pet that has the tunnel from its start.
#[must_use]
pub fn tunneled(options: PetOptions) -> PetOptions {
    options.with("tunnel", json!({"enabled": true}))
}
