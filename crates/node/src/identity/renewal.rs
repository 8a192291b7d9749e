//! The tasks that keep the client credentials valid.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use kube::{Client, Config, Error as KubeError};
use rcgen::KeyPair;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::backoff::{Backoff, between};
use super::credentials::{Credential, CredentialError, CredentialStore};
use super::csr::{self, CLIENT_SIGNER, CsrError, Template, describe};
use super::{IdentityError, clock, kubeconfig, user_name};
use crate::instruments;

/// The kubelet gives up on a request after this long too; here it only means choosing the requesting client again.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Error)]
enum RenewalError {
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("certificate request {name} was not decided within {} minutes", ATTEMPT_LIMIT.as_secs() / 60)]
    Undecided { name: String },
    #[error("the certificate issued for {name} is for {found:?}, not for {expected}")]
    WrongSubject { name: String, expected: String, found: Option<String> },
    #[error("the certificate issued for {name} is valid from {not_before} to {not_after}, but it is {now} here")]
    OutOfTime { name: String, not_before: Timestamp, not_after: Timestamp, now: Timestamp },
    #[error("the API server refuses the new certificate")]
    Refused(#[source] Box<KubeError>),
    #[error("trying the new certificate")]
    Untried(#[source] Box<KubeError>),
}

impl RenewalError {
    /// Whether the key under way can no longer lead to a usable certificate.
    fn spends_key(&self) -> bool {
        match self {
            Self::Csr(error) => error.is_final(),
            Self::WrongSubject { .. } | Self::Refused(_) => true,
            // The issued certificate does not fit the key: somebody else's request under our name.
            Self::Credentials(error) => matches!(error, CredentialError::Unusable { .. }),
            Self::OutOfTime { not_after, now, .. } => not_after <= now,
            Self::Identity(_) | Self::Undecided { .. } | Self::Untried(_) => false,
        }
    }
}

/// Credentials from certificate requests.
pub(super) struct Managed {
    pub(super) node_name: String,
    pub(super) pki_dir: PathBuf,
    pub(super) bootstrap: Option<PathBuf>,
    pub(super) config: Config,
    pub(super) store: CredentialStore,
    pub(super) current: Option<Credential>,
    pub(super) sender: watch::Sender<Client>,
    pub(super) ready: watch::Sender<bool>,
}

impl Managed {
    pub(super) async fn run(mut self) {
        loop {
            if let Some(credential) = &self.current {
                let validity = credential.validity();
                // Random, so that nodes that joined together do not renew together.
                let moment = validity.at(between(0.7, 0.9));
                info!(not_after = %validity.not_after, renewal_at = %moment, "client certificate in use");
                self.warn_if_out_of_time(credential).await;
                sleep_until(moment).await;
            }
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(120));
            while let Err(error) = self.renew().await {
                let wait = backoff.next();
                instruments::CLIENT_RENEW_ERRORS.add(&[]);
                self.report(&error, wait).await;
                if error.spends_key()
                    && let Err(error) = self.store.drop_pending_key()
                {
                    error!(error = %describe(&error), "forgetting the refused key");
                }
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn warn_if_out_of_time(&self, credential: &Credential) {
        let (validity, now) = (credential.validity(), Timestamp::now());
        if now < validity.not_before || now >= validity.not_after {
            let cause = clock::explanation(&self.config).await.unwrap_or_default();
            error!(path = %credential.path().display(), not_before = %validity.not_before, not_after = %validity.not_after,
                "the stored client certificate is not valid now; {cause}");
        }
    }

    async fn report(&self, error: &RenewalError, wait: Duration) {
        let retry_in_s = wait.as_secs();
        let hint = match error {
            RenewalError::Csr(CsrError::Create { source, .. }) => match source.as_ref() {
                KubeError::Api(status) if status.code == 401 => {
                    Some("the credentials were refused: a bootstrap token ends after its ttl; make a new one".to_owned())
                }
                KubeError::Api(status) if status.code == 403 => {
                    Some("the user of the bootstrap kubeconfig needs the ClusterRole system:node-bootstrapper".to_owned())
                }
                KubeError::Api(_) => None,
                _ => clock::explanation(&self.config).await,
            },
            RenewalError::OutOfTime { .. } | RenewalError::Untried(_) => clock::explanation(&self.config).await,
            _ => None,
        };
        let error = describe(error);
        // Recorded only where there is one.
        let hint = hint.as_deref();
        if self.current.is_some() {
            warn!(%error, retry_in_s, hint, "the client certificate could not be renewed; the old one stays in use");
        } else {
            error!(%error, retry_in_s, hint, "no client certificate yet");
        }
    }

    /// Requests a certificate, tries it, and only then puts it in the place of the old one.
    async fn renew(&mut self) -> Result<(), RenewalError> {
        let user = user_name(&self.node_name);
        let requester = self.requester().await?;
        let key = self.store.pending_key()?;
        let template = Template { signer: CLIENT_SIGNER, common_name: &user, dns: &[], ips: &[] };
        let name = template.request_name(&key);
        let obtain = csr::obtain(&requester, &template, &key);
        let chain = match tokio::time::timeout(ATTEMPT_LIMIT, obtain).await {
            Ok(chain) => chain?,
            Err(_) => return Err(RenewalError::Undecided { name }),
        };
        let credential = self.examine(&name, &user, &key, &chain)?;
        let config = kubeconfig::with_credential(&self.config, &credential);
        let client = kubeconfig::client(config)?;
        try_out(&client).await?;
        self.store.install(&credential)?;
        // A failure here costs only the start without the bootstrap file.
        if let Err(error) = kubeconfig::store(&self.pki_dir, &self.config, &self.store.current_path()) {
            warn!(error = %describe(&error), "the node's own kubeconfig was not written");
        }
        self.sender.send_replace(client);
        self.ready.send_replace(true);
        self.current = Some(credential);
        Ok(())
    }

    /// The client that asks: the node itself while its certificate is valid, else the bootstrap user.
    async fn requester(&mut self) -> Result<Client, RenewalError> {
        let now = Timestamp::now();
        let valid = self.current.as_ref().filter(|c| now < c.validity().not_after || self.bootstrap.is_none());
        if let Some(credential) = valid {
            let config = kubeconfig::with_credential(&self.config, credential);
            return Ok(kubeconfig::client(config)?);
        }
        // Read each time: the way to heal an expired token is to write a new one.
        if let Some(path) = &self.bootstrap {
            self.config = kubeconfig::load(path).await?;
        }
        Ok(kubeconfig::client(self.config.clone())?)
    }

    fn examine(&self, name: &str, user: &str, key: &KeyPair, chain: &str) -> Result<Credential, RenewalError> {
        let pem = format!("{chain}\n{}", key.serialize_pem());
        let origin = format!("the certificate issued for {name}");
        let credential = Credential::parse(&origin, self.store.current_path(), &pem)?;
        if credential.common_name() != Some(user) {
            return Err(RenewalError::WrongSubject {
                name: name.to_owned(),
                expected: user.to_owned(),
                found: credential.common_name().map(str::to_owned),
            });
        }
        let (validity, now) = (credential.validity(), Timestamp::now());
        if now < validity.not_before || now >= validity.not_after {
            return Err(RenewalError::OutOfTime {
                name: name.to_owned(),
                not_before: validity.not_before,
                not_after: validity.not_after,
                now,
            });
        }
        Ok(credential)
    }
}

/// Makes one authenticated call with the new certificate.
async fn try_out(client: &Client) -> Result<(), RenewalError> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut attempts = 5;
    loop {
        let error = match api.create(&PostParams::default(), &SelfSubjectReview::default()).await {
            Ok(_) => return Ok(()),
            Err(KubeError::Api(status)) if status.code == 401 => {
                return Err(RenewalError::Refused(Box::new(KubeError::Api(status))));
            }
            // Any other answer came after authentication.
            Err(KubeError::Api(status)) if status.code < 500 => {
                debug!(code = status.code, "the review of the new certificate was not allowed, but it was accepted");
                return Ok(());
            }
            Err(error) => error,
        };
        attempts -= 1;
        if attempts == 0 {
            return Err(RenewalError::Untried(Box::new(error)));
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Sleeps until a moment of the wall clock, also over a suspend or a clock step.
pub(super) async fn sleep_until(moment: Timestamp) {
    loop {
        let left = moment.duration_since(Timestamp::now());
        let Ok(left) = Duration::try_from(left) else {
            return;
        };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_secs(60))).await;
    }
}

/// Credentials from a kubeconfig that somebody else keeps valid.
pub(super) struct Reloaded {
    path: PathBuf,
    seen: Fingerprint,
    sender: watch::Sender<Client>,
}

type Fingerprint = [u8; 32];

impl Reloaded {
    pub(super) fn new(path: PathBuf, sender: watch::Sender<Client>) -> Self {
        let seen = fingerprint(&path);
        Self { path, seen, sender }
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(Duration::from_secs(30)).await;
            self.check().await;
        }
    }

    pub(super) async fn check(&mut self) {
        let now = fingerprint(&self.path);
        if now == self.seen {
            return;
        }
        self.seen = now;
        let client = match kubeconfig::load(&self.path).await {
            Ok(config) => kubeconfig::client(config),
            Err(error) => Err(error),
        };
        match client {
            Ok(client) => {
                info!(path = %self.path.display(), "the kubeconfig or a file that it names has changed; using the new credentials");
                self.sender.send_replace(client);
            }
            Err(error) => {
                warn!(error = %describe(&error), "the changed kubeconfig is not usable; the old credentials stay in use");
            }
        }
    }
}

fn fingerprint(path: &std::path::Path) -> Fingerprint {
    let mut hash = Sha256::new();
    for file in kubeconfig::referenced_files(path) {
        let contents = std::fs::read(&file).unwrap_or_default();
        hash.update(contents.len().to_le_bytes());
        hash.update(contents);
    }
    hash.finalize().into()
}
