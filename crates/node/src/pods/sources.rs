//! Where pods come from.

pub mod api;
pub mod files;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;

/// Which source a pod came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The API server.
    Api,
    /// A static pod file, or `kube-pet run`.
    File,
}

/// One change of what is wanted.
#[derive(Clone, Debug)]
pub enum PodUpdate {
    /// The pod is wanted as given.
    Put(Source, Arc<Pod>),
    /// The source no longer has this pod.
    Gone(Source, PodUid),
    /// The source has told everything that it has: pods of it that were not named are gone.
    Synced(Source),
}
