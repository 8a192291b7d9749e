//! The CAs of client certificates, and the TLS side of asking for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;

/// Whose client certificates are accepted.
#[derive(Clone, Debug)]
pub enum ClientCa {
    /// Nobody's.
    None,
    /// Those of the CAs in this PEM file, which is read again when it changes.
    File(PathBuf),
    /// Those of these CAs: by default the cluster's, as the kubeconfig has it.
    Certificates(Vec<CertificateDer<'static>>),
}

/// CA certificates that cannot be used.
#[derive(Debug, Error)]
pub enum ClientCaError {
    /// The file could not be read.
    #[error("reading the client CA file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not PEM, or one of its certificates is not a CA certificate.
    #[error("client CA {origin}: {reason}")]
    Unusable {
        /// The file, or where else the certificates came from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
}

/// The ring provider; everything on 10250 uses it.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

struct Loaded {
    pem: Option<Vec<u8>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// The CAs in use.
pub(super) struct ClientCas {
    source: ClientCa,
    loaded: ArcSwapOption<Loaded>,
}

impl ClientCas {
    pub(super) fn load(source: ClientCa) -> Result<Self, ClientCaError> {
        let loaded = match &source {
            ClientCa::None => None,
            ClientCa::Certificates(list) if list.is_empty() => None,
            ClientCa::Certificates(list) => Some(Loaded { pem: None, verifier: verifier("of the kubeconfig", list.clone())? }),
            ClientCa::File(path) => Some(from_file(path)?),
        };
        Ok(Self { source, loaded: ArcSwapOption::from_pointee(loaded) })
    }

    /// Reads the file again if it has changed; `true` if other CAs are in use now.
    pub(super) fn reload(&self) -> Result<bool, ClientCaError> {
        let ClientCa::File(path) = &self.source else {
            return Ok(false);
        };
        let now = read(path)?;
        if self.loaded.load().as_ref().and_then(|l| l.pem.as_ref()) == Some(&now) {
            return Ok(false);
        }
        self.loaded.store(Some(Arc::new(from_pem(path, now)?)));
        Ok(true)
    }

    /// Checks a presented chain: issuer, time, and that it is for client authentication.
    pub(super) fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<(), TlsError> {
        let loaded = self.loaded.load();
        let (Some(loaded), Some((leaf, intermediates))) = (loaded.as_ref(), chain.split_first()) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        loaded.verifier.verify_client_cert(leaf, intermediates, UnixTime::now())?;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ClientCaError> {
    std::fs::read(path).map_err(|source| ClientCaError::Read { path: path.to_owned(), source })
}

fn from_file(path: &Path) -> Result<Loaded, ClientCaError> {
    from_pem(path, read(path)?)
}

fn from_pem(path: &Path, pem: Vec<u8>) -> Result<Loaded, ClientCaError> {
    let origin = path.display().to_string();
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| ClientCaError::Unusable { origin: origin.clone(), reason: e.to_string() })?;
    Ok(Loaded { verifier: verifier(&origin, certificates)?, pem: Some(pem) })
}

fn verifier(origin: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, ClientCaError> {
    let unusable = |reason: String| ClientCaError::Unusable { origin: origin.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|e| unusable(e.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build().map_err(|e| unusable(e.to_string()))?;
    Ok(verifier)
}

/// Takes any client certificate whose key the client has; which ones count is decided per request. So a client with a
/// foreign certificate gets an HTTP 401 like from a kubelet, or uses its token, and changed CAs count for open
/// connections too.
#[derive(Debug)]
pub(super) struct AskForCertificate(pub(super) Arc<CryptoProvider>);

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
