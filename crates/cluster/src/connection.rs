//! The connection to the cluster: by a kubeconfig, or from inside by the pod's service account.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use thiserror::Error;

/// There is no connection.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The file.
    #[error("the kubeconfig {path} cannot be used")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Neither a pod's service account nor a kubeconfig.
    #[error("finding the cluster: no --kubeconfig is given, KUBECONFIG names none, and this is no pod with a service account")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The client.
    #[error("making a client for {server}")]
    Client {
        /// The API server.
        server: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

/// By this kubeconfig, else `KUBECONFIG` or the user's own, else from inside the cluster.
pub async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, ConnectionError> {
    let Some(path) = kubeconfig else {
        return Config::infer().await.map_err(|source| ConnectionError::Infer(Box::new(source)));
    };
    let wrong = |source| ConnectionError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// A client that finds out that its connection has ended without a word.
pub fn client(config: Config) -> Result<Client, ConnectionError> {
    let server = config.cluster_url.to_string();
    let builder = kube_pet_client::builder(config);
    builder.map(kube::client::ClientBuilder::build).map_err(|source| ConnectionError::Client { server, source: Box::new(source) })
}
