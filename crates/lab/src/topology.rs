//! What a cluster consists of besides its control plane: how many pets, who proxies Services on them, and whether there is DNS.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::{
    cluster_dns, kube_proxy, kubelet,
    lab::Lab,
    network::Nat,
    pet::{Pet, PetOptions},
    progress::say,
    world,
};

/// Who makes ClusterIPs work on the pets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceProxy {
    /// The agent.
    #[default]
    Agent,
    /// The real kube-proxy, beside an agent that leaves Services alone.
    KubeProxy,
}

impl ServiceProxy {
    /// Adds a pet with this service proxy, once it is Ready.
    ///
    /// # Errors
    /// When the pet does not become Ready, or the proxy does not work.
    pub async fn pet(self, lab: &Lab, options: PetOptions) -> Result<Pet> {
        let options = match self {
            Self::Agent => options,
            Self::KubeProxy => options.with("serviceProxy", json!({"enabled": false})),
        };
        let pet = lab.pet(options).await?;
        pet.ready(Duration::from_secs(60)).await?;
        if self == Self::KubeProxy {
            kube_proxy::start(lab, &pet).await?;
        }
        say(format!("{} is Ready at {}", pet.name(), pet.address()));
        Ok(pet)
    }
}

/// What makes a machine a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeAgent {
    /// kube-pet.
    #[default]
    KubePet,
    /// The real kubelet with containerd, to tell what fails for anybody here from what fails for kube-pet.
    Kubelet,
}

/// The nodes of a cluster and what runs on them from the start.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// How many: pet1, pet2, … Each reaches the others' pods by the routes that the lab keeps.
    pub pets: u8,
    /// What makes them nodes.
    pub agent: NodeAgent,
    /// Who proxies Services; on the kubelet's nodes, which have no other, it is kube-proxy whatever this says.
    pub proxy: ServiceProxy,
    /// CoreDNS as the cluster's DNS.
    pub dns: bool,
    /// Every pet is at a home of its own, behind NAT of one kind and the other in turn, and has nothing but the tunnel.
    pub tunnel: bool,
}

impl Topology {
    /// Adds the pets one after the other, and DNS once all are Ready.
    ///
    /// # Errors
    /// When a pet does not become Ready, or DNS does not.
    pub async fn build(&self, lab: &Lab) -> Result<()> {
        if self.tunnel {
            world::cloud(lab).await?;
        }
        for number in 1..=self.pets {
            if self.agent == NodeAgent::Kubelet {
                kubelet_node(lab, PetOptions::new(format!("kubelet{number}"))).await?;
                continue;
            }
            let options = PetOptions::new(format!("pet{number}"));
            let options = match (self.tunnel, number % 2) {
                (false, _) => options,
                (true, 1) => world::tunneled(options.behind(Nat::Cone)),
                (true, _) => world::tunneled(options.behind(Nat::Symmetric)),
            };
            self.proxy.pet(lab, options).await?;
        }
        if self.dns {
            cluster_dns::start(lab, None, self.pets.min(2)).await?;
            say("CoreDNS is ready");
        }
        Ok(())
    }
}

/// Adds a node as others have it, once it is Ready: the real kubelet with containerd, and kube-proxy.
///
/// # Errors
/// When it does not become Ready, or Services do not work.
pub async fn kubelet_node(lab: &Lab, options: PetOptions) -> Result<Pet> {
    let node = kubelet::start(lab, options).await?;
    kube_proxy::start(lab, &node).await?;
    say(format!("{} is Ready at {}", node.name(), node.address()));
    Ok(node)
}
