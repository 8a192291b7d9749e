//! Certificates of pods (`podCertificate` sources): for keys that are made here, signed by whoever the pod names.
//!
//! A certificate is requested when its volume is first set up, and again when its signer says; until the new one is issued, the old one
//! stays. Keys are never written but into the pod's volume: after a restart of the agent a new certificate is requested, and the volume keeps
//! what it had meanwhile. After the kubelet's `pkg/kubelet/podcertificate`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Node, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use kube_pet_core::ids::PodUid;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{DEADLINE, FetchError, Subject, after_binding};

const KIND: &str = "podcertificaterequest";
/// How long a volume that is set up waits for its first certificate at a time.
const FIRST: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A key and the chain of its certificate, as PEM. Its `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct CredentialBundle {
    key: String,
    chain: String,
}

impl CredentialBundle {
    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The certificate, and those between it and its authority.
    pub fn chain(&self) -> &str {
        &self.chain
    }
}

impl fmt::Debug for CredentialBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialBundle").finish_non_exhaustive()
    }
}

/// One source of one volume of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateKey {
    /// The pod.
    pub pod_uid: PodUid,
    /// Its volume.
    pub volume: String,
    /// The index of the source.
    pub source: usize,
}

/// For whom a certificate is.
#[derive(Clone, Debug)]
pub struct CertificateSpec<'a> {
    /// Which source wants it.
    pub key: CertificateKey,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod_name: &'a str,
    /// The pod's service account.
    pub account: &'a str,
    /// This node.
    pub node_name: &'a str,
    /// What the source says.
    pub projection: &'a PodCertificateProjection,
}

#[derive(Default)]
pub(super) struct CertificateStore {
    certificates: Mutex<HashMap<CertificateKey, Arc<tokio::sync::Mutex<Progress>>>>,
}

/// How far a source has come.
#[derive(Default)]
struct Progress {
    issued: Option<Issued>,
    pending: Option<Pending>,
    /// For good.
    refused: Option<FetchError>,
}

struct Issued {
    bundle: Arc<CredentialBundle>,
    refresh_at: Timestamp,
    not_after: Timestamp,
}

struct Pending {
    key: String,
    request: String,
}

impl CertificateStore {
    /// The certificate, as far as there is one; a new one is asked for when it is due.
    pub(super) async fn get(&self, client: Client, spec: &CertificateSpec<'_>) -> Result<Arc<CredentialBundle>, FetchError> {
        let progress = {
            let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
            certificates.entry(spec.key.clone()).or_default().clone()
        };
        // Of this one source: who sets the volume up, and who refreshes it, make one request between them.
        let mut progress = progress.lock().await;
        if let Some(refused) = &progress.refused {
            return Err(refused.clone());
        }
        if let Some(issued) = progress.issued.as_ref().filter(|issued| Timestamp::now() < issued.refresh_at) {
            return Ok(issued.bundle.clone());
        }
        let advanced = progress.advance(client, spec).await;
        match (advanced, &progress.issued) {
            (Ok(()), Some(issued)) => Ok(issued.bundle.clone()),
            (Ok(()), None) => Err(FetchError::NotIssued),
            (Err(error), Some(issued)) if error.is_outage() && Timestamp::now() < issued.not_after => {
                if !matches!(error, FetchError::NotIssued) {
                    warn!(namespace = spec.namespace, pod = spec.pod_name, %error, "a pod's certificate is not renewed yet");
                }
                Ok(issued.bundle.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    pub(super) fn forget(&self, pod: &PodUid) {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.pod_uid != *pod);
    }
}

impl Progress {
    /// Requests a certificate, or looks what has become of the request.
    async fn advance(&mut self, client: Client, spec: &CertificateSpec<'_>) -> Result<(), FetchError> {
        let limit = Instant::now() + if self.issued.is_some() { Duration::ZERO } else { FIRST };
        loop {
            let pending = match self.pending.take() {
                Some(pending) => pending,
                None => request(&client, spec).await?,
            };
            let requests: Api<PodCertificateRequest> = Api::namespaced(client.clone(), spec.namespace);
            let subject = Subject { kind: KIND, namespace: spec.namespace, name: &pending.request };
            let found = match call(subject, || requests.get_opt(&pending.request)).await {
                Ok(Some(found)) => found,
                // It was deleted: the next one is made by who asks next.
                Ok(None) => return Err(FetchError::NotIssued),
                Err(error) => {
                    self.pending = Some(pending);
                    return Err(error);
                }
            };
            match outcome(&found, &pending) {
                Some(Ok(issued)) => {
                    info!(namespace = spec.namespace, pod = spec.pod_name, request = pending.request, "a pod's certificate was issued");
                    self.issued = Some(issued);
                    return Ok(());
                }
                Some(Err(refused)) => {
                    self.refused = Some(refused.clone());
                    return Err(refused);
                }
                None => self.pending = Some(pending),
            }
            if Instant::now() >= limit {
                return Err(FetchError::NotIssued);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What has become of a request; `None` while it is not decided.
fn outcome(found: &PodCertificateRequest, pending: &Pending) -> Option<Result<Issued, FetchError>> {
    let status = found.status.as_ref()?;
    let decided =
        status.conditions.iter().flatten().find(|condition| ["Issued", "Denied", "Failed"].contains(&condition.type_.as_str()))?;
    let verdict = match decided.type_.as_str() {
        "Issued" => {
            let (chain, not_after) = (status.certificate_chain.clone()?, status.not_after.as_ref()?.0);
            let refresh_at = status.begin_refresh_at.as_ref().map_or(not_after, |at| at.0);
            let bundle = Arc::new(CredentialBundle { key: pending.key.clone(), chain });
            return Some(Ok(Issued { bundle, refresh_at, not_after }));
        }
        "Denied" => "denied",
        _ => "failed",
    };
    Some(Err(FetchError::CertificateRefused { verdict, reason: decided.reason.clone(), message: decided.message.clone() }))
}

/// Makes a key and requests a certificate for it.
async fn request(client: &Client, spec: &CertificateSpec<'_>) -> Result<Pending, FetchError> {
    let CertificateSpec { key, namespace, pod_name, account, node_name, projection } = spec;
    let uid_of = |meta: ObjectMeta| meta.uid.unwrap_or_default();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account_uid = uid_of(call(Subject { kind: "serviceaccount", namespace, name: account }, || accounts.get(account)).await?.metadata);
    let nodes: Api<Node> = Api::all(client.clone());
    let node_uid = uid_of(call(Subject { kind: "node", namespace: "", name: node_name }, || nodes.get(node_name)).await?.metadata);
    let (pem, proof) = generate(&projection.key_type)?;
    let body = PodCertificateRequest {
        metadata: ObjectMeta {
            namespace: Some((*namespace).to_owned()),
            generate_name: Some("req-".to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: (*pod_name).to_owned(),
                uid: key.pod_uid.to_string(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: PodCertificateRequestSpec {
            signer_name: projection.signer_name.clone(),
            pod_name: (*pod_name).to_owned(),
            pod_uid: key.pod_uid.to_string(),
            service_account_name: (*account).to_owned(),
            service_account_uid: account_uid,
            node_name: (*node_name).to_owned(),
            node_uid,
            max_expiration_seconds: projection.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(proof),
            unverified_user_annotations: projection.user_annotations.clone(),
        },
        ..PodCertificateRequest::default()
    };
    let (requests, parameters) = (Api::<PodCertificateRequest>::namespaced(client.clone(), namespace), PostParams::default());
    let made = call(Subject { kind: KIND, namespace, name: pod_name }, || requests.create(&parameters, &body)).await?;
    Ok(Pending { key: pem, request: made.metadata.name.unwrap_or_default() })
}

/// A new key as PEM, and a request without contents that proves that it is ours.
fn generate(key_type: &str) -> Result<(String, Vec<u8>), FetchError> {
    let failed = |reason: String| FetchError::Key { reason };
    let algorithm: &SignatureAlgorithm = match key_type {
        "ED25519" => &rcgen::PKCS_ED25519,
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        other => return Err(failed(format!("unknown key type {other:?}"))),
    };
    let key = KeyPair::generate_for(algorithm).map_err(|error| failed(error.to_string()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let proof = params.serialize_request(&key).map_err(|error| failed(error.to_string()))?;
    Ok((key.serialize_pem(), proof.der().to_vec()))
}

/// One call, with its deadline.
async fn call<T, F>(subject: Subject<'_>, make: impl Fn() -> F) -> Result<T, FetchError>
where
    F: Future<Output = kube::Result<T>>,
{
    after_binding(|| async {
        match tokio::time::timeout(DEADLINE, make()).await {
            Ok(done) => done.map_err(|error| subject.error(error)),
            Err(_) => Err(subject.timed_out()),
        }
    })
    .await
}
