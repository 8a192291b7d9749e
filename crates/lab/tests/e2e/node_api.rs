//! Port 10250: who gets in.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::json;

use crate::harness::Bed;

/// Status code of a request from the lab's host, which is not known to the node.
async fn status(bed: &Bed, path: &str, token: Option<&str>) -> Result<String> {
    let url = format!("https://{}:10250{path}", bed.pet.address());
    let header = token.map(|token| format!("Authorization: Bearer {token}"));
    let mut curl = vec!["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}"];
    if let Some(header) = &header {
        curl.extend(["-H", header.as_str()]);
    }
    curl.push(&url);
    kube_pet_lab::command::run(&curl).await
}

async fn token(bed: &Bed, account: &str) -> Result<String> {
    let token = bed.kubectl(&["create", "token", account]).await?;
    Ok(token.trim().to_owned())
}

#[e2e]
async fn e2e_nobody_gets_in_without_credentials() -> Result<()> {
    let bed = Bed::shared("nocredentials").await?;
    for path in ["/pods", "/containerLogs/a/b/c", "/configz", "/exec/a/b/c"] {
        let code = status(&bed, path, None).await?;
        ensure!(code == "401", "{path}: {code}");
        let code = status(&bed, path, Some("not.a.token")).await?;
        ensure!(code == "401", "{path} with a wrong token: {code}");
    }
    bed.done().await
}

#[e2e]
async fn e2e_credentials_alone_are_not_enough() -> Result<()> {
    let bed = Bed::shared("insufficient").await?;
    let known = token(&bed, "default").await?;
    let code = status(&bed, "/pods", Some(&known)).await?;
    ensure!(code == "403", "{code}");
    bed.create::<ServiceAccount>(json!({"metadata": {"name": "reader"}})).await?;
    let subject = format!("{}:reader", bed.namespace);
    let binding = format!("{}-reader", bed.namespace);
    bed.lab
        .kubectl(&[
            "create",
            "clusterrolebinding",
            &binding,
            "--clusterrole=system:kubelet-api-admin",
            &format!("--serviceaccount={subject}"),
        ])
        .await?;
    let allowed = token(&bed, "reader").await?;
    let code = kube_pet_lab::eventually(crate::harness::SOON, "the grant is known", || async {
        let code = status(&bed, "/pods", Some(&allowed)).await?;
        ensure!(code == "200", "{code}");
        Ok(code)
    })
    .await;
    bed.lab.kubectl(&["delete", "clusterrolebinding", &binding]).await?;
    code?;
    bed.done().await
}

#[e2e]
async fn e2e_the_serving_certificate_is_the_clusters() -> Result<()> {
    let bed = Bed::shared("serving").await?;
    let authority = bed.lab.record().pki_dir().join("ca.crt");
    let authority = authority.to_str().context("a path")?;
    let url = format!("https://{}:10250/pods", bed.pet.address());
    let curl = ["curl", "-s", "--cacert", authority, "-o", "/dev/null", "-w", "%{http_code}", &url];
    kube_pet_lab::eventually(crate::harness::SOON, "a certificate of the cluster", || async {
        let code = kube_pet_lab::command::run(&curl).await?;
        ensure!(code == "401", "{code}");
        Ok(())
    })
    .await?;
    bed.done().await
}
