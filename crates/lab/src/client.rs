//! Clients of the cluster's API.

use std::path::Path;

use anyhow::{Context, Result};
use kube::{Client, Config, config::Kubeconfig};

/// A client with the identity of a kubeconfig. It belongs to the async runtime that it is made in.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    // The second call of a process finds the provider installed, which is just as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
        .await
        .with_context(|| format!("understand {}", kubeconfig.display()))?;
    Client::try_from(config).context("make a client")
}

/// A GET on any path of the API server; the body as text.
///
/// # Errors
/// When the request fails or the answer is not a success.
pub async fn get(client: &Client, path: &str) -> Result<String> {
    let request = http::Request::get(path).body(Vec::new()).context("make a request")?;
    client.request_text(request).await.with_context(|| format!("GET {path}"))
}
