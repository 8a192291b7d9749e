//! The certificate of port 10250: from configured files, or from the cluster's serving signer, or self-signed.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::{Timestamp, ToSpan};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType, date_time_ymd};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::backoff::{Backoff, between};
use super::credentials::{Credential, CredentialError, CredentialStore};
use super::csr::{self, CsrError, SERVING_SIGNER, Template, describe};
use super::renewal::sleep_until;
use super::user_name;
use crate::api::ApiHandle;
use crate::instruments;

/// How often configured files are compared with what is being served.
const FILE_CHECK: Duration = Duration::from_secs(15);

/// Names and addresses under which the node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingNames {
    /// Host names.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub ips: BTreeSet<IpAddr>,
}

/// Where the serving certificate comes from.
pub struct ServingOptions {
    /// The node's name.
    pub node_name: String,
    /// Where keys and certificates are kept.
    pub pki_dir: PathBuf,
    /// Certificate and key files (PEM); they win over everything else and are read again when they change.
    pub files: Option<(PathBuf, PathBuf)>,
    /// Whether to request a certificate from the signer `kubernetes.io/kubelet-serving` (`serverTLSBootstrap`).
    pub bootstrap: bool,
    /// The connection for these requests.
    pub api: Option<ApiHandle>,
    /// The node's names, which may change.
    pub names: watch::Receiver<ServingNames>,
}

/// Why no serving certificate could be set up.
#[derive(Debug, Error)]
pub enum ServingError {
    /// A configured file could not be read.
    #[error("reading the serving certificate file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Certificate and key are not usable together.
    #[error("serving certificate: {0}")]
    Unusable(#[source] CredentialError),
    /// The stored certificate could not be handled.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// A self-signed certificate could not be made.
    #[error("making a self-signed serving certificate for {node_name}")]
    SelfSign {
        /// The node's name.
        node_name: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// rustls refused the key.
    #[error("using the serving key of {origin}")]
    Key {
        /// Where the key came from.
        origin: String,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// The request for a certificate did not succeed.
    #[error(transparent)]
    Csr(#[from] CsrError),
}

/// The certificate that new connections are served with. Open connections keep theirs.
pub struct ServingCertificate {
    pub(super) current: ArcSwap<CertifiedKey>,
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// A serving certificate and the task that keeps it valid.
pub struct Serving {
    /// Give this to the TLS configuration of the server.
    pub certificate: Arc<ServingCertificate>,
    /// Run it for the agent's whole life.
    pub task: ServingTask,
}

/// Reloads, requests and renews the serving certificate.
pub struct ServingTask {
    options: ServingOptions,
    certificate: Arc<ServingCertificate>,
    store: Option<CredentialStore>,
    /// The certificate of the cluster's signer, if there is one.
    signed: Option<Credential>,
}

/// Prepares the serving certificate; never waits for the API server. Configured files must be usable.
pub fn serving(options: ServingOptions) -> Result<Serving, ServingError> {
    let names = options.names.borrow().clone();
    let (mut store, mut signed) = (None, None);
    let first = match &options.files {
        Some((certificate, key)) => certified(&from_files(certificate, key)?)?,
        None => {
            if options.bootstrap {
                let opened = CredentialStore::open(&options.pki_dir, "kube-pet-server")?;
                let now = Timestamp::now();
                signed = opened.load()?.filter(|c| now < c.validity().not_after);
                store = Some(opened);
            }
            match &signed {
                Some(credential) => certified(credential)?,
                None => self_signed(&options.node_name, &names)?,
            }
        }
    };
    let certificate = Arc::new(ServingCertificate { current: ArcSwap::from_pointee(first) });
    Ok(Serving { certificate: certificate.clone(), task: ServingTask { options, certificate, store, signed } })
}

impl ServingTask {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let work = async {
            match (self.options.files.clone(), self.store.take()) {
                (Some((certificate, key)), _) => self.follow_files(&certificate, &key).await,
                (None, Some(store)) => self.follow_signer(&store).await,
                (None, None) => self.follow_names().await,
            }
        };
        shutdown.run_until_cancelled(Box::pin(work)).await;
    }

    fn serve(&self, key: CertifiedKey) {
        self.certificate.current.store(Arc::new(key));
    }

    async fn follow_files(&self, certificate: &Path, key: &Path) {
        let read = || (std::fs::read(certificate).ok(), std::fs::read(key).ok());
        let mut seen = read();
        loop {
            tokio::time::sleep(FILE_CHECK).await;
            let now = read();
            if now == seen {
                continue;
            }
            seen = now;
            match from_files(certificate, key).and_then(|c| certified(&c)) {
                Ok(new) => {
                    info!(path = %certificate.display(), "serving certificate reloaded");
                    self.serve(new);
                }
                Err(error) => {
                    warn!(error = %describe(&error), "the changed serving certificate is not usable; the old one stays in use");
                }
            }
        }
    }

    /// Self-signed only: a new one for new names, or when the old one nears its end.
    async fn follow_names(&mut self) {
        loop {
            let renewal = tokio::time::sleep(Duration::from_secs(200 * 24 * 3600));
            tokio::select! {
                changed = self.options.names.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = renewal => {}
            }
            self.self_sign();
        }
    }

    fn self_sign(&mut self) {
        let names = self.options.names.borrow_and_update().clone();
        match self_signed(&self.options.node_name, &names) {
            Ok(key) => self.serve(key),
            Err(error) => {
                error!(error = %describe(&error), "the old serving certificate stays in use")
            }
        }
    }

    async fn follow_signer(&mut self, store: &CredentialStore) {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(300));
        loop {
            let names = self.options.names.borrow_and_update().clone();
            match &self.signed {
                Some(credential) => instruments::SERVER_CERTIFICATE_END.ends_at(credential.validity().not_after),
                None => self.self_sign(),
            }
            // A request with host names only is refused (AllowDNSOnlyNodeCSR is off): wait for an address.
            let fits = names.ips.is_empty() || self.signed.as_ref().is_some_and(|c| covers(c, &names));
            let mut changes = self.options.names.clone();
            if fits {
                let moment = self.signed.as_ref().map(|c| c.validity().at(between(0.7, 0.9)));
                let due = async {
                    match moment {
                        Some(moment) if !names.ips.is_empty() => sleep_until(moment).await,
                        _ => std::future::pending().await,
                    }
                };
                tokio::select! {
                    Ok(()) = changes.changed() => continue,
                    () = due => {}
                }
            }
            let request = self.request(store, &names);
            let outcome = tokio::select! {
                outcome = request => outcome,
                // Other names need another request.
                Ok(()) = changes.changed() => continue,
            };
            match outcome {
                Ok(credential) => {
                    info!(not_after = %credential.validity().not_after, "serving certificate from the cluster's signer in use");
                    self.signed = Some(credential);
                    backoff.reset();
                }
                // The node itself has no certificate yet, and that is reported already: go on as soon as it has.
                Err(error) if super::is_not_yet_identified(&error) => {
                    let mut api = self.options.api.clone();
                    let identified = async {
                        match &mut api {
                            Some(api) => api.replaced().await,
                            None => std::future::pending().await,
                        }
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(60), identified).await;
                }
                Err(error) => {
                    let wait = backoff.next();
                    instruments::SERVER_RENEW_ERRORS.add(&[]);
                    warn!(error = %describe(&error), retry_in_s = wait.as_secs(), "no serving certificate from the cluster's signer");
                    let spent = matches!(&error, ServingError::Csr(e) if e.is_final())
                        || matches!(&error, ServingError::Credentials(CredentialError::Unusable { .. }));
                    if spent && let Err(error) = store.drop_pending_key() {
                        error!(error = %describe(&error), "forgetting the refused key");
                    }
                    tokio::time::sleep(wait).await;
                    if self.signed.as_ref().is_some_and(|c| c.validity().not_after <= Timestamp::now()) {
                        self.signed = None;
                    }
                }
            }
        }
    }

    async fn request(&self, store: &CredentialStore, names: &ServingNames) -> Result<Credential, ServingError> {
        let Some(api) = &self.options.api else {
            return std::future::pending().await;
        };
        let key = store.pending_key()?;
        let user = user_name(&self.options.node_name);
        let dns: Vec<String> = names.dns.iter().cloned().collect();
        let ips: Vec<IpAddr> = names.ips.iter().copied().collect();
        let template = Template { signer: SERVING_SIGNER, common_name: &user, dns: &dns, ips: &ips };
        let mut replaced = api.clone();
        let chain = loop {
            let client = api.client();
            tokio::select! {
                chain = csr::obtain(&client, &template, &key) => break chain?,
                // The request's wait can be long; go on with the new identity.
                () = replaced.replaced() => {}
            }
        };
        let origin = format!("the certificate issued for {}", template.request_name(&key));
        let pem = format!("{chain}\n{}", key.serialize_pem());
        let credential = Credential::parse(&origin, store.current_path(), &pem)?;
        let served = certified(&credential)?;
        store.install(&credential)?;
        self.serve(served);
        Ok(credential)
    }
}

fn covers(credential: &Credential, names: &ServingNames) -> bool {
    names.dns.iter().all(|name| credential.dns().contains(name)) && names.ips.iter().all(|ip| credential.ips().contains(ip))
}

fn from_files(certificate: &Path, key: &Path) -> Result<Credential, ServingError> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|source| ServingError::Read { path: path.to_owned(), source });
    let origin = format!("{} with {}", certificate.display(), key.display());
    let pem = if certificate == key { read(certificate)? } else { format!("{}\n{}", read(certificate)?, read(key)?) };
    Credential::parse(&origin, certificate.to_owned(), &pem).map_err(ServingError::Unusable)
}

fn certified(credential: &Credential) -> Result<CertifiedKey, ServingError> {
    let origin = credential.path().display().to_string();
    let chain = CertificateDer::pem_slice_iter(credential.chain_pem().as_bytes()).flatten().collect();
    let key = PrivateKeyDer::from_pem_slice(credential.key_pem().as_bytes())
        .map_err(|e| ServingError::Unusable(CredentialError::Unusable { origin: origin.clone(), reason: e.to_string() }))?;
    let key = any_supported_type(&key).map_err(|source| ServingError::Key { origin, source })?;
    Ok(CertifiedKey::new(chain, key))
}

/// A certificate of one year for the node's names, made anew at each start: nobody can pin it, nobody needs to.
fn self_signed(node_name: &str, names: &ServingNames) -> Result<CertifiedKey, ServingError> {
    let failed = |source| ServingError::SelfSign { node_name: node_name.to_owned(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, format!("{node_name}@{}", Timestamp::now().as_second()));
    params.distinguished_name = subject;
    for name in &names.dns {
        match name.as_str().try_into() {
            Ok(name) => params.subject_alt_names.push(SanType::DnsName(name)),
            Err(error) => warn!(name, %error, "not a host name that a certificate can hold"),
        }
    }
    params.subject_alt_names.extend(names.ips.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let day = |days: i64| {
        let zoned = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let date = zoned.date().checked_add(days.days()).unwrap_or(zoned.date());
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(-1);
    params.not_after = day(366);
    let certificate = params.self_signed(&key).map_err(failed)?;
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    let credential = Credential::parse("the self-signed certificate", PathBuf::new(), &pem)?;
    certified(&credential)
}
