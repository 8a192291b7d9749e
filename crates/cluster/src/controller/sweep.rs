//! What is left of pets that are gone, and the counts in the PetNetwork's status.
//!
//! Nothing is freed that may be in use: an allocation is first marked as released, and freed only after `reclaimAfter` and only as
//! it was read; a pet that comes back takes the mark away, and one of the two fails with a conflict.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Duration as GoDuration;
use kube::runtime::reflector::{ObjectRef, Store};
use kube_pet_api::{
    Allocated, NETWORK, Pet, PetAllocation, PetGateway, PetNetwork, PetNetworkStatus, Purpose, condition, conditions, set_condition,
};
use serde_json::json;
use tracing::{debug, info, warn};

use super::allocation::Ranges;
use super::claims::{ClaimError, Claims, name_of};
use super::counters::{ERRORS, PETS, RECLAIMED};
use super::pets::MANAGER;

/// Where no PetNetwork says how long to wait, nothing is freed.
const NEVER: SignedDuration = SignedDuration::MAX;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// Its owner is gone.
    Release(Arc<PetAllocation>),
    /// Its owner has been gone for long, or it is a key.
    Free(Arc<PetAllocation>),
    /// The Pet's Node has been gone for long.
    Forget(Arc<Pet>, Timestamp),
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub pets: Vec<Arc<Pet>>,
    pub gateways: Vec<Arc<PetGateway>>,
    pub allocations: Vec<Arc<PetAllocation>>,
}

impl Known {
    fn has_owner(&self, allocation: &PetAllocation) -> bool {
        let spec = &allocation.spec;
        if spec.machine_id.is_empty() {
            return self.gateways.iter().any(|g| g.metadata.name.as_ref() == Some(&spec.owner) && g.spec.public_key == spec.value);
        }
        self.pets.iter().any(|pet| super::allocation::is_of(spec, pet))
    }
}

/// What to do now; pure.
pub fn deeds(known: &Known, reclaim_after: SignedDuration, now: Timestamp) -> Vec<Deed> {
    let long_ago = |since: Timestamp| now.duration_since(since) >= reclaim_after;
    let mut deeds = Vec::new();
    for pet in &known.pets {
        let all = pet.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let absent = condition(all, conditions::NODE_PRESENT).filter(|c| c.status == "False");
        if let Some(since) = absent.map(|c| c.last_transition_time.0).filter(|since| long_ago(*since)) {
            deeds.push(Deed::Forget(pet.clone(), since));
        }
    }
    for allocation in &known.allocations {
        let released = allocation.status.as_ref().and_then(|status| status.released_at.as_ref());
        match (known.has_owner(allocation), released) {
            (true, _) => {}
            // A key has no use for whoever comes back with another one, and who comes back with it claims it again.
            (false, _) if allocation.spec.purpose == Purpose::PublicKey => deeds.push(Deed::Free(allocation.clone())),
            (false, None) => deeds.push(Deed::Release(allocation.clone())),
            (false, Some(since)) if long_ago(since.0) => deeds.push(Deed::Free(allocation.clone())),
            (false, Some(_)) => {}
        }
    }
    deeds
}

/// Does it, again and again.
pub struct Sweeper {
    pub client: Client,
    pub claims: Claims,
    pub networks: Store<PetNetwork>,
    pub pets: Store<Pet>,
    pub gateways: Store<PetGateway>,
    pub allocations: Store<PetAllocation>,
}

impl Sweeper {
    /// Never returns; may be dropped at any time.
    pub async fn run(self) {
        loop {
            let network = self.networks.get(&ObjectRef::new(NETWORK));
            let reclaim_after = network.as_ref().map_or(NEVER, |network| reclaim_after(&network.spec.reclaim_after));
            let known = Known { pets: self.pets.state(), gateways: self.gateways.state(), allocations: self.allocations.state() };
            for deed in deeds(&known, reclaim_after, Timestamp::now()) {
                if let Err(error) = self.act(&deed, &known).await {
                    if error.is_conflict() || error.is_gone() {
                        debug!(error = &error as &dyn std::error::Error, "it has changed; looking again");
                    } else {
                        ERRORS.increment(&["Sweep"]);
                        warn!(error = &error as &dyn std::error::Error, "cleaning up failed; retrying");
                    }
                }
            }
            if let Some(network) = network
                && let Err(error) = self.count(&network, &known).await
            {
                ERRORS.increment(&["PetNetwork"]);
                warn!(error = &error as &dyn std::error::Error, "the PetNetwork's status is not written; retrying");
            }
            tokio::time::sleep(pause(reclaim_after)).await;
        }
    }

    async fn act(&self, deed: &Deed, known: &Known) -> Result<(), ClaimError> {
        match deed {
            Deed::Release(allocation) if !self.owner_exists(allocation).await? => {
                info!(allocation = name_of(&**allocation), owner = allocation.spec.owner, "its owner is gone; kept for it for now");
                self.claims.release(allocation, Timestamp::now()).await
            }
            Deed::Free(allocation) if !self.owner_exists(allocation).await? => {
                self.claims.free(allocation).await?;
                RECLAIMED.increment(&["PetAllocation"]);
                info!(allocation = name_of(&**allocation), owner = allocation.spec.owner, "freed");
                Ok(())
            }
            Deed::Release(_) | Deed::Free(_) => Ok(()),
            Deed::Forget(pet, since) => self.forget(pet, *since, known).await,
        }
    }

    /// As the API server has it now: a watch may not have told of a pet that has just come back.
    async fn owner_exists(&self, allocation: &PetAllocation) -> Result<bool, ClaimError> {
        let owner = &allocation.spec.owner;
        let mut known = Known::default();
        if allocation.spec.machine_id.is_empty() {
            let api: Api<PetGateway> = Api::all(self.client.clone());
            let found = api.get_opt(owner).await.map_err(ClaimError::of("reading the PetGateway", owner.as_str()))?;
            known.gateways.extend(found.map(Arc::new));
        } else {
            let api: Api<Pet> = Api::all(self.client.clone());
            let found = api.get_opt(owner).await.map_err(ClaimError::of("reading the Pet", owner.as_str()))?;
            known.pets.extend(found.map(Arc::new));
        }
        Ok(known.has_owner(allocation))
    }

    async fn forget(&self, pet: &Pet, since: Timestamp, known: &Known) -> Result<(), ClaimError> {
        let name = name_of(pet);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get_metadata_opt(&name).await.map_err(ClaimError::of("reading the Node", name.as_str()))?;
        if node.is_some() {
            return Ok(());
        }
        let exactly = Preconditions { uid: pet.metadata.uid.clone(), resource_version: pet.metadata.resource_version.clone() };
        let pets: Api<Pet> = Api::all(self.client.clone());
        let deleted = pets.delete(&name, &DeleteParams::default().preconditions(exactly)).await;
        deleted.map_err(ClaimError::of("deleting the Pet", name.as_str()))?;
        RECLAIMED.increment(&["Pet"]);
        info!(pet = name, node_gone_since = %since, "the Pet is deleted: its Node has been gone for the time of reclaimAfter");
        // They have been kept for that time already.
        for allocation in
            known.allocations.iter().filter(|a| super::allocation::is_of(&a.spec, pet) && a.spec.purpose != Purpose::PublicKey)
        {
            self.claims.release(allocation, since).await?;
        }
        Ok(())
    }

    async fn count(&self, network: &PetNetwork, known: &Known) -> Result<(), ClaimError> {
        let with = |purpose| count(known.allocations.iter().filter(|a| a.spec.purpose == purpose));
        let is_allocated = |pet: &&Arc<Pet>| {
            let all = pet.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            condition(all, conditions::ALLOCATED).is_some_and(|c| c.status == "True")
        };
        let pets = count(known.pets.iter().filter(is_allocated));
        PETS.set(&["true"], f64::from(pets));
        PETS.set(&["false"], f64::from(count(known.pets.iter()) - pets));
        let active = known.gateways.iter().find(|gateway| gateway.status.as_ref().is_some_and(|status| status.active));
        let old = network.status.clone().unwrap_or_default();
        let mut status = PetNetworkStatus {
            observed_generation: network.metadata.generation,
            allocated: Some(Allocated { pets, node_addresses: with(Purpose::NodeAddress), pod_cidrs: with(Purpose::PodCidr) }),
            active_gateway: active.map(|gateway| name_of(&**gateway)),
            conditions: old.conditions.clone(),
        };
        let (ready, reason, message) = match Ranges::of(&network.spec) {
            Ok(_) => (true, "Valid", "pets get their addresses from these ranges".to_owned()),
            Err(error) => (false, "InvalidRange", error.to_string()),
        };
        set_condition(&mut status.conditions, conditions::READY, ready, reason, &message, network.metadata.generation, Timestamp::now());
        if status == old {
            return Ok(());
        }
        let patch = json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": "PetNetwork", "status": status});
        let api: Api<PetNetwork> = Api::all(self.client.clone());
        let written = api.patch_status(NETWORK, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await;
        written.map(drop).map_err(ClaimError::of("writing the status of the PetNetwork", NETWORK))
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

fn reclaim_after(text: &str) -> SignedDuration {
    let parsed: Result<GoDuration, _> = text.parse();
    parsed.ok().and_then(|duration| SignedDuration::try_from(Duration::from(duration)).ok()).unwrap_or(NEVER)
}

/// Often enough for what is waited for, and not more often.
fn pause(reclaim_after: SignedDuration) -> Duration {
    let quarter = Duration::try_from(reclaim_after).unwrap_or(Duration::MAX) / 4;
    quarter.clamp(Duration::from_secs(1), Duration::from_secs(15))
}

#[cfg(test)]
mod tests;
