//! The node's network, by netlink: pods' links, the tunnel's, addresses and routes.
//!
//! Functions are synchronous (a request to the kernel is answered in microseconds) and work in the network namespace of the
//! calling thread: the agent may itself live in another one than the machine's first.

pub mod addresses;
pub mod loopback;
mod netlink;
mod nft;
pub mod pod_links;
pub mod policies;
pub mod services;
pub mod tables;
pub mod tunnel_links;
pub mod tunnel_table;

pub use netlink::{NetlinkError, exchange};
