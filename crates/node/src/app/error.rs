//! Why the agent does not start, or ends.

use std::path::PathBuf;

use crate::identity;
use crate::pods::sources;
use crate::server;

/// The agent cannot start. Everything that time can heal is retried instead.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder of the agent's cannot be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Copies of objects.
    #[error(transparent)]
    Copies(#[from] crate::objects::CopiesError),
    /// No way to talk to the API server is configured.
    #[error("the node's identity")]
    Identity(#[from] identity::IdentityError),
    /// No certificate to serve with.
    #[error("the serving certificate")]
    Serving(#[from] identity::ServingError),
    /// Podman cannot be set up.
    #[error("the Podman service")]
    Podman(#[from] crate::podman_service::PodmanServiceError),
    /// Probes and hooks.
    #[error(transparent)]
    Handlers(#[from] crate::handlers::TlsSettingsError),
    /// Port 10250 or 10248.
    #[error("the node's API")]
    Server(#[from] server::ServerError),
    /// The tunnel's key.
    #[error("the tunnel's key")]
    TunnelKey(#[from] kube_pet_tunnel::KeyError),
    /// A manifest given to `kube-pet run`.
    #[error(transparent)]
    Manifest(#[from] sources::files::ManifestError),
    /// A part of the agent ended although it must not.
    #[error("{0} ended unexpectedly; the supervisor starts the agent again, and no container is touched")]
    Ended(&'static str),
}
