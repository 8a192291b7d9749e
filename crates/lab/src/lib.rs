//! A whole Kubernetes cluster on one machine: a real control plane, a registry with DNS, and any number of pet hosts.
//!
//! Each *machine* of a lab is a set of namespaces (mount, network, PID, UTS, IPC) held by a small init process: killing that one
//! process ends everything on it, its mounts and its links included. A *supervisor* process owns the lab; it ends, and takes the
//! lab with it, when it is told to or when whoever started it is gone. What a killed supervisor leaves behind is found again by
//! the records in `/run/kube-pet-lab` and removed by the next lab that starts (or by `lab gc`).

pub mod attempts;
pub mod bench;
pub mod builds;
pub mod cleanup;
pub mod client;
pub mod cluster;
pub mod cluster_dns;
pub mod command;
pub mod conformance;
pub mod control_plane;
pub mod controller;
pub mod daemon;
pub mod demo;
pub mod gateway;
pub mod herd;
pub mod joining;
pub mod kube_proxy;
pub mod kubelet;
pub mod lab;
pub mod machine;
pub mod network;
pub mod patience;
pub mod pet;
pub mod pet_files;
pub mod pet_root;
pub mod pki;
pub mod process;
pub mod progress;
pub mod record;
pub mod registry;
pub mod space;
pub mod supervisor;
pub mod topology;
pub mod vm;
pub mod world;
pub mod wrong_clock;

pub use lab::{Lab, LabOptions};
pub use patience::eventually;
pub use pet::{Pet, PetOptions};
pub use pet_root::Suite;
pub use topology::{NodeAgent, ServiceProxy, Topology};
pub use vm::{Vm, VmOptions};
