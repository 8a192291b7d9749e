//! The resources of the group `kube-pet.dev`: types only, for the agent, the controller and the gateway.
//!
//! | Kind | Name | Written by |
//! | --- | --- | --- |
//! | [`PetNetwork`] | `default` | the operator; status: the controller |
//! | [`Pet`] | the Node's | spec: the pet itself; status: the controller, and of the tunnel the gateway |
//! | [`PetGateway`] | the gateway's | the gateway; status: the gateway, of its key the controller |
//! | [`PetAllocation`] | what is allocated | the controller only |
//!
//! All are cluster-scoped. The CustomResourceDefinitions in `deploy/` are made from these types.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a type")]

mod allocation;
mod common;
mod gateway;
pub mod join_token;
mod network;
mod pet;

pub use allocation::{PetAllocation, PetAllocationSpec, PetAllocationStatus, Purpose};
pub use common::{Endpoint, condition, set_condition};
pub use gateway::{GATEWAY_LEASE, PetGateway, PetGatewaySpec, PetGatewayStatus};
pub use network::{Allocated, NETWORK, NodePodPrefixLength, PetNetwork, PetNetworkSpec, PetNetworkStatus};
pub use pet::{Pet, PetSpec, PetStatus, ROLE_LABEL, ROTATE_KEY_ANNOTATION};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt as _;

/// The API group.
pub const GROUP: &str = "kube-pet.dev";
/// The version of all its kinds.
pub const VERSION: &str = "v1alpha1";

/// Types of conditions, and the reasons that go with them.
pub mod conditions {
    /// Of a Pet: it has its addresses and its key is accepted. False: the reason is one of [`reasons`](super::reasons).
    pub const ALLOCATED: &str = "Allocated";
    /// Of a Pet: its public key is its own. False while another has it; then peers keep [`PetStatus::public_key`](super::PetStatus::public_key).
    pub const KEY_ACCEPTED: &str = "KeyAccepted";
    /// Of a Pet that wants another key: that is its own. False while another has it; then the pet keeps the key that it has.
    pub const NEXT_KEY_ACCEPTED: &str = "NextKeyAccepted";
    /// Of a Pet: the active gateway hears from it.
    pub const CONNECTED: &str = "Connected";
    /// Of a Pet: its Node is there. The transition's time says since when it is gone.
    pub const NODE_PRESENT: &str = "NodePresent";
    /// Of a Pet: the Node has the pod CIDRs of the Pet.
    pub const POD_CIDR_SET: &str = "PodCIDRSet";
    /// Of a PetNetwork, a PetGateway: it can be used.
    pub const READY: &str = "Ready";
}

/// Reasons of conditions that more than one place knows.
pub mod reasons {
    /// Another Pet or gateway has the public key.
    pub const KEY_IN_USE: &str = "PublicKeyInUse";
    /// A range of the PetNetwork is full.
    pub const EXHAUSTED: &str = "RangeExhausted";
    /// There is no PetNetwork `default`.
    pub const NO_NETWORK: &str = "NoPetNetwork";
}

/// All definitions, in the order in which they are applied.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut all = vec![PetNetwork::crd(), Pet::crd(), PetGateway::crd(), PetAllocation::crd()];
    for version in all.iter_mut().flat_map(|definition| &mut definition.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            without_foreign_formats(schema);
        }
    }
    all
}

/// The API server knows no unsigned numbers, and warns of them; the ranges say the same.
fn without_foreign_formats(schema: &mut JSONSchemaProps) {
    schema.format.take_if(|format| format.starts_with("uint"));
    for inner in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        without_foreign_formats(inner);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        without_foreign_formats(items);
    }
}
