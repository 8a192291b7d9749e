//! The tunnel between a machine and the cluster: WireGuard, of the kernel or of this process, with its addresses and routes.
//!
//! [`Tunnel`] is told what should be and changes what differs: one peer at a time, so that no other notices. It never takes back an
//! endpoint that WireGuard has learnt from a packet unless what is wanted has changed. Which implementation runs makes no difference but
//! in speed ([`Mode`]).
//!
//! Functions are synchronous and work in the network namespace of the calling thread. Names of endpoints are looked up in threads of
//! their own: a name server that does not answer holds nothing up.

pub mod device;
pub mod direct;
mod endpoints;
pub mod keeper;
mod kernel;
pub mod keys;
pub mod mtu;
mod plan;
pub mod relay;
mod tunnel;
mod userspace;

pub use device::{DeviceError, Implementation, Mode, PeerStatus, Settings};
pub use direct::{Asker, Look, Neighbour, Paths, Turn};
pub use endpoints::{Endpoint, InvalidEndpoint};
pub use keeper::{Desired, Keeper};
pub use keys::{InvalidKey, KeyError, PrivateKey, PublicKey};
pub use tunnel::{Config, Peer, Status, Tunnel, TunnelError};
