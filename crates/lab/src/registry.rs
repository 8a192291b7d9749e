//! The lab's image registry and DNS server, beside the control plane.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;

use crate::{
    builds::{self, Builds},
    command,
    daemon::{Daemon, DaemonSpec},
    machine::Machine,
    network::Wire,
    record::LabRecord,
};

/// Not 5000: the official suite's own registry takes that as a host port.
pub const PORT: u16 = 5555;
/// Public registries that the lab's registry stands for.
pub(crate) const STANDS_FOR: [&str; 7] =
    ["registry.k8s.io", "invalid.registry.k8s.io", "docker.io", "gcr.io", "us-docker.pkg.dev", "quay.io", "ghcr.io"];
/// An image with the system's libraries and not much else.
const LIBRARIES: &str = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.1.1";
/// The registry that wants credentials, as pods name it: a name under the lab's DNS, so it is a registry of its own.
pub const PRIVATE: &str = "private.lab:5555";
/// Who may pull from [`PRIVATE`]: user and password.
pub const PRIVATE_LOGIN: (&str, &str) = ("lab", "lab-secret");

/// Starts registry and DNS; returns when they answer.
///
/// # Errors
/// When the program is not built or does not come up.
pub async fn start(lab: &LabRecord, machine: &Machine, builds: &Builds) -> Result<()> {
    let address = lab.wire().control_plane();
    let argv = vec![
        builds.program("labregistry")?.display().to_string(),
        format!("--images={}", builds.images().display()),
        format!("--scratch={}", lab.dir.join("registry").display()),
        format!("--addr={address}:{PORT}"),
        format!("--dns={address}:53"),
    ];
    let spec = DaemonSpec { name: "registry".into(), argv, environment: Vec::new(), log: lab.log("registry") };
    Daemon::start(machine, spec).await?.logged("ready ", Duration::from_secs(20)).await
}

/// Publishes the product as an image of this name: the program in its path, on Debian's libraries.
///
/// # Errors
/// When the program is not built, or the registry refuses.
pub async fn publish_kube_pet(lab: &LabRecord, image: &str) -> Result<()> {
    let program = builds::own_program("kube-pet", "KUBE_PET_BIN")?;
    let query = format!("ref={image}&from={LIBRARIES}&as=usr/local/bin/kube-pet&file={}", program.display());
    let url = format!("http://{}:{PORT}/lab/images?{query}", lab.wire().control_plane());
    command::run(&["curl", "--silent", "--show-error", "--fail-with-body", "--request", "PUT", &url]).await.map(drop)
}

/// The `registries.conf` of a pet: every name that a pod may use leads to the lab.
pub fn registries_conf(wire: Wire) -> String {
    let address: Ipv4Addr = wire.control_plane();
    let mut text = String::from("unqualified-search-registries = [\"docker.io\"]\n");
    for host in STANDS_FOR {
        text.push_str(&format!("\n[[registry]]\nprefix = \"{host}\"\nlocation = \"{address}:{PORT}/{host}\"\ninsecure = true\n"));
    }
    text.push_str(&format!("\n[[registry]]\nlocation = \"{PRIVATE}\"\ninsecure = true\n"));
    text
}
