//! The cluster's CA by its hash, as kubeadm finds it: the ConfigMap `cluster-info` in `kube-public` is public, and the hash says whether
//! what it holds is true.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::Kubeconfig;
use kube::{Api, Client, Config};
use rustls::CertificateError;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The CA is not found out.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// The URL.
    #[error("{0:?} is no URL")]
    Server(String),
    /// It is not there, or may not be read.
    #[error(
        "reading the ConfigMap cluster-info in kube-public of {server}, without credentials; a cluster that has none needs a join token \
         made without --ca-hash"
    )]
    Read {
        /// The API server.
        server: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// It holds no CA.
    #[error("the ConfigMap cluster-info of {server} holds no kubeconfig with a CA")]
    Content {
        /// The API server.
        server: String,
    },
    /// It holds another one.
    #[error("{server} is not the cluster of the join token: no CA of its cluster-info has the hash {wanted}, but {found}")]
    WrongHash {
        /// The API server.
        server: String,
        /// What the token says.
        wanted: String,
        /// What is there.
        found: String,
    },
}

/// The CA (PEM) of the server whose public key has this hash.
pub(super) async fn authority(server: &str, wanted: &str) -> Result<String, DiscoveryError> {
    let mut config = Config::new(server.parse().map_err(|_| DiscoveryError::Server(server.to_owned()))?);
    // Nothing is sent, and nothing is believed that has not the hash.
    config.accept_invalid_certs = true;
    config.connect_timeout = Some(Duration::from_secs(10));
    let read = |source| DiscoveryError::Read { server: server.to_owned(), source: Box::new(source) };
    let maps: Api<ConfigMap> = Api::namespaced(Client::try_from(config).map_err(read)?, "kube-public");
    let map = maps.get("cluster-info").await.map_err(read)?;
    let content = || {
        let kubeconfig = Kubeconfig::from_yaml(map.data.as_ref()?.get("kubeconfig")?).ok()?;
        let cluster = kubeconfig.clusters.into_iter().find_map(|named| named.cluster)?;
        String::from_utf8(STANDARD.decode(cluster.certificate_authority_data?).ok()?).ok()
    };
    let pem = content().ok_or_else(|| DiscoveryError::Content { server: server.to_owned() })?;
    let found: Vec<_> = certificates(&pem).unwrap_or_default().iter().filter_map(|der| public_key_hash(der)).collect();
    if found.iter().any(|hash| hash.eq_ignore_ascii_case(wanted)) {
        return Ok(pem);
    }
    Err(DiscoveryError::WrongHash { server: server.to_owned(), wanted: wanted.to_owned(), found: found.join(", ") })
}

/// The certificates of a PEM; `None` where there is none, or something is broken.
pub(super) fn certificates(pem: &str) -> Option<Vec<Vec<u8>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.map(|der| der.to_vec())).collect();
    all.ok().filter(|all| !all.is_empty())
}

fn public_key_hash(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let hash: String = Sha256::digest(certificate.public_key().raw).iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256:{hash}"))
}

/// Whether the server's certificate was not accepted.
pub(super) fn is_certificate_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    certificate_error(error).is_some()
}

/// Whether it was not accepted because of the time.
pub(super) fn is_of_another_time(error: &(dyn std::error::Error + 'static)) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(certificate_error(error), Some(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }))
}

fn certificate_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(error)) = error.downcast_ref() {
        return Some(error);
    }
    // An io::Error shows what it holds as if it were itself: its source is that one's source.
    let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    held.and_then(|held| certificate_error(held)).or_else(|| error.source().and_then(certificate_error))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_refused_certificate_is_found_in_what_holds_it() {
        let refused = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(is_certificate_refusal(&io::Error::other(io::Error::new(io::ErrorKind::InvalidData, refused()))));
        assert!(is_certificate_refusal(&kube::Error::Service(Box::new(io::Error::other(refused())))));
        assert!(!is_of_another_time(&io::Error::other(refused())));
        assert!(is_of_another_time(&io::Error::other(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYet))));
        assert!(!is_certificate_refusal(&io::Error::other("refused")));
        assert!(!is_certificate_refusal(&rustls::Error::HandshakeNotComplete));
    }
}
