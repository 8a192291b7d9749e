//! `kube-pet controller` on the control plane's machine, with the permissions that `deploy/` gives it and no others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    builds,
    daemon::{Daemon, DaemonSpec},
    lab::Lab,
    pki,
};

/// Where `deploy/` puts it.
pub const NAMESPACE: &str = "kube-pet";

/// Applies the plain manifests. The Deployment is there with no replica: the lab runs the program itself.
///
/// # Errors
/// When the API server refuses any of it.
pub async fn deploy(lab: &Lab) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kube-pet.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    lab.kubectl_with_input(&["apply", "-f", "-"], &text.replace("replicas: 2", "replicas: 0")).await?;
    for kind in ["pets", "petnetworks", "petgateways", "petallocations"] {
        lab.kubectl(&["wait", "--for=condition=Established", &format!("crd/{kind}.kube-pet.dev"), "--timeout=30s"]).await?;
    }
    Ok(())
}

/// Starts one. `number` is unique in the lab: its port for probes is 8080 and that.
///
/// # Errors
/// When it does not start, or its service account is not there.
pub async fn start(lab: &Lab, number: u16, arguments: &[&str]) -> Result<Daemon> {
    let name = format!("controller-{number}");
    let kubeconfig = kubeconfig(lab, "kube-pet-controller", &name).await?;
    let mut argv = vec![
        builds::own_program("kube-pet", "KUBE_PET_BIN")?.display().to_string(),
        "controller".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--identity={name}"),
        format!("--probes=0.0.0.0:{}", 8080 + number),
    ];
    argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let environment = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("RUST_BACKTRACE".to_owned(), "1".to_owned())];
    let spec = DaemonSpec { log: lab.record().log(&name), name, argv, environment };
    Daemon::start(lab.control_plane(), spec).await
}

/// A kubeconfig with the token of one of `deploy/`'s service accounts, for the program of this name.
///
/// # Errors
/// When the account is not there.
pub async fn kubeconfig(lab: &Lab, account: &str, name: &str) -> Result<PathBuf> {
    let token = lab.kubectl(&["create", "token", account, "--namespace", NAMESPACE, "--duration=24h"]).await?;
    let ca = std::fs::read_to_string(lab.record().pki_dir().join("ca.crt")).context("read the cluster's CA")?;
    let path = lab.record().dir.join(format!("{name}.conf"));
    pki::write_secret(&path, &pki::token_kubeconfig(&pki::server_url(lab.record().wire().control_plane()), &ca, token.trim()))?;
    Ok(path)
}

/// A page of its probes' port.
///
/// # Errors
/// When it does not answer.
pub async fn page(lab: &Lab, number: u16, path: &str) -> Result<String> {
    let url = format!("http://{}:{}{path}", lab.record().wire().control_plane(), 8080 + number);
    crate::command::run(&["curl", "--silent", "--show-error", "--fail", "--max-time", "10", &url]).await
}

/// The network that the tests allocate from: not much larger than what they need, so that many want the same.
///
/// # Errors
/// When the API server refuses it.
pub async fn network(lab: &Lab, reclaim_after: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "kube-pet.dev/v1alpha1",
        "kind": "PetNetwork",
        "metadata": {"name": "default"},
        "spec": {
            "nodeCIDRs": ["10.210.0.0/24", "fd00:210::/112"],
            "podCIDRs": ["10.211.0.0/18"],
            "nodePodPrefixLength": {"ipv4": 26},
            "serviceCIDRs": [crate::network::SERVICE_NETWORK],
            "reclaimAfter": reclaim_after,
        },
    });
    lab.kubectl_with_input(&["apply", "-f", "-"], &object.to_string()).await.map(drop)
}
