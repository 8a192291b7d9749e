//! `PetAllocation`: one address, range or key that is given to a pet. Its name is what it gives, so that the API server refuses a
//! second one: that, and no lock or leader, is why nothing is given twice.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::time;

/// What an allocation gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Purpose {
    /// The address of a node.
    NodeAddress,
    /// The pod CIDR of a node.
    #[serde(rename = "PodCIDR")]
    PodCidr,
    /// A public key of a tunnel.
    PublicKey,
}

/// Something given to a pet, or kept for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kube-pet.dev",
    version = "v1alpha1",
    kind = "PetAllocation",
    plural = "petallocations",
    doc = "An address, a range or a public key that is given to one pet. The controller writes it; deleting it by hand may give it twice.",
    category = "kube-pet",
    status = "PetAllocationStatus",
    derive = "PartialEq",
    selectable = ".spec.owner",
    printcolumn(name = "Purpose", type_ = "string", json_path = ".spec.purpose"),
    printcolumn(name = "Value", type_ = "string", json_path = ".spec.value"),
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.owner"),
    printcolumn(name = "Released", type_ = "date", json_path = ".status.releasedAt", description = "Since its owner is gone"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("an allocation cannot be changed"))]
pub struct PetAllocationSpec {
    /// What it gives.
    pub purpose: Purpose,
    /// The address, the range or the key.
    #[schemars(length(max = 128))]
    pub value: String,
    /// The Pet or the PetGateway.
    #[schemars(length(max = 253))]
    pub owner: String,
    /// The machine of the Pet; empty for a gateway.
    #[serde(rename = "machineID", default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub machine_id: String,
}

/// Whether it is in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PetAllocationStatus {
    /// Since when its owner is gone. It is kept for the time `reclaimAfter` of the PetNetwork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub released_at: Option<Time>,
}
