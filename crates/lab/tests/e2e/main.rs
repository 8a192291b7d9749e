//! End to end: real control plane, real Podman, real pulls. One lab serves all tests of a run; each test has a namespace of
//! its own, and a pet of its own where it breaks things.
//!
//! Each is `#[e2e]`: with `KUBE_PET_ATTEMPTS=2`, as in `make test`, one that fails is told and tried again (`kube_pet_lab::attempts`).
//!
//! `KUBE_PET_LAB=dev cargo test --test e2e` uses the lab that `lab up --name dev` started; `E2E_KUBECONFIG` another cluster.

#[macro_use]
extern crate kube_pet_lab_macros;

mod claims;
mod clock;
mod controller;
mod crash;
mod deletion;
mod demo;
mod deploy;
mod dns;
mod dns_cache;
mod doctor;
mod environment;
mod groups;
mod harness;
mod host_pod;
mod huge_pages;
mod image_volumes;
mod images;
mod lifecycle;
mod logs;
mod nat;
mod nfs;
mod node;
mod node_api;
mod offline;
mod pod_certificates;
mod pod_network;
mod policies;
mod preemption;
mod pressure;
mod probes;
mod resize;
mod rounds;
mod selectors;
mod services;
mod shutdown;
mod standalone;
mod static_pods;
mod statistics;
mod streaming;
mod token;
mod trust_bundles;
mod tunnel;
mod user_namespaces;
mod volumes;
