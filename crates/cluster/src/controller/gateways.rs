//! A gateway's public key is claimed as a pet's is, so that no pet can have it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt as _};
use kube_pet_api::{PetGateway, condition, conditions, reasons, set_condition};
use serde_json::json;
use tracing::warn;

use super::allocation::key_allocation;
use super::claims::{ClaimError, Claimed, Claims};
use super::counters::{ERRORS, KEYS_REFUSED};
use super::pets::MANAGER;

/// What reconciling needs.
pub struct Context {
    pub client: Client,
    pub claims: Claims,
}

/// One pass.
pub async fn reconcile(gateway: Arc<PetGateway>, context: Arc<Context>) -> Result<Action, ClaimError> {
    if gateway.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let mut all = gateway.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let known = condition(&all, conditions::KEY_ACCEPTED);
    if known.is_some_and(|c| c.status == "True" && c.observed_generation == gateway.metadata.generation) {
        return Ok(Action::await_change());
    }
    let name = gateway.name_any();
    let wanted = key_allocation(&gateway.spec.public_key, &name, "");
    let claimed = context.claims.claim(&wanted, |found| found.spec == wanted.spec).await?;
    let changed = match claimed {
        Claimed::Own(_) => {
            let message = "nobody else has the public key";
            set_condition(&mut all, conditions::KEY_ACCEPTED, true, "Accepted", message, gateway.metadata.generation, Timestamp::now())
        }
        Claimed::Foreign(found) => {
            KEYS_REFUSED.increment(&[]);
            warn!(gateway = name, owner = found.spec.owner, "a public key is refused: another has it");
            let message = format!("{} has this public key; make another one", found.spec.owner);
            set_condition(
                &mut all,
                conditions::KEY_ACCEPTED,
                false,
                reasons::KEY_IN_USE,
                &message,
                gateway.metadata.generation,
                Timestamp::now(),
            )
        }
    };
    if changed {
        all.retain(|condition| condition.type_ == conditions::KEY_ACCEPTED);
        let patch = json!({
            "apiVersion": "kube-pet.dev/v1alpha1",
            "kind": "PetGateway",
            "metadata": {"uid": gateway.metadata.uid, "resourceVersion": gateway.metadata.resource_version},
            "status": {"conditions": all},
        });
        let api: Api<PetGateway> = Api::all(context.client.clone());
        let written = api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await;
        written.map_err(ClaimError::of("writing the status of the PetGateway", name))?;
    }
    Ok(Action::requeue(Duration::from_secs(60)))
}

/// After a failed pass.
pub fn retry(_: Arc<PetGateway>, error: &ClaimError, _: Arc<Context>) -> Action {
    if error.is_conflict() || error.is_gone() {
        return Action::requeue(Duration::from_millis(200));
    }
    ERRORS.increment(&["PetGateway"]);
    warn!(error = error as &dyn std::error::Error, "a gateway's key is not claimed; retrying");
    Action::requeue(Duration::from_secs(5))
}
