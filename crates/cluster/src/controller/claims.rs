//! Claims: the API server decides who gets a range or a key, by refusing a second object of a name.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error as KubeError};
use kube_pet_api::{Pet, PetAllocation};
use serde_json::json;
use thiserror::Error;
use tracing::{debug, info};

use super::allocation::is_of;
use super::counters::{self, ALLOCATIONS, CONFLICTS};

/// So many candidates are tried in one pass.
const CANDIDATES: usize = 256;

/// A call that failed.
#[derive(Debug, Error)]
#[error("{verb} {object}")]
pub struct ClaimError {
    verb: &'static str,
    object: String,
    #[source]
    source: Box<KubeError>,
}

impl ClaimError {
    /// Names what was being done.
    pub fn of(verb: &'static str, object: impl Into<String>) -> impl FnOnce(KubeError) -> Self {
        let object = object.into();
        move |source| Self { verb, object, source: Box::new(source) }
    }

    /// Somebody else was faster: look again.
    pub fn is_conflict(&self) -> bool {
        is_conflict(&self.source)
    }

    /// What it is about is there no more.
    pub fn is_gone(&self) -> bool {
        matches!(&*self.source, KubeError::Api(status) if status.code == 404)
    }
}

pub(super) fn is_conflict(error: &KubeError) -> bool {
    matches!(error, KubeError::Api(status) if status.code == 409)
}

/// The allocations.
#[derive(Clone, Debug)]
pub struct Claims {
    api: Api<PetAllocation>,
}

/// What came of a claim of one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Claimed {
    /// It is the claimant's, from now on or from before.
    Own(PetAllocation),
    /// It is another's.
    Foreign(PetAllocation),
}

impl Claims {
    /// Of this cluster.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    /// What carries this owner's name, as the API server has it now and not as a watch had it.
    pub async fn of_owner(&self, owner: &str) -> Result<Vec<PetAllocation>, ClaimError> {
        let list = self.api.list(&ListParams::default().fields(&format!("spec.owner={owner}"))).await;
        Ok(list.map_err(ClaimError::of("listing the allocations of", owner))?.items)
    }

    /// Claims one name. `own` says whether what is there already is the claimant's.
    pub async fn claim(&self, wanted: &PetAllocation, own: impl Fn(&PetAllocation) -> bool) -> Result<Claimed, ClaimError> {
        let name = name_of(wanted);
        let purpose = counters::label(wanted.spec.purpose);
        match self.api.create(&PostParams::default(), wanted).await {
            Ok(made) => {
                ALLOCATIONS.increment(&[purpose]);
                info!(allocation = name, owner = wanted.spec.owner, "allocated");
                return Ok(Claimed::Own(made));
            }
            Err(error) if is_conflict(&error) => {}
            Err(error) => return Err(ClaimError::of("creating the allocation", name)(error)),
        }
        let found = self.api.get(&name).await.map_err(ClaimError::of("reading the allocation", name.as_str()))?;
        if own(&found) {
            return Ok(Claimed::Own(self.revive(found).await?));
        }
        CONFLICTS.increment(&[purpose]);
        Ok(Claimed::Foreign(found))
    }

    /// The first of the candidates that nobody has; `None`: there is none.
    pub async fn first_free(
        &self,
        pet: &Pet,
        candidates: impl Iterator<Item = PetAllocation> + Send,
    ) -> Result<Option<PetAllocation>, ClaimError> {
        for candidate in candidates.take(CANDIDATES) {
            match self.claim(&candidate, |found| is_of(&found.spec, pet)).await? {
                Claimed::Own(allocation) => return Ok(Some(allocation)),
                Claimed::Foreign(found) => debug!(allocation = name_of(&found), owner = found.spec.owner, "taken"),
            }
        }
        Ok(None)
    }

    /// An allocation whose owner is back. Fails with a conflict where it is being freed at this moment.
    pub async fn revive(&self, allocation: PetAllocation) -> Result<PetAllocation, ClaimError> {
        if allocation.status.as_ref().is_none_or(|status| status.released_at.is_none()) {
            return Ok(allocation);
        }
        info!(allocation = name_of(&allocation), owner = allocation.spec.owner, "its owner is back");
        self.mark(&allocation, None).await
    }

    /// An allocation whose owner is gone.
    pub async fn release(&self, allocation: &PetAllocation, since: Timestamp) -> Result<(), ClaimError> {
        self.mark(allocation, Some(Time(since))).await.map(drop)
    }

    async fn mark(&self, allocation: &PetAllocation, released: Option<Time>) -> Result<PetAllocation, ClaimError> {
        let name = name_of(allocation);
        let patch = json!({
            "metadata": {"resourceVersion": allocation.metadata.resource_version, "uid": allocation.metadata.uid},
            "status": {"releasedAt": released},
        });
        let marked = self.api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        marked.map_err(ClaimError::of("marking the allocation", name))
    }

    /// Frees it, if it is still what was read.
    pub async fn free(&self, allocation: &PetAllocation) -> Result<(), ClaimError> {
        let name = name_of(allocation);
        let exactly =
            Preconditions { uid: allocation.metadata.uid.clone(), resource_version: allocation.metadata.resource_version.clone() };
        let deleted = self.api.delete(&name, &DeleteParams::default().preconditions(exactly)).await;
        deleted.map(drop).map_err(ClaimError::of("freeing the allocation", name))
    }
}

/// An object's name.
pub fn name_of<K: kube::Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}
