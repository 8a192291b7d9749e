//! `PetGateway`: a hub that joins pets and the cluster's network.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{Endpoint, KEY_MESSAGE, KEY_RULE, conditions};

/// The Lease whose holder is the active gateway.
pub const GATEWAY_LEASE: &str = "kube-pet-gateway";

/// A gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kube-pet.dev",
    version = "v1alpha1",
    kind = "PetGateway",
    plural = "petgateways",
    doc = "A gateway between pets and the cluster's network. One is active at a time.",
    category = "kube-pet",
    status = "PetGatewayStatus",
    derive = "PartialEq",
    printcolumn(name = "Active", type_ = "boolean", json_path = ".status.active"),
    printcolumn(name = "Pets", type_ = "integer", json_path = ".status.connectedPets"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.endpoints[0].host"),
    printcolumn(name = "Port", type_ = "integer", json_path = ".spec.endpoints[0].port"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PetGatewaySpec {
    /// The tunnel's public key.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(KEY_RULE).message(KEY_MESSAGE))]
    pub public_key: String,
    /// Where pets reach it over UDP, best first.
    #[schemars(length(min = 1, max = 16))]
    pub endpoints: Vec<Endpoint>,
    /// Where pets reach it over TCP, where UDP does not get through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Endpoint>,
    /// Its own addresses in the tunnel, if it has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 45)))]
    #[x_kube(validation = Rule::new("self.all(a, isIP(a))").message("tunnelAddresses must be IP addresses"))]
    pub tunnel_addresses: Vec<String>,
}

/// What the gateway says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PetGatewayStatus {
    /// Whether it is the one that carries the traffic.
    #[serde(default)]
    pub active: bool,
    /// How many pets it hears from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_pets: Option<u32>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
