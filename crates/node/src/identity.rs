//! Who this node is: the client certificate that it talks to the API server with, and the certificate that it serves
//! port 10250 with. Both are requested from the cluster, stored below the PKI folder and renewed before they end.
//!
//! Nothing here stops the agent: with the API server away it starts with what is stored, and where nothing is stored
//! yet, [`Identity::api`] holds a client whose calls fail with a clear text until the first certificate is there.

mod backoff;
mod client;
mod clock;
mod counting;
mod credentials;
mod csr;
mod kubeconfig;
mod renewal;
mod serving;

use std::path::{Path, PathBuf};

use kube::Client;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{error, info};

use crate::api::ApiHandle;
pub use credentials::CredentialError;
use credentials::CredentialStore;
pub use csr::CsrError;
use renewal::{Managed, Reloaded};
pub use serving::{Serving, ServingCertificate, ServingError, ServingNames, ServingOptions, ServingTask, serving};
use tokio_util::sync::CancellationToken;

/// Where the node's client credentials come from.
#[derive(Clone, Debug)]
pub struct IdentityOptions {
    /// The node's name; the certificate's subject becomes `O=system:nodes, CN=system:node:<name>`.
    pub node_name: String,
    /// A kubeconfig with complete credentials: used as it is, and read again when it or a file that it names changes.
    pub kubeconfig: Option<PathBuf>,
    /// A kubeconfig whose user may request a node certificate. Only needed while no valid certificate is stored.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where keys and certificates are kept (mode 0700).
    pub pki_dir: PathBuf,
}

/// Why no identity can be set up at all. Everything that time can heal is logged and retried instead.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A kubeconfig cannot be used.
    #[error("kubeconfig {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without its contents.
        reason: String,
    },
    /// There is neither a kubeconfig, nor a stored certificate, nor anything to ask for one with.
    #[error(
        "no credentials for the API server: there is no usable kubeconfig, {pki_dir} holds no valid node certificate, \
         and there is no bootstrap kubeconfig to request one with; put one where bootstrapKubeconfig names it"
    )]
    NoCredentials {
        /// The folder that was searched.
        pki_dir: PathBuf,
    },
    /// The client could not be built from the credentials.
    #[error("building the client for {server}")]
    Client {
        /// The API server's URL.
        server: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The stored credentials could not be read or written.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// The node's connection to the API server.
pub struct Identity {
    /// The client, replaced at each renewal.
    pub api: ApiHandle,
    /// Whether there are credentials. False only while the very first certificate is being requested.
    pub ready: watch::Receiver<bool>,
    /// The cluster's CA as the kubeconfig names it; what the 10250 server trusts clients by unless told otherwise.
    pub cluster_ca: Vec<CertificateDer<'static>>,
    /// Keeps the credentials valid; run it for the agent's whole life.
    pub task: IdentityTask,
}

/// Requests, renews and reloads the client credentials.
pub struct IdentityTask(Kind);

enum Kind {
    Managed(Box<Managed>),
    Reloaded(Box<Reloaded>),
}

impl IdentityTask {
    /// Runs until `shutdown`; it does not end by itself.
    pub async fn run(self, shutdown: CancellationToken) {
        let work = async {
            match self.0 {
                Kind::Managed(managed) => managed.run().await,
                Kind::Reloaded(reloaded) => reloaded.run().await,
            }
        };
        shutdown.run_until_cancelled(Box::pin(work)).await;
    }
}

/// The user name of a node.
fn user_name(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// Finds or prepares the node's client credentials; never waits for the API server.
///
/// Order: the configured kubeconfig if it exists and its certificate has not ended; the stored node certificate; else
/// the bootstrap kubeconfig, with which the returned task requests a certificate.
pub async fn establish(mut options: IdentityOptions) -> Result<Identity, IdentityError> {
    // A file that is only configured is none.
    options.bootstrap_kubeconfig = options.bootstrap_kubeconfig.filter(|path| path.exists());
    if let Some(path) = options.kubeconfig.as_ref().filter(|p| p.exists()) {
        let config = kubeconfig::load(path).await?;
        let ended = kubeconfig::client_certificate_end(&config).is_some_and(|end| end <= jiff::Timestamp::now());
        if !ended || options.bootstrap_kubeconfig.is_none() {
            if ended {
                error!(path = %path.display(), "the kubeconfig's client certificate has expired and no bootstrap kubeconfig is configured; the API server will refuse it");
            }
            let client = kubeconfig::client(config.clone())?;
            let (sender, api) = ApiHandle::new(client);
            return Ok(Identity {
                api,
                ready: watch::channel(true).1,
                cluster_ca: kubeconfig::cluster_ca(&config),
                task: IdentityTask(Kind::Reloaded(Box::new(Reloaded::new(path.clone(), sender)))),
            });
        }
        info!(path = %path.display(), "the kubeconfig's client certificate has expired; requesting a new one");
    }
    managed(options).await
}

/// The kubeconfig that the agent writes once it has a certificate of its own.
pub fn stored_kubeconfig(pki_dir: &Path) -> PathBuf {
    kubeconfig::stored_path(pki_dir)
}

/// Whether a kubeconfig can be read and its client certificate has not ended: what [`establish`] asks of the stored one before it
/// turns to the bootstrap kubeconfig. Changes nothing.
pub async fn is_current(path: &Path) -> bool {
    match kubeconfig::load(path).await {
        Ok(config) => kubeconfig::client_certificate_end(&config).is_some_and(|end| end > jiff::Timestamp::now()),
        Err(_) => false,
    }
}

/// The API server that a kubeconfig names.
pub async fn server_of(path: &Path) -> Option<String> {
    load_config(path).await.map(|config| config.cluster_url.to_string())
}

/// A sentence about this machine's clock, if the API server's `Date` is another: by how much, and what to do. The server's certificate is
/// not checked.
pub(crate) async fn wrong_clock(config: &kube::Config) -> Option<String> {
    clock::explanation(config).await
}

/// What a kubeconfig says, if it can be used.
pub(crate) async fn load_config(path: &Path) -> Option<kube::Config> {
    kubeconfig::load(path).await.ok()
}

async fn managed(options: IdentityOptions) -> Result<Identity, IdentityError> {
    let store = CredentialStore::open(&options.pki_dir, "kube-pet-client")?;
    let bootstrap = options.bootstrap_kubeconfig.clone();
    let user = user_name(&options.node_name);
    let stored = store.load()?.filter(|credential| {
        let ours = credential.common_name() == Some(user.as_str());
        if !ours {
            error!(path = %credential.path().display(), expected = %user, found = ?credential.common_name(),
                "the stored certificate belongs to another node; it is not used");
        }
        ours
    });
    // The kubeconfig written at the last bootstrap lets the node start after the bootstrap file is gone.
    let cluster_file = match &bootstrap {
        Some(path) => path.clone(),
        None => kubeconfig::stored_path(&options.pki_dir),
    };
    if !cluster_file.exists() || (stored.is_none() && bootstrap.is_none()) {
        return Err(IdentityError::NoCredentials { pki_dir: options.pki_dir });
    }
    let config = kubeconfig::load(&cluster_file).await?;
    let client = match &stored {
        Some(credential) => kubeconfig::client(kubeconfig::with_credential(&config, credential))?,
        None => offline_client(&user),
    };
    let (sender, api) = ApiHandle::new(client);
    let (ready_sender, ready) = watch::channel(stored.is_some());
    Ok(Identity {
        api,
        ready,
        cluster_ca: kubeconfig::cluster_ca(&config),
        task: IdentityTask(Kind::Managed(Box::new(Managed {
            node_name: options.node_name,
            pki_dir: options.pki_dir,
            bootstrap,
            config,
            store,
            current: stored,
            sender,
            ready: ready_sender,
        }))),
    })
}

/// A client without a connection: every call fails at once and says why.
fn offline_client(user: &str) -> Client {
    Client::new(Offline { user: user.into() }, "default")
}

#[derive(Clone)]
struct Offline {
    user: String,
}

/// A call was made before the node had its first certificate.
#[derive(Debug, Error)]
#[error("no certificate for {user} yet: its request has not been approved")]
struct NotYetIdentified {
    user: String,
}

/// Whether a call failed only because the node has no certificate yet.
fn is_not_yet_identified(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<NotYetIdentified>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl tower_service::Service<http::Request<kube::client::Body>> for Offline {
    type Response = http::Response<kube::client::Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<kube::client::Body>) -> Self::Future {
        std::future::ready(Err(Box::new(NotYetIdentified { user: self.user.clone() })))
    }
}

#[cfg(test)]
mod tests;
