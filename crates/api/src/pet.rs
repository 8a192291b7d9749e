//! `Pet`: what a pet says of itself, and what it gets.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use kube_pet_rules::Network;
use serde::{Deserialize, Serialize};

use crate::common::{Endpoint, KEY_MESSAGE, KEY_RULE, conditions, time};

/// The label of the role, which a node may not give itself.
pub const ROLE_LABEL: &str = "node-role.kubernetes.io/pet";

/// An annotation of a Pet by which somebody asks for another key, whatever its value. The pet takes it away.
pub const ROTATE_KEY_ANNOTATION: &str = "kube-pet.dev/rotate-key";

/// A pet's claim to an address, a pod CIDR and a public key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kube-pet.dev",
    version = "v1alpha1",
    kind = "Pet",
    plural = "pets",
    doc = "A machine that joins through the tunnel. It has the name of its Node, and only that node may write its spec.",
    category = "kube-pet",
    status = "PetStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.nodeAddresses[0]",
        description = "The node's address in the tunnel"
    ),
    printcolumn(name = "Pods", type_ = "string", json_path = ".status.podCIDRs[0]", description = "The node's pod CIDR"),
    printcolumn(name = "Allocated", type_ = "string", json_path = ".status.conditions[?(@.type==\"Allocated\")].status"),
    printcolumn(name = "Connected", type_ = "string", json_path = ".status.conditions[?(@.type==\"Connected\")].status"),
    printcolumn(
        name = "Handshake",
        type_ = "date",
        json_path = ".status.lastHandshakeTime",
        description = "Since a handshake with the gateway, of which one in five minutes is written down"
    ),
    printcolumn(name = "Gateway", type_ = "string", json_path = ".status.gateway", priority = 1),
    printcolumn(
        name = "From",
        type_ = "string",
        json_path = ".status.observedEndpoint.host",
        priority = 1,
        description = "Where the gateway sees it"
    ),
    printcolumn(
        name = "MTU",
        type_ = "integer",
        json_path = ".spec.mtu",
        priority = 1,
        description = "Bytes per packet, where its way to the gateway takes less than the network's"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Allocated\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PetSpec {
    /// The tunnel's public key. Peers use the one in the status, which the controller has accepted.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(KEY_RULE).message(KEY_MESSAGE))]
    pub public_key: String,
    /// The public key that the pet will have next. It changes to it when the controller has accepted it and peers know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(KEY_RULE).message(KEY_MESSAGE))]
    pub next_public_key: Option<String>,
    /// Where the pet may be reached over UDP, best first; none behind NAT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<Endpoint>,
    /// Where other pets of the same network may reach it over UDP: addresses of the machine itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self.all(e, isIP(e.host))").message("hosts of localEndpoints must be IP addresses"))]
    pub local_endpoints: Vec<Endpoint>,
    /// Whether other pets may send to it past the gateway, and it to them.
    #[serde(default)]
    pub direct: bool,
    /// The largest packet that the pet's way to the gateway takes, where that is less than the network's: the gateway sends its pods no larger ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 9000))]
    pub mtu: Option<u16>,
    /// What stays the same when this machine joins again: a hash of the machine's ID, for example. A Pet of the same name and
    /// machine gets its addresses again. It cannot be changed; delete the Pet instead.
    #[serde(rename = "machineID")]
    #[schemars(length(min = 8, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("machineID may have letters, digits, dots, dashes and underscores"),
        validation = Rule::new("self == oldSelf").message("machineID cannot be changed: delete the Pet of the old machine first")
    )]
    pub machine_id: String,
}

/// What the controller gives it, and what the gateway sees of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PetStatus {
    /// The spec that the controller's part is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The public key that peers are to use: nobody else has it. It follows the spec's once that is accepted. Controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// The key that the pet may change to at any moment: peers are to expect it beside the other one. Controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_public_key: Option<String>,
    /// The node's addresses in the tunnel, one of each family. Controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_addresses: Vec<String>,
    /// The node's pod CIDRs, one of each family. Controller.
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
    /// The last handshake with the gateway. Gateway, at most every five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub last_handshake_time: Option<Time>,
    /// Where the gateway sees it. Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_endpoint: Option<Endpoint>,
    /// The gateway that it is connected to. Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The controller's `Allocated`, `KeyAccepted`, `NextKeyAccepted`, `NodePresent` and `PodCIDRSet`, the gateway's `Connected`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

impl PetStatus {
    /// What it was given of the tunnel's network: its own addresses and its pods'. What cannot be read is left out.
    pub fn networks(&self) -> BTreeSet<Network> {
        let nodes = self.node_addresses.iter().filter_map(|text| text.parse().ok().map(Network::single));
        nodes.chain(self.pod_cidrs.iter().filter_map(|text| text.parse().ok())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_those_of_the_node_and_of_its_pods() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let status = PetStatus {
            node_addresses: texts(&["10.99.0.7", "fd99::7", "10.99.0"]),
            pod_cidrs: texts(&["10.100.7.0/24", "10.100.7.0"]),
            ..PetStatus::default()
        };
        let networks: Vec<String> = status.networks().iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.99.0.7/32", "10.100.7.0/24", "fd99::7/128"]);
    }
}
