//! The pure part of kube-pet: what a pod's containers should do next, what its status says, how its environment, files and
//! limits are computed. No I/O, no clock, no runtime: time and observations come in as values.

pub mod accounts;
pub mod admission;
pub mod container_env;
pub mod container_hash;
pub mod dns;
pub mod eviction;
pub mod hosts_file;
pub mod id_ranges;
pub mod ids;
pub mod image_collection;
pub mod ipam;
pub mod node;
pub mod pod;
pub mod policies;
pub mod quantity;
pub mod quoting;
pub mod resize;
pub mod resources;
pub mod security;
pub mod services;
pub mod shutdown;
pub mod supported;
pub mod volumes;
