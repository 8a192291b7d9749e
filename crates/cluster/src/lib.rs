//! The cluster side of kube-pet: the controller, and what it shares with the gateway.

pub mod connection;
pub mod controller;
pub mod gateway;
pub mod lease;
pub mod metrics;
pub mod probes;
pub mod tokens;
