//! Certificates of pods; the test is their signer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube_pet_lab::eventually;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use crate::harness::{Bed, SOON, phase_of, shell};

impl Bed {
    /// Waits for the request of a pod that nobody has decided.
    async fn certificate_request(&self, pod: &str) -> Result<PodCertificateRequest> {
        let requests: Api<PodCertificateRequest> = self.api();
        eventually(SOON, &format!("a request of {pod}"), || async {
            let found = requests.list(&ListParams::default()).await?.items.into_iter().find(|request| request.spec.pod_name == pod);
            found.context("there is none")
        })
        .await
    }

    async fn decide(&self, request: &PodCertificateRequest, kind: &str, status: Value) -> Result<()> {
        let requests: Api<PodCertificateRequest> = self.api();
        let mut status = status;
        let now = Timestamp::now().to_string();
        status["conditions"] = json!([{"type": kind, "status": "True", "reason": "Test", "message": "said so", "lastTransitionTime": now}]);
        let name = request.metadata.name.as_deref().unwrap_or_default();
        requests.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await?;
        Ok(())
    }

    async fn certified(&self, name: &str, key_type: &str) -> Result<()> {
        let mut container = shell("c", "cat /v/chain.pem; head -1 /v/key.pem; stat -L -c %a /v/key.pem; wc -l < /v/bundle.pem; sleep 3600");
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        let source = json!({"podCertificate": {"signerName": "example.com/e2e", "keyType": key_type,
            "credentialBundlePath": "bundle.pem", "keyPath": "key.pem", "certificateChainPath": "chain.pem"}});
        let volumes = json!([{"name": "v", "projected": {"defaultMode": 0o600, "sources": [source]}}]);
        self.pod(name, json!({"containers": [container], "volumes": volumes})).await.map(drop)
    }
}

/// A chain for the key of a request, as PEM, and the status that goes with it.
fn issue(request: &PodCertificateRequest) -> Result<(String, Value)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut asked = CertificateSigningRequestParams::from_der(&request.spec.stub_pkc_s10_request.0.as_slice().into())?;
    let now = Timestamp::from_second(Timestamp::now().as_second())?;
    let at = |time: Timestamp| -> Result<_> { Ok(date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(time.as_second())?)) };
    let end = now + SignedDuration::from_hours(2);
    (asked.params.not_before, asked.params.not_after) = (at(now)?, at(end)?);
    let chain = asked.signed_by(&authority)?.pem().replace("\r\n", "\n");
    let refresh = now + SignedDuration::from_hours(1);
    let status = json!({"certificateChain": chain, "notBefore": now.to_string(), "notAfter": end.to_string(), "beginRefreshAt": refresh.to_string()});
    Ok((chain, status))
}

#[e2e]
async fn e2e_a_pod_gets_the_certificate_that_its_signer_issues() -> Result<()> {
    let bed = Bed::shared("certificate").await?;
    for (name, key_type) in [("ed", "ED25519"), ("ec", "ECDSAP384")] {
        bed.certified(name, key_type).await?;
        let request = bed.certificate_request(name).await?;
        ensure!(request.spec.node_name == bed.pet.name());
        ensure!(phase_of(&bed.get(name).await?) == "Pending");
        let (chain, status) = issue(&request)?;
        bed.decide(&request, "Issued", status).await?;
        bed.phase(name, "Running").await?;
        let expected = format!("{chain}-----BEGIN PRIVATE KEY-----\n600\n");
        eventually(SOON, "the files", || async {
            let log = bed.logs(name).await?;
            let lines = log.strip_prefix(&expected).with_context(|| format!("{log} does not begin with {expected}"))?;
            ensure!(lines.trim().parse::<usize>()? > chain.lines().count() + 2, "{log}");
            Ok(())
        })
        .await?;
    }
    bed.certified("denied", "ECDSAP256").await?;
    bed.decide(&bed.certificate_request("denied").await?, "Denied", json!({})).await?;
    bed.event("denied", "PodCertificateRequest was permanently denied: reason=\"Test\" message=\"said so\"").await?;
    ensure!(phase_of(&bed.get("denied").await?) == "Pending");
    bed.done().await
}
