//! What a cluster consists of besides its control plane: how many pets, who proxies Services on them, and whether there is DNS.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cluster_dns, kube_proxy,
    lab::Lab,
    pet::{Pet, PetOptions},
    progress::say,
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

/// The pets of a cluster and what runs on them from the start.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// How many: pet1, pet2, … Each reaches the others' pods by the routes that the lab keeps.
    pub pets: u8,
    /// Who proxies Services.
    pub proxy: ServiceProxy,
    /// CoreDNS as the cluster's DNS.
    pub dns: bool,
}

impl Topology {
    /// Adds the pets one after the other, and DNS once all are Ready.
    ///
    /// # Errors
    /// When a pet does not become Ready, or DNS does not.
    pub async fn build(&self, lab: &Lab) -> Result<Vec<Pet>> {
        let mut pets = Vec::new();
        for number in 1..=self.pets {
            let pet = lab.pet(self.options(format!("pet{number}"))).await?;
            pet.ready(Duration::from_secs(60)).await?;
            if self.proxy == ServiceProxy::KubeProxy {
                kube_proxy::start(lab, &pet).await?;
            }
            say(format!("{} is Ready at {}", pet.name(), pet.address()));
            pets.push(pet);
        }
        if self.dns {
            cluster_dns::start(lab, None, self.pets.min(2)).await?;
            say("CoreDNS is ready");
        }
        Ok(pets)
    }

    fn options(self, name: String) -> PetOptions {
        PetOptions::new(name)
    }
}
