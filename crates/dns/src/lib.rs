//! A caching forwarder of DNS that goes on answering when its upstream does not (RFC 8767): sockets and bytes, nothing of Kubernetes.
//!
//! ```text
//! client ─ server.rs ─► message.rs  what is asked, what is answered
//!              └─► resolver.rs ─► cache.rs      answers with their times; snapshot.rs: kept over a restart
//!                       └───────► upstream.rs   one question at a time, over UDP, then TCP
//! ```
//! Whatever cannot be read is answered with an error or not at all; nothing that comes from outside makes it panic or take memory
//! without limit.

mod cache;
mod message;
mod moment;
mod places;
mod resolver;
mod server;
mod snapshot;
mod upstream;

pub use cache::Limits;
pub use moment::Moment;
pub use resolver::{DnsCache, Observation};
pub use server::{Options, Server, new};
pub use snapshot::SnapshotError;
