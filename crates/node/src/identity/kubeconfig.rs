//! Kubeconfig files: read without leaking their contents, written so that the node starts without its bootstrap file.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use serde_json::json;

use super::IdentityError;
use super::client::build;
use super::counting::CountRequests;
use super::credentials::{Credential, CredentialError, leaf_validity, write_private};
use crate::instruments;

/// Reads a kubeconfig and what its current context names.
pub(super) async fn load(path: &Path) -> Result<Config, IdentityError> {
    let wrong = |error: KubeconfigError| IdentityError::Kubeconfig { path: path.to_owned(), reason: reason(&error) };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?;
    if config.auth_info.exec.is_some() {
        return Err(IdentityError::Kubeconfig {
            path: path.to_owned(),
            reason: "an exec credential plugin is not supported; use a certificate or a token".into(),
        });
    }
    Ok(config)
}

/// The parser's own text quotes the lines around the error, and these may hold a token or a key.
fn reason(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(parse) => match parse.location() {
            Some(at) => format!("not a valid kubeconfig at line {}, column {}", at.line(), at.column()),
            None => "not a valid kubeconfig".into(),
        },
        other => other.to_string(),
    }
}

/// Builds the client of a configuration.
pub(super) fn client(config: Config) -> Result<Client, IdentityError> {
    let server = config.cluster_url.to_string();
    let counting = CountRequests::new(&config.cluster_url);
    if let Some(end) = client_certificate_end(&config) {
        instruments::CLIENT_CERTIFICATE_END.ends_at(end);
    }
    build(config, &counting).map_err(|source| IdentityError::Client { server, source: Box::new(source) })
}

/// The same cluster with a node credential instead of the kubeconfig's user.
pub(super) fn with_credential(config: &Config, credential: &Credential) -> Config {
    let mut config = config.clone();
    config.auth_info = kube::config::AuthInfo {
        client_certificate_data: Some(STANDARD.encode(credential.chain_pem())),
        client_key_data: Some(STANDARD.encode(credential.key_pem()).into()),
        ..Default::default()
    };
    config
}

/// The cluster's CA certificates.
pub(super) fn cluster_ca(config: &Config) -> Vec<CertificateDer<'static>> {
    config.root_cert.iter().flatten().map(|der| CertificateDer::from(der.clone())).collect()
}

/// When the configuration's client certificate ends, if it has one that can be read.
pub(super) fn client_certificate_end(config: &Config) -> Option<jiff::Timestamp> {
    let auth = &config.auth_info;
    let pem = match (&auth.client_certificate_data, &auth.client_certificate) {
        (Some(data), _) => STANDARD.decode(data).ok()?,
        (None, Some(path)) => std::fs::read(path).ok()?,
        (None, None) => return None,
    };
    leaf_validity(&pem).map(|validity| validity.not_after)
}

/// Files whose change means new credentials: the kubeconfig and what it points at.
pub(super) fn referenced_files(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    if let Ok(file) = Kubeconfig::read_from(path) {
        let clusters = file.clusters.into_iter().filter_map(|c| c.cluster);
        files.extend(clusters.filter_map(|c| c.certificate_authority.map(PathBuf::from)));
        for auth in file.auth_infos.into_iter().filter_map(|a| a.auth_info) {
            files.extend(auth.client_certificate.map(PathBuf::from));
            files.extend(auth.client_key.map(PathBuf::from));
        }
    }
    files
}

/// Where [`store`] writes.
pub(super) fn stored_path(pki_dir: &Path) -> PathBuf {
    pki_dir.join("kube-pet-client.kubeconfig")
}

/// Writes a kubeconfig of the cluster that names the node's certificate by path. It holds no secret itself.
pub(super) fn store(pki_dir: &Path, config: &Config, current: &Path) -> Result<(), CredentialError> {
    use std::fmt::Write;
    let mut ca = String::new();
    for der in config.root_cert.iter().flatten() {
        let _ = writeln!(ca, "-----BEGIN CERTIFICATE-----");
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            let _ = writeln!(ca, "{}", String::from_utf8_lossy(line));
        }
        let _ = writeln!(ca, "-----END CERTIFICATE-----");
    }
    let mut cluster = json!({ "server": config.cluster_url.to_string() });
    if !ca.is_empty() {
        cluster["certificate-authority-data"] = STANDARD.encode(ca).into();
    }
    if config.accept_invalid_certs {
        cluster["insecure-skip-tls-verify"] = true.into();
    }
    if let Some(name) = &config.tls_server_name {
        cluster["tls-server-name"] = name.clone().into();
    }
    if let Some(url) = &config.proxy_url {
        cluster["proxy-url"] = url.to_string().into();
    }
    let current = current.display().to_string();
    // JSON is YAML: no serializer needed.
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "default", "cluster": cluster }],
        "users": [{ "name": "node", "user": { "client-certificate": current, "client-key": current } }],
        "contexts": [{ "name": "default", "context": { "cluster": "default", "user": "node" } }],
        "current-context": "default",
    });
    write_private(&stored_path(pki_dir), &format!("{document:#}\n"))
}
