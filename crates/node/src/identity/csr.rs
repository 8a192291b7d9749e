//! CertificateSigningRequests: made once per key, followed until they are decided.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error as KubeError};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SanType};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tracing::{info, warn};

/// Signs client certificates of nodes; the controller manager approves these requests by itself.
pub(super) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes; never approved by the controller manager itself.
pub(super) const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// A request for a certificate that did not lead to one.
#[derive(Debug, Error)]
pub enum CsrError {
    /// Somebody denied the request.
    #[error("certificate request {name} was denied: {message}")]
    Denied {
        /// The request's name.
        name: String,
        /// Reason and message of the denial.
        message: String,
    },
    /// The signer could not sign it.
    #[error("certificate request {name} failed: {message}")]
    Failed {
        /// The request's name.
        name: String,
        /// Reason and message of the failure.
        message: String,
    },
    /// The API server refused to store the request.
    #[error("creating certificate request {name}")]
    Create {
        /// The request's name.
        name: String,
        /// The cause.
        #[source]
        source: Box<KubeError>,
    },
    /// The request could not be encoded.
    #[error("encoding the certificate request for {subject}")]
    Encode {
        /// The subject's common name.
        subject: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
}

impl CsrError {
    /// Whether this key's request is decided for good: only a new key, and so a new request, can succeed.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Failed { .. })
    }
}

/// What to ask for.
#[derive(Clone, Debug)]
pub(super) struct Template<'a> {
    pub(super) signer: &'static str,
    pub(super) common_name: &'a str,
    pub(super) dns: &'a [String],
    pub(super) ips: &'a [IpAddr],
}

impl Template<'_> {
    fn usages(&self) -> [&'static str; 2] {
        // No "key encipherment": that is for RSA keys, and the approver accepts both sets.
        let purpose = if self.signer == SERVING_SIGNER { "server auth" } else { "client auth" };
        ["digital signature", purpose]
    }

    /// The same key and names give the same request: a restart, or a lost answer, finds the one that it made.
    pub(super) fn request_name(&self, key: &KeyPair) -> String {
        let mut hash = Sha256::new();
        hash.update(key.subject_public_key_info());
        hash.update(self.signer);
        hash.update(self.common_name);
        for name in self.dns {
            hash.update([0]);
            hash.update(name);
        }
        for ip in self.ips {
            hash.update([1]);
            hash.update(ip.to_string());
        }
        let mut name = String::from("node-csr-");
        for byte in &hash.finalize()[..20] {
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    fn encode(&self, key: &KeyPair) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "system:nodes");
        subject.push(DnType::CommonName, self.common_name);
        params.distinguished_name = subject;
        for name in self.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        params.serialize_request(key)?.pem()
    }
}

/// Creates the request, or finds the one that this key already made, and waits until it is decided. Returns the
/// issued chain as PEM.
///
/// Waits without limit; the wait may be dropped at any time and taken up again with the same key. An API server that
/// is away while waiting is waited for.
pub(super) async fn obtain(client: &Client, template: &Template<'_>, key: &KeyPair) -> Result<String, CsrError> {
    let name = template.request_name(key);
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    create(&api, template, key, &name).await?;
    let started = Instant::now();
    let mut poll = Duration::from_millis(100);
    let mut next_report = Duration::from_secs(10);
    loop {
        tokio::time::sleep(poll).await;
        poll = (poll * 2).min(Duration::from_secs(5));
        match api.get_opt(&name).await {
            Ok(Some(request)) => {
                let state = state(&request.status.unwrap_or_default());
                let waiting_for = match state {
                    State::Issued(pem) => {
                        info!(csr = %name, signer = template.signer, "certificate issued");
                        return Ok(pem);
                    }
                    State::Denied(message) => return Err(CsrError::Denied { name, message }),
                    State::Failed(message) => return Err(CsrError::Failed { name, message }),
                    State::Approved => "approved, but its signer has not issued it yet".to_owned(),
                    State::Pending => format!("not approved yet; approve it with `kubectl certificate approve {name}`"),
                };
                if started.elapsed() >= next_report {
                    next_report = started.elapsed() + Duration::from_secs(300);
                    warn!(csr = %name, signer = template.signer, waited_s = started.elapsed().as_secs(), "the certificate request is {waiting_for}");
                }
            }
            // Undecided requests are garbage-collected after a day, decided ones after an hour.
            Ok(None) => create(&api, template, key, &name).await?,
            Err(error) => {
                warn!(csr = %name, error = %describe(&error), "reading the certificate request; trying again");
            }
        }
    }
}

async fn create(api: &Api<CertificateSigningRequest>, template: &Template<'_>, key: &KeyPair, name: &str) -> Result<(), CsrError> {
    let pem = template.encode(key).map_err(|source| CsrError::Encode { subject: template.common_name.to_owned(), source })?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: template.signer.to_owned(),
            usages: Some(template.usages().map(str::to_owned).to_vec()),
            ..Default::default()
        },
        status: None,
    };
    match api.create(&PostParams::default(), &request).await {
        Ok(_) => {
            info!(csr = %name, signer = template.signer, "certificate requested");
            Ok(())
        }
        Err(KubeError::Api(status)) if status.reason == "AlreadyExists" => {
            info!(csr = %name, signer = template.signer, "going on with the certificate request made before");
            Ok(())
        }
        Err(source) => Err(CsrError::Create { name: name.to_owned(), source: Box::new(source) }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Pending,
    Approved,
    Denied(String),
    Failed(String),
    Issued(String),
}

fn state(status: &CertificateSigningRequestStatus) -> State {
    let condition = |kind: &str| status.conditions.iter().flatten().rfind(|c| c.type_ == kind);
    let text = |c: &k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition| {
        let reason = c.reason.as_deref().unwrap_or("no reason given");
        match c.message.as_deref().filter(|m| !m.is_empty()) {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        }
    };
    if let Some(denied) = condition("Denied") {
        return State::Denied(text(denied));
    }
    if let Some(failed) = condition("Failed") {
        return State::Failed(text(failed));
    }
    let issued = status.certificate.as_ref().map(|c| c.0.as_slice());
    match (condition("Approved"), issued) {
        (Some(_), Some(pem)) if !pem.is_empty() => State::Issued(String::from_utf8_lossy(pem).into_owned()),
        (Some(_), _) => State::Approved,
        (None, _) => State::Pending,
    }
}

/// An error with its causes on one line: the outer text of a failed connection says nothing by itself.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state_of(status: serde_json::Value) -> State {
        state(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn decisions_are_read_from_conditions() {
        assert_eq!(state_of(json!({})), State::Pending);
        let approved = json!([{"type": "Approved", "status": "True", "reason": "AutoApproved"}]);
        assert_eq!(state_of(json!({"conditions": approved})), State::Approved);
        assert_eq!(state_of(json!({"conditions": approved, "certificate": "UEVN"})), State::Issued("PEM".into()));
        let denied = json!([{"type": "Approved", "status": "True"},
            {"type": "Denied", "status": "True", "reason": "NotMine", "message": "unknown node"}]);
        assert_eq!(state_of(json!({"conditions": denied, "certificate": "UEVN"})), State::Denied("NotMine: unknown node".into()));
        let failed = json!([{"type": "Failed", "status": "True", "reason": "SignerValidationFailure"}]);
        assert_eq!(state_of(json!({"conditions": failed})), State::Failed("SignerValidationFailure".into()));
        // A certificate without an approval is somebody's mistake, not ours to use.
        assert_eq!(state_of(json!({"certificate": "UEVN"})), State::Pending);
    }

    #[test]
    fn the_name_follows_key_and_names() {
        let key = KeyPair::generate().unwrap();
        let ips = [IpAddr::from([10, 0, 0, 1])];
        let template = Template { signer: SERVING_SIGNER, common_name: "system:node:a", dns: &[], ips: &ips };
        let name = template.request_name(&key);
        assert_eq!(name, template.request_name(&key));
        assert_ne!(name, template.request_name(&KeyPair::generate().unwrap()));
        let moved = Template { ips: &[IpAddr::from([10, 0, 0, 2])], ..template.clone() };
        assert_ne!(name, moved.request_name(&key));
        assert_eq!(name.len(), "node-csr-".len() + 40);
    }
}
