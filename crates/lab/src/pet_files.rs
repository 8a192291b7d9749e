//! What a pet host finds on its disk: its own `/etc`, `/var` and `/tmp`, and the agent's configuration.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{
    network::{DNS_SERVICE_IP, Wire},
    pki, registry,
};

/// The agent's configuration, as the pet sees it.
pub const NODE_CONFIG: &str = "/etc/kube-pet/node.yaml";
const OVERLAYFS: u64 = 0x794c_7630;

/// The API server as a pet reaches it.
pub struct Server {
    /// `https://…`.
    pub url: String,
    /// PEM.
    pub authority: String,
}

/// What decides a pet's files.
pub struct PetFiles {
    /// Node name and host name.
    pub name: String,
    /// Address on the wire.
    pub address: Ipv4Addr,
    /// The lab's network.
    pub wire: Wire,
    /// Parent of all the pods' cgroups.
    pub cgroup: String,
    /// The cluster's API server.
    pub server: Server,
    /// Bootstrap token.
    pub token: String,
    /// On top of the lab's own settings of `node.yaml`.
    pub settings: Map<String, Value>,
}

impl PetFiles {
    /// Writes the pet's disk below `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        for (folder, mode) in [
            ("var/lib", 0o755),
            ("var/log", 0o755),
            ("var/cache", 0o755),
            ("var/root", 0o700),
            ("var/tmp", 0o1777),
            ("tmp", 0o1777),
            ("etc/kube-pet/manifests", 0o755),
            ("etc/containers", 0o755),
        ] {
            let path = dir.join(folder);
            fs::create_dir_all(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
                .with_context(|| format!("make {}", path.display()))?;
        }
        std::os::unix::fs::symlink("/run", dir.join("var/run")).context("link /var/run")?;
        let write = |name: &str, text: &str| pki::write_secret(&dir.join("etc").join(name), text);
        write("resolv.conf", &format!("nameserver {}\n", self.wire.control_plane()))?;
        write("hostname", &format!("{}\n", self.name))?;
        write("hosts", &format!("127.0.0.1 localhost\n{} {}\n", self.address, self.name))?;
        for name in ["resolv.conf", "hosts", "hostname"] {
            fs::set_permissions(dir.join("etc").join(name), fs::Permissions::from_mode(0o644))
                .with_context(|| format!("let everybody read {name}"))?;
        }
        write("containers/registries.conf", &registry::registries_conf(self.wire))?;
        write("containers/containers.conf", CONTAINERS_CONF)?;
        write("containers/storage.conf", &storage_conf(dir)?)?;
        write("kube-pet/bootstrap.kubeconfig", &pki::token_kubeconfig(&self.server.url, &self.server.authority, &self.token))?;
        write("kube-pet/node.yaml", &self.node_config())
    }

    /// As little as on a real host: names, addresses and paths are the agent's own defaults, because the machine has its own.
    /// Only the cgroup must be named, because hierarchies are not namespaced here, and limits of the disk. JSON is YAML.
    fn node_config(&self) -> String {
        let mut config = json!({
            "apiVersion": "kube-pet.dev/v1alpha1",
            "kind": "NodeConfiguration",
            "clusterDNS": [DNS_SERVICE_IP],
            "cgroupRoot": self.cgroup,
            // The pets' images are on the developer's disk, which may be fuller than a node's: no limit for `imagefs`.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "5%", "nodefs.inodesFree": "5%"},
            "imageGCHighThresholdPercent": 100,
            "logging": {"level": std::env::var("KUBE_PET_LAB_LOG").unwrap_or_else(|_| "info".into())},
        });
        if let Some(fields) = config.as_object_mut() {
            fields.extend(self.settings.clone());
        }
        format!("{config:#}\n")
    }
}

/// Machines like the one that the lab was written on lack CAP_SYS_RESOURCE (Podman's default limits then fail) and systemd.
/// Without `exit_command_delay` each exec leaves two processes behind for five minutes.
const CONTAINERS_CONF: &str = r#"[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
exit_command_delay = 5
[network]
network_backend = "netavark"
"#;

fn storage_conf(dir: &Path) -> Result<String> {
    let filesystem = rustix::fs::statfs(dir).with_context(|| format!("ask what {} is on", dir.display()))?;
    // The kernel refuses an overlay whose upper layer is on an overlay.
    let nested = u64::try_from(filesystem.f_type).is_ok_and(|kind| kind == OVERLAYFS);
    let driver = if nested { "vfs" } else { "overlay" };
    Ok(format!("[storage]\ndriver = \"{driver}\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n"))
}

/// The shell commands that make a new namespace a host of its own. `dir` is the pet's folder, `programs` the agent's.
///
/// A private `/dev/shm` is what keeps the user's own Podman safe: Podman's locks are a shared-memory segment of a fixed name,
/// and a Podman that believes to have just booted clears them all.
pub fn boot_script(dir: &Path, programs: &Path) -> String {
    let (dir, programs) = (quoted(dir), quoted(programs));
    format!(
        "mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lab/bin /run/lab/etc /run/lab/work /run/lock
mount --bind {programs} /run/lab/bin
mount -o remount,bind,ro /run/lab/bin
mount -t overlay -o lowerdir=/etc,upperdir=/run/lab/etc,workdir=/run/lab/work etc /etc
rm -f /etc/resolv.conf /etc/hosts /etc/hostname
cp -a {dir}/etc/resolv.conf {dir}/etc/hosts {dir}/etc/hostname /etc/
mkdir -p /etc/kube-pet /etc/containers
mount --bind {dir}/etc/kube-pet /etc/kube-pet
cp -a {dir}/etc/containers/. /etc/containers/
mount --bind {dir}/tmp /tmp
mount --bind {dir}/var /var"
    )
}

/// A path as one word of a shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_path_stays_in_the_path() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
