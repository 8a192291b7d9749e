//! What the rest of the agent needs to know of its own Node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A snapshot of the Node object and of what this machine offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInfo {
    /// The Node's name.
    pub name: String,
    /// `metadata.uid` of the Node object; empty until it is registered.
    pub uid: String,
    /// Labels of the Node object (for node selectors and affinity).
    pub labels: BTreeMap<String, String>,
    /// `status.capacity`.
    pub capacity: BTreeMap<String, Quantity>,
    /// `status.allocatable`: the default of limits in the downward API, and what admission counts against.
    pub allocatable: BTreeMap<String, Quantity>,
    /// The node's InternalIPs, primary first: `status.hostIPs` of its pods.
    pub host_ips: Vec<IpAddr>,
    /// `spec.podCIDRs` (or the configured ones), primary first; empty while none is known.
    pub pod_cidrs: Vec<String>,
    /// The conditions of pressure that hold: `MemoryPressure`, `DiskPressure`, `PIDPressure`.
    pub pressures: BTreeSet<String>,
    /// `status.nodeInfo` taints do not matter to admission of running pods, but NoExecute ones do.
    pub taints: Vec<k8s_openapi::api::core::v1::Taint>,
}
