//! Requests of pets for serving certificates: approved when they are what they say, else denied with the reason.
//!
//! Requests of other nodes are left to the cluster's own approver.

pub mod check;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt as _};
use kube_pet_api::{Pet, condition, conditions};
use serde_json::json;
use tracing::{debug, info, warn};

use self::check::{Decision, SERVING_SIGNER, Subject, decide, node_of};
use super::claims::ClaimError;
use super::counters::{CERTIFICATES, ERRORS};
use super::pets::{MANAGER, node_addresses};
use super::ranges::Range;

/// A request that waits is looked at again after this time.
const WAIT: Duration = Duration::from_secs(2);
/// A request of a node that may still become a pet's.
const PERHAPS: Duration = Duration::from_secs(30);
/// A Node's addresses follow its request for a certificate within this time.
const SETTLED: SignedDuration = SignedDuration::from_mins(1);
/// What kube-pet's version has, as a Node says it.
const OWN_VERSION: &str = "+kube-pet.";

/// What the approver needs.
pub struct Approver {
    pub client: Client,
    /// Ranges in which a node's word for its own address is taken.
    pub believed: Vec<Range>,
}

/// One pass.
pub async fn reconcile(request: Arc<CertificateSigningRequest>, approver: Arc<Approver>) -> Result<Action, ClaimError> {
    let decided = request.status.as_ref().and_then(|status| status.conditions.as_ref()).is_some_and(|all| !all.is_empty());
    if decided || request.spec.signer_name != SERVING_SIGNER {
        return Ok(Action::await_change());
    }
    let Some(node) = node_of(&request.spec) else {
        return Ok(Action::await_change());
    };
    let Some(subject) = subject(&request, node, &approver).await? else {
        debug!(request = request.name_any(), node, "not a pet; left to the cluster's own approver");
        return Ok(Action::requeue(PERHAPS));
    };
    match decide(&request.spec, &subject) {
        Decision::Approve => {
            write(&request, &approver, "Approved", "KubePetApproved", "the names and addresses are the node's").await?;
            CERTIFICATES.increment(&["approved", ""]);
            info!(request = request.name_any(), node, "serving certificate approved");
        }
        Decision::Refuse(refusal) => {
            write(&request, &approver, "Denied", refusal.reason(), &refusal.to_string()).await?;
            CERTIFICATES.increment(&["denied", refusal.reason()]);
            warn!(request = request.name_any(), node, reason = refusal.reason(), "serving certificate denied: {refusal}");
        }
        Decision::Wait(address) => {
            debug!(request = request.name_any(), node, %address, "not one of the node's addresses yet");
            return Ok(Action::requeue(WAIT));
        }
    }
    Ok(Action::await_change())
}

/// After a failed pass.
pub fn retry(request: Arc<CertificateSigningRequest>, error: &ClaimError, _: Arc<Approver>) -> Action {
    if error.is_gone() {
        return Action::await_change();
    }
    ERRORS.increment(&["CertificateSigningRequest"]);
    warn!(request = request.name_any(), error = error as &dyn std::error::Error, "deciding failed; retrying");
    Action::requeue(WAIT)
}

/// What is known of the node; `None`: it is no pet. Read now, and not from a watch: a decision is final.
async fn subject(request: &CertificateSigningRequest, name: &str, approver: &Approver) -> Result<Option<Subject>, ClaimError> {
    let pets: Api<Pet> = Api::all(approver.client.clone());
    let pet = pets.get_opt(name).await.map_err(ClaimError::of("reading the Pet", name))?;
    let nodes: Api<Node> = Api::all(approver.client.clone());
    let node = nodes.get_opt(name).await.map_err(ClaimError::of("reading the Node", name))?;
    let version = node.as_ref().and_then(|node| Some(node.status.as_ref()?.node_info.as_ref()?.kubelet_version.as_str()));
    if pet.is_none() && (approver.believed.is_empty() || !version.is_some_and(|version| version.contains(OWN_VERSION))) {
        return Ok(None);
    }
    let status = pet.as_ref().and_then(|pet| pet.status.clone()).unwrap_or_default();
    let allocated = pet.is_none() || condition(&status.conditions, conditions::ALLOCATED).is_some_and(|c| c.status == "True");
    let age = request.metadata.creation_timestamp.as_ref().map(|time| Timestamp::now().duration_since(time.0));
    Ok(Some(Subject {
        addresses: status.node_addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        claimed: node.iter().flat_map(node_addresses).collect(),
        believed: approver.believed.clone(),
        allocated,
        fresh: age.is_none_or(|age| age < SETTLED),
    }))
}

async fn write(
    request: &CertificateSigningRequest,
    approver: &Approver,
    kind: &str,
    reason: &str,
    message: &str,
) -> Result<(), ClaimError> {
    let name = request.name_any();
    let patch = json!({
        "metadata": {"uid": request.metadata.uid},
        "status": {"conditions": [{
            "type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": Timestamp::now().to_string(),
        }]},
    });
    let api: Api<CertificateSigningRequest> = Api::all(approver.client.clone());
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let written = api.patch_approval(&name, &params, &Patch::Merge(patch)).await;
    written.map(drop).map_err(ClaimError::of("deciding the request", name))
}
