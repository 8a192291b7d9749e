//! A small client for Podman's libpod API over its Unix socket.
//!
//! It knows only the calls and fields that a Kubernetes node needs, tolerates every other one, and works with Podman 4.3
//! and later: requests go to the path prefix `/v4.0.0/libpod`, which all of them accept, every field of a reply is optional,
//! and what differs between versions is in [`Capabilities`].
//!
//! Every call has a deadline of its own ([`Operation::deadline`]); at most [`MAX_IN_FLIGHT`] calls run at a time (more
//! gain nothing: Podman serialises on its own locks), streams excepted. A dropped future closes its connection; Podman
//! may have carried out the call nevertheless, so callers look before they repeat.

mod capabilities;
mod client;
mod containers;
mod error;
mod events;
mod exec;
mod frames;
mod images;
mod pods;
mod registry_auth;
mod resources;
mod spec;
mod store;
mod transport;
mod wire;

pub use capabilities::{Capabilities, Version};
pub use client::{Client, Info, InfoDistribution, InfoHost, InfoRuntime, InfoSecurity, InfoStore, ServiceVersion};
pub use containers::{
    ContainerConfig, ContainerInspect, ContainerMount, ContainerState, ContainerSummary, CreatedContainer, WaitCondition,
};
pub use error::{Error, Operation};
pub use events::{Event, EventStream};
pub use exec::{AttachOptions, Duplex, ExecConfig, ExecInspect};
pub use frames::{Demultiplexer, Frame, FrameReader, StreamKind};
pub use images::{ImageConfig, ImageInspect, ImageSummary, PullProgress};
pub use pods::{PodContainer, PodSummary};
pub use registry_auth::RegistryAuth;
pub use resources::{HugepageLimit, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
pub use spec::{
    Device, HealthConfig, IdMap, IdMappings, LogConfiguration, Mount, NamedVolume, Namespace, PodSpecGenerator, Rlimit, SpecGenerator,
};
pub use store::Store;
pub use transport::{MAX_IN_FLIGHT, Observer};

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests;
