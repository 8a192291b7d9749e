//! Service-account tokens in pods.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::Bed;

#[e2e]
async fn e2e_the_pods_token_is_accepted_and_bound_to_the_pod() -> Result<()> {
    let bed = Bed::shared("token").await?;
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let script = format!("cat {folder}/token; echo; cat {folder}/namespace; echo; head -1 {folder}/ca.crt");
    let log = bed.script("p", &script, json!({})).await?;
    let lines: Vec<&str> = log.lines().collect();
    ensure!(lines.len() == 3, "{log}");
    ensure!(lines[1] == bed.namespace && lines[2] == "-----BEGIN CERTIFICATE-----", "{log}");
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": lines[0]},
    });
    let answer = bed.lab.kubectl_with_input(&["create", "-o", "json", "-f", "-"], &review.to_string()).await?;
    let status = serde_json::from_str::<Value>(&answer)?["status"].take();
    ensure!(status["authenticated"] == true, "{status}");
    let user = format!("system:serviceaccount:{}:default", bed.namespace);
    ensure!(status["user"]["username"] == user.as_str(), "{status}");
    let pod = bed.get("p").await?;
    let uid = pod.metadata.uid.context("a UID")?;
    let bound = &status["user"]["extra"]["authentication.kubernetes.io/pod-uid"][0];
    ensure!(bound == uid.as_str(), "{status}");
    bed.done().await
}

#[e2e]
async fn e2e_a_projected_token_has_its_audience() -> Result<()> {
    let bed = Bed::shared("audience").await?;
    let spec = json!({
        "automountServiceAccountToken": false,
        "container": {"volumeMounts": [{"name": "t", "mountPath": "/t"}]},
        "volumes": [{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "audience": "somebody", "expirationSeconds": 600}},
        ]}}],
    });
    let log = bed.script("p", "cut -d. -f2 /t/token; ls /var/run/secrets 2>&1 | head -1", spec).await?;
    let payload = log.lines().next().unwrap_or_default();
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload)?;
    let claims: Value = serde_json::from_slice(&bytes)?;
    ensure!(claims["aud"] == json!(["somebody"]), "{claims}");
    bed.done().await
}
