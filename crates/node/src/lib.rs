//! The agent: API server watches, one worker per pod, volumes, images, node status, the 10250 server.

pub mod api;
pub mod app;
pub mod config;
pub mod containers;
pub mod doctor;
pub mod events;
pub mod eviction;
pub mod exec;
pub mod handlers;
pub mod identity;
pub mod images;
pub mod instruments;
pub mod log_rotation;
pub mod node_status;
pub mod objects;
pub mod paths;
pub mod podman_service;
pub mod pods;
pub mod policies;
pub mod sandboxes;
pub mod server;
pub mod services;
pub mod shutdown;
pub mod stats;
pub mod volumes;
