//! NetworkPolicies: from the objects of the cluster to what the pods of this node may send and receive.
//!
//! ```text
//! NetworkPolicy, Namespace, Pod, the node's own pods ──► Compiler::apply(Event) ──► Changes: Element → there or not
//! ```
//! Pods that the same policies select share a profile: a number, and the [`Grant`]s that it stands for. So the work grows with the kinds of
//! pods on the node and their peers, not with pods times peers. Incremental: a peer that comes or goes costs its own grants. Any sequence
//! of events ends in the same elements as a build from what is there in the end.
//!
//! The rules are those of `networking.k8s.io/v1`: a pod that a policy of a direction selects is isolated in this direction, and what one of
//! these policies allows is allowed; named ports are those of the pod that receives.

mod compiler;
mod grants;
mod objects;
mod parse;
mod profile;
mod ranges;
mod selector;

pub use compiler::{Changes, Compiler, Event};
pub use kube_pet_rules::policies::{Direction, Element, Grant, Ports};
pub use objects::{LocalPod, NamedPort, Peer, PeerPod, Peers, Policy, PolicyPort, PolicyRule, PortNumber};
pub use parse::named_ports;
pub use selector::{Labels, Selector};

#[cfg(test)]
mod tests;
