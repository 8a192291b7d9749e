//! ClusterTrustBundles as files of projected volumes.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube_pet_lab::eventually;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::harness::{Bed, SOON, phase_of, shell};

/// The certificate of a new authority.
fn authority() -> Result<String> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(params.self_signed(&KeyPair::generate()?)?.pem().replace("\r\n", "\n"))
}

fn volumes(sources: &[Value]) -> Value {
    let sources: Vec<_> = sources.iter().map(|source| json!({"clusterTrustBundle": source})).collect();
    json!([{"name": "v", "projected": {"sources": sources}}])
}

#[e2e]
async fn e2e_trust_bundles_are_files_of_a_volume() -> Result<()> {
    let bed = Bed::shared("trust").await?;
    let bundles: Api<ClusterTrustBundle> = Api::all(bed.client.clone());
    let (a, b, c) = (authority()?, authority()?, authority()?);
    let signer = format!("example.com/{}", bed.namespace);
    let prefix = format!("example.com:{}", bed.namespace);
    let create = async |name: &str, spec: Value, label: &str| -> Result<()> {
        let object = json!({"metadata": {"name": name, "labels": {"which": label}}, "spec": spec});
        bundles.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    };
    create(&bed.namespace, json!({"trustBundle": a}), "none").await?;
    create(&format!("{prefix}:1"), json!({"signerName": signer, "trustBundle": format!("{a}# a comment\n{b}")}), "old").await?;
    create(&format!("{prefix}:2"), json!({"signerName": signer, "trustBundle": b}), "old").await?;
    create(&format!("{prefix}:3"), json!({"signerName": signer, "trustBundle": c}), "new").await?;

    let selected = json!({"signerName": signer, "labelSelector": {"matchLabels": {"which": "old"}}, "path": "old.pem"});
    let sources = [
        json!({"name": bed.namespace, "path": "named.pem"}),
        selected,
        json!({"signerName": signer, "labelSelector": {"matchExpressions": [{"key": "which", "operator": "Exists"}]}, "path": "all.pem"}),
        json!({"name": "none", "path": "none.pem", "optional": true}),
    ];
    let mut container = shell(
        "c",
        "while :; do echo begin; cat /v/named.pem; echo middle; cat /v/old.pem; echo end; grep -c BEGIN /v/all.pem; wc -c < /v/none.pem; sleep 1; done",
    );
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    bed.pod("p", json!({"containers": [container], "volumes": volumes(&sources)})).await?;
    bed.phase("p", "Running").await?;
    let log = eventually(SOON, "the files", || async {
        let log = bed.logs("p").await?;
        ensure!(log.contains("end\n3\n0\n"), "{log}");
        Ok(log)
    })
    .await?;
    ensure!(log.starts_with(&format!("begin\n{a}middle\n")), "{log}");
    let old = log.split("middle\n").nth(1).and_then(|rest| rest.split("end\n").next()).unwrap_or_default();
    ensure!(old.len() == a.len() + b.len() && old.contains(&a) && old.contains(&b), "{old}");

    // A change appears without a restart.
    let change = json!({"spec": {"trustBundle": c}});
    bundles.patch(&bed.namespace, &PatchParams::default(), &Patch::Merge(change)).await?;
    eventually(Duration::from_secs(120), "the new certificate", || async {
        let log = bed.logs("p").await?;
        ensure!(log.contains(&format!("begin\n{c}middle\n")), "{log}");
        Ok(())
    })
    .await?;

    for (name, source, message) in [
        ("noname", json!({"name": format!("{prefix}:none"), "path": "f"}), "not found"),
        (
            "nomatch",
            json!({"signerName": signer, "labelSelector": {"matchLabels": {"no": "such"}}, "path": "f"}),
            "matched zero ClusterTrustBundles",
        ),
    ] {
        let mut container = shell("c", "sleep 3600");
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        bed.pod(name, json!({"containers": [container], "volumes": volumes(&[source])})).await?;
        let event = bed.event(name, "Warning FailedMount MountVolume.SetUp failed for volume \"v\"").await?;
        ensure!(event.contains(message), "{event}");
        ensure!(phase_of(&bed.get(name).await?) == "Pending");
    }
    for name in [bed.namespace.clone(), format!("{prefix}:1"), format!("{prefix}:2"), format!("{prefix}:3")] {
        bundles.delete(&name, &DeleteParams::default()).await?;
    }
    bed.done().await
}
