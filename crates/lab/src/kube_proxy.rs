//! The service proxy that others have: the real kube-proxy in nftables mode on a pet, to compare with and to judge the lab itself.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    builds::Builds,
    daemon::{Daemon, DaemonSpec},
    lab::Lab,
    network::{API_SERVICE_IP, POD_NETWORK},
    patience::eventually,
    pet::Pet,
};

/// The program's name, and that of its kubeconfig among the cluster's keys.
pub const NAME: &str = "kube-proxy";

/// Where the machine sees the files of this module.
const FILES: &str = "/etc/kube-pet/kube-proxy";

/// Starts kube-proxy on a pet; returns when its rules are in the kernel.
///
/// # Errors
/// When it is not built, ends, or has not written its rules within half a minute.
pub async fn start(lab: &Lab, pet: &Pet) -> Result<Daemon> {
    let daemon = launch(lab, pet).await?;
    let what = format!("kube-proxy's rules on {}", pet.name());
    // The API server's own Service is there in every cluster.
    let rules = format!("nft list map ip kube-proxy service-ips | grep -q {API_SERVICE_IP}");
    eventually(Duration::from_secs(30), &what, || async {
        let found = pet.shell(&rules).await.map(drop);
        if daemon.is_running() {
            return found.map(Ok);
        }
        Ok(Err(anyhow::anyhow!("kube-proxy ended: {}", crate::daemon::tail(&daemon.spec.log))))
    })
    .await??;
    Ok(daemon)
}

/// As [`start`], but waits for nothing.
///
/// # Errors
/// When it is not built or ends at once.
pub async fn launch(lab: &Lab, pet: &Pet) -> Result<Daemon> {
    let folder = pet.machine().dir.join("etc/kube-pet/kube-proxy");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let kubeconfig = lab.record().pki_dir().join(format!("{NAME}.conf"));
    fs::copy(&kubeconfig, folder.join("kubeconfig")).with_context(|| format!("copy {}", kubeconfig.display()))?;
    fs::write(folder.join("config.yaml"), config(pet.name())).context("write kube-proxy's configuration")?;
    let spec = DaemonSpec {
        name: NAME.into(),
        argv: vec![Builds::locate()?.program(NAME)?.display().to_string(), format!("--config={FILES}/config.yaml")],
        environment: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
        log: lab.record().log(&format!("{}-{NAME}", pet.name())),
    };
    Daemon::start(pet.machine(), spec).await
}

/// The defaults, but for what the lab's machines lack. JSON is YAML.
fn config(node: &str) -> String {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": format!("{FILES}/kubeconfig")},
        "clusterCIDR": POD_NETWORK,
        "detectLocalMode": "ClusterCIDR",
        "hostnameOverride": node,
        // The limits of connection tracking are the whole machine's, not a namespace's.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "oomScoreAdj": 0,
    });
    format!("{config:#}\n")
}
