//! `PetNetwork`: the ranges that pets get their addresses from, and what lies beyond the gateways.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::conditions;

/// The name of the only PetNetwork.
pub const NETWORK: &str = "default";

/// The network of a cluster's pets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "kube-pet.dev",
    version = "v1alpha1",
    kind = "PetNetwork",
    plural = "petnetworks",
    doc = "The network of a cluster's pets. There is one, named default.",
    category = "kube-pet",
    status = "PetNetworkStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name == 'default'").message("there is one PetNetwork, and its name is default"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".spec.nodeCIDRs", description = "Addresses of nodes are allocated from these"),
    printcolumn(name = "Pods", type_ = "string", json_path = ".spec.podCIDRs", description = "Pod CIDRs are allocated from these"),
    printcolumn(name = "Pets", type_ = "integer", json_path = ".status.allocated.pets", description = "Pets with addresses"),
    printcolumn(name = "Gateway", type_ = "string", json_path = ".status.activeGateway", description = "The active gateway"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.nodeCIDRs.all(a, self.podCIDRs.all(b, !cidr(a).containsCIDR(b) && !cidr(b).containsCIDR(a)))")
        .message("nodeCIDRs and podCIDRs must not overlap"),
    validation = Rule::new("!has(self.serviceCIDRs) || self.serviceCIDRs.all(a, (self.podCIDRs + self.nodeCIDRs).all(b, !cidr(a).containsCIDR(b) && !cidr(b).containsCIDR(a)))")
        .message("serviceCIDRs must not overlap nodeCIDRs or podCIDRs"),
    validation = Rule::new("self.podCIDRs.all(c, cidr(c).prefixLength() <= (cidr(c).ip().family() == 4 ? self.nodePodPrefixLength.ipv4 : self.nodePodPrefixLength.ipv6))")
        .message("a range of podCIDRs is smaller than one node's share of it, nodePodPrefixLength")
)]
pub struct PetNetworkSpec {
    /// A node address of each family that occurs is allocated from these ranges.
    #[serde(rename = "nodeCIDRs")]
    #[schemars(length(min = 1, max = 8), inner(length(max = 50)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c) && string(cidr(c).masked()) == c)").message("not a range: write its first address and the prefix length, as 10.1.0.0/16"))]
    pub node_cidrs: Vec<String>,
    /// A node's pod CIDR of each family that occurs is allocated from these ranges.
    #[serde(rename = "podCIDRs")]
    #[schemars(length(min = 1, max = 8), inner(length(max = 50)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c) && string(cidr(c).masked()) == c)").message("not a range: write its first address and the prefix length, as 10.1.0.0/16"))]
    pub pod_cidrs: Vec<String>,
    /// How large the pod CIDR of a node is.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("nodePodPrefixLength cannot be changed: pets have CIDRs of this size"))]
    pub node_pod_prefix_length: NodePodPrefixLength,
    /// The cluster's Service ranges. Pets translate these themselves; they are not carried by the tunnel.
    #[serde(rename = "serviceCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 50)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c) && string(cidr(c).masked()) == c)").message("not a range: write its first address and the prefix length, as 10.1.0.0/16"))]
    pub service_cidrs: Vec<String>,
    /// What is reached through the gateways: pods and nodes of the cluster that are no pets.
    #[serde(rename = "clusterCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 50)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c) && string(cidr(c).masked()) == c)").message("not a range: write its first address and the prefix length, as 10.1.0.0/16"))]
    pub cluster_cidrs: Vec<String>,
    /// MTU of the tunnel.
    #[serde(default = "default_mtu")]
    #[schemars(range(min = 1280, max = 9000))]
    pub mtu: u16,
    /// How often a pet that nothing is sent to says something, so that NAT does not forget it; 0 never.
    #[serde(default = "default_keepalive")]
    #[schemars(range(min = 0, max = 3600))]
    pub persistent_keepalive_seconds: u16,
    /// How long the addresses of a pet that is gone are kept for it, as 168h.
    #[serde(default = "default_reclaim")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(h|m|s))+$')").message("reclaimAfter must be a duration, as 168h or 30m"))]
    pub reclaim_after: String,
}

/// Prefix lengths of the nodes' pod CIDRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct NodePodPrefixLength {
    /// Of IPv4.
    #[serde(default = "default_ipv4")]
    #[schemars(range(min = 12, max = 30))]
    pub ipv4: u8,
    /// Of IPv6.
    #[serde(default = "default_ipv6")]
    #[schemars(range(min = 48, max = 124))]
    pub ipv6: u8,
}

impl Default for NodePodPrefixLength {
    fn default() -> Self {
        Self { ipv4: default_ipv4(), ipv6: default_ipv6() }
    }
}

fn default_ipv4() -> u8 {
    24
}
fn default_ipv6() -> u8 {
    64
}
fn default_mtu() -> u16 {
    // 1500 less 80: the outer IPv6, UDP and WireGuard.
    1420
}
fn default_keepalive() -> u16 {
    25
}
fn default_reclaim() -> String {
    "168h".to_owned()
}

/// What the controller says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PetNetworkStatus {
    /// The spec that the status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<Allocated>,
    /// The gateway that carries the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_gateway: Option<String>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocated {
    /// Pets with addresses.
    pub pets: u32,
    /// Node addresses, those kept for pets that are gone included.
    pub node_addresses: u32,
    /// Pod CIDRs, those kept for pets that are gone included.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: u32,
}
