//! The real control plane: etcd, API server, controller manager and scheduler, on a machine of their own.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    builds::Builds,
    client,
    daemon::{Daemon, DaemonSpec},
    kube_proxy,
    machine::Machine,
    network::{self, API_SERVICE_IP, Wire},
    patience::eventually,
    pki::{self, Pki},
    record::LabRecord,
};

/// The machine's name, in the lab's folder too.
pub const MACHINE: &str = "control-plane";
/// The names of its programs, in starting order.
pub const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// What may differ between control planes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlPlaneOptions {
    /// The API server verifies the nodes' serving certificates (`--kubelet-certificate-authority`).
    pub verify_kubelets: bool,
}

/// The machine with its end of the wire, and nothing running yet.
///
/// # Errors
/// When it cannot be booted or plugged in.
pub async fn boot(lab: &LabRecord) -> Result<Machine> {
    // Forwarding: between pets, and from the host to them.
    let setup = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    let machine = Machine::boot(MACHINE, &lab.machine_dir(MACHINE), setup).await?;
    network::build(lab.wire(), &machine).await?;
    Ok(machine)
}

/// Makes the keys and starts the four programs; returns when the API server is ready.
///
/// # Errors
/// When one of them does not come up; the error has the end of its log.
pub async fn start(lab: &LabRecord, machine: &Machine, builds: &Builds, options: &ControlPlaneOptions) -> Result<()> {
    credentials(lab)?;
    let program = |name: &str, arguments: Vec<String>| -> Result<DaemonSpec> {
        let mut argv = vec![builds.program(name)?.display().to_string()];
        argv.extend(arguments);
        Ok(DaemonSpec {
            name: name.to_owned(),
            argv,
            environment: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
            log: lab.log(name),
        })
    };
    Daemon::start(machine, program("etcd", etcd(&lab.dir))?).await?;
    let api_server = program("kube-apiserver", api_server(lab.wire(), &lab.pki_dir(), options))?;
    let api_server = Daemon::start(machine, api_server).await?;
    wait_ready(lab, &api_server).await?;
    // These two give up when the API server is not there within 10 s of their own start.
    let manager = program("kube-controller-manager", controller_manager(&lab.pki_dir()))?;
    let scheduler = program("kube-scheduler", scheduler(&lab.pki_dir()))?;
    tokio::try_join!(Daemon::start(machine, manager), Daemon::start(machine, scheduler))?;
    Ok(())
}

/// Waits until the API server says that it is ready.
///
/// # Errors
/// When it ends, or is not ready after a minute.
pub async fn wait_ready(lab: &LabRecord, api_server: &Daemon) -> Result<()> {
    let client = client::connect(&lab.kubeconfig()).await?;
    eventually(Duration::from_secs(60), "the API server is ready", || async {
        if api_server.is_running() {
            client::get(&client, "/readyz").await.map(drop).map(Ok)
        } else {
            Ok(Err(anyhow::anyhow!("the API server ended: {}", crate::daemon::tail(&api_server.spec.log))))
        }
    })
    .await?
}

fn credentials(lab: &LabRecord) -> Result<()> {
    let address = lab.wire().control_plane();
    let dir = lab.pki_dir();
    let pki = Pki::create(&dir).context("make the cluster's keys")?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        &API_SERVICE_IP.to_string(),
        &address.to_string(),
    ];
    pki.server("apiserver", &names.map(str::to_owned))?;
    pki.client("kubelet-client", "kube-apiserver-kubelet-client", None)?;
    pki.client("front-proxy", "front-proxy-client", None)?;
    let server = pki::server_url(address);
    for (file, user, group) in [
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        (kube_proxy::NAME, "system:kube-proxy", None),
        ("admin", "lab-admin", Some("system:masters")),
    ] {
        let identity = pki.client(file, user, group)?;
        let text = pki::certificate_kubeconfig(&server, &pki.ca(), &identity);
        let folder = if file == "admin" { &lab.dir } else { &dir };
        pki::write_secret(&folder.join(format!("{file}.conf")), &text)?;
    }
    Ok(())
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd(dir: &Path) -> Vec<String> {
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    let mut arguments = flags(&[
        ("data-dir", dir.join("etcd").display().to_string()),
        ("listen-client-urls", client.into()),
        ("advertise-client-urls", client.into()),
        ("listen-peer-urls", peer.into()),
        ("initial-advertise-peer-urls", peer.into()),
        ("initial-cluster", format!("default={peer}")),
        ("log-level", "warn".into()),
    ]);
    // The lab's cluster does not outlive the machine that it is on.
    arguments.push("--unsafe-no-fsync".into());
    arguments
}

fn api_server(wire: Wire, pki: &Path, options: &ControlPlaneOptions) -> Vec<String> {
    let file = |name: &str| pki.join(name).display().to_string();
    let mut arguments = flags(&[
        ("etcd-servers", "http://127.0.0.1:2379".into()),
        ("secure-port", "6443".into()),
        ("bind-address", "0.0.0.0".into()),
        ("advertise-address", wire.control_plane().to_string()),
        ("service-cluster-ip-range", network::SERVICE_NETWORK.into()),
        ("tls-cert-file", file("apiserver.crt")),
        ("tls-private-key-file", file("apiserver.key")),
        ("client-ca-file", file("ca.crt")),
        ("service-account-key-file", file("sa.pub")),
        ("service-account-signing-key-file", file("sa.key")),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".into()),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("enable-bootstrap-token-auth", "true".into()),
        ("kubelet-client-certificate", file("kubelet-client.crt")),
        ("kubelet-client-key", file("kubelet-client.key")),
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("requestheader-client-ca-file", file("ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".into()),
        ("requestheader-username-headers", "X-Remote-User".into()),
        ("requestheader-group-headers", "X-Remote-Group".into()),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
        ("proxy-client-cert-file", file("front-proxy.crt")),
        ("proxy-client-key-file", file("front-proxy.key")),
        // No service proxy runs beside the API server: it dials endpoints, to which it has routes.
        ("enable-aggregator-routing", "true".into()),
        ("allow-privileged", "true".into()),
    ]);
    if options.verify_kubelets {
        arguments.push(format!("--kubelet-certificate-authority={}", file("ca.crt")));
    }
    arguments
}

fn controller_manager(pki: &Path) -> Vec<String> {
    let file = |name: &str| pki.join(name).display().to_string();
    let kubeconfig = file("controller-manager.conf");
    flags(&[
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("cluster-signing-cert-file", file("ca.crt")),
        ("cluster-signing-key-file", file("ca.key")),
        ("root-ca-file", file("ca.crt")),
        ("service-account-private-key-file", file("sa.key")),
        ("use-service-account-credentials", "true".into()),
        ("allocate-node-cidrs", "true".into()),
        ("cluster-cidr", network::POD_NETWORK.into()),
        ("node-cidr-mask-size", "24".into()),
        ("leader-elect", "false".into()),
        ("controllers", "*,bootstrapsigner,tokencleaner".into()),
    ])
}

fn scheduler(pki: &Path) -> Vec<String> {
    let kubeconfig = pki.join("scheduler.conf").display().to_string();
    flags(&[
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("leader-elect", "false".into()),
    ])
}
