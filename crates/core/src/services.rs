//! Where traffic to Services and host ports goes: from the objects of the cluster to one [`Rule`] for each [`Frontend`].
//!
//! ```text
//! Service, EndpointSlice, zone, host ports ──► Compiler::apply(Event) ──► Changes: Frontend → Rule, or none any more
//! ```
//! Incremental: an event costs what its own Service costs, however many others there are. Any sequence of events ends in the
//! same rules as a build from what is there in the end. Services and host ports are kept apart, in a [`Compiler`] each: pods start
//! without knowing the cluster's Services. The rules of Kubernetes are kube-proxy's (1.37, `pkg/proxy`): which
//! endpoints are used (`topology.go`), what each address of a Service means (`nftables/proxier.go`).

mod claims;
mod compiler;
mod endpoints;
mod host_ports;
mod objects;

pub use compiler::{Changes, Compiler, Event, HealthCheck};
pub use host_ports::host_ports;
pub use kube_pet_rules::services::{Address, Forward, Frontend, Protocol, Rule, Rules};
pub use kube_pet_rules::{Family, Network};
pub use objects::{Endpoint, HostPort, Service, ServicePort, Slice, SlicePort};

#[cfg(test)]
mod tests;
