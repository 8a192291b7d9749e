//! Names that are easily swapped, as types, and the labels that tie a Podman object to its pod.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! string_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a name; validation belongs to where the name comes from.
            pub fn new(value: impl Into<String>) -> Self {
                Self(value.into())
            }
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                Self(value.to_owned())
            }
        }
    };
}

string_newtype!(
    /// `metadata.uid` of a pod: the identity of everything that belongs to it.
    PodUid
);
string_newtype!(
    /// A container's name within its pod (unique over init, app and ephemeral containers).
    ContainerName
);
string_newtype!(
    /// Podman's container ID (64 hex digits; opaque).
    ContainerId
);

/// Labels on Podman objects, as the other runtimes set them, so that existing tools read them well.
pub mod labels {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name within the pod.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// How often this container was created before in this pod (the restart count of this instance).
    pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
    /// Hash of the parts of the container's spec whose change means a new container.
    pub const SPEC_HASH: &str = "io.kubernetes.container.hash";
    /// `init`, `app` or `ephemeral`.
    pub const KIND: &str = "kube-pet.dev/container-kind";
    /// The node whose agent made the object: two agents on one Podman never touch each other's.
    pub const NODE: &str = "kube-pet.dev/node";
}
