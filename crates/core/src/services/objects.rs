//! What is kept of the cluster's objects: as little as the rules need, because a node keeps all of the cluster's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use kube_pet_rules::{Family, Network, Protocol};

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`
    pub key: Arc<str>,
    /// `metadata.creationTimestamp`, in seconds of the Unix time.
    pub created: i64,
    /// Whether it is served here: not an ExternalName one, nor one that another proxy serves.
    pub proxied: bool,
    /// `spec.clusterIPs`; empty for a headless one.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.externalIPs`
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip`, those with `ipMode: VIP`.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`
    pub source_ranges: Box<[Network]>,
    /// `spec.ports`, in order.
    pub ports: Box<[ServicePort]>,
    /// `spec.internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy` is `Local`, and there is external traffic.
    pub external_local: bool,
    /// `spec.sessionAffinity` is `ClientIP`, with this timeout.
    pub affinity: Option<Duration>,
    /// `spec.healthCheckNodePort` of a load balancer with `externalTrafficPolicy: Local`.
    pub health_check_port: Option<u16>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty if it is the only one and has none.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The port of every node; 0 for none.
    pub node_port: u16,
}

/// An EndpointSlice with addresses; those of host names (`addressType: FQDN`) are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// `namespace/name`
    #[serde(skip)]
    pub key: Arc<str>,
    /// `namespace/name` of its Service.
    #[serde(skip)]
    pub service: Arc<str>,
    /// `addressType`
    pub family: Family,
    /// `ports`, those with a number.
    pub ports: Box<[SlicePort]>,
    /// `endpoints`, those with an address.
    pub endpoints: Box<[Endpoint]>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the endpoints.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses[0]`; the others have no meaning.
    pub address: IpAddr,
    /// Whether `nodeName` is this node.
    pub local: bool,
    /// `conditions.ready`; true if nothing is said.
    pub ready: bool,
    /// `conditions.serving`; true if nothing is said.
    pub serving: bool,
    /// `conditions.terminating`
    pub terminating: bool,
    /// Whether `hints.forNodes` names this node; `None` without such a hint.
    pub for_node: Option<bool>,
    /// `hints.forZones`
    pub for_zones: Box<[Box<str>]>,
}

/// A port of the node that leads into a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The node's address; every one if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
    /// The pod's port.
    pub container_port: u16,
}
